"""The torch operator neural_renderer::rasterize, which calls the kernels, with autograd and fake kernels.

This file checks shapes, types and devices. The kernels get raw addresses and check nothing.
"""
import warnings
from typing import Optional, Tuple

import torch
from torch import Tensor

from . import reference
from .backend import _kernels, get_backend
from .checks import check_faces, check_vertices, describe, integers, real
from .transforms import differentiable, forward_mode_refused, second_derivatives_refused
from .unseen import warn_if_blank, warn_if_unseen

RGB, ALPHA, DEPTH = 1, 2, 4


def _scene(vertices, faces, textures, height, width, samples, near, far, eps, fill_back, perspective):
    return dict(B=vertices.shape[0], V=vertices.shape[1], F=faces.shape[-2], H=height, W=width,
                S=samples, T=0 if textures is None else textures.shape[2], near=near, far=far,
                eps=eps, fill_back=fill_back, perspective=perspective, threads=torch.get_num_threads())


def _batch_dense(tensor, dtype=None):
    """(tensor with contiguous batch members, stride between the members: 0 if the whole batch shares one)."""
    if dtype is not None and tensor.dtype != dtype:
        shared = tensor.shape[0] and tensor.stride(0) == 0
        tensor = tensor[:1].to(dtype).expand(tensor.shape) if shared else tensor.to(dtype)
    if tensor.shape[0] and tensor.stride(0) == 0:
        return tensor[:1].contiguous(), 0
    return tensor.contiguous(), tensor[:1].numel()


def _address(tensor):
    """The address of a tensor's data; None for no tensor or an empty one."""
    return None if tensor is None or not tensor.numel() else tensor.data_ptr()


def _addresses(scene, vertices, faces, textures, colours, light, background):
    """Add the kernel's inputs to `scene`. Returns tensors that the caller must keep until the kernel has run."""
    keep = [vertices]
    for name, tensor, dtype in (("faces", faces, torch.int32), ("textures", textures, None),
                                ("colours", colours, None)):
        scene[f"{name}_stride"] = 0
        if tensor is not None:
            tensor, scene[f"{name}_stride"] = _batch_dense(tensor, dtype)
        keep.append(tensor)
        scene[name] = _address(tensor)
    for name, tensor in (("light", light), ("background", background)):
        keep.append(None if tensor is None else tensor.contiguous())
        scene[name] = _address(keep[-1])
    scene["vertices"] = _address(vertices)
    return keep


def _has_kernels(device):
    """Whether compiled kernels are in use and run on this device; a GPU needs a build with CUDA."""
    return get_backend() == "compiled" and (device.type == "cpu" or
                                            device.type == "cuda" and _kernels.cuda_architectures is not None)


def _run(name, args, like):
    """Run the kernel `name`, 'forward' or 'backward', for the device and the scalar type of the tensor `like`."""
    dtype = str(like.dtype)[6:]
    if like.device.type == "cpu":
        return getattr(_kernels, f"{name}_{dtype}")(args)
    size = getattr(_kernels, f"{name}_workspace")(**{k: args[k] for k in "BFHWS"})
    workspace = torch.empty(size, dtype=torch.uint8, device=like.device)
    args.update(device=like.device.index, stream=torch.cuda.current_stream(like.device).cuda_stream,
                workspace=_address(workspace))
    with torch.cuda.device(like.device):
        getattr(_kernels, f"{name}_cuda_{dtype}")(args)


def _through_cpu(operator, device, tensors, settings):
    """Run an operator on the CPU for tensors on a device without kernels, and copy the results back."""
    global _warned
    if not _warned:
        warnings.warn(f"this build of neural_renderer has no kernels for {device}: it copies tensors to the CPU, "
                      "draws there and copies the images back", RuntimeWarning, stacklevel=3)
        _warned = True
    results = operator(*(None if t is None else t.cpu() for t in tensors), *settings)
    return tuple(r.to(device) for r in results)


_warned = False


