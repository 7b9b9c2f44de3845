"""`--mode=MMD`: the distance between the shape codes of each pair of poses, for one or several runs."""
import os

import numpy as np

from engine import disk
from engine.arguments import Mode
from errors import InputError
from inference import RUNS, label, open_runs, refuse_two_folders
from metrics import measures, pose_mmd, shared_bins
from pictures import figure_of
from scoring import MMD, codes_of, mmd_codes, number, protocol_of, same_protocol, step_of, undefined


def _by_class(folder, data, options):
    """{class_id: (numbers of the images to use, pose bins with images of at least two objects)}"""
    poses, objects = data.all_poses(), data.all_objects()
    classes = {}
    for c, class_id in enumerate(data.class_ids):
        numbers = data.images_of_class(c)[:mmd_codes(options)]
        classes[class_id] = numbers, shared_bins(poses[numbers], objects[numbers], data.num_poses)
    most = max(len(bins) for _, bins in classes.values())
    if most < 2:
        first = "" if options.mmd_batches is None else (
            f"--mmd_batches={options.mmd_batches} of {options.batch_size}: the first {mmd_codes(options)} codes of ")
        raise InputError(f"{first}the {data.split} split of {folder} has {most} poses with two objects or more of "
                         "one class; MMD compares at least two")
    return classes


def _measured(options, folder, model, data, classes):
    """The MMD of a run for each class, as in --mode=evaluation, and the mean over classes."""
    codes, poses, objects = codes_of(folder, model, data, np.concatenate([numbers for numbers, _ in classes.values()]))
    sizes = [len(numbers) for numbers, _ in classes.values()]
    figures = {}
    for (class_id, (_, bins)), mine, seen, of in zip(classes.items(), codes.split(sizes), poses.split(sizes),
                                                     objects.split(sizes)):
        mine = mine.to(model.device)
        matrix, mean = pose_mmd(mine, seen, bins)
        figures[class_id] = {
            "mean": mean, "mean_shuffled": pose_mmd(mine, seen, bins, options.seed)[1], "codes": len(mine),
            "pose_probe": measures.pose_probe(mine, seen, of, data.pose_angle, options.seed),
            "code_spread": measures.code_spread(mine), "poses": bins,
            "poses_left_out": [p for p in range(data.num_poses) if p not in bins],
            "matrix": matrix.tolist()}
    means = {key: float(np.mean([f[key] for f in figures.values()])) for key in ("mean", "mean_shuffled")}
    return {"run": folder, "step": model.step, **means, "codes": len(codes), "classes": figures}


def run(options, device):
    """Write the MMD matrix of all pairs of poses of each class and run, with the shuffled control."""
    refuse_two_folders(options)
    opened = open_runs(options, device)
    # The estimate is biased and grows with fewer codes; figures of other objects or bins are not comparable.
    protocols = [{**protocol_of(options, model, data), "pose_bins": data.num_poses} for _, model, data in opened]
    same_protocol([folder for folder, _, _ in opened], protocols,
                  ("dataset", "data_dir", "split", "objects", "views", "pose_bins"))
    classes = [_by_class(folder, data, options) for folder, _, data in opened]
    results = [_measured(options, *run, parts) for run, parts in zip(opened, classes)]
    folder = options.sample_dir
    disk.make_folder(folder, "--sample_dir")
    protocol, data = protocols[0], opened[0][2]
    protocol["undefined"] = undefined({name: {c: f[key] for r in results for c, f in r["classes"].items()}
                                       for name, key in (("mmd", "mean"), ("mmd_shuffled", "mean_shuffled"))})
    stem = os.path.join(folder, f"MMD_{data.split}")
    disk.write_json(stem + ".json", {"protocol": protocol, "runs": results})
    disk.write_csv(stem + ".csv", ["run", "class", "pose", "other_pose", "mmd"],
                   [[r["run"], c, p, q, f["matrix"][i][j]] for r in results for c, f in r["classes"].items()
                    for i, p in enumerate(f["poses"]) for j, q in enumerate(f["poses"]) if q < p])
    _heat_maps(stem, results, data)
    _print_mmd(protocol, results, data)
    print(f"wrote {stem}.json, .csv, .png, .pdf")
    return 0


def _heat_maps(stem, results, data):
    """One column per run, one panel per class."""
    ids = list(results[0]["classes"])
    figure, axes = figure_of(len(results), len(ids))
    top = max((max(map(max, f["matrix"])) for r in results for f in r["classes"].values() if f["matrix"]), default=1)
    for column, r in zip(axes.T, results):
        for axis, class_id in zip(column, ids):
            f = r["classes"][class_id]
            name = f"{data.class_name(class_id)}, " if len(ids) > 1 else ""
            shown = axis.imshow(f["matrix"] or [[np.nan]], vmin=0, vmax=top or 1, cmap="magma", origin="lower")
            axis.set(title=f"{label(r['run'])}, {name}step {step_of(r['step'])}\n"
                           f"mean {number(f['mean'], 3)}, shuffled {number(f['mean_shuffled'], 3)}",
                     xlabel="pose bin", ylabel="pose bin")
            # Label rows with the numbers of their bins, since some bins are left out; at most a dozen labels fit.
            places = range(0, len(f["poses"]), -(-len(f["poses"]) // 12) or 1)
            numbers = [f["poses"][i] for i in places]
            axis.set_xticks(places, numbers, rotation=90 if max(numbers, default=0) > 99 else 0)
            axis.set_yticks(places, numbers)
    figure.colorbar(shown, ax=axes.ravel().tolist(), label="squared MMD", shrink=0.8 / len(ids))
    for ending in ("png", "pdf"):
        figure.savefig(f"{stem}.{ending}", dpi=120)


def _print_mmd(protocol, results, data):
    print(f"squared MMD of shape codes; {protocol['dataset']} {protocol['split']} of {protocol['data_dir']}, "
          f"{protocol['views']}\n{protocol['mmd']}\nshuffled: {protocol['mmd_shuffled']}\nprobe: share of "
          "poses that a new two-layer network predicts from codes of objects that it was not trained on")
    print(f"{'run':<40}{'step':>8}  {'class':<22}{'objects':>8}{'codes':>8}"
          + "".join(f"{title:>10}" for title in ("MMD", "shuffled", "probe", "chance", "degrees")))
    for r in results:
        start = f"{r['run'][-39:]:<40}{step_of(r['step']):>8}  "
        for class_id, f in r["classes"].items():
            print(f"{start}{data.class_label(class_id):<22}{protocol['objects'][class_id]:>8}{f['codes']:>8}"
                  f"{number(f['mean']):>10}{number(f['mean_shuffled']):>10}"
                  + "".join(f"{number(f['pose_probe'][key]):>10}" for key in ("accuracy", "chance", "degrees")))
            if f["code_spread"] < measures.COLLAPSED:
                print("  collapsed: all images have the same code, so an MMD near 0 means nothing")
            if f["poses_left_out"]:
                print(f"  without {len(f['poses_left_out'])} of {len(f['poses']) + len(f['poses_left_out'])} poses, "
                      "which show fewer than two objects")
        if len(r["classes"]) > 1:
            print(f"{start}{'mean':<22}{sum(protocol['objects'].values()):>8}{r['codes']:>8}"
                  f"{number(r['mean']):>10}{number(r['mean_shuffled']):>10}")
    for sentence in protocol["undefined"]:
        print(f"-: {sentence}")


MODE = Mode(run, "distance between the codes of each pair of poses", options={**RUNS, **MMD})
