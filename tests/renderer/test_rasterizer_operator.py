"""The torch operator: its registration, and its errors for wrong arguments."""
import neural_renderer as nr
import numpy as np
import pytest
import torch
from neural_renderer import ops


def meshes(batch=2, faces=3, dtype=torch.float64, T=2):
    generator = torch.Generator().manual_seed(0)
    vertices = torch.rand(batch, 5, 3, generator=generator, dtype=dtype) * 2 - 1
    vertices[..., 2] += 2
    indices = torch.stack([torch.randperm(5, generator=generator)[:3] for _ in range(faces)]) \
        if faces else torch.zeros(0, 3, dtype=torch.int64)
    return {"vertices": vertices, "faces": indices[None].repeat(batch, 1, 1),
            "textures": torch.rand(batch, faces, T, T, T, 3, generator=generator, dtype=dtype),
            "light": torch.rand(batch, faces, 2, 3, generator=generator, dtype=dtype),
            "background": torch.rand(batch, 3, generator=generator, dtype=dtype)}


# ---- registration ---------------------------------------------------------------------------------

SETTINGS = (4, 5, 2, 0.1, 100.0, 1e-3, True, True)  # height, width, samples, near, far, eps, fill_back, perspective
CASES = {"silhouettes": (ops.ALPHA, False, False, {}), "depth": (ops.DEPTH, False, False, {}),
         "rgb": (ops.RGB, True, True, {}), "rgb without light": (ops.RGB, True, False, {}),
         "all": (ops.RGB | ops.ALPHA | ops.DEPTH, True, True, {"dtype": torch.float32}),
         "colours of vertices": (ops.RGB | ops.DEPTH, "colours", True, {}),
         "no faces": (ops.RGB | ops.ALPHA | ops.DEPTH, True, True, {"faces": 0})}


def operator_inputs(case):
    outputs, textured, lit, shape = CASES[case]
    mesh = meshes(**shape)
    return outputs, (mesh["vertices"], mesh["faces"].int(), mesh["textures"] if textured is True else None,
                     mesh["vertices"].detach().sin() if textured == "colours" else None,
                     mesh["light"] if lit else None, mesh["background"] if textured else None)


@pytest.mark.parametrize("case", CASES)
def test_forward_operator(case, each_backend):
    outputs, tensors = operator_inputs(case)
    leaves = [t.requires_grad_() if t is not None and t.is_floating_point() else t
              for t in tensors[:5]]
    torch.library.opcheck(torch.ops.neural_renderer.rasterize,
                          (*leaves, tensors[5], *SETTINGS, False, outputs))


