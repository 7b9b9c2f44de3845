"""How well training images of another view tell what an object looks like from there: the clues of losses/matches.py.

    python benchmarks/matching.py --runs RUN [RUN ...]    each of one class of CVPR18's layout, trained on all views;
                                                           writes results/matching.json

For images of some pairs of views, each clue chooses training images of the second view. The figure is the IoU of their
silhouette (or the mean of several, above a half) with the real one of the image's own object, which training never
sees. `prediction` is the IoU of the predicted shape itself; `best_other` that of the best choice among other objects.
"""
import argparse
import os

import numpy as np
import torch

import common
from datasets import DATASETS
from inference import load_run, label
from losses.matches import overlap, standardised
from metrics.measures import silhouette_iou

SEVERAL = 1, 4, 16


def measured(folder, pairs, images, seed):
    """{clue: mean IoU} of a run, and how many choices were made."""
    model = load_run(folder, "best")
    options, rng = model.options, np.random.default_rng(seed)
    data = DATASETS[options["dataset"]].open(options, "train", trainViews=None, seed=0)
    views, objects = data.num_views, data.num_objects
    renderer = data.renderer(data.img_size)

    def drawn(vertices, view):
        screens = data.project(vertices, torch.full((len(vertices),), view))
        return torch.cat([renderer.render_silhouettes(part, model.faces) for part in screens.split(64)])

    found = {}
    for _ in range(pairs):
        a, b = map(int, rng.permutation(views)[:2])
        mine, theirs = (data.gather(np.arange(objects) * views + v) for v in (a, b))
        from_a, from_b = model.predict(mine.images), model.predict(theirs.images)
        asked = torch.from_numpy(rng.permutation(objects)[:images])
        there, here = drawn(from_a.vertices[asked], b), drawn(from_b.vertices, a)
        real = theirs.silhouettes[asked]
        forth = standardised(overlap(there.flatten(1), theirs.silhouettes.flatten(1)))
        back = standardised(overlap(mine.silhouettes[asked].flatten(1), here.flatten(1)))
        codes = -torch.cdist(from_a.codes[asked], from_b.codes)
        alike = overlap((real > .5).float().flatten(1), (theirs.silhouettes > .5).float().flatten(1))
        alike[torch.arange(len(asked)), asked] = 0
        found.setdefault("prediction", []).append(silhouette_iou(there, real))
        found.setdefault("best_other", []).append(alike.max(1).values)
        for clue, fit in (("prediction fits silhouette", forth), ("silhouette fits prediction", back),
                          ("both", forth + back), ("codes", codes)):
            for several in SEVERAL:
                chosen = theirs.silhouettes[fit.topk(several, 1).indices].mean(1)
                found.setdefault(f"{clue}, {several}", []).append(silhouette_iou(chosen, real))
    return {name: round(float(torch.cat(values).mean()), 4) for name, values in found.items()}, pairs * images


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", nargs="+", required=True, metavar="RUN")
    p.add_argument("--pairs", type=int, default=12, help="pairs of views")
    p.add_argument("--images", type=int, default=60, help="images of each pair")
    args = p.parse_args()
    result = {}
    for folder in args.runs:
        result[label(os.path.normpath(folder))], count = measured(folder, args.pairs, args.images, 0)
    common.keep("matching", {"images": count, "runs": result})


if __name__ == "__main__":
    main()
