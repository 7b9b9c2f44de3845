"""Checkpoints: the previous one is kept, damage of any kind is reported, and nothing in them can run code."""
import itertools
import os
import pickle
import resource
import shutil
import threading
import time

import pytest
import torch
from engine import checkpoints, runs
from errors import InputError
from saving import save_last

OPTIONS = {"lr": 1e-4, "class_ids": ["02958343"], "n_iters": 10}


def state(step):
    return {"step": step, "options": OPTIONS, "models": {"E": {"w": torch.arange(6.) + step}}}


def flip(path, position, mask):
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def weight_bytes(path, step):
    """Where the weights of `state(step)` lie in the file."""
    place = path.read_bytes().find((torch.arange(6.) + step).numpy().tobytes())
    assert place > 0
    return place


def test_save_last_keeps_the_one_before(tmp_path):
    for step in (1, 2, 3):
        save_last(tmp_path, state(step))
    assert sorted(os.listdir(tmp_path)) == ["last.prev.pt", "last.pt"]
    for name, step in (("last.pt", 3), ("last.prev.pt", 2)):
        read = checkpoints.load(tmp_path / name)
        assert read["step"] == step and read["options"] == OPTIONS
        assert torch.equal(read["models"]["E"]["w"], torch.arange(6.) + step)
    assert checkpoints.load_last(tmp_path)["step"] == 3
    checkpoints.write_next(tmp_path, state(2))
    checkpoints.name_best(tmp_path)
    checkpoints.name_best(tmp_path)
    assert checkpoints.load(tmp_path / "best.pt")["step"] == 2


def test_a_full_disk_while_saving_leaves_both_checkpoints(tmp_path, monkeypatch):
    save_last(tmp_path, state(1))
    save_last(tmp_path, state(2))

    def fill(_, out):
        out.write(b"PK half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(torch, "save", fill)
    with pytest.raises(OSError, match="No space"):
        save_last(tmp_path, state(3))
    assert sorted(os.listdir(tmp_path)) == ["last.prev.pt", "last.pt"]
    assert checkpoints.load_last(tmp_path)["step"] == 2 and checkpoints.load(tmp_path / "last.prev.pt")["step"] == 1


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path, monkeypatch):
    save_last(tmp_path, state(1))
    replace = os.replace

    def killed(source, target):
        if str(target).endswith("last.pt"):
            raise KeyboardInterrupt
        replace(source, target)
    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_last(tmp_path, state(2))
    assert not (tmp_path / "last.pt").exists()
    assert checkpoints.load_last(tmp_path)["step"] == 2
    monkeypatch.undo()
    assert runs.start(tmp_path, OPTIONS, resume=True)["step"] == 2
    assert [checkpoints.load(tmp_path / n)["step"] for n in ("last.pt", "last.prev.pt")] == [2, 1]
    assert not (tmp_path / "last.pt.new").exists()


def test_a_reader_always_gets_a_complete_checkpoint(tmp_path):
    """While checkpoints are saved without a pause, each read returns one of the newest two, without a warning."""
    save_last(tmp_path, state(0))
    enough = threading.Event()

    def save():
        for step in itertools.takewhile(lambda _: not enough.is_set(), itertools.count(1)):
            save_last(tmp_path, state(step))
    writer = threading.Thread(target=save)
    writer.start()
    seen, end = [], time.monotonic() + 60
    try:
        while len(set(seen)) < 20:  # the reader may run rarely
            assert time.monotonic() < end, f"only {sorted(set(seen))} were read"
            read = checkpoints.load_last(tmp_path)
            assert torch.equal(read["models"]["E"]["w"], torch.arange(6.) + read["step"])
            seen.append(read["step"])
    finally:
        enough.set()
        writer.join()
    assert sorted(seen) == seen, "older than one that was read before"


def test_no_warning_while_a_training_renames_its_checkpoints(tmp_path, capsys, monkeypatch):
    """last.pt is renamed just before it is opened, as when a training saves."""
    for step in (1, 2):
        save_last(tmp_path, state(step))
    load, moves = checkpoints.load, iter([lambda: save_last(tmp_path, state(3))])

    def disturbed(path):
        next(moves, lambda: None)()
        return load(path)
    monkeypatch.setattr(checkpoints, "load", disturbed)
    os.replace(tmp_path / "last.pt", tmp_path / "last.pt.new")
    assert checkpoints.load_last(tmp_path)["step"] == 3 and capsys.readouterr().err == ""


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path):
    path.write_bytes(b"")


def flip_a_weight(path):
    flip(path, weight_bytes(path, 2) + 5, 1)


def write_text(path):
    path.write_text("not a checkpoint at all\n")


damages = pytest.mark.parametrize("damage", [cut, empty, flip_a_weight, write_text])


def test_a_run_does_not_resume_from_a_checkpoint_without_its_record(tmp_path):
    """The run was killed after it wrote a checkpoint and before it wrote the record."""
    save_last(tmp_path, state(1))
    checkpoints.write_next(tmp_path, state(2))
    checkpoints.name_best(tmp_path)
    os.remove(tmp_path / "last.pt")
    with pytest.raises(InputError, match="has no last.pt"):
        checkpoints.load_last(tmp_path)
    assert checkpoints.load(tmp_path / "best.pt")["step"] == 2


