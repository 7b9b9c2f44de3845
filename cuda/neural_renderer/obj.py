"""`load_obj` reads Wavefront OBJ files as tensors, `save_obj` writes them. `wavefront` and `materials` parse them."""
import os
import warnings
from typing import TypeAlias

import numpy as np
import torch

from . import textures as cubes
from .checks import ArrayLike
from .materials import Outside, materials_of, named_file
from .wavefront import read_obj

Path: TypeAlias = str | os.PathLike[str]
GREY = 0.5        # the colour of faces without a material, as in the original
FARTHEST = 2e9    # larger texture coordinates are treated as not finite


def _load_textures(obj, T, wrapping, bilinear, root, library=None):
    """Textures (F, T, T, T, 3) float32 of the faces of a wavefront.Geometry; see `materials_of`."""
    used, of_face = materials_of(obj, root, library=library)
    out, lost = np.full((len(obj.faces), T, T, T, 3), GREY, np.float32), 0
    root = os.path.dirname(obj.filename) or "." if root is None else root
    for i, material in enumerate(used):
        faces = np.flatnonzero(of_face == i)
        if material.colour is not None:
            out[faces] = material.colour
        faces = faces[(obj.uv_faces[faces] >= 0).all(1)]
        if material.image is None or not len(faces):
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            corners = obj.uv[obj.uv_faces[faces]] * material.scale + material.offset
            usable = (np.abs(corners) < FARTHEST).all((1, 2))
        lost += int((~usable).sum())
        image = cubes.read_image(named_file(material.image, material.source, root))
        colours = cubes.bake(image, corners[usable], T, "CLAMP_TO_EDGE" if material.clamp else wrapping, bilinear)
        if (material.base, material.gain) != (0, 1):
            colours = np.clip(material.base + material.gain * colours, 0, 1)
        out[faces[usable]] = colours
    if lost:
        warnings.warn(f"{obj.filename}: texture coordinates (vt) of {lost} faces are not finite; these faces have the "
                      "colour of their material instead of its picture", stacklevel=3)
    return out


def _vertex_colours(obj):
    """Colours (V, 3) float32 in [0, 1] of a wavefront.Geometry whose vertices have colours."""
    colours, missing = obj.colours, ~np.isfinite(obj.colours).all(1)
    if np.abs(colours[~missing]).max(initial=0) > 1:
        colours = colours / 255
        warnings.warn(f"{obj.filename}: colours of vertices exceed 1, so they are divided by 255", stacklevel=3)
    if missing.any():
        warnings.warn(f"{obj.filename}: {int(missing.sum())} vertices have no colour and stay grey", stacklevel=3)
    return np.where(missing[:, None], GREY, np.clip(colours, 0, 1)).astype(np.float32)


