"""Differentiable mesh renderer: the interface of neural_renderer_pytorch, on CPU and CUDA.

`import neural_renderer as nr`; see `Renderer`, the camera functions and the rasterize* functions.
`neural_renderer.cameras` documents the conventions: axes, handedness, row order, angles.
"""
from .backend import get_backend, set_backend
from .batches import unpack
from .cameras import from_opencv, get_points_from_angles, look, look_at, perspective, projection
from .lighting import lighting, vertices_to_faces
from .mesh import Mesh
from .obj import load_obj, load_textures, save_obj
from .original import create_texture_image, enter_modules
from .rasterize import (Rasterize, rasterize, rasterize_depth, rasterize_face_index, rasterize_rgbad,
                        rasterize_silhouettes)
from .renderer import Renderer
from .smooth import smoothness
from .version import __version__

name = "neural_renderer"  # the original package exports this name
cuda = enter_modules()
__all__ = ["Mesh", "Rasterize", "Renderer", "__version__", "create_texture_image", "from_opencv", "get_backend",
           "get_points_from_angles", "lighting", "load_obj", "load_textures", "look", "look_at", "name", "perspective",
           "projection", "rasterize", "rasterize_depth", "rasterize_face_index", "rasterize_rgbad",
           "rasterize_silhouettes", "save_obj", "set_backend", "smoothness", "unpack", "vertices_to_faces"]
