"""The R2N2 reader on files made here, on four real objects if present, and on the command line."""
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
import torch
from command import CAR, TINY, call
from datasets import R2N2
from errors import InputError
from flat import bars, overlap
from images import load_image
from making.grids import SURFACES
from PIL import Image
from readers import r2n2_files
from readers.writers import binvox

ROWS = np.stack([np.arange(24) * 14.9, np.full(24, 27.0), np.zeros(24), np.linspace(.65, .95, 24), np.full(24, 25)], 1)


def write_object(folder, name, seed=0, class_id=CAR, scale=.8, rows=ROWS):
    """Write an object; returns (rgba (24, 137, 137, 4), grid (32, 32, 32))."""
    rng = np.random.default_rng(seed)
    here = folder / r2n2_files.RENDERING / class_id / name / "rendering"
    here.mkdir(parents=True)
    rgba = rng.integers(0, 256, (24, 137, 137, 4), dtype=np.uint8)
    rgba[..., 3] *= rng.random((24, 137, 137)) < .6
    rgba[..., :3] *= rgba[..., 3:] > 0  # as released: no colour where nothing is
    for i, picture in enumerate(rgba):
        Image.fromarray(picture).save(here / f"{i:02d}.png", compress_level=1)
    np.savetxt(here / "rendering_metadata.txt", rows, "%.12g")
    grid = rng.random((32, 32, 32)) < .3
    there = folder / r2n2_files.VOX / class_id / name
    there.mkdir(parents=True)
    (there / "model.binvox").write_bytes(binvox(grid, (-.1, -.2, -.3), scale))
    return rgba, grid


def read(folder, split="test", say=None, class_id=CAR, **more):
    return R2N2(str(folder), [class_id], split, str(folder / "cache"), say=say or (lambda line: None), **more)


@pytest.fixture
def folder(tmp_path):
    write_object(tmp_path, "a")
    return tmp_path


# ---- values -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("side", [64, 128])
def test_values(tmp_path, side):
    """Images equal the result of `load_image` for the same file, so pictures for reconstruct look as in training."""
    rgba, grid = write_object(tmp_path, "a", scale=.7)
    data = read(tmp_path, img_size=side)
    batch = data.gather(np.arange(24))
    assert len(data) == 24 and data.num_objects == 1 and batch.objects.tolist() == [0] * 24
    path = tmp_path / r2n2_files.RENDERING / CAR / "a" / "rendering"
    for i in (0, 7, 23):
        np.testing.assert_allclose(batch.images[i], load_image(str(path / f"{i:02d}.png"), side), atol=.51 / 255)
    assert torch.equal(batch.silhouettes, batch.images[:, 3])
    np.testing.assert_allclose(batch.cameras, ROWS[:, [0, 1, 3]] * (1, 1, 1.75), rtol=1e-6)
    assert np.array_equal(data.voxels(np.array([0]))[0], grid) and data.grid_scales([0]).tolist() == [.7]
    assert (path / "renderings.txt").exists() is False, "the list of names may be absent"


@pytest.mark.parametrize("azimuth, narrow, wide", [
    (0, 0, 0), (14.99, 0, 0), (15, 1, 0), (359.9, 23, 6), (360, 0, 0), (-1, 23, 6), (725, 0, 0), (100, 6, 2)])
def test_pose_bins_by_hand(tmp_path, azimuth, narrow, wide):
    write_object(tmp_path, "a", rows=ROWS * (0, 1, 1, 1, 1) + (azimuth, 0, 0, 0, 0))
    assert read(tmp_path).all_poses().tolist() == [narrow] * 24 and read(tmp_path).num_poses == 24
    data = read(tmp_path, wAzimuth=50)  # the eighth bin is narrower
    assert data.all_poses()[0] == wide + (azimuth in (359.9, -1)) and data.num_poses == 8


