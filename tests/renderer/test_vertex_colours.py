"""Colours of vertices and face indices compared with closed forms, differences and texture cubes."""
import neural_renderer as nr
import numpy as np
import pytest
import torch
from neural_renderer import ops
from solids import icosphere

SETTINGS = dict(image_size=12, anti_aliasing=True, near=0.1, far=100, eps=1e-3, fill_back=True)


def large(seed=0, batch=2):
    """A triangle larger than the picture in each mesh. No edge is in the picture, so the gradient of colours equals
    finite differences."""
    g = torch.Generator().manual_seed(seed)
    vertices = torch.tensor([[-4.0, -5, 2], [6, -4, 3], [0, 7, 4]], dtype=torch.float64).repeat(batch, 1, 1)
    vertices += 0.3 * torch.rand(vertices.shape, generator=g, dtype=torch.float64)
    return vertices, torch.tensor([[0, 1, 2]]), torch.rand(batch, 3, 3, generator=g, dtype=torch.float64)


def test_colours_are_interpolated_in_perspective(each_backend):
    vertices, faces, colours = large()
    rgb, _, depth = ops.rasterize(vertices, faces, colours, rgb=True, depth=True, **{**SETTINGS, "anti_aliasing": False})
    index, at = ops.face_index(vertices, faces, image_size=12, near=.1, far=100), torch.arange(12, dtype=torch.float64)
    assert (index == 0).all()
    x, y = ((2 * at + 1 - 12) / 12)[None, :].expand(12, -1), ((11 - 2 * at) / 12)[:, None].expand(-1, 12)
    for b in range(2):  # x z, y z and z are linear on the face in space
        space = torch.stack([vertices[b, :, 0] * vertices[b, :, 2], vertices[b, :, 1] * vertices[b, :, 2],
                             vertices[b, :, 2]])
        point = torch.stack([x * depth[b], y * depth[b], depth[b]], -1)
        weights = torch.linalg.solve(space, point[..., None])[..., 0]
        torch.testing.assert_close(rgb[b], (weights @ colours[b]).permute(2, 0, 1), rtol=1e-9, atol=1e-9)
        found = ops.corner_weights(vertices, faces, index)[b]
        torch.testing.assert_close(found, weights, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("behind", [False, True])
def test_gradients_are_those_of_differences(behind, each_backend):
    vertices, faces, colours = large()
    if behind:
        vertices = torch.tensor([[0.0, 9, -1], [4, 4.5, 2], [-4, 4.5, 2]], dtype=torch.float64).repeat(2, 1, 1)
        vertices[1] *= 1.1  # the first corner is mirrored: in space it lies below, behind the eye
        assert (ops.rasterize(vertices, faces, alpha=True, **SETTINGS)[1] == 1).all()
    light = torch.rand(2, 1, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cotangent = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def value(vertices, colours, light):
        return (ops.rasterize(vertices, faces, colours, light, rgb=True, **SETTINGS)[0] * cotangent).sum()

    leaves = [t.clone().requires_grad_() for t in (vertices, colours, light)]
    found = torch.autograd.grad(value(*leaves), leaves)
    for n, tensor in enumerate((vertices, colours, light)):
        known = torch.zeros_like(tensor)
        for i in np.ndindex(*tensor.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [t.clone() for t in (vertices, colours, light)]
                moved[n][i] += step
                ends.append(value(*moved))
            known[i] = (ends[0] - ends[1]) / 2e-6
        torch.testing.assert_close(found[n], known, rtol=1e-5, atol=1e-7)
        assert found[n].abs().max() > 0.01


def mesh(dtype=torch.float32):
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.7))
    return vertices.to(dtype), faces, vertices.to(dtype).sin().abs()


def test_one_colour_is_that_of_a_texture():
    """If all vertices have one colour, picture and gradient are those of a texture with this colour."""
    vertices, faces, _ = mesh(torch.float64)
    renderer, results = nr.Renderer(24, camera_mode="look_at"), []
    for textures in (torch.full((1, len(vertices), 3), 0.4).double(), torch.full((1, len(faces), 1, 1, 1, 3), 0.4).double()):
        leaf = vertices[None].clone().requires_grad_()
        rgb = renderer.render_rgb(leaf, faces, textures)
        results.append((rgb.detach(), torch.autograd.grad((rgb * torch.linspace(-1, 1, 24)).sum(), leaf)[0]))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_all_functions_with_textures_take_colours_of_vertices():
    vertices, faces, colours = mesh()
    renderer = nr.Renderer(24, camera_mode="look_at")
    known = renderer(vertices[None], faces, colours[None])[0]
    assert known.std() > 0.05
    small = icosphere(0, 0.5)
    second = [torch.tensor(v).float() if v.dtype == float else torch.tensor(v) for v in small]
    listed = renderer([vertices, second[0]], [faces, second[1]], [colours, second[0].abs()])[0]
    torch.testing.assert_close(listed[:1], known)
    torch.testing.assert_close(listed[1:], renderer(second[0][None], second[1], second[0].abs()[None])[0])
    packed = nr.unpack(torch.cat([vertices, second[0]]), torch.cat([faces, second[1] + len(vertices)]),
                       [0, len(vertices), len(vertices) + len(second[0])], [0, len(faces), len(faces) + len(second[1])],
                       torch.cat([colours, second[0].abs()]))
    assert torch.equal(renderer(*packed)[0], listed)
    shared = renderer.render_rgb(vertices.expand(3, -1, -1), faces, colours.expand(3, -1, -1))
    torch.testing.assert_close(shared, known.expand(3, -1, -1, -1))
    screen = renderer.transform(vertices[None])
    corners, of_corners = nr.vertices_to_faces(screen, faces), nr.vertices_to_faces(colours[None], faces)
    plain = ops.rasterize(screen, faces, colours[None], rgb=True, **{**SETTINGS, "fill_back": False})[0]
    torch.testing.assert_close(nr.rasterize(corners, of_corners, 12, eps=1e-3), plain)
    lit = nr.lighting(nr.vertices_to_faces(vertices[None], faces), of_corners)
    light = renderer.light(vertices[None], faces)[:, :, 0]
    assert torch.equal(lit, of_corners * light[:, :, None])
    one = nr.Mesh(vertices, faces, colours)
    assert one.texture_size is None and torch.equal(one.textures, colours)


@pytest.mark.parametrize("textures", [torch.ones(1, 41, 3), torch.ones(2, 42, 3), torch.ones(1, 42, 4),
                                      torch.ones(1, 42, 3, dtype=torch.int64), torch.ones(42, 3)])
def test_wrong_colours_are_named(textures):
    vertices, faces, _ = mesh()
    with pytest.raises(ValueError, match=r"textures must be a float tensor of shape \(1, 80, T, T, T, 3\), or \(1, 42, 3\)"):
        nr.Renderer(8, camera_mode="look_at")(vertices[None], faces, textures)


# ---- which face a pixel shows ---------------------------------------------------------------------


@pytest.mark.parametrize("fill_back", [True, False])
@pytest.mark.parametrize("anti_aliasing", [True, False])
def test_face_index_is_what_a_picture_of_numbers_shows(fill_back, anti_aliasing, each_backend):
    vertices, faces, _ = mesh(torch.float64)
    faces = faces.clone()
    faces[::3] = faces[::3].flip(1)
    renderer = nr.Renderer((9, 14), camera_mode="look_at", anti_aliasing=anti_aliasing, fill_back=fill_back,
                           light_intensity_ambient=1, light_intensity_directional=0, background_color=(-1, -1, -1))
    batch = torch.stack([vertices, vertices.flip(-1) * 0.8])
    index = renderer.render_face_index(batch, faces)
    renderer.anti_aliasing = False
    numbers = torch.arange(len(faces), dtype=torch.float64).reshape(1, -1, 1, 1, 1, 1).expand(2, -1, -1, -1, -1, 3)
    assert index.dtype == torch.int64
    assert torch.equal(index.double(), renderer.render_rgb(batch, faces, numbers)[:, 0].round())
    assert (index < 0).any() and len(index.unique()) > 10
    if fill_back:
        assert torch.equal((index >= 0).double(), renderer.render_silhouettes(batch, faces))
    listed = renderer.render_face_index([batch[0], batch[1]], [faces, faces])
    assert torch.equal(listed, index)
    corners = nr.vertices_to_faces(renderer.transform(batch), faces)
    assert fill_back or torch.equal(nr.rasterize_face_index(corners, (9, 14)), index)


def test_weights_have_their_gradient():
    vertices, faces, colours = mesh(torch.float64)
    renderer = nr.Renderer(8, camera_mode="look_at", anti_aliasing=False, light_intensity_ambient=1,
                           light_intensity_directional=0)
    index, weights = renderer.render_face_index(vertices[None], faces, return_weights=True)
    seen = index >= 0
    torch.testing.assert_close(weights.sum(-1), seen.double())
    shown = (colours[faces][index.clamp(min=0)] * weights[..., None]).sum(-2)
    torch.testing.assert_close(shown.permute(0, 3, 1, 2), renderer.render_rgb(vertices[None], faces, colours[None]))
    wide, face, _ = large()

    def value(vertices):
        w = ops.corner_weights(vertices, face, torch.zeros(2, 3, 3, dtype=torch.int64))
        return (w * torch.arange(1, 10, dtype=w.dtype).reshape(3, 3, 1) * torch.tensor([1.0, 2, 4])).sum()
    assert torch.autograd.gradcheck(value, wide.requires_grad_())
