"""Writing in a background thread, as on a GPU. Here the thread runs beside a CPU, so that the files can be compared."""
import json
import threading

import pytest
import torch
from command import CAR, TINY, call, checkpoint, differences
from engine import checkpoints, scribe
from errors import WriteError
from training import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def beside(monkeypatch):
    monkeypatch.setattr(scribe, "BESIDE", ("cpu",))


def train(data, folder, *more):
    return call("--mode=train", "--data_dir", data, "--class_ids", CAR, "--ckpt_dir", folder, *TINY, "--n_iters=6",
                "--ckpt_step=2", "--sample_step=3", "--log_step=1", "--keep_last=2", *more)


def test_functions_run_in_order_in_the_background(beside):
    done, gate = [], threading.Event()
    writer = scribe.Scribe(CPU)
    writer.do(gate.wait, 60)
    for number in range(5):
        writer.do(done.append, number)
    assert not done
    gate.set()
    writer.close()
    assert done == list(range(5))


def test_on_a_cpu_functions_run_immediately():
    done, state = [], {"weight": torch.zeros(2)}
    writer = scribe.Scribe(CPU)
    writer.do(done.append, 1)
    assert done == [1] and writer.copied(state) is state
    with pytest.raises(ZeroDivisionError):
        writer.do(lambda: 1 / 0)
    writer.close()


def test_an_error_is_raised_later_and_nothing_is_written_after_it(beside):
    done, gate = [], threading.Event()
    writer = scribe.Scribe(CPU)

    def fail():
        gate.wait(60)
        raise WriteError("full")
    writer.do(fail)
    writer.do(done.append, 1)  # the error is not known yet
    gate.set()
    with pytest.raises(WriteError, match="full"):
        writer.wait()
    with pytest.raises(WriteError, match="full"):
        writer.do(done.append, 2)
    with pytest.raises(WriteError, match="full"):
        writer.copied({})
    with pytest.raises(WriteError, match="full"):
        writer.close()
    assert not done


def test_a_copy_stays_what_it_was_until_the_next_one(beside):
    writer, weight = scribe.Scribe(CPU), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    state = {"step": 3, "models": {"E": {"w": weight}}, "groups": [{"lr": 0.1, "n": torch.tensor(2.0)}], "more": (1, "a")}
    was, copy = weight.clone(), writer.copied(state)
    weight.add_(1)
    assert torch.equal(copy["models"]["E"]["w"], was) and copy["models"]["E"]["w"].stride() == weight.stride()
    assert (copy["step"], copy["more"], copy["groups"][0]["lr"]) == (3, (1, "a"), 0.1)
    seen, gate = [], threading.Event()
    writer.do(lambda: (gate.wait(60), seen.append(copy["models"]["E"]["w"].clone())))
    threading.Timer(0.2, gate.set).start()
    again = writer.copied({**state, "new": torch.ones(1)})  # waits for the function that still reads the first copy
    assert torch.equal(seen[0], was) and torch.equal(again["models"]["E"]["w"], was + 1) and again["new"] == 1
    writer.close()


def test_the_files_are_the_same(data, tmp_path, beside, monkeypatch):
    assert train(data, tmp_path / "beside") == 0
    monkeypatch.setattr(scribe, "BESIDE", ())
    assert train(data, tmp_path / "between") == 0
    folders = tmp_path / "beside", tmp_path / "between"
    names = [sorted(str(p.relative_to(f)) for p in f.rglob("*")) for f in folders]
    assert names[0] == names[1] and "samples/00003.png" in names[0] and "step-00004.pt" in names[0]

    def records(folder):
        return [{k: v for k, v in json.loads(line).items() if k not in ("time", "images_per_s")}
                for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records(folders[0]) == records(folders[1])
    for name in ("last.pt", "last.prev.pt", "best.pt", "step-00004.pt"):
        one, other = (checkpoint(f, name) for f in folders)
        assert not [path for path in differences(one, other) if not path.startswith(("/options/", "/elapsed"))]
    for name in names[0]:
        if name.startswith("samples/"):
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_steps_go_on_while_a_checkpoint_is_written(data, tmp_path, beside, monkeypatch):
    """Writing the first checkpoint waits until a later step has run."""
    later, write, step = threading.Event(), checkpoints.write_next, Trainer.step

    def waiting(folder, state):
        assert state["step"] != 2 or later.wait(60)
        write(folder, state)

    def seen(self, number, batch):
        result = step(self, number, batch)
        if number == 4:
            later.set()
        return result
    monkeypatch.setattr(checkpoints, "write_next", waiting)
    monkeypatch.setattr(Trainer, "step", seen)
    assert train(data, tmp_path / "run") == 0 and later.is_set()
    assert checkpoint(tmp_path / "run")["step"] == 6


def test_a_full_disk_ends_the_run_with_the_checkpoint_before(data, tmp_path, beside, monkeypatch, capsys):
    write = checkpoints.write_next

    def full(folder, state):
        if state["step"] == 4:
            raise WriteError("cannot write next.pt: No space left on device")
        write(folder, state)
    monkeypatch.setattr(checkpoints, "write_next", full)
    assert train(data, tmp_path / "run") == 74
    assert "No space left" in capsys.readouterr().err and checkpoint(tmp_path / "run")["step"] == 2
    monkeypatch.undo()
    assert train(data, tmp_path / "run", "--resume") == 0
    assert train(data, tmp_path / "whole") == 0
    one, other = (checkpoint(tmp_path / name) for name in ("run", "whole"))
    torch.testing.assert_close(one["models"], other["models"], rtol=0, atol=0)
