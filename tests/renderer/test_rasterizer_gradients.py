"""The NMR gradient compared with published numbers and closed forms; exact gradients compared with differences."""
import math

import neural_renderer as nr
import pytest
import torch
from neural_renderer import ops
from solids import icosphere

# (corners, pixel (row, column), target value of the pixel, gradient of the original)
KNOWN = [
    ([[0.8, 0.8, 1], [0, -0.5, 1], [0.2, -0.4, 1]], (25, 35), 1.0,
     [[1.6726, -0.2602, 0], [1.4199, -1.6428, 0], [0, 0, 0]]),
    ([[0.8, 0.8, 1], [-0.5, -0.8, 1], [0.8, -0.8, 1]], (40, 50), 0.0,
     [[0.98647, 1.04629, 0], [-1.03416, -0.10404, 0], [3.00094, -1.55173, 0]]),
]


@pytest.mark.parametrize("corners, pixel, target, expected", KNOWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_known_gradients(corners, pixel, target, expected, dtype, order, each_backend):
    vertices = torch.tensor([corners], dtype=dtype, requires_grad=True)
    renderer = nr.Renderer(image_size=64, anti_aliasing=False, camera_mode="look_at",
                           perspective=False)
    image = renderer(vertices, torch.tensor([order]), mode="silhouettes")
    (image[:, pixel[0], pixel[1]] - target).abs().sum().backward()
    # The published numbers are rounded to four decimals, one of them downwards.
    torch.testing.assert_close(vertices.grad[0], torch.tensor(expected, dtype=dtype), rtol=0,
                               atol=1.5e-4)


# ---- closed forms: a triangle whose right edge stands upright at x = right ------------------------

SIZE, EPS = 16, 1e-3
BOTTOM, TOP = -0.9, 0.85


def upright(right):
    return torch.tensor([[-0.6, BOTTOM, 1], [right, BOTTOM, 1], [right, TOP, 1]],
                        dtype=torch.float64)


def gradients(vertices, faces, colours, pixel, grad_rgb=None, grad_alpha=None, background=(0, 0, 0),
              samples=1):
    """Gradient to the vertices when one pixel (row, column) receives the given gradients."""
    vertices = vertices[None].clone().requires_grad_()
    textures = torch.tensor(colours, dtype=vertices.dtype).reshape(1, -1, 1, 1, 1, 3)
    rgb, alpha, _ = ops.rasterize(
        vertices, torch.tensor(faces), textures if grad_rgb else None, None,
        torch.tensor(background, dtype=vertices.dtype), image_size=SIZE, anti_aliasing=samples == 2,
        near=0.1, far=100, eps=EPS, rgb=grad_rgb is not None, alpha=grad_alpha is not None)
    total = 0
    if grad_rgb is not None:
        total = total + (rgb[0, :, pixel[0], pixel[1]] * rgb.new_tensor(grad_rgb)).sum()
    if grad_alpha is not None:
        total = total + alpha[0, pixel[0], pixel[1]] * grad_alpha
    total.backward()
    return vertices.grad[0]


def pull_of_right_edge(gain, pixel, right, samples=1):
    """Gradients of x of the lower and upper end of the right edge, by hand from section 3 of the paper."""
    lower = upper = 0.0
    fine = samples * SIZE

    def share(distance):
        return -gain / samples ** 2 / (distance + math.copysign(EPS, distance))

    for i in range(samples):
        for j in range(samples):
            y = (fine - 1 - 2 * (samples * pixel[0] + i)) / fine
            x = (2 * (samples * pixel[1] + j) + 1 - fine) / fine
            lower += share((x - right) / ((TOP - y) / (TOP - BOTTOM)))
            upper += share((x - right) / ((y - BOTTOM) / (TOP - BOTTOM)))
    return lower, upper


def expect(got, lower, upper):
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[1, 0], expected[2, 0] = lower, upper
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 2])
def test_outside_pixel_pulls_the_edge(samples, each_backend):
    pixel, right = (5, 13), 0.2
    got = gradients(upright(right), [[0, 1, 2]], [1, 1, 1], pixel, grad_alpha=-0.7, samples=samples)
    lower, upper = pull_of_right_edge(0.7, pixel, right, samples)
    expect(got, lower, upper)
    assert lower < 0 and upper < 0, "descending moves the edge to the right, to the pixel"
    # A pixel whose loss rises with coverage does not pull.
    expect(gradients(upright(right), [[0, 1, 2]], [1, 1, 1], pixel, grad_alpha=0.7, samples=samples),
           0, 0)


@pytest.mark.parametrize("samples", [1, 2])
def test_inside_pixel_pushes_the_edge(samples, each_backend):
    pixel, right = (10, 7), 0.2
    got = gradients(upright(right), [[0, 1, 2]], [1, 1, 1], pixel, grad_alpha=0.7, samples=samples)
    lower, upper = pull_of_right_edge(0.7, pixel, right, samples)
    assert lower > 0 and upper > 0, "descending moves the edge to the left"
    # Only this edge moves x of the lower right corner.
    assert got[1, 0].item() == pytest.approx(lower, rel=1e-9)
    assert bool((got[:, 2] == 0).all())


