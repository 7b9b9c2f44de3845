"""Who uses a run folder: one training process at a time.

`run.lock` in it names host, process and since when. It is made by a hard link, which also on network file
systems either gets the name, with all of the content, or does not. Who dies without a word (kill -9, out of
memory, power) leaves it behind; the next one sees that and takes over. Only training locks: evaluation reads
whole checkpoints whatever is written meanwhile.
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
    """Hold the folder, which is made if need be (and goes again if nothing was put into it)."""
    made = disk.make_folder(folder, "--ckpt_dir")
    path, mine = os.path.join(folder, NAME), json.dumps(_this_process()) + "\n"
    try:
        _take(folder, path, mine)
        try:
            yield
        finally:
            with contextlib.suppress(OSError, InputError):  # the folder may be gone, or the disk
                if _content(path) == mine:
                    os.remove(path)
    finally:
        disk.remove_folders(made)


def check(folder):
    """Refuse a folder that another process holds; changes nothing. Returns what a dead holder left there,
    or None."""
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
        raise InputError(f"--ckpt_dir={folder} is in use by {name}, which cannot be looked at from "
                         f"{socket.gethostname()}; if it has ended, remove {path}")
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
    """Whether the name was free; it holds the file's content then."""
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
    """Remove a dead holder's lock, unless another process was quicker and the lock is already its own."""
    aside = f"{path}.{os.getpid()}.part"
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, f"{aside}.stale")
        if _content(f"{aside}.stale") == stale:
            print(f"warning: {path}: {json.loads(stale)['pid']} ended without a word; taking over",
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
    """What tells whether two processes see each other: the boot of the machine and its PID namespace.
    None where the system is not Linux."""
    place = {"boot": None, "pids": None}
    with contextlib.suppress(OSError):
        with open("/proc/sys/kernel/random/boot_id") as file:
            place["boot"] = file.read().strip()
        place["pids"] = os.readlink("/proc/self/ns/pid")
    return place


def _began(pid):
    """When a process was started, in ticks since boot, so that a number given anew is noticed; None where
    that cannot be read, or if it has ended and only waits for its parent to notice."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            state, *fields = file.read().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except OSError:
        return None


def _dead(holder):
    """Whether the holder of a lock has ended: True, False, or None if that cannot be seen from here."""
    here = _place()
    if holder["host"] != socket.gethostname():
        return None
    if holder["boot"] != here["boot"]:
        return True  # the machine was started anew since
    if holder["pids"] != here["pids"]:
        return None  # in another container
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return _began(int(holder["pid"])) != holder["began"]
