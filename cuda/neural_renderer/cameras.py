"""Cameras: from world coordinates to NDC.

Convention
----------
World: y up. Camera: x right, y up, z forward (depth grows away from the eye). Because x = up x z,
these cameras mirror a right-handed scene: seen through them, a right-handed mesh looks like its
mirror image. Angles are in degrees unless said otherwise. Vertices are (B, V, 3).
"""
import math

import torch
import torch.nn.functional as F

from .checks import check_vertices, vectors


def get_points_from_angles(distance, elevation, azimuth, degrees=True):
    """Eye positions around the origin: (d cos e sin a, d sin e, -d cos e cos a).

    Azimuth 0 lies on -z, 90 degrees on +x; elevation 90 degrees on +y.

    Returns
    -------
    A tuple of three floats for numbers; a (B, 3) tensor for tensors of shape (B,).
    """
    if any(isinstance(v, torch.Tensor) for v in (distance, elevation, azimuth)):
        like = next(v for v in (distance, elevation, azimuth) if isinstance(v, torch.Tensor))
        distance, elevation, azimuth = torch.broadcast_tensors(
            *(torch.as_tensor(v, dtype=like.dtype, device=like.device)
              for v in (distance, elevation, azimuth)))
        if degrees:
            elevation, azimuth = torch.deg2rad(elevation), torch.deg2rad(azimuth)
        return torch.stack([distance * torch.cos(elevation) * torch.sin(azimuth),
                            distance * torch.sin(elevation),
                            -distance * torch.cos(elevation) * torch.cos(azimuth)], -1)
    if degrees:
        elevation, azimuth = math.radians(elevation), math.radians(azimuth)
    return (distance * math.cos(elevation) * math.sin(azimuth), distance * math.sin(elevation),
            -distance * math.cos(elevation) * math.cos(azimuth))


def look_at(vertices, eye, at=(0, 0, 0), up=(0, 1, 0)):
    """Camera coordinates of vertices for a camera at `eye` that looks at the point `at`.

    With z = unit(at - eye), x = unit(up x z), y = unit(z x x) as the rows of R, the result is
    (v - eye) R^T. `eye`, `at` and `up` are (3,) or (B, 3); gradients flow to them.
    """
    check_vertices(vertices)
    eye, at, up = (vectors(n, v, vertices) for n, v in (("eye", eye), ("at", at), ("up", up)))
    return _rotate(vertices, eye, at - eye, up)


def look(vertices, eye, direction=(0, 1, 0), up=None):
    """As `look_at`, for a camera that looks along `direction`. `up` None is y."""
    check_vertices(vertices)
    direction = vectors("direction", direction, vertices)
    up = vectors("up", (0, 1, 0) if up is None else up, vertices)
    return _rotate(vertices, vectors("eye", eye, vertices), direction, up)


def _rotate(vertices, eye, forward, up):
    z = F.normalize(forward, dim=-1, eps=1e-5)
    x = F.normalize(torch.linalg.cross(up.expand_as(z), z), dim=-1, eps=1e-5)
    y = F.normalize(torch.linalg.cross(z, x), dim=-1, eps=1e-5)
    rotation = torch.stack([x, y, z], 1)  # (1 or B, 3, 3)
    return torch.matmul(vertices - eye[:, None], rotation.transpose(1, 2))


def perspective(vertices, angle=30.0):
    """x / (z tan angle), y / (z tan angle), z: `angle` is HALF the field of view, in degrees."""
    check_vertices(vertices)
    angle = torch.as_tensor(angle, dtype=vertices.dtype, device=vertices.device)
    width = torch.tan(torch.deg2rad(angle)).reshape(-1, 1)
    z = vertices[:, :, 2]
    return torch.stack([vertices[:, :, 0] / z / width, vertices[:, :, 1] / z / width, z], -1)


def projection(vertices, K, R, t, dist_coeffs, orig_size, eps=1e-9):
    """OpenCV's camera: world to camera by R and t, distortion, K, then pixels to NDC.

    Parameters
    ----------
    K, R : (B, 3, 3); t : (B, 1, 3) or (B, 3); dist_coeffs : (B, 5), k1 k2 p1 p2 k3; B may be 1.
    orig_size : size in pixels of the image that K is for. u and (orig_size - v) go from
        [0, orig_size] to [-1, 1].
    """
    check_vertices(vertices)

    def camera(name, value, *shape):
        value = torch.as_tensor(value, dtype=vertices.dtype, device=vertices.device)
        if name == "t" and value.dim() == 3 and value.shape[1] == 1:
            value = value[:, 0]
        value = value[None] if value.dim() == len(shape) else value
        if value.shape[1:] != shape or value.shape[0] not in (1, vertices.shape[0]):
            raise ValueError(f"{name} must have shape ({vertices.shape[0]}, "
                             f"{', '.join(map(str, shape))}), got {tuple(value.shape)}")
        return value

    K, R, t = camera("K", K, 3, 3), camera("R", R, 3, 3), camera("t", t, 3)
    k1, k2, p1, p2, k3 = camera("dist_coeffs", dist_coeffs, 5)[:, None].unbind(-1)
    x, y, z = (torch.matmul(vertices, R.transpose(1, 2)) + t[:, None]).unbind(-1)
    x, y = x / (z + eps), y / (z + eps)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    distorted = torch.stack([x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                             y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y,
                             torch.ones_like(z)], -1)
    u, v, _ = torch.matmul(distorted, K.transpose(1, 2)).unbind(-1)
    v = orig_size - v
    return torch.stack([2 * (u - orig_size / 2) / orig_size, 2 * (v - orig_size / 2) / orig_size, z], -1)