def load_obj(filename_obj: Path, normalization: bool = True, texture_size: int = 4, load_texture: bool = False,
             texture_wrapping: str = "REPEAT", use_bilinear: bool = True, texture_root: Path | None = None,
             vertex_colors: bool | None = None, device: torch.device | str | None = None) -> tuple[torch.Tensor, ...]:
    """Read the vertices (V, 3) float32 and faces (F, 3) int32 of an OBJ file, and with load_texture its textures.

    A face of more than three corners becomes a fan of triangles. If a fan would not cover it exactly, it is split by
    ear clipping, which needs the package mapbox_earcut. Negative indices count back from the last one read, as the
    format defines. Faces of one or two corners are left out, with a warning. A vertex that is not finite becomes 0 if
    no face uses it, else it is an error.

    Parameters
    ----------
    normalization : centre the bounding box and make its longest side 2, in float64.
    load_texture : also return textures (F, T, T, T, 3) float32 in [0, 1], T = texture_size. A face with texture
        coordinates gets the picture (map_Kd) of its material, any other face the material's colour (Kd), a face
        without material grey. `neural_renderer.textures` documents the texels. Needs Pillow. If the file names no
        material library (mtllib) but has colours of vertices (`v x y z r g b`), these are returned, (V, 3) float32.
    texture_wrapping : 'REPEAT', 'MIRRORED_REPEAT', 'CLAMP_TO_EDGE' or 'CLAMP_TO_BORDER' (black): how the picture
        continues outside of [0, 1]^2, as in OpenGL. `map_Kd -clamp on` in a material means 'CLAMP_TO_EDGE'.
    use_bilinear : interpolate between pixels; if False, take the nearest pixel.
    texture_root : folder in which material libraries and pictures must lie; default the folder of the OBJ file. The
        pictures of ShapeNet v2 are in ../images, so give the folder above.
    vertex_colors : with load_texture, True returns the colours of vertices even if the file has materials; False
        never returns them.
    device : of the tensors; default the current CUDA device if there is one, else the CPU.

    Raises
    ------
    FileNotFoundError that names the file, or ValueError that names the file and the line. ImportError if Pillow
    or mapbox_earcut is needed but not installed.
    """
    filename = os.fspath(filename_obj)
    _check_settings(texture_size if load_texture else 1, texture_wrapping)
    obj = read_obj(filename, load_texture)
    tensors = [_placed(obj, normalization), obj.faces.astype(np.int32)]
    if load_texture:
        by_vertex = obj.colours is not None and not obj.libraries if vertex_colors is None else vertex_colors
        if by_vertex and obj.colours is None:
            raise ValueError(f"{filename} has no colours of vertices (v x y z r g b)")
        if not by_vertex and not obj.libraries:
            raise ValueError(f"{filename} names no material library (mtllib), so it has no textures to load")
        try:
            tensors.append(_vertex_colours(obj) if by_vertex else _load_textures(
                obj, int(texture_size), texture_wrapping, use_bilinear, texture_root))
        except Outside as error:
            raise ValueError(f"{error}; if you trust the file, give load_obj a texture_root that holds both") from None
    return tuple(_on(device, array) for array in tensors)


def load_textures(filename_obj: Path, filename_mtl: Path, texture_size: int, texture_wrapping: str = "REPEAT",
                  use_bilinear: bool = True) -> torch.Tensor:
    """Textures (F, T, T, T, 3) float32 of an OBJ file with the materials of an MTL file, whether the OBJ file names it
    or not; T = texture_size. Pictures must lie in the folder of the MTL file. See `load_obj`."""
    _check_settings(texture_size, texture_wrapping)
    library = os.fspath(filename_mtl)
    return _on(None, _load_textures(read_obj(os.fspath(filename_obj), True), int(texture_size), texture_wrapping,
                                    use_bilinear, os.path.dirname(library) or ".", library))


def _check_settings(texture_size, texture_wrapping):
    if texture_wrapping not in cubes.WRAPPINGS:
        raise ValueError(f"texture_wrapping must be one of {', '.join(cubes.WRAPPINGS)}, got {texture_wrapping!r}")
    if isinstance(texture_size, bool) or not isinstance(texture_size, (int, np.integer)) \
            or not 1 <= texture_size <= 256:
        raise ValueError(f"texture_size must be an integer from 1 to 256, got {texture_size!r}")


def _on(device, array):
    """A tensor on the device; None: on the current CUDA device if there is one, else on the CPU."""
    return torch.from_numpy(array).to(device or ("cuda" if torch.cuda.is_available() else "cpu"))


def _placed(obj, normalization):
    """Vertices (V, 3) float32. They are centred before they are rounded: far from the origin float32 is coarse."""
    vertices = obj.vertices
    finite = np.isfinite(vertices).all(1)
    if normalization:
        low, high = vertices[finite].min(0), vertices[finite].max(0)
        extent = (high - low).max()
        vertices = (vertices - (low / 2 + high / 2)) * (2 / extent if 0 < extent < np.inf else 1)
    with np.errstate(over="ignore", invalid="ignore"):
        vertices = np.where(finite[:, None], vertices, 0).astype(np.float32)
    if not np.isfinite(vertices).all():
        raise ValueError(f"{obj.filename} has coordinates that are too large for float32")
    return vertices


