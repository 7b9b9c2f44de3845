"""`--mode=MMD` and `--mode=t_SNE`: what the shape codes of one or several runs know of the pose."""
import csv
import os

import numpy as np
import torch

from compare import same_protocol
from engine import disk
from errors import InputError
from evaluation import class_label, mmd_codes, number, protocol_of, undefined
from inference import load_run, load_weights, open_split
from metrics import pose_mmd, shared_bins
from monitor import Progress


def _open(options, device):
    """[(folder, model, data)] of the runs asked for."""
    folders = options.runs or ([options.ckpt_dir] if options.ckpt_dir and not options.load_E else [])
    if not (folders or options.load_E):
        raise InputError(f"--mode={options.mode} needs --ckpt_dir, --runs with several run folders, or --load_E")
    settings = vars(options)
    models = [load_run(folder, options.eval_flag, device, settings) for folder in folders]
    models += [load_weights(path, None, device, settings) for path in options.load_E or []]
    names = [*folders, *(options.load_E or [])]
    for model, name in zip(models, names):
        if model.options["latent_dim"] != models[0].options["latent_dim"]:
            raise InputError(f"{names[0]} and {name} have codes of different --latent_dim, "
                             f"{models[0].options['latent_dim']} and {model.options['latent_dim']}, whose figures "
                             "cannot be compared: give them one by one")
    return [(name, model, open_split(model, options)) for name, model in zip(names, models)]


def _label(path):
    """What tells a run from others: its folder's name, with that of a file in it."""
    path = os.path.normpath(path)
    return os.path.join(*path.split(os.sep)[-2:]) if os.path.isfile(path) else os.path.basename(path)


def _step(step):
    """Of a state dict, which does not say it, None."""
    return "?" if step is None else step


def _codes(folder, model, data, numbers):
    """Codes (M, d), poses (M,) and objects (M,) of the images with these numbers (M,)."""
    progress = Progress(f"encoding {_label(folder)}", len(numbers), " images")
    codes, poses, objects = [], [], []
    for first in range(0, len(numbers), 256):
        batch = data.gather(numbers[first:first + 256])
        codes.append(model.encode(batch.images).float().cpu())
        poses.append(batch.poses)
        objects.append(batch.objects)
        progress.update(min(first + 256, len(numbers)))
    return torch.cat(codes), torch.cat(poses), torch.cat(objects)


