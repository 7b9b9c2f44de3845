"""Read OFF files, [ST][C][N]OFF in text, with colours of vertices and faces.

http://www.geomview.org/docs/html/OFF.html
"""
import re

import numpy as np
from neural_renderer import polygons

from making.looks import GREY, Look

from .looks import unit_colours

HEAD = re.compile(rb"\s*(ST)?(C)?(N)?(4)?OFF\b(\s+BINARY\b)?")


def read(path, coloured=True):
    """Read a file: (vertices (V, 3), faces (F, 3), `Look` or None). Colours go up to 1 or to 255."""
    with open(path, "rb") as file:
        text = re.sub(rb"#[^\n\r]*", b"", file.read())
    head = HEAD.match(text)
    if not head or head[4] or head[5]:
        raise ValueError("expected OFF, or COFF and the like, in text, of three coordinates")
    counts, *lines = [line for line in text[head.end():].splitlines() if line.strip()] or [b""]
    V, F = (int(word) for word in counts.split()[:2])
    if V < 0 or F < 0 or len(lines) < V + F:
        raise ValueError(f"{len(lines)} lines of {V} vertices and {F} faces")
    rows = [line.split() for line in lines[:V]]
    vertices = np.array([row[:3] for row in rows], np.float64).reshape(V, 3)
    faces, tails = [], []
    for line in lines[V:V + F]:
        words = line.split()
        size = int(words[0])
        if size < 0 or len(words) <= size:
            raise ValueError(f"a face of {size} corners in {len(words) - 1} words")
        if size > 2:
            faces.append(np.array(words[1:size + 1], np.int64))
            tails.append(words[size + 1:])
    corners, sizes = np.concatenate(faces or [np.empty(0, np.int64)]), np.array([len(face) for face in faces], int)
    if len(corners) and not 0 <= corners.min() <= corners.max() < V:
        raise ValueError(f"a face names a vertex from {corners.min()} to {corners.max()} of {V}")
    if not np.isfinite(vertices[corners]).all():
        raise ValueError("a vertex of a face is not finite")
    places, owner = polygons.split(vertices, corners, sizes)
    triangles = corners[places]
    if not coloured:
        return vertices, triangles, None
    first = 3 + 3 * bool(head[3])
    of_vertices = _colours([row[first:] for row in rows]) if head[2] else None
    of_faces = _colours(tails)
    if of_vertices is None and of_faces is None:
        return vertices, triangles, None
    look = Look.plain(np.full((len(triangles), 3), GREY))
    for colours in (None if of_vertices is None else of_vertices[triangles],
                    None if of_faces is None else np.repeat(of_faces[owner][:, None], 3, 1)):
        if colours is not None:
            known = np.isfinite(colours).all((1, 2))
            look.colours[known] = colours[known]
    return vertices, triangles, look


def _colours(rows):
    """Colours (N, 3) in [0, 1], NaN for rows without one; None if no row has one. A single number is an index into a
    colour map, which is not in the file."""
    values = np.full((len(rows), 3), np.nan)
    for k, row in enumerate(rows):
        if len(row) >= 3:
            values[k] = [float(word) for word in row[:3]]
    return unit_colours(values) if np.isfinite(values).any() else None
