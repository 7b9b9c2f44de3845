"""Read the materials of OBJ files: Kd, map_Kd and map_d of MTL libraries, and find the pictures that they name."""
import os
import warnings

import numpy as np

from .wavefront import Damaged, line_error, lines, numbers, readings, shown

# How many values follow an option of map_Kd. For a range, the values end at the first word that is not a number.
OPTIONS = {b"-blendu": 1, b"-blendv": 1, b"-bm": 1, b"-boost": 1, b"-cc": 1, b"-clamp": 1, b"-imfchan": 1, b"-mm": 2,
           b"-texres": 1, b"-type": 1, b"-o": range(1, 4), b"-s": range(1, 4), b"-t": range(1, 4)}


class Material:
    """One material of an MTL file: its Kd, map_Kd and map_d.

    Attributes
    ----------
    source : path of the MTL file
    colour : three numbers in [0, 1], or None
    image : name of the picture in the bytes of the file, or None; `named_file` finds the picture
    scale, offset : (2,) numbers; the picture is sampled at uv * scale + offset
    base, gain : the picture's values become base + gain * value
    clamp : bool. Outside of [0, 1]^2 the edge of the picture continues; otherwise the picture repeats.
    opacity : name of the picture of map_d in the bytes of the file, or None
    """

    def __init__(self, source):
        self.source, self.colour, self.image = source, None, None
        self.scale, self.offset = np.ones(2), np.zeros(2)
        self.base, self.gain, self.clamp, self.opacity = 0.0, 1.0, False, None

    def read_colour(self, words):
        """Read `Kd r g b`. Returns whether the numbers are in [0, 1], apart from rounding."""
        words = words * 3 if len(words) == 1 else words  # one number alone is a grey
        colour = np.array(numbers(words, 3, "colour"))
        self.colour = np.clip(colour, 0, 1).tolist()
        return bool((np.abs(colour - 0.5) < 0.51).all())

    def read_map(self, text):
        """Read `map_Kd [-option value ...] name`; the name may contain spaces. Options that do not change a colour
        (-bm, -boost, -texres, ...) are ignored."""
        while text.startswith(b"-"):
            option, *rest = text.split(None, 1)
            if option.lower() not in OPTIONS:
                raise Damaged(f"map_Kd has an unknown option {shown(option)}")
            option, count = option.lower(), OPTIONS[option.lower()]
            words, text = [], rest[0] if rest else b""
            most = count if isinstance(count, int) else count[-1]
            while len(words) < most and text:
                word, *rest = text.split(None, 1)
                if not isinstance(count, int) and not _is_number(word):
                    break
                words.append(word)
                text = rest[0] if rest else b""
            if not words:
                raise Damaged(f"a value of {shown(option)} is missing")
            self._set(option, words)
        if not text:
            raise Damaged("map_Kd names no file")
        self.image = text

    def _set(self, option, words):
        if option == b"-mm":
            self.base, self.gain = numbers(words, 2, "-mm")
        elif option == b"-clamp":
            self.clamp = words[0].lower() == b"on"
        elif option in (b"-o", b"-s"):
            values = numbers(words, min(len(words), 2), "option " + shown(option)) + [float(option == b"-s")]
            setattr(self, "scale" if option == b"-s" else "offset", np.array(values[:2]))


def _is_number(word):
    try:
        numbers([word], 1, "option", finite=False)
    except Damaged:
        return False
    return True


def read_mtl(filename):
    """{name as bytes: `Material`} of an MTL file.

    Raises
    ------
    OSError, or ValueError that names the file and the line.
    """
    materials, material = {}, None
    for number, words, text in lines(filename):
        keyword = words[0].lower()
        try:
            if keyword == b"newmtl":
                material = materials[text[6:].strip()] = Material(filename)
            elif keyword in (b"kd", b"map_kd", b"map_d"):
                if material is None:
                    raise Damaged("it comes before the first newmtl")
                if keyword == b"kd":
                    if not material.read_colour(words[1:]):
                        warnings.warn(f"{filename}, line {number}: {shown(text.strip())} is outside of [0, 1]; clipped "
                                      "to it", stacklevel=3)
                elif keyword == b"map_kd":
                    material.read_map(text[6:].strip())
                else:
                    opacity = Material(filename)
                    opacity.read_map(text[5:].strip())
                    material.opacity = opacity.image
        except Damaged as error:
            raise line_error(filename, number, text, error) from None
    return materials


