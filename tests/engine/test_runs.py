"""The run folder: files that are complete or absent, starting and resuming."""
import json
import math
import os
import random
import re

import numpy as np
import pytest
import torch
from engine import checkpoints, disk, runs
from errors import InputError
from saving import save_last

OPTIONS = {"lr": 1e-4, "class_ids": ["02958343"], "n_iters": 10, "lambda_adv": 1.0, "resume": False}


def state(step):
    return {"step": step, "options": OPTIONS, "models": {"E": {"w": torch.arange(6.) + step}}}


# ---- whole files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode, old, new", [("w", "old", "new"), ("wb", b"old", b"new")])
def test_written_whole_shows_all_or_nothing(tmp_path, mode, old, new):
    path = tmp_path / "file"
    read = path.read_text if mode == "w" else path.read_bytes
    with pytest.raises(KeyboardInterrupt), disk.written_whole(path, mode) as out:
        out.write(new)
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    with disk.written_whole(path, mode) as out:
        out.write(old)
        out.flush()
        assert not path.exists()
    assert read() == old
    with pytest.raises(ZeroDivisionError), disk.written_whole(path, mode) as out:
        out.write(new[:1])
        out.flush()
        assert read() == old
        1 / 0
    assert read() == old and os.listdir(tmp_path) == ["file"]
    with disk.written_whole(path, mode) as out:
        out.write(new)
    assert read() == new and os.listdir(tmp_path) == ["file"]


def test_written_whole_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda f: (events.append("sync"), fsync(f)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("name"), replace(a, b)))
    with disk.written_whole(tmp_path / "file") as out:
        out.write("text")
    assert events[:2] == ["sync", "name"]


def test_write_json(tmp_path):
    disk.write_json(tmp_path / "a.json", {"b": [1, 2.5, None, "c"], "d": {"e": math.nan, "f": [-math.inf]}})
    assert json.loads((tmp_path / "a.json").read_text()) == \
        {"b": [1, 2.5, None, "c"], "d": {"e": None, "f": [None]}}, "JSON knows no NaN"
    with pytest.raises(TypeError):
        disk.write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text())["b"] == [1, 2.5, None, "c"], "the old one stays"


def test_make_folder_says_why_it_cannot(tmp_path):
    disk.make_folder(tmp_path / "a" / "b", "--ckpt_dir")
    disk.make_folder(tmp_path / "a" / "b", "--ckpt_dir")
    assert os.listdir(tmp_path / "a" / "b") == []
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(InputError, match=f"--ckpt_dir={path} cannot be written: ."):
            disk.make_folder(path, "--ckpt_dir")
    assert (tmp_path / "file").read_text() == "in the way"


# ---- starting and resuming ----------------------------------------------------------------------------


def run_folder(tmp_path, lines, step=20):
    save_last(tmp_path, state(step))
    (tmp_path / "metrics.jsonl").write_text("".join(lines))
    return tmp_path


def record(step):
    return json.dumps({"step": step, "time": step / 10, "loss": .5}) + "\n"


def test_a_new_run(tmp_path):
    assert runs.start(tmp_path / "run", OPTIONS, resume=False) is None
    written = json.loads((tmp_path / "run" / "options.json").read_text())
    assert written["options"] == OPTIONS
    assert {"commit", "python", "torch", "numpy", "command"} <= set(written["versions"])
    assert written["versions"]["torch"] == torch.__version__
    assert runs.start(tmp_path / "run", OPTIONS, resume=False) is None, "nothing was trained yet"
    assert runs.start(tmp_path / "other", OPTIONS, resume=True) is None, "nothing there: a new run"


