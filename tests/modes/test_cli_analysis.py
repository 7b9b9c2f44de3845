"""The modes MMD, t_SNE and interpolation; and VPL, the compared method."""
import csv
import json
import shutil

import numpy as np
import pytest
import torch
from command import CAR, PLANE, TINY, call, checkpoint, differences, metrics
from PIL import Image


def published_mmd(x, y):
    """Squared MMD with five Gaussian kernels, bandwidth from both groups together, biased, from its definition."""
    both = np.concatenate([x, y]).astype(np.float64)
    d = ((both[:, None] - both[None]) ** 2).sum(-1)
    base = d.sum() / (len(both) ** 2 - len(both))
    k = sum(np.exp(-d / (base * 2.0 ** i)) for i in range(-2, 3))
    n = len(x)
    return k[:n, :n].mean() + k[n:, n:].mean() - 2 * k[:n, n:].mean()


def test_mmd_of_two_runs(featgan, ae, data, tmp_path):
    from datasets import CVPR18
    from inference import load_run
    assert call("--mode=MMD", "--runs", featgan, ae, "--sample_dir", tmp_path, "--device=cpu") == 0
    result = json.loads((tmp_path / "MMD_test.json").read_text())
    assert [r["run"] for r in result["runs"]] == [str(featgan), str(ae)]
    cars = CVPR18(str(data), [CAR], "test", str(data / ".cache"))
    for run in result["runs"]:
        r = run["classes"][CAR]
        matrix = np.array(r["matrix"])
        codes = load_run(run["run"]).encode(cars.gather(range(len(cars))).images).numpy().reshape(2, 24, -1)
        for p, q in ((0, 1), (3, 17), (23, 5)):
            assert matrix[p, q] == pytest.approx(published_mmd(codes[:, p], codes[:, q]), rel=1e-3, abs=1e-4)
        below = np.tril_indices(24, -1)
        assert run["mean"] == r["mean"] == pytest.approx(matrix[below].mean(), rel=1e-5)
        assert (matrix == matrix.T).all() and (np.diag(matrix) == 0).all()
        assert r["poses_left_out"] == [] and r["codes"] == 48
    rows = list(csv.DictReader(open(tmp_path / "MMD_test.csv")))
    assert len(rows) == 2 * 276 and {r["class"] for r in rows} == {CAR}
    assert (tmp_path / "MMD_test.pdf").read_bytes().startswith(b"%PDF")
    assert np.asarray(Image.open(tmp_path / "MMD_test.png").convert("RGB")).std() > 10


@pytest.fixture(scope="module")
def two_classes(template, tmp_path_factory):
    """One run over cars and planes, of which there are 3 each to test."""
    base = tmp_path_factory.mktemp("two_classes")
    assert call("--mode=make_dataset", "--data_dir", base / "data", "--class_ids", CAR, PLANE, "--n_train=2",
                "--n_val=2", "--n_test=3") == 0
    assert call("--mode=train", "--data_dir", base / "data", "--obj_dir", template, *TINY, "--n_iters=3", "--lr=1e-3",
                "--lambda_adv=0", "--ckpt_dir", base / "run") == 0
    return base / "run"