def test_a_meshs_iou_is_taken_in_the_grid_of_its_object(tmp_path):
    """Two objects of the same shape and different sizes: a mesh in object units fits only the grid of its object."""
    vertices, faces = (torch.tensor(part) for part in bars())
    vertices = R2N2.place(vertices.float())
    vertices = (vertices - (vertices.amin(0) + vertices.amax(0)) / 2) / (vertices.amax(0) - vertices.amin(0)).max()
    grid = R2N2.voxelize(vertices[None], faces)[0]
    assert float(grid.float().mean()) > .02 and bool(grid[0].any() and grid[31].any() or grid[:, :, 31].any())
    for name, scale in (("a", .9), ("b", .6)):
        write_object(tmp_path, name)
        path = tmp_path / r2n2_files.VOX / CAR / name / "model.binvox"
        path.write_bytes(binvox(grid.numpy(), (0, 0, 0), scale))
    (tmp_path / "splits.json").write_text(json.dumps({CAR: {"test": ["a", "b"]}}))
    data = read(tmp_path)
    meshes = torch.stack([vertices * .9, vertices * .6])
    assert torch.equal(data.voxelize_as(torch.tensor([0, 1]), meshes, faces), grid.expand(2, -1, -1, -1))
    swapped = data.voxelize_as(torch.tensor([1, 0]), meshes, faces)
    assert all(overlap(a.numpy(), grid.numpy()) < .7 for a in swapped)
    for o, (cubes, sides) in enumerate(data.voxel_meshes(np.array([0, 1]))):
        assert torch.equal(data.voxelize_as([o], cubes, sides)[0], grid)
        assert float((cubes.amax((0, 1)) - cubes.amin((0, 1))).max()) == pytest.approx((.9, .6)[o], rel=1e-6)


# ---- splits -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("count, expected", [(1, ("0", "0", "0")), (2, ("0", "1", "1")), (3, ("0", "1", "2")),
                                             (10, ("0123456", "7", "89"))])
def test_the_split_where_none_is_given(folder, count, expected):
    for i in range(count):
        target = folder / "made" / r2n2_files.RENDERING / CAR / str(i)
        (target / "rendering").mkdir(parents=True)
    (folder / "made" / r2n2_files.VOX).mkdir()
    places, said = r2n2_files.folders_of(str(folder / "made"), ""), []
    for split, names in zip(r2n2_files.SPLITS, expected):
        found, _ = r2n2_files.objects_to_read(str(folder / "made"), places, CAR, split, None, False, said.append)
        assert found == list(names)
    assert f"of {count} objects" in said[0] and "no --split_file" in said[0]


def test_split_files_in_both_forms(tmp_path):
    for k, name in enumerate("abc"):
        write_object(tmp_path, name, k)
    parts = {"train": ["c"], "val": ["b"], "test": ["a"]}
    for form in ({CAR: parts}, [{"taxonomy_id": CAR, "taxonomy_name": "car", **parts}]):
        path = tmp_path / "given.json"
        path.write_text(json.dumps(form))
        assert [read(tmp_path, s, split_file=str(path)).names for s in ("train", "val", "test")] == \
            [[["c"]], [["b"]], [["a"]]]
    parts["test"] += ["gone", "lost"]
    path.write_text(json.dumps({CAR: parts}))
    with pytest.raises(InputError, match=r"given.json names 2 of 3 objects of .* test that .* lacks \(gone, ...\); --s"):
        read(tmp_path, split_file=str(path))
    said = []
    data = read(tmp_path, say=said.append, split_file=str(path), skip_bad=True)
    assert data.names == [["a"]] and len(data.left_out) == 2 and f"{path} names it" in data.left_out[0]
    assert "left out" in said[0] and "names 2 of 3" in said[0]
    path.write_text(json.dumps({CAR: {"train": ["c", "b"], "val": ["b"], "test": ["a"]}}))
    said = []
    for split in ("train", "val", "test"):
        read(tmp_path, split, say=said.append, split_file=str(path))
    assert said == [f"note: {path} lists 1 of 1 objects of {CAR} val in train, too (b): figures of val include them"]


# ---- archives ---------------------------------------------------------------------------------------

def pack(folder, target):
    """Pack the two archives as the authors do, into an empty folder."""
    target.mkdir()
    for name in (r2n2_files.RENDERING, r2n2_files.VOX):
        with tarfile.open(target / f"{name}.tgz", "w:gz", compresslevel=1) as archive:
            archive.add(folder / name, name)
    return target


def test_archives_are_read_like_folders_and_unpacked_once(folder):
    packed, said = pack(folder, folder / "packed"), []
    assert R2N2.held(str(packed)) and R2N2.available(str(packed), {"cache_dir": str(packed / "cache")}) == [CAR]
    plain, data = read(folder).gather(range(24)), read(packed, say=said.append)
    for field in ("images", "cameras", "poses"):
        assert torch.equal(getattr(plain, field), getattr(data.gather(range(24)), field))
    assert not [line for line in said if "unpacking" in line], "`available` has done so"
    assert not list(packed.rglob("*.part"))
    shutil.rmtree(packed / "cache")
    read(packed, say=said.append)
    assert sum("unpacking" in line for line in said) == 2


