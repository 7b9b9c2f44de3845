"""The interface on which programs for the original package rely, apart from the pictures."""
import inspect
import typing
from pathlib import Path

import neural_renderer as nr
import numpy as np
import pytest
import torch
import voxelization
from solids import box, icosphere


# ---- Renderer is a module -------------------------------------------------------------------------


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        vertices, faces = icosphere(0, 0.5)
        self.vertices = torch.nn.Parameter(torch.tensor(vertices[None]).float())
        self.register_buffer("faces", torch.tensor(faces[None]))
        self.renderer = nr.Renderer(image_size=16, camera_mode="look_at")

    def forward(self):
        return self.renderer(self.vertices, self.faces, mode="silhouettes").sum()


def test_a_renderer_is_a_module_with_nothing_to_learn():
    model = Model()
    assert isinstance(model.renderer, torch.nn.Module) and list(model.state_dict()) == ["vertices", "faces"]
    assert len(list(model.parameters())) == 1
    model.double().eval()().backward()
    assert model.vertices.grad.dtype == torch.float64 and bool((model.vertices.grad != 0).any())


def test_an_eye_may_be_a_parameter_and_then_numbers_again():
    model = Model()
    model.renderer.eye = torch.nn.Parameter(torch.tensor([0.2, 0.3, -2.5]))
    assert len(list(model.parameters())) == 2
    model().backward()
    assert bool((model.renderer.eye.grad != 0).any())
    for eye in ((0, 0, -2.0), torch.nn.Parameter(torch.ones(3)), np.ones(3), torch.ones(3)):
        model.renderer.eye = eye
        model()
        assert model.renderer.eye is eye
    assert len(list(model.parameters())) == 1


# ---- numbers of any kind --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, np.array, lambda v: np.array(v, np.float32), torch.tensor])
def test_points_from_angles_of_any_kind(kind):
    angles = [(2.0, 20.0, 10.0), (3.0, -5.0, 200.0)]
    got = nr.get_points_from_angles(*(kind(list(column)) for column in zip(*angles)))
    assert got.shape == (2, 3)
    np.testing.assert_allclose(got, [nr.get_points_from_angles(*a) for a in angles], rtol=1e-5)
    mixed = nr.get_points_from_angles(2.0, kind([20.0, 20.0]), 10)
    np.testing.assert_allclose(mixed, [nr.get_points_from_angles(2, 20, 10)] * 2, rtol=1e-5)


def test_numpy_numbers_are_numbers():
    got = nr.get_points_from_angles(np.float32(2), np.int64(20), np.float64(10))
    assert isinstance(got, tuple) and np.allclose(got, nr.get_points_from_angles(2, 20, 10))
    assert nr.get_points_from_angles(*torch.tensor([2.0, 20, 10])).shape == (3,)
    with pytest.raises(ValueError, match="azimuth"):
        nr.get_points_from_angles(torch.ones(2), 0, "left")


@pytest.mark.parametrize("kind", [lambda v: v, np.array, torch.tensor])
def test_cameras_take_numbers_of_any_kind(kind):
    vertices = torch.rand(2, 5, 3, dtype=torch.float64)
    K, R = [[[50.0, 0, 30], [0, 50, 30], [0, 0, 1]]], [[[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]]
    t, distortion = [[0.1, 0.2, 3.0]], [[0.1, 0.0, 0.01, 0.0, 0.0]]
    expected = nr.projection(vertices, *(torch.tensor(v, dtype=torch.float64) for v in (K, R, t, distortion)), 60)
    got = nr.projection(vertices, *map(kind, (K, R, t, distortion)), 60)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    renderer = nr.Renderer(8, K=kind(K), R=kind(R), t=kind(t), dist_coeffs=kind(distortion), orig_size=60)
    assert torch.equal(renderer.transform(vertices), got)
    eye = nr.look_at(vertices, kind([0.1, 0.2, -3.0]), at=kind([0.0, 0.1, 0]), up=kind([0.0, 1, 0.1]))
    assert eye.dtype == torch.float64
    nr.look(vertices, kind([0.1, 0.2, -3.0]), kind([0.0, 0.1, 1]), kind([0.0, 1, 0.1]))


@pytest.mark.parametrize("name, value", [("K", "camera"), ("R", [[1, 0], [1]]), ("t", object())])
def test_cameras_that_are_no_numbers_are_named(name, value):
    eye = torch.eye(3)
    good = {"K": eye, "R": eye, "t": torch.zeros(3), "dist_coeffs": torch.zeros(5), "orig_size": 4}
    with pytest.raises(ValueError, match=f"^{name} must be"):
        nr.projection(torch.ones(1, 2, 3), **{**good, name: value})


@pytest.mark.parametrize("camera_mode", ["look_at", "look", "projection"])
def test_autocast_changes_nothing(camera_mode):
    """Cameras and light in bfloat16 would move vertices by several pixels."""
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.7))
    eye = torch.eye(3)[None]
    renderer = nr.Renderer(24, camera_mode=camera_mode, K=eye, R=eye, t=torch.tensor([[[1.5, 1.5, 2.0]]]),
                           orig_size=1.5, light_direction=(0.3, 0.7, -0.4))
    results = []
    for enabled in (False, True):
        leaf = vertices.float()[None].requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            images = renderer(leaf, faces)
        sum((image * torch.linspace(-1, 1, 24)).sum() for image in images).backward()
        results.append([*images, leaf.grad])
    for got, expected in zip(*results):
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)
    assert results[0][0].std() > 0.05 and results[0][-1].abs().max() > 1e-3