@pytest.mark.parametrize("need_vertices", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_backward_operator(case, need_vertices, each_backend):
    outputs, tensors = operator_inputs(case)
    *images, face_index, samples = torch.ops.neural_renderer.rasterize(*tensors, *SETTINGS, False, outputs)
    grads = [torch.ones_like(image) if outputs & flag else None
             for image, flag in zip(images, (ops.RGB, ops.ALPHA, ops.DEPTH))]
    torch.library.opcheck(
        torch.ops.neural_renderer.rasterize_backward,
        (*tensors, face_index, samples, *grads, *SETTINGS, need_vertices, *(t is not None for t in tensors[2:5])))


def test_gradients_only_where_they_are_wanted(each_backend):
    """Edges matter only for the gradient to vertices; the gradient to textures is the same without that one."""
    gradients = []
    for with_vertices in (False, True):
        mesh = meshes()
        mesh["textures"].requires_grad_()
        mesh["vertices"].requires_grad_(with_vertices)
        rgb, _, depth = ops.rasterize(**mesh, image_size=4, anti_aliasing=False, near=0.1, far=100, eps=1e-3,
                                      rgb=True, depth=True, fill_back=True)
        (rgb.square().sum() + depth.sum()).backward()
        gradients.append(mesh["textures"].grad)
        assert (mesh["vertices"].grad is not None) == with_vertices
    assert torch.equal(*gradients) and gradients[0].abs().max() > 0
    assert not nr.rasterize_silhouettes(torch.zeros(1, 2, 3, 3), 4).requires_grad


# ---- arguments ------------------------------------------------------------------------------------


def rasterize(**changes):
    options = {"image_size": 4, "anti_aliasing": True, "near": 0.1, "far": 100, "eps": 1e-3,
               "rgb": True, "alpha": True, "depth": True}
    return ops.rasterize(**{**meshes(), **options, **changes})


WRONG = [
    ("vertices", torch.zeros(2, 5, 2)), ("vertices", torch.zeros(5, 3)),
    ("vertices", torch.zeros(2, 5, 3, dtype=torch.int64)), ("vertices", [[0.0, 0, 0]]),
    ("vertices", torch.zeros(2, 5, 3, dtype=torch.complex64)), ("vertices", None),
    ("faces", torch.full((2, 3, 3), 0.5)), ("faces", torch.zeros(2, 3, 3, dtype=torch.bool)),
    ("faces", torch.zeros(2, 3, 4, dtype=torch.int64)), ("faces", torch.zeros(3, dtype=torch.int64)),
    ("faces", torch.zeros(1, 3, 3, dtype=torch.int64)), ("faces", [[0, 1, 2]]), ("faces", None),
    ("faces", torch.zeros(2, 3, 3, dtype=torch.int64, device="meta")),
    ("textures", None), ("textures", torch.zeros(2, 2, 2, 2, 2, 3)),
    ("textures", torch.zeros(1, 3, 2, 2, 2, 3)), ("textures", torch.zeros(2, 3, 2, 1, 2, 3)),
    ("textures", torch.zeros(2, 3, 2, 2, 2, 4)), ("textures", torch.zeros(2, 3, 2, 2, 3)),
    ("textures", torch.zeros(2, 3, 0, 0, 0, 3)), ("textures", "white"),
    ("textures", torch.zeros(2, 3, 2, 2, 2, 3, dtype=torch.uint8)),
    ("textures", torch.zeros(2, 3, 2, 2, 2, 3, device="meta")),
    ("light", torch.zeros(2, 3, 3)), ("light", torch.zeros(1, 3, 2, 3)),
    ("light", torch.zeros(2, 3, 2, 3, dtype=torch.int32)), ("light", 1.0),
    ("light", torch.zeros(2, 3, 2, 3, device="meta")),
    ("background", torch.zeros(4)), ("background", torch.zeros(3, 3)),
    ("background", torch.zeros(3, dtype=torch.int64)), ("background", (0, 0, 0)),
    ("background", torch.zeros(3, device="meta")),
    ("image_size", 0), ("image_size", -4), ("image_size", 2.5), ("image_size", (4, 4, 4)),
    ("image_size", "large"), ("image_size", None), ("image_size", 10 ** 6),
    ("near", 100.0), ("near", float("nan")), ("far", 0.1),
]


@pytest.mark.parametrize("name, value", WRONG)
def test_wrong_arguments_are_named(name, value):
    rasterize()
    with pytest.raises(ValueError, match=name):
        rasterize(**{name: value})


@pytest.mark.parametrize("index", [5, -1, 2 ** 31 - 1, 2 ** 32, -2 ** 32])
@pytest.mark.parametrize("shared", [False, True])
def test_face_indices_out_of_range(index, shared, each_backend):
    faces = meshes()["faces"]
    faces[-1, 1, 2] = index
    with pytest.raises(IndexError, match="faces.*5 vertices"):
        rasterize(faces=faces[-1] if shared else faces)


@pytest.mark.parametrize("index", [5, -1, 2 ** 32])
@pytest.mark.parametrize("mode", [None, "rgb", "silhouettes", "depth"])
def test_face_indices_out_of_range_in_a_renderer(index, mode):
    mesh = meshes()
    mesh["faces"][1, 2, 0] = index
    renderer = nr.Renderer(image_size=4, camera_mode="none")
    with pytest.raises(IndexError, match="faces"):
        renderer(mesh["vertices"], mesh["faces"], mesh["textures"], mode=mode)


@pytest.mark.parametrize("value", [torch.zeros(2, 3, 3), torch.zeros(2, 3, 3, 3, dtype=torch.int64),
                                   torch.zeros(2, 3, 2, 3), None])
def test_triangles_of_the_wrong_shape(value):
    for function in (nr.rasterize_silhouettes, nr.rasterize_depth, nr.rasterize_rgbad):
        with pytest.raises(ValueError, match="faces|vertices"):
            function(value, image_size=4)


@pytest.mark.parametrize("background", [(0, 0), (0, 0, 0, 0), [[0, 0, 0]] * 3, 0.5])
def test_wrong_background_colour(background):
    triangles, textures = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 1, 1, 1, 3)
    with pytest.raises(ValueError, match="background"):
        nr.rasterize(triangles, textures, 4, background_color=background)
    renderer = nr.Renderer(image_size=4, camera_mode="none", background_color=background)
    with pytest.raises(ValueError, match="background"):
        renderer.render_rgb(torch.zeros(2, 3, 3), torch.tensor([[0, 1, 2]]))


@pytest.mark.parametrize("mode", [None, "rgb", "silhouettes", "depth"])
@pytest.mark.parametrize("name, value", [
    ("vertices", torch.zeros(5, 3)), ("vertices", torch.zeros(2, 5, 3, dtype=torch.int32)),
    ("vertices", None), ("vertices", torch.zeros(2, 5, 2)),
    ("faces", torch.full((2, 3, 3), 0.5)), ("faces", None), ("faces", [[0, 1, 2]]),
    ("faces", torch.zeros(1, 3, 3, dtype=torch.int64)),
    ("faces", torch.zeros(2, 3, 4, dtype=torch.int64)),
    ("faces", torch.zeros(3, dtype=torch.int64))])
@pytest.mark.parametrize("camera_mode", ["none", "look_at"])
def test_wrong_meshes_in_a_renderer(mode, name, value, camera_mode):
    mesh = {key: meshes()[key] for key in ("vertices", "faces")}
    renderer = nr.Renderer(image_size=4, camera_mode=camera_mode)
    renderer(**mesh, mode=mode)
    with pytest.raises(ValueError, match=name):
        renderer(**{**mesh, name: value}, mode=mode)


