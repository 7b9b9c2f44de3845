"""Wavefront OBJ: geometry, materials and texture pictures, in and out."""
import os
import warnings

import numpy as np
import torch

from . import textures as cubes

GREY = 0.5  # the colour of faces without a material, as the original has it


class _Damaged(ValueError):
    """A line that cannot be read; the reader adds which."""


def _lines(filename):
    """(number, words, text) of every line that says something; a backslash joins it to the next."""
    with open(filename, encoding="utf-8", errors="replace") as lines:
        joined = ""
        for number, line in enumerate(lines, 1):
            line = joined + line.rstrip("\r\n")
            if line.endswith("\\"):
                joined = line[:-1] + " "
                continue
            joined, words = "", line.split()
            if words and not words[0].startswith("#"):
                yield number, words, line.strip()


def _numbers(words, count, kind):
    try:
        values = [float(w) for w in words[:count]]
    except ValueError as error:
        raise _Damaged(error) from None
    if len(values) < count or not np.isfinite(np.float32(values)).all():
        raise _Damaged(f"a {kind} needs {count} finite numbers")
    return values


def _index(text, count):
    """0-based index: positive ones count from the first, negative ones from the last read so far."""
    try:
        value = int(text)
    except ValueError as error:
        raise _Damaged(error) from None
    index = value - 1 if value > 0 else count + value
    if value == 0 or not 0 <= index < 2 ** 31:
        raise _Damaged("index out of range")
    return index


class _Geometry:
    """What stands in an OBJ file. Faces are triangles: polygons become fans."""

    def __init__(self, filename, with_uv):
        self.filename, self.with_uv = filename, with_uv
        self.vertices, self.uv = [], []
        self.faces, self.uv_faces, self.materials = [], [], []  # a face without uv has -1
        self.libraries = []
        self._material = None
        self._highest = {"vertex": (-1, 0), "vt": (-1, 0)}  # index and line
        for number, words, text in _lines(filename):
            try:
                self._read(number, words, text)
            except _Damaged as error:
                raise ValueError(f"{filename}, line {number}: cannot read {text[:60]!r} ({error})") from None
        self._check()

    def _read(self, number, words, text):
        if words[0] == "v":
            self.vertices.append(_numbers(words[1:], 3, "vertex"))
        elif words[0] == "f":
            self._face(number, words[1:])
        elif self.with_uv and words[0] == "vt":
            self.uv.append(_numbers(words[1:] + ["0"], 2, "vt"))  # one number alone is u
        elif self.with_uv and words[0] == "usemtl":
            self._material = text[6:].strip()
        elif self.with_uv and words[0] == "mtllib":
            self.libraries.append(text[6:].strip())

    def _face(self, number, words):
        corners, uv = [], []
        for word in words:
            parts = word.split("/")
            corners.append(_index(parts[0], len(self.vertices)))
            if self.with_uv:
                uv.append(_index(parts[1], len(self.uv)) if len(parts) > 1 and parts[1] else -1)
        if len(corners) < 3:
            raise _Damaged("a face needs three corners")
        self._highest["vertex"] = max(self._highest["vertex"], (max(corners), number))
        fan = range(1, len(corners) - 1)
        self.faces += [(corners[0], corners[k], corners[k + 1]) for k in fan]
        if self.with_uv:
            self._highest["vt"] = max(self._highest["vt"], (max(uv), number))
            self.uv_faces += [(uv[0], uv[k], uv[k + 1]) for k in fan]
            self.materials += [self._material] * len(fan)

    def _check(self):
        if not self.vertices or not self.faces:
            raise ValueError(f"{self.filename} holds {len(self.vertices)} vertices and {len(self.faces)} "
                             "faces; a mesh needs both")
        for kind, count in (("vertex", len(self.vertices)), ("vt", len(self.uv))):
            index, line = self._highest[kind]
            if index >= count:
                raise ValueError(f"{self.filename}, line {line}: a face names {kind} {index + 1} of {count}")


def _named_file(name, source, root):
    """Path of a file that the file `source` names; it must lie in `root`, whatever links say."""
    if "\0" in name:
        raise ValueError(f"{source} names {name!r}, which no file is called")
    path = os.path.normpath(os.path.join(os.path.dirname(source), name.replace("\\", "/")))
    top = os.path.realpath(root)
    if name[1:2] == ":" or os.path.commonpath([top, os.path.realpath(path)]) != top:
        raise ValueError(f"{source} names {name!r}, which is outside {os.path.abspath(root)}; if you trust the "
                         "file, give load_obj a texture_root that holds both")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{source} names {name!r}, but there is no file {path}")
    return path


