"""Read Wavefront OBJ and MTL files. The whole program uses this one reader.

It reads files as bytes, and names stay bytes: an OBJ file does not tell its encoding, and two different names must
stay different. It reads v (with r g b), vt, f, usemtl and mtllib of OBJ files, newmtl, Kd and map_Kd of MTL files. A
comment begins at ` #`. A backslash at the end of a line joins the next line to it. Lines may end as on any system. A
byte order mark is skipped.

NumPy parses an OBJ file in blocks of a few megabytes. A block with anything unusual is read line by line instead, with
the same result; only the line reader raises errors.
"""
import io
import os
import re
import warnings
from dataclasses import dataclass, field

import numpy as np

from . import polygons

BLOCK = 1 << 22
MOST = 2 ** 31  # larger indices are errors
NOT_A_NUMBER = re.compile(rb"[-+]?(\d\.#(IND|QNAN|SNAN|INF)\d*|nan\(\w*\))", re.I)  # as Microsoft's C library prints it


class Damaged(ValueError):
    """A line cannot be read. The reader catches this error and adds the number of the line."""


@dataclass
class Geometry:
    """The content of an OBJ file. Faces are triangles, in the order of the file."""
    filename: str
    vertices: np.ndarray      # (V, 3) float64; the vertices that faces use are finite
    colours: np.ndarray       # (V, 3) float64, not scaled; NaN for a vertex without colour; None if no vertex has one
    faces: np.ndarray         # (F, 3) int64
    uv: np.ndarray            # (T, 2) float64; may be NaN or infinite
    uv_faces: np.ndarray      # (F, 3) int64 rows of uv, -1 for a corner without
    materials: np.ndarray     # (F,) int64 indices into names, -1 before the first usemtl
    names: list = field(default_factory=list)      # bytes
    libraries: list = field(default_factory=list)  # bytes


# ---- lines ----------------------------------------------------------------------------------------------------

def _blocks(filename):
    """Yield blocks of whole lines: (number of the first line, bytes in UTF-8 or as in the file). Lines end in \\n; byte
    order marks are removed."""
    with open(filename, "rb") as file:
        start = file.read(3)
        if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
            try:
                file = io.BytesIO((start + file.read()).decode("utf-16").encode())
            except UnicodeDecodeError as error:
                raise ValueError(f"{filename} begins like UTF-16 text, but is not: {error.reason}") from None
        else:
            file.seek(3 if start == b"\xef\xbb\xbf" else 0)
        number = 1
        while block := file.read(BLOCK):
            block += file.readline()
            while _goes_on(block.rstrip(b"\r\n")[-1000:]) and (more := file.readline()):
                block += more
            if b"\r" in block:
                block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            if not block.endswith(b"\n"):
                block += b"\n"
            yield number, block
            number += block.count(b"\n")


def _goes_on(line):
    """Whether a backslash joins the next line to this one. One at the end of a comment is a part of the comment."""
    return line.endswith(b"\\") and not re.search(rb"(^|\s)#[^\n]*$", line)


def _lines(number, block):
    """Yield (number, words, text) of every line of a block that has words. A comment is not part of the words."""
    joined, first = b"", number
    for number, line in enumerate(block.split(b"\n"), number):
        first = first if joined else number
        if _goes_on(line):
            joined += line[:-1] + b" "
            continue
        line, joined = (joined + line).strip(), b""
        words = _said(line.split())
        if words:
            yield first, words, line


def _said(words):
    """The words before a comment. A comment may begin inside of a word: `f 1 2 3# lower`."""
    for k, word in enumerate(words):
        if b"#" in word and not NOT_A_NUMBER.fullmatch(word):
            before = word.partition(b"#")[0]
            return words[:k] + [before] * bool(before)
    return words


def readings(name):
    """Possible readings of a name: all of it, and each part of it before a ` #`, longest first."""
    return [name] + [name[:at.start()] for at in reversed(list(re.finditer(rb"\s+#", name)))]


def shown(text):
    """Bytes of a file as text for messages."""
    return text.decode("utf-8", "backslashreplace")


def line_error(filename, number, text, error):
    return ValueError(f"{filename}, line {number}: cannot read {shown(text)[:60]!r} ({error})")


def lines(filename):
    """Yield (number, words, text) of every line that has words, in bytes. The words end before a comment. The text
    keeps it, because a name may contain ` #`."""
    for number, block in _blocks(filename):
        yield from _lines(number, block)


def _number(word):
    try:
        if b"_" in word:  # Python would accept 1_000
            raise ValueError(f"could not convert string to float: {shown(word)!r}")
        return float(word)
    except ValueError as error:
        if NOT_A_NUMBER.fullmatch(word):
            return float("nan")
        raise Damaged(str(error).replace("b'", "'")) from None