def tgz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type = kind
            if kind == tarfile.SYMTYPE:
                member.linkname = content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ["../evil.png", "/tmp/evil.png", "ShapeNetRendering/../../evil.png"])
def test_an_archive_with_a_path_out_of_its_folder(folder, name):
    packed = pack(folder, folder / "packed")
    tgz(packed / "ShapeNetRendering.tgz", [(name, tarfile.REGTYPE, b"x")])
    with pytest.raises(InputError, match="ShapeNetRendering.tgz holds .*evil.png', a path out of its folder"):
        read(packed)
    assert not list(folder.rglob("evil.png")) and not list(packed.rglob("*.part"))


def test_links_of_an_archive_are_not_followed(folder):
    packed = pack(folder, folder / "packed")
    tgz(packed / "ShapeNetVox32.tgz", [("ShapeNetVox32/02958343/a/model.binvox", tarfile.SYMTYPE, "/etc/passwd")])
    with pytest.raises(InputError, match="holds no files of the form"):
        read(packed)


@pytest.mark.parametrize("change", ["cut", "garbled", "text", "empty"])
def test_damaged_archives(folder, change):
    packed = pack(folder, folder / "packed")
    path = packed / "ShapeNetRendering.tgz"
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:len(whole) // 2], "text": b"no archive", "empty": b"",
                      "garbled": whole[:5000] + bytes(4000) + whole[9000:]}[change])
    with pytest.raises(InputError, match="ShapeNetRendering.tgz .*(damaged or not|no files)|cannot unpack"):
        read(packed)
    assert not list(packed.rglob("*.part"))


# ---- refusals ---------------------------------------------------------------------------------------

def broken_file(folder, case):
    here = folder / r2n2_files.RENDERING / CAR / "b" / "rendering"
    grid = folder / r2n2_files.VOX / CAR / "b" / "model.binvox"
    rows, whole = here / "rendering_metadata.txt", grid.read_bytes()
    head, data = whole.split(b"data\n", 1)
    if case == "no metadata":
        rows.unlink()
    elif case == "short metadata":
        np.savetxt(rows, ROWS[:23])
    elif case == "four columns":
        np.savetxt(rows, ROWS[:, :4])
    elif case == "nan":
        np.savetxt(rows, np.where(np.arange(5) == 1, np.nan, ROWS))
    elif case == "inside":
        np.savetxt(rows, ROWS * (1, 1, 1, .1, 1))
    elif case == "words":
        rows.write_text("azimuth elevation\n" * 24)
    elif case == "23 pictures":
        (here / "23.png").unlink()
    elif case == "another size":
        Image.new("RGBA", (64, 64)).save(here / "05.png")
    elif case == "no alpha":
        Image.new("RGB", (137, 137)).save(here / "05.png")
    elif case == "no picture":
        (here / "05.png").write_bytes(b"no picture")
    elif case == "no grid":
        grid.unlink()
    elif case == "cut short":
        grid.write_bytes(whole[:-20])
    elif case == "overflows":
        grid.write_bytes(whole + b"\1\377")
    elif case == "another dim":
        grid.write_bytes(binvox(np.ones((16, 16, 16), bool), (0, 0, 0), 1))
    elif case == "not binvox":
        grid.write_bytes(data)


BROKEN = {"no metadata": "there is no .*rendering_metadata.txt", "short metadata": "has 23 views, but 24 are needed",
          "four columns": "has 4 numbers in row 0", "nan": "row 0: azimuth 0, elevation nan",
          "inside": "row 0.*distance ratio 0.065.*outside of the object", "words": "must hold numbers, one row per view",
          "23 pictures": "there is no .*23.png",
          "another size": "05.png must be RGBA of 137x137 pixels, got RGBA of 64x64",
          "no alpha": "05.png must be RGBA of 137x137 pixels, got RGB of", "no picture": "05.png is not a PNG",
          "no grid": "there is no .*model.binvox", "cut short": "model.binvox is cut short",
          "overflows": "model.binvox overflows", "another dim": "has dim 16 16 16; expected 32 32 32",
          "not binvox": "is not a binvox file"}


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    for k, name in enumerate("abc"):
        write_object(folder, name, k)
    (folder / "splits.json").write_text(json.dumps({CAR: {"test": ["a", "b", "c"]}}))
    return folder


