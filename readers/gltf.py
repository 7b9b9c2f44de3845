"""Read glTF 2.0 files: their geometry with trimesh, their materials here.

Source: Khronos Group, "glTF 2.0 Specification".
"""
import base64
import binascii
import io
import json
import os
import struct
import urllib.parse

import numpy as np

from making.looks import GREY, Look, Picture

from .looks import NotRead, as_screens_show, far_uv, find, linear_of, read_picture

WRAPPING = {33071: "CLAMP_TO_EDGE", 33648: "MIRRORED_REPEAT", 10497: "REPEAT"}
NEAREST = 9728
SPECULAR = "KHR_materials_pbrSpecularGlossiness"  # an older extension with other names for colour and picture


def scene_of(path):
    """The JSON of a .gltf, or of a .glb: its first chunk."""
    return _parts(path)[0]


def _parts(path):
    """(JSON, the bytes of the chunks after it in a .glb, or None for a .gltf)."""
    with open(path, "rb") as file:
        start = file.read(20)
        if start[:4] == b"glTF":
            length, kind = struct.unpack("<I4s", start[12:20])
            if kind != b"JSON":
                raise ValueError("its first chunk is not JSON")
            text, rest = file.read(min(length, os.path.getsize(path))), file.read()
        else:
            text, rest = start + file.read(), None
    scene = json.loads(text.decode("utf-8-sig"))
    if not isinstance(scene, dict):
        raise ValueError("its JSON is not an object")
    return scene, rest


def read(path, root, report, coloured=True):
    """Read a file: (vertices (V, 3), faces (F, 3), `Look` or None); see `looks.of_obj`.

    trimesh gets the file without its materials, so that it opens no pictures. Texture coordinates and colours of
    vertices pass through it as attributes with names of their own.
    """
    import trimesh
    scene, chunks = _parts(path)
    primitives = [p for mesh in scene.get("meshes", []) for p in mesh.get("primitives", [])]
    described = {key: scene.pop(key, []) for key in ("materials", "textures", "images", "samplers")}
    looks = _Materials(path, root, scene, described, chunks, report)
    chosen = [looks.material(p.get("material")) if coloured else None for p in primitives]
    for number, (primitive, material) in enumerate(zip(primitives, chosen)):
        attributes = primitive["attributes"]
        for name, source in (("_uv", f"TEXCOORD_{material['set'] if material else 0}"), ("_colour", "COLOR_0")):
            if coloured and source in attributes:
                attributes[name] = attributes[source]
        primitive["material"] = number
    scene["materials"] = [{"name": str(number)} for number in range(len(primitives))]
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    if chunks is not None:
        text = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(text) + len(chunks), len(text), b"JSON") + text + chunks
    resolver = trimesh.resolvers.FilePathResolver(path, allow_anywhere=False)
    loaded = trimesh.load_scene(io.BytesIO(text), file_type="gltf" if chunks is None else "glb", process=False,
                                resolver=resolver)
    vertices, faces, look, count, any_colour = [], [], None, 0, False
    for part in loaded.dump():
        if not isinstance(part, trimesh.Trimesh):
            continue
        vertices.append(np.asarray(part.vertices, np.float64))
        faces.append(np.asarray(part.faces, np.int64) + count)
        count += len(part.vertices)
        if coloured:
            own, has_colour = looks.look(part, chosen[int(part.visual.material.name)])
            look, any_colour = own if look is None else look.joined(own), any_colour or has_colour
    if not faces:
        return np.empty((0, 3)), np.empty((0, 3), np.int64), None
    return np.concatenate(vertices), np.concatenate(faces), look if any_colour else None


