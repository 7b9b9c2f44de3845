"""Datasets of coloured meshes: messages about missing files, refused files, and varying light and backgrounds."""
import json
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import synthetic
import torch
from coloured import CORNERS, QUAD, UV, cube, png, write_gltf, write_obj
from command import call
from datasets import CVPR18, DATASETS
from errors import InputError
from making import scenery
from making.scenery import Scenery
from PIL import Image
from readers import writers
from readers.meshes import read_mesh
from test_strange_meshes import OPENED

TRIANGLES = [[0, 1, 2], [0, 2, 3]]


def make_class(folder, count=3, library="newmtl a\nKd .9 .1 .1\n"):
    folder.mkdir(parents=True)
    vertices, quads = cube()
    for k in range(count):
        (folder / f"{k}.mtl").write_text(library)
        write_obj(folder / f"{k}.obj", vertices * (1, 1 + .1 * k, .5), quads, None, ["a"] * 6, f"{k}.mtl")
    return folder


def images(folder):
    return {name: np.load(os.path.join(folder, name))["arr_0"] for name in sorted(os.listdir(folder))
            if name.endswith(".npz")}


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# ---- what is missing, and what lies elsewhere ------------------------------------------------------------------------

def told(path, root=None):
    said = []
    look = read_mesh(str(path), root and str(root), report=said.append)[2]
    return look, said


LIBRARIES = {"a missing library": ("gone.mtl", None, "names 'gone.mtl', but there is no file"),
             "a missing picture": ("a.mtl", "newmtl a\nKd 0 0 1\nmap_Kd gone.png\n", "names 'gone.png', but there is no"),
             "an absolute picture": ("a.mtl", "newmtl a\nKd 0 0 1\nmap_Kd /etc/passwd\n", "'/etc/passwd', which is outs"),
             "a picture outside": ("a.mtl", "newmtl a\nKd 0 0 1\nmap_Kd ../out.png\n", "'../out.png', which is outside"),
             "a link": ("a.mtl", "newmtl a\nKd 0 0 1\nmap_Kd link.png\n", "'link.png', which is outside"),
             "a library outside": ("../out.mtl", None, "names '../out.mtl', which is outside"),
             "a remote picture": ("a.mtl", "newmtl a\nKd 0 0 1\nmap_Kd http://host/a.png\n", "which is not a local file")}


@pytest.mark.parametrize("case", LIBRARIES)
def test_what_an_obj_lacks_is_told_and_what_is_known_is_drawn(case, tmp_path):
    folder = tmp_path / "meshes"
    folder.mkdir()
    png(tmp_path / "out.png", CORNERS)
    (tmp_path / "out.mtl").write_text("newmtl a\nKd 1 0 0\n")
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    name, library, said = LIBRARIES[case]
    if library:
        (folder / name).write_text(library)
    path = write_obj(folder / "a.obj", QUAD, TRIANGLES, UV, ["a"] * 2, name)
    OPENED.clear()
    look, sentences = told(path)
    assert not [file for file in OPENED if "out." in file or "passwd" in file]
    assert len(sentences) == 1 and said in sentences[0], sentences
    if library:
        assert (look.picture == -1).all() and np.allclose(look.colours, [0, 0, 1])
    else:
        assert look is None
        assert isinstance(synthetic.load_mesh(str(path))[2], torch.Tensor), "grey, as a mesh without colours"


def test_a_wider_root_and_a_path_of_the_makers_disk(tmp_path):
    """ShapeNet's pictures are in a folder beside that of the mesh; exporters write the paths on the author's disk."""
    (tmp_path / "models").mkdir()
    (tmp_path / "images").mkdir()
    png(tmp_path / "images" / "texture0.png", CORNERS)
    (tmp_path / "models" / "a.mtl").write_text("newmtl a\nmap_Kd ../images/texture0.png\n")
    path = write_obj(tmp_path / "models" / "a.obj", QUAD, TRIANGLES, UV, ["a"] * 2, "a.mtl")
    look, said = told(path, tmp_path)
    assert not said and np.array_equal(look.pictures[0].pixels, CORNERS)
    assert told(path)[1], "not without it"
    (tmp_path / "models" / "a.mtl").write_text("newmtl a\nmap_Kd C:\\Users\\me\\kit\\texture1.png\n")
    png(tmp_path / "models" / "texture1.png", CORNERS[::-1])
    look, said = told(path)
    assert not said and np.array_equal(look.pictures[0].pixels, CORNERS[::-1])