@pytest.mark.parametrize("call", ["link", "replace", "fsync"])
def test_a_second_name_that_fails_leaves_the_first_whole(call, tmp_path, monkeypatch):
    """Both names are links to one file, so a failure with the second name must not change the file."""
    save_last(tmp_path, state(1))
    checkpoints.write_next(tmp_path, state(2))

    def refuse(*_):
        monkeypatch.undo()
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(os, call, refuse)
    try:
        checkpoints.name_best(tmp_path)
    except OSError as error:
        assert call != "link" and "best.pt: No space left" in str(error)
    checkpoints.name_last(tmp_path, 2)
    assert checkpoints.load_last(tmp_path)["step"] == 2 and checkpoints.load(tmp_path / "last.prev.pt")["step"] == 1
    assert not list(tmp_path.glob("*.part"))


def test_the_error_of_the_disk_is_reported_not_torchs(tmp_path):
    """If writing fails half-way, torch raises another error."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save_last(tmp_path, state(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (40000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot write .*next.pt: File too large"):
            save_last(tmp_path, {**state(2), "models": {"E": {"w": torch.rand(99999)}}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == ["last.pt"] and checkpoints.load_last(tmp_path)["step"] == 1


@damages
def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, damage, capsys):
    save_last(tmp_path, state(1))
    save_last(tmp_path, state(2))
    damage(tmp_path / "last.pt")
    with pytest.raises(InputError, match="last.pt"):
        checkpoints.load(tmp_path / "last.pt")
    assert checkpoints.load_last(tmp_path)["step"] == 1
    warning = capsys.readouterr().err
    assert "warning" in warning and "last.pt" in warning and "resuming from" in warning
    assert "last.prev.pt" in warning
    shutil.copy(tmp_path / "last.pt", tmp_path / "last.prev.pt")
    with pytest.raises(InputError, match="last.pt"):
        checkpoints.load_last(tmp_path)


def places(data, signature, first, last):
    """Positions first ... last - 1 after the start of every occurrence of a signature."""
    starts = [k for k in range(len(data)) if data.startswith(signature, k)]
    return [k + offset for k in starts for offset in range(first, last)]


@pytest.mark.parametrize("mask", [8, 255])
def test_no_flipped_byte_goes_unnoticed_or_ends_in_another_error(tmp_path, mask):
    path, whole, wrong = tmp_path / "last.pt", state(2), []
    torch.save(whole, path)
    original = path.read_bytes()
    # Sizes, checksums and offsets: in the header of each member, in the directory, and at the end.
    positions = places(original, b"PK\3\4", 14, 30) + places(original, b"PK\1\2", 8, 46) + \
        places(original, b"PK\5\6", 0, 22) + places(original, b"archive/data.pkl", 0, 16) + \
        list(range(weight_bytes(path, 2), weight_bytes(path, 2) + 24, 3))
    assert len(positions) > 300
    for position in positions:
        flip(path, position, mask)
        try:
            read = checkpoints.load(path)
            if not torch.equal(read["models"]["E"].pop("w"), whole["models"]["E"]["w"]) or \
                    read != {**whole, "models": {"E": {}}}:
                wrong.append((position, "other values"))
        except InputError:
            pass
        except Exception as error:
            wrong.append((position, repr(error)))
        flip(path, position, mask)
    assert path.read_bytes() == original
    assert not wrong


def test_what_stands_before_a_zip_file_is_not_read(tmp_path):
    """A pickle before the zip data: zipfile reads the file as a valid zip file, but torch would read the pickle."""
    save_last(tmp_path, state(1))
    path = tmp_path / "last.pt"
    path.write_bytes(pickle.dumps(state(1)["options"]) + path.read_bytes())
    with pytest.raises(InputError, match="last.pt is damaged at its beginning"):
        checkpoints.load(path)


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["options", "models", "everything"])
def test_a_malicious_checkpoint_is_refused_and_does_not_run(tmp_path, legacy, place):
    proof, path = tmp_path / "it ran", tmp_path / "last.pt"
    evil = Payload(proof) if place == "everything" else {**state(1), place: Payload(proof)}
    torch.save(evil, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match="last.pt"):
        checkpoints.load(path)
    with pytest.raises(InputError):
        checkpoints.load_last(tmp_path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the payload works where it is let"


def test_load_says_what_it_expected(tmp_path):
    with pytest.raises(InputError, match="there is no checkpoint .*best.pt"):
        checkpoints.load(tmp_path / "best.pt")
    with pytest.raises(InputError, match=f"{tmp_path}"):
        checkpoints.load(tmp_path)
    for value in ([1, 2], {"step": 1, "options": {}}, torch.zeros(3)):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(InputError, match="not a checkpoint of this program.*step, options or models"):
            checkpoints.load(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(state(1)["options"]))
    with pytest.raises(InputError, match="b.pt"):
        checkpoints.load(tmp_path / "b.pt")
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="has no last.pt; is it the --ckpt_dir of a run"):
            checkpoints.load_last(folder)
