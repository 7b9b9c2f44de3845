"""The interface of neural_renderer_pytorch 1.1.3: modules, names, the order and defaults of parameters, and their
use in programs."""
import importlib
import inspect
import warnings

import neural_renderer as nr
import numpy as np
import pytest
import torch
from solids import box, icosphere

CAMERA = "K=None, R=None, t=None, dist_coeffs=None, orig_size=None"
SETTINGS = "image_size=256, anti_aliasing=True, near=0.1, far=100, eps=0.0001"
IMAGES = "return_rgb=False, return_alpha=False, return_depth=False"
INTERFACE = {
    "get_points_from_angles.get_points_from_angles": "distance, elevation, azimuth, degrees=True",
    "lighting.lighting": "faces, textures, intensity_ambient=0.5, intensity_directional=0.5, color_ambient=(1, 1, 1), "
                         "color_directional=(1, 1, 1), direction=(0, 1, 0)",
    "load_obj.load_mtl": "filename_mtl",
    "load_obj.load_textures": "filename_obj, filename_mtl, texture_size, texture_wrapping='REPEAT', use_bilinear=True",
    "load_obj.load_obj": "filename_obj, normalization=True, texture_size=4, load_texture=False, "
                         "texture_wrapping='REPEAT', use_bilinear=True",
    "look.look": "vertices, eye, direction=(0, 1, 0), up=None",
    "look_at.look_at": "vertices, eye, at=(0, 0, 0), up=(0, 1, 0)",
    "mesh.Mesh": "vertices, faces, textures=None, texture_size=4",
    "mesh.Mesh.fromobj": "filename_obj, normalization=True, load_texture=False, texture_size=4",
    "perspective.perspective": "vertices, angle=30.0",
    "projection.projection": "vertices, K, R, t, dist_coeffs, orig_size, eps=1e-09",
    "rasterize.RasterizeFunction.apply": f"faces, textures, image_size, near, far, eps, background_color, {IMAGES}",
    "rasterize.RasterizeFunction.forward": f"faces, textures, image_size, near, far, eps, background_color, {IMAGES}",
    "rasterize.RasterizeFunction.backward": "grad_rgb_map, grad_alpha_map, grad_depth_map",
    "rasterize.RasterizeFunction.forward_face_index_map": "faces, face_index_map, weight_map, depth_map, face_inv_map",
    "rasterize.RasterizeFunction.forward_texture_sampling": "faces, textures, face_index_map, weight_map, depth_map, "
                                                            "rgb_map, sampling_index_map, sampling_weight_map",
    "rasterize.RasterizeFunction.forward_alpha_map": "alpha_map, face_index_map",
    "rasterize.RasterizeFunction.forward_background": "face_index_map, rgb_map",
    "rasterize.RasterizeFunction.backward_pixel_map": "faces, face_index_map, rgb_map, alpha_map, grad_rgb_map, "
                                                      "grad_alpha_map, grad_faces",
    "rasterize.RasterizeFunction.backward_textures": "face_index_map, sampling_weight_map, sampling_index_map, "
                                                     "grad_rgb_map, grad_textures",
    "rasterize.RasterizeFunction.backward_depth_map": "faces, depth_map, face_index_map, face_inv_map, weight_map, "
                                                      "grad_depth_map, grad_faces",
    "rasterize.Rasterize": f"image_size, near, far, eps, background_color, {IMAGES}",
    "rasterize.Rasterize.forward": "faces, textures",
    "rasterize.rasterize_rgbad": f"faces, textures=None, {SETTINGS}, background_color=(0, 0, 0), return_rgb=True, "
                                 "return_alpha=True, return_depth=True",
    "rasterize.rasterize": f"faces, textures, {SETTINGS}, background_color=(0, 0, 0)",
    "rasterize.rasterize_silhouettes": f"faces, {SETTINGS}",
    "rasterize.rasterize_depth": f"faces, {SETTINGS}",
    "renderer.Renderer": "image_size=256, anti_aliasing=True, background_color=(0, 0, 0), fill_back=True, "
                         "camera_mode='projection', K=None, R=None, t=None, dist_coeffs=None, orig_size=1024, "
                         "perspective=True, viewing_angle=30, camera_direction=(0, 0, 1), near=0.1, far=100, "
                         "light_intensity_ambient=0.5, light_intensity_directional=0.5, "
                         "light_color_ambient=(1, 1, 1), light_color_directional=(1, 1, 1), light_direction=(0, 1, 0)",
    "renderer.Renderer.forward": f"vertices, faces, textures=None, mode=None, {CAMERA}",
    "renderer.Renderer.render_silhouettes": f"vertices, faces, {CAMERA}",
    "renderer.Renderer.render_depth": f"vertices, faces, {CAMERA}",
    "renderer.Renderer.render_rgb": f"vertices, faces, textures, {CAMERA}",
    "renderer.Renderer.render": f"vertices, faces, textures, {CAMERA}",
    "save_obj.create_texture_image": "textures, texture_size_out=16",
    "save_obj.save_obj": "filename, vertices, faces, textures=None",
    "vertices_to_faces.vertices_to_faces": "vertices, faces",
}
MORE = {"load_obj.load_obj", "renderer.Renderer", "save_obj.save_obj"}  # have more parameters, after the original's
OPTIONAL = {"rasterize.Rasterize.forward": {"textures"}, "renderer.Renderer.render_rgb": {"textures"},
            "renderer.Renderer.render": {"textures"}}  # that the original asks for


