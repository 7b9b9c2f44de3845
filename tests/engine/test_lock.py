"""The lock of a run folder: one training at a time; the lock of a dead process is replaced."""
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from command import TINY, call, start, wait_for_step
from engine import lock
from errors import InputError


def holder(**other):
    return json.dumps({**lock._this_process(), **other})


def ended_process():
    """The id of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_it_names_this_process_while_it_is_held(tmp_path):
    with lock.held(tmp_path):
        told = json.loads((tmp_path / "run.lock").read_text())
        assert told["pid"] == os.getpid() and told["host"] == socket.gethostname() and told["since"]
        with pytest.raises(InputError, match=f"{tmp_path} is in use by process {os.getpid()} on "
                                             f"{socket.gethostname()} since {told['since']}"):
            with lock.held(tmp_path):
                pass
        assert os.listdir(tmp_path) == ["run.lock"], "a refusal leaves the holder's lock"
    assert os.listdir(tmp_path) == []
    with pytest.raises(ZeroDivisionError), lock.held(tmp_path):
        1 / 0
    assert os.listdir(tmp_path) == []


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with lock.held(tmp_path / "a" / "b"):
        pass
    assert os.listdir(tmp_path) == []
    with lock.held(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "file").write_text("")
    assert os.listdir(tmp_path / "a" / "b") == ["file"]


@pytest.mark.parametrize("left", [
    lambda: holder(pid=ended_process()),
    lambda: holder(began=lock._began(os.getpid()) - 1),      # another process has the id now
    lambda: holder(boot="of another day", pid=os.getpid())])
def test_the_lock_of_a_dead_process_is_replaced(left, tmp_path, capsys):
    (tmp_path / "run.lock").write_text(left())
    assert lock.check(tmp_path)
    with lock.held(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["began"] == lock._began(os.getpid())
        assert os.listdir(tmp_path) == ["run.lock"]
    assert "died without removing it" in capsys.readouterr().err and os.listdir(tmp_path) == []


def test_a_zombie_process_is_dead(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    (tmp_path / "run.lock").write_text(holder(pid=child.pid, began=1))
    assert lock.check(tmp_path)
    child.communicate()


@pytest.mark.parametrize("place, remedy", [
    (dict(host="node7"), "if it has ended, remove "), (dict(pids="pid:[1]"), "if it has ended, remove "),
    ({}, "wait for it, stop it, or choose another folder")])
def test_the_lock_of_a_living_or_remote_process_is_respected(place, remedy, tmp_path):
    (tmp_path / "run.lock").write_text(holder(**place))
    with pytest.raises(InputError, match=remedy), lock.held(tmp_path):
        pass
    assert os.listdir(tmp_path) == ["run.lock"]


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "{}", "\0" * 99,
                                  holder(pid=10 ** 30), holder(pid="1.5"), "[" * 4000])
def test_a_file_that_is_not_a_lock_is_named(text, tmp_path):
    (tmp_path / "run.lock").write_text(text)
    with pytest.raises(InputError, match="run.lock is not a lock of this program; remove it"), lock.held(tmp_path):
        pass
    assert (tmp_path / "run.lock").read_text() == text


def test_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")
    monkeypatch.setattr(os, "link", refuse)
    with lock.held(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
        with pytest.raises(InputError, match="in use"), lock.held(tmp_path):
            pass
    assert os.listdir(tmp_path) == []


def test_of_two_processes_that_replace_a_stale_lock_the_first_keeps_it(tmp_path):
    """Both saw the lock of the dead process; the other was faster, and its lock is there now."""
    path = tmp_path / "run.lock"
    path.write_text("the other's")
    lock._put_aside(str(path), holder(pid=ended_process()))
    assert path.read_text() == "the other's" and os.listdir(tmp_path) == ["run.lock"]


def test_a_process_does_not_remove_the_lock_of_another(tmp_path):
    with lock.held(tmp_path):
        (tmp_path / "run.lock").write_text("somebody else's by now")
    assert (tmp_path / "run.lock").read_text() == "somebody else's by now"


def test_two_trainings_in_one_folder(data, template, tmp_path, refused):
    """The second is refused with any options. A frozen process keeps its lock; a killed one does not."""
    options = ("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "run", "--obj_dir", template,
               "--lambda_adv=0", "--ckpt_step=1000", "--log_step=1", *TINY)
    running = start(*options, "--n_iters=100000")
    try:
        wait_for_step(running, tmp_path / "run", 1)
        running.send_signal(signal.SIGSTOP)
        for more in ((), ("--resume",)):
            message = refused(*options, "--n_iters=2", *more)
            assert f"in use by process {running.pid} on {socket.gethostname()} since 20" in message
    finally:
        running.kill()
        running.communicate()
    assert call(*options, "--n_iters=2", "--resume") == 0
    assert not (tmp_path / "run" / "run.lock").exists()


def test_the_lock_goes_after_a_refusal_and_after_divergence(data, ae, template, tmp_path):
    """A folder that cannot be resumed, and a run that diverges."""
    options = ("--mode=train", "--data_dir", data, "--lambda_adv=0", "--obj_dir", template, *TINY)
    run = shutil.copytree(ae, tmp_path / "run")
    assert call(*options, "--ckpt_dir", run, "--resume", "--lr=1") == 2
    assert call(*options, "--ckpt_dir", tmp_path / "new", "--lr=1e30", "--n_iters=2") == 3
    assert not list(tmp_path.rglob("run.lock*"))
