"""`--mode=evaluation`, `compare` and `make_dataset`: every figure is computed again from its definition."""
import dataclasses
import csv
import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
import voxelization
from command import CAR, PLANE, TINY, call, checkpoint, metrics, process, script
from datasets import CVPR18
from inference import Prediction, load_run
from scoring import score
from PIL import Image
from solids import box

FIGURES = ("iou", "mean_shape_iou", "iou_wrong_object", "mmd", "mmd_shuffled", "view_agreement",
           "own_view", "new_view", "inside_out", "pose_probe", "pose_chance", "pose_degrees", "self_intersecting")
SURFACES = tuple(form.format(name) for name in ("chamfer_l1", "fscore_1", "fscore_2", "normal_consistency")
                 for form in ("{}", "mean_shape_{}", "{}_wrong_object"))


def evaluate(folder, *more):
    assert call("--mode=evaluation", "--ckpt_dir", folder, "--device=cpu", "--threads=1", *more) == 0


def arrays(data, split, class_id=CAR):
    return [np.load(data / f"{class_id}_{split}_{kind}.npz")["arr_0"] for kind in ("images", "voxels")]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def grids(folder, images):
    """Voxels of the predictions (N, 24, 32, 32, 32) in the dataset's axes, and codes (N, 24, d), image by image."""
    model = load_run(folder)
    shapes, codes = [], []
    for views in images:
        prediction = model.predict(torch.from_numpy(views).float() / 255)
        for vertices in prediction.vertices:
            cells = voxelization.voxelize((vertices[prediction.faces] * 31 / 32 + 0.5)[None], 32)[0].numpy()
            shapes.append(np.swapaxes(cells, 0, 1)[:, :, ::-1].astype(bool))
        codes.append(prediction.codes.double().numpy())
    return np.stack(shapes).reshape(len(images), 24, 32, 32, 32), np.stack(codes)


def squared_mmd(x, y):
    """The biased estimate with five Gaussian kernels."""
    both = np.concatenate([x, y])
    distances = ((both[:, None] - both[None]) ** 2).sum(2)
    n, base = len(both), distances.sum() / (len(both) ** 2 - len(both))
    kernel = sum(np.exp(-distances / (base * 2.0 ** i)) for i in range(-2, 3))
    m = len(x)
    assert n == m + len(y)
    return kernel[:m, :m].mean() + kernel[m:, m:].mean() - 2 * kernel[:m, m:].mean()


# ---- evaluation ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def result(featgan):
    """evaluation_test_last.json of the run, written by a separate process."""
    done = process("--mode=evaluation", "--ckpt_dir", featgan, "--device=cpu", "--threads=1")
    assert done.returncode == 0, done.stderr
    result = json.loads((featgan / "evaluation_test_last.json").read_text())
    assert "02958343 car" in done.stdout and f"{result['iou'][CAR]:.4f}" in done.stdout  # the table
    return result


def test_the_json_says_what_was_measured_and_how(result, data):
    assert set(result) == {"protocol", "mean_iou", *FIGURES, *SURFACES, "code_spread"}
    assert result["protocol"] | {"dataset": "CVPR18", "data_dir": str(data), "split": "test", "step": 6,
                                 "checkpoint": "last", "objects": {CAR: 2}} == result["protocol"]
    assert {"voxel_rule", "grid", "views", "surfaces", *FIGURES} - {"pose_chance"} <= set(result["protocol"])
    for key in FIGURES + SURFACES:
        assert list(result[key]) == [CAR] and math.isfinite(result[key][CAR])
    for key in ("iou", "mean_shape_iou", "iou_wrong_object", "view_agreement", "own_view", "new_view", "inside_out",
                "pose_probe", "pose_chance"):
        assert 0 <= result[key][CAR] <= 1, key
    assert result["mean_iou"] == result["iou"][CAR] and result["mmd_shuffled"][CAR] > 0


def test_figures_are_those_of_their_definitions(result, featgan, data):
    images, voxels = arrays(data, "test")
    shapes, codes = grids(featgan, images)
    right, wrong, agreement = [], [], []
    for o in range(2):
        for i in range(24):
            right.append(iou(shapes[o, i], voxels[o]))
            wrong.append(iou(shapes[o, i], voxels[1 - o]))
            agreement += [iou(shapes[o, i], shapes[o, j]) for j in range(i)]
    assert result["iou"][CAR] == pytest.approx(np.mean(right), abs=1e-6)
    assert result["iou_wrong_object"][CAR] == pytest.approx(np.mean(wrong), abs=1e-6)
    assert result["view_agreement"][CAR] == pytest.approx(np.mean(agreement), abs=1e-6)
    distances = [squared_mmd(codes[:, i], codes[:, j]) for i in range(24) for j in range(i)]
    assert len(distances) == 276 and result["mmd"][CAR] == pytest.approx(np.mean(distances), rel=1e-3)


