"""The run folder. Every file in it is complete at any moment.

`options.json` holds every option, the versions and the commit; `metrics.jsonl` one record per line; `checkpoints` adds
the checkpoints.
"""
import glob
import os
import platform
import random
import shlex
import subprocess
import sys
import zlib

import numpy as np
import torch

from engine import checkpoints, disk, strict_json
from errors import InputError

OPTIONS, METRICS = "options.json", "metrics.jsonl"
# Options that may change when a run is resumed.
MAY_CHANGE = {"n_iters", "log_step", "ckpt_step", "sample_step", "sample_dir", "device", "device_id",
              "resume", "data_dir", "cache_dir", "ckpt_dir", "threads", "visdom_env", "visdom_server",
              "visdom_port", "visdom_base_url", "visdom_user", "follow", "prefix", "batches_done", "keep_last",
              "on_nan", "data_on", "cuda_graph"}


def versions():
    """Versions, machine and command: what a result depends on besides the options."""
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
    """Names of the run files in a folder. Raises InputError if there are any and `resume` is not set."""
    found = [n for n in (*checkpoints.NEWEST_FIRST, METRICS) if os.path.exists(os.path.join(folder, n))]
    if found and not resume:
        raise InputError(f"--ckpt_dir={folder} holds a run already ({found[0]}); add --resume to continue it, or "
                         "choose another folder")
    return found


def start(folder, options, resume, sample_dir=None, data=None, defaults=None, left_out=None):
    """Prepare a run folder and the folder of its samples. Returns the checkpoint to resume from, or None for a new run.
    Everything is checked before anything is written.

    data : `describe_data` of the training and validation data; a resumed run must have the same.
    defaults : default values of the options, for runs of older versions that did not have an option.
    left_out : {split: sentences} of objects that --skip_bad left out; kept, with their number, beside the options.
    """
    found = held(folder, resume)
    state = None
    if set(found) - {METRICS}:
        state = checkpoints.load_last(folder)
        _same_options(folder, state["options"], options, defaults or {})
        _same_data(folder, state.get("data"), data, options.get("data_dir"))
    disk.make_folders((folder, "--ckpt_dir"), *([(sample_dir, "--sample_dir")] if sample_dir else []))
    checkpoints.settle_names(folder)
    for place in (folder, sample_dir) if sample_dir else (folder,):
        _remove_unfinished(place)
    _forget_after(os.path.join(folder, METRICS), state["step"] if state else 0)
    left_out = {split: list(said) for split, said in (left_out or {}).items()}
    disk.write_json(os.path.join(folder, OPTIONS), {
        "options": options, "versions": versions(), "left_out": left_out,
        "count_left_out": sum(map(len, left_out.values()))})
    return state


def _begun_with(folder):
    """', as in: python 3D-GAN.py ...', the command that began the run, if the folder has it."""
    try:
        with open(os.path.join(folder, OPTIONS)) as file:
            command = strict_json.loads(file.read())["versions"]["command"]
        told = shlex.join(["python", *map(str, command)])
        return f", as in: {told}" if told.isprintable() else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _same_options(folder, before, now, defaults):
    """Refuse options that differ from those of the run. An option that is newer than the run counts as its default; an
    option that this version no longer has must have been off (None or False)."""
    fixed = {"n_iters"} if now.get("lr_schedule") == "cosine" else set()  # its rates depend on their number
    for name in sorted((set(before) | set(now)) - (MAY_CHANGE - fixed)):
        then = before.get(name, defaults.get(name))
        if name == "split_file" and then:
            then = os.path.abspath(then)  # earlier versions kept it as given
        if name in now and then != now[name]:
            raise InputError(f"the run in {folder} was trained with --{name}={then}, now --{name}={now[name]}; "
                             f"resume with its own options{_begun_with(folder)}")
        if name not in now and then is not None and then is not False:
            raise InputError(f"the run in {folder} was trained with --{name}={then}, which this version of the "
                             "program does not have; resume with the one that trained it")


def describe_data(data, images=16):
    """{class id: [objects, images, checksum]}, a cheap fingerprint of a dataset.

    The checksum covers some evenly spread images, with their views and the voxels of their objects.
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
                        f"{found[1]} images of {found[0]} objects instead of {images} of {objects}"
                        if found[:2] != [objects, images] else "the same number of images, but different ones"))


def _remove_unfinished(folder):
    """Remove partial files that a kill -9 left."""
    for name in (OPTIONS, METRICS, checkpoints.NEXT, checkpoints.BEST, "step-*.pt", ".probe", "run.lock"):
        for path in glob.glob(os.path.join(glob.escape(folder), name + ".*.part*")):
            os.remove(path)


def _forget_after(path, step):
    """Drop the records of steps that will run again, and an incomplete last line."""
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
    with disk.written_whole(path) as out:
        out.writelines(kept)


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
        torch.cuda.set_rng_state_all(state["cuda"][:torch.cuda.device_count()])  # it may have had more
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, numbers, *more = state["numpy"]
    np.random.set_state((name, numbers.numpy().astype(np.uint32), *more))
