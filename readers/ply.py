"""Read PLY files with trimesh, and the colours that it leaves out: of polygons, and pictures."""
import contextlib
import re

import numpy as np
from neural_renderer import polygons

from making.looks import GREY, Look, Picture

from .looks import NotRead, find, read_picture, unit_colours

UV_OF_VERTICES = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"), ("texture_s", "texture_t"))


def read(path, root, report, coloured=True):
    """Read a file: (vertices (V, 3), faces (F, 3), `Look` or None); see `looks.of_obj`."""
    from trimesh.exchange import ply
    with open(path, "rb") as file, _polygons() as seen:
        loaded = ply.load_ply(file, fix_texture=False, skip_materials=True)
    vertices = np.asarray(loaded.get("vertices", np.empty((0, 3))), np.float64)
    faces = np.asarray(loaded.get("faces", np.empty((0, 3))), np.int64)
    count = len(faces)
    if faces.ndim == 2 and faces.shape[1] == 4:
        places = np.concatenate([4 * np.arange(count)[:, None] + half for half in ((0, 1, 2), (2, 3, 0))])
        owner = np.tile(np.arange(count), 2)
        faces = faces.reshape(-1)[places]
    else:
        places, owner = np.arange(3 * count).reshape(-1, 3), np.arange(count)
    for found, _ in seen:
        sizes = [len(polygon) for polygon in found]
        corners = np.concatenate(found)
        if 0 <= corners.min() <= corners.max() < len(vertices) and np.isfinite(vertices[corners]).all():
            places, owner = polygons.split(vertices, corners, sizes)
            faces = corners[places]
    raw = loaded.get("metadata", {}).get("_ply_raw", {})
    if not coloured or not len(faces) or not 0 <= faces.min() <= faces.max() < len(vertices):
        return vertices, faces, None
    return vertices, faces, _look(path, root, report, raw, faces, places, owner)


@contextlib.contextmanager
def _polygons():
    """A context with a list to which trimesh's reader appends (polygons, their triangles). trimesh turns all polygons
    into fans, which is right only for convex ones, and does not keep the polygons."""
    from trimesh.exchange import ply
    fans, seen = ply.triangulate_quads, []

    def triangulate(polygons, *arguments, **options):
        faces = fans(polygons, *arguments, **options)
        if any(len(polygon) > 3 for polygon in polygons):
            seen.append(([np.asarray(polygon, np.int64) for polygon in polygons], faces))
        return faces
    ply.triangulate_quads = triangulate
    try:
        yield seen
    finally:
        ply.triangulate_quads = fans


def _look(path, root, report, raw, faces, places, owner):
    look = Look.plain(np.full((len(faces), 3), GREY))
    of_vertices, of_faces = _colours(raw.get("vertex")), _colours(raw.get("face"))
    coloured = of_vertices is not None or of_faces is not None
    if of_vertices is not None:
        look.colours[:] = of_vertices[faces]
    if of_faces is not None:
        look.colours[:] = of_faces[owner][:, None]
    names = _names_of_pictures(path)
    uv, pictures = _uv(raw, faces, places) if names else None, []
    if uv is None:
        return look if coloured else None
    for name in names:
        try:
            pixels = read_picture(find(name, path, root), alpha=True)
            pictures.append(Picture(pixels, cutoff=0.5 if pixels.shape[2] == 4 else None))
        except NotRead as error:
            report(str(error))
            pictures.append(None)
    number = _column(raw.get("face"), "texnumber")
    number = np.zeros(len(faces), np.int64) if number is None else np.asarray(number, np.int64).reshape(-1)[owner]
    for k, picture in enumerate(pictures):
        mine = (number == k) & (np.abs(uv) < 2e9).all((1, 2))
        if picture is not None and mine.any():
            look.colours[mine], look.picture[mine], look.uv[mine] = 1, len(look.pictures), uv[mine]
            look.pictures.append(picture)
            coloured = True
    return look if coloured else None


def _names_of_pictures(path):
    """The names (bytes) in `comment TextureFile name` of the header."""
    names = []
    with open(path, "rb") as file:
        for line in file:
            if line.strip() == b"end_header":
                break
            if found := re.match(rb"\s*comment\s+texturefile\s+(.*\S)", line, re.I):
                names.append(found[1])
    return names


def _column(element, name):
    """A property of an element in trimesh's form, or None."""
    data = None if element is None else element.get("data")
    if data is None or name not in element["properties"]:
        return None
    try:
        return data[name]
    except (KeyError, ValueError):
        return None


def _colours(element):
    """Colours (N, 3) in [0, 1] of vertices or polygons, or None."""
    for prefix in ("", "diffuse_"):
        columns = [_column(element, prefix + name) for name in ("red", "green", "blue")]
        if all(column is not None for column in columns):
            return unit_colours(np.stack([np.asarray(column).reshape(-1) for column in columns], 1))
    return None


def _uv(raw, faces, places):
    """Texture coordinates (F, 3, 2): those of the polygons' corners (texcoord), else those of the vertices."""
    listed = _column(raw.get("face"), "texcoord")
    if listed is not None:
        if getattr(listed, "dtype", None) is not None and listed.dtype.names:  # a count, then the numbers
            listed = listed["f1"]
        flat = np.concatenate([np.asarray(row, np.float64).reshape(-1) for row in listed]).reshape(-1, 2)
        return flat[places] if places.max() < len(flat) else None
    for names in UV_OF_VERTICES:
        columns = [_column(raw.get("vertex"), name) for name in names]
        if all(column is not None for column in columns):
            return np.stack([np.asarray(column, np.float64).reshape(-1) for column in columns], 1)[faces]
    return None
