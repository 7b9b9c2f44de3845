"""Read mesh files as arrays. `neural_renderer.wavefront` reads OBJ, trimesh the other formats."""
import contextlib
import importlib.util
import json
import os
import struct

import numpy as np
from neural_renderer import polygons, wavefront

from errors import InputError

# Extensions that a glTF file may require although they do not change its geometry, only its appearance.
OF_LOOKS = ("KHR_materials_", "EXT_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "EXT_lights_",
            "MSFT_texture_", "KHR_xmp")
GEOMETRY_READ = ("KHR_mesh_quantization",)  # positions as plain integers


def read_mesh(path):
    """Read a mesh file: (vertices (V, 3) float64, faces (F, 3) int64, colours (F, 3) float64 or None).

    Colours are those of the faces, or the mean of their vertices' colours. Materials and pictures are not read; other
    parts of a file (the buffers of a glTF) must lie in its folder or below. The vertices that faces use are finite;
    others may not be.

    Raises InputError, naming the file.
    """
    try:
        vertices, faces, colours = _read_obj(path) if path.lower().endswith(".obj") else _read_others(path)
    except InputError:
        raise
    except Exception as error:  # trimesh's parsers raise many kinds of errors
        raise InputError(f"{path} is not a mesh that can be read: {type(error).__name__}: {error}") from None
    if not len(faces):
        raise InputError(f"{path} has no faces")
    if not 0 <= faces.min() <= faces.max() < len(vertices):
        raise InputError(f"{path} has a face that names a vertex from {faces.min()} to {faces.max()} of "
                         f"{len(vertices)}")
    if not np.isfinite(vertices[faces]).all():
        raise InputError(f"{path} has a vertex that is not finite")
    return vertices, faces, colours


def _read_obj(path):
    try:
        mesh = wavefront.read_obj(path, with_uv=False)
    except ValueError as error:  # its message names the file
        reason = str(error).removeprefix(path).lstrip(", :")
        raise InputError(f"{path} is not a mesh that can be read: {reason}") from None
    if mesh.colours is None:
        return mesh.vertices, mesh.faces, None
    colours = mesh.colours[mesh.faces].mean(1)
    if np.nanmax(np.abs(mesh.colours)) > 1:
        colours = colours / 255
    known = np.isfinite(colours).all(1)
    return mesh.vertices, mesh.faces, np.clip(np.where(known[:, None], colours, 0.7), 0, 1) if known.any() else None


def _read_others(path):
    import trimesh
    if path.lower().endswith((".glb", ".gltf")):
        _check_gltf(path)
    with _polygons() as seen:
        mesh = trimesh.load_mesh(path, process=False, skip_materials=True,
                                 resolver=trimesh.resolvers.FilePathResolver(path, allow_anywhere=False))
    for corners, fans in seen:
        if np.array_equal(mesh.faces, fans) and np.isfinite(mesh.vertices[fans]).all():
            sizes = [len(polygon) for polygon in corners]
            corners = np.concatenate(corners)
            mesh.faces = corners[polygons.split(np.asarray(mesh.vertices, np.float64), corners, sizes)[0]]
    colours = None
    if getattr(mesh.visual, "kind", None) in ("face", "vertex") and len(mesh.visual.face_colors) == len(mesh.faces):
        colours = np.asarray(mesh.visual.face_colors, np.float64)[:, :3] / 255
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64), colours


@contextlib.contextmanager
def _polygons():
    """A context with a list to which trimesh's readers of OFF and PLY append (polygons, their triangles). trimesh turns
    all polygons into fans, which is right only for convex ones, and does not keep the polygons."""
    from trimesh.exchange import off, ply
    fans, seen = off.triangulate_quads, []

    def triangulate(polygons, *arguments, **options):
        some = any(len(polygon) > 3 for polygon in polygons)
        if some:  # those of an OFF file are strings
            polygons = [np.asarray(polygon, np.int64) for polygon in polygons]
        faces = fans(polygons, *arguments, **options)
        if some:
            seen.append((polygons, faces))
        return faces
    off.triangulate_quads = ply.triangulate_quads = triangulate
    try:
        yield seen
    finally:
        off.triangulate_quads = ply.triangulate_quads = fans


def _check_gltf(path):
    """Raise InputError for geometry that needs a glTF extension: trimesh would read it as zeros or at a wrong place."""
    try:
        scene = _gltf_scene(path)
        required = [str(name) for name in scene.get("extensionsRequired", [])]
        accessors = scene.get("accessors", [])
        primitives = [p for mesh in scene.get("meshes", []) for p in mesh.get("primitives", [])]
        compressed = [name for p in primitives for name in p.get("extensions", {})
                      if not name.startswith(OF_LOOKS) and _has_no_data(p, accessors)]
        views = [name for view in scene.get("bufferViews", []) for name in view.get("extensions", {})
                 if "compression" in name and name in required]
        scaled = [accessors[p["attributes"]["POSITION"]].get("normalized") for p in primitives
                  if "POSITION" in p.get("attributes", {})]
        empty = any(_has_no_data(p, accessors) for p in primitives)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError, struct.error,
            RecursionError) as error:
        raise InputError(f"{path} is not a mesh that can be read: {type(error).__name__}: {error}") from None
    for name in [*compressed, *views, *required]:
        if not (name.startswith(OF_LOOKS) or name in GEOMETRY_READ or _draco_is_there(name)):
            raise InputError(f"{path} needs the glTF extension {name}, which this program does not read; export it "
                             f"without {'compression' if 'compression' in name else 'that extension'}")
    if any(scaled):
        raise InputError(f"{path} has positions as normalized integers (KHR_mesh_quantization), which this program "
                         "does not read; export it without quantization")
    if empty and not compressed:
        raise InputError(f"{path} has a part whose positions are not in the file (an accessor without bufferView)")


def _has_no_data(primitive, accessors):
    accessor = accessors[primitive.get("attributes", {})["POSITION"]] if "POSITION" in primitive.get(
        "attributes", {}) else {"bufferView": 0}
    return "bufferView" not in accessor and "sparse" not in accessor


def _draco_is_there(name):
    """Whether `name` is Draco compression and DracoPy, which trimesh uses to decode it, is installed."""
    return name == "KHR_draco_mesh_compression" and importlib.util.find_spec("DracoPy") is not None


def _gltf_scene(path):
    """The JSON of a .gltf file, or of a .glb file (its first chunk)."""
    with open(path, "rb") as file:
        start = file.read(20)
        if start[:4] == b"glTF":
            length, kind = struct.unpack("<I4s", start[12:20])
            if kind != b"JSON":
                raise ValueError("its first chunk is not JSON")
            text = file.read(min(length, os.path.getsize(path)))
        else:
            text = start + file.read()
    scene = json.loads(text.decode("utf-8-sig"))
    if not isinstance(scene, dict):
        raise ValueError("its JSON is not an object")
    return scene