@pytest.mark.parametrize("path", INTERFACE)
def test_names_order_and_defaults_of_parameters(path):
    module, *names = path.split(".")
    thing = importlib.import_module(f"neural_renderer.{module}")
    for name in names:
        thing = getattr(thing, name)
    ours = [p for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "ctx")]
    theirs = inspect.signature(eval(f"lambda {INTERFACE[path]}: None")).parameters.values()
    assert len(ours) == len(theirs) or path in MORE and len(ours) > len(theirs)
    for mine, original in zip(ours, theirs):
        assert mine.name == original.name and mine.kind == mine.POSITIONAL_OR_KEYWORD
        if mine.name not in OPTIONAL.get(path, ()):
            assert mine.default == original.default or mine.default is original.default, mine.name
    assert all(p.default is not p.empty for p in ours[len(theirs):])


@pytest.mark.parametrize("path", INTERFACE)
def test_modules_and_what_the_package_exports(path):
    module, name = path.split(".")[:2]
    member = getattr(importlib.import_module(f"neural_renderer.{module}"), name)
    if name not in ("load_mtl", "RasterizeFunction"):
        assert getattr(nr, name) is member and name in nr.__all__
    assert importlib.util.find_spec(f"neural_renderer.{module}") is not None


def test_importing_a_module_leaves_the_function_of_its_name():
    import neural_renderer.look_at  # noqa: F401
    import neural_renderer.projection  # noqa: F401
    from neural_renderer.projection import projection
    assert nr.projection is projection and callable(nr.look_at)


def test_compiled_modules_are_attributes_too():
    import neural_renderer.cuda.load_textures
    import neural_renderer.cuda.rasterize as raw
    assert neural_renderer.cuda.rasterize is raw is nr.cuda.rasterize
    assert callable(neural_renderer.cuda.load_textures.load_textures)
    assert nr.renderer.Renderer is nr.Renderer and nr.mesh.Mesh is nr.Mesh


def test_name_and_version():
    assert nr.name == "neural_renderer"
    public, _, ours = nr.__version__.partition("+learn3d.")
    assert public == "1.1.3" and ours[0].isdigit()


# ---- cameras --------------------------------------------------------------------------------------