@pytest.mark.parametrize("case", BROKEN)
def test_broken_objects_are_named_or_left_out(three, tmp_path, case):
    folder = tmp_path / "files"
    shutil.copytree(three, folder)
    broken_file(folder, case)
    with pytest.raises(InputError, match=BROKEN[case]):
        read(folder)
    said = []
    data = read(folder, say=said.append, skip_bad=True)
    assert data.names == [["a", "c"]] and len(data) == 48 and data.all_objects().unique().tolist() == [0, 1]
    assert "(1)" in said[0] and f"{CAR}/b" in said[1] and data.left_out == [said[1].strip()]
    plain = read(three)
    assert torch.equal(data.gather([24]).images, plain.gather([48]).images)
    assert torch.equal(data.voxels(np.array([1])), plain.voxels(np.array([2])))


def test_the_command_line_refuses_or_leaves_out(three, tmp_path, template, refused):
    folder = tmp_path / "files"
    shutil.copytree(three, folder)
    broken_file(folder, "cut short")
    (folder / "cache").mkdir(exist_ok=True)
    splits = {split: ["a", "b", "c"] for split in ("train", "val", "test")}
    (folder / "splits.json").write_text(json.dumps({CAR: splits}))
    command = ("--mode=train", "--dataset=R2N2", "--data_dir", folder, "--class_ids", CAR, "--ckpt_dir", folder / "run",
               "--cache_dir", folder / "cache", "--obj_dir", template, *TINY, "--n_iters=1", "--trainViews=2")
    assert "02958343/b/model.binvox is cut short: its runs are" in refused(*command)
    assert call(*command, "--skip_bad") == 0
    kept = json.loads((folder / "run" / "options.json").read_text())
    assert kept["count_left_out"] == 2 and all("b/model.binvox is cut short" in line for line in
                                               sum(kept["left_out"].values(), []))


def test_a_split_file_is_found_from_any_folder(three, tmp_path, template, monkeypatch, capsys):
    from engine import runs
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.json").write_text(json.dumps({CAR: {"train": ["a"], "val": ["b"], "test": ["c"]}}))
    command = ("--mode=train", "--dataset=R2N2", "--data_dir", three, "--class_ids", CAR, "--ckpt_dir", "run",
               "--cache_dir", "cache", "--obj_dir", template, *TINY, "--split_file=given.json")
    assert call(*command, "--n_iters=1") == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert call("--mode=evaluation", "--ckpt_dir", tmp_path / "run", "--device=cpu") == 0
    assert not list((tmp_path / "elsewhere").iterdir()), "the cache is where the run has it"
    monkeypatch.chdir(tmp_path)
    assert call(*command, "--n_iters=2", "--resume") == 0
    runs._same_options("run", {"split_file": "given.json"}, {"split_file": str(tmp_path / "given.json")}, {})
    with pytest.raises(InputError, match="trained with --split_file"):
        runs._same_options("run", {"split_file": "given.json"}, {"split_file": str(tmp_path / "other.json")}, {})


def test_folders_that_are_not_there(folder):
    shutil.move(folder / r2n2_files.VOX, folder / "elsewhere")
    with pytest.raises(InputError, match="neither ShapeNetVox32 nor ShapeNetVox32.tgz"):
        read(folder)
    shutil.move(folder / "elsewhere", folder / r2n2_files.VOX)
    with pytest.raises(InputError, match=f"no objects of class 03001627 .*classes there: {CAR}"):
        read(folder, class_id="03001627")
    with pytest.raises(InputError, match="--trainViews=25: objects of R2N2 have 24 views"):
        read(folder, "train", trainViews=25)
    assert len(read(folder, "train", trainViews=3)) == 3


# ---- real objects -----------------------------------------------------------------------------------

@pytest.mark.parametrize("class_id, least", [("02958343", .85), ("02691156", .70), ("03001627", .88),
                                             ("03636649", .63)])
def test_real_silhouettes_are_covered_by_the_real_voxels(shared_data, tmp_path, class_id, least):
    """Compare silhouettes of the smoothed surface of each object's grid with the alpha of the files at 137 pixels."""
    here = shared_data / "r2n2"
    data = R2N2(str(here), [class_id], "test", str(tmp_path), say=lambda line: None)
    pictures = sorted((here / r2n2_files.RENDERING / class_id).rglob("*.png"))
    alphas = np.stack([np.asarray(Image.open(path))[..., 3] for path in pictures]) > 127
    vertices, faces = SURFACES["smooth"](data.voxels(np.array([0]))[0].numpy())
    vertices = torch.tensor(np.ascontiguousarray(vertices / 32 - .5)).float() * float(data.grid_scales([0]))
    cameras, faces = data.gather(range(24)).cameras, torch.tensor(np.ascontiguousarray(faces)).long()

    def cover(cameras):
        screens = data.project(vertices.expand(len(cameras), -1, -1), cameras)
        shown = data.renderer(137).render_silhouettes(screens, faces).numpy() > .5
        return np.mean([overlap(a, b) for a, b in zip(shown, alphas)])
    assert cover(cameras) >= least
    if class_id != "03636649":  # a lamp looks the same from all sides, the others from left and right
        assert cover(data.turned(cameras, .25)) < least - .1


