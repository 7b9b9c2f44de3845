"""Faces that reach behind the eye have the images and gradients of a mesh that the test cuts at the near plane."""
import neural_renderer as nr
import numpy as np
import pytest
import torch
from neural_renderer import ops
from solids import box, icosphere

NEAR = 0.1
WIDTH = np.tan(np.radians(30))


def cut(vertices, faces, near=NEAR):
    """Cut a mesh at the near plane (Sutherland and Hodgman), in torch, so that gradients flow. Returns triangles
    (N, 3, 3) in camera space, the face of each, and the barycentric weights of their corners."""
    triangles, owners, weights = [], [], []
    for i, face in enumerate(faces):
        corners, polygon = vertices[face], []
        for a in range(3):
            b = (a + 1) % 3
            za, zb = corners[a, 2], corners[b, 2]
            unit = torch.eye(3, dtype=vertices.dtype)
            if za > near:
                polygon.append((corners[a], unit[a]))
            if (za > near) != (zb > near):
                t = (near - za) / (zb - za)
                polygon.append(((1 - t) * corners[a] + t * corners[b], (1 - t) * unit[a] + t * unit[b]))
        for k in range(1, len(polygon) - 1):
            fan = (polygon[0], polygon[k], polygon[k + 1])
            triangles.append(torch.stack([p for p, _ in fan]))
            weights.append(torch.stack([w for _, w in fan]))
            owners.append(i)
    return torch.stack(triangles), torch.tensor(owners), torch.stack(weights)


def by_hand(vertices, faces, **wanted):
    """Images of one mesh (V, 3) in camera space, cut by `cut`."""
    triangles, owners, _ = cut(vertices, faces)
    corners = nr.perspective(triangles.flatten(0, 1)[None])
    indices = torch.arange(3 * len(triangles)).reshape(-1, 3)
    return ops.rasterize(corners, indices, **{**SETTINGS, "near": NEAR * (1 - 1e-9), **wanted}), owners


SETTINGS = dict(image_size=24, anti_aliasing=True, near=NEAR, far=100, eps=1e-3, fill_back=True)


def scene(seed, count=4, dtype=torch.float64):
    """Triangles around the eye, most of them with corners on both sides of it."""
    g = torch.Generator().manual_seed(seed)
    vertices = (torch.rand(3 * count, 3, generator=g, dtype=torch.float64) - 0.5) * 4
    return vertices.to(dtype), torch.arange(3 * count).reshape(-1, 3)


def drawn(vertices, faces, **wanted):
    return ops.rasterize(nr.perspective(vertices[None]), faces, **SETTINGS, **wanted)