def test_a_library_that_was_renamed_with_its_mesh_is_found(tmp_path):
    (tmp_path / "b.mtl").write_text("newmtl a\nKd 0 0 1\n")
    look, said = told(write_obj(tmp_path / "b.obj", QUAD, TRIANGLES, UV, ["a"] * 2, "untitled.mtl"))
    assert not said and np.allclose(look.colours, [0, 0, 1])


@pytest.mark.parametrize("uri", ["../out.png", "/etc/passwd", "http://host/a.png", "gone.png", "file:///etc/passwd"])
def test_what_a_gltf_lacks_is_told(uri, tmp_path):
    folder = tmp_path / "meshes"
    folder.mkdir()
    png(tmp_path / "out.png", CORNERS)
    path = write_gltf(folder / "a.gltf", [{"positions": QUAD, "faces": TRIANGLES, "uv": UV.astype("<f4"),
                                           "material": 0}], images=[{"uri": uri}], textures=[{"source": 0}],
                      materials=[{"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 1],
                                                           "baseColorTexture": {"index": 0}}}])
    OPENED.clear()
    look, said = told(path)
    assert not [file for file in OPENED if "out." in file or "passwd" in file]
    assert len(said) == 1 and str(path) in said[0] and np.allclose(look.colours, [1, 0, 0])


@pytest.mark.parametrize("content, said", [
    (b"no picture", "a.png is not a picture that can be read"), (None, "has more pixels than PIL.Image.MAX_IMAGE_PIXELS")])
@pytest.mark.parametrize("form", ["obj", "ply", "glb"])
def test_pictures_that_are_damaged_or_bombs_are_refused(form, content, said, tmp_path, monkeypatch):
    png(tmp_path / "a.png", np.zeros((40, 40, 3)))
    if content is None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
        content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content)
    (tmp_path / "a.mtl").write_text("newmtl a\nmap_Kd a.png\n")
    if form == "obj":
        path = write_obj(tmp_path / "a.obj", QUAD, TRIANGLES, UV, ["a"] * 2, "a.mtl")
    elif form == "glb":
        path = write_gltf(tmp_path / "a.glb", [{"positions": QUAD, "faces": TRIANGLES, "uv": UV.astype("<f4"),
                                                "material": 0}], images=[content], textures=[{"source": 0}],
                          materials=[{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}])
        said = said.replace("a.png", "picture 0 in .*a.glb")
    else:
        path = tmp_path / "a.ply"
        path.write_text("ply\nformat ascii 1.0\ncomment TextureFile a.png\nelement vertex 3\nproperty float x\nproperty "
                        "float y\nproperty float z\nproperty float s\nproperty float t\nelement face 1\nproperty list "
                        "uchar int vertex_indices\nend_header\n0 0 0 0 0\n1 0 0 1 0\n0 1 0 0 1\n3 0 1 2\n")
    with pytest.raises(InputError, match=f"{path} is not a mesh that can be read: .*{said}"):
        read_mesh(str(path))
    assert read_mesh(str(path), coloured=False)[2] is None, "its shape can be read"


@pytest.mark.parametrize("change, said", [
    ({"textures": [{"source": 5}]}, "IndexError"), ({"textures": "x"}, "AttributeError"),
    ({"materials": [{"pbrMetallicRoughness": {"baseColorFactor": [1, 2]}}]}, "reshape"),
    ({"images": [{"bufferView": 0}]}, "not a picture"), ({"images": [{"uri": "data:image/png;base64,@@"}]}, "base64")])
def test_materials_that_make_no_sense_are_refused(change, said, tmp_path):
    path = write_gltf(tmp_path / "a.gltf", [{"positions": QUAD, "faces": TRIANGLES, "uv": UV.astype("<f4"),
                                             "material": 0}], **{
        "images": [{"uri": "a.png"}], "textures": [{"source": 0}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}], **change})
    with pytest.raises(InputError, match=f"{path} is not a mesh that can be read: .*{said}"):
        read_mesh(str(path))


# ---- sets -----------------------------------------------------------------------------------------------------------