# ---- the command line -------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "r2n2"
    assert call("--mode=make_dataset", "--layout=R2N2", "--data_dir", folder, "--class_ids", CAR, "--n_train=3",
                "--n_val=2", "--n_test=2") == 0
    return folder


def test_every_mode(made, tmp_path, template):
    run, out = tmp_path / "run", ("--sample_dir", tmp_path / "out")
    given = ("--dataset=R2N2", "--data_dir", made)
    assert call("--mode=train", *given, "--ckpt_dir", run, *TINY, "--n_iters=2", "--ckpt_step=2",
                "--obj_dir", template) == 0
    assert call("--mode=trainCVPR19", *given, "--ckpt_dir", tmp_path / "vpl", *TINY, "--n_iters=1", "--trainViews=2",
                "--obj_dir", template) == 0
    assert call("--mode=evaluation", "--ckpt_dir", run, "--device=cpu") == 0
    found = json.loads((run / "evaluation_test_last.json").read_text())
    assert 0 < found["iou"][CAR] < 1 and found["protocol"]["dataset"] == "R2N2"
    assert call("--mode=reconstruct", "--ckpt_dir", run, "--n_images=1", *out, "--device=cpu") == 0
    picture = made / r2n2_files.RENDERING / CAR / "test_00000" / "rendering" / "03.png"
    assert call("--mode=interpolation", "--ckpt_dir", run, "--load_im", picture, "--load_im1", picture, *out,
                "--device=cpu", "--steps=2") == 0
    assert call("--mode=MMD", "--ckpt_dir", run, "--wAzimuth=180", *out, "--device=cpu") == 0
    assert call("--mode=t_SNE", "--ckpt_dir", run, "--perplexity=5", *out, "--device=cpu") == 0
    assert call("--mode=compare", "--runs", run, *out, "--device=cpu") == 0
    assert {"compare.png", "interpolation.png"} <= {path.name for path in (tmp_path / "out").iterdir()}


@pytest.fixture
def chiral(tmp_path):
    """An object without symmetry in this layout, and a function that returns check_data's report."""
    vertices, faces = (torch.tensor(part) for part in bars())
    mesh = vertices.float(), faces, torch.full((len(faces), 3), .7)
    R2N2.writer(str(tmp_path / "files"), CAR, {"train": 1, "val": 1, "test": 1}, Same(mesh), None, 0, "")

    def check():
        return call("--mode=check_data", "--dataset=R2N2", "--data_dir", tmp_path / "files", "--sample_dir",
                    tmp_path / "out", "--cache_dir", tmp_path / "cache")
    return tmp_path / "files", check


class Same:
    def __init__(self, mesh):
        self.mesh = mesh

    def __call__(self, split, i):
        return self.mesh


def test_check_data_finds_mirrored_and_turned_cameras(chiral, capsys):
    folder, check = chiral
    assert check() == 0 and "overlap by 0.9" in capsys.readouterr().out
    for change in (lambda rows: rows * (-1, 1, 1, 1, 1), lambda rows: rows + (90, 0, 0, 0, 0)):
        for path in folder.rglob("rendering_metadata.txt"):
            kept = np.loadtxt(path)
            np.savetxt(path, change(kept), "%.9g")
        assert check() == 1 and "an axis of the voxels or of the camera is not as published" in capsys.readouterr().out
        for path in folder.rglob("rendering_metadata.txt"):
            rows = np.loadtxt(path)
            np.savetxt(path, rows * (-1, 1, 1, 1, 1) if rows[0, 0] < 0 else rows - (90, 0, 0, 0, 0), "%.9g")
    assert check() == 0


def test_real_objects_pass_check_data(shared_data, tmp_path, capsys):
    """One object per class is enough."""
    assert call("--mode=check_data", "--dataset=R2N2", "--data_dir", shared_data / "r2n2", "--sample_dir", tmp_path,
                "--cache_dir", tmp_path / "cache") == 0
    assert "everything found is in order" in capsys.readouterr().out
