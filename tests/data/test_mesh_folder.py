"""Datasets from a folder of meshes: formats, the up axis, and error messages."""
import itertools
import json
import os
import shutil

import numpy as np
import pytest
import synthetic
import torch
import trimesh
from command import call
from datasets import CVPR18
from errors import InputError
from readers import writers
from solids import box
from test_conventions import BARS, agreement, distance_to

FORMATS = ("obj", "off", "ply", "stl", "glb")


def bars(scale=(1, 1, 1)):
    """The chiral bars as a trimesh; 0.88 long."""
    vertices = np.concatenate([box(*bar)[0] for bar in BARS]) * scale
    return trimesh.Trimesh(vertices, np.concatenate([box(*bar)[1] + 8 * k for k, bar in enumerate(BARS)]),
                           process=False)


def corners(vertices, faces):
    """The triangles as sorted rows of 9 numbers, which do not depend on the numbering of vertices."""
    triangles = np.asarray(vertices, float)[np.asarray(faces)]
    first = [min(range(3), key=lambda k: tuple(t[k].round(4) + 0.)) for t in triangles]  # keeps the sense
    rows = np.stack([np.roll(t, -k, 0).reshape(9) for t, k in zip(triangles, first)])
    return rows[np.lexsort(rows.round(4).T[::-1] + 0.)]


def volume(vertices, faces):
    a, b, c = np.asarray(vertices, float)[np.asarray(faces)].swapaxes(0, 1)
    return (a * np.cross(b, c)).sum() / 6


@pytest.fixture
def mesh_dir(tmp_path):
    """Two classes: one of the bars in five formats and proportions, one in ShapeNet's layout."""
    folder = tmp_path / "meshes"
    (folder / "bars").mkdir(parents=True)
    for k, kind in enumerate(FORMATS):
        bars((1, 1 + .1 * k, 1)).export(folder / "bars" / f"{k}.{kind}")
    for k in range(3):
        (folder / "02958343" / f"object{k}" / "models").mkdir(parents=True)
        trimesh.creation.icosphere(1).apply_scale((1, .4 + .2 * k, .3)).export(
            folder / "02958343" / f"object{k}" / "models" / "model_normalized.obj")
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.txt").write_text("no mesh")
    (folder / "license.txt").write_text("no class")
    return folder


# ---- one mesh -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS + ("OBJ", "gltf"))
def test_every_format_gives_the_same_mesh(tmp_path, kind):
    if kind == "gltf":
        for name, content in trimesh.exchange.gltf.export_gltf(trimesh.Scene(bars())).items():
            (tmp_path / name.replace("model.gltf", "a.gltf")).write_bytes(content)
    else:
        (bars()).export(tmp_path / f"a.{kind}", file_type=kind.lower())
    vertices, faces, colors = synthetic.load_mesh(str(tmp_path / f"a.{kind}"))
    low, high = np.array(BARS)[:, 0].min(0), np.array(BARS)[:, 1].max(0)
    expected = bars()
    scaled = (expected.vertices - (low + high) / 2) / .88
    assert len(faces) == 48 and colors.shape == (48, 3)
    # the longest side is 1, or slightly less if a corner would leave a picture
    shrink = float(vertices.numpy()[np.unique(faces)].max(0)[0]) * 2
    assert .8 < shrink <= 1 + 1e-6
    np.testing.assert_allclose(corners(vertices, faces), corners(scaled * shrink, expected.faces), atol=1e-5)
    assert volume(vertices, faces) > 0


def test_a_scene_is_put_together_with_its_transforms(tmp_path):
    scene, cube = trimesh.Scene(), trimesh.creation.box((1, 1, 1))
    turn = trimesh.transformations.rotation_matrix(np.pi / 2, (0, 0, 1))
    scene.add_geometry(cube, transform=trimesh.transformations.translation_matrix((0, 3, 0)))
    scene.add_geometry(trimesh.creation.box((4, 1, 1)), transform=turn)  # stands upright
    scene.export(tmp_path / "a.glb")
    vertices, faces, _ = synthetic.load_mesh(str(tmp_path / "a.glb"))
    size = np.ptp(vertices.numpy(), axis=0)
    assert len(faces) == 24 and size[1] == size.max() and np.allclose(size / size[1], (1 / 5.5, 1, 1 / 5.5))


