"""A chiral mesh, written in each published layout and read back. Masks, cameras and voxels are compared with
formulas in this file."""
import inspect
import io
import itertools
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
import torch
import trimesh
from datasets import DATASETS, NIPS17
from errors import InputError
from flat import bars, covered, eye_at, overlap, pinhole
from making import workers
from scoring import score
from PIL import Image
from readers.base import Dataset
from voxelization import reference


CLASS = "02958343"
VERTICES, FACES = bars()
OPEN = {"CVPR18": {}, "NIPS17": {"img_size": 128}, "Pascal3D": {"img_size": 64}, "R2N2": {"img_size": 64}}


@pytest.mark.parametrize("layout", DATASETS)
def test_what_a_dataset_has_to_give(layout):
    """If a dataset lacks a method, opening it raises an error that names the method."""
    assert not inspect.isabstract(DATASETS[layout])
    hole = type("Hole", (DATASETS[layout],), {"project": classmethod(Dataset.project.__func__)})
    with pytest.raises(TypeError, match="abstract method '?project"):
        hole("data", [CLASS], "train")


def placed(layout):
    """The mesh as it lies in the renderer's frame of each dataset."""
    x, y, z = VERTICES.T
    if layout == "CVPR18":
        return np.stack([x, y, -z], 1)
    if layout == "NIPS17":  # (x, y, z) -> (z, y, -x), as released; z negated, because the camera mirrors
        points = np.stack([z, y, x], 1)
        return points * min(1, .5 / np.linalg.norm(points, axis=1).max())
    points = np.stack([z, y, -x], 1)
    if layout == "R2N2":  # centred, the diagonal of its box 1
        low, high = points.min(0), points.max(0)
        return (points - (low + high) / 2) / np.linalg.norm(high - low)
    return points / 1.3 / np.linalg.norm(points, axis=1).max()


def seen(layout, points, camera):
    """NDC of points in the renderer's frame."""
    if layout == "CVPR18":
        return pinhole(points, eye_at(2.732, 30, -15 * camera), np.tan(np.radians(15)))
    if layout == "NIPS17":
        return pinhole(points, eye_at(camera[2], camera[1], camera[0]), np.tan(np.radians(14.9314)))
    if layout == "R2N2":  # a right-handed viewer
        azimuth, elevation, distance = np.radians(camera[0]), np.radians(camera[1]), camera[2]
        eye = distance * np.array([np.cos(elevation) * np.cos(azimuth), np.sin(elevation),
                                   np.cos(elevation) * np.sin(azimuth)])
        back = eye / distance
        right = np.cross([0, 1, 0], back)
        right /= np.linalg.norm(right)
        p = (points - eye) @ np.stack([right, np.cross(back, right), back]).T
        return 149.84375 / 68.5 * p[:, :2] / -p[:, 2:]
    return points @ (np.diag([-1, 1, 1]) @ camera).T[:, :2]


def in_the_axes(layout, grid):
    if layout == "CVPR18":
        return np.swapaxes(grid, 0, 1)[:, :, ::-1]
    if layout == "NIPS17":
        return np.swapaxes(grid, 0, 2)[::-1]
    if layout == "R2N2":
        return grid
    return np.swapaxes(grid, 1, 2)[::-1, ::-1, ::-1]


class Same:
    """Makes the same mesh every time, in any process."""

    def __init__(self, mesh):
        self.mesh = mesh

    def __call__(self, split, i):
        return self.mesh


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    mesh = torch.tensor(VERTICES).float(), torch.tensor(FACES), torch.full((len(FACES), 3), .7)
    for layout, dataset in DATASETS.items():
        made[layout] = tmp_path_factory.mktemp(layout)
        sizes = {split: n for split, n in (("train", 4), ("val", 2), ("test", 1))
                 if split in dataset.splits}
        dataset.writer(str(made[layout]), CLASS, sizes, Same(mesh), None, 0, layout)
    return made


def read(folders, layout, split="val", **more):
    return DATASETS[layout](str(folders[layout]), [CLASS], split, str(folders[layout] / "cache"), **OPEN[layout],
                            **more)


