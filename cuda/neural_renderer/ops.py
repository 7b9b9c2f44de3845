"""The torch operator over the kernels: neural_renderer::rasterize, with autograd and fake kernels.

Shapes, types and devices are checked here, once; below there are only addresses.
"""
import warnings
from typing import Optional, Tuple

import torch
from torch import Tensor

from . import reference
from .backend import _kernels, get_backend
from .checks import check_faces, check_vertices, describe, real
from .unseen import warn_if_unseen

RGB, ALPHA, DEPTH = 1, 2, 4


def _scene(vertices, faces, textures, height, width, samples, near, far, eps, fill_back):
    return dict(B=vertices.shape[0], V=vertices.shape[1], F=faces.shape[-2], H=height, W=width,
                S=samples, T=0 if textures is None else textures.shape[2], near=near, far=far,
                eps=eps, fill_back=fill_back, threads=torch.get_num_threads())


def _batch_dense(tensor, dtype=None):
    """(tensor whose members are contiguous, stride between members: 0 where all share one)."""
    if dtype is not None and tensor.dtype != dtype:
        shared = tensor.shape[0] and tensor.stride(0) == 0
        tensor = tensor[:1].to(dtype).expand(tensor.shape) if shared else tensor.to(dtype)
    if tensor.shape[0] and tensor.stride(0) == 0:
        return tensor[:1].contiguous(), 0
    return tensor.contiguous(), tensor[:1].numel()


def _addresses(scene, vertices, faces, textures, light, background):
    """Kernel arguments of the inputs, and the tensors that must outlive the call."""
    faces, stride = _batch_dense(faces, torch.int32)
    scene.update(vertices=vertices.data_ptr(), faces=faces.data_ptr(), faces_stride=stride,
                 textures_stride=0)
    keep = [vertices, faces]
    if textures is not None:
        textures, scene["textures_stride"] = _batch_dense(textures)
        scene["textures"] = textures.data_ptr()
        keep.append(textures)
    for name, tensor in (("light", light), ("background", background)):
        if tensor is not None:
            tensor = tensor.contiguous()
            scene[name] = tensor.data_ptr()
            keep.append(tensor)
    return keep


def _has_kernels(device):
    """Whether the kernels in use run on this device: the compiled ones, with CUDA where it is a GPU."""
    return get_backend() == "compiled" and (device.type == "cpu" or
                                            device.type == "cuda" and _kernels.cuda_architectures is not None)


def _run(name, args, like):
    """Run the kernel 'forward' or 'backward' where the tensor `like` lies, for its scalar type."""
    dtype = str(like.dtype)[6:]
    if like.device.type == "cpu":
        return getattr(_kernels, f"{name}_{dtype}")(args)
    workspace = torch.empty(getattr(_kernels, f"{name}_workspace")(args), dtype=torch.uint8, device=like.device)
    args.update(device=like.device.index, stream=torch.cuda.current_stream(like.device).cuda_stream,
                workspace=workspace.data_ptr())
    with torch.cuda.device(like.device):
        getattr(_kernels, f"{name}_cuda_{dtype}")(args)


def _through_cpu(operator, device, tensors, settings):
    """What an operator gives for tensors on a device without kernels: drawn on the CPU, brought back."""
    global _warned
    if not _warned:
        warnings.warn(f"neural_renderer has no kernels for {device} in this build: tensors are taken "
                      "to the CPU, drawn there and brought back", RuntimeWarning, stacklevel=3)
        _warned = True
    results = operator(*(None if t is None else t.cpu() for t in tensors), *settings)
    return tuple(r.to(device) for r in results)


_warned = False


def add_shares(grad_vertices, faces, shares):
    """Add what the corners of faces got along the first C axes, (B, F, 3, C), in a fixed order (torch's own, under
    deterministic algorithms) to grad_vertices (B, V, 3). A face with an index out of range has none."""
    (B, V), C = grad_vertices.shape[:2], shares.shape[3]
    member = torch.arange(B, device=faces.device)[:, None, None] * V
    total = grad_vertices.new_zeros(B * V, C).index_add_(0, (faces.long().clamp(0, V - 1) + member).flatten(),
                                                         shares.flatten(0, 2))
    grad_vertices[..., :C] += total.view(B, V, C)


