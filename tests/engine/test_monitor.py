"""Console output and records: durations, the progress line, and records that are never lost and never raise."""
import builtins
import io
import json
import math
import resource

import numpy as np
import pytest
from engine import monitor
from engine.monitor import Monitor, Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """The clock of `monitor`, a list with one number."""
    now = [100.0]
    monkeypatch.setattr(monitor.time, "monotonic", lambda: now[0])
    return now


def read(path):
    """The records of a log, parsed as strict JSON."""
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")
    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("seconds, text", [
    (0, "0s"), (12, "12s"), (59.4, "59s"), (59.6, "1m00s"), (60, "1m00s"), (754, "12m34s"), (3599, "59m59s"),
    (3599.7, "1h00m"), (7449, "2h04m"), (360000, "100h00m")])
def test_duration(seconds, text):
    assert duration(seconds) == text


# ---- the log ------------------------------------------------------------------------------------------


def test_records_are_lines_of_json(tmp_path, clock):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5}\n')
    log = Monitor(path, 5, 100, elapsed=7)
    clock[0] += 2.5
    log.record(6, {"loss": .25, "picture": "00006.png", "count": 3, "iou_of": {"car": .5}})
    clock[0] += 1
    log.record(7, {"loss": 1e-30})
    assert read(path) == [
        {"step": 5},
        {"step": 6, "time": 9.5, "loss": .25, "picture": "00006.png", "count": 3, "iou_of": {"car": .5}},
        {"step": 7, "time": 10.5, "loss": 1e-30}]


def test_what_is_not_finite_becomes_null(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Monitor(path, 0, 10)
    log.record(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5, "e": None})
    log.record(2, {"a": np.float64("nan"), "b": np.float64(2)})
    log.record(3, {"iou_of": {"car": math.nan, "chair": .5}})
    first, second, third = read(path)
    assert [first[k] for k in "abcde"] == [None, None, None, 1.5, None]
    assert second["a"] is None and second["b"] == 2
    assert third["iou_of"] == {"car": None, "chair": .5}


def test_numbers_of_other_kinds_do_not_raise_into_training(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = Monitor(path, 0, 10)
    log.record(1, {"a": np.float32(.5), "b": np.int64(3)})
    log.record(2, {"a": 1})
    assert read(path)[-1]["step"] == 2


def test_a_disk_that_is_full_for_a_while_costs_nothing(tmp_path, monkeypatch, capsys):
    path, real, full = tmp_path / "metrics.jsonl", builtins.open, [False]

    def opened(name, *arguments, **options):
        if full[0] and str(name) == str(path):
            raise OSError(28, "No space left on device")
        return real(name, *arguments, **options)
    monkeypatch.setattr(builtins, "open", opened)
    log = Monitor(path, 0, 10)
    for step in range(1, 9):
        full[0] = step in (3, 4, 5, 7)
        log.record(step, {"loss": step / 2})
        written = [r["step"] for r in read(path)]
        assert written == list(range(1, {3: 3, 4: 3, 5: 3, 7: 7}.get(step, step + 1)))
    said = capsys.readouterr().out
    assert said.count("warning") == 1 and "No space left on device" in said and str(path) in said
    assert [r["loss"] for r in read(path)] == [step / 2 for step in range(1, 9)]


def test_a_write_that_stops_half_way_leaves_no_half_line(tmp_path, capsys):
    """The system writes as much as fits before it reports a full disk (capsys keeps the output in memory)."""
    path = tmp_path / "metrics.jsonl"
    log = Monitor(path, 0, 10)
    log.record(1, {"loss": .5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 15, limits[1]))
    try:
        log.record(2, {"loss": .25})
        log.record(3, {"loss": .125})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    log.record(4, {"loss": .0625})
    assert [r["step"] for r in read(path)] == [1, 2, 3, 4]


def test_a_folder_that_is_gone_does_not_end_the_run(tmp_path, capsys):
    log = Monitor(tmp_path / "gone" / "metrics.jsonl", 0, 10)
    log.record(1, {"loss": .5})
    assert "warning" in capsys.readouterr().out
    (tmp_path / "gone").mkdir()
    log.record(2, {"loss": .25})
    assert [r["step"] for r in read(tmp_path / "gone" / "metrics.jsonl")] == [1, 2]


# ---- the console ------------------------------------------------------------------------------------


def test_progress_of_training_counts_from_where_it_was_resumed(tmp_path, clock, capsys):
    log = Monitor(tmp_path / "metrics.jsonl", 100, 300, elapsed=1000)
    clock[0] += 20
    log.progress(150, {"loss": .123456, "val IoU": .5})
    # 50 iterations in 20 s; 150 are left
    assert capsys.readouterr().out == "150/300  loss 0.1235  val IoU 0.5  2.5 it/s, 1m00s left\n"
    assert log.elapsed == 1020
    log.progress(150, {"loss": float("nan"), "val MMD": float("nan")})
    assert "loss nan  val MMD - (too few objects a pose)  2.5" in capsys.readouterr().out
    log.progress(100, {})
    assert "? left" in capsys.readouterr().out


def test_a_terminal_that_is_gone_does_not_end_the_run(tmp_path, monkeypatch):
    def gone(*_, **__):
        raise BrokenPipeError
    log = Monitor(tmp_path / "metrics.jsonl", 0, 10)
    monkeypatch.setattr(builtins, "print", gone)
    log.say("anything")
    log.progress(5, {"loss": 1.0})


class Screen(io.StringIO):
    def __init__(self, alive):
        super().__init__()
        self.alive = alive

    def isatty(self):
        return self.alive


def test_progress_in_a_log_file_is_a_line_every_ten_seconds(clock):
    out = Screen(False)
    progress = Progress("car train", 300, " objects", out)
    for done in range(1, 301):
        clock[0] += .1
        progress.update(done)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] in [f"car train {n}/300 objects, 10.0/s, 20s left" for n in (100, 101)]
    assert lines[-1] == "car train 300/300 objects, 10.0/s, done in 30s"
    assert "\r" not in out.getvalue()


def test_progress_on_a_screen_rewrites_one_line(clock):
    out = Screen(True)
    progress = Progress("car train", 4, out=out)
    for done in range(1, 5):
        clock[0] += 1
        progress.update(done)
    shown = out.getvalue().split("\r\x1b[K")
    assert shown == ["", "car train 1/4, 1.0/s, 3s left", "car train 2/4, 1.0/s, 2s left",
                     "car train 3/4, 1.0/s, 1s left", "car train 4/4, 1.0/s, done in 4s\n"]
    out = Screen(True)
    progress = Progress("car train", 1000, out=out)
    for done in range(1, 1000):
        clock[0] += .001
        progress.update(done)
    assert 3 <= out.getvalue().count("\r") <= 5, "not a thousand times in a second"


def test_progress_without_time_passed_does_not_divide_by_zero(clock):
    out = Screen(False)
    Progress("x", 1, out=out).update(1)
    Progress("x", 0, out=out).update(0)
    assert out.getvalue().count("done in 0s") == 2