def test_channels_are_summed_before_the_sign_test(each_backend):
    pixel, right = (6, 14), 0.33
    face, background = [0.9, 0.1, 0.5], [0.2, 0.6, 0.5]
    for grad_rgb, grad_alpha in (([-1.0, -0.4, 3.0], None), ([0.3, 1.5, 0.0], None),
                                 ([-0.5, -2.0, 0.0], None), ([1.0, 1.0, 1.0], -0.6),
                                 ([-1.0, 0.0, 0.0], 0.9)):
        got = gradients(upright(right), [[0, 1, 2]], face, pixel, grad_rgb, grad_alpha, background)
        gain = sum((b - f) * g for b, f, g in zip(background, face, grad_rgb)) - (grad_alpha or 0)
        expect(got, *pull_of_right_edge(max(gain, 0), pixel, right))


def speck(pixel, z):
    """A triangle around the centre of one pixel (row, column)."""
    x, y = (2 * pixel[1] + 1 - SIZE) / SIZE, (SIZE - 1 - 2 * pixel[0]) / SIZE
    return torch.tensor([[x - 0.05, y - 0.04, z], [x + 0.05, y - 0.04, z], [x, y + 0.05, z]],
                        dtype=torch.float64)


def test_outside_pixel_pulls_whatever_it_shows(each_backend):
    pixel, right = (6, 13), 0.2
    red, green = [1.0, 0, 0], [0, 1.0, 0]
    for z in (0.5, 3.0):  # the other face in front of ours, or behind its plane
        vertices = torch.cat([upright(right), speck(pixel, z)])
        got = gradients(vertices, [[0, 1, 2], [3, 4, 5]], red + green, pixel, [-0.5, 0.25, 0.0])
        expect(got[:3], *pull_of_right_edge(0.5 + 0.25, pixel, right))


def test_an_edge_that_is_hidden_where_it_crosses_is_not_pulled(each_backend):
    pixel, right = (6, 13), 0.2
    inside = (6, int((right * SIZE + SIZE - 1) / 2))
    vertices = torch.cat([upright(right), speck(inside, 0.5)])
    got = gradients(vertices, [[0, 1, 2], [3, 4, 5]], [1.0] * 6, pixel, [-1.0, -1.0, -1.0])
    expect(got[:3], 0, 0)
    vertices[3:, 2] = 3.0  # the speck behind our face: control
    got = gradients(vertices, [[0, 1, 2], [3, 4, 5]], [1.0] * 6, pixel, [-1.0, -1.0, -1.0])
    expect(got[:3], *pull_of_right_edge(3.0, pixel, right))


def test_edges_beyond_the_last_pixel_get_nothing(each_backend):
    last_centre = (SIZE - 1) / SIZE
    for right, moves in ((last_centre + 0.01, False), (last_centre - 0.01, True)):
        got = gradients(upright(right), [[0, 1, 2]], [1, 1, 1], (10, 7), grad_alpha=1.0)
        assert bool(got[1, 0] != 0) == moves
        assert bool(got[0, 0] != 0), "the left edge is in the image"


def test_silhouette_gradient_is_the_same_along_both_axes(backend):
    """Swapping x and y, in the image too, swaps the gradients."""
    generator = torch.Generator().manual_seed(3)
    triangles = torch.rand(1, 6, 3, 3, generator=generator, dtype=torch.float64) * 2 - 1
    triangles[..., 2] += 2
    cotangent = torch.randn(1, 21, 14, generator=generator, dtype=torch.float64)
    results = []
    for swap in (False, True):
        leaf = (triangles[..., [1, 0, 2]] if swap else triangles).clone().requires_grad_()
        image, weight = nr.rasterize_silhouettes(
            leaf.flip(2) if swap else leaf, (14, 21) if swap else (21, 14)), cotangent
        if swap:  # (row, column) of a point is (H - 1 - up, right)
            weight = cotangent.flip(1).transpose(1, 2).flip(1)
        (image * weight).sum().backward()
        results.append(leaf.grad[..., [1, 0, 2]] if swap else leaf.grad)
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)
    assert results[0].abs().max() > 1


# ---- exact gradients ------------------------------------------------------------------------------


def generic_scene(faces=6):
    generator = torch.Generator().manual_seed(5)
    vertices = torch.rand(1, 3 * faces, 3, generator=generator, dtype=torch.float64) * 2.4 - 1.2
    vertices[..., 2] += 2.5
    return generator, vertices, torch.arange(3 * faces).reshape(-1, 3)


