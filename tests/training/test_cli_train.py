"""`--mode=train` on the command line: files, resume, signals, reproducibility."""
import json
import math
import os
import shutil
import signal

import pytest
import torch
from command import (CAR, SHORT, TINY, call, checkpoint, differences, metrics, process, script, start,
                     wait_for_step)

CLOCK = {"time", "images_per_s"}
LONG = ("--n_iters=120", "--ckpt_step=40", "--sample_step=1000", "--log_step=1")


def command(data, folder, *more):
    return ("--mode=train", "--data_dir", data, "--ckpt_dir", folder, *TINY, *more)


def records(folder):
    """The records of a run without times."""
    return [{k: v for k, v in r.items() if k not in CLOCK} for r in metrics(folder)]


def assert_same_run(a, b):
    """Weights, optimisers, random states and records are equal bit for bit."""
    one, other = checkpoint(a), checkpoint(b)
    for key in ("step", "best", "models", "optimizers", "rng"):
        assert differences(one[key], other[key]) == [], key
    assert records(a) == records(b)


# ---- what a run leaves -----------------------------------------------------------------------------

def test_it_ends_with_exit_code_0_and_says_so(featgan_process, featgan):
    assert featgan_process.returncode == 0 and featgan_process.stderr == ""
    assert str(featgan) in featgan_process.stdout and "6/6" in featgan_process.stdout
    left = {p.name for p in featgan.iterdir() if not p.name.startswith("evaluation_")}  # of other tests
    assert left == {"best.pt", "last.prev.pt", "last.pt", "metrics.jsonl", "options.json", "samples"}


def test_options_json_holds_all(featgan, data):
    kept = json.loads((featgan / "options.json").read_text())
    actions = script().parser()._actions
    assert set(kept["options"]) == {a.dest for a in actions} - {"help", "version"}
    assert kept["options"] | {"mode": "train", "data_dir": str(data), "class_ids": [CAR], "n_iters": 6,
                              "lr": 1e-4, "lambda_adv": 1.0, "seed": 0} == kept["options"]
    assert kept["versions"]["torch"] == torch.__version__ and kept["versions"]["command"][0].endswith("3D-GAN.py")
    assert {"commit", "python", "numpy"} <= set(kept["versions"])


def test_metrics(featgan):
    rows = metrics(featgan)
    assert [r["step"] for r in rows] == [1, 2, 3, 4, 5, 6]
    for r in rows:
        turn = "confusion" if r["step"] % 2 == 0 else "discriminator"
        expected = {"step", "time", "silhouette", "smoothness", "prior", "lr", "images_per_s", turn}
        if r["step"] % 3 == 0:
            expected |= {"val_iou", "val_mmd", "val_iou_of", "val_inside_out", "picture", "mesh"}
            assert 0 <= r["val_iou"] <= 1 and r["val_iou_of"] == {CAR: r["val_iou"]} and r["val_mmd"] > 0
            assert (featgan / "samples" / r["picture"]).exists() and (featgan / "samples" / r["mesh"]).exists()
        assert set(r) == expected
        assert all(math.isfinite(v) for v in r.values() if isinstance(v, float))
        assert r["lr"] == 1e-4 and r["images_per_s"] > 0 and 0 <= r["silhouette"] <= 1
    assert [r["time"] for r in rows] == sorted(r["time"] for r in rows)
    assert rows[0]["discriminator"] == pytest.approx(math.log(24), abs=0.3)


def test_checkpoints_are_plain_data(featgan):
    for name, step in (("last.pt", 6), ("last.prev.pt", 3)):
        state = checkpoint(featgan, name)
        assert state["step"] == step and set(state["models"]) == set(state["optimizers"]) == {"E", "G", "D"}
    best = checkpoint(featgan, "best.pt")
    validated = {r["step"]: r["val_iou"] for r in metrics(featgan) if "val_iou" in r}
    assert best["best"] == max(validated.values()) == validated[best["step"]]
    assert differences(best["options"], json.loads((featgan / "options.json").read_text())["options"]) == []
    assert best["models"]["E"]["shapeLayer.weight"].shape == (16, 64)
    assert best["models"]["G"]["bias_layer.weight"].shape == (3 * 642, 2048)