def test_a_set_shows_its_colours_and_says_what_is_missing(tmp_path, capsys):
    make_class(tmp_path / "meshes" / "red", 4)
    os.remove(tmp_path / "meshes" / "red" / "2.mtl")
    command = ("--mode=make_dataset", "--mesh_dir", tmp_path / "meshes", "--train_views=2")
    assert call(*command, "--data_dir", tmp_path / "own") == 0
    said = capsys.readouterr().out
    assert "  red: 1 mesh lacks a material or a picture; the first one: " \
           f"{tmp_path}/meshes/red/2.obj names '2.mtl', but there is no file" in said
    assert call(*command, "--data_dir", tmp_path / "grey", "--colors=grey") == 0
    assert "missing" not in capsys.readouterr().out
    assert Image.open(tmp_path / "own" / "red_sheet.png").size == (2 * 64, 2 * 64), "objects below, views across"
    for folder, spread in (("own", .8), ("grey", 0)):
        everything = np.concatenate([array.reshape(-1, 4, 64, 64) for name, array in images(tmp_path / folder).items()
                                     if "images" in name]).astype(float)
        colours = everything.transpose(0, 2, 3, 1)[everything[:, 3] == 255][:, :3]
        assert np.ptp(colours, axis=1).max() == pytest.approx(spread * .925 * 255, abs=2)
    for name, one in images(tmp_path / "own").items():
        other = images(tmp_path / "grey")[name]
        assert np.array_equal(one[:, :, 3] if "images" in name else one, other[:, :, 3] if "images" in name else other), \
            "masks and voxels are those of the shapes"
    listed = json.loads((tmp_path / "own" / "red_objects.json").read_text())
    split = next(s for s, names in listed.items() if "red/2.obj" in names)
    place = listed[split].index("red/2.obj")
    own, grey = (images(tmp_path / folder)[f"red_{split}_images.npz"][place] for folder in ("own", "grey"))
    assert np.array_equal(own, grey), "to the bit: the one without its material file"
    assert call(*command, "--data_dir", tmp_path / "grey") == 2
    assert "was made with colors=grey, now colors=own" in capsys.readouterr().err


def test_a_set_of_an_older_version_goes_on_in_grey(tmp_path, capsys):
    make_class(tmp_path / "meshes" / "one")
    make_class(tmp_path / "meshes" / "two")
    synthetic.make_from_meshes(str(tmp_path / "set"), str(tmp_path / "meshes"), train_views=1, class_ids=["one"],
                               colors="grey")
    path = tmp_path / "set" / "dataset.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in described.items() if k not in ("light", "colors")}))
    capsys.readouterr()
    for line in ("made by a version without colours; it is continued with --colors=grey\n", ""):
        synthetic.make_from_meshes(str(tmp_path / "set"), str(tmp_path / "meshes"), train_views=1)
        said = capsys.readouterr().out
        assert (line in said) and ("colours" in said) == bool(line)
    two = images(tmp_path / "set")["two_train_images.npz"][:, :, :3]
    assert np.ptp(two, axis=2).max() == 0, "grey"


def test_colours_of_meshes_are_no_option_of_built_in_shapes(tmp_path, refused):
    line = refused("--mode=make_dataset", "--data_dir", tmp_path / "set", "--colors=grey", usage=True)
    assert "--colors is for --mesh_dir; the built-in shapes have --palette" in line


def test_the_fixed_light_is_described(tmp_path):
    """The light in dataset.json is that of the pictures: a face turned to it shows its colour times its intensity."""
    make_class(tmp_path / "meshes" / "red")
    synthetic.make_from_meshes(str(tmp_path / "set"), str(tmp_path / "meshes"), train_views=1)
    light = json.loads((tmp_path / "set" / "dataset.json").read_text())["light"]
    assert light == {"ambient": .5, "directional": .5, "direction": [.35, .85, -.4], "frame": "renderer"}
    top = max(images(tmp_path / "set")["red_val_images.npz"][0, :, 0].reshape(-1)) / 255
    assert top == pytest.approx(.9 * (light["ambient"] + light["directional"] * light["direction"][1]), abs=.005)


# ---- light and backgrounds that vary --------------------------------------------------------------------------------

