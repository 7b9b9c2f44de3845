"""Chamfer-L1, F-scores, normal consistency and crossing faces through the command line."""
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import CAR, call
from datasets import CVPR18
from flat import bars
from inference import load_run
from metrics import mean_shape
from metrics.crossings import self_intersecting
from metrics.surfaces import NAMES, draw_points
from scipy.spatial import KDTree
from scoring import SURFACES, score


@pytest.fixture(scope="module")
def evaluated(ae, tmp_path_factory):
    run = shutil.copytree(ae, tmp_path_factory.mktemp("surfaces") / "run")
    assert call("--mode=evaluation", "--ckpt_dir", run, "--device=cpu") == 0
    return run


def test_figures_are_those_of_predictions_true_points_and_the_mean_shape(evaluated, data):
    found = json.loads((evaluated / "evaluation_test_last.json").read_text())
    assert {key for key, _ in SURFACES} < set(found) and "longest side" in found["protocol"]["surfaces"]
    cars = CVPR18(str(data), [CAR], "test", str(data / ".cache"))
    predicted = load_run(evaluated).predict(cars.gather(range(48)).images)
    points, normals = (t.double().numpy() for t in draw_points(predicted.vertices, predicted.faces))
    true = [np.asarray(cars.points(0)[o], float) for o in range(2)]

    def mean(of):
        """Of all views against an object of their own or another one, each asking all points."""
        figures = []
        for image in range(0, 48, 3):
            sample = true[(image // 24 + of) % 2]
            side = np.ptp(sample[:, :3], axis=0).max()
            there, index = KDTree(sample[:, :3]).query(points[image])
            back, behind = KDTree(points[image]).query(sample[:, :3])
            scores = [2 / (1 / max((there <= d * side).mean(), 1e-9) + 1 / max((back <= d * side).mean(), 1e-9))
                      for d in (.01, .02)]
            alike = [np.abs((a * b).sum(1)).mean() for a, b in ((normals[image], sample[index, 3:]),
                                                                (sample[:, 3:], normals[image][behind]))]
            figures.append([5 * (there.mean() + back.mean()) / side, *scores, np.mean(alike)])
        return np.mean(figures, 0)
    for form, of in (("{}", 0), ("{}_wrong_object", 1)):
        assert [found[form.format(name)][CAR] for name in NAMES] == pytest.approx(mean(of), abs=.02)
    assert 0 < found["mean_shape_fscore_2"][CAR] < 1
    picked = predicted.vertices[[0, 24 + 1]]
    assert found["self_intersecting"][CAR] == pytest.approx(float(self_intersecting(picked, predicted.faces).mean()))


def test_tables_have_them(evaluated, tmp_path, capsys):
    assert call("--mode=compare", "--runs", evaluated, evaluated, "--sample_dir", tmp_path, "--device=cpu") == 0
    value = json.loads((evaluated / "evaluation_test_last.json").read_text())["chamfer_l1"][CAR]
    markdown, table, latex = ((tmp_path / f"table.{kind}").read_text() for kind in ("md", "csv", "tex"))
    assert "| class | run | Chamfer | Chamfer mean |" in markdown and f"| {value:.3f} |" in markdown
    rows = [line.split(",") for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1 and f"{value:.6f}" in rows[1][rows[0].index("chamfer_l1")]
    assert latex.count("\\begin{tabular}") == 2 and "F@1\\% wrong" in latex


def test_a_set_without_points_and_one_whose_points_are_broken(evaluated, data, tmp_path, capsys, refused):
    folder = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    np.savez(folder / f"{CAR}_test_points.npz", np.zeros((2, 10, 6), np.float16))
    command = ("--mode=evaluation", "--ckpt_dir", evaluated, "--data_dir", folder, "--cache_dir", tmp_path.parent /
               "cache", "--device=cpu")
    assert f"{CAR}_test_points.npz must be float16 of shape (2, 10000, 6)" in refused(*command)
    (folder / f"{CAR}_test_points.npz").unlink()
    before = (evaluated / "evaluation_test_last.json").read_text()
    capsys.readouterr()
    assert call(*command) == 0 and "Chamfer" not in capsys.readouterr().out
    without = json.loads((evaluated / "evaluation_test_last.json").read_text())
    assert not set(without) & {key for key, _ in SURFACES} and without["self_intersecting"][CAR] >= 0
    assert without["iou"] == json.loads(before)["iou"]


def test_one_object_has_no_wrong_one(evaluated, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    for kind in ("images", "voxels", "points"):
        path = folder / f"{CAR}_test_{kind}.npz"
        np.savez_compressed(path, np.load(path)["arr_0"][:1])
    assert call("--mode=evaluation", "--ckpt_dir", evaluated, "--data_dir", folder, "--device=cpu") == 0
    assert "no Chamfer wrong" in capsys.readouterr().out
    found = json.loads((evaluated / "evaluation_test_last.json").read_text())
    assert found["chamfer_l1_wrong_object"][CAR] is None and found["chamfer_l1"][CAR] > 0


def test_score_of_the_truth_itself_is_the_best_there_is(tmp_path):
    """A model that predicts the true mesh reaches what points of one surface allow; its mirror image does not."""
    vertices, faces = bars()
    mesh = torch.tensor(vertices).float(), torch.tensor(faces), torch.full((len(faces), 3), .7)
    CVPR18.writer(str(tmp_path), CAR, {"test": 2}, _Same(mesh), None, 0, "")
    data = CVPR18(str(tmp_path), [CAR], "test", str(tmp_path / "cache"))
    corners = np.cross(*(vertices[faces][:, k] - vertices[faces][:, 0] for k in (1, 2)))
    area = np.linalg.norm(corners, axis=1).sum() / 2 / np.ptp(vertices, axis=0).max() ** 2
    for signs, best in (((1, 1, -1), True), ((1, 1, 1), False)):  # the renderer's frame negates z
        shape = torch.tensor(vertices * signs).float()
        model = SimpleNamespace(device=torch.device("cpu"), options={"latent_dim": 3},
                                predict=lambda images: SimpleNamespace(
                                    vertices=shape.expand(len(images), -1, -1), faces=torch.tensor(faces),
                                    codes=torch.rand(len(images), 3), outward=1))
        found = score(model, data, full=True, mean_grids={CAR: mean_shape(data.voxels([0, 1]))[0]},
                      points=[data.points(0)])
        reached = 1 - np.exp(-np.pi * 1e-4 * 10000 / area)
        assert (reached - .02 < found["fscore_1"][CAR] < reached + .1) == best, "near edges there is more than a plane"
        assert (found["normal_consistency"][CAR] > .95) == best and (found["chamfer_l1"][CAR] < .1) == best


class _Same:
    def __init__(self, mesh):
        self.mesh = mesh

    def __call__(self, split, i):
        return self.mesh


@pytest.mark.parametrize("option", ["--up=z", "--front=+x", "--grid_surface=cubes", "--voxels=given"])
def test_options_of_files_without_files_are_refused(refused, tmp_path, option):
    line = refused("--mode=make_dataset", "--data_dir", tmp_path / "set", option, usage=True)
    assert f"{option.split('=')[0]} is for the files of --mesh_dir" in line
