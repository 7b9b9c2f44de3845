"""The run folder: options, checkpoints, log. Everything in it is whole at any moment.

`options.json` every option, the versions and the commit; `metrics.jsonl` one line a record;
`last.pt`, the one before it as `last.prev.pt`, and `best.pt` by validation IoU; with --keep_last also
`step-00500.pt` and so on.
"""
import contextlib
import glob
import os
import platform
import random
import shutil
import subprocess
import sys
import time
import zipfile
import zlib

import numpy as np
import torch

import strict_json
from errors import InputError, WriteError

OPTIONS, METRICS = "options.json", "metrics.jsonl"
LAST, LAST_NEW, PREVIOUS, BEST = "last.pt", "last.pt.new", "last.prev.pt", "best.pt"
NEXT = "next.pt"  # whole, but the log may lack what it knows: no run goes on from it
# A resumed run must agree with its checkpoint in everything but these.
MAY_CHANGE = {"n_iters", "log_step", "ckpt_step", "sample_step", "sample_dir", "device", "device_id",
              "resume", "data_dir", "cache_dir", "ckpt_dir", "threads", "visdom_env", "visdom_server",
              "visdom_port", "follow", "keep_last", "on_nan", "data_on", "cuda_graph"}


@contextlib.contextmanager
def written_whole(path, mode="w"):
    """A file that appears under its name, synced to disk, only when all of it is written; or WriteError."""
    beside = f"{path}.{os.getpid()}.part"
    try:
        with open(beside, mode) as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, path)
        _sync_names(os.path.dirname(os.path.abspath(path)))
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)