class Outside(ValueError):
    """A file is named that does not lie where files may be read."""


def named_file(name, source, root):
    """Path of the file `name` (bytes) that the file `source` names. It must lie in `root` after links are resolved.

    The candidates, in this order: the name with and without a possible comment (` #`) and quotes, each decoded as a
    file name of this system and as Latin-1; then files in the folders of these whose names differ only in case.
    """
    if b"\0" in name:
        raise ValueError(f"{source} names {shown(name)!r}, which cannot be the name of a file")
    top, folder = os.path.realpath(root), os.path.dirname(source)
    written = [some.replace(b"\\", b"/") for some in readings(name)]
    written += [some[1:-1] for some in written if len(some) > 2 and some[:1] == some[-1:] == b'"']
    paths = [os.path.normpath(os.path.join(folder, text)) for some in written
             for text in dict.fromkeys((os.fsdecode(some), some.decode("latin-1")))]
    for path in paths + [other for path in paths for other in _in_another_case(path)]:
        if written[0][1:2] == b":" or os.path.commonpath([top, os.path.realpath(path)]) != top:
            raise Outside(f"{source} names {shown(name)!r}, which is outside {os.path.abspath(root)}")
        if os.path.isfile(path):
            return path
    raise FileNotFoundError(f"{source} names {shown(readings(name)[-1])!r}, but there is no file "
                            f"{shown(os.fsencode(paths[-1]))}")


def _in_another_case(path):
    folder, name = os.path.split(path)
    try:
        found = [other for other in os.listdir(folder or ".") if other.casefold() == name.casefold()]
    except OSError:
        return []
    return [os.path.join(folder, found[0])] if len(found) == 1 else []


def materials_of(geometry, root=None, missing=None, library=None):
    """The materials that the faces of a `wavefront.Geometry` use.

    Faces that name no material get the only one, if there is just one. A warning names each missing material. A library
    that is missing or `Outside` raises an error; if `missing` is given, it is called with the error instead. `library`,
    the path of an MTL file, replaces the libraries that the OBJ file names.

    Returns
    -------
    list of `Material`, and (F,) int64 indices into it, -1 where a face has none.
    """
    root = os.path.dirname(geometry.filename) or "." if root is None else root
    there = {} if library is None else read_mtl(library)
    empty = None if there else library
    for name in geometry.libraries if library is None else ():
        for part in _libraries(name, geometry.filename):
            try:
                path = named_file(part, geometry.filename, root)
            except (FileNotFoundError, Outside) as error:
                if missing is None:
                    raise
                missing(error)
                continue
            found = read_mtl(path)
            there.update(found)
            empty = empty if found else path
    used, index = [], np.full(len(geometry.names) + 1, -1)  # the last entry is for faces that name none
    for k, name in enumerate(geometry.names):
        material = _called(name, there)
        if material is not None:
            index[k] = len(used)
            used.append(material)
            continue
        count = int((geometry.materials == k).sum())
        if count:
            warnings.warn(f"{geometry.filename} uses the material {shown(name)!r}, which its library does not have: "
                          f"{count} faces stay grey", stacklevel=4)
    count = int((geometry.materials == -1).sum())
    if count and len(there) == 1:
        index[-1] = len(used)
        used += there.values()
    elif count and there:
        warnings.warn(f"{geometry.filename} has {count} faces before the first usemtl, and its library has "
                      f"{len(there)} materials: these faces stay grey", stacklevel=4)
    elif count and empty:
        warnings.warn(f"{empty} has no materials (newmtl): the faces of {geometry.filename} stay grey", stacklevel=4)
    return used, index[geometry.materials]


def _libraries(name, source):
    """The names in a mtllib line: one name that may contain spaces if there is such a file, else one for each word."""
    folder = os.fsencode(os.path.dirname(source))
    for whole in readings(name):
        if os.path.isfile(os.path.join(folder, whole)):
            return [whole]
    return readings(name)[-1].split()


def _called(name, there):
    """The material `name`: one whose name has the same bytes, else one whose name is the same without comments."""
    for some in readings(name):
        if some in there:
            return there[some]
    short = readings(name)[-1]
    return next((material for other, material in there.items() if readings(other)[-1] == short), None)