def add_shares(grad_vertices, faces, shares):
    """Add the gradients of the faces' corners, (B, F, 3, C), to the first C axes of grad_vertices (B, V, 3).

    index_add_ adds in a fixed order under torch's deterministic algorithms. The shares of a face with an index out of
    range are zero."""
    (B, V), C = grad_vertices.shape[:2], shares.shape[3]
    member = torch.arange(B, device=faces.device)[:, None, None] * V
    total = grad_vertices.new_zeros(B * V, C).index_add_(0, (faces.long().clamp(0, V - 1) + member).flatten(),
                                                         shares.flatten(0, 2))
    grad_vertices[..., :C] += total.view(B, V, C)


def _numpy(tensor, dtype=None):
    return None if tensor is None else tensor.detach().to(dtype or torch.float64).numpy()


@torch.library.custom_op("neural_renderer::rasterize", mutates_args=())
def _rasterize(vertices: Tensor, faces: Tensor, textures: Optional[Tensor], colours: Optional[Tensor],
               light: Optional[Tensor], background: Optional[Tensor], height: int, width: int, samples: int,
               near: float, far: float, eps: float, fill_back: bool, perspective: bool, checked: bool, outputs: int
               ) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    settings = (height, width, samples, near, far, eps, fill_back, perspective)
    tensors = (vertices, faces, textures, colours, light, background)
    if vertices.device.type != "cpu" and not _has_kernels(vertices.device):
        return _through_cpu(_rasterize, vertices.device, tensors, (*settings, checked, outputs))
    if not checked and not faces.is_cuda:  # torch.compile traces rasterize() without its check of the indices
        check_faces(faces, vertices)
    images = _empty_images(vertices, height, width, samples, outputs)
    wanted = dict(zip(("rgb", "alpha", "depth", "face_index", "rgb_samples"), images))
    if get_backend() == "compiled":
        vertices = vertices.contiguous()
        args = _scene(vertices, faces, textures, *settings)
        keep = _addresses(args, vertices, *tensors[1:])  # noqa: F841
        args.update({k: _address(t) for k, t in wanted.items()})
        _run("forward", args, vertices)
    else:
        results = reference.rasterize_forward(
            _numpy(vertices), _numpy(faces, torch.int64), _numpy(textures), _numpy(colours), _numpy(light),
            _numpy(background), height=height, width=width, samples=samples, near=near, far=far, eps=eps,
            fill_back=fill_back, perspective=perspective, rgb=bool(outputs & RGB), alpha=bool(outputs & ALPHA),
            depth=bool(outputs & DEPTH))
        for name, tensor in wanted.items():
            if tensor.numel():
                tensor.copy_(torch.from_numpy(results[name]))
    if not vertices.is_cuda:  # a GPU would have to be waited for
        warn_if_blank(vertices, faces, wanted["face_index"], near, far, fill_back)
    return images


def _empty_images(vertices, height, width, samples, outputs):
    B, sH, sW = vertices.shape[0], samples * height, samples * width
    return (vertices.new_empty((B, 3, height, width) if outputs & RGB else (0,)),
            vertices.new_empty((B, height, width) if outputs & ALPHA else (0,)),
            vertices.new_empty((B, height, width) if outputs & DEPTH else (0,)),
            vertices.new_empty((B, sH, sW), dtype=torch.int32),
            vertices.new_empty((B, sH, sW, 3) if outputs & RGB else (0,)))


@_rasterize.register_fake
def _(vertices, faces, textures, colours, light, background, height, width, samples, near, far, eps, fill_back,
      perspective, checked, outputs):
    return _empty_images(vertices, height, width, samples, outputs)


