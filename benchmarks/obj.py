"""Measure reading a 100 MB OBJ of a million faces by this program and by trimesh, each in a separate process.

    python benchmarks/obj.py      writes benchmarks/results/obj.json
"""
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

import common

SIDE, ROUNDS = 708, 3
READERS = {
    "load_obj": "import neural_renderer as nr; read = lambda path: nr.load_obj(path, device='cpu')[1]",
    "read_obj_with_uv": "from neural_renderer.wavefront import read_obj; read = lambda path: read_obj(path).faces",
    "trimesh": "import trimesh; read = lambda path: trimesh.load_mesh(path, process=False, skip_materials=True).faces"}
PROGRAM = """
import json, resource, sys, time
{}
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
faces = read(sys.argv[1])
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([seconds, (peak - before) / 1024, len(faces)]))
"""


def write(path):
    """Write a wavy square with v, vt, vn and triangles a/b/c."""
    random = np.random.default_rng(0)
    u, v = np.meshgrid(*[np.arange(SIDE) / SIDE] * 2, indexing="ij")
    points = np.stack([u, v, np.sin(9 * u) * np.cos(7 * v) / 10], -1).reshape(-1, 3)
    points += random.normal(0, 1e-5, points.shape)
    i = (np.arange(SIDE - 1)[:, None] * SIDE + np.arange(SIDE - 1)).ravel() + 1
    faces = np.concatenate([np.stack([i, i + SIDE, i + 1], 1), np.stack([i + 1, i + SIDE, i + SIDE + 1], 1)])
    with open(path, "w") as file:
        file.writelines("v %.6f %.6f %.6f\n" % tuple(p) for p in points)
        file.writelines("vt %.6f %.6f\n" % tuple(p[:2]) for p in points)
        file.writelines("vn %.4f %.4f %.4f\n" % tuple(p) for p in points)
        file.writelines("f %d/%d/%d %d/%d/%d %d/%d/%d\n" % tuple(f.repeat(3)) for f in faces)


def main():
    figures = {name: [] for name in READERS}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.obj")
        write(path)
        megabytes = os.path.getsize(path) / 1e6
        for _ in range(ROUNDS):
            for name, reader in READERS.items():
                out = subprocess.run([sys.executable, "-c", PROGRAM.format(reader), path], check=True, text=True,
                                     capture_output=True).stdout
                figures[name].append(json.loads(out))
    best = {name: min(runs) for name, runs in figures.items()}
    common.keep("obj", {
        "file": {"megabytes": round(megabytes, 1), "faces": best["trimesh"][2]},
        "seconds_best_of_3": {name: round(run[0], 2) for name, run in best.items()},
        "memory_above_start_megabytes": {name: round(run[1]) for name, run in best.items()},
        "time_of_trimesh": {name: round(run[0] / best["trimesh"][0], 2) for name, run in best.items()}})


if __name__ == "__main__":
    main()
