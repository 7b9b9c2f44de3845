"""The compiled functions of neural_renderer_pytorch 1.1.3 and its autograd.Function, as programs call them. They are
compared with `nr.Rasterize`, whose kernels have their own tests."""
from types import SimpleNamespace

import neural_renderer as nr
import neural_renderer.cuda.rasterize as raw
import pytest
import torch
from neural_renderer.rasterize import RasterizeFunction


def test_compiled_functions_for_files_say_what_to_use():
    from neural_renderer.cuda import create_texture_image, load_textures
    for module in (load_textures, create_texture_image):
        name = module.__name__.rpartition(".")[2]
        with pytest.raises(RuntimeError, match=f"use neural_renderer.{name}"):
            getattr(module, name)(1, 2, 3)


def triangles(dtype=torch.float32):
    """Two batch members of eight triangles, of which some cover others, some show their back and one lies outside."""
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(2, 8, 3, 3, generator=generator, dtype=dtype) * 2.4 - 1.2
    corners[..., 2] += 2.5
    corners[:, 3, :, 0] += 4
    return corners, torch.rand(2, 8, 3, 3, 3, 3, generator=generator, dtype=dtype)


def test_rasterize_function():
    assert issubclass(RasterizeFunction, torch.autograd.Function)
    corners, textures = triangles()
    for wanted in ((True, True, True), (False, True, False), (True, False, False), (False, False, True)):
        settings = (9, 0.1, 5, 1e-3, (0.1, 0.2, 0.3), *wanted)
        results = []
        for draw in (lambda f, t: RasterizeFunction.apply(f, t, *settings), nr.Rasterize(*settings)):
            leaves = [tensor.clone().requires_grad_() for tensor in (corners, textures)]
            images = draw(*leaves)
            sum((i * torch.linspace(-1, 1, i.numel()).view_as(i)).sum() for i in images if i is not None).backward()
            results.append([*images, *(leaf.grad for leaf in leaves)])
        for a, b in zip(*results):
            assert (a is None) == (b is None) and (a is None or torch.equal(a, b))
    only = RasterizeFunction.apply(corners.requires_grad_(), None, 9, 0.1, 5, 1e-3, (0, 0, 0), return_alpha=True)[1]
    first, = torch.autograd.grad(only.square().sum(), corners, create_graph=True)
    with pytest.raises(RuntimeError):
        torch.autograd.grad(first.square().sum(), corners)


class Own(torch.autograd.Function):
    """A program's own autograd function around the compiled functions, with an original's maps."""

    @staticmethod
    def forward(ctx, faces, textures, N, near, far, eps):
        B, new = len(faces), faces.new_zeros
        index, weight = torch.full((B, N, N), -1, dtype=torch.int32), new(B, N, N, 3)
        depth, inverse = torch.full((B, N, N), far, dtype=faces.dtype), new(B, N, N, 3, 3)
        index, weight, depth, inverse = raw.forward_face_index_map(
            faces, index, weight, depth, inverse, torch.zeros_like(faces), N, near, far, 1, 1, 1)
        rgb, texel, share = raw.forward_texture_sampling(
            faces, textures, index, weight, depth, new(B, N, N, 3), torch.zeros(B, N, N, 8, dtype=torch.int32),
            new(B, N, N, 8), N, eps)
        alpha = (index >= 0).to(faces.dtype)
        ctx.save_for_backward(faces, textures, index, weight, depth, inverse, rgb, texel, share, alpha)
        ctx.N, ctx.eps = N, eps
        return rgb, alpha, depth

    @staticmethod
    def backward(ctx, grad_rgb, grad_alpha, grad_depth):
        faces, textures, index, weight, depth, inverse, rgb, texel, share, alpha = ctx.saved_tensors
        gradient = raw.backward_pixel_map(faces, index, rgb, alpha, grad_rgb, grad_alpha, torch.zeros_like(faces),
                                          ctx.N, ctx.eps, 1, 1)
        of_textures = raw.backward_textures(index, share, texel, grad_rgb, torch.zeros_like(textures), faces.shape[1])
        gradient = raw.backward_depth_map(faces, depth, index, inverse, weight, grad_depth, gradient, ctx.N)
        return gradient, of_textures, None, None, None, None


