"""The rasterize* functions of the original package, on triangles (B, F, 3, 3) in NDC.

They draw only faces that are counter-clockwise on the screen; `Renderer(fill_back=True)` draws both
sides without doubling anything.
"""
from typing import TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import ops, raw
from .checks import ArrayLike, describe, numbers, unshared

Size: TypeAlias = int | tuple[int, int]  # of images; (height, width)
Images: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
DEFAULT_IMAGE_SIZE = 256
DEFAULT_ANTI_ALIASING = True
DEFAULT_NEAR = 0.1
DEFAULT_FAR = 100
DEFAULT_EPS = 1e-4
DEFAULT_BACKGROUND_COLOR = (0, 0, 0)


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
    vertices, indices = unshared(faces)
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


class RasterizeFunction(torch.autograd.Function):
    """The original's autograd.Function: `apply` returns what `Rasterize` returns.

    `forward` and `backward` use this package's kernels. The other methods are for programs that put together a forward
    and a backward pass of their own: they call `neural_renderer.raw`, where the maps are described, with the settings
    that `forward` leaves in `ctx`.
    """

    @classmethod
    def apply(cls, faces: Tensor, textures: Tensor | None, image_size: Size, near: float, far: float, eps: float,
              background_color: ArrayLike, return_rgb: bool = False, return_alpha: bool = False,
              return_depth: bool = False) -> Images:
        return super().apply(faces, textures, image_size, near, far, eps, background_color, return_rgb, return_alpha,
                             return_depth)

    @staticmethod
    def forward(ctx, faces, textures, image_size, near, far, eps, background_color, return_rgb=False,
                return_alpha=False, return_depth=False):
        ctx.image_size, ctx.near, ctx.far, ctx.eps = image_size, near, far, eps
        ctx.background_color = background_color
        ctx.return_rgb, ctx.return_alpha, ctx.return_depth = return_rgb, return_alpha, return_depth
        ctx.device, (ctx.batch_size, ctx.num_faces) = faces.device, faces.shape[:2]
        ctx.texture_size = textures.shape[2] if return_rgb else None
        leaves = [tensor if tensor is None else tensor.detach().requires_grad_(needed)
                  for tensor, needed in zip((faces, textures), ctx.needs_input_grad)]
        with torch.enable_grad():
            images = Rasterize(image_size, near, far, eps, background_color, return_rgb, return_alpha, return_depth)(
                *leaves)
        ctx.leaves, ctx.images = leaves, images
        return tuple(image if image is None else image.detach() for image in images)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_rgb_map, grad_alpha_map, grad_depth_map):
        given = [(image, gradient) for image, gradient in zip(
            ctx.images, (grad_rgb_map, grad_alpha_map, grad_depth_map)) if image is not None and gradient is not None]
        images, gradients = zip(*given)
        leaves = [leaf for leaf, needed in zip(ctx.leaves, ctx.needs_input_grad) if needed]
        found = iter(torch.autograd.grad(images, leaves, gradients, retain_graph=True, allow_unused=True))
        return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), *[None] * 8

    @staticmethod
    def forward_face_index_map(ctx, faces, face_index_map, weight_map, depth_map, face_inv_map):
        return raw.forward_face_index_map(faces, face_index_map, weight_map, depth_map, face_inv_map,
                                          torch.zeros_like(faces), ctx.image_size, ctx.near, ctx.far, ctx.return_rgb,
                                          ctx.return_alpha, ctx.return_depth)

    @staticmethod
    def forward_texture_sampling(ctx, faces, textures, face_index_map, weight_map, depth_map, rgb_map,
                                 sampling_index_map, sampling_weight_map):
        if not ctx.return_rgb:
            return rgb_map, sampling_index_map, sampling_weight_map
        return raw.forward_texture_sampling(faces, textures, face_index_map, weight_map, depth_map, rgb_map,
                                            sampling_index_map, sampling_weight_map, ctx.image_size, ctx.eps)

    @staticmethod
    def forward_alpha_map(ctx, alpha_map, face_index_map):
        if ctx.return_alpha:
            alpha_map[face_index_map >= 0] = 1
        return alpha_map

    @staticmethod
    def forward_background(ctx, face_index_map, rgb_map):
        if not ctx.return_rgb:
            return rgb_map
        colour = numbers("background_color", ctx.background_color, rgb_map, "three numbers")
        colour = colour[:, None, None] if colour.dim() == 2 else colour
        return torch.where((face_index_map >= 0)[..., None], rgb_map, colour)

    @staticmethod
    def backward_pixel_map(ctx, faces, face_index_map, rgb_map, alpha_map, grad_rgb_map, grad_alpha_map, grad_faces):
        if not ctx.return_rgb and not ctx.return_alpha:
            return grad_faces
        return raw.backward_pixel_map(faces, face_index_map, rgb_map, alpha_map, grad_rgb_map, grad_alpha_map,
                                      grad_faces, ctx.image_size, ctx.eps, ctx.return_rgb, ctx.return_alpha)

    @staticmethod
    def backward_textures(ctx, face_index_map, sampling_weight_map, sampling_index_map, grad_rgb_map, grad_textures):
        if not ctx.return_rgb:
            return grad_textures
        return raw.backward_textures(face_index_map, sampling_weight_map, sampling_index_map, grad_rgb_map,
                                     grad_textures, ctx.num_faces)

    @staticmethod
    def backward_depth_map(ctx, faces, depth_map, face_index_map, face_inv_map, weight_map, grad_depth_map, grad_faces):
        if not ctx.return_depth:
            return grad_faces
        return raw.backward_depth_map(faces, depth_map, face_index_map, face_inv_map, weight_map, grad_depth_map,
                                      grad_faces, ctx.image_size)


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
    vertices, indices = unshared(faces)
    return ops.face_index(vertices, indices, image_size=image_size, near=near, far=far)
