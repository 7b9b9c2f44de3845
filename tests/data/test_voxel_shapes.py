"""Voxel grids as shapes: files, surfaces, axes in pictures and voxels, and making them on all cores."""
import itertools
import json
import os

import numpy as np
import pytest
import synthetic
import torch
import trimesh
from command import call
from datasets import CVPR18
from errors import InputError
from making import grids, workers
from readers import writers
from readers.voxel_files import read_voxels

# x, y, z: a body along x, a fin up at its back (-x), a wing at its left (-z of an object that looks along +x)
BODY, FIN, WING = np.s_[0:32, 12:17, 13:19], np.s_[0:6, 12:26, 15:17], np.s_[14:20, 13:15, 2:19]


def chiral():
    grid = np.zeros((32, 32, 32), bool)
    for part in (BODY, FIN, WING):
        grid[part] = True
    return grid


def binvox(grid, header="", end=None):
    """A binvox file, written cell by cell: x slowest, then z, y fastest."""
    x, y, z = grid.shape
    cells = [int(grid[i, j, k]) for i in range(x) for k in range(z) for j in range(y)]
    runs = b""
    for value, group in itertools.groupby(cells):
        count = len(list(group))
        while count:
            runs += bytes((value, min(count, 255)))
            count -= min(count, 255)
    header = header or f"dim {x} {z} {y}\ntranslate -1 .5 2\nscale 3.5"
    return f"#binvox 1\n{header}\ndata\n".encode() + runs[:end]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("shape", [(32, 32, 32), (5, 3, 7)])
@pytest.mark.parametrize("kind", ["binvox", "npy", "npz", "ints.npy"])
def test_every_format_gives_the_same_grid(tmp_path, kind, shape):
    grid, path = np.random.default_rng(0).random(shape) < .3, tmp_path / f"a.{kind}"
    if kind == "binvox":
        path.write_bytes(binvox(grid))
        if len(set(shape)) == 1:  # trimesh reads no other
            theirs = trimesh.load(str(path)).matrix
            assert np.array_equal(theirs, grid)
    elif kind == "npz":
        np.savez_compressed(path, grid)
    else:
        np.save(path, grid.astype(np.uint8) if "ints" in kind else np.asfortranarray(grid))
    read = read_voxels(str(path))
    assert read.grid.dtype == bool and np.array_equal(read.grid, grid)
    if kind == "binvox":
        assert read.translate.tolist() == [-1, .5, 2] and read.scale == 3.5


@pytest.mark.parametrize("content, message", [
    (b"", "not a binvox file"), (binvox(chiral(), end=-2), "cut short"), (binvox(chiral(), end=-1), "cut short"),
    (binvox(chiral()) + b"\0\1", "overflows.*32 x 32 x 32"), (binvox(chiral(), "dim 32 32 31"), "overflows"),
    (binvox(chiral(), "dim 32 32"), "dim 32 32; expected three"), (binvox(chiral(), "dim 9999 1 1"), "dim 9999"),
    (binvox(chiral(), "scale 1"), "header that cannot be read"), (binvox(chiral(), "dim 32 32 32\nscale 0"), "scale 0"),
    (binvox(chiral(), "dim 32 32 32\ntranslate 0 nan 0"), "translate"), (binvox(chiral()).replace(b"\1", b"\2"), "value")])
def test_broken_binvox_files_are_refused(tmp_path, content, message):
    (tmp_path / "a.binvox").write_bytes(content)
    with pytest.raises(InputError, match=f"{tmp_path}/a.binvox .*{message}"):
        read_voxels(str(tmp_path / "a.binvox"))


@pytest.mark.parametrize("array, message", [
    (np.zeros((2, 2), bool), "shape"), (np.full((2, 2, 2), 2), "other values"), (np.full((2, 2, 2), np.nan), "other"),
    (np.array([[[None]]]), "object"), (np.zeros((0, 2, 2), bool), "shape")])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_that_are_no_grids_are_refused(tmp_path, array, message, kind):
    (np.save if kind == "npy" else np.savez)(tmp_path / f"a.{kind}", array)
    with pytest.raises(InputError, match=f"a.{kind} .*{message}"):
        read_voxels(str(tmp_path / f"a.{kind}"))


@pytest.mark.parametrize("name", ["smooth", "cubes"])
def test_surfaces_are_closed_outward_and_where_the_cells_are(name):
    vertices, faces = grids.SURFACES[name](chiral())
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    assert mesh.is_watertight and mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(chiral().sum(), rel=1e-9 if name == "cubes" else .03)
    centres = np.argwhere(chiral()) + .5
    np.testing.assert_allclose(mesh.center_mass, centres.mean(0), atol=1e-6 if name == "cubes" else .2)


