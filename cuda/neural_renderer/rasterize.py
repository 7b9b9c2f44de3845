"""The rasterize* functions of the original package, on triangles (B, F, 3, 3) in NDC.

They draw only faces that are counter-clockwise on the screen; `Renderer(fill_back=True)` draws both
sides without doubling anything.
"""
from typing import TypeAlias

import torch
from torch import Tensor

from . import ops
from .checks import ArrayLike, describe, indices_are_right, numbers

Size: TypeAlias = int | tuple[int, int]  # of images; (height, width)
Images: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
DEFAULT_IMAGE_SIZE = 256
DEFAULT_ANTI_ALIASING = True
DEFAULT_NEAR = 0.1
DEFAULT_FAR = 100
DEFAULT_EPS = 1e-4
DEFAULT_BACKGROUND_COLOR = (0, 0, 0)


def _unshared(faces):
    if not isinstance(faces, Tensor) or faces.dim() != 4 or faces.shape[2:] != (3, 3) \
            or not faces.is_floating_point():
        raise ValueError(f"faces must be a float tensor of shape (B, F, 3, 3), got {describe(faces)}")
    indices = torch.arange(3 * faces.shape[1], device=faces.device).reshape(-1, 3)
    if not torch.compiler.is_compiling():
        indices_are_right(indices, 3 * faces.shape[1])
    return faces.flatten(1, 2), indices


def rasterize_rgbad(faces: Tensor, textures: Tensor | None = None, image_size: Size = DEFAULT_IMAGE_SIZE,
                    anti_aliasing: bool = DEFAULT_ANTI_ALIASING, near: float = DEFAULT_NEAR, far: float = DEFAULT_FAR,
                    eps: float = DEFAULT_EPS, background_color: ArrayLike = DEFAULT_BACKGROUND_COLOR,
                    return_rgb: bool = True, return_alpha: bool = True,
                    return_depth: bool = True) -> dict[str, Tensor | None]:
    """Dictionary of `rgb` (B, 3, H, W), `alpha` (B, H, W) and `depth` (B, H, W); images not asked for are None.

    Parameters
    ----------
    faces : (B, F, 3, 3) float, corners in NDC with depth z. x and y are already divided by z; a face with a corner
        behind the eye (z <= 0) is clipped at `near`.
    textures : (B, F, T, T, T, 3) float, needed for rgb; or colours of the corners (B, F, 3, 3), which
        `vertices_to_faces` makes from colours of vertices.
    eps : keeps the NMR gradient finite where an edge touches a pixel centre.
    """
    images = _images(faces, textures, image_size, anti_aliasing, near, far, eps, background_color, return_rgb,
                     return_alpha, return_depth)
    return dict(zip(("rgb", "alpha", "depth"), images))


def _images(faces, textures, image_size, anti_aliasing, near, far, eps, background_color, rgb=False, alpha=False,
            depth=False):
    vertices, indices = _unshared(faces)
    background = None
    if rgb and (not isinstance(textures, Tensor) or textures.dim() != 6):
        if not isinstance(textures, Tensor) or textures.shape != faces.shape:
            raise ValueError(f"textures must be a float tensor of shape ({faces.shape[0]}, {faces.shape[1]}, T, T, T, "
                             f"3), or {tuple(faces.shape)} for colours of corners, got {describe(textures)}")
        textures = textures.flatten(1, 2)
    if rgb:
        background = numbers("background_color", background_color, vertices, "three numbers")
    return ops.rasterize(
        vertices, indices, textures, None, background, image_size=image_size,
        anti_aliasing=anti_aliasing, near=near, far=far, eps=eps, rgb=rgb, alpha=alpha, depth=depth)


class Rasterize(torch.nn.Module):
    """The rasteriser as the original exports it: rows from the BOTTOM up, colours last, no anti-aliasing.

    `Rasterize(...)(faces (B, F, 3, 3), textures (B, F, T, T, T, 3))` gives rgb (B, H, W, 3), alpha (B, H, W)
    and depth (B, H, W), None where not asked for.
    """

    def __init__(self, image_size: Size, near: float, far: float, eps: float, background_color: ArrayLike,
                 return_rgb: bool = False, return_alpha: bool = False, return_depth: bool = False) -> None:
        super().__init__()
        self.image_size, self.near, self.far, self.eps = image_size, near, far, eps
        self.background_color = background_color
        self.return_rgb, self.return_alpha, self.return_depth = return_rgb, return_alpha, return_depth

    def forward(self, faces: Tensor, textures: Tensor | None = None) -> Images:
        images = _images(faces, textures, self.image_size, False, self.near, self.far, self.eps,
                         self.background_color, self.return_rgb, self.return_alpha, self.return_depth)
        rgb, alpha, depth = (image if image is None else image.flip(-2) for image in images)
        return None if rgb is None else rgb.permute(0, 2, 3, 1), alpha, depth


class RasterizeFunction:
    """Stands in for the original's autograd.Function. It has only `apply`, which returns what `Rasterize` returns."""

    @staticmethod
    def apply(faces: Tensor, textures: Tensor | None, image_size: Size, near: float, far: float, eps: float,
              background_color: ArrayLike, return_rgb: bool = False, return_alpha: bool = False,
              return_depth: bool = False) -> Images:
        return Rasterize(image_size, near, far, eps, background_color, return_rgb, return_alpha, return_depth)(
            faces, textures)


def rasterize(faces: Tensor, textures: Tensor, image_size: Size = DEFAULT_IMAGE_SIZE,
              anti_aliasing: bool = DEFAULT_ANTI_ALIASING, near: float = DEFAULT_NEAR, far: float = DEFAULT_FAR,
              eps: float = DEFAULT_EPS, background_color: ArrayLike = DEFAULT_BACKGROUND_COLOR) -> Tensor:
    """rgb images (B, 3, H, W) of textured triangles (B, F, 3, 3)."""
    return _images(faces, textures, image_size, anti_aliasing, near, far, eps, background_color, rgb=True)[0]


def rasterize_silhouettes(faces: Tensor, image_size: Size = DEFAULT_IMAGE_SIZE,
                          anti_aliasing: bool = DEFAULT_ANTI_ALIASING, near: float = DEFAULT_NEAR,
                          far: float = DEFAULT_FAR, eps: float = DEFAULT_EPS) -> Tensor:
    """Coverage (B, H, W) in [0, 1] of triangles (B, F, 3, 3)."""
    return _images(faces, None, image_size, anti_aliasing, near, far, eps, None, alpha=True)[1]


def rasterize_depth(faces: Tensor, image_size: Size = DEFAULT_IMAGE_SIZE,
                    anti_aliasing: bool = DEFAULT_ANTI_ALIASING, near: float = DEFAULT_NEAR,
                    far: float = DEFAULT_FAR, eps: float = DEFAULT_EPS) -> Tensor:
    """Depth (B, H, W) of triangles (B, F, 3, 3); `far` where nothing is drawn."""
    return _images(faces, None, image_size, anti_aliasing, near, far, eps, None, depth=True)[2]


def rasterize_face_index(faces: Tensor, image_size: Size = DEFAULT_IMAGE_SIZE, near: float = DEFAULT_NEAR,
                         far: float = DEFAULT_FAR) -> Tensor:
    """The index of the triangle of (B, F, 3, 3) at the centre of each pixel, (B, H, W) int64; -1 if there is none."""
    vertices, indices = _unshared(faces)
    return ops.face_index(vertices, indices, image_size=image_size, near=near, far=far)
