"""Images of the rasteriser: coverage, depth, colours, and conventions."""
import neural_renderer as nr
import numpy as np
import pytest
import torch
from neural_renderer import ops

# A scalene triangle that no mirroring or transposition maps onto itself; counter-clockwise.
SCALENE = [[-0.85, -0.35], [0.7, -0.75], [0.35, 0.9]]
SQUARE = [[-2.0, -2, 2], [2, -2, 2], [2, 2, 2], [-2, 2, 2]]  # beyond the image, at depth 2
SQUARE_FACES = [[0, 1, 2], [0, 2, 3]]


def pixel_centres(height, width):
    """NDC (x, y) of every pixel, (H, W) each; row 0 is the top."""
    x = (2 * np.arange(width) + 1 - width) / width
    y = (height - 1 - 2 * np.arange(height)) / height
    return np.broadcast_arrays(x[None, :], y[:, None])


def half_plane_test(points, x, y):
    """Whether points (x, y) lie in a counter-clockwise triangle (3, 2)."""
    inside = np.ones(x.shape, bool)
    for k in range(3):
        (ax, ay), (bx, by) = points[k], points[(k + 1) % 3]
        inside &= (bx - ax) * (y - ay) >= (by - ay) * (x - ax)
    return inside


def corners(points, z=1.0):
    """(1, 1, 3, 3) of one triangle (3, 2) at depth z, a number or three."""
    points = torch.tensor(points, dtype=torch.float64)
    z = torch.as_tensor(z, dtype=torch.float64).expand(3)
    return torch.cat([points, z[:, None]], 1)[None, None]


def draw(vertices, faces, textures=None, size=8, anti_aliasing=False, **options):
    """rgb, alpha and depth of one mesh in NDC, as `ops.rasterize` takes it."""
    vertices, faces = torch.tensor(vertices, dtype=torch.float64)[None], torch.tensor(faces)
    if textures is None:
        textures = torch.ones(1, len(faces), 1, 1, 1, 3, dtype=torch.float64)
    options = {"near": 0.1, "far": 100.0, "eps": 1e-4, **options}
    images = ops.rasterize(vertices, faces, textures, image_size=size, anti_aliasing=anti_aliasing,
                           rgb=True, alpha=True, depth=True, **options)
    return tuple(image[0] for image in images)


def flat_textures(colours):
    return torch.tensor(colours, dtype=torch.float64).reshape(1, -1, 1, 1, 1, 3)


@pytest.mark.parametrize("size", [(64, 64), (33, 33), (20, 31), (47, 16), (1, 1), (1, 9)])
def test_coverage_is_the_half_plane_test(size, each_backend):
    got = nr.rasterize_silhouettes(corners(SCALENE), size, anti_aliasing=False)[0].numpy()
    x, y = pixel_centres(*size)
    expected = half_plane_test(SCALENE, x, y)
    assert got.shape == size
    assert np.array_equal(got, expected)
    if min(size) > 9:  # negative controls: the wrong conventions give other images
        for wrong in (half_plane_test(SCALENE, -x, y), half_plane_test(SCALENE, x, -y),
                      half_plane_test(SCALENE, -x, -y)):
            assert not np.array_equal(got, wrong)
    if size[0] == size[1] > 1:
        assert not np.array_equal(got, half_plane_test(SCALENE, y, x))


def test_pixels_on_edges_and_corners_belong_to_the_face(each_backend):
    column = [(2 * i + 1 - 8) / 8 for i in range(8)]  # exact in binary, like everything below
    legs = [[column[1], column[1]], [column[5], column[1]], [column[5], column[5]]]
    image = nr.rasterize_silhouettes(corners(legs), 8, anti_aliasing=False)[0]
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for up in range(1, 6):
        expected[7 - up, up:6] = 1
    assert torch.equal(image, expected)
    # A triangle between the centres covers nothing; a triangle around a centre covers just that pixel.
    around = torch.tensor([[-0.1, -0.1], [0.1, -0.1], [0, 0.1]], dtype=torch.float64)
    assert nr.rasterize_silhouettes(corners(around.tolist()), 8, anti_aliasing=False).sum() == 0
    around += torch.tensor([column[2], column[6]])
    image = nr.rasterize_silhouettes(corners(around.tolist()), 8, anti_aliasing=False)[0]
    assert image.sum() == 1 and image[7 - 6, 2] == 1


