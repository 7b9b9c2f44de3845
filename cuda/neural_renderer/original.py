"""The module and function names of the original package that differ from ours.

In the original, `neural_renderer.projection` names both a module and a function: each module has the name of the
function it holds, and the package's attribute is the function. One file per module would double this folder, and
`import neural_renderer.projection` would replace the function by the module. So this file makes the modules from one
table and puts them into `sys.modules`, where the import statement looks first. The package's attributes stay functions.
"""
import os
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import torch

from . import cameras, materials, obj, raw
from . import textures as cubes
from .checks import describe, tensor_of
from .lighting import vertices_to_faces


def load_mtl(filename_mtl: obj.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The colours {material: (3,) float64 array} and the picture names {material: str} of an MTL file."""
    read = {os.fsdecode(name): material for name, material in materials.read_mtl(os.fspath(filename_mtl)).items()}
    return ({name: np.array(m.colour) for name, m in read.items() if m.colour is not None},
            {name: os.fsdecode(m.image) for name, m in read.items() if m.image is not None})


def create_texture_image(textures: torch.Tensor | np.ndarray,
                         texture_size_out: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Draw textures (F, T, T, T, 3), a tensor or an array, into one picture; each face gets a square tile.

    Returns the picture, (H, W, 3) float32 in [0, 1] with row 0 at the top, and the positions of the faces' corners on
    it, (F, 3, 2) float32 in [0, 1] from the lower left. The side of a tile is `texture_size_out` pixels."""
    textures = tensor_of(textures) if isinstance(textures, np.ndarray) else textures
    if not isinstance(textures, torch.Tensor) or textures.dim() != 5 or not textures.is_floating_point() or \
            not 1 <= textures.shape[1] == textures.shape[2] == textures.shape[3] or textures.shape[4] != 3:
        raise ValueError(f"textures must be a float tensor of shape (F, T, T, T, 3), got {describe(textures)}")
    if not isinstance(texture_size_out, int) or not 4 <= texture_size_out <= 4096:
        raise ValueError(f"texture_size_out must be an int from 4 to 4096, got {texture_size_out!r}")
    image, uv = cubes.atlas(textures.detach().cpu().float().numpy(), texture_size_out)
    return image.astype(np.float32) / 255, uv.astype(np.float32)


MODULES: dict[str, list] = {
    "get_points_from_angles": [cameras.get_points_from_angles],
    "look": [cameras.look],
    "look_at": [cameras.look_at],
    "perspective": [cameras.perspective],
    "projection": [cameras.projection],
    "vertices_to_faces": [vertices_to_faces],
    "load_obj": [obj.load_obj, load_mtl, obj.load_textures],
    "save_obj": [obj.save_obj, create_texture_image],
}
ABSENT = ("load_textures", "create_texture_image")  # compiled functions of the original for files; NumPy here


def _absent(name):
    def absent(*args, **kwargs):
        raise RuntimeError(f"neural_renderer.cuda.{name}.{name} belongs to the original package, not to this one; use "
                           f"neural_renderer.{name}")
    absent.__name__ = absent.__qualname__ = name
    return absent


def _enter(package, name, **members):
    path = f"{package}.{name}"
    module = types.ModuleType(path, f"The original's module {path}; see neural_renderer.original.")
    module.__spec__ = ModuleSpec(path, None)
    module.__dict__.update(members)
    return sys.modules.setdefault(path, module)


def enter_modules() -> types.ModuleType:
    """Make the original's modules importable. Returns neural_renderer.cuda, the package of its compiled modules."""
    for name, members in MODULES.items():
        _enter("neural_renderer", name, **{member.__name__: member for member in members})
    compiled = {name: _enter("neural_renderer.cuda", name, **{name: _absent(name)}) for name in ABSENT}
    compiled["rasterize"] = _enter("neural_renderer.cuda", "rasterize", **{
        name: function for name, function in vars(raw).items() if name.startswith(("forward_", "backward_"))})
    return _enter("neural_renderer", "cuda", __path__=[], **compiled)