def test_the_plain_autoencoder_has_no_discriminator(ae):
    assert set(checkpoint(ae)["models"]) == set(checkpoint(ae)["optimizers"]) == {"E", "G"}
    assert not [r for r in metrics(ae) if {"discriminator", "confusion"} & set(r)]


def test_several_classes_are_one_model(data, template, tmp_path, capsys):
    """Uses the files of one class under two more ids; `--class_id` is the same option."""
    both = shutil.copytree(data, tmp_path / "data", ignore=shutil.ignore_patterns(".cache", "dataset.json"))
    for path in both.glob(f"{CAR}_*"):
        os.link(path, both / path.name.replace(CAR, "03001627"))
        os.link(path, both / path.name.replace(CAR, "04379243"))
    assert call(*command(both, tmp_path / "run", "--class_id", CAR, "03001627", "--obj_dir", template,
                         "--lambda_adv=0", "--n_iters=2")) == 0
    assert "car, chair; 192 images of 8 objects" in capsys.readouterr().out
    (record,) = [r for r in metrics(tmp_path / "run") if "val_iou" in r]
    assert list(record["val_iou_of"]) == [CAR, "03001627"]
    assert record["val_iou"] == pytest.approx(sum(record["val_iou_of"].values()) / 2)
    assert call(*command(both, tmp_path / "all", "--obj_dir", template, "--lambda_adv=0", "--n_iters=1",
                         "--trainViews=2")) == 0
    assert "car, chair, table; 24 images of 12 objects" in capsys.readouterr().out


def test_all_options_that_can_be_switched_on(data, template, tmp_path):
    """bfloat16, the other confusion, the other losses, a decaying rate and few views; also resumed."""
    options = command(data, tmp_path / "run", "--obj_dir", template, "--amp", "--standardize_code",
                      "--confusion=ce", "--lr_D=1e-3", "--lambda_Lap=0.1", "--lambda_edge=0.1", "--trainViews=1",
                      "--decay_batch=2", "--decay_every=1", "--G_every=3", "--log_step=1", "--resume")
    assert call(*options, "--n_iters=2") == 0 and call(*options, "--n_iters=4") == 0
    rows = metrics(tmp_path / "run")
    assert [r["lr"] for r in rows] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    assert [r["lr_D"] for r in rows] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert [("confusion" in r, "discriminator" in r) for r in rows] == [
        (False, True), (False, True), (True, False), (False, True)]
    assert all(r["laplacian"] > 0 and r["edge"] > 0 for r in rows)
    rates = {k: o["param_groups"][0]["lr"] for k, o in checkpoint(tmp_path / "run")["optimizers"].items()}
    assert rates == pytest.approx({"E": 1e-6, "G": 1e-6, "D": 1e-5})


def test_published_options_are_accepted(capsys):
    """Option names with values as in the published command lines."""
    published = {
        "--dataset": "CVPR18", "--trainViews": "1", "--wAzimuth": "15.0", "--wElevation": "20.0",
        "--n_iters": "20000", "--batch_size": "128", "--lr": "1e-4", "--decay_batch": "40000",
        "--decay_order": "0.1", "--decay_every": "5000", "--latent_dim": "512", "--channels": "4",
        "--sample_step": "500", "--log_step": "10", "--ckpt_step": "500", "--device_id": "0",
        "--G_every": "2", "--class_ids": CAR, "--class_id": CAR, "--lambda_smth": "0.001",
        "--lambda_Gprior": "1", "--lambda_adv": "1", "--lambda_Lap": "0.1", "--lambda_edge": "0.1",
        "--eval_flag": "best", "--data_dir": "d", "--split_file": "s", "--img_size": "64",
        "--sample_dir": "s", "--ckpt_dir": "c", "--visdom_env": "v", "--load_G": "g", "--load_D": "d",
        "--load_E": "e", "--load_im": "i", "--load_im1": "i", "--obj_dir": "o", "--prefix": "p", "--batches_done": "7"}
    known = script().parser()._option_string_actions
    for name, value in published.items():
        assert call("--mode=train", name, value, "--dry_run") == 0, name
        said = json.loads(capsys.readouterr().out)[known[name].dest]
        said = said[0] if isinstance(said, list) else said
        assert str(said) == value or said == float(value), name
    assert {"--dataset", "--class_id", "--device_id", "--eval_flag", "--obj_dir", "--trainViews"} <= set(known)
    assert call("--mode=train", "--dry_run") == 0
    assert json.loads(capsys.readouterr().out)["lambda_Gprior"] == 1  # of the published run