@pytest.mark.parametrize("more", [(), ("--seed=3",), ("--class_ids", PLANE), ("--mmd_batches=3", "--batch_size=16")])
def test_mmd_is_that_of_the_evaluation_class_by_class(more, two_classes, tmp_path, capsys):
    """MMD is computed for each class. For pooled codes of several classes it would be different."""
    run = shutil.copytree(two_classes, tmp_path / "run")
    assert call("--mode=evaluation", "--ckpt_dir", run, "--device=cpu", *more) == 0
    evaluated = json.loads((run / "evaluation_test_last.json").read_text())
    capsys.readouterr()
    assert call("--mode=MMD", "--ckpt_dir", run, "--sample_dir", tmp_path, "--device=cpu", *more) == 0
    told, found = capsys.readouterr().out, json.loads((tmp_path / "MMD_test.json").read_text())
    (measured,) = found["runs"]
    assert set(measured["classes"]) == set(evaluated["mmd"])
    for ours, theirs in (("mean", "mmd"), ("mean_shuffled", "mmd_shuffled")):
        for class_id, figures in measured["classes"].items():
            assert figures[ours] == pytest.approx(evaluated[theirs][class_id], rel=1e-3, abs=1e-5)
            assert f"{figures[ours]:.4f}" in told
        assert measured[ours] == pytest.approx(np.mean([f[ours] for f in measured["classes"].values()]))
        assert f"{measured[ours]:.4f}" in told
    # The protocols of both modes are equal.
    assert found["protocol"].pop("pose_bins") == 24
    for key, value in found["protocol"].items():
        assert evaluated["protocol"][key] == value, key
    assert found["protocol"]["objects"] == {c: 3 for c in measured["classes"]}
    assert "each class by itself" in told and "(24)" in told and str(two_classes.parent / "data") in told
    assert len(list(csv.DictReader(open(tmp_path / "MMD_test.csv")))) == 276 * len(measured["classes"])


def test_mmd_of_the_first_batches(two_classes, tmp_path, capsys, refused):
    """In the published order of objects, 3 batches of 16 codes are the 24 views of the first two objects, as 96 batches
    of 128 are the views of the first 512."""
    from inference import load_run
    run, data = shutil.copytree(two_classes, tmp_path / "run"), two_classes.parent / "data"
    first = ("--mmd_batches=3", "--batch_size=16")
    assert call("--mode=MMD", "--ckpt_dir", run, "--sample_dir", tmp_path, "--device=cpu", *first) == 0
    told, found = capsys.readouterr().out, json.loads((tmp_path / "MMD_test.json").read_text())
    assert "the first 48 codes (3 batches of 16)" in told and found["protocol"]["mmd_codes"] == 48
    for class_id, figures in found["runs"][0]["classes"].items():
        images = np.load(data / f"{class_id}_test_images.npz")["arr_0"]
        assert len(images) == 3 and figures["codes"] == 48
        codes = load_run(run).encode(torch.from_numpy(images[:2].reshape(48, 4, 64, 64)).float() / 255)
        codes = codes.numpy().reshape(2, 24, -1)
        pairs = [published_mmd(codes[:, p], codes[:, q]) for p in range(24) for q in range(p)]
        assert figures["mean"] == pytest.approx(np.mean(pairs), rel=1e-3)
    assert call("--mode=evaluation", "--ckpt_dir", run, "--device=cpu", *first) == 0
    assert "the first 48 codes (3 batches of 16)" in capsys.readouterr().out
    line = refused("--mode=MMD", "--ckpt_dir", run, "--mmd_batches=1", "--batch_size=24", "--sample_dir",
                   tmp_path / "no")
    assert "--mmd_batches=1 of 24: the first 24 codes of the test split" in line and "0 poses" in line


def test_mmd_of_a_class_of_one_object(two_classes, tmp_path, capsys):
    """It has no MMD, and the reason is printed; the other class has its MMD."""
    data = shutil.copytree(two_classes.parent / "data", tmp_path / "data", ignore=shutil.ignore_patterns(".cache"))
    for kind in ("images", "voxels"):
        path = data / f"{PLANE}_test_{kind}.npz"
        np.savez_compressed(path, np.load(path)["arr_0"][:1])
    assert call("--mode=MMD", "--ckpt_dir", two_classes, "--data_dir", data, "--sample_dir", tmp_path,
                "--device=cpu") == 0
    told, found = capsys.readouterr().out, json.loads((tmp_path / "MMD_test.json").read_text())
    why = f"no MMD, no MMD shuffled of {PLANE}: fewer than two poses show two objects or more"
    assert f"-: {why}\n" in told and found["protocol"]["undefined"] == [why] and "nan" not in told
    (run,) = found["runs"]
    assert run["classes"][PLANE]["mean"] is None and run["mean"] is None and run["classes"][CAR]["mean"] > 0
    assert (tmp_path / "MMD_test.png").exists()