def _figure(columns, rows=1, size=4.0):
    """A matplotlib figure without a display, and its axes as a (rows, columns) array."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(size * columns, size * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _write_csv(path, header, rows):
    with disk.written_whole(path) as out:
        table = csv.writer(out, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def _by_class(folder, data, options):
    """{class_id: (numbers of its images that count, their pose bins that show two objects or more)}"""
    poses, objects = data.all_poses(), data.all_objects()
    classes = {}
    for c, class_id in enumerate(data.class_ids):
        numbers = data.images_of_class(c)[:mmd_codes(options)]
        classes[class_id] = numbers, shared_bins(poses[numbers], objects[numbers], data.num_poses)
    most = max(len(bins) for _, bins in classes.values())
    if most < 2:
        first = "" if options.mmd_batches is None else (
            f"--mmd_batches={options.mmd_batches} of {options.batch_size}: the first {mmd_codes(options)} codes of ")
        raise InputError(f"{first}the {options.split} split of {folder} has {most} poses with two objects or more of "
                         "one class; MMD compares at least two")
    return classes


def _measured(options, folder, model, data, classes):
    """The MMD of a run, class by class as --mode=evaluation takes it, and the mean over classes."""
    codes, poses, _ = _codes(folder, model, data, np.concatenate([numbers for numbers, _ in classes.values()]))
    sizes = [len(numbers) for numbers, _ in classes.values()]
    figures = {}
    for (class_id, (_, bins)), mine, seen in zip(classes.items(), codes.split(sizes), poses.split(sizes)):
        matrix, mean = pose_mmd(mine, seen, bins)
        figures[class_id] = {
            "mean": mean, "mean_shuffled": pose_mmd(mine, seen, bins, options.seed)[1], "codes": len(mine),
            "poses": bins, "poses_left_out": [p for p in range(data.num_poses) if p not in bins],
            "matrix": matrix.tolist()}
    means = {key: float(np.mean([f[key] for f in figures.values()])) for key in ("mean", "mean_shuffled")}
    return {"run": folder, "step": model.step, **means, "codes": len(codes), "classes": figures}


def mmd(options, device):
    """The matrix of MMD between all pairs of poses of each class and run, beside its shuffled-label control."""
    opened = _open(options, device)
    split = options.split
    # The biased estimate grows as codes get fewer, and other objects or bins are other poses.
    protocols = [{**protocol_of(options, model, data), "pose_bins": data.num_poses} for _, model, data in opened]
    same_protocol([folder for folder, _, _ in opened], protocols,
                  ("dataset", "data_dir", "split", "objects", "views", "pose_bins"))
    classes = [_by_class(folder, data, options) for folder, _, data in opened]
    results = [_measured(options, *run, parts) for run, parts in zip(opened, classes)]
    disk.make_folder(options.sample_dir, "--sample_dir")
    protocol, data = protocols[0], opened[0][2]
    protocol["undefined"] = undefined({name: {c: f[key] for r in results for c, f in r["classes"].items()}
                                       for name, key in (("mmd", "mean"), ("mmd_shuffled", "mean_shuffled"))})
    stem = os.path.join(options.sample_dir, f"MMD_{split}")
    disk.write_json(stem + ".json", {"protocol": protocol, "runs": results})
    _write_csv(stem + ".csv", ["run", "class", "pose", "other_pose", "mmd"],
               [[r["run"], c, p, q, f["matrix"][i][j]] for r in results for c, f in r["classes"].items()
                for i, p in enumerate(f["poses"]) for j, q in enumerate(f["poses"]) if q < p])
    _heat_maps(stem, results, data)
    _print_mmd(protocol, results, data)
    print(f"wrote {stem}.json, .csv, .png, .pdf")
    return 0


def _heat_maps(stem, results, data):
    """A panel for each class, below one another, of each run."""
    ids = list(results[0]["classes"])
    figure, axes = _figure(len(results), len(ids))
    top = max((max(map(max, f["matrix"])) for r in results for f in r["classes"].values() if f["matrix"]), default=1)
    for column, r in zip(axes.T, results):
        for axis, class_id in zip(column, ids):
            f = r["classes"][class_id]
            name = f"{data.class_name(class_id)}, " if len(ids) > 1 else ""
            shown = axis.imshow(f["matrix"] or [[np.nan]], vmin=0, vmax=top or 1, cmap="magma", origin="lower")
            axis.set(title=f"{_label(r['run'])}, {name}step {_step(r['step'])}\n"
                           f"mean {number(f['mean'], 3)}, shuffled {number(f['mean_shuffled'], 3)}",
                     xlabel="pose bin", ylabel="pose bin")
            # Bins have their own numbers: those left out are no row. At most a dozen are legible.
            places = range(0, len(f["poses"]), -(-len(f["poses"]) // 12) or 1)
            numbers = [f["poses"][i] for i in places]
            axis.set_xticks(places, numbers, rotation=90 if max(numbers, default=0) > 99 else 0)
            axis.set_yticks(places, numbers)
    figure.colorbar(shown, ax=axes.ravel().tolist(), label="squared MMD", shrink=0.8 / len(ids))
    for ending in ("png", "pdf"):
        figure.savefig(f"{stem}.{ending}", dpi=120)


def _print_mmd(protocol, results, data):
    print(f"squared MMD of shape codes; {protocol['dataset']} {protocol['split']} of {protocol['data_dir']}, "
          f"{protocol['views']}\n{protocol['mmd']}\nshuffled: {protocol['mmd_shuffled']}")
    print(f"{'run':<40}{'step':>8}  {'class':<22}{'objects':>8}{'codes':>8}{'MMD':>10}{'shuffled':>10}")
    for r in results:
        start = f"{r['run'][-39:]:<40}{_step(r['step']):>8}  "
        for class_id, f in r["classes"].items():
            print(f"{start}{class_label(data, class_id):<22}{protocol['objects'][class_id]:>8}{f['codes']:>8}"
                  f"{number(f['mean']):>10}{number(f['mean_shuffled']):>10}")
            if f["poses_left_out"]:
                print(f"  without {len(f['poses_left_out'])} of {len(f['poses']) + len(f['poses_left_out'])} poses, "
                      "in which fewer than two objects are seen")
        if len(r["classes"]) > 1:
            print(f"{start}{'mean':<22}{sum(protocol['objects'].values()):>8}{r['codes']:>8}"
                  f"{number(r['mean']):>10}{number(r['mean_shuffled']):>10}")
    for sentence in protocol["undefined"]:
        print(f"-: {sentence}")


MAX_POINTS = 5000  # of t-SNE, whose time grows faster than their number


def _colours(count):
    """A colour for each of some things, as different as so many can be."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    if count <= 20:
        return ListedColormap(colormaps["tab10" if count <= 10 else "tab20"].colors[:count])
    return colormaps["nipy_spectral"].resampled(count)


