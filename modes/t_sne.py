"""`--mode=t_SNE`: the shape codes of one or several runs in two dimensions."""
import os

import numpy as np

from engine import disk
from engine.arguments import Mode, number
from errors import InputError
from inference import RUNS, label, open_runs, refuse_two_folders
from pictures import figure_of
from scoring import codes_of, step_of

MAX_POINTS = 5000  # t-SNE's time grows faster than linearly


def _colours(count):
    """A colour map of `count` colours, as distinct as possible."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    if count <= 20:
        return ListedColormap(colormaps["tab10" if count <= 10 else "tab20"].colors[:count])
    return colormaps["nipy_spectral"].resampled(count)


def run(options, device):
    """Write the codes of a split in two dimensions, coloured by pose and by object or class."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    refuse_two_folders(options)
    opened = open_runs(options, device)
    split = opened[0][2].split
    for folder, _, data in opened:
        if min(len(data), MAX_POINTS) <= options.perplexity * 3:
            raise InputError(f"the {data.split} split of {folder} has {len(data)} images; t-SNE with --perplexity="
                             f"{options.perplexity:g} needs more than three times as many")
    figure, axes = figure_of(len(opened), rows=2, size=4.5)
    rows = []
    for column, (folder, model, data) in enumerate(opened):
        codes, poses, objects = codes_of(folder, model, data, range(len(data)))
        rng = np.random.default_rng(options.seed)
        chosen = np.sort(rng.permutation(len(codes))[:MAX_POINTS])
        values = codes[chosen].double().numpy()
        values = PCA(min(50, *values.shape), random_state=options.seed).fit_transform(values)
        points = TSNE(2, init="pca", perplexity=options.perplexity,
                      random_state=options.seed).fit_transform(values)
        pose, thing = poses[chosen].numpy(), objects[chosen].numpy()
        several = len(data.class_ids) > 1
        other = data.object_class[thing] if several else thing
        sample = "" if len(chosen) == len(codes) else f", {len(chosen)} of {len(codes)} images"
        axes[0, column].set_title(f"{label(folder)}, step {step_of(model.step)}\n"
                                  f"{data.split}, seed {options.seed}{sample}", fontsize=10)
        # Draw in random order, so that late poses do not hide early ones. Poses are cyclic, so the colour map is too;
        # hsv has no colour as light as the paper.
        order = rng.permutation(len(points))
        by_pose = axes[0, column].scatter(*points[order].T, c=pose[order], s=4, cmap="hsv", vmin=0,
                                          vmax=data.num_poses)
        names = [data.class_name(c) for c in data.class_ids] if several else range(data.num_objects)
        by_other = axes[1, column].scatter(*points[order].T, c=other[order], s=4, cmap=_colours(len(names)),
                                           vmin=-0.5, vmax=len(names) - 0.5)
        figure.colorbar(by_pose, ax=axes[0, column], label="pose bin")
        bar = figure.colorbar(by_other, ax=axes[1, column], label="class" if several else "object")
        # Label all classes, but at most 20 objects.
        ticks = range(0, len(names), 1 if several else -(-len(names) // 20))
        bar.set_ticks(ticks, labels=[names[i] for i in ticks])
        bar.minorticks_off()
        rows += [[folder, int(o), int(p), f"{x:.4f}", f"{y:.4f}"]
                 for o, p, (x, y) in zip(thing, pose, points)]
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    folder = options.sample_dir
    disk.make_folder(folder, "--sample_dir")
    stem = os.path.join(folder, f"t_SNE_{split}")
    disk.write_csv(stem + ".csv", ["run", "object", "pose", "x", "y"], rows)
    for ending in ("png", "pdf"):
        figure.savefig(f"{stem}.{ending}", dpi=120)
    print(f"wrote {stem}.png, .pdf, .csv")
    return 0


MODE = Mode(run, "the codes in two dimensions, coloured by pose and by object", options={
    **RUNS, "perplexity": dict(type=number(0, above=True), default=30.0, help="perplexity of t-SNE")})