@pytest.mark.parametrize("up", synthetic.FRONT)
def test_up_turns_and_never_mirrors(tmp_path, up):
    matrix = synthetic.orientation(up)
    assert np.allclose(matrix @ matrix.T, np.eye(3)) and np.linalg.det(matrix) == pytest.approx(1)
    axis = np.eye(3)["xyz".index(up[-1])] * (-1 if up[0] == "-" else 1)
    assert (matrix @ axis).tolist() == [0, 1, 0]
    # a mesh with this up axis becomes the upright mesh
    turned = bars()
    turned.vertices = turned.vertices @ matrix  # the inverse turn, from y to `up`
    turned.export(tmp_path / "turned.ply")
    bars().export(tmp_path / "upright.ply")
    result = synthetic.load_mesh(str(tmp_path / "turned.ply"), up)
    expected = synthetic.load_mesh(str(tmp_path / "upright.ply"), "y")
    np.testing.assert_allclose(corners(*result[:2]), corners(*expected[:2]), atol=1e-5)
    assert volume(*result[:2]) > 0
    if up != "y":
        wrong = synthetic.load_mesh(str(tmp_path / "turned.ply"), "y")
        assert np.abs(corners(*wrong[:2]) - corners(*expected[:2])).max() > .1


def test_z_up_is_the_turn_that_people_expect(tmp_path):
    """CAD and Blender: z up, the front at -y; the dataset: y up, the front at +z."""
    vertices, faces = box((0, 0, 0), (1, 1, 1))
    front_top = np.array([[.4, -2.0, 3.0], [.6, -2.0, 3.0], [.5, -2.0, 3.2]])  # far in front, high above
    trimesh.Trimesh(np.concatenate([vertices, front_top]), np.concatenate([faces, [[8, 9, 10]]]),
                    process=False).export(tmp_path / "a.obj")
    v, f, _ = synthetic.load_mesh(str(tmp_path / "a.obj"), "z")
    marker, highest = v.numpy()[f.numpy()[-1]].mean(0), v.numpy().max(0)
    assert highest[1] - marker[1] < .05 and highest[2] - marker[2] < .05


def test_every_corner_stays_in_every_picture(tmp_path):
    trimesh.creation.box((2, 2, 2)).export(tmp_path / "a.obj")
    vertices, faces, colors = synthetic.load_mesh(str(tmp_path / "a.obj"))
    assert .3 < vertices.abs().max() < .5, "smaller than a mesh that fits"
    images = writers.draw_views(CVPR18, vertices, faces, colors, torch.arange(24))
    assert images[:, 3].any() and not images[:, 3, [0, -1]].any() and not images[:, 3, :, [0, -1]].any()
    cut_off = writers.draw_views(CVPR18, vertices / (2 * vertices.abs().max()), faces, colors, torch.arange(24))
    assert cut_off[:, 3, [0, -1]].any(), "at full size it would not"


def test_colours_of_faces_are_read_and_grey_stands_for_none(tmp_path):
    mesh = bars()
    assert np.ptp(_colors(mesh, tmp_path)) == 0
    painted = np.tile([255, 0, 0, 255], (48, 1)).astype(np.uint8)
    painted[24:] = [0, 0, 255, 255]
    mesh.visual.face_colors = painted
    colors = _colors(mesh, tmp_path)
    assert {tuple(c) for c in colors.round(2)} == {(1, 0, 0), (0, 0, 1)}
    assert (colors[:24, 0] == 1).all() and (colors[24:, 2] == 1).all()


def _colors(mesh, tmp_path):
    mesh.export(tmp_path / "a.ply")
    colors = synthetic.load_mesh(str(tmp_path / "a.ply"))[2]
    return colors.numpy() if isinstance(colors, torch.Tensor) else colors.colours.mean(1)


def test_corners_of_no_face_do_not_count(tmp_path):
    text = trimesh.exchange.obj.export_obj(bars())
    (tmp_path / "a.obj").write_text("".join(sorted(text.splitlines(True), key=lambda line: line[:1] == "f")
                                            ) + "\nv 100 100 100\nv nan nan nan\n")
    bars().export(tmp_path / "b.obj")
    one, other = (synthetic.load_mesh(str(tmp_path / name)) for name in ("a.obj", "b.obj"))
    np.testing.assert_allclose(corners(*one[:2]), corners(*other[:2]), atol=1e-5)