def test_mean_shape(result, data):
    """The mean shape of the training objects, with the best threshold for them."""
    train, test = (arrays(data, split)[1] for split in ("train", "test"))
    candidates = [train.mean(0) > t / 20 for t in range(1, 20)]
    best = max(candidates, key=lambda c: np.mean([iou(c, v) for v in train]))
    assert result["mean_shape_iou"][CAR] == pytest.approx(np.mean([iou(best, v) for v in test]), abs=1e-6)


def test_flag_and_split(featgan, data):
    evaluate(featgan, "--split=val")
    last = metrics(featgan)[-1]
    found = json.loads((featgan / "evaluation_val_last.json").read_text())
    assert found["iou"][CAR] == pytest.approx(last["val_iou"], abs=1e-6)
    assert found["mmd"][CAR] == pytest.approx(last["val_mmd"], rel=1e-4)
    evaluate(featgan, "--split=val", "--eval_flag=best")
    best = json.loads((featgan / "evaluation_val_best.json").read_text())
    assert best["protocol"]["step"] == checkpoint(featgan, "best.pt")["step"]
    assert best["mean_iou"] == pytest.approx(max(r.get("val_iou", 0) for r in metrics(featgan)), abs=1e-6)


@pytest.fixture(scope="module")
def two_classes(data, template, scratch):
    """The cars and as many planes; and a folder with a run for each class, ckpt3D_<class>."""
    base = scratch / "two"
    both = shutil.copytree(data, base / "data", ignore=shutil.ignore_patterns(".cache"))
    kept = (both / f"{CAR}_train_images.npz").stat().st_mtime_ns
    assert call("--mode=make_dataset", "--data_dir", both, "--class_ids", CAR, PLANE, "--n_train=4",
                "--n_val=2", "--n_test=2") == 0
    assert (both / f"{CAR}_train_images.npz").stat().st_mtime_ns == kept  # completed, not made again
    for class_id in (CAR, PLANE):
        assert call("--mode=train", "--data_dir", both, "--class_ids", class_id, "--ckpt_dir",
                    base / f"runs/ckpt3D_{class_id}", "--lambda_adv=0", "--n_iters=12", "--lr=1e-3",
                    "--obj_dir", template, *TINY) == 0
    return both, base / "runs"


@pytest.mark.parametrize("more", [(), ("--class_ids", CAR, PLANE), ("--class_ids", PLANE)])
def test_folder_of_runs(more, two_classes):
    """Each class is evaluated only with its own run."""
    _, folder = two_classes
    evaluate(folder, *more)
    merged = json.loads((folder / "evaluation_test_last.json").read_text())
    classes = list(more[1:]) or [PLANE, CAR]
    assert set(merged["iou"]) == set(merged["protocol"]["objects"]) == set(classes)
    for class_id in classes:
        evaluate(folder / f"ckpt3D_{class_id}")
        alone = json.loads((folder / f"ckpt3D_{class_id}" / "evaluation_test_last.json").read_text())
        for key in FIGURES:
            assert merged[key][class_id] == pytest.approx(alone[key][class_id], abs=1e-6), (key, class_id)
    assert merged["mean_iou"] == pytest.approx(np.mean([merged["iou"][c] for c in classes]))


def test_classes_that_a_run_has_not_seen_do_not_replace_its_figures(two_classes, capsys):
    _, folder = two_classes
    run = folder / f"ckpt3D_{CAR}"
    evaluate(run)
    own = (run / "evaluation_test_last.json").read_bytes()
    capsys.readouterr()
    evaluate(run, "--class_ids", PLANE)
    assert (run / "evaluation_test_last.json").read_bytes() == own
    apart = run / f"evaluation_test_last_{PLANE}.json"
    assert set(json.loads(apart.read_text())["iou"]) == {PLANE}
    assert f"written to {apart}; not trained on airplane" in capsys.readouterr().out