@torch.library.custom_op("neural_renderer::rasterize_backward", mutates_args=())
def _rasterize_backward(vertices: Tensor, faces: Tensor, textures: Optional[Tensor], colours: Optional[Tensor],
                        light: Optional[Tensor], background: Optional[Tensor], face_index: Tensor,
                        rgb_samples: Tensor, grad_rgb: Optional[Tensor],
                        grad_alpha: Optional[Tensor], grad_depth: Optional[Tensor], height: int,
                        width: int, samples: int, near: float, far: float, eps: float,
                        fill_back: bool, perspective: bool, need_vertices: bool, need_textures: bool,
                        need_colours: bool, need_light: bool) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    settings = (height, width, samples, near, far, eps, fill_back, perspective)
    needs = (need_vertices, need_textures, need_colours, need_light)
    inputs = (vertices, faces, textures, colours, light, background)
    kept = {"face_index": face_index, "rgb_samples": rgb_samples, "grad_rgb": grad_rgb, "grad_alpha": grad_alpha,
            "grad_depth": grad_depth}
    if vertices.device.type != "cpu" and not _has_kernels(vertices.device):
        return _through_cpu(_rasterize_backward, vertices.device, (*inputs, *kept.values()), (*settings, *needs))
    gradients = _zero_gradients(vertices, textures, colours, light, *needs)
    grad_vertices = gradients[0]
    if get_backend() == "compiled":
        vertices = vertices.contiguous()
        args = _scene(vertices, faces, textures, *settings)
        keep = _addresses(args, vertices, *inputs[1:])
        for name, tensor in kept.items():
            keep.append(None if tensor is None else tensor.contiguous())
            args[name] = _address(keep[-1])
        args.update(zip(("grad_vertices", "grad_textures", "grad_colours", "grad_light"), map(_address, gradients)))
        if vertices.is_cuda:
            _run_backward_cuda(args, vertices, faces, gradients)
        else:
            _run("backward", args, vertices)
    else:
        results = reference.rasterize_backward(
            _numpy(vertices), _numpy(faces, torch.int64), _numpy(textures), _numpy(colours),
            _numpy(light), _numpy(background), _numpy(face_index, torch.int64),
            _numpy(rgb_samples), _numpy(grad_rgb), _numpy(grad_alpha), _numpy(grad_depth),
            height=height, width=width, samples=samples, near=near, far=far, eps=eps,
            fill_back=fill_back, perspective=perspective)
        for tensor, result in zip(gradients, results):
            if tensor.numel():
                tensor.copy_(torch.from_numpy(result))
    if need_vertices and not vertices.is_cuda and not grad_vertices.any():
        warn_if_unseen(vertices, faces, face_index, near, far, fill_back)
    return gradients


def _run_backward_cuda(args, vertices, faces, gradients):
    """_run("backward") on a GPU, without atomics if torch must be deterministic."""
    shares = dict.fromkeys(("edge_shares", "sample_shares", "colour_shares"))
    if torch.are_deterministic_algorithms_enabled():
        shares = {"edge_shares": vertices.new_zeros(*faces.shape, 2, 2),
                  "sample_shares": vertices.new_zeros(*faces.shape, 3),
                  "colour_shares": vertices.new_zeros(*faces.shape, 3) if args["grad_colours"] else None}
    _run("backward", {**args, **{name: _address(tensor) for name, tensor in shares.items()}}, vertices)
    if shares["edge_shares"] is not None and args["grad_vertices"]:
        add_shares(gradients[0], faces, shares["edge_shares"].sum(3))
        add_shares(gradients[0], faces, shares["sample_shares"])
    if shares["colour_shares"] is not None:
        add_shares(gradients[2], faces, shares["colour_shares"])


def _zero_gradients(vertices, textures, colours, light, *needs):
    return tuple(vertices.new_zeros(tensor.shape if need else (0,))
                 for tensor, need in zip((vertices, textures, colours, light), needs))


@_rasterize_backward.register_fake
def _(vertices, faces, textures, colours, light, background, face_index, rgb_samples, grad_rgb, grad_alpha,
      grad_depth, height, width, samples, near, far, eps, fill_back, perspective, *needs):
    return _zero_gradients(vertices, textures, colours, light, *needs)


def _setup_context(ctx, inputs, output):
    *tensors, height, width, samples, near, far, eps, fill_back, perspective, _checked, ctx.outputs = inputs
    ctx.settings = height, width, samples, near, far, eps, fill_back, perspective
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, output[3], output[4])