@pytest.mark.parametrize("anti_aliasing", [False, True])
def test_depth_gradient_by_differences(anti_aliasing, each_backend):
    """Coverage of this scene does not change within the step, so depth is smooth."""
    _, vertices, faces = generic_scene()

    def depth(v):
        return ops.rasterize(v, faces, image_size=(7, 6), anti_aliasing=anti_aliasing, near=0.1,
                             far=100, eps=1e-4, fill_back=True, depth=True)[2]

    assert bool((depth(vertices) < 100).any()) and bool((depth(vertices) == 100).any())
    assert torch.autograd.gradcheck(depth, vertices.clone().requires_grad_(), eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("T", [1, 2, 3])
def test_texture_and_light_gradients_by_differences(T, each_backend):
    generator, vertices, faces = generic_scene(3)
    textures = torch.rand(1, 3, T, T, T, 3, generator=generator, dtype=torch.float64)
    light = torch.rand(1, 3, 2, 3, generator=generator, dtype=torch.float64)

    def rgb(textures, light):
        return ops.rasterize(vertices, faces, textures, light, image_size=5, anti_aliasing=True,
                             near=0.1, far=100, eps=1e-3, fill_back=True, rgb=True)[0]

    assert torch.autograd.gradcheck(rgb, (textures.requires_grad_(), light.requires_grad_()))


def test_rgb_sends_gradient_through_the_normals(each_backend):
    """With an orthographic camera z changes only the light of a face, not its position."""
    plane = torch.tensor([[[-3.0, -3], [3, -3], [0, 4]]], dtype=torch.float64)
    renderer = nr.Renderer(image_size=4, camera_mode="none", light_direction=[0.3, -0.8, -0.7])

    def rgb(z):
        return renderer.render_rgb(torch.cat([plane, z[None, :, None]], -1), torch.tensor([[0, 1, 2]]))

    z = torch.tensor([2.0, 2.6, 3.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rgb, z)
    assert torch.autograd.grad(rgb(z).sum(), z)[0].abs().min() > 1e-3


def test_silhouettes_send_nothing_to_depth(each_backend):
    _, vertices, faces = generic_scene()
    vertices.requires_grad_()
    renderer = nr.Renderer(image_size=12, camera_mode="none")
    image = renderer.render_silhouettes(vertices, faces)
    (image * torch.linspace(-1, 1, 144, dtype=torch.float64).reshape(1, 12, 12)).sum().backward()
    assert bool((vertices.grad[..., 2] == 0).all()) and bool((vertices.grad[..., :2] != 0).any())


def test_partial_use_of_the_images(backend):
    """An image that is drawn but not used does not change the gradient."""
    generator, vertices, faces = generic_scene()
    textures = torch.rand(1, 6, 2, 2, 2, 3, generator=generator, dtype=torch.float64)
    weights = torch.randn(3, 1, 3, 8, 8, generator=generator, dtype=torch.float64)
    options = {"image_size": 8, "anti_aliasing": True, "near": 0.1, "far": 100, "eps": 1e-3}
    for k, name in enumerate(("rgb", "alpha", "depth")):
        grads = []
        for wanted in ({name: True}, {"rgb": True, "alpha": True, "depth": True}):
            leaf = vertices.clone().requires_grad_()
            image = ops.rasterize(leaf, faces, textures, **options, **wanted)[k]
            (image * (weights[k] if k == 0 else weights[k, :, 0])).sum().backward()
            grads.append(leaf.grad)
        assert torch.equal(*grads)


def test_fitting_a_sphere_to_silhouettes_of_another_shape():
    """Gradient descent turns a sphere into a stretched box-like solid."""
    source, faces = icosphere(2, 0.6)
    source, faces = torch.tensor(source, dtype=torch.float32), torch.tensor(faces)
    unit = torch.nn.functional.normalize(source, dim=-1)
    target = unit / unit.abs().pow(6).sum(-1, keepdim=True) ** (1 / 6) * torch.tensor([0.75, 0.4, 0.5])
    views = 8
    renderer = nr.Renderer(image_size=64, camera_mode="look_at", viewing_angle=15)
    renderer.eye = nr.get_points_from_angles(
        torch.full((views,), 4.0), torch.linspace(-40, 40, views), torch.arange(views) * 45.0)

    def silhouettes(vertices):
        return renderer(vertices[None].expand(views, -1, -1), faces, mode="silhouettes")

    with torch.no_grad():
        wanted = silhouettes(target)

    def loss_of(vertices):
        got = silhouettes(vertices)
        both = (got * wanted).sum((1, 2))
        return (1 - both / (got + wanted - got * wanted).sum((1, 2))).mean()

    vertices = source.clone().requires_grad_()
    before = loss_of(vertices).item()
    optimizer = torch.optim.Adam([vertices], lr=0.01)
    for _ in range(80):
        optimizer.zero_grad()
        loss_of(vertices).backward()
        optimizer.step()
    after = loss_of(vertices).item()
    assert before > 0.25 and after < 0.06
