"""Ambient and directional light on faces."""
import torch
import torch.nn.functional as F


def vertices_to_faces(vertices, faces):
    """Corner coordinates: (B, V, 3) and (B, F, 3) or (F, 3) indices to (B, F, 3, 3)."""
    if vertices.dim() != 3 or vertices.shape[-1] != 3:
        raise ValueError(f"vertices must have shape (B, V, 3), got {tuple(vertices.shape)}")
    if faces.dim() not in (2, 3) or faces.shape[-1] != 3 or (
            faces.dim() == 3 and faces.shape[0] != vertices.shape[0]):
        raise ValueError(f"faces must have shape (F, 3) or ({vertices.shape[0]}, F, 3), got "
                         f"{tuple(faces.shape)}")
    if faces.dim() == 2:
        return vertices[:, faces.long()]
    batch = torch.arange(len(vertices), device=vertices.device)[:, None, None]
    return vertices[batch, faces.long()]


def face_light(corners, intensity_ambient=0.5, intensity_directional=0.5, color_ambient=(1, 1, 1),
               color_directional=(1, 1, 1), direction=(0, 1, 0)):
    """Light on the front and the back of faces.

    ambient + directional * relu(n . direction), with n = unit((v0 - v1) x (v2 - v1)), which is
    OPPOSITE to the right-hand normal of (v0, v1, v2); the back has -n. `direction` points to the
    light and is not normalised. Everything is in world space.

    Parameters
    ----------
    corners : (B, F, 3, 3) float
    color_ambient, color_directional, direction : (3,) or (B, 3)

    Returns
    -------
    (B, F, 2, 3) float
    """
    def vector(value):  # (B or 1, 1, 3)
        value = torch.as_tensor(value, dtype=corners.dtype, device=corners.device)
        return (value[None] if value.dim() == 1 else value)[:, None]

    normal = torch.linalg.cross(corners[:, :, 0] - corners[:, :, 1], corners[:, :, 2] - corners[:, :, 1])
    cosine = (F.normalize(normal, dim=-1, eps=1e-6) * vector(direction)).sum(-1)
    sides = torch.stack([cosine, -cosine], -1).relu()[..., None]  # (B, F, 2, 1)
    return (intensity_ambient * vector(color_ambient)[:, :, None]
            + intensity_directional * vector(color_directional)[:, :, None] * sides)


def lighting(faces, textures, intensity_ambient=0.5, intensity_directional=0.5,
             color_ambient=(1, 1, 1), color_directional=(1, 1, 1), direction=(0, 1, 0)):
    """Textures (B, F, T, T, T, 3) under the light on the fronts of `faces` (B, F, 3, 3).

    See `face_light`. A new tensor; the original program overwrote its input.
    """
    light = face_light(faces, intensity_ambient, intensity_directional, color_ambient,
                       color_directional, direction)[:, :, 0]
    return textures * light[:, :, None, None, None]
