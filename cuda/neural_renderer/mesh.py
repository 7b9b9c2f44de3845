"""`Mesh`: the vertices, faces and textures of one mesh."""
import os
from typing import Self

import numpy as np
import torch

from .checks import ArrayLike, check_mesh, describe, integers, tensor_of
from .obj import load_obj


class Mesh:
    """One mesh. It takes tensors, arrays or lists and holds tensors.

    Attributes
    ----------
    vertices : (V, 3) float
    faces : (F, 3) integer
    textures : (F, T, T, T, 3) float, or colours of vertices (V, 3). If none are given, a Parameter of small random
        numbers that can be optimised.
    num_vertices, num_faces, texture_size : int (texture_size None with colours of vertices)
    """

    texture_size: int | None

    def __init__(self, vertices: ArrayLike, faces: ArrayLike, textures: ArrayLike | None = None,
                 texture_size: int = 4) -> None:
        self.vertices, self.faces = _tensor("vertices", vertices), integers(_tensor("faces", faces))
        check_mesh("", self.vertices, self.faces)
        self.num_vertices, self.num_faces = len(self.vertices), len(self.faces)
        if textures is None:
            shape = (self.num_faces, texture_size, texture_size, texture_size, 3)
            textures = torch.nn.Parameter(0.05 * torch.randn(shape, dtype=self.vertices.dtype,
                                                             device=self.vertices.device))
        self.textures = _tensor("textures", textures)
        shape = tuple(self.textures.shape)
        self.texture_size = None
        if self.textures.is_floating_point() and shape == (self.num_vertices, 3):
            return
        if not self.textures.is_floating_point() or len(shape) != 5 or not shape[1] or \
                shape != (self.num_faces, *shape[1:2] * 3, 3):
            raise ValueError(f"textures must be a float tensor of shape ({self.num_faces}, T, T, T, 3), or "
                             f"({self.num_vertices}, 3) for colours of vertices, got {describe(self.textures)}")
        self.texture_size = shape[1]

    @classmethod
    def fromobj(cls, filename_obj: str | os.PathLike[str], normalization: bool = True, load_texture: bool = False,
                texture_size: int = 4) -> Self:
        """The mesh of an OBJ file; see `load_obj`."""
        vertices, faces, *textures = load_obj(filename_obj, normalization, texture_size, load_texture)
        return cls(vertices, faces, textures[0] if textures else None, texture_size)


def _tensor(name, value):
    try:
        return tensor_of(value) if isinstance(value, np.ndarray) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a tensor or an array, got {describe(value)}") from None