@pytest.mark.parametrize("given", [["A", "B"], ["A,B"], ["A,", "B"], ["A, B"], ["=A,B"]], ids=" ".join)
def test_classes_apart_by_blanks_or_commas(given, capsys):
    words = [f"--class_ids{given[0]}"] if given[0].startswith("=") else ["--class_ids", *given]
    assert call("--mode=train", *words, "--dry_run") == 0
    assert json.loads(capsys.readouterr().out)["class_ids"] == ["A", "B"]


def test_no_class_between_commas(refused):
    assert "names nothing" in refused("--mode=train", "--class_ids", ",", usage=True)


# ---- resume ----------------------------------------------------------------------------------------

def test_going_on_as_the_published_program_does(data, featgan, tmp_path, refused, capsys):
    """--batches_done=3 --n_iters=3 after three iterations equals --resume --n_iters=6; --prefix prints a line."""
    folder = tmp_path / "run"
    more = (*SHORT[1:], "--n_iters=3")
    assert call(*command(data, folder, *more)) == 0
    assert "has 3 iterations; give --batches_done=3" in refused(*command(data, folder, *more, "--batches_done=2"))
    capsys.readouterr()
    assert call(*command(data, folder, *more, "--batches_done=3", "--prefix=car")) == 0
    assert "note: --prefix=car is ignored" in capsys.readouterr().out
    assert_same_run(folder, featgan)
    assert call(*command(data, folder, *SHORT[1:], "--n_iters=4", "--batches_done=3", "--resume")) == 0
    assert checkpoint(folder)["step"] == 7


def test_going_on_from_weights_as_the_published_program_does(data, ae, template, tmp_path, refused):
    """Iterations are counted from N on, also for the learning rate; the result is a normal run."""
    options = command(data, tmp_path / "run", "--obj_dir", template, "--lambda_adv=0", *SHORT[1:], "--n_iters=2",
                      "--decay_batch=5", "--batches_done=4")
    assert "holds no run to continue" in refused(*options)
    options = (*options, "--load_E", ae / "last.pt", "--load_G", ae / "last.pt")
    assert call(*options) == 0
    assert [(r["step"], r["lr"]) for r in metrics(tmp_path / "run")] == [(5, 1e-4), (6, pytest.approx(1e-5))]
    assert "has 6 iterations; give --batches_done=6" in refused(*options)
    assert call(*options, "--n_iters=3", "--resume") == 0
    assert [r["step"] for r in metrics(tmp_path / "run")] == [5, 6, 7]


def test_resume_is_exact(data, featgan, tmp_path):
    """Six steps at once equal three steps and three more in another process."""
    folder = tmp_path / "run"
    assert call(*command(data, folder, *SHORT[1:], "--n_iters=3")) == 0
    assert [r["step"] for r in metrics(folder)] == [1, 2, 3]
    done = process(*command(data, folder, *SHORT, "--resume"))
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, featgan)
    assert differences(checkpoint(folder, "last.prev.pt")["models"],
                       checkpoint(featgan, "last.prev.pt")["models"]) == []


def test_every_loss_is_recorded_in_all_turns(data, template, tmp_path):
    """With the default --G_every and an even --log_step, every recorded step is the encoder's turn."""
    options = ("--obj_dir", template, "--ckpt_step=3", "--sample_step=9", "--n_iters=4")
    assert call(*command(data, tmp_path / "all", *options, "--log_step=1")) == 0
    assert call(*command(data, tmp_path / "run", *options, "--log_step=2")) == 0
    each = {r["step"]: r for r in metrics(tmp_path / "all")}
    for record in (r for r in metrics(tmp_path / "run") if "silhouette" in r):
        step = record["step"]
        assert record["discriminator"] == each[step - 1]["discriminator"] and "discriminator" not in each[step]
        assert all(record[k] == each[step][k] for k in ("silhouette", "confusion"))
    # The checkpoint in between contains losses that no record has yet.
    assert checkpoint(tmp_path / "run", "last.prev.pt")["losses"]["discriminator"] == each[3]["discriminator"]
    kept = [{k: v for k, v in r.items() if k not in ("time", "images_per_s")} for r in metrics(tmp_path / "run")]
    os.replace(tmp_path / "run" / "last.prev.pt", tmp_path / "run" / "last.pt")
    assert call(*command(data, tmp_path / "run", *options, "--log_step=2", "--resume")) == 0
    assert [{k: v for k, v in r.items() if k not in ("time", "images_per_s")}
            for r in metrics(tmp_path / "run")] == kept


