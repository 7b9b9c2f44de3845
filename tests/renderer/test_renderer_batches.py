"""Meshes of different sizes in one batch, empty meshes, and the warning that nothing is visible."""
import warnings

import neural_renderer as nr
import numpy as np
import pytest
import torch
from neural_renderer import unseen
from solids import box, icosphere

MODES = [None, "rgb", "silhouettes", "depth"]


def meshes(dtype=torch.float64, empty=False):
    """Lists of vertices, faces and textures of meshes of different sizes."""
    generator = torch.Generator().manual_seed(0)
    solids = [icosphere(1, 0.7), box((-0.5, -0.3, -0.4), (0.2, 0.6, 0.3)), icosphere(0, 0.9, (0.2, 0, 0))]
    vertices = [torch.tensor(v, dtype=dtype) for v, _ in solids]
    faces = [torch.tensor(f) for _, f in solids]
    if empty:  # no faces; no vertices either
        vertices[1:1] = [torch.rand(4, 3, generator=generator, dtype=dtype), torch.zeros(0, 3, dtype=dtype)]
        faces[1:1] = [torch.zeros(0, 3, dtype=torch.int64)] * 2
    textures = [torch.rand(len(f), 2, 2, 2, 3, generator=generator, dtype=dtype) for f in faces]
    return vertices, faces, textures


def looking(count, **options):
    renderer = nr.Renderer(image_size=(12, 16), camera_mode="look_at", light_direction=[0.3, 0.8, -0.5],
                           background_color=[0.1, 0.2, 0.3], **options)
    azimuths = torch.arange(count, dtype=torch.float64) * 50
    renderer.eye = nr.get_points_from_angles(2.7, 20.0, azimuths).requires_grad_()
    return renderer


def drawn_and_pulled(renderer, mode, vertices, faces, textures, together):
    """Images of a batch, drawn together or one by one, and gradients to vertices, textures and eyes."""
    leaves = [v.detach().clone().requires_grad_() for v in vertices + textures]
    vertices, textures, eyes = leaves[:len(vertices)], leaves[len(vertices):], renderer.eye
    if together:
        images = renderer(vertices, faces, textures, mode=mode)
        images = images if mode is None else (images,)
    else:
        each = []
        for i in range(len(vertices)):
            renderer.eye = eyes[i:i + 1]
            image = renderer(vertices[i][None], faces[i][None], textures[i][None], mode=mode)
            each.append(image if mode is None else (image,))
        renderer.eye, images = eyes, [torch.cat(kind) for kind in zip(*each)]
    generator = torch.Generator().manual_seed(1)
    loss = sum((i * torch.randn(i.shape, generator=generator, dtype=i.dtype)).sum() for i in images)
    gradients = torch.autograd.grad(loss, [*leaves, eyes], allow_unused=True, materialize_grads=True)
    return [*images, *gradients]


@pytest.mark.filterwarnings("ignore:nothing is visible")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("empty", [False, True])
def test_a_list_is_its_members_one_by_one(mode, empty):
    lists = meshes(empty=empty)
    renderer = looking(len(lists[0]))
    results = [drawn_and_pulled(renderer, mode, *lists, together) for together in (True, False)]
    for got, expected in zip(*results):
        assert got.isfinite().all()
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert results[0][0].std() > 0.05 and results[0][-1].abs().max() > 1e-3


def test_empty_meshes_do_not_poison_the_camera():
    """Vertices added as padding lie where the mesh lies, not at an eye in the origin."""
    vertices, faces, _ = meshes(empty=True)
    renderer = nr.Renderer(image_size=8, camera_mode="look")
    renderer.eye = torch.zeros(len(vertices), 3, dtype=torch.float64, requires_grad=True)
    moved = [v + torch.tensor([0, 0, 3.0]) for v in vertices]
    renderer(moved, faces, mode="silhouettes").square().sum().backward()
    assert renderer.eye.grad.isfinite().all() and renderer.eye.grad.abs().max() > 0