def _replace_all(writers):
    """Write each file under a temporary name with its function {path: write(temporary path)}, then rename all of them.
    If a write fails, no file is replaced."""
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


def save_obj(filename: Path, vertices: ArrayLike, faces: ArrayLike, textures: ArrayLike | None = None,
             beside: Path | None = None) -> None:
    """Write vertices (V, 3) and faces (F, 3), tensors or arrays, as an OBJ with 8 decimals.

    Textures (V, 3) in [0, 1], colours of vertices, are written as `v x y z r g b`. For textures (F, T, T, T, 3) in
    [0, 1], NAME.mtl and NAME.png are written beside NAME.obj; the picture has a tile for every face
    (`neural_renderer.textures.atlas`). `beside` is another NAME for these two. Either all files appear, complete, or
    none.
    """
    vertices, faces = _array(vertices), _array(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or vertices.dtype.kind not in "fiu":
        raise ValueError(f"vertices must be numbers of shape (V, 3), got {vertices.dtype} of shape "
                         f"{vertices.shape}")
    if not np.isfinite(vertices).all():
        raise ValueError(f"vertices of shape {vertices.shape} must be finite to be written to {filename}")
    if faces.dtype.kind == "f" and np.isfinite(faces).all() and (faces == np.floor(faces)).all():
        faces = faces.astype(np.int64)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise ValueError(f"faces must be integers of shape (F, 3), got {faces.dtype} of shape {faces.shape}")
    if faces.size and not 0 <= faces.min() <= faces.max() < len(vertices):
        raise ValueError(f"faces must hold indices into the {len(vertices)} vertices, got "
                         f"{faces.min()} ... {faces.max()}")
    filename = os.fspath(filename)
    # A file name may contain line breaks; ascii() keeps the comment on one line.
    head = [f"# {ascii(os.path.basename(filename))[1:-1]}\n#\n\ng mesh\n\n"]
    textures = None if textures is None else _array(textures)
    if textures is not None and textures.ndim == 2:  # colours of vertices
        if textures.dtype.kind != "f" or textures.shape != vertices.shape or not np.isfinite(textures).all():
            raise ValueError(f"textures of vertices must be finite floats of shape {vertices.shape}, got "
                             f"{textures.dtype} of shape {textures.shape}")
        vertices, textures = np.concatenate([vertices, np.clip(textures, 0, 1)], 1), None
    row = "v " + " ".join(["%.8f"] * vertices.shape[1]) + "\n"
    body = [row % tuple(v) for v in vertices] + ["\n"]
    if textures is None:
        triangles = ["f %d %d %d\n" % tuple(f) for f in faces + 1]
        return _replace_all({filename: _text(head + body + triangles)})

    if textures.ndim != 5 or textures.dtype.kind != "f" or textures.shape[0] != len(faces) or \
            textures.shape[4] != 3 or not 1 <= textures.shape[1] == textures.shape[2] == textures.shape[3]:
        raise ValueError(f"textures must be floats of shape ({len(faces)}, T, T, T, 3), got {textures.dtype} of "
                         f"shape {textures.shape}")
    if not np.isfinite(textures).all():
        raise ValueError(f"textures of shape {textures.shape} must be finite to be written as a picture")
    base, ending = os.path.splitext(filename)
    if beside is not None:
        base = os.path.join(os.path.dirname(filename), os.fspath(beside))
    beside = os.path.basename(base)
    if not beside.isprintable() or "\\" in beside or beside != beside.strip():
        raise ValueError("filename must be a name that an OBJ file can hold in one line (printable, no backslash, no "
                         f"space at either end), got {filename!r}")
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
