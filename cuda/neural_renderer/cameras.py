"""Cameras: from world coordinates to NDC.

Convention
----------
World: y up. Camera: x right, y up, z forward (depth grows away from the eye). Because x = up x z,
these cameras mirror a right-handed scene: seen through them, a right-handed mesh looks like its
mirror image. Angles are in degrees unless said otherwise. Vertices are (B, V, 3). Cameras are one for all meshes or
one for each; one mesh (1, V, 3) may also have C cameras, and the result is then (C, V, 3).
"""
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .checks import ArrayLike, check_vertices, numbers, one_batch, real, scalars, vectors


def _like(given):
    """The tensor that sets the dtype and device of the result: the first float tensor, else a float64 on the CPU."""
    floats = (v for v in given.values() if isinstance(v, torch.Tensor) and v.is_floating_point())
    return next(floats, torch.zeros((), dtype=torch.float64))


def get_points_from_angles(distance: float | ArrayLike, elevation: float | ArrayLike, azimuth: float | ArrayLike,
                           degrees: bool = True) -> tuple[float, float, float] | torch.Tensor:
    """Eye positions around the origin: (d cos e sin a, d sin e, -d cos e cos a).

    Azimuth 0 lies on -z, 90 degrees on +x; elevation 90 degrees on +y.

    Returns
    -------
    A tuple of three floats if all arguments are numbers. A (B, 3) tensor if any is a tensor, array or list of
    shape (B,); the others may be numbers.
    """
    given = {"distance": distance, "elevation": elevation, "azimuth": azimuth}
    if any(isinstance(v, torch.Tensor) or np.ndim(v) for v in given.values()):
        like = _like(given)
        distance, elevation, azimuth = torch.broadcast_tensors(
            *(numbers(name, v, like, "a number or (B,) numbers") for name, v in given.items()))
        if degrees:
            elevation, azimuth = torch.deg2rad(elevation), torch.deg2rad(azimuth)
        return torch.stack([distance * torch.cos(elevation) * torch.sin(azimuth),
                            distance * torch.sin(elevation),
                            -distance * torch.cos(elevation) * torch.cos(azimuth)], -1)
    distance, elevation, azimuth = (real(name, v) for name, v in given.items())
    if degrees:
        elevation, azimuth = math.radians(elevation), math.radians(azimuth)
    return (distance * math.cos(elevation) * math.sin(azimuth), distance * math.sin(elevation),
            -distance * math.cos(elevation) * math.cos(azimuth))


def look_at(vertices: torch.Tensor, eye: ArrayLike, at: ArrayLike = (0, 0, 0),
            up: ArrayLike = (0, 1, 0)) -> torch.Tensor:
    """Camera coordinates of vertices for a camera at `eye` that looks at the point `at`.

    With z = unit(at - eye), x = unit(up x z), y = unit(z x x) as the rows of R, the result is
    (v - eye) R^T. `eye`, `at` and `up` are (3,) or (B, 3); gradients flow to them. If the camera looks
    straight down or up, up x z is zero; x is then its limit for an eye at azimuth 0.
    """
    check_vertices(vertices)
    eye, at, up = (vectors(n, v, vertices, cameras=True) for n, v in (("eye", eye), ("at", at), ("up", up)))
    one_batch(eye=eye, at=at, up=up)
    return _rotate(vertices, eye, at - eye, up)


def look(vertices: torch.Tensor, eye: ArrayLike, direction: ArrayLike = (0, 1, 0),
         up: ArrayLike | None = None) -> torch.Tensor:
    """As `look_at`, for a camera at `eye` that looks along `direction`. `up=None` means (0, 1, 0)."""
    check_vertices(vertices)
    up = (0, 1, 0) if up is None else up
    eye, direction, up = (vectors(n, v, vertices, cameras=True)
                          for n, v in (("eye", eye), ("direction", direction), ("up", up)))
    one_batch(eye=eye, direction=direction, up=up)
    return _rotate(vertices, eye, direction, up)