def test_a_tensor_may_stand_beside_a_list():
    vertices, faces, textures = meshes()
    one, renderer = torch.stack([vertices[0]] * 3), looking(3)
    both = renderer(one, [faces[0], faces[0][:5], faces[0][5:9]], mode="depth")
    for i, own in enumerate((faces[0], faces[0][:5], faces[0][5:9])):
        torch.testing.assert_close(renderer(one, own, mode="depth")[i], both[i], rtol=0, atol=0)
    shared = renderer([vertices[0], vertices[0] * 0.5, vertices[0] * 0.7], faces[0], mode="silhouettes")
    scale = torch.tensor([1, 0.5, 0.7], dtype=torch.float64)[:, None, None]
    assert torch.equal(shared, renderer(one * scale, faces[0], mode="silhouettes"))
    white = renderer(vertices, faces, mode="rgb")
    ones = [torch.ones_like(t) for t in textures]
    torch.testing.assert_close(white, renderer(vertices, faces, ones, mode="rgb"))


def packed():
    vertices, faces, textures = meshes(empty=True)
    counts = [[len(m) for m in members] for members in (vertices, faces)]
    offsets = [np.cumsum([0] + c) for c in counts]
    apart = [f + int(first) for f, first in zip(faces, offsets[0])]
    return (torch.cat(vertices), torch.cat(apart), *offsets, torch.cat(textures)), (vertices, faces, textures)


def test_packed_meshes_are_unpacked():
    given, expected = packed()
    for kind in (lambda o: o, list, torch.tensor):
        got = nr.unpack(*given[:2], *map(kind, given[2:4]), given[4])
        for members, wanted in zip(got, expected):
            assert len(members) == len(wanted) and all(torch.equal(*pair) for pair in zip(members, wanted))
    leaf = given[0].clone().requires_grad_()
    renderer, lists = looking(5), nr.unpack(leaf, *given[1:4])
    assert len(lists) == 2
    (renderer(*lists, mode="depth") * 0.1).sum().backward()
    assert leaf.grad.abs().max() > 0


@pytest.mark.parametrize("place, name, value", [
    (0, "vertices", torch.zeros(5, 2)), (1, "faces", torch.full((3, 3), 0.5)), (1, "faces", torch.full((3, 3), 99)),
    (2, "vertex_offsets", [0, 42, 46, 46, 54]), (2, "vertex_offsets", [1, 42, 46, 46, 54, 66]),
    (2, "vertex_offsets", [0, 46, 42, 46, 54, 66]), (2, "vertex_offsets", []),
    (2, "must have the same length", [0, 66]), (3, "face_offsets", [0, 80, 80, 80, 92, 111]),
    (4, "textures", torch.zeros(3, 2, 2, 2, 3))])
def test_wrong_packed_meshes_are_named(place, name, value):
    arguments = list(packed()[0])
    arguments[place] = value
    with pytest.raises((ValueError, IndexError), match=name):
        nr.unpack(*arguments)


def test_faces_of_a_packed_mesh_keep_to_their_own_vertices():
    vertices, faces, *offsets, _ = packed()[0]
    faces[-1, 0] = 0  # of the first mesh
    with pytest.raises(IndexError, match="faces of mesh 4"):
        nr.unpack(vertices, faces, *offsets)


def wrong_lists():
    vertices, faces, textures = meshes()
    yield "vertices", ([], [], [])
    yield "faces", (vertices, faces[:2], textures)
    yield "textures", (vertices, faces, textures[:2])
    yield r"vertices\[1\]", ([vertices[0], vertices[1][None], vertices[2]], faces, textures)
    yield r"vertices\[1\].*float64 on cpu", ([vertices[0], vertices[1].float(), vertices[2]], faces, textures)
    yield r"vertices\[2\]", (vertices[:2] + [None], faces, textures)
    yield r"faces\[2\]", (vertices, faces[:2] + [faces[0]], textures)
    yield r"faces\[0\]", (vertices, [faces[0].double() + 0.5] + faces[1:], textures)
    yield r"textures\[1\]", (vertices, faces, [textures[0], textures[1][:-1], textures[2]])
    yield r"textures\[2\]", (vertices, faces, textures[:2] + [torch.zeros(20, 3, 3, 3, 3).double()])
    yield "vertices", (torch.zeros(4, 3), faces, textures)
    yield "faces", (vertices, None, textures)
    yield r"faces\[0\]", (torch.stack([vertices[0]]), [[0, 1, 2]], None)