@pytest.fixture
def grounds(tmp_path):
    folder = tmp_path / "grounds"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    png(folder / "a.png", rng.integers(0, 256, (90, 70, 3)))
    Image.fromarray(rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)).save(folder / "more" / "b.jpg")
    png(folder / "more" / "small.png", rng.integers(0, 256, (5, 4)))
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_light_and_grounds_are_those_of_object_and_view(grounds):
    paths, _ = synthetic._grounds(str(grounds), 1, False)
    assert [os.path.basename(path) for path in paths] == ["a.png", "b.jpg", "small.png"]
    around = Scenery("chair", 3, "random", paths)
    lights = around.lights(1, 7, range(24))
    np.testing.assert_allclose(np.linalg.norm(lights[:, :3], axis=1), 1, atol=1e-6)
    assert (lights[:, 1] >= .2).all() and (lights[:, 3:].sum(1) <= 1.1 + 1e-6).all() and (lights[:, 3:] > .2).all()
    assert np.array_equal(around.lights(1, 7, [5, 2]), lights[[5, 2]])
    other = Scenery("table", 3, "random", paths)
    for another in (around.lights(1, 8, [0]), around.lights(0, 7, [0]), other.lights(1, 7, [0])):
        assert np.abs(another - lights[:1]).max() > .01
    rgba = torch.rand(3, 4, 20, 20, generator=torch.manual_seed(0))
    rgba[:, :3] *= rgba[:, 3:]
    behind = around.put_behind(rgba, 1, 7, [5, 2, 5])
    assert torch.equal(behind[:, 3], rgba[:, 3])
    ground = torch.from_numpy(around.ground(1, 7, 2, (20, 20)))
    torch.testing.assert_close(behind[1, :3], rgba[1, :3] + (1 - rgba[1, 3]) * ground)
    assert torch.equal(around.put_behind(rgba[1:2], 1, 7, [2])[0], behind[1]), "whatever is made beside it"
    assert Scenery("chair", 3).lights(1, 7, [0]) is None and Scenery("chair", 3).put_behind(rgba, 1, 7, [0]) is rgba


def test_random_light_is_on_the_faces():
    """A lit side shows its colour times ambient + directional * cosine, with the values of the recorded row."""
    vertices, quads = cube()
    faces = torch.from_numpy(quads[:, TRIANGLES].reshape(-1, 3))
    lights = Scenery("", 0, "random").lights(0, 0, range(6))
    shown = writers.draw_rgba(CVPR18, CVPR18.place(torch.from_numpy(vertices * .5).float()), faces, torch.ones(12, 3),
                              torch.zeros(6, dtype=torch.int64), 64, lights)
    front = torch.tensor([[[0, 0, -.25]]])  # +z of people
    at = CVPR18.project(front, torch.tensor([0]))[0, 0]
    for picture, (_, _, z, ambient, directional) in zip(shown, lights):
        expected = min(ambient + directional * max(-z, 0), 1)
        assert float(picture[0, int((1 - at[1]) * 32), int((at[0] + 1) * 32)]) == pytest.approx(expected, abs=1e-5)