def numbers(words, count, kind, finite=True):
    """Convert the first `count` words to floats; Damaged if that fails."""
    values = [_number(word) for word in words[:count]]
    if len(values) < count or finite and not np.isfinite(values).all():
        raise Damaged(f"a {kind} needs {count} {'finite ' if finite else ''}numbers")
    return values


def _index(word, count):
    """0-based index of a word. Positive indices count from the first, negative ones back from the last read so far."""
    try:
        if b"_" in word:
            raise ValueError(f"invalid literal for int() with base 10: {shown(word)!r}")
        value = int(word)
    except ValueError as error:
        raise Damaged(str(error).replace("b'", "'")) from None
    index = value - 1 if value > 0 else count + value
    if value == 0 or not 0 <= index < MOST:
        raise Damaged("index out of range")
    return index


# ---- OBJ ------------------------------------------------------------------------------------------------------

def read_obj(filename, with_uv=True):
    """Read the `Geometry` of an OBJ file. With with_uv=False its vt, usemtl and mtllib are ignored.

    Faces of more than three corners are split (`polygons.split`). Faces of one or two corners are left out, with a
    warning.

    Raises
    ------
    OSError, or ValueError that names the file and the line. ImportError, see `polygons.split`.
    """
    return _Reader(os.fspath(filename), with_uv).read()