def test_resume_of_the_compared_method_is_exact(data, template, tmp_path):
    """VPL draws its other views from the generator whose state is in the checkpoint."""
    options = ("--obj_dir", template, "--log_step=1", "--ckpt_step=2", "--sample_step=2", "--mode=trainCVPR19")
    assert call(*command(data, tmp_path / "whole", *options, "--n_iters=3")) == 0
    assert call(*command(data, tmp_path / "run", *options, "--n_iters=2")) == 0
    torch.rand(7)
    assert call(*command(data, tmp_path / "run", *options, "--n_iters=3", "--resume")) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    assert [("view_prior" in r, "discriminator" in r) for r in records(tmp_path / "run")] == [
        (False, True), (True, False), (False, True)]


def test_the_seed_decides(data, ae, template, tmp_path):
    common = ("--lambda_adv=0", "--obj_dir", template, *SHORT)
    assert call(*command(data, tmp_path / "same", *common)) == 0
    assert call(*command(data, tmp_path / "other", *common, "--seed=1")) == 0
    assert_same_run(tmp_path / "same", ae)
    assert len(differences(checkpoint(tmp_path / "other")["models"], checkpoint(ae)["models"])) >= 16
    assert records(tmp_path / "other") != records(ae)


@pytest.fixture(scope="module")
def undisturbed(data, template, scratch):
    folder = scratch / "undisturbed"
    assert call(*command(data, folder, "--obj_dir", template, *LONG)) == 0
    return folder


def test_sigterm_stops_after_the_step_with_a_whole_checkpoint(data, template, undisturbed, tmp_path):
    options = command(data, tmp_path / "run", "--obj_dir", template, *LONG)
    running = start(*options)
    wait_for_step(running, tmp_path / "run", 5)
    running.send_signal(signal.SIGTERM)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 75 and err == "", (running.returncode, err)
    step = checkpoint(tmp_path / "run")["step"]
    assert 5 <= step < 120 and "SIGTERM" in out and f"after step {step}" in out and "--resume" in out
    assert [r["step"] for r in metrics(tmp_path / "run")] == list(range(1, step + 1))
    assert call(*options, "--resume") == 0
    assert_same_run(tmp_path / "run", undisturbed)


def test_kill_in_the_middle_loses_only_steps(data, template, undisturbed, tmp_path):
    options = command(data, tmp_path / "run", "--obj_dir", template, *LONG)
    running = start(*options)
    wait_for_step(running, tmp_path / "run", 44)
    running.kill()
    running.communicate()
    assert running.returncode == -signal.SIGKILL
    assert checkpoint(tmp_path / "run")["step"] in (40, 80) and metrics(tmp_path / "run")[-1]["step"] >= 44
    with open(tmp_path / "run" / "metrics.jsonl", "a") as out:
        out.write('{"step": 99, "sil')  # an incomplete record, as after a crash of the machine
    assert call(*options, "--resume") == 0
    assert_same_run(tmp_path / "run", undisturbed)
    assert not list((tmp_path / "run").glob("*.part")) and not list((tmp_path / "run").glob("*.new"))