def files_of_object(folders, layout):
    """(masks (v, S, S) bool, cameras (v, ...), voxels) of the first training object, read without the
    dataset's reader."""
    folder = folders[layout]
    if layout == "CVPR18":
        images, voxels = (np.load(folder / f"{CLASS}_train_{kind}.npz")["arr_0"] for kind in ("images", "voxels"))
        return images[0, :, 3] >= 127, np.arange(24), voxels[0]
    if layout == "NIPS17":
        name = json.loads((folder / "splits.json").read_text())[CLASS]["train"][0]
        here = folder / "renders" / CLASS / name
        depths = np.stack([np.asarray(Image.open(here / f"depth_{i}.png")) for i in range(20)])
        assert depths.dtype == np.uint16 and depths.shape == (20, 224, 224)
        volume = scipy.io.loadmat(folder / "voxels/modelVoxels32" / CLASS / f"{name}.mat")["Volume"]
        return depths >> 8 < 250, np.loadtxt(here / "view.txt")[:, [0, 1, 3]], volume.astype(bool)
    if layout == "R2N2":
        here = folder / "ShapeNetRendering" / CLASS / "train_00000" / "rendering"
        rows = np.loadtxt(here / "rendering_metadata.txt")
        assert rows.shape == (24, 5) and (rows[:, 4] == 25).all() and (rows[:, 2] == 0).all()
        alphas = np.stack([np.asarray(Image.open(here / f"{i:02d}.png"))[..., 3] for i in range(24)])
        head, data = (folder / "ShapeNetVox32" / CLASS / "train_00000/model.binvox").read_bytes().split(b"data\n", 1)
        assert head.startswith(b"#binvox 1\ndim 32 32 32\n") and alphas.shape == (24, 137, 137)
        values, counts = np.frombuffer(data, np.uint8).reshape(-1, 2).T
        grid = np.repeat(values, counts).reshape(32, 32, 32).transpose(0, 2, 1).astype(bool)  # stored [x][z][y]
        return alphas > 127, rows[:, [0, 1, 3]] * (1, 1, 1.75), grid
    with np.load(folder / "car_train.npz", allow_pickle=True) as file:
        assert file["images"].dtype == object and file["images_ref"].shape[1:] == (224, 224, 4)
        return file["images_ref"][..., 3] > 127, file["rotation_matrices"], file["voxels"][0]


@pytest.mark.parametrize("layout", DATASETS)
def test_masks_of_the_files_are_the_projected_mesh(folders, layout):
    masks, cameras, _ = files_of_object(folders, layout)
    points = placed(layout)
    for mask, camera in zip(masks, cameras):
        size = len(mask)
        if layout == "NIPS17":
            wanted = covered(seen(layout, points, camera), FACES, size)
        else:  # four samples a pixel
            fine = covered(seen(layout, points, camera), FACES, 2 * size)
            wanted = fine.reshape(size, 2, size, 2).mean((1, 3)) >= .5
        assert overlap(mask, wanted) >= .97
    wrong = [np.mean([overlap(mask, covered(seen(layout, points * signs, camera), FACES, len(mask)))
                      for mask, camera in zip(masks, cameras)]) for signs in itertools.product((1, -1), repeat=3)]
    assert all(value < .8 for value in wrong[1:]), "a mirrored axis must fail"


@pytest.mark.parametrize("layout", DATASETS)
def test_what_is_read_is_the_mesh_seen_by_the_datasets_camera(folders, layout):
    data = read(folders, layout)
    batch = data.gather(np.arange(len(data)))
    points = torch.tensor(placed(layout)).float()[None].expand(len(data), -1, -1)
    side = {"CVPR18": 64, "NIPS17": 512, "Pascal3D": 256, "R2N2": 256}[layout]
    shown = data.renderer(side).render_silhouettes(data.project(points, batch.cameras), torch.tensor(FACES))
    if layout != "CVPR18":  # resized with anti-aliasing
        shown = torch.nn.functional.avg_pool2d(shown, 4)
    pairs = [(a.numpy(), b.numpy()) for a, b in zip(batch.silhouettes >= .5, shown >= .5)]
    assert np.mean([overlap(*pair) for pair in pairs]) >= .97
    assert np.mean([overlap(a[:, ::-1], b) for a, b in pairs]) < .8


@pytest.mark.parametrize("layout", DATASETS)
def test_voxels_are_those_of_the_published_rule_in_the_datasets_axes(folders, layout):
    corners = placed(layout)
    if layout == "R2N2":  # cells whose centre is in one of the boxes
        corners = corners / np.ptp(corners, axis=0).max() + .5
        centres = (np.stack(np.meshgrid(*[np.arange(32)] * 3, indexing="ij"), -1) + .5) / 32
        wanted = np.any([((centres > box.min((0, 1))) & (centres < box.max((0, 1)))).all(-1)
                         for box in corners[FACES].reshape(4, 12, 3, 3)], 0)
    else:
        corners = (corners + 1) / 2 if layout == "Pascal3D" else corners * 31 / 32 + .5
        wanted = in_the_axes(layout, reference.published(corners[FACES].astype(np.float32), 32).astype(bool))
    _, _, stored = files_of_object(folders, layout)
    assert overlap(stored, wanted) >= .95
    assert np.array_equal(read(folders, layout).voxels(np.array([0]))[0], stored)
    for axes in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            if axes != (0, 1, 2) or flips != (1, 1, 1):
                turned = stored.transpose(axes)[::flips[0], ::flips[1], ::flips[2]]
                assert overlap(turned, wanted) < .8, (axes, flips)