# ---- a folder -----------------------------------------------------------------------------------------


def test_a_folder_becomes_a_dataset(mesh_dir, tmp_path, capsys):
    folder = str(tmp_path / "set")
    synthetic.make_from_meshes(folder, str(mesh_dir))
    assert CVPR18.available(folder) == ["02958343", "bars"]
    counts = {}
    for class_id in ("02958343", "bars"):
        objects = json.loads((tmp_path / "set" / f"{class_id}_objects.json").read_text())
        everything = sorted(itertools.chain(*objects.values()))
        found = sorted(os.path.relpath(os.path.join(root, f), mesh_dir)
                       for root, _, names in os.walk(mesh_dir / class_id) for f in names
                       if not f.endswith(".mtl"))
        assert everything == found, "every mesh is in one split"
        counts[class_id] = {split: len(names) for split, names in objects.items()}
        for split, names in objects.items():
            data = CVPR18(folder, [class_id], split, str(tmp_path / "cache"))
            assert data.num_objects == len(names)
            alphas = data.gather(np.arange(len(data))).silhouettes.numpy().reshape(len(names), 24, 64, 64)
            for o, name in enumerate(names):
                grid = data.voxels(np.array([o]))[0].numpy()
                v, f, _ = synthetic.load_mesh(str(mesh_dir / name))
                assert np.array_equal(grid, writers.voxel_grid(CVPR18, v, f)), "the list says which is which"
                if class_id == "bars":
                    distances = [distance_to(a > 0) for a in alphas[o]]
                    assert agreement(grid, alphas[o], distances)[1] > .98
                    assert agreement(grid[:, :, ::-1], alphas[o], distances)[1] < .9, "not its mirror image"
    assert counts == {"02958343": {"train": 1, "val": 1, "test": 1}, "bars": {"train": 3, "val": 1, "test": 1}}


def test_few_views_and_the_same_again(mesh_dir, tmp_path):
    shutil.rmtree(mesh_dir / "bars")
    for name in ("one", "two"):
        synthetic.make_from_meshes(str(tmp_path / name), str(mesh_dir), train_views=2, seed=4)
    names = sorted(n for n in os.listdir(tmp_path / "one") if n.endswith(".npz"))
    assert "02958343_train_views.npz" in names and len(names) == 10
    for name in names:
        one, two = (np.load(tmp_path / folder / name)["arr_0"] for folder in ("one", "two"))
        assert np.array_equal(one, two)
    before = os.stat(tmp_path / "one" / names[0]).st_mtime_ns
    synthetic.make_from_meshes(str(tmp_path / "one"), str(mesh_dir), train_views=2, seed=4)
    assert os.stat(tmp_path / "one" / names[0]).st_mtime_ns == before, "what is complete is kept"
    with pytest.raises(InputError, match="was made with up=y, now up=z"):
        synthetic.make_from_meshes(str(tmp_path / "one"), str(mesh_dir), up="z", train_views=2, seed=4)


def test_the_printed_counts_are_those_of_the_files(mesh_dir, tmp_path, capsys):
    folder = tmp_path / "set"
    for _ in range(2):
        synthetic.make_from_meshes(str(folder), str(mesh_dir))
        assert capsys.readouterr().out == f"{folder}: 02958343 (3 objects), bars (5 objects)\n"


@pytest.mark.parametrize("changed", ["added", "removed", "class"])
def test_meshes_that_changed_since_are_refused(mesh_dir, tmp_path, capsys, changed):
    """A new split could test on objects of the old training set."""
    folder = tmp_path / "set"
    synthetic.make_from_meshes(str(folder), str(mesh_dir))
    before = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}
    if changed == "added":
        shutil.copy(mesh_dir / "bars" / "0.obj", mesh_dir / "bars" / "new.obj")
    elif changed == "removed":
        os.remove(mesh_dir / "bars" / "3.stl")
    else:
        shutil.rmtree(mesh_dir / "bars")
    told = {"added": r"1 new \(bars/new.obj\)", "removed": r"1 gone \(bars/3.stl\)",
            "class": r"5 gone \(bars/0.obj, ...\)"}[changed]
    with pytest.raises(InputError, match=f"other meshes of bars than {folder}/bars_objects.json lists, {told}: make "
                                         "all of them into another --data_dir"):
        synthetic.make_from_meshes(str(folder), str(mesh_dir))
    assert before == {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}