class _Reader:
    """Collects the content of the blocks: arrays of numbers, and the corners of polygons one after another."""

    def __init__(self, filename, with_uv):
        self.filename, self.with_uv = filename, with_uv
        self.vertices, self.colours, self.uv = [], [], []               # one array per block
        self.corners, self.uv_corners, self.sizes, self.used = [], [], [], []
        self.V = self.T = 0
        self.names, self.libraries, self.material = {}, [], -1
        self.short = []                                                 # lines of faces of one or two corners

    def read(self):
        for number, block in _blocks(self.filename):
            if not self._read_at_once(block):
                self._read_lines(number, block)
        vertices, uv = _joined(self.vertices, (0, 3)), _joined(self.uv, (0, 2))
        corners, uv_corners = _joined(self.corners, 0, np.int64), _joined(self.uv_corners, 0, np.int64)
        sizes = _joined(self.sizes, 0, np.int64)
        if self.short:
            more = f" and {len(self.short) - 1} more" if len(self.short) > 1 else ""
            warnings.warn(f"{self.filename}, line {self.short[0]}{more}: a face needs three corners; left out",
                          stacklevel=4)
        if not len(vertices) or not len(sizes):
            raise ValueError(f"{self.filename} holds {len(vertices)} vertices and {len(sizes)} faces; a mesh needs "
                             "both")
        if corners.max() >= len(vertices) or self.with_uv and uv_corners.max() >= len(uv):
            self._refuse(len(vertices), len(uv))
        bad = ~np.isfinite(vertices).all(1)
        if bad.any() and bad[corners].any():
            self._refuse_not_finite(corners[bad[corners]].min())
        if (sizes == 3).all():
            places, owner = np.arange(len(corners)).reshape(-1, 3), slice(None)
        else:
            places, owner = polygons.split(vertices, corners, sizes)
        colours = None
        if any(some is not None for some in self.colours):
            colours = np.concatenate([np.full(v.shape, np.nan) if some is None else some
                                      for v, some in zip(self.vertices, self.colours)])
        return Geometry(self.filename, vertices, colours, corners[places], uv,
                        uv_corners[places] if self.with_uv else np.full(places.shape, -1),
                        _joined(self.used, 0, np.int64)[owner], list(self.names), self.libraries)

    def _add_vertices(self, xyz, colours):
        self.vertices.append(xyz)
        self.colours.append(colours)  # None if no vertex of the block has a colour
        self.V += len(xyz)

    def _keyword(self, keyword, text):
        """Read a usemtl or mtllib line. These must be read in the order of the lines."""
        name = text[len(keyword):].strip()
        if keyword == b"usemtl":
            self.material = self.names.setdefault(name, len(self.names))
        elif keyword == b"mtllib":
            self.libraries.append(name)

    # The line reader.

    def _read_lines(self, number, block):
        vertices, colours, uv, corners, uv_corners, sizes, used = [], [], [], [], [], [], []
        for number, words, text in _lines(number, block):
            try:
                if words[0] == b"v":
                    vertices.append(numbers(words[1:], 3, "vertex", finite=False))
                    colours.append(numbers(words[4:], 3, "colour", finite=False) if len(words) >= 7 else [np.nan] * 3)
                elif words[0] == b"f":
                    face = [self._corner(word, self.V + len(vertices), self.T + len(uv)) for word in words[1:]]
                    if len(face) < 3:
                        self.short.append(number)
                        continue
                    sizes.append(len(face))
                    used.append(self.material)
                    for corner, its_uv in face:
                        corners.append(corner)
                        uv_corners.append(its_uv)
                elif self.with_uv and words[0] == b"vt":
                    uv.append(numbers(words[1:] + [b"0"], 2, "vt", finite=False))  # a single number is u
                elif self.with_uv:
                    self._keyword(words[0], text)
            except Damaged as error:
                raise line_error(self.filename, number, text, error) from None
        if vertices:
            self._add_vertices(np.array(vertices), np.array(colours) if not np.isnan(colours).all() else None)
        if uv:
            self.uv.append(np.array(uv))
            self.T += len(uv)
        self.corners.append(np.array(corners, np.int64))
        self.uv_corners.append(np.array(uv_corners, np.int64))
        self.sizes.append(np.array(sizes, np.int64))
        self.used.append(np.array(used, np.int64))

    def _corner(self, word, V, T):
        parts = word.split(b"/")
        return _index(parts[0], V), _index(parts[1], T) if self.with_uv and len(parts) > 1 and parts[1] else -1

    # The block reader.

    def _read_at_once(self, block):
        """Read a block with NumPy. Returns False, and keeps nothing, if a line of it is unusual."""
        if b"\\\n" in block:
            return False
        words = _Words(block)
        if words.odd:
            return False
        v, vt, f = (words.called(keyword) for keyword in (b"v", b"vt", b"f"))
        if not self.with_uv:
            vt = vt[:0]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)  # NumPy's warning for text that is no number
                xyz, colours = self._vertices_at_once(words, v)
                uv = words.numbers(vt, (1, 2, 3), 2)
                faces = self._faces_at_once(words, f, v, vt)
        except ValueError:
            return False
        others = words.called(b"usemtl", b"mtllib") if self.with_uv else f[:0]
        used, at = np.empty(len(f), np.int64), 0
        for line in others:
            until = np.searchsorted(f, line)
            used[at:until], at = self.material, until
            self._keyword(*words.text(line))
        used[at:] = self.material
        if len(v):
            self._add_vertices(xyz, colours)
        self.uv.append(uv)
        self.T += len(uv)
        for kept, value in zip((self.corners, self.uv_corners, self.sizes), faces):
            kept.append(value)
        self.used.append(used)
        return True

    @staticmethod
    def _vertices_at_once(words, v):
        values = words.numbers(v, (3, 4, 6, 7), 6)
        coloured = words.count[v] >= 7
        colours = np.where(coloured[:, None], values[:, 3:], np.nan) if coloured.any() else None
        return np.ascontiguousarray(values[:, :3]), colours

    def _faces_at_once(self, words, f, v, vt):
        sizes = words.count[f] - 1
        if len(f) and sizes.min() < 3:
            raise Damaged("a face of fewer than three corners")
        first = np.cumsum(sizes) - sizes
        corners, uv_corners = np.empty(sizes.sum(), np.int64), np.full(sizes.sum(), -1)
        forms = words.forms(f)
        for form in np.unique(forms):
            for size in np.unique(sizes[forms == form]):
                own = np.flatnonzero((forms == form) & (sizes == size))
                values = words.indices(f[own], size, form)
                at = first[own, None] + np.arange(size)
                corners[at] = _indices(values[..., 0], self.V + np.searchsorted(v, f[own]))
                if self.with_uv and form in (1, 2):
                    uv_corners[at] = _indices(values[..., 1], self.T + np.searchsorted(vt, f[own]))
        return corners, uv_corners, sizes

    # Errors that show only after the whole file. These methods read the file again to find the line.

    def _refuse(self, V, T):
        now = {"vertex": 0, "vt": 0}
        for number, words, _ in lines(self.filename):
            now["vertex"] += words[0] == b"v"
            now["vt"] += words[0] == b"vt"
            for word in words[1:] if words[0] == b"f" and len(words) > 3 else ():
                for kind, index, count in zip(now, self._corner(word, now["vertex"], now["vt"]), (V, T)):
                    if index >= count:
                        raise ValueError(f"{self.filename}, line {number}: a face names {kind} {index + 1} of {count}")
        raise AssertionError("an index was out of range")

    def _refuse_not_finite(self, vertex):
        for number, words, text in lines(self.filename):
            vertex -= words[0] == b"v"
            if vertex < 0:
                raise line_error(self.filename, number, text, "a vertex of a face needs 3 finite numbers")
        raise AssertionError("a vertex was not finite")


