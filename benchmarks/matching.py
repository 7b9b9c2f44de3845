"""How well training images of another view tell what an object looks like from there: the clues of losses/matches.py.

    python benchmarks/matching.py --runs RUN [RUN ...]    each of one class of CVPR18's layout, trained on all views;
                                                           writes results/matching.json

For all images of some pairs of views, each clue chooses training images of the second view. `iou` is the IoU of their
silhouette (or the mean of several, above a half) with the real one of the image's own object, which training never
sees; `hits` is the share of images for which the best choice shows that object. `prediction` is the IoU of the
predicted shape itself; `best_other` that of the best choice among other objects.
"""
import argparse
import os

import numpy as np
import torch

import common
from datasets import DATASETS
from inference import load_run, label
from losses.matches import TEMPERATURE, overlap, transport
from metrics.measures import silhouette_iou

SEVERAL = 1, 4, 8


def measured(folder, pairs, seed):
    """({'iou': {clue: mean}, 'hits': {clue: share}}, images) of a run."""
    model = load_run(folder, "best")
    options, rng = model.options, np.random.default_rng(seed)
    data = DATASETS[options["dataset"]].open(options, "train", trainViews=None, seed=0)
    views, objects = data.num_views, data.num_objects
    renderer = data.renderer(data.img_size)

    def drawn(vertices, view):
        screens = data.project(vertices, torch.full((len(vertices),), view))
        return torch.cat([renderer.render_silhouettes(part, model.faces) for part in screens.split(64)])

    iou, hits = {}, {}
    for _ in range(pairs):
        a, b = map(int, rng.permutation(views)[:2])
        mine, theirs = (data.gather(np.arange(objects) * views + v) for v in (a, b))
        from_a, from_b = model.predict(mine.images), model.predict(theirs.images)
        there, here, real = drawn(from_a.vertices, b), drawn(from_b.vertices, a), theirs.silhouettes
        forth = overlap(there.flatten(1), real.flatten(1))
        back = overlap(mine.silhouettes.flatten(1), here.flatten(1))
        alike = overlap((real > .5).float().flatten(1), (real > .5).float().flatten(1)).fill_diagonal_(0)
        iou.setdefault("prediction", []).append(silhouette_iou(there, real))
        iou.setdefault("best_other", []).append(alike.max(1).values)
        for clue, fit in (("prediction fits silhouette", forth), ("silhouette fits prediction", back),
                          ("both", forth + back), ("both, balanced", transport((forth + back) / TEMPERATURE)),
                          ("codes", -torch.cdist(from_a.codes, from_b.codes))):
            hits.setdefault(clue, []).append((fit.argmax(1) == torch.arange(objects)).float())
            for several in SEVERAL:
                best = fit.topk(several, 1)
                weights = best.values if "balanced" in clue else torch.ones(objects, several)
                weights = weights / weights.sum(1, keepdim=True)
                chosen = torch.einsum("bc,bcij->bij", weights, real[best.indices])
                iou.setdefault(f"{clue}, {several}", []).append(silhouette_iou(chosen, real))
    return {name: {clue: round(float(torch.cat(values).mean()), 4) for clue, values in found.items()}
            for name, found in (("iou", iou), ("hits", hits))}, pairs * objects


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", nargs="+", required=True, metavar="RUN")
    p.add_argument("--pairs", type=int, default=6, help="pairs of views")
    args = p.parse_args()
    result = {}
    for folder in args.runs:
        result[label(os.path.normpath(folder))], count = measured(folder, args.pairs, 0)
    common.keep("matching", {"images": count, "runs": result})


if __name__ == "__main__":
    main()
