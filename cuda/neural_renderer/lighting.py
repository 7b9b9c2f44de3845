"""Ambient and directional light on faces."""
import torch
import torch.nn.functional as F

from .checks import ArrayLike, check_faces, check_vertices, describe, integers, numbers, scalars, vectors


def vertices_to_faces(vertices: torch.Tensor, faces: torch.Tensor) -> torch.Tensor:
    """Corner coordinates: (B, V, 3) and (B, F, 3) or (F, 3) indices to (B, F, 3, 3)."""
    check_vertices(vertices)
    faces = integers(faces)
    check_faces(faces, vertices)
    return corners_of(vertices, faces)


def corners_of(vertices, faces):
    """`vertices_to_faces` without its checks."""
    if faces.dim() == 2:
        return vertices[:, faces.long()]
    batch = torch.arange(len(vertices), device=vertices.device)[:, None, None]
    return vertices[batch, faces.long()]


def face_light(corners, intensity_ambient=0.5, intensity_directional=0.5, color_ambient=(1, 1, 1),
               color_directional=(1, 1, 1), direction=(0, 1, 0)):
    """Light on the front and the back of faces.

    ambient + directional * relu(n . direction), with n = unit((v0 - v1) x (v2 - v1)), which is
    OPPOSITE to the right-hand normal of (v0, v1, v2); the back has -n. `direction` points to the
    light; it is used as given, not normalised. Everything is in world space.

    Parameters
    ----------
    corners : (B, F, 3, 3) float
    intensity_ambient, intensity_directional : number or (B,)
    color_ambient, color_directional : (3,) or (B, 3)
    direction : (3,), (B, 3), or (B, F, 3), one for each face; B and F may be 1

    Returns
    -------
    (B, F, 2, 3) float
    """
    if not isinstance(corners, torch.Tensor) or corners.dim() != 4 or corners.shape[2:] != (3, 3) \
            or not corners.is_floating_point():
        raise ValueError(f"faces must be a float tensor of shape (B, F, 3, 3), got {describe(corners)}")
    ambient, directional = (scalars(name, value, corners, 1, 1, 1) for name, value in (
        ("light_intensity_ambient", intensity_ambient), ("light_intensity_directional", intensity_directional)))
    color_ambient, color_directional = (
        vectors(name, value, corners)[:, None] for name, value in (
            ("light_color_ambient", color_ambient), ("light_color_directional", color_directional)))
    direction = numbers("light_direction", direction, corners, "three numbers or a (B, F, 3) tensor")
    if direction.dim() == 3:
        B, count = corners.shape[:2]
        if direction.shape[0] not in (1, B) or direction.shape[1] not in (1, count) or direction.shape[2] != 3:
            raise ValueError(f"light_direction must have shape (3,), ({B}, 3) or ({B}, {count}, 3), got "
                             f"{tuple(direction.shape)}")
    else:
        direction = vectors("light_direction", direction, corners)[:, None]
    normal = torch.linalg.cross(corners[:, :, 0] - corners[:, :, 1], corners[:, :, 2] - corners[:, :, 1])
    cosine = (F.normalize(normal, dim=-1, eps=1e-6) * direction).sum(-1)
    sides = torch.stack([cosine, -cosine], -1).relu()[..., None]  # (B, F, 2, 1)
    return ambient * color_ambient[:, :, None] + directional * color_directional[:, :, None] * sides


def lighting(faces: torch.Tensor, textures: torch.Tensor, intensity_ambient: float | ArrayLike = 0.5,
             intensity_directional: float | ArrayLike = 0.5, color_ambient: ArrayLike = (1, 1, 1),
             color_directional: ArrayLike = (1, 1, 1), direction: ArrayLike = (0, 1, 0)) -> torch.Tensor:
    """Multiply textures (B, F, T, T, T, 3) by the light on the fronts of `faces` (B, F, 3, 3); see `face_light`.

    Textures (B, F, 3, 3) are colours of corners; `vertices_to_faces` makes them from colours of vertices. The result
    is a new tensor. The original program overwrote its input.
    """
    light = face_light(faces, intensity_ambient, intensity_directional, color_ambient,
                       color_directional, direction)[:, :, 0]
    if isinstance(textures, torch.Tensor) and textures.dim() == 4 and textures.shape == faces.shape:
        return textures * light[:, :, None]
    if not isinstance(textures, torch.Tensor) or textures.dim() != 6 or textures.shape[:2] != light.shape[:2] \
            or textures.shape[5] != 3:
        raise ValueError(f"textures must be a float tensor of shape ({light.shape[0]}, {light.shape[1]}, T, T, T, "
                         f"3), or {tuple(faces.shape)} for colours of corners, got {describe(textures)}")
    return textures * light[:, :, None, None, None]
