"""Read PLY files, in text and binary, with the colours of vertices and polygons, and their pictures.

Source of the format: Greg Turk, "The PLY Polygon File Format", 1994.
"""
import re
import struct
import warnings

import numpy as np
from neural_renderer import polygons, wavefront

from making.looks import GREY, Look, Picture

from .looks import NotRead, far_uv, find, read_picture, unit_colours

UV_OF_VERTICES = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"), ("texture_s", "texture_t"))
CORNERS = ("vertex_indices", "vertex_index")
TYPES = {"char": "b", "uchar": "B", "short": "h", "ushort": "H", "int": "i", "uint": "I", "float": "f", "double": "d",
         "int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q",
         "uint64": "Q", "float32": "f", "float64": "d"}  # letters of both struct and numpy
ORDERS = {"ascii": "=", "binary_little_endian": "<", "binary_big_endian": ">"}
LINE_END = re.compile(rb"\r\n|\n|\r")


def read(path, root, report, coloured=True):
    """Read a file: (vertices (V, 3), faces (F, 3), `Look` or None); see `looks.of_obj`. Faces of fewer than three
    corners are left out, with a warning."""
    with open(path, "rb") as file:
        content = file.read()
    header, elements, order, start = _header(content)
    found = _Body(content, start, order).read(elements)
    vertex, face = found.get("vertex", {}), found.get("face", {})
    listed = next((face[name] for name in CORNERS if isinstance(face.get(name), tuple)), None)
    if not all(axis in vertex for axis in "xyz") or listed is None:
        raise ValueError("expected an element vertex with x, y and z, and an element face with vertex_indices")
    vertices = np.stack([np.asarray(vertex[axis], np.float64) for axis in "xyz"], 1)
    sizes, corners = listed[0], listed[1].astype(np.int64)
    if len(corners) and not 0 <= corners.min() <= corners.max() < len(vertices):
        raise ValueError(f"a face names a vertex from {corners.min()} to {corners.max()} of {len(vertices)}")
    if not np.isfinite(vertices[corners]).all():
        raise ValueError("a vertex of a face is not finite")
    whole = sizes >= 3
    if not whole.all():
        warnings.warn(f"{path}: {(~whole).sum()} faces of fewer than three corners are left out", stacklevel=2)
    kept = np.flatnonzero(np.repeat(whole, sizes))
    places, owner = polygons.split(vertices, corners[kept], sizes[whole])
    places, owner = kept[places], np.flatnonzero(whole)[owner]
    faces = corners[places]
    look = _look(path, root, report, header, found, faces, places, owner, sizes) if coloured and len(faces) else None
    return vertices, faces, look


# ---- the file -----------------------------------------------------------------------------------------------------

def _header(content):
    """(lines of the header, [(name of an element, count, [(property, type, type of its count or None)])], byte order,
    position of the body)."""
    at, lines = 3 * content.startswith(b"\xef\xbb\xbf"), []
    if not content[at:at + 3].lower() == b"ply":
        raise ValueError("it does not begin with ply")
    newline = LINE_END.search(content)
    while not lines or lines[-1] != b"end_header":
        # After \r\n, \n or \r alone ends no line: the body of a binary file may begin with either.
        end = content.find(newline[0], at) if newline else -1
        if end < 0:
            raise ValueError("its header has no end (end_header)")
        lines.append(content[at:end].strip())
        at = end + len(newline[0])
    elements, order = [], None
    for line in lines[1:-1]:
        words = line.decode("latin-1").split()
        try:
            match words:
                case ["format", name, *_]:
                    order = ORDERS[name]
                case ["element", name, count]:
                    elements.append((name, int(count), []))
                case ["property", "list", count, kind, name]:
                    elements[-1][2].append((name, TYPES[kind], TYPES[count]))
                case ["property", kind, name]:
                    elements[-1][2].append((name, TYPES[kind], None))
                case [] | ["comment" | "obj_info", *_]:
                    continue
                case _:
                    raise ValueError
        except (KeyError, ValueError, IndexError):
            raise ValueError(f"cannot read the line {wavefront.shown(line)[:60]!r} of its header") from None
    if order is None or any(count < 0 for _, count, _ in elements):
        raise ValueError("its header names no format, or a negative count")
    return lines, elements, order, at


