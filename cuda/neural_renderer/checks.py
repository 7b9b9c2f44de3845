"""Checks of arguments. An error is one sentence that names the argument."""
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

# What parameters that `numbers` reads may be; their shapes stand in the docstrings.
ArrayLike: TypeAlias = torch.Tensor | np.ndarray | Sequence[Any]

UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)


def describe(value):
    """'float32 of shape (2, 3)' for a tensor, the type's name for anything else."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype)[6:]} of shape {tuple(value.shape)}"
    return type(value).__name__


def check_vertices(vertices):
    """Raise ValueError unless vertices is a float tensor of shape (B, V, 3)."""
    if not isinstance(vertices, torch.Tensor) or vertices.dim() != 3 or vertices.shape[-1] != 3 \
            or not vertices.is_floating_point():
        raise ValueError(f"vertices must be a float tensor of shape (B, V, 3), got {describe(vertices)}")


def integers(faces, which=""):
    """Convert faces of a float dtype to int64; ValueError unless all are whole numbers. Faces of uint16, uint32 and
    uint64, for which torch has few operators, become int64 too. Others are returned as they are, for `check_faces`."""
    if isinstance(faces, torch.Tensor) and faces.dtype in UNSIGNED:
        return faces.long()
    if not isinstance(faces, torch.Tensor) or not faces.is_floating_point():
        return faces
    whole = faces.long()
    looked = not torch.compiler.is_compiling() and not (faces.is_cuda and torch.cuda.is_current_stream_capturing())
    if looked and not torch.equal(whole.to(faces.dtype), faces):
        raise ValueError(f"faces{which} must be whole numbers, got {describe(faces)} with values that are not")
    return whole


def check_faces(faces, vertices):
    """Raise ValueError unless faces is an integer tensor (F, 3) or (B, F, 3) on vertices' device, and
    IndexError if an index is out of range. Returns whether the indices are known to be right.

    torch.compile and vmap over faces hide the indices: the result is then False. On a GPU the check makes the host wait
    for the device, so it runs once for each tensor, and never while a CUDA graph is captured. The kernels skip faces
    with an index out of range.
    """
    B, V = vertices.shape[:2]
    if not isinstance(faces, torch.Tensor) or faces.is_floating_point() or faces.is_complex() \
            or faces.dtype == torch.bool or faces.dim() not in (2, 3) or faces.shape[-1] != 3 \
            or (faces.dim() == 3 and faces.shape[0] != B):
        raise ValueError(f"faces must be an integer tensor of shape (F, 3) or ({B}, F, 3), got "
                         f"{describe(faces)}")
    if faces.device != vertices.device:
        raise ValueError(f"faces must be on the device of vertices, {vertices.device}, got {faces.device}")
    if torch.compiler.is_compiling():
        return False
    if faces.is_cuda and (getattr(faces, "_indices_seen", None) == _state(faces, V)
                          or torch.cuda.is_current_stream_capturing()):
        return True
    shared = faces.dim() == 3 and B and faces.stride(0) == 0
    own = faces[:1] if shared else faces
    if own.numel():
        try:
            low, high = (int(v) for v in own.aminmax())
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            return False
        if low < 0 or high >= V:
            raise IndexError(f"faces must hold indices into the {V} vertices, got {low} ... {high}")
    if faces.is_cuda:
        indices_are_right(faces, V)
    return True


def indices_are_right(faces, V):
    """Record that all indices are known to be below V, so that `check_faces` does not look at them again."""
    faces._indices_seen = _state(faces, V)


def _state(faces, V):
    return (0 if faces.is_inference() else faces._version), V


def unshared(faces):
    """Triangles (B, F, 3, 3) as vertices (B, 3 F, 3) and faces (F, 3); ValueError for another shape."""
    if not isinstance(faces, torch.Tensor) or faces.dim() != 4 or faces.shape[2:] != (3, 3) \
            or not faces.is_floating_point():
        raise ValueError(f"faces must be a float tensor of shape (B, F, 3, 3), got {describe(faces)}")
    indices = torch.arange(3 * faces.shape[1], device=faces.device).reshape(-1, 3)
    if not torch.compiler.is_compiling():
        indices_are_right(indices, 3 * faces.shape[1])
    return faces.flatten(1, 2), indices


def check_mesh(which, vertices, faces, like=None):
    """Raise ValueError or IndexError unless vertices (V, 3) and faces (F, 3) form one mesh.

    Errors add `which` to the names of the arguments, such as '[2]' for the third mesh of a list. If `like` is given,
    vertices must have its dtype and device.
    """
    if not isinstance(vertices, torch.Tensor) or vertices.dim() != 2 or vertices.shape[1] != 3 \
            or not vertices.is_floating_point():
        raise ValueError(f"vertices{which} must be a float tensor of shape (V, 3), got {describe(vertices)}")
    if like is not None and (vertices.dtype, vertices.device) != (like.dtype, like.device):
        raise ValueError(f"vertices{which} must be {describe(like).split()[0]} on {like.device} as the first "
                         f"mesh, got {describe(vertices)} on {vertices.device}")
    faces = integers(faces, which)
    if not isinstance(faces, torch.Tensor) or faces.dim() != 2:
        raise ValueError(f"faces{which} must be an integer tensor of shape (F, 3), got {describe(faces)}")
    try:
        check_faces(faces, vertices[None])
    except (ValueError, IndexError) as error:
        raise type(error)(str(error).replace("faces", f"faces{which}", 1)) from None


def numbers(name, value, like, what):
    """Convert numbers (a number, list, array or tensor) to a tensor with the dtype and device of `like`. Gradients flow
    to the tensors of a list."""
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
            return torch.stack([torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in value])
        if like.device.type != "cpu" and _plain(value):
            return _filled(value, like)
        value = np.asarray(value) if isinstance(value, (list, tuple)) else value
        value = tensor_of(value) if isinstance(value, np.ndarray) else value
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be {what}, got {describe(value)}") from None


def tensor_of(array):
    """A tensor with a copy of an array, also of one in reverse order or in the byte order of another machine, which
    torch does not take."""
    if torch.compiler.is_compiling():
        return torch.as_tensor(array)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _plain(value):
    return isinstance(value, (int, float)) or isinstance(value, (list, tuple)) and all(
        isinstance(v, (int, float)) for v in value)


def _filled(value, like):
    """A tensor of a plain number or of a list of them, made on the device: a copy from the host would make the caller
    wait for the GPU, and a CUDA graph cannot contain it."""
    if isinstance(value, (list, tuple)):
        return torch.stack([_filled(v, like) for v in value])
    return torch.full((), value, dtype=like.dtype, device=like.device)


def real(name, value):
    """Convert a number to a float; ValueError if it is none."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number, got {describe(value)}") from None