class Oracle:
    """A fake model that predicts the true meshes of a split, in order, changed by `change`."""

    device, options, texture = torch.device("cpu"), {"latent_dim": 3}, None

    def __init__(self, meshes, change):
        self.meshes, self.change = iter(meshes), change

    def predict(self, images):
        vertices, faces, _ = next(self.meshes)
        vertices = torch.from_numpy(vertices * self.change).float().expand(len(images), -1, -1)
        return Prediction(vertices, torch.from_numpy(np.array(faces)), torch.randn(len(images), 3))


def test_true_meshes_score_one_and_mirrored_ones_do_not(two_classes):
    """In the renderer's frame z of the true mesh is negated; planes are not symmetric in z."""
    import shapes
    folder = two_classes[0]
    planes = CVPR18(folder, [PLANE], "test", folder / ".cache")
    meshes = [shapes.make_object(PLANE, np.random.default_rng([0, int(PLANE), 2, i])) for i in range(2)]

    def measure(*change):
        return score(Oracle(meshes, np.array(change)), planes, objects_at_once=1)["iou"][PLANE]
    assert measure(1, 1, -1) >= 0.95
    for change in ((1, 1, 1), (1, -1, -1)):
        assert measure(*change) < 0.7, change
    # The files agree with the meshes: a corner at (x, y, z) lies in cell [y, x, z].
    for (vertices, faces, _), grid in zip(meshes, arrays(folder, "test", PLANE)[1]):
        cells = np.floor(vertices[np.unique(faces)] * 31 + 16).astype(int)
        assert np.mean([grid[y, x, z] for x, y, z in cells]) > 0.95
        assert np.mean([grid[y, x, 31 - z] for x, y, z in cells]) < 0.9


# ---- your own meshes -------------------------------------------------------------------------------

def test_pictures_of_meshes_are_not_mirrored(tmp_path):
    """A post with a long arm to +x and a short one to +z. From the front (+z) the long arm is on the right; from -x,
    view 6, the short arm is on the right."""
    parts = [box((-.1, -1, -.1), (.1, 1, .1)), box((.1, .6, -.1), (1, .9, .1)), box((-.1, .6, .1), (.1, .9, .5))]
    lines, count = [], 0
    for vertices, faces in parts:
        lines += ["v {} {} {}".format(*v) for v in vertices]
        lines += ["f {} {} {}".format(*(f + 1 + count)) for f in faces]
        count += len(vertices)
    (tmp_path / "meshes" / "post").mkdir(parents=True)
    for name in "abc":
        (tmp_path / "meshes" / "post" / f"{name}.obj").write_text("\n".join(lines))
    assert call("--mode=make_dataset", "--mesh_dir", tmp_path / "meshes", "--data_dir", tmp_path / "data") == 0
    images, voxels = arrays(tmp_path / "data", "test", "post")
    assert images.shape == (1, 24, 4, 64, 64) and voxels.shape == (1, 32, 32, 32)

    def columns(view):
        seen = np.flatnonzero((images[0, view, 3] > 128).any(0))
        post = np.argmax((images[0, view, 3] > 128).sum(0))  # where it is highest
        return seen[-1] - post, post - seen[0]
    right, left = columns(0)
    assert right > left + 5
    right, left = columns(6)
    assert right > left + 2
    y, x, z = (np.flatnonzero(voxels[0].any(other)) for other in ((1, 2), (0, 2), (0, 1)))
    top = voxels[0][y[-1] - 3]  # through the arms, (x, z)
    long_arm, short_arm = top.any(1).sum(), top.any(0).sum()
    assert long_arm > short_arm and top[x[-1]].any() and not top[x[-1], z[-1]]
    assert json.loads((tmp_path / "data" / "post_objects.json").read_text()).keys() == {"train", "val", "test"}


def test_few_views_of_few_objects(data, template, tmp_path, capsys):
    """--train_views keeps some of the same pictures. With one object per split some figures are undefined, null in
    JSON."""
    few = tmp_path / "few"
    assert call("--mode=make_dataset", "--data_dir", few, "--class_ids", CAR, "--n_train=4", "--n_val=1",
                "--n_test=1", "--train_views=2") == 0
    shown = np.load(few / f"{CAR}_train_views.npz")["arr_0"]
    assert shown.shape == (4, 2) and len({tuple(v) for v in shown}) > 1 and (shown[:, 0] < shown[:, 1]).all()
    full, voxels = arrays(data, "train")
    images, same = arrays(few, "train")
    assert (images == full[np.arange(4)[:, None], shown]).all() and (same == voxels).all()
    assert call("--mode=train", "--data_dir", few, "--ckpt_dir", tmp_path / "run", "--obj_dir", template,
                "--n_iters=2", *TINY) == 0
    assert "val MMD - (too few objects a pose)" in capsys.readouterr().out
    evaluate(tmp_path / "run")
    table = capsys.readouterr().out
    assert f"-: no wrong object of {CAR}: there is one object\n" in table and "nan" not in table
    assert f"-: no MMD, no MMD shuffled of {CAR}: fewer than two poses show two objects or more\n" in table

    def strict(name):
        raise AssertionError(f"{name} is not JSON")
    result = json.loads((tmp_path / "run" / "evaluation_test_last.json").read_text(), parse_constant=strict)
    assert result["mmd"][CAR] is None and result["iou_wrong_object"][CAR] is None and result["iou"][CAR] > 0