def _backward(ctx, grad_rgb, grad_alpha, grad_depth, _face_index, _rgb_samples):
    vertices, faces, textures, colours, light, background, face_index, rgb_samples = ctx.saved_tensors
    grads = [g if g is not None and ctx.outputs & flag else None
             for g, flag in ((grad_rgb, RGB), (grad_alpha, ALPHA), (grad_depth, DEPTH))]
    needs = [ctx.needs_input_grad[0], *(
        grads[0] is not None and tensor is not None and ctx.needs_input_grad[place]
        for place, tensor in ((2, textures), (3, colours), (4, light)))]
    found = _pull_back(vertices, faces, textures, colours, light, background, face_index, rgb_samples,
                                *grads, *ctx.settings, *needs)
    of_vertices, *others = (gradient if need else None for gradient, need in zip(found, needs))
    return of_vertices, None, *others, None, *[None] * (len(ctx.settings) + 2)


_pull_back = differentiable(_rasterize_backward, second_derivatives_refused)
_draw = differentiable(_rasterize, _backward, _setup_context)


def image_shape(image_size):
    """(height, width) from an int or a pair. The limit of 16384 lets the kernels count pixels in int32."""
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


def _mesh(vertices, faces, checked):
    """(vertices in float32 or float64, faces (B, F, 3), whether their indices are known to be right)."""
    check_vertices(vertices)
    if vertices.dtype not in (torch.float32, torch.float64):
        vertices = vertices.float()
    faces = integers(faces)
    checked = checked or check_faces(faces, vertices)
    if faces.dim() == 2:
        faces = faces[None].expand(vertices.shape[0], -1, -1)
    if faces.shape[1] >= 2 ** 28 or vertices.shape[1] >= 2 ** 31:
        raise ValueError(f"faces and vertices must number below 2^28 and 2^31, got {faces.shape[1]} and "
                         f"{vertices.shape[1]}")
    return vertices, faces, checked


def _between(near, far):
    near, far = real("near", near), real("far", far)
    if not near < far:
        raise ValueError(f"near must be below far, got {near} and {far}")
    return near, far


