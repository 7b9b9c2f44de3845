"""Measure the speed of Chamfer-L1, F-scores, normal consistency and crossing faces, for meshes of 1280 faces.

    python benchmarks/surfaces.py                  writes benchmarks/results/surfaces.json
    python benchmarks/surfaces.py --device cuda    surfaces_cuda.json

The figures are meshes per second and processor time for all steps from the mesh to its figures: drawing points, a tree
of them, distances in both directions. As in an evaluation, there are --objects true objects (16) with 24 predictions
each. --threads sets the threads on a CPU.
"""
import argparse
import statistics
import time

import numpy as np
import torch

from common import keep, noisy_predictions
from metrics.crossings import self_intersecting
from metrics.surfaces import ASKED, PER_OBJECT, Surfaces, draw_points

VIEWS = 24


def measured(work, meshes, device, repeats):
    """{'meshes_per_second', 'cpu_ms'}; cpu_ms is the time of all threads for one mesh. Medians and the best, after one
    call that is not counted."""
    work()
    rates, spent = [], []
    for _ in range(repeats):
        start, cpu = time.perf_counter(), time.process_time()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        rates.append(meshes / (time.perf_counter() - start))
        spent.append((time.process_time() - cpu) / meshes * 1000)
    return {"meshes_per_second": {"median": round(statistics.median(rates)), "most": round(max(rates))},
            "cpu_ms": {"median": round(statistics.median(spent), 2), "least": round(min(spent), 2)}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--objects", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vertices, faces, _, _ = noisy_predictions(VIEWS * args.objects)
    vertices, faces = vertices.to(args.device), faces.to(args.device)
    numbers = np.repeat(np.arange(args.objects), VIEWS)[:, None]
    parts = np.tile(np.arange(VIEWS), args.objects)
    figures = {}
    for count, asked in ((2500, 2500), (PER_OBJECT, ASKED)):
        true = np.concatenate([t.cpu() for t in draw_points(vertices[::VIEWS], faces, count, 1)], 2).astype(np.float16)
        known = Surfaces(true, args.device)
        figures[f"{count} points, {asked} of them asked"] = measured(
            lambda: known.figures(*draw_points(vertices, faces, count), numbers, asked, parts).cpu(), len(vertices),
            args.device, args.repeats)
    figures["crossing faces"] = measured(lambda: self_intersecting(vertices[::VIEWS], faces).cpu(), args.objects,
                                         args.device, args.repeats)
    keep("surfaces" + ("_cuda" if args.device == "cuda" else ""), {"device": args.device, "figures": figures})


if __name__ == "__main__":
    main()
