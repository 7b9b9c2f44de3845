"""Read OFF files, [ST][C][N]OFF in text, with colours of vertices and faces.

http://www.geomview.org/docs/html/OFF.html
"""
import itertools
import re
import warnings

import numpy as np
from neural_renderer import polygons, wavefront

from making.looks import GREY, Look

from .looks import unit_colours

HEAD = re.compile(r"(ST)?(C)?(N)?(4)?OFF(\d*)$")  # some files, as many of ModelNet, have counts in the same word


def read(path, coloured=True):
    """Read a file: (vertices (V, 3), faces (F, 3), `Look` or None). Colours go up to 1 or to 255. Faces of fewer than
    three corners are left out, with a warning."""
    lines = wavefront.lines(path)
    head, V, F = _begin(lines)
    rows = [(number, words) for number, words, _ in itertools.islice(lines, V)]
    bodies = [(number, words) for number, words, _ in itertools.islice(lines, F)]
    if len(rows) < V or len(bodies) < F:
        raise ValueError(f"it has {len(rows)} lines of {V} vertices and {len(bodies)} lines of {F} faces")
    if rest := next(lines, None):
        warnings.warn(f"{path}, line {rest[0]}: lines after {V} vertices and {F} faces are ignored", stacklevel=2)
    vertices = np.array([_read(number, words, 3, float, "a vertex of three numbers") for number, words in rows],
                        np.float64).reshape(V, 3)
    corners, sizes, tails, short = [], [], [], []
    for number, words in bodies:
        size, = _read(number, words, 1, int, "a face: the number of its corners, and their indices")
        own = _read(number, words[1:], size, int, "a face: the number of its corners, and their indices")
        if size < 3:
            short.append(number)
            continue
        corners += own
        sizes.append(size)
        tails.append(words[size + 1:])
    if short:
        more = f" and {len(short) - 1} more" if len(short) > 1 else ""
        warnings.warn(f"{path}, line {short[0]}{more}: a face needs three corners; left out", stacklevel=2)
    corners = np.array(corners, np.int64)
    if len(corners) and not 0 <= corners.min() <= corners.max() < V:
        raise ValueError(f"a face names a vertex from {corners.min()} to {corners.max()} of {V}")
    if not np.isfinite(vertices[corners]).all():
        raise ValueError("a vertex of a face is not finite")
    places, owner = polygons.split(vertices, corners, sizes)
    triangles = corners[places]
    if not coloured:
        return vertices, triangles, None
    first = 3 + 3 * bool(head[3])
    of_vertices = _colours([words[first:] for _, words in rows]) if head[2] else None
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


def _begin(lines):
    """(match of HEAD, number of vertices, number of faces)"""
    number, words, _ = next(lines, (1, [b""], b""))
    name = words[0].decode("latin-1")
    head = HEAD.match(name.upper() if name.islower() else name)
    if not head or head[4] or words[1:2] == [b"BINARY"]:
        raise ValueError("expected OFF, or COFF and the like, in text, of three coordinates")
    counts = [head[5].encode()] * bool(head[5]) + words[1:]
    if not counts:
        number, counts, _ = next(lines, (number + 1, [], b""))
    V, F = _read(number, counts, 2, int, "the numbers of vertices, faces and edges")
    if not (0 <= V < wavefront.MOST and 0 <= F < wavefront.MOST):
        raise ValueError(f"{V} vertices and {F} faces")
    return head, V, F


def _read(number, words, count, kind, expected):
    """The first `count` words of a line as int or float; ValueError that names the line and what was expected."""
    try:
        values = [kind(word) for word in words[:max(count, 0)]]
        if len(values) == count:
            return values
    except ValueError:
        pass
    raise ValueError(f"line {number}: expected {expected}, got {wavefront.shown(b' '.join(words))[:60]!r}")


def _colours(rows):
    """Colours (N, 3) in [0, 1], NaN for rows without one; None if no row has one. A single number is an index into a
    colour map, which is not in the file."""
    values = np.full((len(rows), 3), np.nan)
    for k, row in enumerate(rows):
        if len(row) >= 3:
            values[k] = [float(word) for word in row[:3]]
    return unit_colours(values) if np.isfinite(values).any() else None
