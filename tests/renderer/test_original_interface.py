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
    ours = [p for p in inspect.signature(thing).parameters.values() if p.name != "self"]
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


def test_name_and_version():
    assert nr.name == "neural_renderer"
    public, _, ours = nr.__version__.partition("+learn3d.")
    assert public == "1.1.3" and ours[0].isdigit()


def test_kernels_of_the_original_say_what_to_use():
    import neural_renderer.cuda.rasterize as raw
    from neural_renderer.cuda import create_texture_image, load_textures
    for function in (raw.forward_face_index_map, raw.backward_pixel_map, load_textures.load_textures,
                     create_texture_image.create_texture_image):
        with pytest.raises(RuntimeError, match="rasterize_rgbad.*rasterize_face_index"):
            function(1, 2, 3)


def test_rasterize_function():
    corners = torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(2)) * 2 - 1 + torch.tensor([0, 0, 2.0])
    textures = torch.rand(1, 4, 2, 2, 2, 3)
    settings = (9, 0.1, 5, 1e-3, (0.1, 0.2, 0.3), True, True, True)
    function = importlib.import_module("neural_renderer.rasterize").RasterizeFunction
    for a, b in zip(function.apply(corners, textures, *settings), nr.Rasterize(*settings)(corners, textures)):
        assert torch.equal(a, b)


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
    renderer.dist_coeffs = None
    assert torch.equal(renderer.transform(vertices), known)
    renderer.K = 2 * K
    assert isinstance(renderer.K, torch.Tensor) and not torch.equal(renderer.transform(vertices), known)


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


# ---- faces of a float dtype, and light ------------------------------------------------------------


def sphere():
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.7))
    return vertices.float()[None], faces[None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_faces_of_a_float_dtype(dtype):
    vertices, faces = sphere()
    renderer = nr.Renderer(12, camera_mode="look_at")
    for mode in (None, "rgb", "silhouettes", "depth"):
        known, found = renderer(vertices, faces, mode=mode), renderer(vertices, faces.to(dtype), mode=mode)
        assert all(torch.equal(a, b) for a, b in zip(known, found))
    assert torch.equal(renderer.render_face_index(vertices, faces.to(dtype)), renderer.render_face_index(vertices, faces))
    assert torch.equal(renderer([vertices[0]], [faces[0].to(dtype)])[0], renderer(vertices, faces)[0])
    assert torch.equal(nr.vertices_to_faces(vertices, faces.to(dtype)), nr.vertices_to_faces(vertices, faces))
    assert nr.Mesh(vertices[0], faces[0].to(dtype)).faces.dtype == torch.int64
    torn = faces.to(dtype)
    torn[0, 3, 1] += 0.5
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
    shared = nr.lighting(corners, textures, direction=directions[:1])
    torch.testing.assert_close(shared[0], found[0])
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
    with pytest.raises(ValueError, match="filename_mtl must be a library that .*box.obj names"):
        nr.load_textures(path, tmp_path / "other.mtl", 3)
    assert nr.Mesh.fromobj(filename_obj=path, load_texture=True).num_faces == 12


@pytest.mark.parametrize("size", [16, 5])
def test_a_picture_of_textures(size):
    """The picture has the colour of a uniform face at the face's corners."""
    colours = torch.rand(7, 3)
    image, uv = nr.create_texture_image(colours[:, None, None, None].expand(-1, 2, 2, 2, -1).contiguous(), size)
    assert image.dtype == np.float32 and image.shape[0] % size == 0 == image.shape[1] % size and uv.shape == (7, 3, 2)
    at = uv.mean(1) * (image.shape[1], image.shape[0])
    found = image[(image.shape[0] - 1 - at[:, 1].astype(int)), at[:, 0].astype(int)]
    np.testing.assert_allclose(found, colours, atol=1 / 254)
    with pytest.raises(ValueError, match="texture_size_out"):
        nr.create_texture_image(torch.ones(1, 2, 2, 2, 3), 2)
    with pytest.raises(ValueError, match="textures must be"):
        nr.create_texture_image(torch.ones(1, 2, 2, 3))