def test_only_counter_clockwise_faces_are_drawn_without_fill_back(each_backend):
    clockwise = corners(SCALENE)[0, 0].flip(0)
    assert draw(clockwise.tolist(), [[0, 1, 2]])[1].sum() == 0
    filled = draw(clockwise.tolist(), [[0, 1, 2]], fill_back=True)[1]
    assert torch.equal(filled, draw(clockwise.tolist(), [[2, 1, 0]])[1])
    assert filled.sum() > 0


def test_depth_agrees_with_ray_casting(each_backend):
    """Perspective-correct depth, compared with intersections of rays and the triangle in camera space."""
    angle, size = 25.0, (40, 30)
    triangle = np.array([[-0.9, -0.6, 2.0], [1.6, -0.9, 6.0], [0.2, 1.3, 3.5]])
    screen = nr.perspective(torch.tensor(triangle)[None], angle)[:, None]
    got = nr.rasterize_depth(screen, size, anti_aliasing=False, far=50.0)[0].numpy()

    x, y = pixel_centres(*size)
    slope = np.tan(np.radians(angle))
    rays = np.stack([x * slope, y * slope, np.ones(size)], -1)  # from the eye; z along a ray is 1
    normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
    z = (normal @ triangle[0]) / (rays @ normal)
    points = rays * z[..., None]
    inside = np.ones(size, bool)
    for k in range(3):
        a, b = triangle[k], triangle[(k + 1) % 3]
        inside &= np.cross(b - a, points - a) @ normal >= 0
    assert inside.sum() > 100
    np.testing.assert_allclose(got, np.where(inside, z, 50.0), rtol=1e-12)

    # Negative control: depth that interpolates linearly on the screen is far off.
    p = screen[0, 0].numpy()
    weights = np.linalg.solve(np.vstack([p[:, :2].T, np.ones(3)]),
                              np.stack([x[inside], y[inside], np.ones(inside.sum())]))
    assert np.abs(p[:, 2] @ weights - z[inside]).max() > 0.1


def test_colours_agree_with_ray_casting(each_backend):
    """Perspective-correct colours of a texture cube with one colour at each corner, compared with barycentric
    coordinates of the point where the pixel's ray meets the triangle in camera space."""
    angle, size = 30.0, (24, 32)
    triangle = np.array([[-0.9, -0.8, 1.5], [2.6, -1.2, 6.0], [0.3, 1.4, 2.5]])
    cube = np.zeros((1, 1, 2, 2, 2, 3))
    for i, j, k in np.ndindex(2, 2, 2):
        cube[0, 0, i, j, k] = i, j, k
    renderer = nr.Renderer(size, False, camera_mode="look", viewing_angle=angle, light_intensity_ambient=1,
                           light_intensity_directional=0, far=50)
    renderer.eye, renderer.rasterizer_eps = (0, 0, 0), 0.0
    rgb, _, alpha = renderer(torch.tensor(triangle)[None], torch.tensor([[0, 1, 2]]), torch.tensor(cube))

    x, y = pixel_centres(*size)
    slope = np.tan(np.radians(angle))
    rays = np.stack([x * slope, y * slope, np.ones(size)], -1)
    normal = np.cross(triangle[1] - triangle[0], triangle[2] - triangle[0])
    hits = rays * ((normal @ triangle[0]) / (rays @ normal))[..., None]
    areas = np.stack([np.cross(triangle[(k + 1) % 3] - hits, triangle[(k + 2) % 3] - hits) @ normal
                      for k in range(3)], -1) / (normal @ normal)
    inside = (areas >= 0).all(-1)
    assert inside.sum() > 100 and np.array_equal(alpha[0] > 0, inside)
    np.testing.assert_allclose(rgb[0].permute(1, 2, 0)[torch.tensor(inside)], areas[inside], atol=1e-9)


@pytest.mark.parametrize("near, far, drawn", [(0.1, 100, True), (2, 100, False), (0.1, 2, False),
                                              (1.999, 2.001, True), (3, 100, False)])
def test_near_and_far_are_exclusive(near, far, drawn, each_backend):
    rgb, alpha, depth = draw(SQUARE, SQUARE_FACES, near=near, far=far)
    assert torch.equal(alpha, torch.full_like(alpha, float(drawn)))
    assert torch.equal(depth, torch.full_like(depth, 2.0 if drawn else far))
    assert torch.equal(rgb, torch.full_like(rgb, float(drawn)))