def test_a_run_can_be_used_from_anywhere(data, template, tmp_path, monkeypatch):
    """Relative paths of the training are still valid in another working directory."""
    monkeypatch.chdir(data.parent)
    assert call("--mode=train", "--data_dir", data.name, "--ckpt_dir", tmp_path / "run", "--obj_dir",
                template.name, "--lambda_adv=0", "--n_iters=1", *TINY) == 0
    monkeypatch.chdir(tmp_path)
    evaluate(tmp_path / "run")


# ---- compare ---------------------------------------------------------------------------------------

def test_compare_puts_the_figures_side_by_side(result, featgan, ae, data, tmp_path):
    evaluate(ae)
    out = tmp_path / "out"
    assert call("--mode=compare", "--runs", ae, featgan, "--sample_dir", out, "--device=cpu") == 0
    kept = {"AE": json.loads((ae / "evaluation_test_last.json").read_text()), "featGAN": result}
    with open(out / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["class"], r["run"]) for r in rows] == [(CAR, "AE"), (CAR, "featGAN")]
    for r in rows:
        for key in FIGURES + SURFACES:
            assert float(r[key]) == pytest.approx(kept[r["run"]][key][CAR], abs=1e-6)
    for ending, mark in (("md", "| car |"), ("tex", r"\begin{tabular}")):
        text = (out / f"table.{ending}").read_text()
        assert mark in text
        for name, figures in kept.items():
            tables = [line for line in text.splitlines() if f" {name} " in line]
            assert len(tables) == 2, text
            for row, keys in zip(tables, (FIGURES, SURFACES)):
                assert all(f"{figures[key][CAR]:.3f}" in row for key in keys), (ending, row)
    with Image.open(out / "compare.png") as picture:
        assert picture.width > picture.height > 200 and len(np.unique(picture)) > 50
    # Its inputs, read again, are images of the dataset.
    from images import load_image
    images = arrays(data, "test")[0]
    for o in range(2):
        again = load_image(out / "inputs" / f"object_{o:03d}.png", 64).numpy() * 255
        assert np.abs(images[o] - again[None]).max((1, 2, 3)).min() <= 2


# ---- where results go ------------------------------------------------------------------------------

@pytest.mark.parametrize("mode, more, folder", [
    ("MMD", ("--runs", "a"), "results"), ("t_SNE", ("--runs", "a"), "results"),
    ("compare", ("--runs", "a"), "results/compare"), ("check_data", ("--data_dir", "d"), "results"),
    ("reconstruct", ("--load_E", "e", "--load_G", "g"), "results"),
    ("interpolation", ("--load_E", "e", "--load_G", "g"), "results"),
    ("evaluation", ("--load_E", "e", "--load_G", "g"), "results")])
def test_sample_dir_is_where_the_help_says(monkeypatch, capsys, mode, more, folder):
    seen, modes = [], script().MODES
    monkeypatch.setitem(modes, mode, dataclasses.replace(
        modes[mode], run=lambda options, device: seen.append(options.sample_dir) or 0))
    assert call(f"--mode={mode}", *more, "--device=cpu") == 0
    if mode == "compare":  # takes --runs alone
        assert seen == [folder]
        return
    beside = () if "--runs" in more else more  # or the one run
    assert call(f"--mode={mode}", *beside, "--device=cpu", "--ckpt_dir=run") == 0
    assert call(f"--mode={mode}", *beside, "--device=cpu", "--ckpt_dir=run", "--sample_dir=here") == 0
    assert seen == [folder, os.path.join("run", "samples"), "here"]
    capsys.readouterr()
    call("--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "(default: CKPT_DIR/samples; without CKPT_DIR: results, and results/compare for compare; evaluation: " in said