@pytest.mark.parametrize("camera_mode", ["look_at", "projection"])
def test_a_compiled_program_draws_the_same(camera_mode):
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.7))
    eye = torch.eye(3)
    renderer = nr.Renderer(16, camera_mode=camera_mode, K=eye, R=eye, t=torch.tensor([0, 0, 3.0]),
                           orig_size=(2, 2))

    def loss(vertices):
        return sum(image.square().sum() for image in renderer(vertices, faces))

    results = []
    for program in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        leaf = vertices.float()[None].requires_grad_()
        program(leaf).backward()
        results.append(leaf.grad)
    torch.testing.assert_close(*results)


# ---- Mesh and Rasterize ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.tensor, np.array, lambda v: np.array(v).tolist()])
def test_mesh(kind):
    vertices, faces = box((0, 0, 0), (1, 2, 3))
    mesh = nr.Mesh(kind(vertices), kind(faces), texture_size=3)
    assert (mesh.num_vertices, mesh.num_faces, mesh.texture_size) == (8, 12, 3)
    np.testing.assert_allclose(mesh.vertices, vertices)
    assert np.array_equal(mesh.faces, faces)
    assert isinstance(mesh.textures, torch.nn.Parameter) and mesh.textures.shape == (12, 3, 3, 3, 3)
    assert 0.04 < mesh.textures.std() < 0.06
    given = nr.Mesh(kind(vertices), kind(faces), kind(np.full((12, 2, 2, 2, 3), 0.5)))
    assert given.texture_size == 2 and bool((given.textures == 0.5).all())


def test_mesh_from_a_file(tmp_path):
    vertices, faces = box((0, 0, 0), (1, 2, 3))
    textures = torch.rand(12, 2, 2, 2, 3)
    nr.save_obj(tmp_path / "box.obj", vertices, faces, textures)
    mesh = nr.Mesh.fromobj(tmp_path / "box.obj", load_texture=True, texture_size=5)
    assert mesh.texture_size == 5 and mesh.textures.shape == (12, 5, 5, 5, 3)
    assert float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()) == 2
    plain = nr.Mesh.fromobj(tmp_path / "box.obj", normalization=False, texture_size=2)
    np.testing.assert_allclose(plain.vertices, vertices)
    assert isinstance(plain.textures, torch.nn.Parameter) and plain.texture_size == 2


@pytest.mark.parametrize("name, change", [
    ("vertices", {"vertices": torch.zeros(2, 8, 3)}), ("vertices", {"vertices": "box.obj"}),
    ("vertices", {"vertices": [[0, 1], [2]]}), ("faces", {"faces": torch.zeros(2, 12, 3)}),
    ("faces", {"faces": torch.full((1, 3), 8)}), ("textures", {"textures": torch.zeros(12, 2, 2, 3)}),
    ("textures", {"textures": torch.zeros(11, 2, 2, 2, 3)}),
    ("textures", {"textures": torch.zeros(12, 2, 1, 2, 3)}),
    ("textures", {"textures": torch.zeros(12, 2, 2, 2, 3, dtype=torch.uint8)}),
    ("textures", {"textures": torch.zeros(12, 0, 0, 0, 3)})])
def test_wrong_meshes_are_named(name, change):
    vertices, faces = box((0, 0, 0), (1, 2, 3))
    with pytest.raises((ValueError, IndexError), match=name):
        nr.Mesh(**{"vertices": vertices, "faces": faces, **change})


def test_rasterize_as_a_module():
    """The original's class: colours last, rows from the bottom up, no anti-aliasing."""
    generator = torch.Generator().manual_seed(2)
    corners = torch.rand(2, 4, 3, 3, generator=generator) * 2 - 1
    corners[..., 2] += 2
    textures = torch.rand(2, 4, 2, 2, 2, 3, generator=generator)
    expected = nr.rasterize_rgbad(corners, textures, 9, False, 0.1, 5, 1e-3, (0.1, 0.2, 0.3))
    rgb, alpha, depth = nr.Rasterize(9, 0.1, 5, 1e-3, (0.1, 0.2, 0.3), True, True, True)(corners, textures)
    assert torch.equal(rgb.permute(0, 3, 1, 2).flip(2), expected["rgb"]) and not torch.equal(alpha, alpha.flip(1))
    assert torch.equal(alpha.flip(1), expected["alpha"]) and torch.equal(depth.flip(1), expected["depth"])
    only = nr.Rasterize(9, 0.1, 5, 1e-3, (0, 0, 0), return_alpha=True)(corners)
    assert only[0] is None and only[2] is None and torch.equal(only[1], alpha)


# ---- type hints -----------------------------------------------------------------------------------


def public():
    """(name, function) of all that programs call."""
    for package in (nr, voxelization):
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.isfunction(thing):
                yield f"{package.__name__}.{name}", thing
            elif inspect.isclass(thing):
                own = {n: getattr(thing, n) for n in vars(thing) if n == "__init__" or not n.startswith("_")}
                yield from ((f"{name}.{n}", f) for n, f in own.items() if inspect.isroutine(f))


@pytest.mark.parametrize("name, function", [pytest.param(*pair, id=pair[0]) for pair in public()])
def test_public_functions_tell_types(name, function):
    hints = typing.get_type_hints(function)  # raises for a hint that cannot be resolved
    assert set(inspect.signature(function).parameters) - {"self"} | {"return"} == set(hints)


@pytest.mark.parametrize("package", [nr, voxelization], ids=lambda p: p.__name__)
def test_checkers_are_told_of_the_hints(package):
    assert (Path(package.__file__).parent / "py.typed").exists()