def test_a_renderer_without_distortion_has_zeros():
    """Programs that optimise poses use the attribute like this."""
    K, R, t = np.array([[[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]], np.float32), np.eye(3, dtype=np.float32)[None], \
        np.array([[[0, 0, 3.0]]], np.float32)
    renderer = nr.Renderer(16, K=K, R=R, t=t, orig_size=16)
    assert all(isinstance(getattr(renderer, name), torch.Tensor) for name in ("K", "R", "t"))
    assert renderer.dist_coeffs.to("cpu").shape == (1, 5) and not renderer.dist_coeffs.any()
    vertices = torch.rand(2, 5, 3) - 0.5
    known = renderer.transform(vertices)
    for distortion in (renderer.dist_coeffs, None):
        assert torch.equal(nr.projection(vertices, renderer.K, renderer.R, renderer.t, distortion, 16), known)
    for size in ([16], np.array([16.0]), torch.tensor([[16]])):
        assert torch.equal(nr.projection(vertices, K, R, t, None, size), known)
    renderer.dist_coeffs = None
    assert torch.equal(renderer.transform(vertices), known)
    renderer.K = 2 * K
    assert isinstance(renderer.K, torch.Tensor) and not torch.equal(renderer.transform(vertices), known)


def test_programs_for_the_chainer_package_change_two_lines():
    """Those that docs/neural_renderer.md gives."""
    vertices, faces = sphere()
    textures = torch.rand(1, 80, 2, 2, 2, 3)
    with pytest.raises(ValueError, match="camera_mode 'projection' needs K, R, t: .* or choose another camera_mode"):
        nr.Renderer().render(vertices, faces, textures)
    renderer = nr.Renderer(12, camera_mode="look_at")
    images = renderer(vertices, faces, textures, mode="rgb")
    assert images.shape == (1, 3, 12, 12) and torch.equal(images, renderer.render(vertices, faces, textures)[0])


@pytest.mark.parametrize("name, words", [("camera_up", "up="), ("light_intensity_direction", "directional"),
                                         ("use_lights", "light_intensity_ambient=1")])
def test_attributes_that_do_nothing_are_told_once(name, words, monkeypatch):
    monkeypatch.setattr("neural_renderer.renderer._warned_of", set())
    renderer = nr.Renderer(8, camera_mode="look_at")
    with pytest.warns(UserWarning, match=f"Renderer.{name} does nothing: .*{words}"):
        setattr(renderer, name, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        setattr(renderer, name, 1)
    assert getattr(renderer, name) == 1


def test_arrays_become_copies():
    """In any byte order, also reversed; the program may change its array afterwards."""
    K, R = np.array([[20.0, 0, 8], [0, 20, 8], [0, 0, 1]]), np.eye(3)[::-1, ::-1]
    renderer = nr.Renderer(16, K=K[None], R=R[None], t=np.array([[3.0, 0, 0]])[:, ::-1], orig_size=16)
    vertices = torch.rand(2, 5, 3) - 0.5
    known = renderer.transform(vertices)
    K[:] = 0
    assert torch.equal(renderer.transform(vertices), known)
    renderer.R = np.eye(3, dtype=">f8")[None]
    assert torch.equal(renderer.transform(vertices), known)
    assert torch.equal(nr.look_at(vertices, np.array([-2.0, 0, 0])[::-1]), nr.look_at(vertices, [0, 0, -2]))
    mesh = nr.Mesh(vertices[0].numpy()[::-1], np.array([[0, 1, 2]])[:, ::-1])
    assert torch.equal(mesh.faces, torch.tensor([[2, 1, 0]])) and torch.equal(mesh.vertices, vertices[0].flip(0))


CAMERAS = {
    "look_at": lambda v, c: nr.look_at(v, c["eye"], at=c["at"]),
    "look": lambda v, c: nr.look(v, c["eye"], c["at"], up=c["up"]),
    "perspective": lambda v, c: nr.perspective(v + torch.tensor([0, 0, 3.0]), c["angle"]),
    "projection": lambda v, c: nr.projection(v, c["K"], c["R"], c["t"], c["distortion"], 16)}


@pytest.mark.parametrize("name", CAMERAS)
def test_one_mesh_with_several_cameras(name):
    """In the original the batch of cameras sets the number of results too."""
    vertices, several = torch.rand(1, 5, 3) - 0.5, {
        "eye": torch.rand(4, 3) - 3, "at": torch.rand(4, 3), "up": torch.rand(4, 3),
        "angle": torch.tensor([10.0, 20, 30, 40]), "K": torch.eye(3) + torch.rand(4, 3, 3),
        "R": torch.linalg.qr(torch.rand(4, 3, 3))[0], "t": torch.rand(4, 1, 3) + 3, "distortion": torch.rand(4, 5) / 10}
    draw = CAMERAS[name]
    found = draw(vertices, several)
    assert found.shape == (4, 5, 3)
    for c in range(4):
        torch.testing.assert_close(found[c:c + 1], draw(vertices, {k: v[c:c + 1] for k, v in several.items()}))
    one = {k: v[:1] for k, v in several.items()}
    for only in several:  # one of the arguments is enough
        mixed = draw(vertices, {**one, only: several[only]})
        torch.testing.assert_close(mixed, draw(vertices.expand(len(mixed), -1, -1), {**one, only: several[only]}))
    with pytest.raises(ValueError, match=r"must (have|be a number or of) shape"):
        draw(torch.rand(3, 5, 3), several)
    if name != "perspective":
        with pytest.raises(ValueError, match="(eye|K) of 4, .*(at|direction|t) of 2.*the same number of cameras"):
            draw(vertices, {k: v[:2] if k in ("at", "t") else v for k, v in several.items()})


@pytest.mark.parametrize("colours", ["faces", "vertices", None])
def test_a_renderer_draws_one_mesh_with_several_eyes(colours):
    vertices, faces = sphere()
    textures = {"faces": torch.rand(1, 80, 2, 2, 2, 3), "vertices": torch.rand(1, 42, 3), None: None}[colours]
    renderer = nr.Renderer(12, camera_mode="look_at", light_direction=[[1, 0, 0], [0, 1, 0], [0, 0, -1]])
    eyes = renderer.eye = torch.tensor([[0.0, 0, -2.5], [1, 1, -2], [-2, 0.5, 0.5]])
    leaf = vertices.clone().requires_grad_()
    images = renderer(leaf, faces, textures)
    index = renderer.render_face_index(vertices, faces)
    (images[0] * torch.linspace(-1, 1, 12)).sum().backward()
    total = torch.zeros_like(vertices)
    for k in range(3):
        renderer.eye, renderer.light_direction = eyes[k], [[1, 0, 0], [0, 1, 0], [0, 0, -1]][k]
        own = vertices.clone().requires_grad_()
        alone = renderer(own, faces[0], textures)
        for a, b in zip(images, alone):
            torch.testing.assert_close(a[k:k + 1], b)
        assert torch.equal(index[k:k + 1], renderer.render_face_index(vertices, faces))
        (alone[0] * torch.linspace(-1, 1, 12)).sum().backward()
        total += own.grad
    torch.testing.assert_close(leaf.grad, total, rtol=1e-4, atol=1e-5)


# ---- a Renderer is changed after it was made ------------------------------------------------------

LATER = {"image_size": 9, "anti_aliasing": False, "background_color": [1, 0, 0], "fill_back": False,
         "camera_mode": "none", "perspective": False, "viewing_angle": 20, "near": 2.3, "far": 2.4,
         "light_intensity_ambient": 0.2, "light_intensity_directional": 0.1, "light_color_ambient": [1, 0, 0],
         "light_color_directional": [1, 0, 0],
         "light_direction": [1, 0, 0], "eye": [1, 1, -2], "rasterizer_eps": 0.3}
OF_PROJECTION = {"K": torch.eye(3)[None] * 2, "R": torch.tensor([[[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]]]),
                 "t": torch.tensor([[[0.2, 0.1, 3]]]), "dist_coeffs": torch.tensor([[0.3, 0, 0, 0, 0]]),
                 "orig_size": 2.5, "camera_mode": "none"}


def renderers(projection, **settings):
    if not projection:
        return nr.Renderer(**{"image_size": 12, "camera_mode": "look_at", **settings})
    return nr.Renderer(**{"image_size": 12, "K": torch.eye(3)[None], "R": torch.eye(3)[None],
                          "t": torch.tensor([[[1.0, 1, 2]]]), "orig_size": 2, **settings})


def drawn(renderer):
    """Images and the gradient of an open, coloured mesh."""
    vertices, faces = sphere()
    leaf = vertices.clone().requires_grad_()
    images = renderer(leaf, faces[:, 20:], torch.linspace(0, 1, 60 * 24).reshape(1, 60, 2, 2, 2, 3))
    sum((i * torch.linspace(-1, 1, i.shape[-1])).sum() for i in images).backward()
    return [*images, leaf.grad]


@pytest.mark.parametrize("projection, name", [(0, name) for name in LATER] + [(1, name) for name in OF_PROJECTION])
def test_every_attribute_counts_when_it_is_set_later(projection, name):
    """As if it had been given to the constructor, and not as before."""
    value = (OF_PROJECTION if projection else LATER)[name]
    renderer = renderers(projection)
    before = drawn(renderer)
    setattr(renderer, name, value)
    after = drawn(renderer)
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(before, after))
    if name not in ("eye", "rasterizer_eps", "viewing_angle"):  # the constructor sets eye by viewing_angle
        assert all(map(torch.equal, drawn(renderers(projection, **{name: value})), after))


@pytest.mark.parametrize("name", ["background_color", "light_color_ambient", "light_color_directional",
                                  "light_direction", "eye", "camera_direction", "dist_coeffs"])
def test_single_numbers_of_an_attribute_can_be_changed(name):
    renderer, other = (renderers(name == "dist_coeffs") for _ in range(2))
    if name == "camera_direction":
        renderer.camera_mode = "look"
    before = drawn(renderer)
    getattr(renderer, name)[0 if name != "dist_coeffs" else (0, 0)] = 0.4
    assert any(not torch.equal(a, b) for a, b in zip(before, drawn(renderer)))
    assert getattr(other, name)[0] != 0.4 if name != "dist_coeffs" else not other.dist_coeffs.any()


def test_outputs_can_be_changed_in_place():
    """Programs write into images and cameras; the gradient is that of the copies."""
    vertices, faces = sphere()
    renderer = renderers(False)
    grads = []
    for copied in (False, True):
        leaf = vertices.clone().requires_grad_()
        seen = nr.look_at(leaf, [0.0, 0.5, -2.5])
        seen = seen.clone() if copied else seen
        seen[:, :, 1] *= -1
        corners = nr.vertices_to_faces(nr.perspective(seen), faces)
        corners = corners.clone() if copied else corners
        corners[..., 0] += 0.1
        images = [nr.rasterize_silhouettes(corners, 12), *renderer(leaf, faces)]
        images = [image.clone() if copied else image for image in images]
        for image in images:
            image.clamp_(max=2.7).mul_(torch.linspace(-1, 1, 12))
            image[..., 3] = 0
        sum(image.sum() for image in images).backward()
        grads.append(leaf.grad)
    assert grads[0].any()
    torch.testing.assert_close(*grads)


# ---- faces of a float dtype, and light ------------------------------------------------------------


def sphere():
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.7))
    return vertices.float()[None], faces[None]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32, torch.uint64])