class _Material:
    """Kd and map_Kd of an .mtl file, the source; uv are scaled and moved before the picture is looked up."""

    def __init__(self, source):
        self.source, self.colour, self.image = source, None, None
        self.scale, self.offset = np.ones(2), np.zeros(2)

    def read_map(self, words, text):
        """`map_Kd [-s u [v [w]]] [-o u [v [w]]] name`, where the name may hold spaces."""
        text = text.split(None, 1)[1] if words else ""
        while text.startswith("-"):
            option, _, text = text.partition(" ")
            if option not in ("-s", "-o"):
                raise _Damaged(f"the option {option} of map_Kd is not supported")
            values = []
            while len(values) < 3:
                word, _, rest = text.strip().partition(" ")
                try:
                    values.append(float(word))
                except ValueError:
                    break
                text = rest
            values = _numbers(values, min(len(values), 2) or 1, "option " + option)
            setattr(self, "scale" if option == "-s" else "offset",
                    np.array((values + [option == "-s"])[:2], float))
            text = text.strip()
        if not text:
            raise _Damaged("map_Kd names no file")
        self.image = text


def _read_materials(filename):
    """{name: _Material} of an .mtl file; of each only Kd and map_Kd."""
    materials, material = {}, None
    for number, words, text in _lines(filename):
        keyword = words[0].lower()
        try:
            if keyword == "newmtl":
                material = materials[text[6:].strip()] = _Material(filename)
            elif keyword in ("kd", "map_kd"):
                if material is None:
                    raise _Damaged("no newmtl stands before it")
                if keyword == "kd":  # one number alone is a grey
                    material.colour = _numbers(words[1:] * 3 if len(words) == 2 else words[1:], 3, "colour")
                else:
                    material.read_map(words[1:], text)
        except _Damaged as error:
            raise ValueError(f"{filename}, line {number}: cannot read {text[:60]!r} ({error})") from None
    return materials


def _load_textures(obj, T, wrapping, bilinear, root):
    """(F, T, T, T, 3) float32 of the faces of a _Geometry."""
    if not obj.libraries:
        raise ValueError(f"{obj.filename} names no material library (mtllib), so it has no textures to load")
    root = os.path.dirname(obj.filename) or "." if root is None else root
    materials = {}
    for name in obj.libraries:
        one = os.path.isfile(os.path.join(os.path.dirname(obj.filename), name))  # else several, by spaces
        for part in [name] if one else name.split():
            materials.update(_read_materials(_named_file(part, obj.filename, root)))
    out = np.full((len(obj.faces), T, T, T, 3), GREY, np.float32)
    uv, uv_faces = np.array(obj.uv).reshape(-1, 2), np.array(obj.uv_faces)
    numbers = {name: i for i, name in enumerate(dict.fromkeys(obj.materials))}
    of_face = np.array([numbers[name] for name in obj.materials])
    numbers.pop(None, None)
    for name, i in numbers.items():
        faces = np.flatnonzero(of_face == i)
        if name not in materials:
            warnings.warn(f"{obj.filename} uses the material {name!r}, which its library does not have: "
                          f"{len(faces)} faces stay grey", stacklevel=3)
            continue
        material = materials[name]
        if material.colour is not None:
            out[faces] = material.colour
        faces = faces[(uv_faces[faces] >= 0).all(1)]
        if material.image is not None and len(faces):
            corners = uv[uv_faces[faces]] * material.scale + material.offset
            image = cubes.read_image(_named_file(material.image, material.source, root))
            out[faces] = cubes.bake(image, corners, T, wrapping, bilinear)
    return out


def load_obj(filename, normalization=True, texture_size=4, load_texture=False,
             texture_wrapping="REPEAT", use_bilinear=True, texture_root=None):
    """Vertices (V, 3) float32 and faces (F, 3) int32 of an OBJ file, and its textures if asked for.

    Polygons become fans; negative indices count from the last one read, as the format says.

    Parameters
    ----------
    normalization : centre the bounding box and make its longest side 2.
    load_texture : also return textures (F, T, T, T, 3) float32 in [0, 1], T = texture_size: from the
        pictures (map_Kd) of the materials where a face has texture coordinates, else their colour (Kd),
        else grey. `neural_renderer.textures` says what a texel holds. Needs Pillow.
    texture_wrapping : 'REPEAT', 'MIRRORED_REPEAT', 'CLAMP_TO_EDGE' or 'CLAMP_TO_BORDER' (black); what lies
        beyond [0, 1]^2, as in OpenGL.
    use_bilinear : interpolate between pixels, else take the nearest.
    texture_root : folder in which material libraries and pictures must lie; default the OBJ's own. For
        ShapeNet v2, whose pictures are in ../images, the folder above.

    Raises
    ------
    FileNotFoundError that names the file, or ValueError that names the file and the line.
    """
    filename = os.fspath(filename)
    if texture_wrapping not in cubes.WRAPPINGS:
        raise ValueError(f"texture_wrapping must be one of {', '.join(cubes.WRAPPINGS)}, got {texture_wrapping!r}")
    if load_texture and (isinstance(texture_size, bool) or not isinstance(texture_size, (int, np.integer))
                         or not 1 <= texture_size <= 256):
        raise ValueError(f"texture_size must be an integer from 1 to 256, got {texture_size!r}")
    obj = _Geometry(filename, load_texture)
    vertices = np.array(obj.vertices, np.float32)
    if normalization:
        low, high = vertices.min(0), vertices.max(0)
        extent = (high - low).max()
        vertices = (vertices - (low + high) / 2) * (2 / extent if extent > 0 else 1)
    mesh = torch.from_numpy(vertices), torch.from_numpy(np.array(obj.faces, np.int32))
    if not load_texture:
        return mesh
    textures = _load_textures(obj, int(texture_size), texture_wrapping, use_bilinear, texture_root)
    return *mesh, torch.from_numpy(textures)