def rasterize(vertices, faces, textures=None, light=None, background=None, *, image_size,
              anti_aliasing, near, far, eps, fill_back=False, rgb=False, alpha=False, depth=False,
              perspective=True, checked=False):
    """Draw meshes whose vertices are already in NDC. All drawing goes through this function.

    Parameters
    ----------
    vertices : (B, V, 3) float
        NDC x (right) and y (up) in [-1, 1], and depth z. float32 or float64; half precisions are
        converted to float32. A face with a corner that is not finite is not drawn and gets no
        gradient.
    faces : (B, F, 3) or (F, 3) integer
        Indices of vertices. Faces (F, 3), and faces expanded over the batch, are not copied for each mesh.
    textures : (B, F, T, T, T, 3) or (B, V, 3) float, optional
        Needed if `rgb`. Axis k of a cube belongs to corner k. (B, V, 3) are colours of vertices,
        interpolated with perspective correction.
    light : (B, F, 2, 3) float, optional
        Factor for the texture on the front and on the back of each face.
    background : (3,) or (B, 3) float, optional
    image_size : int or (height, width)
    fill_back : bool
        Draw the back of faces too.
    rgb, alpha, depth : bool
        Which images to draw.
    perspective : bool
        Whether x and y were divided by z. If so, vertices with z <= 0 are behind the eye, and faces that reach there
        are clipped at `near` (unless near is negative; see csrc/raster_math.h). A clipped face has a gradient in z too.
    checked : bool
        The caller has already checked the faces' indices (`check_faces`).

    Returns
    -------
    (rgb (B, 3, H, W), alpha (B, H, W), depth (B, H, W)); None for an image not asked for. Row 0 is the top.

    Gradients: from rgb and alpha to x and y as in NMR (Kato et al., CVPR 2018); from depth to x, y and z exact; to
    textures, colours and light exact; to the background none. Colours of vertices are interpolated inside of a face,
    and this adds its exact gradient to x, y and z. There are first derivatives only, in reverse mode.
    """
    vertices, faces, checked = _mesh(vertices, faces, checked)
    B, F, V = vertices.shape[0], faces.shape[1], vertices.shape[1]
    height, width = image_shape(image_size)
    (near, far), eps = _between(near, far), real("eps", eps)

    def prepare(name, tensor, shape, wanted):
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or \
                tensor.dim() != len(shape) or any(s is not None and s != t
                                                  for s, t in zip(shape, tensor.shape)):
            raise ValueError(f"{name} must be a float tensor of shape {wanted}, got {describe(tensor)}")
        if tensor.device != vertices.device:
            raise ValueError(f"{name} must be on the device of vertices, {vertices.device}, got "
                             f"{tensor.device}")
        return tensor.to(vertices.dtype)

    colours = None
    if rgb:
        wanted = f"({B}, {F}, T, T, T, 3), or ({B}, {V}, 3) for colours of vertices"
        if isinstance(textures, Tensor) and textures.dim() == 3:
            textures, colours = None, prepare("textures", textures, (B, V, 3), wanted)
        else:
            textures = prepare("textures", textures, (B, F, None, None, None, 3), wanted)
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
    forward_mode_refused("rasterize", vertices, textures, colours, light, background)
    outputs = RGB * bool(rgb) | ALPHA * bool(alpha) | DEPTH * bool(depth)
    images = _draw(vertices, faces, textures, colours, light, background, height, width,
                        2 if anti_aliasing else 1, near, far, eps, bool(fill_back), bool(perspective), checked,
                        outputs)
    return tuple(image if outputs & flag else None
                 for image, flag in zip(images, (RGB, ALPHA, DEPTH)))


def face_index(vertices, faces, *, image_size, near, far, fill_back=False, perspective=True, checked=False):
    """The index of the face seen at the centre of each pixel, (B, H, W) int64; -1 if there is none.

    The parameters are those of `rasterize`. Not differentiable.
    """
    vertices, faces, checked = _mesh(vertices, faces, checked)
    height, width = image_shape(image_size)
    near, far = _between(near, far)
    order = _draw(vertices.detach(), faces, None, None, None, None, height, width, 1, near, far, 0.0,
                       bool(fill_back), bool(perspective), checked, 0)[3].long()
    return torch.where(order >= faces.shape[1], order - faces.shape[1], order)  # a back has the index F + face


def corner_weights(vertices, faces, index):
    """Perspective-correct barycentric weights (B, H, W, 3) of the faces `index` from `face_index`; 0 without a face.

    Weight k belongs to vertex faces[..., k]: the weighted sum of the corners' attributes (colours, texture coordinates)
    is the attribute at the centre of the pixel. The gradient to the vertices is exact.
    """
    B, H, W = index.shape
    seen = index >= 0
    batch = torch.arange(B, device=index.device)[:, None, None]
    faces = faces[None].expand(B, -1, -1) if faces.dim() == 2 else faces
    if not faces.shape[1]:
        return vertices.new_zeros(B, H, W, 3)
    corners = vertices[batch[..., None], faces[batch, index.clamp(min=0)].long()]  # (B, H, W, 3, 3)
    x = (2 * torch.arange(W, device=index.device, dtype=vertices.dtype) + 1 - W) / W
    y = (H - 1 - 2 * torch.arange(H, device=index.device, dtype=vertices.dtype)) / H
    x, y = corners[..., 0] - x[:, None], corners[..., 1] - y[:, None, None]
    # Twice the area of the triangle between the pixel's centre and the side opposite to each corner.
    area = x.roll(-1, -1) * y.roll(-2, -1) - x.roll(-2, -1) * y.roll(-1, -1)
    weight = area / corners[..., 2]
    total = torch.where(seen, weight.sum(-1), 1)
    return torch.where(seen[..., None], weight / total[..., None], 0)