def test_faces_of_any_integer_dtype(dtype):
    vertices, faces = sphere()
    known = nr.Renderer(12, camera_mode="look_at")(vertices, faces, mode="silhouettes")
    assert torch.equal(nr.Renderer(12, camera_mode="look_at")(vertices, faces.to(dtype), mode="silhouettes"), known)
    assert nr.vertices_to_faces(vertices, faces.to(dtype)).shape == (1, 80, 3, 3)
    beyond = faces.long()
    beyond[0, 3, 1] = 42
    with pytest.raises(IndexError, match="42 vertices"):
        nr.vertices_to_faces(vertices, beyond.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_faces_of_a_float_dtype(dtype, tmp_path):
    vertices, faces = sphere()
    renderer = nr.Renderer(12, camera_mode="look_at")
    for mode in (None, "rgb", "silhouettes", "depth"):
        known, found = renderer(vertices, faces, mode=mode), renderer(vertices, faces.to(dtype), mode=mode)
        assert all(torch.equal(a, b) for a, b in zip(known, found))
    index = renderer.render_face_index(vertices, faces)
    assert torch.equal(renderer.render_face_index(vertices, faces.to(dtype)), index)
    assert torch.equal(renderer([vertices[0]], [faces[0].to(dtype)])[0], renderer(vertices, faces)[0])
    assert torch.equal(nr.vertices_to_faces(vertices, faces.to(dtype)), nr.vertices_to_faces(vertices, faces))
    assert nr.Mesh(vertices[0], faces[0].to(dtype)).faces.dtype == torch.int64
    nr.save_obj(tmp_path / "a.obj", vertices[0], faces[0].to(dtype))
    assert torch.equal(nr.load_obj(tmp_path / "a.obj", device="cpu")[1], faces[0].int())
    torn = faces.to(dtype)
    torn[0, 3, 1] += 0.5
    with pytest.raises(ValueError, match="^faces must be integers"):
        nr.save_obj(tmp_path / "a.obj", vertices[0], torn[0])
    for name, draw in (("faces", lambda: renderer(vertices, torn)),
                       ("faces", lambda: nr.vertices_to_faces(vertices, torn)),
                       ("faces", lambda: nr.Mesh(vertices[0], torn[0])),
                       (r"faces\[0\]", lambda: renderer([vertices[0]], [torn[0]]))):
        with pytest.raises(ValueError, match=f"^{name} must be whole numbers"):
            draw()


def test_a_direction_of_light_for_each_face():
    vertices, faces = sphere()
    corners = nr.vertices_to_faces(vertices.expand(2, -1, -1), faces.expand(2, -1, -1))
    textures = torch.ones(2, faces.shape[1], 1, 1, 1, 3)
    directions = torch.nn.functional.normalize(torch.randn(2, faces.shape[1], 3), dim=-1)
    found = nr.lighting(corners, textures, direction=directions)
    for b in range(2):
        for f in (0, 7, 33):
            one = nr.lighting(corners[b:b + 1, f:f + 1], textures[:1, :1], direction=directions[b, f].tolist())
            torch.testing.assert_close(found[b, f], one[0, 0])
    torch.testing.assert_close(nr.lighting(corners, textures, direction=directions[:1])[0], found[0])
    for same in (directions.tolist(), directions.numpy(), directions.double()):
        torch.testing.assert_close(nr.lighting(corners, textures, direction=same), found)
    for each in (directions[:, :1], directions[:1, :1]):
        torch.testing.assert_close(nr.lighting(corners, textures, direction=each),
                                   nr.lighting(corners, textures, direction=each.expand(2, faces.shape[1], 3)))
    lit = nr.Renderer(8, camera_mode="look_at", light_direction=directions[:1], fill_back=False)
    plain = nr.Renderer(8, camera_mode="look_at", light_intensity_ambient=1, light_intensity_directional=0,
                        fill_back=False)
    torch.testing.assert_close(lit(vertices, faces, textures[:1])[0], plain(vertices, faces, found[:1])[0])
    with pytest.raises(ValueError, match="light_direction must have shape"):
        nr.lighting(corners, textures, direction=directions[:, :5])


# ---- files ----------------------------------------------------------------------------------------


def test_textures_and_materials_of_a_file(tmp_path):
    vertices, faces = box((0, 0, 0), (1, 2, 3))
    textures = torch.rand(12, 2, 2, 2, 3)
    path = tmp_path / "box.obj"
    nr.save_obj(path, vertices, faces, textures)
    known = nr.load_obj(filename_obj=path, texture_size=3, load_texture=True)[2]
    assert torch.equal(nr.load_textures(path, tmp_path / "box.mtl", 3), known)
    from neural_renderer.load_obj import load_mtl
    colours, pictures = load_mtl(tmp_path / "box.mtl")
    assert pictures == {"material_1": "box.png"} and colours["material_1"].tolist() == [1, 1, 1]
    other = tmp_path / "other"
    other.mkdir()
    (other / "red.mtl").write_text("newmtl material_1\nKd 1 0 0\n")  # not named in the OBJ file
    assert torch.equal(nr.load_textures(path, other / "red.mtl", 2), torch.tensor([1.0, 0, 0]).expand(12, 2, 2, 2, 3))
    with pytest.raises(FileNotFoundError, match="absent.mtl"):
        nr.load_textures(path, tmp_path / "absent.mtl", 3)
    assert nr.Mesh.fromobj(filename_obj=path, load_texture=True).num_faces == 12


def test_tensors_of_a_file_lie_on_the_gpu_if_there_is_one(tmp_path, monkeypatch):
    """As in the original; `device` says otherwise. This GPU is pretended: tensors tell where they are sent."""
    vertices, faces = box((0, 0, 0), (1, 2, 3))
    path, sent = tmp_path / "box.obj", []
    nr.save_obj(path, vertices, faces, torch.rand(12, 2, 2, 2, 3))

    def to(tensor, device):
        sent.append(torch.device(device))
        return tensor
    monkeypatch.setattr(torch.Tensor, "to", to)
    for there, wanted in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for read, number in ((lambda: nr.load_obj(path), 2), (lambda: nr.load_obj(path, load_texture=True), 3),
                             (lambda: nr.load_textures(path, tmp_path / "box.mtl", 2), 1),
                             (lambda: nr.Mesh.fromobj(path, load_texture=True), 3)):
            read()
            assert sent == [torch.device(wanted)] * number  # without an index: the current device
            sent.clear()
        nr.load_obj(path, device="cpu")
        nr.load_obj(path, device=torch.device("cpu"))
        assert sent == [torch.device("cpu")] * 4
        sent.clear()


@pytest.mark.parametrize("size", [16, 5])
def test_a_picture_of_textures(size):
    """The picture has the colour of a uniform face at the face's corners."""
    colours = torch.rand(7, 3)
    image, uv = nr.create_texture_image(colours[:, None, None, None].expand(-1, 2, 2, 2, -1).contiguous(), size)
    assert image.dtype == uv.dtype == np.float32 and uv.shape == (7, 3, 2)
    assert image.shape[0] % size == 0 == image.shape[1] % size
    at = uv.mean(1) * (image.shape[1], image.shape[0])
    found = image[(image.shape[0] - 1 - at[:, 1].astype(int)), at[:, 0].astype(int)]
    np.testing.assert_allclose(found, colours, atol=1 / 254)
    same = nr.create_texture_image(colours[:, None, None, None].expand(-1, 2, 2, 2, -1).numpy(), size)[0]
    np.testing.assert_array_equal(same, image)
    with pytest.raises(ValueError, match="texture_size_out"):
        nr.create_texture_image(torch.ones(1, 2, 2, 2, 3), 2)
    with pytest.raises(ValueError, match="textures must be"):
        nr.create_texture_image(torch.ones(1, 2, 2, 3))