class Oracle:
    """A model that predicts the same mesh for all images."""

    device, options, texture = torch.device("cpu"), {"latent_dim": 3}, None

    def __init__(self, vertices):
        self.vertices = torch.tensor(vertices).float()

    def predict(self, images):
        return SimpleNamespace(vertices=self.vertices.expand(len(images), -1, -1), faces=torch.tensor(FACES),
                               codes=torch.rand(len(images), 3), outward=1)


@pytest.mark.parametrize("layout", DATASETS)
def test_evaluation_of_a_perfect_prediction(folders, layout):
    data, points = read(folders, layout), placed(layout)
    assert score(Oracle(points), data)["iou"][CLASS] >= .95
    for wrong in (points * (1, 1, -1), points * (-1, 1, 1), points * (1, -1, 1), points[:, [1, 0, 2]],
                  points[:, [2, 1, 0]]):
        assert score(Oracle(wrong), data)["iou"][CLASS] < .8


@pytest.mark.parametrize("layout", DATASETS)
def test_meshes_for_people_look_as_the_files_meshes(folders, layout):
    """The predicted mesh in the people frame equals the original mesh up to a rotation about y, a scale and a
    shift."""
    data = DATASETS[layout]
    back = data.flip_handedness(torch.tensor(placed(layout))).numpy()

    def framed(points):
        low, high = points.min(0), points.max(0)
        return (points - (low + high) / 2) / np.linalg.norm(high - low)
    turns = [VERTICES @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]).T
             for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    assert min(np.abs(framed(back) - framed(turned)).max() for turned in turns) < 1e-6
    predicted = FACES[:, ::-1].copy() if data.mirrors else FACES  # outward in the renderer's frame
    a, b, c = back[data.people_faces(torch.tensor(predicted)).numpy()].swapaxes(0, 1)
    normals, middle = np.cross(b - a, c - a), (a + b + c) / 3
    boxes = middle.reshape(4, 12, 3)
    assert ((normals.reshape(4, 12, 3) * (boxes - boxes.mean(1, keepdims=True))).sum(2) > 0).all(), "outward"


@pytest.mark.parametrize("layout", DATASETS)
def test_voxel_mesh_is_the_inverse_of_voxelize(folders, layout):
    data = DATASETS[layout]
    grid = torch.tensor(np.random.default_rng(0).random((32, 32, 32)) < .01)
    vertices, faces = data.voxel_mesh(grid)
    cubes = vertices[0].reshape(-1, 4, 3)
    shrunk = data.from_grid(data.to_grid(vertices))
    torch.testing.assert_close(shrunk, vertices, atol=1e-6, rtol=0)
    again = data.voxelize(vertices * .999, faces)[0]
    assert cubes.shape[1:] == (4, 3) and bool((again & grid).sum() == grid.sum())
    place = torch.zeros(32, 32, 32, dtype=torch.bool)
    place[5, 11, 26] = True
    assert torch.equal(data.mesh_axes(data.grid_axes(place)), place) and torch.equal(
        data.grid_axes(place), torch.tensor(in_the_axes(layout, place.numpy()).copy()))


@pytest.mark.parametrize("layout", DATASETS)
def test_a_turntable_turns_about_the_upright_axis(layout):
    data = DATASETS[layout]
    cameras = data.turntable(4)
    post = torch.tensor([[[0, -.3, 0], [0, .3, 0], [.2, 0, 0]]]).expand(4, -1, -1)
    ndc = data.project(post, cameras)[..., :2]
    torch.testing.assert_close(ndc[:, :2], ndc[:1, :2].expand(4, -1, -1), atol=1e-5, rtol=0)
    assert float(ndc[0, 1, 1] - ndc[0, 0, 1]) > .2, "up is up"
    assert float((ndc[1:, 2] - ndc[0, 2]).norm(dim=1).min()) > .1
    quarter = data.project(post[:1], data.turned(cameras[:1], .25))[..., :2]
    apart = (ndc[:, 2] - quarter[0, 2]).norm(dim=1)
    assert float(apart.min()) < 1e-4 and float(apart[0]) > .1
    whole = data.project(post[:1], data.turned(cameras[:1], 1.))
    torch.testing.assert_close(whole, data.project(post[:1], cameras[:1]), atol=1e-5, rtol=0)