def test_near_cuts_through_a_face(each_backend):
    slanted = corners([[-3, -2], [3, -2], [0, 3]], [0.5, 4.0, 2.0])
    whole = nr.rasterize_depth(slanted, 16, anti_aliasing=False)
    cut = nr.rasterize_silhouettes(slanted, 16, anti_aliasing=False, near=1.5)
    assert 0 < cut.sum() < 16 * 16
    assert torch.equal(cut, (whole > 1.5).double())


def test_nearest_face_wins_whatever_the_order(each_backend):
    vertices = SQUARE + [[x, y, 1] for x, y in SCALENE]
    front, back = [[1, 0, 0]], [[0, 0, 1]] * 2
    last = draw(vertices, SQUARE_FACES + [[4, 5, 6]], flat_textures(back + front))
    first = draw(vertices, [[4, 5, 6]] + SQUARE_FACES, flat_textures(front + back))
    for a, b in zip(last, first):
        assert torch.equal(a, b)
    rgb, alpha, depth = last
    near = torch.from_numpy(half_plane_test(SCALENE, *pixel_centres(8, 8)))
    assert torch.equal(rgb[0], near.double()) and torch.equal(rgb[2], (~near).double())
    assert torch.equal(depth, torch.where(near, 1.0, 2.0).double()) and bool((alpha == 1).all())


def test_ties_go_to_the_lowest_index_and_fronts_before_backs(each_backend):
    red, green, blue = [1, 0, 0], [0, 1, 0], [0, 0, 1]
    faces = [[0, 1, 2], [0, 2, 3]]
    rgb = draw(SQUARE, faces + faces, flat_textures([red, red, green, green]))[0]
    assert bool((rgb[0] == 1).all()) and bool((rgb[1] == 0).all())
    backs = [[2, 1, 0], [3, 2, 0]]
    textures = flat_textures([red, red, green, green, blue, blue])
    rgb = draw(SQUARE, backs + faces + faces, textures, fill_back=True)[0]
    assert bool((rgb[1] == 1).all()), "the first front wins over the back with a lower index"
    rgb = draw(SQUARE, backs + backs, flat_textures([red, red, green, green]), fill_back=True)[0]
    assert bool((rgb[0] == 1).all())


def test_anti_aliasing_averages_two_by_two(each_backend):
    vertices = SQUARE[:3] + [[x, y, z] for (x, y), z in zip(SCALENE, (1.0, 3.0, 1.5))]
    faces = [[0, 1, 2], [3, 4, 5]]
    textures = torch.rand(1, 2, 2, 2, 2, 3, dtype=torch.float64,
                          generator=torch.Generator().manual_seed(0))
    options = {"background": torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64), "far": 7.0}
    fine = draw(vertices, faces, textures, size=(18, 26), **options)
    smooth = draw(vertices, faces, textures, size=(9, 13), anti_aliasing=True, **options)
    for image, twice in zip(smooth, fine):
        expected = torch.nn.functional.avg_pool2d(twice.reshape(-1, 18, 26), 2).reshape(image.shape)
        torch.testing.assert_close(image, expected, rtol=1e-12, atol=0)
    # At edges, depth is averaged with far.
    assert bool(((smooth[2] > 3) & (smooth[2] < 7)).any())
    assert bool(((smooth[1] > 0) & (smooth[1] < 1)).any())


def test_background(each_backend):
    triangle = corners(SCALENE).expand(2, 1, 3, 3)
    textures = torch.ones(2, 1, 1, 1, 1, 3, dtype=torch.float64)
    each = [[0.1, 0.2, 0.3], [0.9, 0.5, 0.0]]
    images = nr.rasterize_rgbad(triangle, textures, 16, False, background_color=each)
    outside = images["alpha"] == 0
    assert 0 < outside.sum() < outside.numel()
    for b in range(2):
        for c in range(3):
            assert bool((images["rgb"][b, c][outside[b]] == each[b][c]).all())
    shared = nr.rasterize(triangle, textures, 16, False, background_color=each[0])
    assert torch.equal(shared[0], images["rgb"][0]) and torch.equal(shared[1], images["rgb"][0])
    assert bool((images["depth"][outside] == 100).all())
    assert bool((nr.rasterize_depth(triangle, 16, False, far=9.0)[outside] == 9).all())