def test_mmd_of_different_data_is_not_put_side_by_side(ae, two_classes, data, refused, tmp_path):
    """The biased estimate depends on the number of codes, so only runs on the same data can be compared."""
    both = ("--mode=MMD", "--runs", ae, two_classes, "--sample_dir", tmp_path / "no", "--device=cpu")
    line = refused(*both)
    assert f"{ae} and {two_classes}" in line and f"data_dir: {data} and {two_classes.parent / 'data'}" in line
    assert call(*both[:4], "--sample_dir", tmp_path / "both", "--data_dir", data, "--class_ids", CAR) == 0


def test_mmd_of_different_objects_is_not_put_side_by_side(ae, two_classes, refused, tmp_path):
    line = refused("--mode=MMD", "--runs", two_classes, ae, "--data_dir", two_classes.parent / "data", "--cache_dir",
                   two_classes.parent / "data" / ".cache", "--sample_dir", tmp_path / "no", "--device=cpu")
    assert f"different objects: {{'{PLANE}': 3, '{CAR}': 3}} and {{'{CAR}': 3}}" in line


@pytest.mark.parametrize("mode, option", [("MMD", "--runs"), ("MMD", "--load_E"), ("t_SNE", "--runs"),
                                          ("t_SNE", "--load_E"), ("compare", "--runs")])
def test_a_run_does_not_get_the_figures_of_others(mode, option, ae, featgan, refused, tmp_path):
    """Figures of other runs would be written into its folder."""
    run = shutil.copytree(ae, tmp_path / "run")
    other = featgan if option == "--runs" else featgan / "last.pt"
    line = refused(f"--mode={mode}", "--ckpt_dir", run, option, other, "--device=cpu")
    assert f"--ckpt_dir={run} and {option} together: --mode={mode} takes one of them" in line


def test_t_sne(featgan, tmp_path, refused):
    assert call("--mode=t_SNE", "--ckpt_dir", featgan, "--perplexity=5", "--sample_dir", tmp_path,
                "--device=cpu") == 0
    rows = list(csv.DictReader(open(tmp_path / "t_SNE_val.csv")))  # val, as published
    assert len(rows) == 48 and sorted({int(r["pose"]) for r in rows}) == list(range(24))
    assert all(np.isfinite([float(r["x"]), float(r["y"])]).all() for r in rows)
    assert np.asarray(Image.open(tmp_path / "t_SNE_val.png").convert("RGB")).std() > 10
    line = refused("--mode=t_SNE", "--ckpt_dir", featgan, "--perplexity=16", "--sample_dir", tmp_path / "no")
    assert "--perplexity=16" in line and "48 images" in line


@pytest.mark.parametrize("more, label, ticks", [
    ((), "class", ["airplane", "car"]), (("--class_ids", CAR), "object", ["0", "1"])])
def test_t_sne_names_what_its_colours_are(more, label, ticks, two_classes, tmp_path, monkeypatch):
    """The colour bar has one block for each class or object, with its name in the middle."""
    figures = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *_, **__: figures.append(figure))
    assert call("--mode=t_SNE", "--ckpt_dir", two_classes, "--perplexity=5", "--sample_dir", tmp_path,
                "--device=cpu", *more) == 0
    (bar,) = [axis for axis in figures[0].axes if axis.get_ylabel() == label]
    assert [t.get_text() for t in bar.get_yticklabels()] == ticks and bar.get_ylim() == (-0.5, len(ticks) - 0.5)
    assert list(bar.get_yticks()) == list(range(len(ticks)))
    points = figures[0].axes[1].collections[0]
    assert points.cmap.N == len(ticks) and len(np.unique(points.to_rgba(points.get_array()), axis=0)) == len(ticks)


