"""Chooses and sets up the device of a run, and turns its failures into messages."""
import contextlib
import ctypes
import os
import re
import sys
import traceback

import torch

from engine import distributed
from errors import DeviceError, InputError

ENGINE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(ENGINE)
ROOMS = ROOT, ENGINE, *(os.path.join(ROOT, name) for name in ("losses", "metrics", "modes"))  # functions named


def keep_freed_memory():
    """Let glibc reuse freed memory instead of returning it to the system after every step: mapping it again costs a
    sixth of a training step."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt:  # not in every C library
            mallopt(-3, 1 << 30)       # M_MMAP_THRESHOLD
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def resolve(options, training=False):
    """The torch.device of the options; also sets threads, precision and determinism."""
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch requires it
    if options.deterministic != torch.are_deterministic_algorithms_enabled():  # the call takes seconds
        torch.use_deterministic_algorithms(options.deterministic)
    # Set this before torch starts threads, which inherit it. Adam's averages of gradients that stay zero shrink to
    # denormal numbers, with which a CPU is many times slower: a step of the demo took 153 ms instead of 69.
    torch.set_flush_denormal(training)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = named(options)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cuda.matmul.allow_tf32 = options.tf32
        # torch's default allows TF32 for convolutions. bfloat16 has fewer bits than TF32, so with --amp the networks
        # outside of autocast, such as VPL's discriminator of images, need no more than TF32 either.
        torch.backends.cudnn.allow_tf32 = options.tf32 or getattr(options, "amp", False)
        torch.backends.cudnn.benchmark = not options.deterministic
    return device


def free_memory(device):
    """Free bytes of a device's memory; None if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError):
        return None


def named(options):
    """The torch.device of the options."""
    name = f"cuda:{options.device_id}" if options.device_id is not None else options.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise InputError(f"--device={name} is not one of auto, cpu, cuda, cuda:N")
    if device.type == "cpu":
        return device
    if distributed.size() > 1 and device.index is not None:
        raise InputError(f"--device={name} names one GPU, but each of the {distributed.size()} processes needs its "
                         "own: give --device=cuda")
    number = int(os.environ.get("LOCAL_RANK", 0)) if distributed.size() > 1 else device.index or 0
    if not torch.cuda.is_available() or number >= torch.cuda.device_count():
        process = f" for process {number} of this machine" if distributed.size() > 1 else ""
        raise InputError(f"--device={name}{process}: this torch sees {torch.cuda.device_count()} CUDA devices; use "
                         "--device=cpu or install a CUDA build of torch")
    return torch.device("cuda", number)


@contextlib.contextmanager
def failures_told(options, training=False):
    """A context that turns device failures into messages that say what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InputError(_no_room(error, "the GPU", options, training)) from None
    except (RuntimeError, *distributed.FAILURES) as error:
        first = (str(error) or type(error).__name__).splitlines()[0]
        if "can't allocate memory" in first:
            raise InputError(_no_room(error, "this machine", options, training)) from None
        if isinstance(error, distributed.FAILURES) or re.search(
                r"\b(CUDA (driver )?error|cuDNN error|CUBLAS_STATUS|NCCL)", first):
            raise DeviceError(f"a device has failed: {first}; the checkpoints are intact: continue with "
                              "--resume") from None
        raise


def _no_room(error, place, options, training):
    """A message: which function asked for how much memory, and which option lowers it."""
    wanted = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    free = re.search(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", str(error))
    frames = [f for f in traceback.extract_tb(error.__traceback__)
              if os.path.dirname(os.path.abspath(f.filename)) in ROOMS and f.filename != __file__]
    asker = f"{frames[-1].name} of {os.path.relpath(frames[-1].filename, ROOT)}" if frames else "the program"
    if any(f.filename.endswith("feed.py") for f in frames) and options.data_on == "device":
        advice = "give --data_on=host"
    elif training:
        advice = f"lower --batch_size, now {options.batch_size}, or " + (
            "give --data_on=host" if options.data_on != "host" else "--img_size or --enc_width")
    else:
        advice = "give --device=cpu"
    return f"{asker} asked {place} for {wanted[1] if wanted else 'more memory'}, more than is free" + (
        f" ({free[2]} of {free[1]})" if free else "") + f": {advice}"