def test_a_list_of_meshes_that_cannot_be_read_is_named(mesh_dir, tmp_path):
    synthetic.make_from_meshes(str(tmp_path / "set"), str(mesh_dir))
    (tmp_path / "set" / "bars_objects.json").write_text("[1]")
    with pytest.raises(InputError, match="bars_objects.json cannot be read as the list of the meshes"):
        synthetic.make_from_meshes(str(tmp_path / "set"), str(mesh_dir))


def test_class_ids_choose_subfolders(mesh_dir, tmp_path, capsys, refused):
    folder = tmp_path / "set"
    command = ("--mode=make_dataset", "--mesh_dir", mesh_dir, "--data_dir", folder)
    line = refused(*command, "--class_ids", "bars", "chair")
    assert f"--class_ids=chair is not a subfolder of --mesh_dir={mesh_dir}" in line and "02958343, bars" in line
    assert call(*command, "--class_ids", "bars") == 0
    assert CVPR18.available(str(folder)) == ["bars"]
    capsys.readouterr()
    os.remove(mesh_dir / "bars" / "0.obj")
    assert call(*command, "--class_ids", "02958343") == 0, "what is not asked for may have changed"
    assert capsys.readouterr().out == f"{folder}: bars (5 objects), 02958343 (3 objects)\n"
    assert "bars/0.obj" in refused(*command, "--class_ids", "bars") and "bars/0.obj" in refused(*command)


@pytest.mark.parametrize("option", ["--n_train=2", "--n_val=40", "--n_test=1", "--palette=own"])
def test_options_of_the_embedded_shapes_are_refused(mesh_dir, tmp_path, refused, option):
    """Even if the given value is the default."""
    line = refused("--mode=make_dataset", "--mesh_dir", mesh_dir, "--data_dir", tmp_path / "set", option, usage=True)
    assert f"{option.split('=')[0]} is for the built-in shapes" in line and "70/10/20" in line


def test_broken_meshes_are_left_out_on_request(mesh_dir, tmp_path, capsys):
    folder = tmp_path / "set"
    (mesh_dir / "bars" / "zzz.obj").write_text("v 0 0 0\n")
    (mesh_dir / "bars" / "aaa.ply").write_text("no mesh")
    command = ("--mode=make_dataset", "--mesh_dir", mesh_dir, "--data_dir", folder)
    assert call(*command) == 2
    assert "; --skip_bad leaves out such meshes" in capsys.readouterr().err
    for k in range(2):  # and again with the complete dataset
        assert call(*command, "--skip_bad") == 0
        said = capsys.readouterr().out
        assert f"{folder}: 02958343 (3 objects), bars (5 objects, 2 meshes left out)\n" in said
        assert ("broken (2)" in said and f"{mesh_dir}/bars/zzz.obj is not a mesh that can be read: holds 1 vertices and 0 faces" in said) == (k == 0)
    objects = json.loads((folder / "bars_objects.json").read_text())
    left_out = objects.pop("left_out")
    assert list(left_out) == ["bars/aaa.ply", "bars/zzz.obj"] and objects.pop("count_left_out") == 2
    assert all(said.startswith(f"{mesh_dir}/{name} is not a mesh") for name, said in left_out.items())
    os.remove(mesh_dir / "bars" / "zzz.obj")
    os.remove(mesh_dir / "bars" / "aaa.ply")
    synthetic.make_from_meshes(str(tmp_path / "whole"), str(mesh_dir))
    assert objects == json.loads((tmp_path / "whole" / "bars_objects.json").read_text()), "as if they were not there"
    for split, names in objects.items():
        assert CVPR18(str(folder), ["bars"], split, str(tmp_path / "cache")).num_objects == len(names)


