"""Textures of OBJ files: materials and pictures."""
import os
import re
import subprocess
import sys
import warnings

import neural_renderer as nr
import numpy as np
import pytest
import torch
from neural_renderer import textures as cubes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0.1 0.2\nvt 0.9 0.3\nvt 0.4 0.8\n"


def picture(path, height=5, width=7, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def files(folder, obj, mtl=None):
    (folder / "mesh.obj").write_text(obj)
    if mtl is not None:
        (folder / "mesh.mtl").write_text(mtl)
    return folder / "mesh.obj"


def load(path, **options):
    return nr.load_obj(path, normalization=False, load_texture=True, **options)[2].numpy()


# ---- what a texel holds ---------------------------------------------------------------------------


def by_torch(pixels, uv, wrapping, bilinear):
    """`textures.sample` by torch's grid_sample; for REPEAT, copies of the picture are put side by side."""
    image, grid = torch.tensor(pixels / 255.0).permute(2, 0, 1)[None], torch.tensor(uv) * 2 - 1
    mode = {"REPEAT": "zeros", "MIRRORED_REPEAT": "reflection", "CLAMP_TO_EDGE": "border",
            "CLAMP_TO_BORDER": "zeros"}[wrapping]
    if wrapping == "REPEAT":
        image, grid = image.repeat(1, 1, 9, 9), grid / 9
    grid = grid * torch.tensor([1.0, -1.0], dtype=torch.float64)  # v goes up, rows go down
    return torch.nn.functional.grid_sample(
        image, grid[None, None], mode="bilinear" if bilinear else "nearest", padding_mode=mode,
        align_corners=False)[0, :, 0].T.numpy()


@pytest.mark.parametrize("bilinear", [True, False])
@pytest.mark.parametrize("wrapping", cubes.WRAPPINGS)
def test_sampling_agrees_with_grid_sample(wrapping, bilinear):
    random = np.random.default_rng(1)
    pixels = random.integers(0, 256, (5, 7, 3), np.uint8)
    uv = random.uniform(-3, 4, (400, 2))
    np.testing.assert_allclose(cubes.sample(pixels, uv, wrapping, bilinear),
                               by_torch(pixels, uv, wrapping, bilinear), atol=1e-12)


@pytest.mark.parametrize("T", [1, 2, 4])
@pytest.mark.parametrize("wrapping", cubes.WRAPPINGS)
def test_texels_hold_the_picture_at_their_weights(T, wrapping, tmp_path):
    pixels = picture(tmp_path / "a.png")
    path = files(tmp_path, TRIANGLE.replace("0.1 0.2", "-0.7 1.4") + "mtllib mesh.mtl\nusemtl m\nf 1/1 2/2 3/3\n",
                 "newmtl m\nmap_Kd a.png\n")
    got = load(path, texture_size=T, texture_wrapping=wrapping)
    assert got.shape == (1, T, T, T, 3) and got.dtype == np.float32
    corners = np.array([[-0.7, 1.4], [0.9, 0.3], [0.4, 0.8]])
    for index in np.ndindex(T, T, T):
        weights = np.array(index) / sum(index) if sum(index) else np.ones(3) / 3
        expected = by_torch(pixels, (weights @ corners)[None], wrapping, True)[0]
        np.testing.assert_allclose(got[(0, *index)], expected, atol=1e-6)


def test_a_square_shows_its_picture_the_right_way_round(tmp_path):
    """vt (0, 0) is the lower left corner of the picture, and the picture is drawn unchanged."""
    corner_colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)
    Image.fromarray(corner_colours.repeat(16, 0).repeat(16, 1)).save(tmp_path / "a.png")
    square = "v -1 -1 2\nv 1 -1 2\nv 1 1 2\nv -1 1 2\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nmtllib mesh.mtl\nusemtl m\n"
    path = files(tmp_path, square + "f 1/1 2/2 3/3 4/4\n", "newmtl m\nmap_Kd a.png\n")
    vertices, faces, textures = nr.load_obj(path, False, 16, True, "CLAMP_TO_EDGE")
    renderer = nr.Renderer(image_size=32, camera_mode="none", light_intensity_ambient=1,
                           light_intensity_directional=0)
    image = renderer.render_rgb(vertices[None], faces[None], textures[None])[0].permute(1, 2, 0).numpy()
    for row, column in np.ndindex(2, 2):
        patch = image[row * 16 + 4:row * 16 + 12, column * 16 + 4:column * 16 + 12].mean((0, 1))
        np.testing.assert_allclose(patch, corner_colours[row, column] / 255, atol=0.1)


# ---- materials ------------------------------------------------------------------------------------