def scalars(name, value, like, *ones, cameras=False):
    """Return a number unchanged, and (B,) numbers as a (1 or B, *ones) tensor like the (B, ...) tensor `like`. With
    `cameras`, one mesh takes any number of them: see `vectors`."""
    if isinstance(value, (int, float)):
        return value  # a plain number needs no copy to the device
    value = numbers(name, value, like, "a number or (B,) numbers")
    if value.dim() > 1 or value.numel() not in (1, like.shape[0]) and not (cameras and like.shape[0] == 1):
        raise ValueError(f"{name} must be a number or of shape ({like.shape[0]},), got {tuple(value.shape)}")
    return value.reshape(-1, *ones)


def vectors(name, value, like, cameras=False):
    """Convert (3,) or (B, 3) numbers to a (1 or B, 3) tensor like the (B, ...) tensor `like`. With `cameras`, a `like`
    of one mesh takes (C, 3), for C cameras that see it."""
    value = numbers(name, value, like, "three numbers or a (B, 3) tensor")
    shape = tuple(value.shape)
    if value.dim() == 1:
        value = value[None]
    if value.dim() != 2 or value.shape[1] != 3 or \
            value.shape[0] not in (1, like.shape[0]) and not (cameras and like.shape[0] == 1):
        raise ValueError(f"{name} must have shape (3,) or ({like.shape[0]}, 3), got {shape}")
    return value


def one_batch(**given):
    """Raise ValueError unless the lengths of the tensors, apart from 1, are equal."""
    several = {name: len(value) for name, value in given.items() if len(value) != 1}
    if len(set(several.values())) > 1:
        counts = ", ".join(f"{name} of {count}" for name, count in several.items())
        raise ValueError(f"{counts}: all must be for the same number of cameras")