def _rotate(vertices, eye, forward, up):
    up, z = torch.broadcast_tensors(up, F.normalize(forward, dim=-1, eps=1e-5))
    side = torch.linalg.cross(up, z)
    along = torch.linalg.vector_norm(side, dim=-1, keepdim=True) <= 1e-5
    above = -(up * z).sum(-1, keepdim=True).sign() * up.roll(1, -1)  # for up = y: z from above, -z from below
    x = F.normalize(torch.where(along, torch.linalg.cross(above, z), side), dim=-1, eps=1e-5)
    y = F.normalize(torch.linalg.cross(z, x), dim=-1, eps=1e-5)
    rotation = torch.stack([x, y, z], 1)  # (1 or B, 3, 3)
    return torch.matmul(vertices - eye[:, None], rotation.transpose(1, 2))


def _behind(z):
    """Depths by which x and y can be divided: depths in (-1e-6, 0] become -1e-6, just behind the eye.

    The rasteriser clips faces that reach behind the eye. It could not draw a corner at depth 0, and its gradient would
    be NaN. Depths in front of the eye do not change.
    """
    return torch.where((z <= 0) & (z > -1e-6), -1e-6, z)


def perspective(vertices: torch.Tensor, angle: float | ArrayLike = 30.0) -> torch.Tensor:
    """x / (z tan angle), y / (z tan angle), z: `angle`, a number or (B,), is HALF the field of view in degrees.

    Vertices behind the eye (z <= 0) come out mirrored through the centre: the rasteriser expects this when it clips
    faces that reach behind the eye. z in (-1e-6, 0] becomes -1e-6.
    """
    check_vertices(vertices)
    angle = scalars("angle", angle, vertices, 1, cameras=True)
    width = torch.tan(torch.deg2rad(angle)) if isinstance(angle, torch.Tensor) else math.tan(math.radians(angle))
    z = _behind(vertices[:, :, 2])
    x, y = vertices[:, :, 0] / z / width, vertices[:, :, 1] / z / width
    return torch.stack([x, y, z.expand_as(x)], -1)


def projection(vertices: torch.Tensor, K: ArrayLike, R: ArrayLike, t: ArrayLike, dist_coeffs: ArrayLike | None,
               orig_size: float | ArrayLike, eps: float = 1e-9) -> torch.Tensor:
    """OpenCV's camera: world to camera by R and t, distortion, K, then pixels to NDC.

    Parameters
    ----------
    K, R : (B, 3, 3); t : (B, 1, 3) or (B, 3); dist_coeffs : (B, 5), k1 k2 p1 p2 k3, or None; B may be 1, and any
        number for one mesh. Tensors, arrays or lists.
    orig_size : size in pixels of the image that K is for, one number or (height, width). u and
        (orig_size - v) are scaled from [0, orig_size] to [-1, 1].

    Vertices behind the camera are not distorted: the distortion polynomial is only valid for points that the lens
    sees. An edge that leaves the picture continues straight.
    """
    check_vertices(vertices)

    def camera(name, value, *shape):
        value = numbers(name, value, vertices, f"a tensor of shape (B, {', '.join(map(str, shape))})")
        if name == "t" and value.dim() == 3 and value.shape[1] == 1:
            value = value[:, 0]
        value = value[None] if value.dim() == len(shape) else value
        if value.shape[1:] != shape or value.shape[0] not in (1, vertices.shape[0]) and vertices.shape[0] != 1:
            raise ValueError(f"{name} must have shape ({vertices.shape[0]}, "
                             f"{', '.join(map(str, shape))}), got {tuple(value.shape)}")
        return value

    if dist_coeffs is None:
        dist_coeffs = vertices.new_zeros(1, 5)
    K, R, t = camera("K", K, 3, 3), camera("R", R, 3, 3), camera("t", t, 3)
    distortion = camera("dist_coeffs", dist_coeffs, 5)
    one_batch(K=K, R=R, t=t, dist_coeffs=distortion)
    k1, k2, p1, p2, k3 = distortion[:, None].unbind(-1)
    x, y, z = (torch.matmul(vertices, R.transpose(1, 2)) + t[:, None]).unbind(-1)
    z = _behind(z)
    x, y = x / (z + eps), y / (z + eps)
    front, plain = z > 0, (x, y)
    x, y = (torch.where(front, w, 0) for w in plain)
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    distorted = (x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x),
                 y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y)
    x, y = (torch.where(front, *w) for w in zip(distorted, plain))
    distorted = torch.stack([x, y, torch.ones_like(x)], -1)
    u, v, _ = torch.matmul(distorted, K.transpose(1, 2)).unbind(-1)
    height, width = _original_size(orig_size)
    return torch.stack([2 * u / width - 1, 1 - 2 * v / height, z.expand_as(u)], -1)