def test_every_face_gets_its_material(tmp_path):
    """Colours, pictures, polygons, negative and missing vt, no material, a picture before its Kd."""
    first, second = picture(tmp_path / "first one.png"), picture(tmp_path / "b.png", seed=1)
    obj = ("mtllib mesh.mtl\n" + TRIANGLE + "v 1 1 0\nvt 0.7 0.7\nf 1 2 3\nusemtl red\nf 1 2 3\nusemtl a\n"
           "f 1/1 2/2 4/4 3/3\nf 1/1 2/2 3\nusemtl b\nf -4/-4 -3/-3/1 \\\n -2/-2\nusemtl red\nf 1/1 2/2 3/3\n")
    path = files(tmp_path, obj, "# made by hand\nnewmtl red\nKd 1 0 0.25\n\nnewmtl a\nmap_Kd first one.png\n"
                                "Kd 0 1 0\nnewmtl b\nmap_Kd -s 1 2 1 -o 0.5 b.png\nillum 2\n")
    with pytest.warns(UserWarning, match="1 faces before the first usemtl"):
        got = load(path, texture_size=2)
    uv = np.array([[0.1, 0.2], [0.9, 0.3], [0.4, 0.8], [0.7, 0.7]])

    def bake(pixels, *corners, scale=1.0, offset=0.0):
        return cubes.bake(pixels, uv[list(corners)][None] * scale + offset, 2, "REPEAT", True)[0]

    red, green = np.float32([1, 0, 0.25]), np.float32([0, 1, 0])
    moved = bake(second, 0, 1, 2, scale=(1, 2), offset=(0.5, 0))
    expected = [0.5, red, bake(first, 0, 1, 3), bake(first, 0, 3, 2), green, moved, red]
    assert len(got) == len(expected)
    for texture, value in zip(got, expected):
        np.testing.assert_allclose(texture, np.broadcast_to(value, (2, 2, 2, 3)), atol=1e-6)


def test_pictures_that_no_face_shows_may_be_missing(tmp_path):
    path = files(tmp_path, "mtllib mesh.mtl\n" + TRIANGLE + "usemtl a\nf 1 2 3\nusemtl b\nf 1/1 2/2 3/3\n",
                 "newmtl a\nKd 1 0 0\nmap_Kd gone.png\nnewmtl b\nKd 0 1 0\nnewmtl c\nmap_Kd gone.png\n")
    assert load(path, texture_size=1).reshape(2, 3).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_several_libraries_and_a_material_nobody_has(tmp_path):
    for name, colour in (("a", "1 0 0"), ("b", "0 0 1"), ("c", "0.5")):
        (tmp_path / f"{name}.mtl").write_text(f"newmtl {name}\nKd {colour}\n")
    path = files(tmp_path, "mtllib a.mtl b.mtl\nmtllib c.mtl\n" + TRIANGLE + "".join(
        f"usemtl {name}\nf 1 2 3\n" for name in "abcd"))
    with pytest.warns(UserWarning, match="'d'.*1 faces stay grey"):
        got = load(path, texture_size=1).reshape(4, 3)
    assert got.tolist() == [[1, 0, 0], [0, 0, 1], [0.5] * 3, [0.5] * 3]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16", "1", "CMYK"])
def test_pictures_of_every_kind(mode, tmp_path):
    grey = np.array([[0, 255], [102, 51]], np.uint8)
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        image = Image.fromarray(grey > 100) if mode == "1" else Image.fromarray(grey).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    expected = (grey > 100) * 255 if mode == "1" else grey
    np.testing.assert_array_equal(cubes.read_image(path), np.repeat(expected[..., None], 3, 2))


# ---- files from strangers -------------------------------------------------------------------------

FACE = "mtllib mesh.mtl\nusemtl m\nf 1/1 2/2 3/3\n"


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "sub/../../secret.png", "link.png",
                                  "..\\secret.png", "C:\\secret.png", "linked/secret.png"])
