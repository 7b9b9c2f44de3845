"""Meshes with colours, written as files by hand."""
import base64
import json

import numpy as np
from PIL import Image
from solids import box

SIX = {"right": (1, 0, 0), "left": (0, 1, 0), "top": (0, 0, 1), "bottom": (1, 1, 0), "front": (0, 1, 1),
       "back": (1, 0, 1)}  # the sides +x, -x, +y, -y, +z, -z
CORNERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)  # a picture of 2 x 2
QUAD = np.array([[-.5, -.5, 0], [.5, -.5, 0], [.5, .5, 0], [-.5, .5, 0]])  # turned to +z
UV = (QUAD[:, :2] + .5)  # from the lower left


def cube():
    """Vertices (8, 3) and quads (6, 4) of a unit cube, turned outwards, in the order of SIX."""
    vertices = box((-.5, -.5, -.5), (.5, .5, .5))[0]
    quads = []
    for side in range(6):
        axis, sign = side // 2, 1 - 2 * (side % 2)
        normal = np.eye(3)[axis] * sign
        across = np.eye(3)[(axis + 1) % 3]
        up = np.cross(normal, across)
        quads.append([int(np.argmin(np.linalg.norm(vertices - (normal + a * across + b * up) / 2, axis=1)))
                      for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))])
    return vertices, np.array(quads)


def png(path, pixels):
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


def write_obj(path, vertices, faces, uv=None, materials=None, library=None):
    """Faces (F, n) of any size; `uv` (N, 2) is indexed as the vertices are; materials a name for each face."""
    lines = [f"mtllib {library}"] if library else []
    lines += ["v " + " ".join(f"{x:g}" for x in v) for v in vertices]
    lines += ["vt " + " ".join(f"{x:g}" for x in p) for p in ([] if uv is None else uv)]
    for k, face in enumerate(faces):
        lines += [f"usemtl {materials[k]}"] if materials else []
        lines.append("f " + " ".join(f"{i + 1}/{i + 1}" if uv is not None else str(i + 1) for i in face))
    path.write_text("\n".join(lines) + "\n")
    return path


def write_gltf(path, parts, images=(), samplers=(), textures=(), materials=(), nodes=None):
    """parts: dicts of positions (V, 3), faces (F, 3), and what else a primitive has: uv, colour, material, mesh.

    Parts of one `mesh` number become primitives of one mesh. `nodes` are those of glTF, default one a mesh.
    """
    blob, views, accessors, meshes = b"", [], [], {}

    def accessor(array, kind):
        nonlocal blob
        array = np.ascontiguousarray(array)
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": array.nbytes})
        code = {"f4": 5126, "u4": 5125, "u2": 5123, "u1": 5121}[array.dtype.str[1:]]
        accessors.append({"bufferView": len(views) - 1, "componentType": code, "count": len(array), "type": kind,
                          **({"normalized": True} if array.dtype.kind == "u" and kind != "SCALAR" else {})})
        blob += array.tobytes() + b"\0" * (-array.nbytes % 4)
        return len(accessors) - 1

    for part in parts:
        positions = np.asarray(part["positions"], "<f4")
        attributes = {"POSITION": accessor(positions, "VEC3")}
        accessors[-1] |= {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
        for key, name in (("uv", "TEXCOORD_0"), ("uv1", "TEXCOORD_1"), ("colour", "COLOR_0")):
            if key in part:
                attributes[name] = accessor(part[key], f"VEC{np.shape(part[key])[1]}")
        primitive = {"attributes": attributes,
                     "indices": accessor(np.asarray(part["faces"], "<u4").reshape(-1), "SCALAR")}
        if "material" in part:
            primitive["material"] = part["material"]
        meshes.setdefault(part.get("mesh", len(meshes)), []).append(primitive)
    inside = []
    for image in images:
        if isinstance(image, bytes):
            views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(image)})
            blob += image + b"\0" * (-len(image) % 4)
            image = {"bufferView": len(views) - 1, "mimeType": "image/png"}
        inside.append(image)
    nodes = nodes or [{"mesh": k} for k in range(len(meshes))]
    tree = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": list(range(len(nodes)))}], "nodes": nodes,
            "meshes": [{"primitives": some} for some in meshes.values()], "bufferViews": views, "accessors": accessors,
            "images": inside, "samplers": list(samplers), "textures": list(textures), "materials": list(materials),
            "buffers": [{"byteLength": len(blob)}]}
    tree = {key: value for key, value in tree.items() if value}
    if path.suffix == ".gltf":
        tree["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(blob).decode()
        path.write_text(json.dumps(tree))
        return path
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    head = np.array([0x46546C67, 2, 28 + len(text) + len(blob), len(text), 0x4E4F534A], "<u4").tobytes()
    path.write_bytes(head + text + np.array([len(blob), 0x004E4942], "<u4").tobytes() + blob)
    return path