def _original_size(size):
    pair = tuple(size) if isinstance(size, (tuple, list)) or getattr(size, "shape", ()) else (size,)
    pair = pair * 2 if len(pair) == 1 else pair
    try:
        height, width = (float(s) for s in pair)
    except (TypeError, ValueError):
        height = width = 0.0
    if not (0 < height < math.inf and 0 < width < math.inf):
        raise ValueError(f"orig_size must be a positive number or (height, width), got {size!r}")
    return height, width


def from_opencv(camera_matrix: ArrayLike, rotation: ArrayLike, translation: ArrayLike,
                dist_coeffs: ArrayLike | None = None, image_size: Sequence[float] | None = None) -> dict[str, Any]:
    """Arguments that make `Renderer` and its calls draw what an OpenCV camera sees.

    >>> renderer = nr.Renderer(image_size=(480, 640), **nr.from_opencv(K, rvec, tvec, dist, (480, 640)))

    In OpenCV the centre of the first pixel is (0, 0); in this renderer its outer corner is. So this function adds
    half a pixel to the principal point. Gradients flow to all arguments that are tensors.

    Parameters
    ----------
    camera_matrix : (3, 3) or (B, 3, 3)
    rotation : vectors (3,), (3, 1), (B, 3) or (B, 3, 1), as cv2.calibrateCamera and cv2.solvePnP give them,
        or matrices (3, 3) or (B, 3, 3). An argument of shape (3, 3) is taken as one matrix.
    translation : (3,), (3, 1), (B, 3) or (B, 3, 1)
    dist_coeffs : k1 k2 p1 p2 and perhaps k3: (N,), (1, N), (N, 1) or (B, N)
    image_size : (height, width) of the images that the camera was calibrated on; cv2 has (width, height).

    Returns
    -------
    dict of K (B, 3, 3), R (B, 3, 3), t (B, 1, 3), dist_coeffs (B, 5) and orig_size; B may be 1. float64 if
    no argument is a tensor.
    """
    if image_size is None or np.size(image_size) != 2:
        raise ValueError(f"image_size must be (height, width) of the calibrated images, got {image_size!r}")
    given = {"camera_matrix": camera_matrix, "rotation": rotation, "translation": translation,
             "dist_coeffs": np.zeros(5) if dist_coeffs is None else dist_coeffs}
    like = _like(given)
    K, R, t, distortion = (numbers(name, v, like, "numbers") for name, v in given.items())
    R = _matrices("rotation", R) if R.shape[-2:] == (3, 3) else _rodrigues(_rows("rotation", R, 3))
    distortion = _rows("dist_coeffs", distortion, 4, 5)
    # The centre of the first pixel is 0 in OpenCV, 0.5 here.
    return {"K": _matrices("camera_matrix", K) + K.new_tensor([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]), "R": R,
            "t": _rows("translation", t, 3)[:, None],
            "dist_coeffs": F.pad(distortion, (0, 5 - distortion.shape[1])),
            "orig_size": _original_size(image_size)}


def _matrices(name, value):
    value = value[None] if value.dim() == 2 else value
    if value.dim() != 3 or value.shape[1:] != (3, 3):
        raise ValueError(f"{name} must have shape (3, 3) or (B, 3, 3), got {tuple(value.shape)}")
    return value


def _rows(name, value, *lengths):
    """(n,), (n, 1), (B, n) or (B, n, 1) as (B, n)."""
    rows = value[..., 0] if value.dim() > 1 and value.shape[-1] == 1 else value
    rows = rows[None] if rows.dim() == 1 else rows
    if rows.dim() != 2 or rows.shape[1] not in lengths:
        wanted = " or ".join(map(str, lengths))
        raise ValueError(f"{name} must hold {wanted} numbers for each camera, got shape {tuple(value.shape)}")
    return rows


def _rodrigues(vectors):
    """Rotation matrices (B, 3, 3) about vectors (B, 3), by their lengths in radians; differentiable at zero too."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3))