def test_a_class_of_broken_meshes_is_left_out_by_name(mesh_dir, tmp_path, capsys):
    for name in ("0.obj", "1.off", "2.ply"):
        (mesh_dir / "bars" / name).write_text("no mesh")
    synthetic.make_from_meshes(str(tmp_path / "set"), str(mesh_dir), skip_bad=True)
    assert "fewer than 3 of its meshes can be used: bars (2)" in capsys.readouterr().out
    assert CVPR18.available(str(tmp_path / "set")) == ["02958343"]
    shutil.rmtree(mesh_dir / "02958343")
    with pytest.raises(InputError, match="--skip_bad leaves no class of at least 3 meshes"):
        synthetic.make_from_meshes(str(tmp_path / "none"), str(mesh_dir), skip_bad=True)


# ---- refusals ---------------------------------------------------------------------------------------


NAN = "v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n"
POINT = "v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n"


@pytest.mark.parametrize("name, content", [
    ("a.obj", b""), ("a.obj", b"not a mesh\n"), ("a.off", b"not a mesh\n"), ("a.ply", b"ply\nformat ascii 1.0\n"),
    ("a.stl", b"\x00" * 84), ("a.stl", b"\x01" * 50), ("a.glb", b"glTF\x02\x00\x00\x00"), ("a.glb", b""),
    ("a.gltf", b"{}"), ("a.obj", NAN.encode()), ("a.obj", NAN.replace("nan", "inf").encode()),
    ("a.obj", POINT.encode()), ("a.obj", b"v 0 0 0\nv 1 0 0\nf 1 2 9\n"),
    ("a.off", b"OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")])
def test_a_mesh_that_cannot_be_used_is_named(mesh_dir, tmp_path, name, content):
    (mesh_dir / "bars" / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{mesh_dir}/bars/{name} (is|has) "):
        synthetic.make_from_meshes(str(tmp_path / "set"), str(mesh_dir))


def test_without_the_bad_mesh_the_same_command_completes(mesh_dir, tmp_path):
    shutil.rmtree(mesh_dir / "02958343")
    for bad in sorted((mesh_dir / "bars").iterdir()):  # whichever split it falls into
        good = bad.read_bytes()
        bad.write_bytes(b"")
        folder = tmp_path / f"set of {bad.name}"
        with pytest.raises(InputError, match=bad.name):
            synthetic.make_from_meshes(str(folder), str(mesh_dir))
        bad.write_bytes(good)
        synthetic.make_from_meshes(str(folder), str(mesh_dir))
        assert CVPR18.available(str(folder)) == ["bars"]


def test_folders_that_hold_too_little(mesh_dir, tmp_path):
    out = str(tmp_path / "set")
    for wrong in ("", None, str(tmp_path / "none"), str(mesh_dir / "license.txt")):
        with pytest.raises(InputError, match=f"--mesh_dir={wrong} is not a folder"):
            synthetic.make_from_meshes(out, wrong)
    with pytest.raises(InputError, match="has no subfolder with meshes .*.obj, .off"):
        synthetic.make_from_meshes(out, str(mesh_dir / "notes"))
    for name in ("0.obj", "1.off", "2.ply"):
        os.remove(mesh_dir / "bars" / name)
    shutil.rmtree(mesh_dir / "02958343")
    with pytest.raises(InputError, match=r"at least 3 meshes.*bars \(2\)"):
        synthetic.make_from_meshes(out, str(mesh_dir))
    assert not os.path.exists(out), "nothing is made before all classes are looked at"


def test_a_class_too_small_is_left_out_by_name(mesh_dir, tmp_path, capsys):
    (mesh_dir / "pair").mkdir()
    for name in ("0.obj", "1.off"):
        shutil.copy(mesh_dir / "bars" / name, mesh_dir / "pair" / name)
    synthetic.make_from_meshes(str(tmp_path / "set"), str(mesh_dir))
    assert CVPR18.available(str(tmp_path / "set")) == ["02958343", "bars"]
    assert "fewer than 3 meshes: pair (2)" in capsys.readouterr().out


@pytest.mark.parametrize("views", [0, 25])
def test_impossible_numbers_of_views_are_refused(mesh_dir, tmp_path, views):
    with pytest.raises(InputError, match=f"--train_views={views}"):
        synthetic.make_from_meshes(str(tmp_path / "set"), str(mesh_dir), train_views=views)