@pytest.mark.parametrize("T", [1, 2, 3, 5])
@pytest.mark.parametrize("reversed_", [False, True])
def test_textures_are_trilinear_in_perspective_correct_weights(T, reversed_, each_backend):
    """A texture that is linear in the texel index shows the position in the cube itself."""
    triangle = np.array([[-0.9, -0.7, 1.0], [0.8, -0.8, 2.5], [0.3, 0.9, 6.0]])
    vertices = triangle[::-1] if reversed_ else triangle
    grid = np.stack(np.meshgrid(*[np.arange(T)] * 3, indexing="ij"), -1)
    eps = 1e-3
    rgb, alpha, depth = draw(vertices.tolist(), [[0, 1, 2]], torch.tensor(grid[None, None] * 1.0),
                             size=(20, 15), eps=eps, fill_back=True)
    x, y = pixel_centres(20, 15)
    shown = alpha.numpy() > 0
    assert np.array_equal(shown, half_plane_test(triangle[:, :2], x, y))
    system = np.vstack([vertices[:, :2].T, np.ones(3)])
    weights = np.linalg.solve(system, np.stack([x[shown], y[shown], np.ones(shown.sum())]))
    z = 1 / (weights / vertices[:, 2:]).sum(0)
    position = np.clip(weights * (T - 1) * z / vertices[:, 2:], 0, max(T - 1 - eps, 0))
    np.testing.assert_allclose(rgb.numpy()[:, shown], position, atol=1e-12)
    np.testing.assert_allclose(depth.numpy()[shown], z, rtol=1e-12)


def test_light_multiplies_the_side_that_is_seen(each_backend):
    light = torch.tensor([[[[0.5, 0.25, 1.0], [0.125, 2.0, 0.75]]] * 2], dtype=torch.float64)
    front = draw(SQUARE, SQUARE_FACES, light=light, fill_back=True)[0]
    back = draw(SQUARE, [[2, 1, 0], [3, 2, 0]], light=light, fill_back=True)[0]
    for image, side in ((front, 0), (back, 1)):
        assert torch.equal(image, light[0, 0, side, :, None, None].expand(3, 8, 8))


def test_all_rasterize_functions_give_the_same_images(each_backend):
    generator = torch.Generator().manual_seed(1)
    triangles = torch.rand(2, 5, 3, 3, generator=generator) * 2 - torch.tensor([1.0, 1, -1])
    textures = torch.rand(2, 5, 2, 2, 2, 3, generator=generator)
    every = nr.rasterize_rgbad(triangles, textures, 12)
    assert every["rgb"].shape == (2, 3, 12, 12)
    assert torch.equal(nr.rasterize(triangles, textures, 12), every["rgb"])
    assert torch.equal(nr.rasterize_silhouettes(triangles, 12), every["alpha"])
    assert torch.equal(nr.rasterize_depth(triangles, 12), every["depth"])
    some = nr.rasterize_rgbad(triangles, image_size=12, return_rgb=False, return_depth=False)
    assert some["rgb"] is None and some["depth"] is None
    assert torch.equal(some["alpha"], every["alpha"])


def test_defaults_of_the_rasterize_functions():
    triangle = corners(SCALENE, 3.0).float()
    depth = nr.rasterize_depth(triangle)
    assert depth.shape == (1, 256, 256) and depth.max() == 100
    assert bool(((depth > 3.1) & (depth < 99)).any()), "anti-aliasing is on"
    assert nr.rasterize(triangle, torch.ones(1, 1, 2, 2, 2, 3)).shape == (1, 3, 256, 256)
    assert nr.rasterize_silhouettes(corners(SCALENE, 0.05)).sum() == 0, "near is 0.1"


@pytest.mark.parametrize("batch, faces", [(2, 0), (0, 3), (0, 0)])
def test_nothing_to_draw(batch, faces, each_backend):
    triangles = torch.zeros(batch, faces, 3, 3, requires_grad=True)
    textures = torch.ones(batch, faces, 2, 2, 2, 3, requires_grad=True)
    images = nr.rasterize_rgbad(triangles, textures, (4, 6), background_color=(0.5, 0.5, 0.5))
    assert images["rgb"].shape == (batch, 3, 4, 6) and bool((images["rgb"] == 0.5).all())
    assert images["alpha"].shape == (batch, 4, 6) and bool((images["alpha"] == 0).all())
    assert images["depth"].shape == (batch, 4, 6) and bool((images["depth"] == 100).all())
    sum(image.sum() for image in images.values()).backward()
    assert triangles.grad.shape == triangles.shape and textures.grad.shape == textures.shape
    renderer = nr.Renderer(image_size=4, camera_mode="look_at")
    indices = torch.zeros(faces, 3, dtype=torch.int64)
    for image in renderer(torch.zeros(batch, 5, 3, requires_grad=True), indices):
        assert image.shape[0] == batch
        image.sum().backward(retain_graph=True)
