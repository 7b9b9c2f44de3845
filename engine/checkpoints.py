"""Checkpoints of a run folder: `last.pt`, the one before it as `last.prev.pt`, `best.pt` by validation IoU, and with
--keep_last also `step-00500.pt` and so on. The program writes each checkpoint once, hard-links it to its other names,
and verifies it before reading it."""
import contextlib
import glob
import os
import shutil
import sys
import time
import zipfile

import torch

from engine.disk import sync_names, written_whole
from errors import InputError, WriteError

LAST, LAST_NEW, PREVIOUS, BEST = "last.pt", "last.pt.new", "last.prev.pt", "best.pt"
NEWEST_FIRST = LAST, LAST_NEW, PREVIOUS  # a run can resume from these
NEXT = "next.pt"  # complete, but its records may not be on disk yet: never resumed from


def write_next(folder, state):
    """Write a checkpoint as `next.pt`, which no one reads until it has another name."""
    with written_whole(os.path.join(folder, NEXT), "wb") as out:
        disk = _Disk(out)
        try:
            torch.save(state, disk)
        except RuntimeError:
            raise disk.error or RuntimeError("torch cannot save this") from None


class _Disk:
    """A file that remembers the exception that ended a write (a full disk, a signal). torch reports only an unexpected
    position."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, data):
        try:
            return self.file.write(data)
        except BaseException as error:
            self.error = error
            raise

    def flush(self):
        """Left to `written_whole`."""


def name_best(folder):
    """Also name the checkpoint just written `best.pt`."""
    _name_too(folder, BEST)


def name_last(folder, step, keep=0):
    """Name the checkpoint just written `last.pt`, and with `keep` also `step-*.pt`. In between it is `last.pt.new`, so
    that a run killed at that moment resumes from it."""
    last, new = os.path.join(folder, LAST), os.path.join(folder, LAST_NEW)
    try:
        if keep:
            _name_too(folder, step_name(step))
            _let_go(folder, step, keep)
        os.replace(os.path.join(folder, NEXT), new)
        if os.path.exists(last):
            os.replace(last, os.path.join(folder, PREVIOUS))
        os.replace(new, last)
        sync_names(folder)
    except OSError as error:
        raise WriteError(f"cannot write {last}: {error.strerror or error}") from None


def step_name(step):
    return f"step-{step:05d}.pt"


def _name_too(folder, name):
    """Link `next.pt` to another name, replacing a file of that name."""
    new, target = os.path.join(folder, NEXT), os.path.join(folder, name)
    beside = f"{target}.{os.getpid()}.link.part"  # never written to: it is the same file
    try:
        with contextlib.suppress(FileNotFoundError):
            os.remove(beside)
        os.link(new, beside)
    except OSError:  # a file system without hard links
        with open(new, "rb") as source, written_whole(target, "wb") as out:
            shutil.copyfileobj(source, out)
        return
    try:
        os.replace(beside, target)
        sync_names(folder)
    except OSError as error:
        raise WriteError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)  # `replace` does nothing if both names already are one file


def _let_go(folder, step, count):
    """Of the numbered checkpoints up to `step`, keep the newest `count` and remove the others."""
    numbered = {int(n): p for p in glob.glob(os.path.join(glob.escape(folder), "step-*.pt"))
                if (n := os.path.basename(p)[5:-3]).isdigit()}
    for old in sorted(s for s in numbered if s <= step)[:-count]:
        os.remove(numbered[old])


def settle_names(folder):
    """Put a damaged `last.pt` aside, so that the next save does not replace the intact `last.prev.pt` with it; and
    finish a save that was interrupted between its renames."""
    last, new = os.path.join(folder, LAST), os.path.join(folder, LAST_NEW)
    if os.path.exists(last) and not _whole(last):
        os.replace(last, os.path.join(folder, "last.damaged.pt"))
    if os.path.exists(new) and not os.path.exists(last) and _whole(new):
        os.replace(new, last)


def _whole(path):
    try:
        return bool(load(path))
    except InputError:
        return False


def load_last(folder):
    """The newest intact checkpoint; a warning names a damaged one."""
    for _ in range(5):
        if os.path.exists(os.path.join(folder, LAST)) or not os.path.exists(os.path.join(folder, LAST_NEW)):
            break
        time.sleep(0.1)  # a running training is renaming it, or died while renaming it
    problem = None
    for name in NEWEST_FIRST:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            try:
                state = load(path)
            except InputError as error:
                if not os.path.exists(path):  # a running training renamed it meanwhile
                    return load_last(folder)
                problem = problem or error
                continue
            if problem:
                print(f"warning: {problem}; resuming from {path}", file=sys.stderr)
            return state
    raise problem or InputError(f"{folder} has no {LAST}; is it the --ckpt_dir of a run?")


def load(path):
    """A checkpoint dictionary."""
    state = read(path)
    if not isinstance(state, dict) or not {"step", "options", "models"} <= set(state):
        raise InputError(f"{path} is not a checkpoint of this program: it lacks step, options or models")
    return state


def read(path):
    """Read what torch.save wrote: tensors and plain values only. Nothing in the file can run code."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            file.seek(0)
            if file.read(4) != b"PK\3\4":  # torch would read prepended bytes instead of the zip file
                raise InputError(f"{path} is damaged at its beginning")
            # torch stores its entries uncompressed. A directory entry that says otherwise is damaged, and torch would
            # fill tensors from wherever it points.
            odd = [i.filename for i in archive.infolist() if i.external_attr or
                   i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size]
            broken = odd[0] if odd else archive.testzip()
            if broken:
                raise InputError(f"{path} is damaged: {broken} in it does not match its checksum or description")
            file.seek(0)  # read the file that was verified, even if the path now names another one
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    except InputError:
        raise
    except Exception as error:  # torch's unpickler raises many kinds of errors
        raise InputError(f"{path} is not a checkpoint that can be read safely: "
                         f"{(str(error) or type(error).__name__).splitlines()[0][:200]}") from None
    return state
