"""Shared by the benchmarks: description of the machine, timing, writing of records."""
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, ROOT)

import numpy as np  # noqa: E402
import torch  # noqa: E402

from engine.devices import keep_freed_memory  # noqa: E402

keep_freed_memory()  # as in 3D-GAN.py

FIXTURE = os.path.join(HERE, "noisy_predictions.npz")


def where():
    """Commit (without git, the environment variable COMMIT), versions and processor."""
    def git(*command):
        try:
            return subprocess.run(["git", "-C", ROOT, *command], text=True, capture_output=True).stdout.strip()
        except OSError:
            return ""
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results")
    commit = git("describe", "--always") + ("-dirty" if changed else "") or os.environ.get("COMMIT") or "unknown"
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), processor)
    return {"commit": commit, "date": time.strftime("%Y-%m-%d"), "processor": processor,
            "threads": torch.get_num_threads(), "torch": torch.__version__, "numpy": np.__version__,
            "python": platform.python_version()}


def milliseconds(work, repeats=30, warmup=5):
    """{'median', 'min', 'max'} of `repeats` calls in ms, after a warm-up."""
    for _ in range(warmup):
        work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return {"median": round(statistics.median(times), 3), "min": round(min(times), 3),
            "max": round(max(times), 3)}


def read(name):
    """The figures in benchmarks/results/<name>.json, without where they were measured; {} if there is no such file."""
    try:
        with open(os.path.join(HERE, "results", f"{name}.json")) as file:
            figures = json.load(file)
    except FileNotFoundError:
        return {}
    figures.pop("where", None)
    return figures


def write(name, figures):
    """Write benchmarks/results/<name>.json; returns its text."""
    text = json.dumps({"where": where(), **figures}, indent=2)
    path = os.path.join(HERE, "results", f"{name}.json")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as out:
        out.write(text + "\n")
    return text


def keep(name, figures):
    """Write the figures and print them."""
    print(write(name, figures))


def noisy_predictions(batch=128, noise=0.005):
    """Predicted meshes of a trained model from a committed file, with seeded noise: vertices (B, 642, 3), faces
    (1280, 3), views (B,), target silhouettes (B, 64, 64)."""
    from models import icosphere
    with np.load(FIXTURE) as file:
        vertices, views, targets = (torch.from_numpy(file[k]) for k in ("vertices", "views", "targets"))
    copies = -(-batch // len(vertices))
    vertices = vertices.float().repeat(copies, 1, 1)[:batch]
    vertices = vertices + noise * torch.randn(vertices.shape, generator=torch.Generator().manual_seed(0))
    return (vertices, icosphere(3)[1], views.long().repeat(copies)[:batch],
            targets.float().div(255).repeat(copies, 1, 1)[:batch])


def networks_learn(trainer, inputs, encoders_turn):
    """The networks' part of a step, forward and backward: a linear loss replaces the mesh losses, and the targets
    replace the rendered images. Returns the networks {name: network} that have gradients."""
    from losses import View
    targets, poses = inputs[1], inputs[3]
    codes, vertices, *_ = trainer.predicted(inputs[0])
    drawn = targets.clone().requires_grad_()  # rendered images have a gradient too
    step = SimpleNamespace(codes=codes, vertices=vertices, poses=poses, rendered=drawn,
                           views={name: View(None, poses.roll(1), drawn) for name in trainer.views})
    with mock.patch.object(trainer, "total", lambda step: ({}, step.vertices.mean() + step.codes.mean())):
        return trainer.learn(step, encoders_turn)[1]


def networks_step(trainer, learning):
    """The optimisers of these networks, without the check for values that are not finite."""
    for name in learning:
        trainer.optimizers[name].found_inf = None
        trainer.optimizers[name].step()


CLASS = "02958343"


def make_files(folder, objects, split):
    """Write a CVPR18 split of `objects` objects with random images and blobs as voxels. The measured times do not
    depend on the content."""
    from datasets import CVPR18
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (objects, 24, 4, 64, 64), np.uint8)
    centre = (np.indices((32,) * 3) - 15.5) / 12
    voxels = (centre ** 2).sum(0) < rng.uniform(0.3, 1, (objects, 1, 1, 1))
    np.savez(os.path.join(folder, f"{CLASS}_{split}_images.npz"), images)
    np.savez(os.path.join(folder, f"{CLASS}_{split}_voxels.npz"), voxels)
    return lambda: CVPR18(folder, [CLASS], split, os.path.join(folder, "cache"), say=lambda line: None)
