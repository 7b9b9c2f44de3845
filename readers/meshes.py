"""Read mesh files as arrays, with the colours of their faces."""
import importlib.util
import os
import struct

import numpy as np
from neural_renderer import wavefront

from errors import InputError

from . import gltf, looks, off, ply

# Extensions that a glTF file may require although they do not change its geometry, only its appearance.
OF_LOOKS = ("KHR_materials_", "EXT_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "EXT_lights_",
            "MSFT_texture_", "KHR_xmp")
FAN = 6  # the mode of triangle fans, which trimesh would leave out
GEOMETRY_READ = ("KHR_mesh_quantization",)  # positions as plain integers


def read_mesh(path, root=None, coloured=True, report=lambda sentence: None):
    """Read a mesh file: (vertices (V, 3) float64, faces (F, 3) int64, `Look` or None).

    The look holds the colours of the file: materials, pictures, colours of vertices and of faces. It is None if the
    file has no colours, or without `coloured`. Pictures and material libraries that are missing, or outside of `root`
    (default: the folder of the mesh), are not read: `report` is called with a sentence about each, and the faces keep
    the colours that are known. The buffers of a glTF must lie in its folder or below. The vertices that faces use are
    finite; others may not be.

    Raises InputError, naming the file.
    """
    root, ending = os.path.dirname(path) or "." if root is None else root, os.path.splitext(path)[1].lower()
    try:
        if ending in (".glb", ".gltf"):
            _check_gltf(path)
            vertices, faces, look = gltf.read(path, root, report, coloured)
        elif ending == ".stl":
            vertices, faces, look = _read_stl(path)
        elif ending == ".off":
            vertices, faces, look = off.read(path, coloured)
        elif ending == ".ply":
            vertices, faces, look = ply.read(path, root, report, coloured)
        else:
            mesh = wavefront.read_obj(path, with_uv=coloured)
            vertices, faces = mesh.vertices, mesh.faces
            look = looks.of_obj(mesh, root, report) if coloured else None
    except InputError:
        raise
    except Exception as error:  # trimesh's parsers raise many kinds of errors
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        reason = str(error).removeprefix(path).lstrip(", :")
        raise InputError(f"{path} is not a mesh that can be read: {kind}{reason}") from None
    if not len(faces):
        raise InputError(f"{path} has no faces")
    if not 0 <= faces.min() <= faces.max() < len(vertices):
        raise InputError(f"{path} has a face that names a vertex from {faces.min()} to {faces.max()} of "
                         f"{len(vertices)}")
    if not np.isfinite(vertices[faces]).all():
        raise InputError(f"{path} has a vertex that is not finite")
    if look is not None:
        look.colours[~np.isfinite(look.colours)] = looks.GREY
    return vertices, faces, look


def _read_stl(path):
    import trimesh
    mesh = trimesh.load_mesh(path, process=False)
    if not len(mesh.faces):
        raise ValueError("expected facets in text up to endsolid, or 80 bytes, the number n of triangles and 50 n "
                         f"bytes, but it has {os.path.getsize(path)} bytes")
    return np.asarray(mesh.vertices, np.float64), np.asarray(mesh.faces, np.int64), None


def _check_gltf(path):
    """Raise InputError for geometry that needs a glTF extension: trimesh would read it as zeros or at a wrong place."""
    try:
        scene = gltf.scene_of(path)
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
        sparse = any("sparse" in accessors[number] for p in primitives
                     for number in (p.get("attributes", {}).get("POSITION"), p.get("indices")) if number is not None)
        fans = any(p.get("mode") == FAN for p in primitives)
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
    if sparse:
        raise InputError(f"{path} has positions or indices in sparse accessors, which this program does not read; "
                         "export it without them")
    if fans:
        raise InputError(f"{path} has a part of triangle fans (mode {FAN}), which this program does not read; export "
                         "it as triangles")
    if empty and not compressed:
        raise InputError(f"{path} has a part whose positions are not in the file (an accessor without bufferView)")


def _has_no_data(primitive, accessors):
    accessor = accessors[primitive.get("attributes", {})["POSITION"]] if "POSITION" in primitive.get(
        "attributes", {}) else {"bufferView": 0}
    return "bufferView" not in accessor


def _draco_is_there(name):
    """Whether `name` is Draco compression and DracoPy, which trimesh uses to decode it, is installed."""
    return name == "KHR_draco_mesh_compression" and importlib.util.find_spec("DracoPy") is not None