def test_a_set_is_the_same_however_it_is_made(tmp_path, grounds, monkeypatch):
    """An object depends only on its item, not on the process that makes it, nor on the order."""
    make_class(tmp_path / "meshes" / "red", 6)
    arguments = dict(train_views=3, light="random", background=str(grounds), seed=5)

    def elsewhere(function, items, workers=None):
        made = {item: pickle.loads(pickle.dumps(function))(item) for item in reversed(items)}
        return (made[item] for item in items)
    with monkeypatch.context() as patch:
        patch.setattr(writers, "in_order", elsewhere)
        synthetic.make_from_meshes(str(tmp_path / "two"), str(tmp_path / "meshes"), **arguments)
    synthetic.make_from_meshes(str(tmp_path / "one"), str(tmp_path / "meshes"), workers=1, **arguments)
    one = images(tmp_path / "one")
    assert same(one, images(tmp_path / "two"))
    assert one["red_train_lights.npz"].shape == (4, 3, 5) and one["red_test_lights.npz"].shape == (1, 24, 5)
    described = json.loads((tmp_path / "one" / "dataset.json").read_text())
    assert described["light"] == "random" and described["background"] == str(grounds)
    # Interrupted after some objects, it goes on.
    calls, draw = [], writers.draw_views

    def interrupted(*given, **more):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return draw(*given, **more)
    monkeypatch.setattr(writers, "draw_views", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.make_from_meshes(str(tmp_path / "again"), str(tmp_path / "meshes"), workers=1, **arguments)
    synthetic.make_from_meshes(str(tmp_path / "again"), str(tmp_path / "meshes"), workers=1, **arguments)
    assert same(one, images(tmp_path / "again")) and len(calls) == 7
    # The same shapes, but for what is around them.
    synthetic.make_from_meshes(str(tmp_path / "plain"), str(tmp_path / "meshes"), train_views=3, seed=5)
    for name, plain in images(tmp_path / "plain").items():
        assert np.array_equal(*(a[:, :, 3] if "images" in name else a for a in (plain, one[name])))
    data = CVPR18(str(tmp_path / "one"), ["red"], "val", str(tmp_path / "cache"))
    assert data.gather(np.arange(2)).images[:, :3, 0, 0].max() > 0, "read with its ground"
    with pytest.raises(InputError, match="was made with light=random, now light=fixed"):
        synthetic.make_from_meshes(str(tmp_path / "one"), str(tmp_path / "meshes"), train_views=3, seed=5)


@pytest.mark.parametrize("layout", [layout for layout, dataset in DATASETS.items() if layout != "CVPR18"])
def test_other_layouts_have_them_too(layout, tmp_path, grounds, capsys):
    command = ["--mode=make_dataset", "--data_dir", tmp_path / "set", f"--layout={layout}", "--light=random",
               "--class_ids", "02958343", "--n_train=1", "--n_val=1", "--n_test=1"]
    if not DATASETS[layout].shows_grounds:
        assert call(*command, "--background", grounds) == 2
        assert f"--background is not for --layout={layout}: its readers ignore what is behind" in capsys.readouterr().err
    else:
        command += ["--background", grounds]
    assert call(*command) == 0
    dataset = DATASETS[layout]
    for split in dataset.splits[:2]:
        dataset(str(tmp_path / "set"), ["02958343"], split, str(tmp_path / "cache")).gather(np.arange(1))
    found = [np.loadtxt(path, ndmin=2) for path in (tmp_path / "set").rglob("lights.txt")]
    if layout == "Pascal3D":
        found = [np.load(path, allow_pickle=True)["lights"] for path in (tmp_path / "set").rglob("*.npz")
                 if not path.stem.endswith("points")]
    assert sum(len(rows) for rows in found) == {"NIPS17": 60, "R2N2": 72, "Pascal3D": 2}[layout]
    assert {rows.shape[1] for rows in found} == {5} and np.ptp(np.concatenate(found)[:, 0]) > .1
    if layout == "NIPS17":
        picture = np.asarray(Image.open(next((tmp_path / "set").rglob("render_0.png"))))
        assert picture[..., :3][picture[..., 3] == 0].std() > 10, "the ground, beside the object"


@pytest.mark.parametrize("case, said", [
    ("gone", "--background=.*gone is not a folder; expected one of pictures"),
    ("empty", "--background=.*empty has no pictures .*.png, .jpg"),
    ("damaged", "--background: .*damaged/b.png is not a picture that can be read"),
    ("cut", "--background: .*cut/a.jpg is not a picture that can be read"),
    ("large", "--background: .*large/a.jpg has 400x300 pixels; at most 0 million are read")])
def test_folders_of_bad_pictures_are_refused_before_anything_is_made(case, said, grounds, tmp_path, monkeypatch, refused):
    folder = tmp_path / case
    if case != "gone":
        folder.mkdir()
    if case in ("cut", "large"):
        content = (grounds / "more" / "b.jpg").read_bytes()
        (folder / "a.jpg").write_bytes(content[:len(content) // 2 if case == "cut" else None])
    if case == "large":
        monkeypatch.setattr(scenery, "MAX_PIXELS", 1000)
    if case == "damaged":
        shutil.copy(grounds / "a.png", folder / "a.png")
        (folder / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    make_class(tmp_path / "meshes" / "red")
    line = refused("--mode=make_dataset", "--mesh_dir", tmp_path / "meshes", "--data_dir", tmp_path / "set",
                   "--background", folder)
    assert re.search(said, line), line


def test_skip_bad_leaves_out_broken_backgrounds(grounds, tmp_path, capsys):
    folder = tmp_path / "others"
    shutil.copytree(grounds, folder)
    (folder / "more" / "broken.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    make_class(tmp_path / "meshes" / "red")
    command = ("--mode=make_dataset", "--mesh_dir", tmp_path / "meshes", "--data_dir", tmp_path / "set", "--background",
               folder, "--skip_bad")
    assert call(*command) == 0
    assert "left out, because their files are broken (1):" in capsys.readouterr().out
    told = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert list(told["backgrounds_left_out"]) == ["more/broken.png"] and told["count_backgrounds_left_out"] == 1
    assert call(*command) == 0  # a complete set stays
    for path in folder.rglob("*.*"):
        path.write_bytes(b"no picture")
    assert call(*command[:3], "--data_dir", tmp_path / "none", "--background", folder, "--skip_bad") == 2
    assert f"--skip_bad leaves no picture of --background={folder}" in capsys.readouterr().err