def test_files_outside_the_folder_are_refused(name, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    picture(tmp_path / "secret.png")
    os.symlink("../secret.png", folder / "link.png")
    os.symlink("..", folder / "linked")
    path = files(folder, TRIANGLE + FACE, f"newmtl m\nmap_Kd {name}\n")
    with pytest.raises(ValueError, match="mesh.mtl names .*outside.*texture_root"):
        load(path)
    (tmp_path / "secret.mtl").write_text("newmtl m\nKd 1 1 1\n")
    os.symlink("../secret.mtl", folder / "link.mtl")
    files(folder, (TRIANGLE + FACE).replace("mesh.mtl", name.replace(".png", ".mtl")))
    with pytest.raises(ValueError, match="mesh.obj names .*outside"):
        load(path)


def test_a_wider_folder_may_be_trusted(tmp_path, monkeypatch):
    for folder in ("models", "images"):
        (tmp_path / folder).mkdir()
    picture(tmp_path / "images" / "a.png")
    path = files(tmp_path / "models", TRIANGLE + FACE, "newmtl m\nmap_Kd ../images/a.png\n")
    inside = load(path, texture_root=tmp_path)
    monkeypatch.chdir(tmp_path / "models")
    np.testing.assert_array_equal(load("mesh.obj", texture_root=".."), inside)


@pytest.mark.parametrize("mtl, message", [
    (None, "mesh.obj names 'mesh.mtl', but there is no file"), ("newmtl m\nmap_Kd b.png", "no file .*b.png"),
    ("newmtl m\nmap_Kd broken.png", "broken.png is not a picture"),
    ("newmtl m\nmap_Kd cut.png", "cut.png is not a picture"),
    ("newmtl m\nmap_Kd drawing.eps", "drawing.eps is not a picture"),
    ("newmtl m\nKd 1 2", "line 2.*3 finite numbers"),
    ("newmtl m\nKd 1 nan 1", "line 2"), ("newmtl m\nKd spectral a.rfl", "line 2"), ("Kd 1 1 1", "line 1.*newmtl"),
    ("newmtl m\nmap_Kd", "line 2.*no file"), ("newmtl m\nmap_Kd -colour 0 a.png", "line 2.*-colour"), ("newmtl m\nmap_Kd -mm 0", "line 2.*-mm"),
    ("newmtl m\nmap_Kd -s a.png", "line 2.*-s"), ("newmtl m\nmap_Kd .", "no file")])
def test_broken_materials_are_named(mtl, message, tmp_path):
    pixels = picture(tmp_path / "cut.png", 40, 40)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    Image.fromarray(pixels).save(tmp_path / "drawing.eps")
    path = files(tmp_path, TRIANGLE + FACE, mtl)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        load(path)
    assert "\n" not in str(error.value)


def test_a_picture_with_too_many_pixels_is_refused(tmp_path, monkeypatch):
    picture(tmp_path / "a.png", 20, 30)
    path = files(tmp_path, TRIANGLE + FACE, "newmtl m\nmap_Kd a.png\n")
    for limit in (599, 200):  # Pillow warns from one on, and refuses from twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ValueError, match="a.png.*pixels"):
            load(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    load(path)


@pytest.mark.parametrize("text, line", [("vt 1 x\n", 7), ("f 1/4 2/2 3/3\n", 7),
                                        ("f 1/0 2/2 3/3\n", 7), ("f 1/-4 2/2 3/3\n", 7), ("f 1/a 2/2 3/3\n", 7)])
def test_broken_texture_coordinates_are_named(text, line, tmp_path):
    path = files(tmp_path, TRIANGLE + text + FACE, "newmtl m\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}, line {line}")):
        load(path)


def test_wrong_arguments_of_load_obj(tmp_path):
    path = files(tmp_path, TRIANGLE + FACE, "newmtl m\n")
    for name, value in (("texture_wrapping", "repeat"), ("texture_size", 0), ("texture_size", 2.5)):
        with pytest.raises(ValueError, match=name):
            load(path, **{name: value})
    with pytest.raises(ValueError, match="mtllib"):
        load(files(tmp_path, TRIANGLE + "f 1 2 3\n"))


def test_pillow_is_asked_for_only_where_it_is_needed(tmp_path):
    picture(tmp_path / "a.png")
    files(tmp_path, TRIANGLE + FACE, "newmtl m\nmap_Kd a.png\n")
    program = ("import sys; sys.modules['PIL'] = None\nimport neural_renderer as nr\nnr.load_obj('mesh.obj')\n"
               "nr.load_obj('mesh.obj', load_texture=True)")
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert run.returncode == 1
    assert run.stderr.endswith("ImportError: texture images need Pillow: pip install pillow\n")


WORDS = st.sampled_from(
    ["v", "vt", "f", "usemtl", "mtllib", "newmtl", "Kd", "map_Kd", "-s", "-o", "-1", "0", "1", "2", "3", "1/1",
     "2//", "1/2/3", "-1/-1", "/", "nan", "1e400", "m", "mesh.mtl", "a.png", "..", "\\", "#", "\n", "\n", "\n"])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(obj=st.lists(WORDS, max_size=40), mtl=st.lists(WORDS, max_size=20))
def test_nonsense_is_refused_in_one_sentence(obj, mtl, tmp_path):
    """Random OBJ and MTL files give textures of the right shape, or an error that names a file."""
    picture(tmp_path / "a.png")
    path = files(tmp_path, TRIANGLE + FACE + " ".join(obj), "newmtl m\n" + " ".join(mtl))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            vertices, faces, textures = nr.load_obj(path, load_texture=True, texture_size=2)
        except (ValueError, FileNotFoundError) as error:
            assert "mesh." in str(error) and "\n" not in str(error)
        else:
            assert textures.shape == (len(faces), 2, 2, 2, 3) and textures.isfinite().all()
            assert 0 <= faces.min() and faces.max() < len(vertices)


def test_colours_of_materials_up_to_255_are_told(tmp_path):
    path = files(tmp_path, "mtllib mesh.mtl\n" + TRIANGLE + "usemtl m\nf 1 2 3\n", "newmtl m\nKd 200 0 0.5\n")
    with pytest.warns(UserWarning, match=r"mesh.mtl, line 2: Kd 200 0 0.5 is outside of \[0, 1\]"):
        assert np.allclose(load(path)[0], [1, 0, .5])
    (tmp_path / "mesh.mtl").write_text("newmtl m\nKd 1.000001 0 0.5\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.allclose(load(path)[0], [1, 0, .5])