def test_turning_a_grid_turns_its_points():
    grid, matrix = np.random.default_rng(0).random((3, 4, 5)) < .2, np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]])
    turned = grids.turn_grid(grid, matrix)
    old, new = (np.argwhere(g) - (np.array(g.shape) - 1) / 2 for g in (grid, turned))
    assert sorted(map(tuple, old @ matrix.T)) == sorted(map(tuple, new))


@pytest.mark.parametrize("up, front", [("y", "+z"), ("y", "+x"), ("y", "-x"), ("z", "-y"), ("z", "+x"), ("-x", "-z")])
def test_grids_and_meshes_turn_alike_and_the_truth_is_the_grid(tmp_path, up, front):
    """The same object with these up and front axes, as a grid and as a mesh."""
    matrix = synthetic.orientation(up, front)
    upright = grids.turn_grid(chiral(), synthetic.orientation("y", "+x"))  # in the frame of people
    lying = grids.turn_grid(upright, matrix.T)
    np.save(tmp_path / "a.npy", lying)
    vertices, faces, _, kept = synthetic.load_grid(str(tmp_path / "a.npy"), up, front)
    assert torch.equal(kept, torch.from_numpy(upright))
    # frame of people: the body along z, the fin up at -z, the left wing at +x
    assert kept[15:17, 12:26, 0:6].all() and kept[13:30, 13:15, 14:20].all() and not kept[0:13].any()
    given = writers.dataset_grid(CVPR18, kept)
    assert np.array_equal(given, upright.transpose(1, 0, 2)), "the set's axes: y, x, z of people"
    made = writers.voxel_grid(CVPR18, vertices, faces)
    assert iou(made, given) > .6  # thin parts come out thicker under the published rule
    wrong = [iou(made, np.flip(given.transpose(axes), flips)) for axes in itertools.permutations(range(3))
             for flips in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4))]
    assert sorted(wrong)[-2] < iou(made, given) - .1
    pictures = writers.draw_views(CVPR18, vertices, faces, torch.full((len(faces), 3), .7), torch.arange(24))[:, 3] > 127
    for grid, fits in ((given, True), (given[:, ::-1], False), (given[:, :, ::-1], False)):
        cubes, sides = CVPR18.voxel_mesh(torch.from_numpy(grid.copy()))
        screen = CVPR18.project(cubes.expand(24, -1, -1) * 31 / 32, torch.arange(24))
        drawn = CVPR18.renderer(64).render_silhouettes(screen, sides).numpy() > .5
        assert (iou(drawn, pictures) > .9) == fits
    trimesh.Trimesh(*grids.cubes(lying), process=False).export(tmp_path / "a.ply")
    mesh = synthetic.load_mesh(str(tmp_path / "a.ply"), up, front)
    bare = synthetic.load_grid(str(tmp_path / "a.npy"), up, front, "cubes", keep=False)
    corners = [np.unique(shape[0].numpy().round(4) + 0., axis=0) for shape in (mesh, bare)]
    np.testing.assert_allclose(*corners, atol=2e-4)


def test_a_front_along_up_is_refused(tmp_path):
    with pytest.raises(InputError, match="--front=-z and --up=z"):
        synthetic.orientation("z", "-z")


# ---- a folder ------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """3D-R2N2's layout, one class of five objects, one of three."""
    for class_id, count in (("02691156", 5), ("02958343", 3)):
        for k in range(count):
            place = tmp_path / "vox" / class_id / f"object{k}"
            place.mkdir(parents=True)
            grid = chiral()
            grid[10:20, 17:18 + k, 13:19] = True
            (place / "model.binvox").write_bytes(binvox(grid))
    return tmp_path / "vox"


