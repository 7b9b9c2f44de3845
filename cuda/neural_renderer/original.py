"""What programs import of the original package under other names than ours.

There `neural_renderer.projection` is a module and `neural_renderer.projection` a function: its modules are called as
what they hold, and the package then puts the functions over them. A file for each would double this folder, and `import
neural_renderer.projection` would put the module over the function. So the modules are made here, all from one table,
and entered into `sys.modules`, where the import statement looks first; the package's attributes stay functions.
"""
import os
import sys
import types
from importlib.machinery import ModuleSpec

import numpy as np
import torch

from . import cameras, materials, obj
from . import textures as cubes
from .checks import describe
from .lighting import vertices_to_faces


def load_mtl(filename_mtl):
    """Colours {material: (3,) float64 array} and names of pictures {material: str} of an MTL file."""
    read = {os.fsdecode(name): material for name, material in materials.read_mtl(os.fspath(filename_mtl)).items()}
    return ({name: np.array(m.colour) for name, m in read.items() if m.colour is not None},
            {name: os.fsdecode(m.image) for name, m in read.items() if m.image is not None})


def load_textures(filename_obj, filename_mtl, texture_size, texture_wrapping="REPEAT", use_bilinear=True):
    """Textures (F, T, T, T, 3) float32 of an OBJ file, T = texture_size; see `load_obj`.

    `filename_mtl` is the library that the OBJ names (mtllib): a file of the same name in the folder of the OBJ.
    """
    named = obj.read_obj(os.fspath(filename_obj), True).libraries
    if not any(os.path.basename(os.fsencode(filename_mtl)) in (name, *name.split(), os.path.basename(name))
               for name in named):
        raise ValueError(f"filename_mtl must be a library that {filename_obj} names (mtllib), got {filename_mtl}")
    return obj.load_obj(filename_obj, False, texture_size, True, texture_wrapping, use_bilinear,
                        vertex_colors=False)[2]


def create_texture_image(textures, texture_size_out=16):
    """One picture (H, W, 3) float32 in [0, 1], row 0 on top, of textures (F, T, T, T, 3), and where the corners of
    faces lie on it, (F, 3, 2) in [0, 1] from the lower left. A face has a square of `texture_size_out` pixels a
    side."""
    if not isinstance(textures, torch.Tensor) or textures.dim() != 5 or not textures.is_floating_point() or \
            not 1 <= textures.shape[1] == textures.shape[2] == textures.shape[3] or textures.shape[4] != 3:
        raise ValueError(f"textures must be a float tensor of shape (F, T, T, T, 3), got {describe(textures)}")
    if not isinstance(texture_size_out, int) or not 4 <= texture_size_out <= 4096:
        raise ValueError(f"texture_size_out must be an int from 4 to 4096, got {texture_size_out!r}")
    image, uv = cubes.atlas(textures.detach().cpu().float().numpy(), texture_size_out)
    return image.astype(np.float32) / 255, uv


MODULES = {
    "get_points_from_angles": [cameras.get_points_from_angles],
    "look": [cameras.look],
    "look_at": [cameras.look_at],
    "perspective": [cameras.perspective],
    "projection": [cameras.projection],
    "vertices_to_faces": [vertices_to_faces],
    "load_obj": [obj.load_obj, load_mtl, load_textures],
    "save_obj": [obj.save_obj, create_texture_image],
}
# The compiled functions of the original fill maps of its own layout, which do not exist here.
RAW = {
    "rasterize": ["forward_face_index_map", "forward_texture_sampling", "backward_pixel_map", "backward_textures",
                  "backward_depth_map"],
    "load_textures": ["load_textures"],
    "create_texture_image": ["create_texture_image"],
}


def _absent(module, name):
    def raw(*args, **kwargs):
        raise RuntimeError(f"neural_renderer.cuda.{module}.{name} is a kernel of the original package and not here. "
                           "Use neural_renderer.rasterize or rasterize_rgbad, which have their gradients, "
                           "rasterize_face_index or Renderer.render_face_index for which face a pixel shows and its "
                           "barycentric weights, and load_textures or create_texture_image")
    raw.__name__ = raw.__qualname__ = name
    return raw


def _enter(package, name, **members):
    path = f"{package}.{name}"
    module = types.ModuleType(path, f"The original's module {path}; see neural_renderer.original.")
    module.__spec__ = ModuleSpec(path, None)
    module.__dict__.update(members)
    return sys.modules.setdefault(path, module)


def enter_modules():
    """Make the original's modules importable."""
    for name, members in MODULES.items():
        _enter("neural_renderer", name, **{member.__name__: member for member in members})
    raw = {name: _enter("neural_renderer.cuda", name, **{f: _absent(name, f) for f in functions})
           for name, functions in RAW.items()}
    _enter("neural_renderer", "cuda", __path__=[], **raw)