@pytest.mark.parametrize("seed", [1, 3, 5, 6, 7, 8])
def test_images_are_those_of_the_mesh_cut_by_hand(seed, each_backend):
    vertices, faces = scene(seed)
    z = vertices[faces][..., 2]
    assert ((z.amin(1) < 0) & (z.amax(1) > NEAR)).sum() >= 2
    (_, alpha, depth), _ = by_hand(vertices, faces, alpha=True, depth=True)
    _, found, its_depth = drawn(vertices, faces, alpha=True, depth=True)
    assert torch.equal(found, alpha) and 0.05 < alpha.mean() < 1, alpha.mean()
    torch.testing.assert_close(its_depth, depth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
def test_only_what_faces_the_eye_without_fill_back(reverse, each_backend):
    vertices, faces = scene(3)
    faces = faces.flip(1) if reverse else faces
    triangles, _, _ = cut(vertices, faces)
    corners = nr.perspective(triangles.flatten(0, 1)[None])
    settings = {**SETTINGS, "fill_back": False}
    _, alpha, _ = ops.rasterize(corners, torch.arange(3 * len(triangles)).reshape(-1, 3), **{
        **settings, "near": NEAR * (1 - 1e-9)}, alpha=True)
    _, found, _ = ops.rasterize(nr.perspective(vertices[None]), faces, **settings, alpha=True)
    assert torch.equal(found, alpha) and alpha.mean() > 0.02


def gradients_both_ways(vertices, cotangent, anti_aliasing):
    """Gradients of the silhouette of one face, cut by hand and clipped by the renderer."""
    face, settings = torch.tensor([[0, 1, 2]]), {"anti_aliasing": anti_aliasing, "alpha": True}
    found = []
    for images in (lambda v: by_hand(v, face, **settings)[0][1],
                   lambda v: ops.rasterize(nr.perspective(v[None]), face, **{**SETTINGS, **settings})[1]):
        leaf = vertices.clone().requires_grad_()
        image = images(leaf)
        found.append(torch.autograd.grad(image, leaf, cotangent)[0])
    assert 0.1 < image.mean() < 0.9 and found[1].abs().max() > 1e-2
    return found


def test_gradients_of_silhouettes_with_two_corners_behind(each_backend):
    """A triangle remains. The expected gradient is that of the kernels for it, passed through the cut."""
    vertices = torch.tensor([[0.05, 0.35, 1.2], [-0.9, -0.8, -0.4], [0.8, -0.7, -0.3]], dtype=torch.float64)
    cotangent = torch.randn(1, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    by_hand, found = gradients_both_ways(vertices, cotangent, True)
    torch.testing.assert_close(found, by_hand, rtol=1e-6, atol=1e-6)
    assert (found.abs() > 1e-3).all()


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_of_silhouettes_with_one_corner_behind(axis, each_backend):
    """Four corners remain; the cut mesh has two triangles with an edge between them. The gradients are compared along x
    only for pixels in rows that this edge does not reach, and along y only for such columns."""
    vertices = torch.tensor([[-0.9, -0.8, -0.4], [0.3, -0.3, 1.6], [0.05, 0.35, 1.2]], dtype=torch.float64)
    vertices = vertices[:, [1, 0, 2]] if axis == 0 else vertices
    triangles = cut(vertices, torch.tensor([[0, 1, 2]]))[0]
    ends = nr.perspective(triangles[0, [0, 2]][None])[0, :, 1 - axis]
    lines = (2 * torch.arange(24) + 1 - 24) / 24
    free = (lines < ends.min()) | (lines > ends.max())
    shown = drawn(vertices, torch.tensor([[0, 1, 2]]), alpha=True)[1] > 0
    cotangent = torch.rand(1, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cotangent = cotangent * shown * (free.flip(0)[:, None] if axis == 0 else free)
    assert (cotangent > 0).sum() > 5
    by_hand, found = gradients_both_ways(vertices, cotangent, False)
    torch.testing.assert_close(found[:, axis], by_hand[:, axis], rtol=1e-6, atol=1e-6)
    assert found[:, axis].abs().max() > 1e-2


def differences(function, vertices, step=1e-6):
    """Central differences of a scalar function with respect to each coordinate."""
    out = torch.zeros_like(vertices)
    for i in np.ndindex(*vertices.shape):
        moved = [vertices.clone(), vertices.clone()]
        moved[0][i] += step
        moved[1][i] -= step
        out[i] = (function(moved[0]) - function(moved[1])) / (2 * step)
    return out


FLOOR = torch.tensor([[-40.0, -0.7, -30], [40, -0.7, -30], [3, -0.7, 60]], dtype=torch.float64)


def test_depth_of_a_floor_under_the_camera(each_backend):
    """A floor y = -0.7 below an eye that looks along z: the depth is 0.7 / -slope of the row. Compare the gradient with
    differences."""
    settings = {**SETTINGS, "anti_aliasing": False}

    def depth(vertices):
        return ops.rasterize(nr.perspective(vertices[None], 45), torch.tensor([[0, 1, 2]]), **settings, depth=True)[2]

    rows = (23 - 2 * torch.arange(24, dtype=torch.float64)) / 24
    image = depth(FLOOR)[0]
    for row in range(13, 24):
        torch.testing.assert_close(image[row], (-0.7 / rows[row]).expand(24), rtol=1e-9, atol=1e-9)
    assert (image[:12] == 100).all()
    weight = torch.linspace(-1, 1, 24 * 8, dtype=torch.float64).reshape(8, 24)  # rows where no edge of it is
    leaf = FLOOR.clone().requires_grad_()
    (depth(leaf)[0, 15:23] * weight).sum().backward()
    expected = differences(lambda v: (depth(v)[0, 15:23] * weight).sum(), FLOOR)
    torch.testing.assert_close(leaf.grad, expected, rtol=1e-5, atol=1e-7)
    assert leaf.grad.abs().max() > 1e-2


def test_a_person_inside_a_room(each_backend):
    """Whatever the direction of the eye, every pixel shows a wall at the distance of the wall."""
    vertices, faces = box((-3, -2, -4), (3, 2, 4))
    vertices, faces = torch.tensor(vertices)[None], torch.tensor(faces)
    renderer = nr.Renderer(17, camera_mode="look", anti_aliasing=False, viewing_angle=40)
    renderer.eye = (0.4, -0.3, 0.5)
    for direction in ((0, 0, 1), (1, 0.2, 0.3), (-1, 0.5, -0.8), (0.1, -0.9, 0.2)):
        renderer.camera_direction = direction
        z = torch.nn.functional.normalize(torch.tensor(direction, dtype=torch.float64), dim=0)
        x = torch.nn.functional.normalize(torch.linalg.cross(torch.tensor([0.0, 1, 0], dtype=z.dtype), z), dim=0)
        at = (2 * torch.arange(17, dtype=z.dtype) + 1 - 17) / 17 * np.tan(np.radians(40))
        ray = z + at[None, :, None] * x + at.flip(0)[:, None, None] * torch.linalg.cross(z, x)
        eye = torch.tensor(renderer.eye, dtype=z.dtype)
        known = torch.where(ray > 0, (torch.tensor([3.0, 2, 4], dtype=z.dtype) - eye) / ray,
                            (torch.tensor([-3.0, -2, -4], dtype=z.dtype) - eye) / ray)
        known = torch.where(ray == 0, torch.inf, known).amin(-1)
        depth = renderer.render_depth(vertices, faces)[0]
        torch.testing.assert_close(depth, known, rtol=1e-9, atol=1e-9)
        assert (renderer.render_silhouettes(vertices, faces) == 1).all()
        index, weights = renderer.render_face_index(vertices, faces, return_weights=True)
        points = (vertices[0][faces][index[0]] * weights[0][..., None]).sum(-2)
        torch.testing.assert_close(points, eye + ray * known[..., None], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.float64, 1e-6)])
def test_colours_of_clipped_faces(dtype, tolerance, each_backend):
    """Textures and colours of vertices of a cut mesh: the colour of each cut corner is interpolated."""
    vertices, faces = scene(1, dtype=dtype)
    g = torch.Generator().manual_seed(1)
    colours = torch.rand(len(vertices), 3, generator=g).to(dtype)
    triangles, owners, weights = cut(vertices.double(), faces)
    corners = nr.perspective(triangles.flatten(0, 1)[None])
    of_corners = (weights @ colours.double()[faces][owners]).flatten(0, 1)
    known = ops.rasterize(corners, torch.arange(len(corners[0])).reshape(-1, 3), of_corners[None], rgb=True, **{
        **SETTINGS, "near": NEAR * (1 - 1e-9)})[0]
    found = drawn(vertices, faces, textures=colours[None], rgb=True)[0]
    assert ((found.double() - known).abs() > tolerance).float().mean() < (1e-9 if dtype == torch.float64 else 0.01)
    cubes = colours[faces][:, :, None].expand(-1, -1, 1, -1)  # one colour a face: that of its first corner
    plain = cubes[:, :1].reshape(1, len(faces), 1, 1, 1, 3)
    textured = drawn(vertices, faces, textures=plain, rgb=True)[0]
    expected = ops.rasterize(corners, torch.arange(len(corners[0])).reshape(-1, 3), plain[:, owners].double(), rgb=True,
                             **{**SETTINGS, "near": NEAR * (1 - 1e-9)})[0]
    assert ((textured.double() - expected).abs() > tolerance).float().mean() < 0.01


def test_float32_gradients_are_those_of_float64():
    vertices, faces = scene(6)
    cotangent = torch.randn(1, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = []
    for dtype in (torch.float64, torch.float32):
        leaf = vertices.to(dtype).requires_grad_()
        image = drawn(leaf, faces, alpha=True)[1]
        gradients.append(torch.autograd.grad(image, leaf, cotangent.to(dtype))[0].double())
    assert (gradients[1] - gradients[0]).abs().max() < 1e-3 * gradients[0].abs().max()


@pytest.mark.parametrize("camera_mode", ["look_at", "projection"])
@pytest.mark.parametrize("used", [False, True])
def test_a_vertex_in_the_plane_of_the_eye(camera_mode, used, each_backend):
    vertices = torch.tensor([[[-0.5, -0.5, 0.0], [0.5, -0.5, 0], [0, 0.5, 0], [9, 9, -2.0]]], requires_grad=True)
    faces = torch.tensor([[0, 1, 2], [0, 1, 3]] if used else [[0, 1, 2]])
    eye = torch.tensor([0.0, 0, -2], requires_grad=True)
    renderer = nr.Renderer(16, camera_mode=camera_mode, K=torch.tensor([[8.0, 0, 8], [0, 8, 8], [0, 0, 1]]),
                           R=torch.eye(3), t=torch.tensor([0, 0, 2.0]), orig_size=16)
    renderer.eye = eye
    rgb, depth, alpha = renderer(vertices, faces)
    weight = torch.linspace(-1, 1, 16)
    sum((image * weight).sum() for image in (rgb, depth, alpha)).backward()
    assert torch.isfinite(vertices.grad).all() and vertices.grad[0, :3].abs().max() > 0
    assert camera_mode == "projection" or torch.isfinite(eye.grad).all()
    assert used or not vertices.grad[0, 3].any()


@pytest.mark.parametrize("camera_mode", ["look_at", "look", "projection"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_corner_that_is_not_finite_spreads_into_no_gradient(camera_mode, bad, each_backend):
    """Gradients of everything else are those without its face."""
    vertices, faces = icosphere(1, 0.5)
    vertices, faces = torch.tensor([*vertices.tolist(), [bad, 0, 0]]), torch.tensor([*faces.tolist(), [0, 1, 42]])
    textures = torch.rand(1, len(faces), 2, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    found = []
    for some in (faces, faces[:-1]):
        leaf, eye = vertices.clone().requires_grad_(), torch.tensor([0.3, 0.2, -2.0], requires_grad=True)
        t = torch.tensor([[[0.1, 0.0, 2.0]]], requires_grad=True)
        renderer = nr.Renderer(16, camera_mode=camera_mode, K=torch.tensor([[[16.0, 0, 8], [0, 16, 8], [0, 0, 1]]]),
                               R=torch.eye(3)[None], t=t, orig_size=16)
        renderer.eye = eye
        images = renderer((leaf if some is faces else leaf[:-1])[None], some, textures[:, :len(some)])
        sum((image * torch.linspace(-1, 1, 16)).sum() for image in images).backward()
        found.append([*images, leaf.grad, (t if camera_mode == "projection" else eye).grad])
    for with_it, without in zip(*found):
        torch.testing.assert_close(with_it, without, rtol=1e-4, atol=1e-4)
    assert not found[0][3][-1].any() and found[0][4].abs().max() > 0


def test_wholly_behind_is_nothing(each_backend, monkeypatch):
    monkeypatch.setattr("neural_renderer.unseen._said", set())
    vertices, faces = scene(0)
    vertices[:, 2] = -vertices[:, 2].abs()
    leaf = vertices.clone().requires_grad_()
    with pytest.warns(RuntimeWarning, match="nothing is visible"):
        _, alpha, depth = drawn(leaf, faces, alpha=True, depth=True)
    assert not alpha.any() and (depth == 100).all()
    (alpha.sum() + depth.sum()).backward()
    assert not leaf.grad.any()


def test_a_negative_near_and_parallel_projection_clip_nothing(each_backend):
    """There is no eye then, so faces are drawn whatever their depths."""
    corners = torch.tensor([[[-0.5, -0.5, -1.0], [0.5, -0.5, -1], [0, 0.5, -1]]], dtype=torch.float64)
    _, alpha, _ = ops.rasterize(corners, torch.tensor([[0, 1, 2]]), **{**SETTINGS, "near": -5}, alpha=True)
    assert alpha.mean() > 0.05
    corners[0, 0, 2] = 2
    images = [ops.rasterize(corners, torch.tensor([[0, 1, 2]]), perspective=p, **SETTINGS, alpha=True)[1]
              for p in (True, False)]
    renderer = nr.Renderer(24, camera_mode="look", perspective=False)
    renderer.eye = (0, 0, 0)
    assert torch.equal(renderer.render_silhouettes(corners, torch.tensor([[0, 1, 2]])), images[1])
    assert not torch.equal(*images)