@pytest.mark.parametrize("name, value", [
    ("light_direction", [0, 1]), ("light_direction", [[0, 1, 0]] * 3),
    ("light_color_ambient", [1, 1]), ("light_color_directional", [[1, 1, 1]] * 3)])
def test_wrong_light(name, value):
    mesh = meshes()
    renderer = nr.Renderer(image_size=4, camera_mode="none", **{name: value})
    with pytest.raises(ValueError, match=name.removeprefix("light_")):
        renderer.render_rgb(mesh["vertices"], mesh["faces"])


@pytest.mark.parametrize("name, value", [
    ("near", "close"), ("far", None), ("background_color", "red"), ("background_color", [0, 1]),
    ("viewing_angle", "wide"), ("viewing_angle", 0), ("viewing_angle", 90), ("viewing_angle", float("nan")),
    ("light_direction", "up"), ("light_intensity_ambient", "strong"), ("light_intensity_directional", [1, 2, 3]),
    ("light_color_ambient", "red"), ("image_size", 0), ("image_size", 10 ** 9), ("image_size", (4, "a"))])
def test_wrong_settings_of_a_renderer(name, value):
    mesh = meshes()
    with pytest.raises(ValueError, match=name.removesuffix("_color")):
        renderer = nr.Renderer(**{"image_size": 4, "camera_mode": "look_at", name: value})
        renderer.render_rgb(mesh["vertices"], mesh["faces"])


def test_light_may_be_stronger_on_one_mesh_than_on_another():
    mesh = meshes()
    images = []
    for ambient, directional in ((0.9, 0.4), (0.2, 0.1), ([0.9, 0.2], torch.tensor([0.4, 0.1]))):
        renderer = nr.Renderer(4, camera_mode="none", light_intensity_ambient=ambient,
                               light_intensity_directional=directional)
        images.append(renderer.render_rgb(mesh["vertices"], mesh["faces"], mesh["textures"]))
    torch.testing.assert_close(images[2], torch.stack([images[0][0], images[1][1]]), rtol=1e-6, atol=1e-7)
    assert not torch.equal(images[0], images[1])


@pytest.mark.parametrize("name, arguments", [
    ("faces", (torch.zeros(2, 3, 3), torch.zeros(2, 3, 1, 1, 1, 3))), ("faces", (None, None)),
    ("textures", (torch.zeros(2, 3, 3, 3), torch.zeros(2, 2, 1, 1, 1, 3))),
    ("textures", (torch.zeros(2, 3, 3, 3), None)),
    ("intensity", (torch.zeros(2, 3, 3, 3), torch.zeros(2, 3, 1, 1, 1, 3), "dim"))])
def test_wrong_arguments_of_lighting(name, arguments):
    with pytest.raises(ValueError, match=name):
        nr.lighting(*arguments)


def test_wrong_modes():
    mesh = meshes()
    with pytest.raises(ValueError, match="camera_mode"):
        nr.Renderer(camera_mode="lookat")
    renderer = nr.Renderer(image_size=4, camera_mode="none")
    with pytest.raises(ValueError, match="mode"):
        renderer(mesh["vertices"], mesh["faces"], mode="silhouette")
    renderer.camera_mode = "sideways"
    with pytest.raises(ValueError, match="camera_mode"):
        renderer(mesh["vertices"], mesh["faces"], mode="silhouettes")
    renderer.camera_mode = "projection"
    with pytest.raises(ValueError, match="K, R, t"):
        renderer(mesh["vertices"], mesh["faces"], mode="silhouettes")


# ---- size -----------------------------------------------------------------------------------------

def test_texels_beyond_2_to_the_31():
    """The last of 22 000 cubes of 32^3 texels begins at number 2 162 589 696. Only this cube of the 8 GiB is touched,
    so the others take no memory."""
    F, T = 22000, 32
    try:
        textures = torch.from_numpy(np.zeros((1, F, T, T, T, 3), np.float32))
    except MemoryError:
        pytest.skip("no 8 GiB of addresses here")
    assert textures[0, -1].storage_offset() > 2 ** 31
    textures[0, -1] = torch.tensor([.25, .5, .75])
    vertices = torch.tensor([[[-1., -1, 2], [3, -1, 2], [-1, 3, 2], [0, 0, 2]]])
    faces = torch.full((F, 3), 3)
    faces[-1] = torch.tensor([0, 1, 2])
    light = torch.ones(1, F, 2, 3)
    rgb, alpha, _ = ops.rasterize(vertices, faces, textures, light, image_size=4, anti_aliasing=False, near=.1,
                                  far=100, eps=1e-3, rgb=True, alpha=True)
    assert torch.equal(alpha, torch.ones(1, 4, 4))
    assert torch.allclose(rgb, torch.tensor([.25, .5, .75])[None, :, None, None].expand(1, 3, 4, 4))
