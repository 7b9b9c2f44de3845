"""A run that a signal or a full disk ends, and resuming it: what is kept, printed and refused."""
import contextlib
import errno
import os
import shutil
import signal
import time

import pytest
import torch
from command import CAR, SHORT, TINY, call, checkpoint, differences, listing, metrics, script, start, wait_for_step
from engine import checkpoints
from errors import Stopped


def command(data, template, folder, *more):
    return ("--mode=train", "--data_dir", data, "--ckpt_dir", folder, "--obj_dir", template, "--lambda_adv=0",
            *TINY, *more)


@pytest.fixture
def at_step(monkeypatch):
    """A function that makes a given step call a given action in its middle."""
    from training import Trainer
    step, due = Trainer.step, {}

    def disturbed(self, number, batch):
        due.get(number, lambda: None)()
        return step(self, number, batch)
    monkeypatch.setattr(Trainer, "step", disturbed)
    return due.__setitem__


# ---- signals ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", ["SIGUSR1", "SIGTERM", "SIGINT"])
def test_a_signal_ends_the_run_after_its_step(number, at_step, data, ae, template, tmp_path, capsys):
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)}
    at_step(4, lambda: signal.raise_signal(getattr(signal, number)))
    assert call(*command(data, template, tmp_path / "run", *SHORT)) == 75
    assert f"{number}: stopped and saved after step 4; continue with --resume" in capsys.readouterr().out
    assert checkpoint(tmp_path / "run")["step"] == 4 and not (tmp_path / "run" / "run.lock").exists()
    assert {s: signal.getsignal(s) for s in before} == before
    at_step(4, lambda: None)
    assert call(*command(data, template, tmp_path / "run", *SHORT, "--resume")) == 0
    assert differences(checkpoint(tmp_path / "run")["models"], checkpoint(ae)["models"]) == []


@pytest.mark.parametrize("place", ["step", "save"])
def test_a_second_interrupt_ends_it_at_once(place, at_step, data, template, tmp_path, monkeypatch, capsys):
    """In the middle of a step, and between the two renames of a checkpoint."""
    def twice():
        signal.raise_signal(signal.SIGINT), signal.raise_signal(signal.SIGINT)
    if place == "step":
        at_step(4, twice)
    else:
        replace = os.replace

        def disturbed(source, target):
            replace(source, target)
            if str(target).endswith("last.prev.pt"):
                twice()
        monkeypatch.setattr(os, "replace", disturbed)
    assert call(*command(data, template, tmp_path / "run", *SHORT)) == 75
    said = capsys.readouterr()
    assert "SIGINT: stopped at once; the last checkpoint stays" in said.out and said.err == ""
    assert checkpoints.load_last(tmp_path / "run")["step"] == (3 if place == "step" else 6)
    left = {p.name for p in (tmp_path / "run").iterdir()}
    assert not [n for n in left if n.endswith(".part") or n == "run.lock"], left


def test_a_second_interrupt_while_torch_writes(tmp_path, monkeypatch):
    """torch reports only an unexpected position."""
    class Interrupted:
        def write(self, data):
            raise Stopped("SIGINT: stopped at once")
    monkeypatch.setattr(checkpoints, "written_whole", lambda *_: contextlib.nullcontext(Interrupted()))
    with pytest.raises(Stopped):
        checkpoints.write_next(tmp_path, {"step": 1})