@pytest.mark.parametrize("T", [3, 1])
@pytest.mark.parametrize("dtype, close", [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_an_autograd_function_of_ones_own_around_the_compiled_functions(dtype, close, T, each_backend):
    corners, textures = triangles(dtype)
    textures = textures[:, :, :T, :T, :T].contiguous()
    known = nr.Rasterize(13, 0.1, 5, 1e-3, (0, 0, 0), True, True, True)
    results = []
    for draw in (lambda f, t: Own.apply(f, t, 13, 0.1, 5.0, 1e-3), known):
        leaves = [tensor.clone().requires_grad_() for tensor in (corners, textures)]
        images = draw(*leaves)
        sum((i * torch.linspace(-1, 1, i.numel(), dtype=dtype).view_as(i)).sum() for i in images).backward()
        results.append([*images, *(leaf.grad for leaf in leaves)])
    assert results[1][1].mean() > 0.15 and results[1][3].abs().max() > 1
    for mine, wanted in zip(*results):
        torch.testing.assert_close(mine, wanted, rtol=close, atol=close)


def test_methods_of_rasterize_function_in_a_pass_of_ones_own():
    """Coverage alone, and colours before a background, with the settings in ctx; other maps are dummies."""
    corners, textures = triangles()
    ctx = SimpleNamespace(image_size=13, near=0.1, far=5, eps=1e-3, background_color=[0.2, 0.4, 0.6], return_rgb=False,
                          return_alpha=True, return_depth=False, num_faces=8)
    new, dummy = corners.new_zeros, torch.zeros(1)
    index, weight, depth, _ = RasterizeFunction.forward_face_index_map(
        ctx, corners, torch.full((2, 13, 13), -1, dtype=torch.int32), new(2, 13, 13, 3), torch.full((2, 13, 13), 5.0),
        dummy)
    rgb = RasterizeFunction.forward_texture_sampling(ctx, corners, dummy, index, weight, depth, dummy, dummy, dummy)[0]
    assert rgb is dummy
    alpha = RasterizeFunction.forward_alpha_map(ctx, new(2, 13, 13), index)
    gradient = torch.linspace(-1, 1, 2 * 169).view(2, 13, 13)
    found = RasterizeFunction.backward_pixel_map(ctx, corners, index, dummy, alpha, dummy, gradient,
                                                 torch.zeros_like(corners))
    assert RasterizeFunction.backward_depth_map(ctx, corners, depth, index, dummy, weight, dummy, found) is found
    leaf = corners.clone().requires_grad_()
    known = nr.Rasterize(13, 0.1, 5, 1e-3, ctx.background_color, return_rgb=True, return_alpha=True)(leaf, textures)
    assert torch.equal(known[1], alpha)
    known[1].backward(gradient)
    torch.testing.assert_close(found, leaf.grad, rtol=1e-4, atol=1e-4)
    ctx.return_rgb = True
    rgb = RasterizeFunction.forward_texture_sampling(
        ctx, corners, textures, index, weight, depth, new(2, 13, 13, 3), new(2, 13, 13, 8).int(), new(2, 13, 13, 8))[0]
    torch.testing.assert_close(RasterizeFunction.forward_background(ctx, index, rgb), known[0], rtol=1e-4, atol=1e-4)
    ctx.background_color = [[0.2, 0.4, 0.6], [1, 0, 0]]
    assert RasterizeFunction.forward_background(ctx, index, rgb)[1][index[1] < 0].unique(dim=0).tolist() == [[1, 0, 0]]


def test_no_faces_and_compiled_functions():
    rgb, alpha, depth = Own.apply(torch.zeros(1, 0, 3, 3), torch.zeros(1, 0, 2, 2, 2, 3), 4, 0.1, 5.0, 1e-3)
    assert not rgb.any() and not alpha.any() and bool((depth == 5).all())