@pytest.mark.parametrize("name", ["last.pt", "last.prev.pt", "metrics.jsonl"])
def test_start_refuses_a_folder_that_holds_a_run(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(InputError, match=f"--ckpt_dir={tmp_path}.*{name}.*--resume"):
        runs.start(tmp_path, OPTIONS, resume=False)
    assert os.listdir(tmp_path) == [name] and (tmp_path / name).read_text() == "precious"


def test_resume_needs_the_same_options(tmp_path):
    run_folder(tmp_path, [record(s) for s in (10, 20, 30)])
    for name, before, now in (("lr", 1e-4, 1e-3), ("lambda_adv", 1.0, .5), ("class_ids", ["02958343"], ["a"]),
                              ("new_one", None, 7)):
        with pytest.raises(InputError, match=re.escape(f"--{name}={before}, now --{name}={now};")):
            runs.start(tmp_path, {**OPTIONS, name: now}, resume=True)
    without = {k: v for k, v in OPTIONS.items() if k != "lr"}
    with pytest.raises(InputError, match="--lr=0.0001, which this version of the program does not have"):
        runs.start(tmp_path, without, resume=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3, "a refusal changes nothing"
    assert not (tmp_path / "options.json").exists()


def test_a_run_of_an_older_program_had_the_defaults_of_options_that_came_later(tmp_path):
    run_folder(tmp_path, [])
    for now, defaults in (({"new_one": 7}, {"new_one": 7}), ({"new_one": None}, {})):
        assert runs.start(tmp_path, {**OPTIONS, **now}, resume=True, defaults=defaults)["step"] == 20
    with pytest.raises(InputError, match="trained with --new_one=7, now --new_one=8; resume with its own"):
        runs.start(tmp_path, {**OPTIONS, "new_one": 8}, resume=True, defaults={"new_one": 7})
    with pytest.raises(InputError, match="trained with --lr=0.0001, now --lr=0.1"):  # it knew this one
        runs.start(tmp_path, {**OPTIONS, "lr": .1}, resume=True, defaults={"lr": .1})


@pytest.mark.parametrize("value, off", [(None, True), (False, True), (0, False), (0.5, False), ("a", False)])
def test_an_option_that_is_gone_must_have_been_off(tmp_path, value, off):
    save_last(tmp_path, {**state(20), "options": {**OPTIONS, "gone": value}})
    if off:
        assert runs.start(tmp_path, OPTIONS, resume=True)["step"] == 20
    else:
        with pytest.raises(InputError, match=f"--gone={value}, which this version of the program does not have"):
            runs.start(tmp_path, OPTIONS, resume=True)


def test_resume_may_go_on_for_longer(tmp_path):
    run_folder(tmp_path, [])
    resumed = runs.start(tmp_path, {**OPTIONS, "n_iters": 99, "resume": True, "threads": 2}, resume=True)
    assert resumed["step"] == 20 and torch.equal(resumed["models"]["E"]["w"], torch.arange(6.) + 20)
    assert json.loads((tmp_path / "options.json").read_text())["options"]["n_iters"] == 99


@pytest.mark.parametrize("lines, kept", [
    ([record(s) for s in (10, 20, 30, 40)], [10, 20]),
    ([record(10), record(20)], [10, 20]),
    ([record(10), record(20)[:17]], [10]),                 # cut short
    ([record(10), record(20)[:-1]], [10, 20]),             # only its line end is missing
    ([record(10), '{"st\n', record(20)], [10, 20]),        # only the incomplete line is lost
    ([record(30)], []), ([], [])])
def test_resume_forgets_what_will_be_done_again(tmp_path, lines, kept):
    run_folder(tmp_path, lines)
    runs.start(tmp_path, OPTIONS, resume=True)
    with open(tmp_path / "metrics.jsonl", "a") as out:
        out.write(record(21))  # as the run goes on
    after = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert after == kept + [21]


def test_resume_after_a_damaged_checkpoint_forgets_back_to_the_one_before(tmp_path, capsys):
    save_last(tmp_path, state(10))
    run_folder(tmp_path, [record(s) for s in (5, 10, 15, 20, 25)])
    os.truncate(tmp_path / "last.pt", 700)
    assert runs.start(tmp_path, OPTIONS, resume=True)["step"] == 10
    assert (tmp_path / "metrics.jsonl").read_text() == record(5) + record(10)
    assert "last.prev.pt" in capsys.readouterr().err


def test_resume_without_a_checkpoint_begins_again(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(record(10))
    assert runs.start(tmp_path, OPTIONS, resume=True) is None
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_random_numbers_go_on_where_they_were(tmp_path):
    """The generators of torch, numpy and Python, including unused halves of Gaussian pairs, saved to a file."""
    def draw():
        return [torch.rand(5).tolist(), np.random.rand(3).tolist(), np.random.randn(3).tolist(),
                [random.random(), random.gauss(0, 1)]]
    runs.seed_everything(3)
    draw()
    held = runs.rng_state()
    torch.save({**state(1), "rng": held}, tmp_path / "a.pt")
    first = draw()
    runs.set_rng_state(checkpoints.load(tmp_path / "a.pt")["rng"])
    assert draw() == first
    runs.seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first))


def test_random_states_of_gpus_that_are_no_longer_there(monkeypatch):
    state, taken = {**runs.rng_state(), "cuda": ["first", "second", "third"]}, []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", taken.extend)
    runs.set_rng_state(state)
    assert taken == ["first"]
