"""What comes in, checked once, in one sentence that names the argument."""
import numpy as np
import torch


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
    """Faces of a float dtype as int64, where every number is whole; anything else as it is, for check_faces to see."""
    if not isinstance(faces, torch.Tensor) or not faces.is_floating_point():
        return faces
    whole = faces.long()
    looked = not torch.compiler.is_compiling() and not (faces.is_cuda and torch.cuda.is_current_stream_capturing())
    if looked and not torch.equal(whole.to(faces.dtype), faces):
        raise ValueError(f"faces{which} must be whole numbers, got {describe(faces)} with others among them")
    return whole


def check_faces(faces, vertices):
    """Raise ValueError unless faces is an integer tensor (F, 3) or (B, F, 3) on vertices' device, and
    IndexError if an index is out of range. Returns whether the indices are known to be right.

    Where nothing can be looked at (torch.compile, vmap over faces) they are not. On a GPU, looking at the indices makes
    the host wait for the device: it happens once for each tensor,
    not while a CUDA graph is captured, and the kernels draw faces that are out of range as nothing.
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
    """Spare check_faces the look at indices that were made, or checked, below V."""
    faces._indices_seen = _state(faces, V)


def _state(faces, V):
    return (0 if faces.is_inference() else faces._version), V


def check_mesh(which, vertices, faces, like=None):
    """Raise ValueError or IndexError unless vertices (V, 3) and faces (F, 3) are one mesh.

    `which` is added to the names, '[2]' for the third of a list. With `like`, vertices must have its dtype
    and device.
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
    """Numbers of any kind as a tensor of the dtype and device of `like`; lists of tensors keep their graph."""
    try:
        if isinstance(value, (list, tuple)) and any(isinstance(v, torch.Tensor) for v in value):
            return torch.stack([torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in value])
        if like.device.type != "cpu" and _plain(value):
            return _filled(value, like)
        value = np.asarray(value) if isinstance(value, (list, tuple)) else value
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be {what}, got {describe(value)}") from None


def _plain(value):
    return isinstance(value, (int, float)) or isinstance(value, (list, tuple)) and all(
        isinstance(v, (int, float)) for v in value)


def _filled(value, like):
    """A plain number or a list of them, made on the device: a copy from the host would make a GPU's caller wait, and
    cannot be part of a CUDA graph."""
    if isinstance(value, (list, tuple)):
        return torch.stack([_filled(v, like) for v in value])
    return torch.full((), value, dtype=like.dtype, device=like.device)


def real(name, value):
    """A number as a float, or one sentence."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{name} must be a number, got {describe(value)}") from None


def scalars(name, value, like, *ones):
    """A number as it is, (B,) numbers as a (1 or B, *ones) tensor like the (B, ...) tensor `like`."""
    if isinstance(value, (int, float)):
        return value  # where it takes part in no copy to a device
    value = numbers(name, value, like, "a number or (B,) numbers")
    if value.dim() > 1 or value.numel() not in (1, like.shape[0]):
        raise ValueError(f"{name} must be a number or of shape ({like.shape[0]},), got {tuple(value.shape)}")
    return value.reshape(-1, *ones)


def vectors(name, value, like):
    """(3,) or (B, 3) numbers of any kind as a (1 or B, 3) tensor like the (B, ...) tensor `like`."""
    value = numbers(name, value, like, "three numbers or a (B, 3) tensor")
    shape = tuple(value.shape)
    if value.dim() == 1:
        value = value[None]
    if value.dim() != 2 or value.shape[1] != 3 or value.shape[0] not in (1, like.shape[0]):
        raise ValueError(f"{name} must have shape (3,) or ({like.shape[0]}, 3), got {shape}")
    return value