@pytest.mark.parametrize("when, code", [(2, 75), (3, 0)])
def test_an_interrupt_ends_the_step_first(when, code, data, template, tmp_path, monkeypatch, capsys):
    """SIGINT during a step; during the last step it changes nothing."""
    import training
    step = training.Trainer.step

    def interrupted(self, number, batch):
        if number == when:
            signal.raise_signal(signal.SIGINT)
        return step(self, number, batch)

    monkeypatch.setattr(training.Trainer, "step", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert call(*command(data, tmp_path / "run", "--obj_dir", template, "--n_iters=3")) == code
    assert checkpoint(tmp_path / "run")["step"] == when and signal.getsignal(signal.SIGINT) is before
    assert ("SIGINT" in capsys.readouterr().out) == (code == 75)


def test_a_damaged_checkpoint_is_named_and_the_one_before_goes_on(data, featgan, tmp_path, capsys):
    folder = shutil.copytree(featgan, tmp_path / "run")
    (folder / "last.pt").write_bytes((folder / "last.pt").read_bytes()[:1000])
    assert call(*command(data, folder, *SHORT, "--resume")) == 0
    said = capsys.readouterr()
    assert f"{folder}/last.pt" in said.err and "last.prev.pt" in said.err
    assert_same_run(folder, featgan)


def test_resume_at_the_end_changes_nothing(data, ae, template, tmp_path, capsys):
    folder = shutil.copytree(ae, tmp_path / "run")
    assert call(*command(data, folder, "--lambda_adv=0", "--obj_dir", template, *SHORT, "--resume")) == 0
    assert "the run already has 6 iterations; to continue it, give a higher --n_iters" in capsys.readouterr().out
    assert differences(checkpoint(folder), checkpoint(ae)) == [] and metrics(folder) == metrics(ae)


def test_resume_where_nothing_is_yet_starts(data, template, tmp_path):
    assert call(*command(data, tmp_path / "new", "--lambda_adv=0", "--obj_dir", template, "--n_iters=1",
                         "--resume")) == 0
    assert checkpoint(tmp_path / "new")["step"] == 1


def test_a_run_is_not_overwritten(data, ae, template, refused):
    message = refused(*command(data, ae, "--lambda_adv=0", "--obj_dir", template, *SHORT))
    assert str(ae) in message and "--resume" in message


@pytest.mark.parametrize("other, named", [
    ("--lr=0.001", "--lr=0.0001"), ("--seed=3", "--seed=0"), ("--lambda_adv=1", "--lambda_adv=0.0"),
    ("--batch_size=8", "--batch_size=4"), ("--trainViews=3", "--trainViews=None"), ("--amp", "--amp=False")])
def test_resume_with_another_option(other, named, data, ae, template, refused):
    kept = (ae / "options.json").read_bytes()
    message = refused(*command(data, ae, "--lambda_adv=0", "--obj_dir", template, *SHORT, "--resume", other))
    assert named in message and other.split("=")[0] in message.split("now")[1]
    assert (ae / "options.json").read_bytes() == kept


# ---- divergence ------------------------------------------------------------------------------------

def test_a_loss_that_is_not_finite_stops_the_run(data, template, tmp_path):
    """From step 4 on the rate is 1e26: step 4 is still finite, step 5 is not."""
    done = process(*command(data, tmp_path / "run", "--obj_dir", template, "--decay_batch=3", "--log_step=1",
                            "--decay_order=1e30", "--n_iters=20", "--ckpt_step=3", "--sample_step=3"))
    *before, said = done.stderr.splitlines()
    assert done.returncode == 3 and said.startswith("error: step 5: the ") and str(tmp_path / "run") in said, done
    # Before it at most the renderer's warning, with its line of code: the vertices of step 4 are far outside.
    assert not before or len(before) == 2 and "RuntimeWarning: nothing is visible: " in before[0], done.stderr
    assert any(f"the {part} loss is" in done.stderr for part in ("silhouette", "smoothness", "prior"))
    assert checkpoint(tmp_path / "run")["step"] == 3
    assert [r["step"] for r in metrics(tmp_path / "run")] == [1, 2, 3, 4]


@pytest.mark.parametrize("lr", ["1e30", "1e300"])
def test_weights_that_diverged_at_a_checkpoint(lr, data, template, tmp_path, capsys):
    """The weights diverge in the first step, and validation is due right after it."""
    code = call(*command(data, tmp_path / "run", "--obj_dir", template, f"--lr={lr}", "--n_iters=3",
                         "--ckpt_step=1", "--sample_step=1", "--lambda_adv=0"))
    lines = capsys.readouterr().err.splitlines()
    assert code == 3 and len(lines) == 1 and lines[0].startswith("error: step "), (code, lines)
    assert lines[0].endswith("; there was no checkpoint yet")