@pytest.mark.parametrize("name, arguments", list(wrong_lists()))
def test_wrong_lists_are_named(name, arguments):
    with pytest.raises((ValueError, IndexError), match=f"^{name}"):
        nr.Renderer(image_size=4, camera_mode="none")(*arguments)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("camera_mode", ["none", "look_at", "look", "projection"])
@pytest.mark.parametrize("count", [0, 4])
def test_empty_meshes(count, camera_mode, mode):
    eye = torch.eye(3)[None]
    renderer = nr.Renderer(image_size=6, camera_mode=camera_mode, K=eye, R=eye, t=torch.ones(1, 3),
                           background_color=(0.5, 0.5, 0.5))
    vertices = torch.zeros(2, count, 3, requires_grad=True)
    images = renderer(vertices, torch.zeros(0, 3, dtype=torch.int64), torch.zeros(2, 0, 2, 2, 2, 3), mode=mode)
    value = {"rgb": 0.5, "silhouettes": 0, "depth": 100}
    for image, expected in zip(images, (0.5, 100, 0)) if mode is None else [(images, value[mode])]:
        assert len(image) == 2 and bool((image == expected).all())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        (images[0] if mode is None else images).sum().backward()
    assert bool((vertices.grad == 0).all())


# ---- nothing visible ------------------------------------------------------------------------------

SEEN = [[-0.5, -0.5, 2], [0.5, -0.5, 2], [0.0, 0.5, 2]]
CAUSES = [("no faces", SEEN, torch.zeros(0, 3, dtype=torch.int64)),
          ("NaN", [[np.nan, 0, 2]] + SEEN[1:], None), ("far", [[x, y, 200.0] for x, y, _ in SEEN], None),
          ("near", [[x, y, -2.0] for x, y, _ in SEEN], None),
          ("beside", [[x + 3, y, z] for x, y, z in SEEN], None),
          ("no area", [SEEN[0]] * 2 + SEEN[2:], None), ("back", SEEN[::-1], None),
          ("centre of a pixel", [[x / 1e3, y / 1e3, z] for x, y, z in SEEN], None)]


@pytest.fixture
def drawn(monkeypatch):
    """A function that draws a mesh, and asks for the gradient; nothing has been told yet."""
    monkeypatch.setattr(unseen, "_said", set())
    renderer = nr.Renderer(image_size=8, camera_mode="none", fill_back=False)

    def draw(corners, faces=None, gradient=False, mode="silhouettes"):
        vertices = torch.tensor([corners], requires_grad=gradient)
        image = renderer(vertices, torch.tensor([[0, 1, 2]]) if faces is None else faces, mode=mode)
        if gradient:
            (image - 1).square().sum().backward()
        return vertices.grad
    return draw


@pytest.mark.parametrize("cause, corners, faces", CAUSES)
def test_a_gradient_of_nothing_is_said_once(cause, corners, faces, each_backend, drawn):
    with pytest.warns(RuntimeWarning, match=f"nothing is visible.*{cause}"):
        assert bool((drawn(corners, faces, True) == 0).all())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(corners, faces, True)
        assert bool((drawn(SEEN, None, True) != 0).any())


@pytest.mark.parametrize("mode", ["rgb", "silhouettes", "depth"])
@pytest.mark.parametrize("cause, corners, faces", CAUSES)
def test_a_blank_image_is_said_once_when_it_is_drawn(cause, corners, faces, mode, drawn):
    """Not one of no faces: that is what was asked for."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for _ in range(2):
            drawn(corners, faces, mode=mode)
        drawn(SEEN, mode=mode)
    said = [str(w.message) for w in told]
    assert len(said) == (cause != "no faces")
    assert all(text.startswith("nothing is visible: ") and cause in text for text in said)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        drawn(corners, faces, True, mode)
    assert len(told) == (cause == "no faces"), "the gradient has the cause that was told"


def test_no_warning_if_the_gradient_is_zero_for_another_reason(monkeypatch):
    monkeypatch.setattr(unseen, "_said", set())
    vertices = torch.tensor([SEEN], requires_grad=True)
    image = nr.Renderer(image_size=8, camera_mode="none")(vertices, torch.tensor([[0, 1, 2]]), mode="silhouettes")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (image * 0).sum().backward()
    assert bool((vertices.grad == 0).all())