def test_an_interrupt_while_modules_are_loaded(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt
    program = script()
    monkeypatch.setattr(program, "parse", interrupted)
    assert program.main(["--mode=train"]) == 130 and capsys.readouterr().err == "interrupted\n"


def test_a_signal_while_data_are_loaded(data, template, tmp_path, monkeypatch, capsys):
    from datasets import CVPR18
    monkeypatch.setattr(CVPR18, "voxels", lambda *_: signal.raise_signal(signal.SIGTERM))
    before = listing(tmp_path)
    assert call(*command(data, template, tmp_path / "run", *SHORT)) == 75
    said = capsys.readouterr()
    assert said.out == "SIGTERM: stopped before the first step\n" and said.err == ""
    assert listing(tmp_path) == before


def test_frozen_and_thawed_and_usr1_as_people_send_them(data, template, tmp_path):
    running = start(*command(data, template, tmp_path / "run", "--n_iters=100000", "--log_step=1",
                             "--ckpt_step=90000", "--sample_step=90000"))
    wait_for_step(running, tmp_path / "run", 2)
    running.send_signal(signal.SIGSTOP)
    time.sleep(0.3)
    frozen = metrics(tmp_path / "run")[-1]["step"]
    time.sleep(0.2)
    assert metrics(tmp_path / "run")[-1]["step"] == frozen
    running.send_signal(signal.SIGCONT)
    wait_for_step(running, tmp_path / "run", frozen + 3)
    running.send_signal(signal.SIGUSR1)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 75 and err == "" and "SIGUSR1: stopped and saved" in out
    step = checkpoint(tmp_path / "run")["step"]
    assert [r["step"] for r in metrics(tmp_path / "run")] == list(range(1, step + 1))


# ---- a disk that is full ---------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["next.pt", "best.pt", "options.json", "metrics.jsonl"])
def test_what_cannot_be_written_is_said_and_nothing_is_lost(name, data, ae, template, tmp_path, monkeypatch,
                                                            capsys):
    """From step 4 on, one file cannot be synced; options.json from the start."""
    import builtins
    real, full = builtins.open, [True]

    def opened(path, mode="r", *arguments, **options):
        if full[0] and mode[0] in "wa" and os.path.basename(str(path)).startswith(name) and (
                name == "options.json" or (tmp_path / "run" / "last.pt").exists()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(path, mode, *arguments, **options)
    monkeypatch.setattr(builtins, "open", opened)
    if name == "best.pt":  # a link to the newest, if the file system has links

        def refuse(*_):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        monkeypatch.setattr(os, "link", refuse)
    options = command(data, template, tmp_path / "run", *SHORT)
    monkeypatch.setattr("scoring.voxel_iou", lambda a, b: torch.tensor([len(metrics(tmp_path / "run")) / 9]))
    assert call(*options) == 74
    said = capsys.readouterr()
    assert said.err == f"error: cannot write {tmp_path}/run/{name}: No space left on device\n"
    if name != "options.json":
        assert checkpoint(tmp_path / "run")["step"] == 3
    assert not list((tmp_path / "run").glob("*.part")) and not (tmp_path / "run" / "run.lock").exists()
    full[0] = False
    monkeypatch.undo()
    assert call(*options, "--resume") == 0
    assert differences(checkpoint(tmp_path / "run")["models"], checkpoint(ae)["models"]) == []
    assert [r["step"] for r in metrics(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


# ---- other data ------------------------------------------------------------------------------------

def test_data_that_moved_are_the_same_and_others_are_not(data, ae, template, tmp_path, refused):
    run = shutil.copytree(ae, tmp_path / "run")
    options = ("--ckpt_dir", run, "--resume")
    moved = shutil.copytree(data, tmp_path / "moved", ignore=shutil.ignore_patterns(".cache"))
    assert call(*command(moved, template, run, *SHORT, "--resume")) == 0
    for split, count, told in (("train", 3, f"class {CAR}, train: 72 images of 3 objects instead of 96 of 4"),
                               ("val", 2, f"class {CAR}, val: the same number of images, but different ones")):
        other = tmp_path / f"other {split}"
        assert call("--mode=make_dataset", "--data_dir", other, "--class_ids", CAR, f"--n_train={count}",
                    "--n_val=2", "--n_test=1", "--data_seed=5") == 0
        for rest in data.glob(f"{CAR}_*"):
            if f"_{split}_" not in rest.name:
                shutil.copy(rest, other)
        message = refused(*command(other, template, run, *SHORT), *options, "--cache_dir", data / ".cache")
        assert f"--data_dir={other} holds other data than the run in {run}" in message and told in message


# ---- numbered checkpoints --------------------------------------------------------------------------

def test_the_newest_checkpoints_are_kept(data, template, tmp_path, refused):
    options = command(data, template, tmp_path / "run", "--ckpt_step=2", "--sample_step=100", "--keep_last=2")
    assert call(*options, "--n_iters=5") == 0
    kept = sorted(p.name for p in (tmp_path / "run").glob("step-*"))
    assert kept == ["step-00004.pt", "step-00005.pt"]
    assert [checkpoint(tmp_path / "run", n)["step"] for n in kept] == [4, 5]
    assert call(*options, "--n_iters=8", "--resume") == 0
    assert sorted(p.name for p in (tmp_path / "run").glob("step-*")) == ["step-00006.pt", "step-00008.pt"]
    assert checkpoint(tmp_path / "run")["step"] == 8 and checkpoint(tmp_path / "run", "last.prev.pt")["step"] == 6
    assert call("--mode=evaluation", "--ckpt_dir", tmp_path / "run", "--eval_flag=6", "--split=val") == 0
    assert '"step": 6' in (tmp_path / "run" / "evaluation_val_6.json").read_text()
    assert "step-00004.pt" in refused("--mode=evaluation", "--ckpt_dir", tmp_path / "run", "--eval_flag=4")
    assert "'../x' is not last, best or a step" in refused("--mode=evaluation", "--eval_flag=../x", usage=True)