@pytest.mark.parametrize("count", [2, 10, 11, 20, 21, 800])
def test_colours_of_many_things_differ(count):
    from modes.t_sne import _colours
    colours = _colours(count)(np.arange(count))
    assert len(np.unique(colours, axis=0)) >= min(count, 200)


def test_interpolation_goes_straight_from_one_shape_to_the_other(featgan, data, tmp_path):
    import neural_renderer as nr
    from datasets import CVPR18
    from inference import load_run
    from images import load_image
    from pictures import to_image
    cars = CVPR18(str(data), [CAR], "test", str(data / ".cache")).gather([3, 30])
    paths = []
    for i, image in enumerate(cars.images):
        paths.append(tmp_path / f"{i}.png")
        to_image(torch.cat([image[:3] / image[3:].clamp_min(1 / 255), image[3:]])).save(paths[-1])
    assert call("--mode=interpolation", "--ckpt_dir", featgan, "--load_im", paths[0], "--load_im1", paths[1],
                "--sample_dir", tmp_path / "out", "--device=cpu") == 0
    model = load_run(featgan)
    first, last = model.encode(torch.stack([load_image(p, 64) for p in paths]))
    for i in range(6):
        vertices, _ = nr.load_obj(tmp_path / "out" / f"interpolation_{i:02d}.obj", normalization=False)
        wanted = model.decode(((1 - i / 5) * first + i / 5 * last)[None])[0]
        torch.testing.assert_close(vertices * torch.tensor([1, 1, -1.0]), wanted, atol=2e-5, rtol=0)
        assert (tmp_path / "out" / f"interpolation_{i:02d}.glb").read_bytes()[:4] == b"glTF"
    assert Image.open(tmp_path / "out" / "interpolation.gif").n_frames > 10
    assert Image.open(tmp_path / "out" / "interpolation.png").width > 8 * 100


def test_images_of_different_sizes_are_not_interpolated(featgan, refused, tmp_path):
    for name, size in (("a.png", (64, 64)), ("b.png", (300, 256))):
        Image.new("RGBA", size, (200, 0, 0, 255)).save(tmp_path / name)
    line = refused("--mode=interpolation", "--ckpt_dir", featgan, "--load_im", tmp_path / "a.png", "--load_im1",
                   tmp_path / "b.png", "--sample_dir", tmp_path / "out", "--device=cpu")
    assert "a.png is 64x64" in line and "b.png is 300x256: bring both to the same size" in line


@pytest.fixture(scope="module")
def narrow(data, template, tmp_path_factory):
    """A run with shorter codes than the others."""
    folder = tmp_path_factory.mktemp("narrow") / "run"
    assert call("--mode=train", "--data_dir", data, "--obj_dir", template, *TINY, "--latent_dim=8", "--n_iters=1",
                "--lambda_adv=0", "--ckpt_dir", folder) == 0
    return folder


@pytest.mark.parametrize("mode", ["MMD", "t_SNE"])
def test_codes_of_different_length_are_not_put_side_by_side(mode, ae, narrow, refused, tmp_path):
    line = refused(f"--mode={mode}", "--runs", ae, narrow, "--sample_dir", tmp_path / "no",
                   *(["--perplexity=5"] if mode == "t_SNE" else []))
    assert str(ae) in line and str(narrow) in line and "--latent_dim, 16 and 8" in line