def _joined(arrays, shape, dtype=np.float64):
    return np.concatenate(arrays) if arrays else np.empty(shape, dtype)


def _indices(values, before):
    """0-based indices (n, corners) of the values that n faces name. `before` (n,) counts the vertices or vt read before
    each face. Damaged for an index out of range, as in `_index`."""
    index = np.where(values > 0, values - 1, before[:, None] + values)
    if len(index) and ((values == 0) | (index < 0) | (index >= MOST)).any():
        raise Damaged("index out of range")
    return index


class _Words:
    """The words of a block of bytes: their positions, and how many each line has."""

    def __init__(self, block):
        self.block, self.bytes = block, np.frombuffer(block, np.uint8)
        blank = self.bytes <= 32
        self.odd = bool((blank & (self.bytes != 32) & ((self.bytes < 9) | (self.bytes > 13))).any())  # controls
        begins = ~blank
        begins[1:] &= blank[:-1]
        self.start = np.flatnonzero(begins)
        self.end = np.flatnonzero(self.bytes == 10) + 1                     # the end of every line
        past = np.searchsorted(self.start, self.end)
        self.first = np.concatenate([[0], past[:-1]])                       # index of the first word of every line
        self.count = past - self.first
        self.slashes = np.flatnonzero(self.bytes == 47)
        self.plain = self.bytes.copy()                                      # _values blanks the keywords

    def called(self, *keywords):
        """Indices of the lines that begin with one of these words."""
        some = np.flatnonzero(self.count)
        at = self.start[self.first[some]]
        found = np.zeros(len(some), bool)
        for keyword in keywords:
            own = np.ones(len(some), bool)
            for k, letter in enumerate(keyword):
                own &= self.bytes[np.minimum(at + k, len(self.bytes) - 1)] == letter
            found |= own & (self.bytes[np.minimum(at + len(keyword), len(self.bytes) - 1)] <= 32)
        return some[found]

    def text(self, line):
        """(its first word, its text) of one line."""
        text = self.block[self.start[self.first[line]]:self.end[line]].strip()
        return text.split(None, 1)[0], text

    def _values(self, lines, dtype):
        """All numbers of some lines in one array; ValueError if a word is not a number."""
        at = self.start[self.first[lines]]
        for letter in at, at[self.bytes[at + 1] == ord("t")] + 1:  # the letters of v, vt and f
            self.plain[letter] = 32
        if len(lines) == len(self.end):
            text = self.plain
        else:
            chosen = np.zeros(len(self.end), bool)
            chosen[lines] = True
            text = self.plain[np.repeat(chosen, np.diff(self.end, prepend=0))]
        text = text.tobytes()
        return np.fromstring(text.replace(b"/", b" ") if dtype == np.int64 else text, dtype, sep=" ")

    def numbers(self, lines, counts, width):
        """The first `width` numbers of some lines, float64, filled up with 0. Damaged if a line's count of numbers is
        not in `counts`."""
        out = np.zeros((len(lines), width))
        for count in np.unique(self.count[lines]) - 1:
            own = np.flatnonzero(self.count[lines] == count + 1)
            if count not in counts:
                raise Damaged("another count of numbers")
            values = self._values(lines[own], np.float64)
            if values.size != len(own) * count:
                raise Damaged("a word that is no number")
            out[own, :count] = values.reshape(len(own), count)[:, :width]
        return out

    def forms(self, lines):
        """The form of the corners of each face: 0 for `a`, 1 for `a/b`, 2 for `a/b/c`, 3 for `a//c`. Damaged if the
        corners of a face have different forms."""
        double = self.slashes[:-1][np.diff(self.slashes) == 1]
        limits = np.append(self.start, len(self.bytes))
        count = np.diff(np.searchsorted(self.slashes, limits))
        doubled = np.diff(np.searchsorted(double, limits))
        form = np.where(doubled == 0, count, np.where((doubled == 1) & (count == 2), 3, 9))
        own = form[self.first[lines] + 1] if len(lines) else np.empty(0, np.int64)
        corners = np.repeat(self.first[lines] - np.cumsum(self.count[lines] - 1) + self.count[lines],
                            self.count[lines] - 1) + np.arange((self.count[lines] - 1).sum())
        if (own > 3).any() or (form[corners] != np.repeat(own, self.count[lines] - 1)).any():
            raise Damaged("corners of several forms")
        return own

    def indices(self, lines, size, form):
        """The indices at the corners of faces of one size and form, (lines, size, 1 to 3) int64."""
        width = (1, 2, 3, 2)[form]
        values = self._values(lines, np.int64)
        if values.size != len(lines) * size * width:
            raise Damaged("a word that is no index")
        return values.reshape(len(lines), size, width)
