"""Smoothness of meshes that share their edges. One pass computes the loss and its gradient."""
from typing import Tuple

import torch
from torch import Tensor

from .backend import _kernels, get_backend
from .checks import check_vertices, describe
from .transforms import differentiable, folded, forward_mode_refused, second_derivatives_refused


def smoothness(vertices: Tensor, wings: Tensor, eps: float = 1e-6) -> Tensor:
    """Sum over edges of (cos + 1)^2, (B,); 0 for a flat mesh (Kato et al., CVPR 2018, section 4).

    cos is the cosine of the angle between two perpendiculars to the edge: each lies in one of its two
    faces and runs to the opposite corner.

    Parameters
    ----------
    vertices : (B, V, 3) float
    wings : (4, E) integer
        For each edge its two ends and the opposite corners of its two faces. On a CPU an index out of range raises
        IndexError. On a GPU a check would make the host wait, so edges with such an index are skipped.
    """
    check_vertices(vertices)
    if not isinstance(wings, Tensor) or wings.is_floating_point() or wings.dim() != 2 or wings.shape[0] != 4:
        raise ValueError(f"wings must be an integer tensor of shape (4, E), got {describe(wings)}")
    if wings.device != vertices.device:
        raise ValueError(f"wings must be on the device of vertices, {vertices.device}, got {wings.device}")
    if vertices.dtype not in (torch.float32, torch.float64):
        vertices = vertices.float()
    if not _by_kernel(vertices):
        return plain(vertices, wings, eps)
    if vertices.shape[1] >= 2 ** 31:
        raise ValueError(f"vertices must number below 2^31, got {vertices.shape[1]}")
    if not wings.is_cuda and wings.numel() and not 0 <= int(wings.min()) <= int(wings.max()) < vertices.shape[1]:
        raise IndexError(f"wings must hold indices into the {vertices.shape[1]} vertices, got {int(wings.min())} "
                         f"... {int(wings.max())}")
    forward_mode_refused("smoothness", vertices)
    return _smooth(vertices, wings, float(eps))[0]


def plain(vertices, wings, eps=1e-6):
    """`smoothness` in plain torch operations."""
    v = vertices.permute(1, 2, 0).contiguous()  # index_select then copies one contiguous run for a vertex
    a, b, c, d = (v.index_select(0, w) for w in wings.long())
    edge, left, right = b - a, c - a, d - a
    ee, ll, rr = (edge * edge).sum(1), (left * left).sum(1), (right * right).sum(1)
    el, er, lr = (edge * left).sum(1), (edge * right).sum(1), (left * right).sum(1)
    # The dot product of the perpendiculars left - edge (el / ee) and right - edge (er / ee), from dot products
    # only. eps is added in the same places as in the published program.
    inverse = 1 / (ee + eps)
    dot = lr + el * er * inverse * (ee * inverse - 2)

    def perpendicular(square, along):
        length = torch.sqrt(square + eps)
        cosine = along / (torch.sqrt(ee + eps) * length + eps)
        return length * torch.sqrt(1 - cosine.square() + eps)

    cosine = dot / (perpendicular(ll, el) * perpendicular(rr, er) + eps)
    return (cosine + 1).square().sum(0)


def _by_kernel(vertices):
    if get_backend() != "compiled":
        return False
    if vertices.is_cuda:  # the CUDA kernel is not deterministic: its atomics add in any order
        return _kernels.cuda_architectures is not None and not torch.are_deterministic_algorithms_enabled()
    return vertices.device.type == "cpu"


@torch.library.custom_op("neural_renderer::smoothness", mutates_args=())
def _smoothness(vertices: Tensor, wings: Tensor, eps: float) -> Tuple[Tensor, Tensor]:
    vertices, wings = vertices.contiguous(), wings.to(torch.int32).contiguous()
    new = vertices.new_zeros if vertices.is_cuda else vertices.new_empty
    loss, gradient = new(vertices.shape[:1]), new(vertices.shape)
    def address(tensor):
        return tensor.data_ptr() if tensor.numel() else None

    args = dict(B=vertices.shape[0], V=vertices.shape[1], E=wings.shape[1], eps=eps, threads=torch.get_num_threads(),
                vertices=address(vertices), wings=address(wings), loss=address(loss), gradient=address(gradient))
    dtype = str(vertices.dtype)[6:]
    if vertices.is_cuda:
        stream = torch.cuda.current_stream(vertices.device).cuda_stream
        with torch.cuda.device(vertices.device):
            getattr(_kernels, f"smoothness_cuda_{dtype}")({**args, "device": vertices.device.index, "stream": stream})
    else:
        getattr(_kernels, f"smoothness_{dtype}")(args)
    return loss, gradient


@_smoothness.register_fake
def _(vertices, wings, eps):
    return vertices.new_empty(vertices.shape[:1]), vertices.new_empty(vertices.shape)


@torch.library.custom_op("neural_renderer::smoothness_backward", mutates_args=())
def _smoothness_backward(vertices: Tensor, gradient: Tensor, grad_loss: Tensor) -> Tuple[Tensor]:
    return (grad_loss[:, None, None] * gradient,)


@_smoothness_backward.register_fake
def _(vertices, gradient, grad_loss):
    return (torch.empty_like(gradient),)


def _setup_context(ctx, inputs, output):
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(inputs[0], output[1])


def _backward(ctx, grad_loss, _):
    return _pull_back(*ctx.saved_tensors, grad_loss)[0], None, None


def _over_meshes(call):
    """The rule for vmap. A batch shares its edges, so only vmap over the vertices can be folded into the batch."""
    def rule(info, in_dims, vertices, wings, eps):
        if in_dims[1] is not None:
            raise RuntimeError("neural_renderer.smoothness uses the same wings for all meshes: vmap works only over "
                               "vertices")
        return folded(lambda v: call(v, wings, eps))(info, in_dims[:1], vertices)
    return rule


_pull_back = differentiable(_smoothness_backward, second_derivatives_refused)
_smooth = differentiable(_smoothness, _backward, _setup_context, vmap=_over_meshes)
