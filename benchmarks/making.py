"""Measure make_dataset with voxel grids: objects per second, and the processor seconds of all its processes.

    python benchmarks/making.py                          grids of built-in shapes, --objects of them (200)
    python benchmarks/making.py --mesh_dir DIR --front=+x   a folder of grids with one subfolder per class

Writes benchmarks/results/making.json. If other programs run at the same time, compare processor seconds.
"""
import argparse
import ctypes
import os
import re
import resource
import subprocess
import sys
import tempfile

import numpy as np
import torch

from common import ROOT, keep

ADOPT = 36  # prctl's PR_SET_CHILD_SUBREAPER: this process inherits processes whose parents have ended, and counts them


def grids(folder, count):
    """Write grids of chairs with 32^3 cells."""
    import shapes
    from datasets import CVPR18
    from readers.writers import voxel_grid
    os.makedirs(os.path.join(folder, "chair"))
    for k in range(count):
        vertices, faces, _ = shapes.make_object("03001627", np.random.default_rng(k))
        grid = voxel_grid(CVPR18, torch.from_numpy(vertices).float(), torch.from_numpy(faces))
        np.save(os.path.join(folder, "chair", f"{k:04d}.npy"), grid.transpose(1, 0, 2))
    return folder


def measured(mesh_dir, workers, more):
    """{'objects', 'objects_per_second', 'cpu_seconds_per_object'} of one run of the command line."""
    with tempfile.TemporaryDirectory() as out:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, os.path.join(ROOT, "3D-GAN.py"), "--mode=make_dataset",
                               f"--mesh_dir={mesh_dir}", f"--data_dir={out}", f"--workers={workers}", *more],
                              stdin=subprocess.DEVNULL, text=True, capture_output=True,
                              env={**os.environ, "OMP_NUM_THREADS": "1"})
        if done.returncode:
            sys.exit(done.stderr)
        while True:  # wait for the processes that it has left
            try:
                os.wait()
            except ChildProcessError:
                break
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rates = re.findall(r"(\d+)/\1 objects, ([\d.]+)/s", done.stderr)
    objects = sum(int(count) for count, _ in rates)
    cpu = sum(getattr(after, what) - getattr(before, what) for what in ("ru_utime", "ru_stime"))
    return {"objects": objects, "objects_per_second": round(objects / sum(int(n) / float(r) for n, r in rates), 1),
            "cpu_seconds_per_object": round(cpu / objects, 4)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mesh_dir")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    args, more = parser.parse_known_args()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(ADOPT, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        mesh_dir = args.mesh_dir or grids(os.path.join(folder, "grids"), args.objects)
        figures = {f"{n} processes": measured(mesh_dir, n, more) for n in args.workers}
    keep("making", {"of": "a folder of grids" if args.mesh_dir else f"{args.objects} grids of built-in chairs",
                    "figures": figures})


if __name__ == "__main__":
    main()