def test_other_views_are_other_images(folders):
    for layout in ("NIPS17", "Pascal3D", "R2N2"):
        data = read(folders, layout, "train")
        batch = data.gather(np.arange(4))
        torch.manual_seed(0)
        cameras, poses = data.other_views(batch.cameras, batch.poses)
        found = [int((batch.cameras.flatten(1) == camera.flatten()).all(1).nonzero()[0]) for camera in cameras]
        assert sorted(found) == [0, 1, 2, 3] and all(k != i for i, k in enumerate(found))
        assert torch.equal(poses, batch.poses[torch.tensor(found)])


class Several(Same):
    """Makes different meshes and counts its calls; can be told to raise an error or to stop at an object."""
    stop, error, made = None, KeyboardInterrupt, 0

    def __call__(self, split, i):
        if (split, i) == Several.stop:
            raise Several.error("in the middle")
        Several.made += 1
        vertices, *rest = self.mesh
        return vertices * torch.tensor([1, 1 - .1 * i, 1 - (.2 if split == "val" else 0)]), *rest


def files_in(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("layout", DATASETS)
def test_objects_are_made_once_in_any_number_of_processes(layout, tmp_path, monkeypatch):
    """An interrupted class continues at the next object, a refused one leaves no partial files, and the files are equal
    bit for bit."""
    mesh = torch.tensor(VERTICES).float(), torch.tensor(FACES), torch.full((len(FACES), 3), .7)
    make, sizes = Several(mesh), {split: n for split, n in (("train", 3), ("val", 1)) if split in DATASETS[layout].splits}
    monkeypatch.setattr(Several, "made", 0)

    def write(name, class_id=CLASS, workers=1, sizes=sizes):
        DATASETS[layout].writer(str(tmp_path / name), class_id, sizes, make, 1, 0, layout, workers)
        return files_in(tmp_path / name)
    whole = write("whole")
    assert Several.made == 4
    for stop, made in ((("train", 2), 2), (("val", 0), 1)):
        monkeypatch.setattr(Several, "stop", stop)
        monkeypatch.setattr(Several, "made", 0)
        with pytest.raises(KeyboardInterrupt):
            write("stopped")
        assert Several.made == made and list((tmp_path / "stopped").glob("*.part"))
    monkeypatch.setattr(Several, "stop", None)
    assert write("stopped") == whole and Several.made == 2
    monkeypatch.setattr(Several, "stop", ("train", 1))
    monkeypatch.setattr(Several, "error", InputError)
    with pytest.raises(InputError):
        write("refused")
    assert not list((tmp_path / "refused").rglob("*.part")) and not (tmp_path / "refused" / "splits.json").exists()
    monkeypatch.setattr(Several, "stop", None)
    write("refused", "03001627", sizes={"train": 1})
    write("refused", sizes={"train": 1})
    assert DATASETS[layout].available(str(tmp_path / "refused")) == [CLASS, "03001627"]
    if layout in ("NIPS17", "Pascal3D"):  # the other two work in the same ways
        monkeypatch.setattr(workers, "PER_WORKER", 1)
        assert write("several", workers=2) == whole


@pytest.mark.parametrize("layout", DATASETS)
def test_points_lie_on_the_surface_where_predicted_vertices_are(folders, layout):
    points = read(folders, layout, "train").points(0)
    assert len(points) == 4 and not np.array_equal(points[0], points[1]), "drawn anew for each object"
    assert points[0].shape == (10000, 6) and points[0].dtype == np.float16
    some, corners = points[2][:400].astype(float), placed(layout)[FACES]

    def distances(at):
        nearest = trimesh.triangles.closest_point(np.tile(corners, (400, 1, 1)), np.repeat(at, len(corners), 0))
        return np.linalg.norm(nearest.reshape(400, -1, 3) - at[:, None], axis=2)
    found = distances(some[:, :3])
    assert found.min(1).max() < 5e-4, "a digit of float16"
    for signs in itertools.product((1, -1), repeat=3):
        if signs != (1, 1, 1):
            assert distances(some[:, :3] * signs).min(1).mean() > .02
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    alike = np.abs((normals[None] * some[:, None, 3:]).sum(2))
    assert (np.where(found < 1e-3, alike, 0).max(1) > .999).all()


def test_points_go_with_their_objects(tmp_path):
    """Also for Pascal3D, whose training objects are in two files, with a split file, and with broken files left out."""
    mesh = torch.tensor(VERTICES).float(), torch.tensor(FACES), torch.full((len(FACES), 3), .7)
    heights = {}
    for layout in DATASETS:
        DATASETS[layout].writer(str(tmp_path / layout), CLASS, {"train": 4, "val": 1}, Several(mesh), 1, 0, "")
        data = DATASETS[layout](str(tmp_path / layout), [CLASS], "train", str(tmp_path / "cache"), trainViews=1,
                                **OPEN[layout])
        sides = [np.ptp(np.asarray(data.points(0)[i])[:, :3].astype(float), axis=0) for i in range(4)]
        heights[layout] = np.array([s[1] / s.max() for s in sides])
        assert (np.diff(heights[layout]) < -.03).all()
    for layout in ("NIPS17", "R2N2"):
        chosen = {CLASS: {"train": ["train_00003", "train_00001"]}}
        (tmp_path / "some.json").write_text(json.dumps(chosen))
        more = {**OPEN[layout], "trainViews": 1, "split_file": str(tmp_path / "some.json")}
        data = DATASETS[layout](str(tmp_path / layout), [CLASS], "train", str(tmp_path / "cache"), **more)
        for i, k in enumerate((3, 1)):
            side = np.ptp(np.asarray(data.points(0)[i])[:, :3].astype(float), axis=0)
            assert side[1] / side.max() == pytest.approx(heights[layout][k])
        chosen[CLASS]["train"] = ["val_00000"]
        (tmp_path / "some.json").write_text(json.dumps(chosen))
        said = []
        data = DATASETS[layout](str(tmp_path / layout), [CLASS], "train", str(tmp_path / "cache"), **more, say=said.append)
        assert data.points(0) is None and "does not list val_00000 in train" in said[-1]


@pytest.mark.parametrize("points, told", [
    (np.zeros((2, 10000, 6), np.float32), r"must be float16 of shape \(2, 10000, 6\).*got float32"),
    (np.zeros((1, 10000, 6), np.float16), r"object, got float16 \(1, 10000, 6\)"), (np.array([None]), "Python objects"),
    (np.full((2, 10000, 6), np.nan, np.float16), "object 0 must have finite points"),
    (np.concatenate([np.full((2, 10000, 3), .5), np.tile([0, 0, 1.], (2, 10000, 1))], 2).astype(np.float16), "object 0")])
def test_points_that_are_none_are_refused(folders, tmp_path, points, told):
    folder = shutil.copytree(folders["CVPR18"], tmp_path / "set", ignore=shutil.ignore_patterns("cache"))
    np.savez(folder / f"{CLASS}_val_points.npz", points)
    data = DATASETS["CVPR18"](str(folder), [CLASS], "val", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=f"{folder}/{CLASS}_val_points.npz.* {told}"):
        data.points(0)
    (folder / f"{CLASS}_val_points.npz").unlink()
    assert data.points(0) is None


@pytest.mark.parametrize("broken", ["{", "[1]", "[" * 3000, '{"02958343": 3}'])
def test_a_class_is_not_added_to_splits_that_cannot_be_read(tmp_path, broken):
    (tmp_path / "splits.json").write_text(broken)
    with pytest.raises(InputError, match=f"{tmp_path}/splits.json (cannot be read as JSON|must hold)"):
        NIPS17.writer(str(tmp_path), CLASS, {"train": 1}, None, 1, 0, "NIPS17")
    assert [p.name for p in tmp_path.iterdir()] == ["splits.json"] and \
        (tmp_path / "splits.json").read_text() == broken


def test_views_are_a_function_of_the_seed(tmp_path):
    mesh = torch.tensor(VERTICES).float(), torch.tensor(FACES), torch.full((len(FACES), 3), .7)
    views = []
    for k, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(k)
        NIPS17.writer(str(folder), CLASS, {"train": 1}, Same(mesh), 2, seed, "")
        views.append((folder / "renders" / CLASS / "train_00000" / "view.txt").read_bytes())
    assert views[0] == views[1] != views[2]
    rows = np.loadtxt(io.BytesIO(views[0]))
    assert rows.shape == (2, 4) and (rows[:, 3] == 2).all() and (rows[:, 2] == 0).all()


def test_names_of_the_conventions():
    assert [d.mirrors for d in DATASETS.values()] == [True, True, False, False]
    assert NIPS17.viewing_angle == 14.9314