def _replace_all(writers):
    """Write every file {path: function of a beside path}, then put all in place; on failure none."""
    beside = {path: path + ".part" for path in writers}
    try:
        for path, write in writers.items():
            write(beside[path])
        for path in writers:
            os.replace(beside[path], path)
    finally:
        for path in beside.values():
            if os.path.exists(path):
                os.remove(path)


def _text(lines):
    def write(path):
        with open(path, "w", encoding="utf-8") as out:
            out.writelines(lines)
    return write


def _array(value):
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.asarray(value)


def save_obj(filename, vertices, faces, textures=None):
    """Write vertices (V, 3) and faces (F, 3) as an OBJ with 8 decimals.

    With textures (F, T, T, T, 3) in [0, 1], also NAME.mtl and NAME.png beside NAME.obj: one picture with a
    tile for every face (`neural_renderer.textures.atlas`). All files appear whole, or none does.
    """
    vertices, faces = _array(vertices), _array(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise ValueError(f"vertices must be numbers of shape (V, 3), got {vertices.dtype} of shape "
                         f"{vertices.shape}")
    if not np.isfinite(vertices).all():
        raise ValueError(f"vertices of shape {vertices.shape} must be finite to be written to {filename}")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(f"faces must be integers of shape (F, 3), got {faces.dtype} of shape {faces.shape}")
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError(f"faces must hold indices into the {len(vertices)} vertices, got "
                         f"{faces.min()} ... {faces.max()}")
    filename = os.fspath(filename)
    # A name may hold anything, also the end of a line: ascii() writes it on one.
    head = [f"# {ascii(os.path.basename(filename))[1:-1]}\n#\n\ng mesh\n\n"]
    body = ["v %.8f %.8f %.8f\n" % tuple(v) for v in vertices] + ["\n"]
    if textures is None:
        triangles = ["f %d %d %d\n" % tuple(f) for f in faces + 1]
        return _replace_all({filename: _text(head + body + triangles)})

    textures = _array(textures)
    if textures.ndim != 5 or textures.dtype.kind != "f" or textures.shape[0] != len(faces) or \
            textures.shape[4] != 3 or not 1 <= textures.shape[1] == textures.shape[2] == textures.shape[3]:
        raise ValueError(f"textures must be floats of shape ({len(faces)}, T, T, T, 3), got {textures.dtype} of "
                         f"shape {textures.shape}")
    if not np.isfinite(textures).all():
        raise ValueError(f"textures of shape {textures.shape} must be finite to be written as a picture")
    base, ending = os.path.splitext(filename)
    beside = os.path.basename(base)
    if not beside.isprintable() or "\\" in beside or beside != beside.strip():
        raise ValueError(f"filename must be such as an OBJ file can name in a line of its own, got {filename!r}")
    if ending.lower() in (".mtl", ".png"):
        raise ValueError(f"filename must not end in {ending}: textures are written beside it under that name")
    image, uv = cubes.atlas(textures)
    head.append(f"mtllib {beside}.mtl\n\n")
    body += ["vt %.8f %.8f\n" % tuple(p) for p in uv.reshape(-1, 2)] + ["\nusemtl material_1\n"]
    corners = 3 * np.arange(len(faces))[:, None] + (1, 2, 3)
    triangles = ["f %d/%d %d/%d %d/%d\n" % tuple(np.stack([f, c], 1).ravel())
                 for f, c in zip(faces + 1, corners)]
    material = ["newmtl material_1\nKa 1.0 1.0 1.0\nKd 1.0 1.0 1.0\nKs 0.0 0.0 0.0\nillum 1\n"
                f"map_Kd {beside}.png\n"]
    _replace_all({base + ".png": lambda path: cubes.pillow().fromarray(image).save(path, "PNG"),
                  base + ".mtl": _text(material), filename: _text(head + body + triangles)})