@pytest.mark.parametrize("mode", ["MMD", "t_SNE", "interpolation", "compare", "evaluation", "reconstruct"])
def test_a_run_without_checkpoints(mode, ae, refused, tmp_path):
    """The run was stopped before its first checkpoint; options and records exist."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("options.json", "metrics.jsonl"):
        (run / name).write_bytes((ae / name).read_bytes())
    Image.new("RGBA", (64, 64), (200, 0, 0, 255)).save(tmp_path / "a.png")
    more = {"compare": ("--runs", run)}.get(mode, ("--ckpt_dir", run))
    line = refused(f"--mode={mode}", *more, "--sample_dir", tmp_path / "no", "--load_im", tmp_path / "a.png",
                   "--load_im1", tmp_path / "a.png")
    assert str(run) in line and "last.pt" in line


def test_mmd_of_poses_with_one_object(ae, refused, tmp_path):
    """With one object per split, each pose is seen once."""
    few = tmp_path / "few"
    assert call("--mode=make_dataset", "--data_dir", few, "--class_ids", CAR, "--n_train=1", "--n_val=1",
                "--n_test=1") == 0
    line = refused("--mode=MMD", "--ckpt_dir", ae, "--data_dir", few, "--cache_dir", tmp_path / ".cache",
                   "--sample_dir", tmp_path / "no")
    assert "test split" in line and "0 poses with two objects" in line


def test_one_image_is_not_enough_to_interpolate(featgan, refused, tmp_path):
    assert "--load_im1" in refused("--mode=interpolation", "--ckpt_dir", featgan, "--load_im", "a.png",
                                   "--sample_dir", tmp_path / "no")


def test_vpl_trains_alternates_and_resumes_to_the_bit(data, template, tmp_path):
    vpl = ("--mode=trainCVPR19", "--data_dir", data, "--obj_dir", template, *TINY, "--batch_size=2",
           "--log_step=1", "--ckpt_step=2", "--sample_step=4")
    assert call(*vpl, "--ckpt_dir", tmp_path / "whole", "--n_iters=4") == 0
    assert call(*vpl, "--ckpt_dir", tmp_path / "parts", "--n_iters=2") == 0
    assert call(*vpl, "--ckpt_dir", tmp_path / "parts", "--n_iters=4", "--resume") == 0
    rows = metrics(tmp_path / "whole")
    assert [("view_prior" in r, "discriminator" in r) for r in rows] == [(False, True), (True, False)] * 2
    whole, parts = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "parts")
    assert not differences(whole["models"], parts["models"])
    assert not differences(whole["optimizers"], parts["optimizers"])
    assert whole["models"]["D"]["convBlocks.0.weight"].shape == (128, 25, 4, 4)


def test_vpl_losses_are_those_of_the_paper(data):
    from types import SimpleNamespace

    from losses import View
    from methods import ViewPriorLearning
    torch.manual_seed(0)
    method = ViewPriorLearning(SimpleNamespace(disc_width=128), 24, 64)
    real, fake = torch.rand(3, 64, 64), torch.rand(3, 64, 64, requires_grad=True)
    views, others = torch.tensor([0, 5, 23]), torch.tensor([1, 0, 9])
    step = SimpleNamespace(poses=views, rendered=real, views={"VPL": View(None, others, fake)})

    def probability(images, numbers):
        planes = torch.zeros(3, 24, 64, 64)
        planes[torch.arange(3), numbers] = 1
        x = torch.cat([images[:, None], planes], 1)
        return torch.sigmoid(method.discriminator.digit_layer(method.discriminator.convBlocks(x).flatten(1)))

    p_real, p_fake = probability(real, views), probability(fake, others)
    wanted = (-torch.log(p_real).mean() - torch.log(1 - p_fake).mean()) / 2
    discriminator, = method.discriminator_losses(step).values()
    encoder, = method.encoder_losses(step).values()
    torch.testing.assert_close(discriminator, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder, -torch.log(p_fake).mean(), rtol=1e-4, atol=1e-5)
    discriminator.backward()
    assert fake.grad is None  # detached
    encoder.backward()
    assert fake.grad.abs().sum() > 0


def test_channels_of_vpl_are_those_of_the_views(refused, tmp_path):
    line = refused("--mode=trainCVPR19", "--ckpt_dir", tmp_path / "no", "--channels=3")
    assert "--channels=3" in line and "25 in all" in line