def arrays(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.npz"))}


def test_a_split_file_decides_and_all_cores_give_the_same(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "PER_WORKER", 1)
    split = {"02691156": {"train": ["object3", "object0", "object4"], "val": ["object1"], "test": ["object2"]}}
    (tmp_path / "split.json").write_text(json.dumps(split))
    listed = [{"taxonomy_id": "02691156", "taxonomy_name": "plane", **split["02691156"]}]
    (tmp_path / "list.json").write_text(json.dumps(listed))
    for count, name in ((1, "split"), (3, "list")):
        assert call("--mode=make_dataset", "--mesh_dir", folder, "--front=+x", "--split_file", tmp_path / f"{name}.json",
                    "--data_dir", tmp_path / str(count), "--workers", count) == 0
        said = capsys.readouterr().out
        assert "--split_file has no such class: 02958343" in said and "the voxels are the given grids" in said
        names = json.loads((tmp_path / str(count) / "02691156_objects.json").read_text())
        assert names["train"] == [f"02691156/object{k}/model.binvox" for k in (3, 0, 4)]
    one, three = arrays(tmp_path / "1"), arrays(tmp_path / "3")
    assert len(one) == 9 and one == three
    assert not list((tmp_path / "3").glob("*.part"))
    voxels = np.load(tmp_path / "1" / "02691156_train_voxels.npz")["arr_0"]
    for k, truth in zip((3, 0, 4), voxels):
        given = read_voxels(str(folder / "02691156" / f"object{k}" / "model.binvox")).grid
        assert np.array_equal(truth, given[::1, :, ::-1].transpose(1, 2, 0)), "(x, y, z) -> (-z, y, x), then y, x, z"
    assert call("--mode=check_data", "--data_dir", tmp_path / "1", "--sample_dir", tmp_path / "sheet") == 0


def test_an_interrupted_class_continues_at_the_next_object(folder, tmp_path, monkeypatch):
    load, seen = synthetic.FromFiles.load, []

    def counted(self, path):
        seen.append(path)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return load(self, path)
    monkeypatch.setattr(synthetic.FromFiles, "load", counted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.make_from_meshes(str(tmp_path / "set"), str(folder))
    assert len(list((tmp_path / "set").glob("*.part"))) == 1, "no file of a split that has no objects yet"
    with open(next((tmp_path / "set").glob("*.part")), "ab") as out:
        out.write(b"torn")
    synthetic.make_from_meshes(str(tmp_path / "set"), str(folder))
    assert len(seen) == 3 + 8 - 2, "two were kept"
    synthetic.make_from_meshes(str(tmp_path / "whole"), str(folder))
    assert arrays(tmp_path / "set") == arrays(tmp_path / "whole")


@pytest.mark.parametrize("change, message", [
    ({"val": ["object1", "nobody", "none"]}, r"2 objects that .* lacks \(02691156/nobody, ...\)"),
    ({"val": ["object0"]}, "in two splits"), ({"val": []}, "no objects of class 02691156 in val")])
def test_splits_that_do_not_fit_are_refused(folder, tmp_path, change, message):
    split = {"train": ["object0"], "val": ["object1"], "test": ["object2"], **change}
    (tmp_path / "split.json").write_text(json.dumps({"02691156": split}))
    with pytest.raises(InputError, match=message):
        synthetic.make_from_meshes(str(tmp_path / "set"), str(folder), split_file=str(tmp_path / "split.json"))
    assert not os.path.exists(tmp_path / "set" / "02691156_train_images.npz")


def test_objects_of_a_split_file_that_do_not_exist_are_listed_and_counted(folder, tmp_path):
    split = {"train": ["object0", "nobody"], "val": ["object1"], "test": ["object2", "none"]}
    (tmp_path / "split.json").write_text(json.dumps({"02691156": split}))
    for _ in range(2):  # and again with the complete dataset
        synthetic.make_from_meshes(str(tmp_path / "set"), str(folder), split_file=str(tmp_path / "split.json"),
                                   skip_bad=True)
    listed = json.loads((tmp_path / "set" / "02691156_objects.json").read_text())
    assert listed["absent"] == ["nobody", "none"] and listed["count_left_out"] == 2 and "left_out" not in listed


def test_broken_grids_are_refused_or_left_out(folder, tmp_path, refused):
    place = folder / "02691156"
    (place / "object1" / "model.binvox").write_bytes(binvox(chiral(), end=-2))
    np.save(place / "flat.npy", np.zeros((4, 4), bool))
    np.savez(place / "two.npz", chiral(), chiral())
    np.save(place / "none.npy", np.zeros((8, 8, 8), bool))
    command = ("--mode=make_dataset", "--mesh_dir", folder, "--data_dir", tmp_path / "set", "--train_views=1")
    synthetic.make_from_meshes(str(tmp_path / "set"), str(folder), train_views=1, class_ids=["02958343"])
    assert "--skip_bad leaves out such meshes" in refused(*command)
    assert call(*command, "--skip_bad") == 0
    listed = json.loads((tmp_path / "set" / "02691156_objects.json").read_text())
    assert listed.pop("count_left_out") == 4
    assert {name: said.split(" ", 1)[1] for name, said in listed.pop("left_out").items()} == {
        "02691156/object1/model.binvox": "is cut short: its runs are 32592 cells, its header says 32 x 32 x 32 = 32768",
        "02691156/flat.npy": "is an array of shape (4, 4); expected a grid (X, Y, Z) of 1 to 1024 cells a side",
        "02691156/two.npz": "holds 2 arrays (arr_0.npy, arr_1.npy); expected one grid",
        "02691156/none.npy": "has no occupied cell"}
    assert sorted(sum(listed.values(), [])) == [f"02691156/object{k}/model.binvox" for k in (0, 2, 3, 4)]


def test_a_grid_beside_a_mesh_of_its_name_is_left_alone(folder, tmp_path):
    place = folder / "02691156" / "object0"
    trimesh.creation.box((1, 1, 1)).export(place / "model.obj")
    assert synthetic._files_of(str(place)) == [str(place / "model.obj")]
