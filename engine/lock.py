"""The lock of a run folder: one process trains in it at a time.

`run.lock` names the host, the process and its start time. A hard link creates it, which is atomic on network file
systems too. A process that dies without cleaning up (kill -9, out of memory, power cut) leaves its lock behind; the
next process detects that and replaces the lock. Only training locks a folder: evaluation reads complete checkpoints
whatever a training writes meanwhile.
"""
import contextlib
import json
import os
import socket
import sys
import time

from engine import disk, strict_json
from errors import InputError

NAME = "run.lock"


@contextlib.contextmanager
def held(folder):
    """Hold the lock of a folder. Creates the folder if necessary, and removes it again if it stays empty."""
    made = disk.make_folder(folder, "--ckpt_dir")
    path, mine = os.path.join(folder, NAME), json.dumps(_this_process()) + "\n"
    try:
        _take(folder, path, mine)
        try:
            yield
        finally:
            with contextlib.suppress(OSError, InputError):  # the folder or the disk may be gone
                if _content(path) == mine:
                    os.remove(path)
    finally:
        disk.remove_folders(made)


def check(folder):
    """Refuse a folder that another process holds; changes nothing. Returns the content of a dead process's lock, or
    None."""
    path = os.path.join(folder, NAME)
    content = _content(path)
    if content is None:
        return None
    try:
        holder = strict_json.loads(content)
        name = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        dead = _dead(holder)
    except (ValueError, KeyError, TypeError, OverflowError):
        raise InputError(f"{path} is not a lock of this program; remove it if nothing trains there") from None
    if dead is False:
        raise InputError(f"--ckpt_dir={folder} is in use by {name}; wait for it, stop it, or choose another "
                         "folder")
    if dead is None:
        raise InputError(f"--ckpt_dir={folder} is in use by {name}, which {socket.gethostname()} "
                         f"cannot see; if it has ended, remove {path}")
    return content


def _take(folder, path, mine):
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, "w") as out:
            out.write(mine)
        while not _link(beside, path):
            stale = check(folder)
            if stale is not None:
                _put_aside(path, stale)
    except OSError as error:
        raise InputError(f"--ckpt_dir={folder} cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)


def _link(beside, path):
    """Link `beside` to `path`; False if the name exists."""
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            with open(beside) as content, open(path, "x") as out:
                out.write(content.read())
        except FileExistsError:
            return False
    return True


def _put_aside(path, stale):
    """Remove the lock of a dead process, unless another process has already replaced it with its own."""
    aside = f"{path}.{os.getpid()}.part"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, f"{aside}.stale")
        if _content(f"{aside}.stale") == stale:
            print(f"warning: {path}: process {json.loads(stale)['pid']} died without removing it; replacing it",
                  file=sys.stderr)
        else:
            _link(f"{aside}.stale", path)
        os.remove(f"{aside}.stale")


def _content(path):
    try:
        with open(path, errors="replace") as file:
            return file.read(4096)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _this_process():
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "began": _began(pid), **_place()}


def _place():
    """Boot id of the machine and PID namespace, which two processes must share to see each other. Both None on systems
    other than Linux."""
    place = {"boot": None, "pids": None}
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            place["boot"] = file.read().strip()
        place["pids"] = os.readlink("/proc/self/ns/pid")
    return place


def _began(pid):
    """Start time of a process in ticks since boot, which detects a reused process id. None if it cannot be read, or if
    the process is a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except OSError:
        return None


def _dead(holder):
    """Whether the process that holds a lock is dead: True, False, or None if this process cannot see it."""
    here = _place()
    if holder["host"] != socket.gethostname():
        return None
    if holder["boot"] != here["boot"]:
        return True  # the machine has rebooted since
    if holder["pids"] != here["pids"]:
        return None  # in another container
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _began(int(holder["pid"])) != holder["began"]