class _Body:
    """Reads the elements one after another. A text becomes float64 numbers, so that one reader is enough; digits of
    coordinates that float32 would lose are kept, whatever type the header says."""

    def __init__(self, content, start, order):
        self.text, self.order = order == "=", order
        if self.text:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)  # NumPy's warning for text that is no number
                try:
                    content, start = np.fromstring(content[start:], np.float64, sep=" ").tobytes(), 0
                except (DeprecationWarning, ValueError):
                    raise ValueError("its body has a word that is no number") from None
        self.content, self.at = content, start

    def read(self, elements):
        """{element: {property: (N,), or (sizes (N,), values (sum of sizes,)) of a list}}"""
        found = {name: self._element(count, properties) for name, count, properties in elements}
        if rest := self.content[self.at:].strip(b"\0\t\r\n "):
            raise ValueError(f"{len(rest)} bytes follow what its header announces" if not self.text else
                             f"{(len(self.content) - self.at) // 8} numbers follow what its header announces")
        return found

    def _type(self, name):
        return np.dtype("=d" if self.text else self.order + name)

    def _element(self, count, properties):
        if not count or not properties:
            return {name: np.zeros(0) if sizes is None else (np.zeros(0, np.int64),) * 2
                    for name, _, sizes in properties}
        widths = [(self._type(kind).itemsize, counted and struct.Struct("=d" if self.text else self.order + counted))
                  for _, kind, counted in properties]
        offsets, sizes = self._as_the_first(count, properties, widths) or self._one_by_one(count, widths)
        columns = {}
        for (name, kind, counted), at, size in zip(properties, offsets, sizes):
            own = self._type(kind)
            if counted is not None:  # the offsets of all values
                first = np.cumsum(size) - size
                at = np.repeat(at - first * own.itemsize, size) + np.arange(size.sum()) * own.itemsize
            values = self._at(at, own)
            if self.text and kind not in "fd":  # the type tells the scale of colours
                with np.errstate(invalid="ignore"):
                    whole = values.astype(kind)
                if (whole != values).any():
                    raise ValueError(f"{name} has the value {values[whole != values][0]:g}, which its type cannot hold")
                values = whole
            columns[name] = values if counted is None else (size, values)
        return columns

    def _at(self, offsets, kind):
        """The values of a type at these offsets in bytes."""
        size = kind.itemsize
        if not len(offsets):
            return np.empty(0, kind)
        step = int(offsets[1] - offsets[0]) if len(offsets) > 1 else size
        if (np.diff(offsets) == step).all():
            return np.ndarray(len(offsets), kind, self.content, int(offsets[0]), (step,)).copy()
        return np.frombuffer(self.content, np.uint8)[offsets[:, None] + np.arange(size)].view(kind).reshape(-1)

    def _row(self, at, widths):
        """(offset of each property, size of each list, end) of the row that begins at `at`."""
        offsets, sizes = [], []
        for width, counted in widths:
            size = 1
            if counted is not None:
                if at + counted.size > len(self.content):
                    raise ValueError("it ends before all that its header announces")
                value, = counted.unpack_from(self.content, at)
                size = int(value)
                if size != value or size < 0:
                    raise ValueError(f"a list of {value:g} values")
                at += counted.size
            offsets.append(at)
            sizes.append(size)
            at += size * width
        if at > len(self.content):
            raise ValueError("it ends before all that its header announces")
        return offsets, sizes, at

    def _as_the_first(self, count, properties, widths):
        """(offsets, sizes) of each property if all rows have lists as long as those of the first row, else None."""
        offsets, sizes, end = self._row(self.at, widths)
        width = end - self.at
        if self.at + count * width > len(self.content):
            return None
        starts = width * np.arange(count)
        for (_, _, counted), at, size in zip(properties, offsets, sizes):
            if counted is not None:
                own = self._type(counted)
                if (self._at(at - own.itemsize + starts, own) != size).any():
                    return None
        self.at += count * width
        return [at + starts for at in offsets], [np.full(count, size) for size in sizes]

    def _one_by_one(self, count, widths):
        offsets, sizes = [], []
        for _ in range(count):
            at, size, self.at = self._row(self.at, widths)
            offsets.append(at)
            sizes.append(size)
        return np.array(offsets, np.int64).T, np.array(sizes, np.int64).T


# ---- colours ------------------------------------------------------------------------------------------------------

def _look(path, root, report, header, found, faces, places, owner, sizes):
    look = Look.plain(np.full((len(faces), 3), GREY))
    of_vertices, of_faces = _colours(found["vertex"]), _colours(found["face"])
    coloured = of_vertices is not None or of_faces is not None
    if of_vertices is not None:
        look.colours[:] = of_vertices[faces]
    if of_faces is not None:
        look.colours[:] = of_faces[owner][:, None]
    names = [match[1] for line in header if (match := re.match(rb"comment\s+texturefile\s+(.*\S)", line, re.I))]
    uv, pictures = _uv(found, faces, places, sizes) if names else None, []
    if uv is None:
        return look if coloured else None
    for name in names:
        try:
            pixels = read_picture(find(name, path, root), alpha=True)
            pictures.append(Picture(pixels, cutoff=0.5 if pixels.shape[2] == 4 else None))
        except NotRead as error:
            report(str(error))
            pictures.append(None)
    number = found["face"].get("texnumber")
    number = np.zeros(len(faces), np.int64) if number is None else np.asarray(number, np.int64)[owner]
    far = far_uv(uv)
    if far.any():
        report(f"{path}: texture coordinates of {far.sum()} faces are not finite")
    for k, picture in enumerate(pictures):
        mine = (number == k) & ~far
        if picture is not None and mine.any():
            look.colours[mine], look.picture[mine], look.uv[mine] = 1, len(look.pictures), uv[mine]
            look.pictures.append(picture)
            coloured = True
    return look if coloured else None


def _colours(columns):
    """Colours (N, 3) in [0, 1] of vertices or polygons, or None."""
    for prefix in ("", "diffuse_"):
        names = [prefix + name for name in ("red", "green", "blue")]
        if all(isinstance(columns.get(name), np.ndarray) for name in names):
            return unit_colours(np.stack([columns[name] for name in names], 1))
    return None


def _uv(found, faces, places, sizes):
    """Texture coordinates (F, 3, 2): those of the polygons' corners (texcoord), else those of the vertices."""
    listed = found["face"].get("texcoord")
    if isinstance(listed, tuple) and (listed[0] == 2 * sizes).all():
        return listed[1].astype(np.float64).reshape(-1, 2)[places]
    for names in UV_OF_VERTICES:
        columns = [found["vertex"].get(name) for name in names]
        if all(isinstance(column, np.ndarray) for column in columns):
            return np.stack(columns, 1).astype(np.float64)[faces]
    return None
