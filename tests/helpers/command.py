"""Run the command line in a separate process or in this one, and inspect its results."""
import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import neural_renderer as nr
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "3D-GAN.py"
CAR, PLANE = "02958343", "02691156"
# With one thread, results are equal bit for bit whatever else runs on the machine.
TINY = ("--enc_width=4", "--latent_dim=16", "--batch_size=4", "--device=cpu", "--threads=1")
SHORT = ("--n_iters=6", "--ckpt_step=3", "--sample_step=3", "--log_step=1")


def environment():
    """The environment of a process that finds the packages of cuda/ as this process does, installed or in place."""
    path = [str(ROOT / "cuda")] if Path(nr.__file__).parent.parent == ROOT / "cuda" else []
    path += [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(p)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "CUDA_VISIBLE_DEVICES": ""}


def start(*arguments, **more):
    """Start the script in a process with text output; returns the running process. more : options of Popen."""
    return subprocess.Popen([sys.executable, str(SCRIPT), *map(str, arguments)], text=True, env=environment(),
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def process(*arguments, timeout=300):
    """Run the script in a process to its end; the result has returncode, stdout and stderr."""
    running = start(*arguments)
    try:
        out, err = running.communicate(timeout=timeout)
    finally:
        running.kill()
    return subprocess.CompletedProcess(arguments, running.returncode, out, err)


@functools.cache
def script():
    """3D-GAN.py as a module."""
    spec = importlib.util.spec_from_file_location("command_line", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(*arguments):
    """Run the script's `main` in this process; returns its exit code."""
    threads, path = torch.get_num_threads(), list(sys.path)
    try:
        return script().main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        return stop.code
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        sys.path[:] = path


def metrics(folder):
    return [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]


def checkpoint(folder, name="last.pt"):
    return torch.load(Path(folder) / name, weights_only=True)


def differences(a, b, where=""):
    """The paths at which two nested structures of dicts, lists, tensors and values differ in any bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [d for key in sorted(set(a) | set(b), key=str)
                for d in differences(a.get(key), b.get(key), f"{where}/{key}")]
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b)) for d in differences(*pair, f"{where}/{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return [] if a.dtype == b.dtype and torch.equal(a, b) else [where]
    return [] if type(a) is type(b) and a == b else [where]


def wait_for_step(running, folder, step, seconds=240):
    """Wait until a running training has recorded a step."""
    path, end = Path(folder) / "metrics.jsonl", time.monotonic() + seconds
    while running.poll() is None and time.monotonic() < end:
        if path.exists():
            whole = path.read_text().rpartition("\n")[0].splitlines()
            if whole and json.loads(whole[-1])["step"] >= step:
                return
        time.sleep(0.005)
    running.kill()
    pytest.fail(f"training did not reach step {step}: {running.communicate()}")


def listing(folder):
    """The content of a folder without unpacked datasets, to test that nothing was added or changed."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns if p.is_file() else None
            for p in sorted(folder.rglob("*")) if ".cache" not in p.parts or p.suffix == ".part"}