def _numpy(tensor, dtype=None):
    return None if tensor is None else tensor.detach().to(dtype or torch.float64).numpy()


@torch.library.custom_op("neural_renderer::rasterize", mutates_args=())
def _rasterize(vertices: Tensor, faces: Tensor, textures: Optional[Tensor], light: Optional[Tensor],
               background: Optional[Tensor], height: int, width: int, samples: int, near: float,
               far: float, eps: float, fill_back: bool, outputs: int
               ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if vertices.device.type != "cpu" and not _has_kernels(vertices.device):
        return _through_cpu(_rasterize, vertices.device, (vertices, faces, textures, light, background),
                            (height, width, samples, near, far, eps, fill_back, outputs))
    if not faces.is_cuda:
        check_faces(faces, vertices)  # here too: a compiled program comes past rasterize() only once
    images = _empty_images(vertices, height, width, samples, outputs)
    rgb, alpha, depth, face_index, rgb_samples = images
    wanted = {"rgb": rgb, "alpha": alpha, "depth": depth, "face_index": face_index,
              "rgb_samples": rgb_samples}
    if get_backend() == "compiled":
        vertices = vertices.contiguous()
        args = _scene(vertices, faces, textures, height, width, samples, near, far, eps, fill_back)
        keep = _addresses(args, vertices, faces, textures, light, background)  # noqa: F841
        args.update({k: t.data_ptr() for k, t in wanted.items() if t.numel()})
        _run("forward", args, vertices)
    else:
        results = reference.rasterize_forward(
            _numpy(vertices), _numpy(faces, torch.int64), _numpy(textures), _numpy(light), _numpy(background),
            height=height, width=width, samples=samples, near=near, far=far, eps=eps,
            fill_back=fill_back, rgb=bool(outputs & RGB), alpha=bool(outputs & ALPHA),
            depth=bool(outputs & DEPTH))
        for name, tensor in wanted.items():
            if tensor.numel():
                tensor.copy_(torch.from_numpy(results[name]))
    return images


def _empty_images(vertices, height, width, samples, outputs):
    B, sH, sW = vertices.shape[0], samples * height, samples * width
    return (vertices.new_empty((B, 3, height, width) if outputs & RGB else (0,)),
            vertices.new_empty((B, height, width) if outputs & ALPHA else (0,)),
            vertices.new_empty((B, height, width) if outputs & DEPTH else (0,)),
            vertices.new_empty((B, sH, sW), dtype=torch.int32),
            vertices.new_empty((B, sH, sW, 3) if outputs & RGB else (0,)))


@_rasterize.register_fake
def _(vertices, faces, textures, light, background, height, width, samples, near, far, eps, fill_back,
      outputs):
    return _empty_images(vertices, height, width, samples, outputs)


@torch.library.custom_op("neural_renderer::rasterize_backward", mutates_args=())
def _rasterize_backward(vertices: Tensor, faces: Tensor, textures: Optional[Tensor],
                        light: Optional[Tensor], background: Optional[Tensor], face_index: Tensor,
                        rgb_samples: Tensor, grad_rgb: Optional[Tensor],
                        grad_alpha: Optional[Tensor], grad_depth: Optional[Tensor], height: int,
                        width: int, samples: int, near: float, far: float, eps: float,
                        fill_back: bool, need_vertices: bool, need_textures: bool,
                        need_light: bool) -> Tuple[Tensor, Tensor, Tensor]:
    if vertices.device.type != "cpu" and not _has_kernels(vertices.device):
        return _through_cpu(_rasterize_backward, vertices.device,
                            (vertices, faces, textures, light, background, face_index, rgb_samples, grad_rgb,
                             grad_alpha, grad_depth),
                            (height, width, samples, near, far, eps, fill_back, need_vertices, need_textures,
                             need_light))
    gradients = _zero_gradients(vertices, textures, light, need_vertices, need_textures, need_light)
    grad_vertices, grad_textures, grad_light = gradients
    if get_backend() == "compiled":
        vertices = vertices.contiguous()
        args = _scene(vertices, faces, textures, height, width, samples, near, far, eps, fill_back)
        keep = _addresses(args, vertices, faces, textures, light, background)
        tensors = {"face_index": face_index, "rgb_samples": rgb_samples, "grad_rgb": grad_rgb,
                   "grad_alpha": grad_alpha, "grad_depth": grad_depth}
        for name, tensor in tensors.items():
            if tensor is not None and tensor.numel():
                tensor = tensor.contiguous()
                keep.append(tensor)
                args[name] = tensor.data_ptr()
        if need_vertices:
            args["grad_vertices"] = grad_vertices.data_ptr()
        if need_textures:
            args["grad_textures"] = grad_textures.data_ptr()
        if need_light:
            args["grad_light"] = grad_light.data_ptr()
        if vertices.is_cuda and torch.are_deterministic_algorithms_enabled():
            _run_in_fixed_order(args, vertices, faces, grad_vertices)
        else:
            _run("backward", args, vertices)
    else:
        results = reference.rasterize_backward(
            _numpy(vertices), _numpy(faces, torch.int64),
            _numpy(textures), _numpy(light), _numpy(background), _numpy(face_index, torch.int64),
            _numpy(rgb_samples), _numpy(grad_rgb), _numpy(grad_alpha), _numpy(grad_depth),
            height=height, width=width, samples=samples, near=near, far=far, eps=eps,
            fill_back=fill_back)
        for tensor, result in zip(gradients, results):
            if tensor.numel():
                tensor.copy_(torch.from_numpy(result))
    if need_vertices and not vertices.is_cuda and not grad_vertices.any():
        warn_if_unseen(vertices, faces, face_index, near, far, fill_back)
    return gradients


def _run_in_fixed_order(args, vertices, faces, grad_vertices):
    """_run("backward") on a GPU, without atomics."""
    edges, depth = vertices.new_zeros(*faces.shape, 2, 2), vertices.new_zeros(*faces.shape, 3)
    _run("backward", {**args, "edge_shares": edges.data_ptr(), "depth_shares": depth.data_ptr()}, vertices)
    if grad_vertices.numel():
        add_shares(grad_vertices, faces, edges.sum(3))
        if "grad_depth" in args:
            add_shares(grad_vertices, faces, depth)


def _zero_gradients(vertices, textures, light, need_vertices, need_textures, need_light):
    return (vertices.new_zeros(vertices.shape if need_vertices else (0,)),
            vertices.new_zeros(textures.shape if need_textures else (0,)),
            vertices.new_zeros(light.shape if need_light else (0,)))


@_rasterize_backward.register_fake
def _(vertices, faces, textures, light, background, face_index, rgb_samples, grad_rgb, grad_alpha,
      grad_depth, height, width, samples, near, far, eps, fill_back, need_vertices, need_textures, need_light):
    return _zero_gradients(vertices, textures, light, need_vertices, need_textures, need_light)


def _setup_context(ctx, inputs, output):
    vertices, faces, textures, light, background, *ctx.settings = inputs
    ctx.outputs = ctx.settings.pop()
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(vertices, faces, textures, light, background, output[3], output[4])


def _backward(ctx, grad_rgb, grad_alpha, grad_depth, _face_index, _rgb_samples):
    vertices, faces, textures, light, background, face_index, rgb_samples = ctx.saved_tensors
    grads = [g if g is not None and ctx.outputs & flag else None
             for g, flag in ((grad_rgb, RGB), (grad_alpha, ALPHA), (grad_depth, DEPTH))]
    need_vertices = ctx.needs_input_grad[0]
    need_textures = grads[0] is not None and textures is not None and ctx.needs_input_grad[2]
    need_light = grads[0] is not None and light is not None and ctx.needs_input_grad[3]
    grad_vertices, grad_textures, grad_light = _rasterize_backward(
        vertices, faces, textures, light, background, face_index, rgb_samples, *grads,
        *ctx.settings, need_vertices, need_textures, need_light)
    return (grad_vertices if need_vertices else None, None, grad_textures if need_textures else None,
            grad_light if need_light else None, None, *[None] * (len(ctx.settings) + 1))


_rasterize.register_autograd(_backward, setup_context=_setup_context)


def image_shape(image_size):
    """(height, width) from an int or a pair; pixels are counted in int32 inside the kernels."""
    pair = (image_size, image_size) if not isinstance(image_size, (tuple, list)) else image_size
    try:
        height, width = (int(s) for s in pair)
        exact = all(int(s) == s for s in pair)
    except (TypeError, ValueError):
        exact = False
    if not exact or not (1 <= height <= 16384 and 1 <= width <= 16384):
        raise ValueError("image_size must be an int or (height, width), each from 1 to 16384, got "
                         f"{image_size!r}")
    return height, width


def rasterize(vertices, faces, textures=None, light=None, background=None, *, image_size,
              anti_aliasing, near, far, eps, fill_back=False, rgb=False, alpha=False, depth=False):
    """Draw meshes that are already on the screen; the one entrance to the kernels.

    Parameters
    ----------
    vertices : (B, V, 3) float
        NDC x (right) and y (up) in [-1, 1], and depth z. float32 or float64; half precisions are
        raised to float32. A face with a corner that is not finite is drawn as nothing and gets no
        gradient.
    faces : (B, F, 3) or (F, 3) integer
        Indices of vertices. (F, 3), and a tensor expanded over the batch, are not copied.
    textures : (B, F, T, T, T, 3) float, optional
        With `rgb`. Axis k of a cube belongs to corner k.
    light : (B, F, 2, 3) float, optional
        Factor on the texture of the front and of the back of each face.
    background : (3,) or (B, 3) float, optional
    image_size : int or (height, width)
    fill_back : bool
        Draw the back of faces too.
    rgb, alpha, depth : bool
        Which images are wanted.

    Returns
    -------
    (rgb (B, 3, H, W), alpha (B, H, W), depth (B, H, W)), None where not wanted. Row 0 is the top.

    Gradients: NMR (Kato et al., CVPR 2018) to x and y from rgb and alpha, exact from depth to
    x, y and z, exact to textures and light; none to the background.
    """
    check_vertices(vertices)
    if vertices.dtype not in (torch.float32, torch.float64):
        vertices = vertices.float()
    B = vertices.shape[0]
    check_faces(faces, vertices)
    if faces.dim() == 2:
        faces = faces[None].expand(B, -1, -1)
    F = faces.shape[1]
    if F >= 2 ** 28 or vertices.shape[1] >= 2 ** 31:
        raise ValueError(f"faces and vertices must number below 2^28 and 2^31, got {F} and "
                         f"{vertices.shape[1]}")
    height, width = image_shape(image_size)
    near, far, eps = real("near", near), real("far", far), real("eps", eps)
    if not near < far:
        raise ValueError(f"near must be below far, got {near} and {far}")

    def prepare(name, tensor, shape, wanted):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or \
                tensor.dim() != len(shape) or any(s is not None and s != t
                                                  for s, t in zip(shape, tensor.shape)):
            raise ValueError(f"{name} must be a float tensor of shape {wanted}, got {describe(tensor)}")
        if tensor.device != vertices.device:
            raise ValueError(f"{name} must be on the device of vertices, {vertices.device}, got "
                             f"{tensor.device}")
        return tensor.to(vertices.dtype)

    if rgb:
        textures = prepare("textures", textures, (B, F, None, None, None, 3),
                           f"({B}, {F}, T, T, T, 3)")
        if not 1 <= textures.shape[2] == textures.shape[3] == textures.shape[4]:
            raise ValueError(f"textures must be cubes of T x T x T texels, got shape {tuple(textures.shape)}")
        if light is not None:
            light = prepare("light", light, (B, F, 2, 3), f"({B}, {F}, 2, 3)")
        if background is None:
            background = vertices.new_zeros(3)
        if isinstance(background, Tensor) and background.dim() == 1:
            background = background.expand(B, -1)
        background = prepare("background", background, (B, 3), f"(3,) or ({B}, 3)")
    else:
        textures = light = background = None
    outputs = RGB * bool(rgb) | ALPHA * bool(alpha) | DEPTH * bool(depth)
    images = _rasterize(vertices, faces, textures, light, background, height, width,
                        2 if anti_aliasing else 1, near, far, eps, bool(fill_back), outputs)
    return tuple(image if outputs & flag else None
                 for image, flag in zip(images, (RGB, ALPHA, DEPTH)))