class _Materials:
    """The materials of one file. Each picture is read once."""

    def __init__(self, path, root, scene, described, chunks, report):
        self.path, self.root, self.scene, self.chunks, self.report = path, root, scene, chunks, report
        self.described, self.pixels, self.known = described, {}, {}

    def material(self, number):
        """{colour: factor (3,) of linear light, set: number of the texture coordinates, transform: (2, 3) of these,
        picture: Picture or None} of a material, or None if there is no such material."""
        if number is None or not 0 <= number < len(self.described["materials"]):
            return None
        if number not in self.known:
            self.known[number] = self._read(self.described["materials"][number])
        return self.known[number]

    def _read(self, given):
        old = given.get("extensions", {}).get(SPECULAR)
        plain = old if old is not None else given.get("pbrMetallicRoughness", {})
        factor = plain.get("diffuseFactor" if old is not None else "baseColorFactor", [1, 1, 1, 1])
        texture = plain.get("diffuseTexture" if old is not None else "baseColorTexture")
        factor = np.array(factor, np.float64).reshape(4)
        mode, cutoff = given.get("alphaMode", "OPAQUE"), None
        if mode == "MASK":  # compared with the picture's alpha times the factor's
            cutoff = float(given.get("alphaCutoff", 0.5)) / max(factor[3], 1e-9)
        elif mode == "BLEND":
            cutoff = 0.5
        result = {"colour": factor[:3], "set": 0, "transform": np.eye(3)[:2], "picture": None}
        if texture is not None:
            moved = texture.get("extensions", {}).get("KHR_texture_transform", {})
            result["set"] = int(moved.get("texCoord", texture.get("texCoord", 0)))
            result["transform"] = _transform(moved)
            try:
                result["picture"] = self._picture(self.described["textures"][texture["index"]], cutoff, factor[:3])
            except NotRead as error:
                self.report(str(error))
        return result

    def _picture(self, texture, cutoff, factor):
        """The texture times the factor, which multiplies linear light."""
        sampler = self.described["samplers"][texture["sampler"]] if "sampler" in texture else {}
        webp = texture.get("extensions", {}).get("EXT_texture_webp", {})
        source = webp.get("source", texture.get("source"))
        if source is None:
            raise NotRead(f"{self.path} has a picture in a format that is not read here "
                         f"({', '.join(texture.get('extensions', {})) or 'without a source'})")
        if (source, cutoff is None) not in self.pixels:
            self.pixels[source, cutoff is None] = self._pixels(self.described["images"][source], source,
                                                               cutoff is not None)
        pixels = self.pixels[source, cutoff is None]
        if (factor != 1).any():
            shown = as_screens_show(linear_of(np.arange(256) / 255)[:, None] * factor)
            colours = np.take_along_axis((shown * 255).round().astype(np.uint8), pixels[..., :3].reshape(-1, 3), 0)
            pixels = np.concatenate([colours.reshape(*pixels.shape[:2], 3), pixels[..., 3:]], 2)
        wrapping = tuple(WRAPPING[sampler.get(name, 10497)] for name in ("wrapS", "wrapT"))
        return Picture(pixels, wrapping, sampler.get("magFilter") != NEAREST,
                       cutoff=cutoff if pixels.shape[2] == 4 else None)

    def _pixels(self, image, number, alpha):
        name = f"picture {number} in {self.path}"
        if "uri" not in image:
            return read_picture(name, io.BytesIO(self._view(image["bufferView"])), alpha)
        uri = image["uri"]
        if uri.startswith("data:"):
            return read_picture(name, io.BytesIO(_data(uri)), alpha)
        return read_picture(find(urllib.parse.unquote_to_bytes(uri), self.path, self.root), alpha=alpha)

    def _view(self, number):
        view = self.scene["bufferViews"][number]
        start, length = view.get("byteOffset", 0), view["byteLength"]
        buffer = self.scene["buffers"][view["buffer"]]
        if "uri" not in buffer:
            size, kind = struct.unpack("<I4s", (self.chunks or b"")[:8])
            if kind != b"BIN\0":
                raise ValueError("its second chunk is not BIN")
            content = self.chunks[8:8 + size]
        elif buffer["uri"].startswith("data:"):
            content = _data(buffer["uri"])
        else:
            with open(find(urllib.parse.unquote_to_bytes(buffer["uri"]), self.path, self.root), "rb") as file:
                content = file.read()
        if not 0 <= start <= start + length <= len(content):
            raise ValueError("a picture lies outside of its buffer")
        return content[start:start + length]

    def look(self, part, material):
        """(the `Look` of a mesh that trimesh read, whether it has colours)."""
        count, attributes = len(part.faces), part.vertex_attributes
        colours = None
        if "_colour" in attributes:  # linear light
            colours = _unit(attributes["_colour"])[:, :3][part.faces]
        if material is None:
            look = Look.plain(np.full((count, 3), GREY) if colours is None else as_screens_show(colours))
            return look, colours is not None
        colours = np.ones((count, 3, 3)) if colours is None else colours
        look = Look.plain(as_screens_show(colours * material["colour"]))
        if material["picture"] is not None and "_uv" in attributes:
            transform = material["transform"]
            uv = _unit(attributes["_uv"])[:, :2] @ transform[:, :2].T + transform[:, 2]
            uv = np.stack([uv[:, 0], 1 - uv[:, 1]], 1)[part.faces]  # glTF counts v from the top
            usable = ~far_uv(uv)
            if not usable.all():
                self.report(f"{self.path}: texture coordinates of {(~usable).sum()} faces are not finite")
            look.picture[usable], look.uv[usable], look.pictures = 0, uv[usable], [material["picture"]]
            look.colours[usable] = as_screens_show(colours[usable])  # the picture has the factor
        return look, True


def _unit(values):
    """Attributes as floats; unsigned integers are normalised to [0, 1]."""
    values = np.asarray(values)
    return values / np.iinfo(values.dtype).max if values.dtype.kind == "u" else values.astype(np.float64)


def _transform(moved):
    """(2, 3) matrix of KHR_texture_transform: scale, then rotation, then offset."""
    angle, scale, offset = moved.get("rotation", 0.0), moved.get("scale", (1, 1)), moved.get("offset", (0, 0))
    c, s = np.cos(angle), np.sin(angle)
    return np.concatenate([np.array([[c, s], [-s, c]]) * np.asarray(scale, float), np.array(offset, float)[:, None]], 1)


def _data(uri):
    """Bytes of a data: URI."""
    head, _, body = uri.partition(",")
    try:
        return base64.b64decode(body, validate=True) if head.endswith(";base64") else \
            urllib.parse.unquote_to_bytes(body)
    except binascii.Error as error:
        raise ValueError(f"a data: URI is not base64 ({error})") from None