def t_sne(options, device):
    """Codes of a split in two dimensions, coloured by pose and by object or class."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    opened = _open(options, device)
    split = options.split
    for folder, _, data in opened:
        if min(len(data), MAX_POINTS) <= options.perplexity * 3:
            raise InputError(f"the {split} split of {folder} has {len(data)} images; t-SNE with --perplexity="
                             f"{options.perplexity:g} needs more than three times as many")
    figure, axes = _figure(len(opened), rows=2, size=4.5)
    rows = []
    for column, (folder, model, data) in enumerate(opened):
        codes, poses, objects = _codes(folder, model, data, range(len(data)))
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
        axes[0, column].set_title(f"{_label(folder)}, step {_step(model.step)}\n"
                                  f"{split}, seed {options.seed}{sample}", fontsize=10)
        # In random order, or late poses would hide early ones. Poses go round: a cyclic map, so that the
        # last is as close to the first as they are; hsv, as nothing in it is as light as the paper.
        order = rng.permutation(len(points))
        by_pose = axes[0, column].scatter(*points[order].T, c=pose[order], s=4, cmap="hsv", vmin=0,
                                          vmax=data.num_poses)
        names = [data.class_name(c) for c in data.class_ids] if several else range(data.num_objects)
        by_other = axes[1, column].scatter(*points[order].T, c=other[order], s=4, cmap=_colours(len(names)),
                                           vmin=-0.5, vmax=len(names) - 0.5)
        figure.colorbar(by_pose, ax=axes[0, column], label="pose bin")
        bar = figure.colorbar(by_other, ax=axes[1, column], label="class" if several else "object")
        # Names of all classes; numbers of objects as far as they can be read.
        ticks = range(0, len(names), 1 if several else -(-len(names) // 20))
        bar.set_ticks(ticks, labels=[names[i] for i in ticks])
        bar.minorticks_off()
        rows += [[folder, int(o), int(p), f"{x:.4f}", f"{y:.4f}"]
                 for o, p, (x, y) in zip(thing, pose, points)]
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    disk.make_folder(options.sample_dir, "--sample_dir")
    stem = os.path.join(options.sample_dir, f"t_SNE_{split}")
    _write_csv(stem + ".csv", ["run", "object", "pose", "x", "y"], rows)
    for ending in ("png", "pdf"):
        figure.savefig(f"{stem}.{ending}", dpi=120)
    print(f"wrote {stem}.png, .pdf, .csv")
    return 0