def _sync_names(folder):
    """What was made and renamed in a folder survives a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path, value):
    with written_whole(path) as out:
        out.write(strict_json.dumps(value, indent=2) + "\n")


def make_folder(path, option):
    """Create a folder that can be written to, or say in one sentence why not. Returns all that were made."""
    return make_folders((path, option))


def make_folders(*wanted):
    """The same for several (path, option): all of them, or none is left behind."""
    made = []
    for path, option in wanted:
        try:
            above = os.path.abspath(path)
            missing = []
            while not os.path.isdir(above):
                missing.append(above)
                above = os.path.dirname(above)
            for folder in reversed(missing):
                os.mkdir(folder)
                made.append(folder)
            probe = os.path.join(path, f".probe.{os.getpid()}.part")
            with open(probe, "w"):
                pass
            os.remove(probe)
        except OSError as error:
            remove_folders(made)
            raise InputError(f"{option}={path} cannot be written: {error.strerror}") from None
    return made


def remove_folders(made):
    """Undo `make_folders`; folders that something was put into since stay."""
    with contextlib.suppress(OSError):
        for folder in reversed(made):
            os.rmdir(folder)


def versions():
    """What a result depends on besides the options."""
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        commit = subprocess.run(["git", "-C", here, "describe", "--always", "--dirty"], text=True,
                                capture_output=True, timeout=10).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        commit = ""
    return {"commit": commit or "unknown", "python": platform.python_version(),
            "torch": torch.__version__, "numpy": np.__version__, "machine": platform.machine(),
            "threads": torch.get_num_threads(), "command": sys.argv}


def held(folder, resume):
    """Names of what a folder holds of a run; refused without resume if there is any."""
    found = [n for n in (LAST, LAST_NEW, PREVIOUS, METRICS) if os.path.exists(os.path.join(folder, n))]
    if found and not resume:
        raise InputError(f"--ckpt_dir={folder} holds a run already ({found[0]}); add --resume to go on "
                         "with it, or choose another folder")
    return found


def start(folder, options, resume, sample_dir=None, data=None, defaults=None):
    """Prepare a run folder, and one for samples. Returns the checkpoint to go on from, or None for a
    new run. What can be refused is refused before anything is written.

    data : what `describe_data` says of what is trained on; a resumed run must have the same.
    defaults : values of options that are not given; what an older program trained with that did not have them.
    """
    found = held(folder, resume)
    state = None
    if set(found) - {METRICS}:
        state = load_last(folder)
        _same_options(folder, state["options"], options, defaults or {})
        _same_data(folder, state.get("data"), data, options.get("data_dir"))
    make_folders((folder, "--ckpt_dir"), *([(sample_dir, "--sample_dir")] if sample_dir else []))
    _settle_names(folder)
    for place in (folder, sample_dir) if sample_dir else (folder,):
        _remove_unfinished(place)
    _forget_after(os.path.join(folder, METRICS), state["step"] if state else 0)
    write_json(os.path.join(folder, OPTIONS), {"options": options, "versions": versions()})
    return state


def _settle_names(folder):
    """A damaged last.pt must not take the place of the whole one before it at the next save; and a save that
    ended between its renames is brought to its end."""
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


def _same_options(folder, before, now, defaults):
    """Refuse options that are not those of the run. One that is newer than the run had its default there; one
    that this program has no more must have been off there: None or False."""
    for name in sorted((set(before) | set(now)) - MAY_CHANGE):
        then = before.get(name, defaults.get(name))
        if name in now and then != now[name]:
            raise InputError(f"the run in {folder} was trained with --{name}={then}, now --{name}={now[name]}; "
                             "resume with its own options")
        if name not in now and then is not None and then is not False:
            raise InputError(f"the run in {folder} was trained with --{name}={then}, which this version of the "
                             "program does not have; resume with the one that trained it")


def describe_data(data, images=16):
    """{class id: [objects, images, checksum]}: what tells a dataset from another, at little cost.

    The checksum is that of some images, spread evenly, with their views and the voxels of their objects.
    """
    described = {}
    for c, class_id in enumerate(data.class_ids):
        numbers = data.images_of_class(c)
        batch = data.gather(numbers[np.linspace(0, len(numbers) - 1, images).astype(int)])
        checksum = 0
        for tensor in (batch.images, batch.cameras, batch.poses, data.voxels(batch.objects.unique().numpy())):
            checksum = zlib.crc32(tensor.contiguous().numpy().tobytes(), checksum)
        described[class_id] = [int((data.object_class == c).sum()), len(numbers), checksum]
    return described


def _same_data(folder, before, now, data_dir):
    for split in before or {}:
        for class_id, (objects, images, checksum) in before[split].items():
            found = now[split].get(class_id, [0, 0, 0])
            if found != [objects, images, checksum]:
                raise InputError(
                    f"--data_dir={data_dir} holds other data than the run in {folder} was trained on: class "
                    f"{class_id}, {split}: " + (
                        f"{found[1]} images of {found[0]} objects, there {images} of {objects}"
                        if found[:2] != [objects, images] else "as many images, but others"))


def _remove_unfinished(folder):
    """What a kill -9 left of files that were being written."""
    for name in (OPTIONS, METRICS, NEXT, BEST, "step-*.pt", ".probe", "run.lock"):
        for path in glob.glob(os.path.join(glob.escape(folder), name + ".*.part*")):
            os.remove(path)


def _forget_after(path, step):
    """Drop the records of steps that will be done again, and a last line cut short."""
    if not os.path.exists(path):
        return
    kept = []
    with open(path, errors="replace") as lines:
        for line in lines:
            try:
                if strict_json.loads(line)["step"] <= step:
                    kept.append(line.rstrip("\n") + "\n")
            except (ValueError, KeyError, TypeError):
                continue
    with written_whole(path) as out:
        out.writelines(kept)


def save_last(folder, state, keep=0):
    """Write `last.pt`; the one before it stays as `last.prev.pt`. `keep` so many also as `step-*.pt`."""
    write_next(folder, state)
    name_last(folder, state["step"], keep)


def write_next(folder, state):
    """Write a checkpoint as `next.pt`; nobody reads it before it gets another name."""
    with written_whole(os.path.join(folder, NEXT), "wb") as out:
        disk = _Disk(out)
        try:
            torch.save(state, disk)
        except RuntimeError:
            raise disk.error or RuntimeError("torch cannot save this") from None


class _Disk:
    """A file that remembers its error, of which torch says no more than that a position is unexpected."""

    def __init__(self, file):
        self.file, self.error = file, None

    def write(self, data):
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self):
        """`written_whole` does."""


def name_best(folder):
    """The checkpoint that was just written is `best.pt`, too."""
    _name_too(folder, BEST)


def name_last(folder, step, keep=0):
    """The checkpoint that was just written, of a step, is `last.pt`, and if `keep` also `step-*.pt`. In between it
    is `last.pt.new`, so that a run that is killed then goes on from it."""
    last, new = os.path.join(folder, LAST), os.path.join(folder, LAST_NEW)
    try:
        if keep:
            _name_too(folder, step_name(step))
            _let_go(folder, step, keep)
        os.replace(os.path.join(folder, NEXT), new)
        if os.path.exists(last):
            os.replace(last, os.path.join(folder, PREVIOUS))
        os.replace(new, last)
        _sync_names(folder)
    except OSError as error:
        raise WriteError(f"cannot write {last}: {error.strerror or error}") from None


def step_name(step):
    return f"step-{step:05d}.pt"


def _name_too(folder, name):
    """Give `next.pt` another name, under which it stays; a file of that name before is replaced."""
    new, target = os.path.join(folder, NEXT), os.path.join(folder, name)
    beside = f"{target}.{os.getpid()}.link.part"  # a name that nothing is ever written to: it is the same file
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
        _sync_names(folder)
    except OSError as error:
        raise WriteError(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)  # there still if the two were one file already: then `replace` does nothing


def _let_go(folder, step, count):
    """Remove numbered checkpoints before the newest `count` up to `step`."""
    numbered = {int(n): p for p in glob.glob(os.path.join(glob.escape(folder), "step-*.pt"))
                if (n := os.path.basename(p)[5:-3]).isdigit()}
    for old in sorted(s for s in numbered if s <= step)[:-count]:
        os.remove(numbered[old])


def load_last(folder):
    """The newest checkpoint that is whole; a damaged one is named."""
    for _ in range(5):
        if os.path.exists(os.path.join(folder, LAST)) or not os.path.exists(os.path.join(folder, LAST_NEW)):
            break
        time.sleep(0.1)  # a running training is just moving it into place, or one died doing so
    problem = None
    for name in (LAST, LAST_NEW, PREVIOUS):
        path = os.path.join(folder, name)
        if os.path.exists(path):
            try:
                state = load(path)
            except InputError as error:
                if not os.path.exists(path):  # renamed while we looked: the training runs
                    return load_last(folder)
                problem = problem or error
                continue
            if problem:
                print(f"warning: {problem}; going on from {path}", file=sys.stderr)
            return state
    raise problem or InputError(f"{folder} has no {LAST}; is it the --ckpt_dir of a run?")


def load(path):
    """A checkpoint dictionary."""
    state = read(path)
    if not isinstance(state, dict) or not {"step", "options", "models"} <= set(state):
        raise InputError(f"{path} is not a checkpoint of this program: it lacks step, options or models")
    return state


def read(path):
    """What torch.save wrote. Only tensors and plain values are read: nothing in it can run."""
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            file.seek(0)
            if file.read(4) != b"PK\3\4":  # what is before a zip file's parts, torch would read instead of them
                raise InputError(f"{path} is damaged at its beginning")
            # torch stores its entries plainly; one that says otherwise has a damaged description,
            # and torch would fill tensors from wherever it points.
            odd = [i.filename for i in archive.infolist() if i.external_attr or
                   i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size]
            broken = odd[0] if odd else archive.testzip()
            if broken:
                raise InputError(f"{path} is damaged: {broken} in it does not match its checksum or description")
            file.seek(0)  # the file that was verified, whatever has its name by now
            state = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path}") from None
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    except InputError:
        raise
    except Exception as error:  # torch's reader of pickles ends in many kinds of errors
        raise InputError(f"{path} is not a checkpoint that can be read safely: "
                         f"{(str(error) or type(error).__name__).splitlines()[0][:200]}") from None
    return state


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def rng_state():
    numbers, numpys = random.getstate(), np.random.get_state()
    return {"torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "python": [numbers[0], torch.tensor(numbers[1]), numbers[2]],
            "numpy": [numpys[0], torch.tensor(numpys[1].tolist()), *numpys[2:]]}


def set_rng_state(state):
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, numbers, *more = state["numpy"]
    np.random.set_state((name, numbers.numpy().astype(np.uint32), *more))
