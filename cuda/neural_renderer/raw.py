"""The functions of the original's compiled module `neural_renderer.cuda.rasterize`, for programs that call them in an
autograd function of their own.

The face index and the gradient of NMR come from this package's kernels, the rest is torch. As in the original, the
functions fill the maps that they are given, where a face is seen, and return them; gradients are added.

faces (B, F, 3, 3) are as in `rasterize_rgbad`. Maps have one sample per pixel and rows from the BOTTOM up:

face_index_map : (B, N, N) int32, -1 without a face
weight_map : (B, N, N, 3), barycentric weights on the screen, not corrected for perspective
face_inv_map : (B, N, N, 3, 3), the matrices that give these weights at (column, row, 1)
depth_map, alpha_map : (B, N, N)
rgb_map : (B, N, N, 3)
sampling_index_map, sampling_weight_map : (B, N, N, 8), the texels i T^2 + j T + k of the face's cube and their weights
"""
import math

import torch

from . import ops
from .checks import unshared


def _seen(face_index_map):
    """Where a face is seen: the mask (B, N, N), and the batch member and the face of each of its M pixels."""
    hit = face_index_map >= 0
    return hit, hit.nonzero()[:, 0], face_index_map[hit].long()


def _inverses(faces, image_size):
    """Matrices (B, F, 3, 3) from (column, row, 1) to barycentric weights on the screen."""
    x, y = ((faces[..., axis] * image_size + image_size - 1) / 2 for axis in (0, 1))
    (x1, x2), (y1, y2) = ((v.roll(-1, -1), v.roll(-2, -1)) for v in (x, y))
    rows = torch.stack([y1 - y2, x2 - x1, x1 * y2 - x2 * y1], -1)
    return rows / rows[..., 2].sum(-1)[..., None, None]


@torch.no_grad()
def forward_face_index_map(faces, face_index_map, weight_map, depth_map, face_inv_map, faces_inv, image_size, near, far,
                           return_rgb, return_alpha, return_depth):
    """Fill the first four maps. faces_inv (B, F, 3, 3) gets the matrices of all faces; face_inv_map is filled if
    return_depth."""
    found = ops.face_index(*unshared(faces), image_size=image_size, near=near, far=far)
    face_index_map.copy_(found.flip(1))
    hit, batch, face = _seen(face_index_map)
    faces_inv.copy_(_inverses(faces, image_size))
    matrices = faces_inv[batch, face]
    row, column = hit.nonzero()[:, 1:].to(faces.dtype).unbind(1)
    weights = (matrices @ torch.stack([column, row, torch.ones_like(row)], 1)[..., None])[..., 0].clamp(0, 1)
    weights /= weights.sum(-1, keepdim=True)
    weight_map[hit] = weights
    depth_map[hit] = 1 / (weights / faces[batch, face, :, 2]).sum(-1)
    if return_depth:
        face_inv_map[hit] = matrices
    return face_index_map, weight_map, depth_map, face_inv_map


@torch.no_grad()
def forward_texture_sampling(faces, textures, face_index_map, weight_map, depth_map, rgb_map, sampling_index_map,
                             sampling_weight_map, image_size, eps):
    """Fill the last three maps with the colours of textures (B, F, T, T, T, 3), interpolated trilinearly."""
    hit, batch, face = _seen(face_index_map)
    T = textures.shape[2]
    at = weight_map[hit] * (T - 1) * depth_map[hit][:, None] / faces[batch, face, :, 2]
    at = at.clamp(max=T - 1 - eps).clamp(min=0)
    up = torch.tensor([[n & 1, n >> 1 & 1, n >> 2 & 1] for n in range(8)], device=faces.device)
    cell = at.long()[:, None]
    fraction = at[:, None] - cell
    weights = torch.where(up == 1, fraction, 1 - fraction).prod(-1)  # (M, 8)
    texels = ((cell + up).clamp(max=T - 1) * torch.tensor([T * T, T, 1], device=faces.device)).sum(-1)
    sampling_index_map[hit] = texels.to(sampling_index_map.dtype)
    sampling_weight_map[hit] = weights
    colours = textures.flatten(2, 4)[batch[:, None], face[:, None], texels]
    rgb_map[hit] = (weights[..., None] * colours).sum(1)
    return rgb_map, sampling_index_map, sampling_weight_map


@torch.no_grad()
def backward_pixel_map(faces, face_index_map, rgb_map, alpha_map, grad_rgb_map, grad_alpha_map, grad_faces, image_size,
                       eps, return_rgb, return_alpha):
    """Add the gradient of colours and coverage to x and y of grad_faces: that of Kato et al. (CVPR 2018)."""
    vertices, indices = unshared(faces)
    B, count = faces.shape[:2]
    colours, samples, grad_rgb, grad_alpha = None, vertices.new_empty(0), None, None
    if return_rgb:
        colours = vertices.new_zeros(1).expand(B, count, 1, 1, 1, 3)  # only their number counts: rgb_map has the values
        samples, grad_rgb = rgb_map.flip(1), grad_rgb_map.flip(1).permute(0, 3, 1, 2)
    if return_alpha:
        grad_alpha = grad_alpha_map.flip(1)
    found, *_ = torch.ops.neural_renderer.rasterize_backward(
        vertices, indices.expand(B, -1, -1), colours, None, None, None, face_index_map.flip(1), samples, grad_rgb,
        grad_alpha, None, height=image_size, width=image_size, samples=1, near=0.0, far=math.inf, eps=eps,
        fill_back=False, perspective=False, need_vertices=True, need_textures=False, need_colours=False,
        need_light=False)
    return grad_faces.add_(found.view_as(faces))


@torch.no_grad()
def backward_textures(face_index_map, sampling_weight_map, sampling_index_map, grad_rgb_map, grad_textures, num_faces):
    """Add the gradient of colours to grad_textures (B, F, T, T, T, 3)."""
    hit, batch, face = _seen(face_index_map)
    T, texel = grad_textures.shape[2], sampling_index_map[hit].long()
    places = (batch[:, None], face[:, None], texel // (T * T), texel // T % T, texel % T)
    shares = sampling_weight_map[hit][..., None] * grad_rgb_map[hit][:, None]
    return grad_textures.index_put_(torch.broadcast_tensors(*places), shares, accumulate=True)


@torch.no_grad()
def backward_depth_map(faces, depth_map, face_index_map, face_inv_map, weight_map, grad_depth_map, grad_faces,
                       image_size):
    """Add the exact gradient of depths to grad_faces: 1 / z = sum of w_k / z_k, with w = face_inv (column, row, 1)."""
    hit, batch, face = _seen(face_index_map)
    z, weights = faces[batch, face, :, 2], weight_map[hit]
    scale = (grad_depth_map[hit] * depth_map[hit].square())[:, None] * weights  # (M, 3)
    slope = (face_inv_map[hit][..., :2] / z[..., None]).sum(1) * image_size / 2  # of 1 / z, for x and y in NDC
    shares = torch.cat([scale[..., None] * slope[:, None], (scale / z.square())[..., None]], -1)
    return grad_faces.index_put_((batch, face), shares, accumulate=True)
