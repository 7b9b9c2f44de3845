"""`--mode=evaluation`: measures a run; prints the figures with their protocol and writes them as JSON."""
import os

import numpy as np

from engine import disk, distributed
from engine.arguments import Mode
from engine.monitor import Progress
from errors import InputError
from inference import load_run, need_model, open_model, open_split
from metrics import measures
from metrics.surfaces import ASKED, PER_OBJECT
from scoring import (COLUMNS, MMD, MORE, PSNR, SSIM, SURFACES, mean_shapes, mmd_codes, number, protocol_of, score,
                     undefined)


def run(options, device):
    """Evaluate the run in --ckpt_dir, or each run in its subfolders `ckpt3D_<class>`, or --load_E and --load_G."""
    need_model(options)
    if options.load_E or options.load_G:
        evaluate_run(options, options.sample_dir, open_model(options, device), options.class_ids)
        return 0
    folder = options.ckpt_dir
    parts = sorted(d for d in os.listdir(folder) if d.startswith("ckpt3D_")) \
        if os.path.isdir(folder) else []

    def load(path):
        return load_run(path, options.eval_flag, device, vars(options))
    if not parts:
        evaluate_run(options, folder, load(folder), options.class_ids)
        return 0
    if options.class_ids:
        absent = [c for c in options.class_ids if f"ckpt3D_{c}" not in parts]
        if absent:
            raise InputError(f"--ckpt_dir={folder} has no ckpt3D_{absent[0]}; it has {', '.join(parts)}")
        parts = [f"ckpt3D_{c}" for c in options.class_ids]
    results = []
    for part in parts:  # each its own class
        path = os.path.join(folder, part)
        results.append(evaluate_run(options, path, load(path)))
    left_out = [said for r in results for said in r["protocol"]["left_out"]]
    merged = {"protocol": {**results[0]["protocol"], "runs": parts, "left_out": left_out,
                           "count_left_out": len(left_out), "left_out_of_mean_shape": [
                               said for r in results for said in r["protocol"]["left_out_of_mean_shape"]],
                           "objects": {k: v for r in results for k, v in r["protocol"]["objects"].items()}}}
    for key in dict.fromkeys(key for r in results for key, value in r.items() if isinstance(value, dict)):
        if key != "protocol":  # a class without points lacks what others have
            merged[key] = {c: r.get(key, {}).get(c, float("nan")) for r in results for c in r["iou"]}
    merged["protocol"]["undefined"] = undefined(merged)
    merged["mean_iou"] = float(np.mean(list(merged["iou"].values())))
    if distributed.main():
        disk.write_json(os.path.join(folder, _file_name(results[0]["protocol"])), merged)
    print(f"mean IoU over {len(merged['iou'])} classes: {merged['mean_iou']:.4f}")
    return 0


def _file_name(protocol, untrained=()):
    """untrained : classes outside the training set, whose figures go to a separate file."""
    return "_".join(["evaluation", protocol["split"], protocol["checkpoint"], *untrained]) + ".json"


def evaluate_run(options, folder, model, class_ids=None):
    """Measure one model and write `evaluation_<split>_<flag>.json` into a folder.

    class_ids : default: the classes of its training.
    """
    trained = model.options.get("class_ids")
    class_ids = class_ids or trained
    untrained = [c for c in class_ids or () if trained and c not in trained]
    with distributed.main_first():
        data = open_split(model, options, class_ids=class_ids)
        train = open_split(model, options, "train", class_ids=class_ids, only_voxels=model.texture is None)
        points = [data.points(c) for c in range(len(data.class_ids))]
        if distributed.main():
            disk.make_folder(folder, "--sample_dir" if options.load_E else "--ckpt_dir")
    progress = Progress(f"evaluating {os.path.basename(os.path.normpath(folder))}", len(data), " images")
    figures = score(model, data, full=True, mean_grids=mean_shapes(train),
                    progress=progress.update if distributed.main() else None,
                    mmd_codes=mmd_codes(options), seed=options.seed, points=points, train=train)
    result = {
        "protocol": {
            **protocol_of(options, model, data), "model": model.source, "step": model.step,
            "grid": f"32^3, {model.dataset.grid_rule}",
            "voxel_rule": "published (Kato & Harada 2019): surface cells around grid lines, then "
                          "everything that the border cannot reach",  # --mode=compare needs equal texts
            "iou": "mean over all views of a class; mean_iou over classes; two empty grids count as 1",
            "mean_shape_iou": "IoU with one mean grid of the training objects, whose threshold is the best for them",
            "left_out_of_mean_shape": list(train.left_out),
            "iou_wrong_object": "IoU of each prediction with up to 20 other objects of its class",
            "view_agreement": "mean IoU of the shapes predicted from two views of one object",
            "own_view": "IoU of the drawn and the real silhouette from the view of the input; counts pixels that are "
                        "more than half covered",
            "new_view": "the same from one random other view of the object",
            "inside_out": "share of the drawn pixels that show the back of a face, each shape from a random direction",
            "self_intersecting": "share of the faces that cross another face; one prediction of each object",
            **({"surfaces": f"{PER_OBJECT} points on each surface, uniform by area; distances of {ASKED} of them to "
                            "the nearest point of the other surface. chamfer_l1 in tenths of the longest side of the "
                            "true object (Mescheder et al. 2019), fscore_1 and fscore_2 at 1 % and 2 % of it "
                            "(Tatarchenko et al. 2019), normal_consistency without sign; wrong object: each "
                            "prediction against one other object of its class"} if "chamfer_l1" in figures else {}),
            "pose_probe": "share of poses that a new two-layer network predicts from codes of objects that it was not "
                          f"trained on, two-fold, seed {options.seed}; pose_chance: the best constant guess",
            "pose_degrees": "mean angular error of that network",
            "code_spread": "deviation of the codes divided by their length; below "
                           f"{measures.COLLAPSED:g} all images give the same shape",
            **(_colours_protocol(model, data) if model.texture is not None else {}),
        }, **figures, "mean_iou": float(np.mean(list(figures["iou"].values())))}
    result["protocol"]["undefined"] = undefined(figures)
    if distributed.main():
        disk.write_json(os.path.join(folder, _file_name(result["protocol"], untrained)), result)
    print_table(result, data)
    print(f"written to {os.path.join(folder, _file_name(result['protocol'], untrained))}" + (
        f"; not trained on {', '.join(map(data.class_name, untrained))}" if untrained else ""))
    return result


def _colours_protocol(model, data):
    lit = "that of the dataset" if data.light is not None and model.texture.light[1] > 0 else \
        "not known: shading is part of the colours"
    return {"light": lit,
            "psnr": "dB, of colours in [0, 1] inside the real silhouette, each picture by itself, mean over pictures; "
                    "own: the view of the input; new: the view of new_view",
            "ssim": "Wang et al. 2004, mean of its map inside the real silhouette, black outside",
            "psnr_own_mean": "the predicted shape in the one colour that gives the mean of the input picture; so are "
                             "all figures ..._mean",
            "psnr_own_nearest": "the predicted shape in the colours that the model gives the training picture of the "
                                "pose bin that is nearest to the input, by squared distance of RGB(A) at 16 x 16; so "
                                "are all figures ..._nearest"}


def print_table(result, data):
    protocol = result["protocol"]
    step = "?" if protocol["step"] is None else protocol["step"]
    print(f"\n{protocol['model']}, step {step} ({protocol['checkpoint']}); {protocol['dataset']} "
          f"{protocol['split']} of {protocol['data_dir']}, every view, voxels 32^3 by the published rule")
    if protocol["mmd_codes"] is not None:
        print(f"MMD: {protocol['mmd']}")
    for columns in (COLUMNS, MORE, SURFACES[:6], SURFACES[6:], PSNR, SSIM):
        if columns[0][0] not in result:
            continue  # no surface points, or no colours
        print(f"{'class':<22}{'objects':>8}" + "".join(f"{title:>14}" for _, title in columns))
        for class_id, count in protocol["objects"].items():
            print(f"{data.class_label(class_id):<22}{count:>8}"
                  + "".join(f"{number(result[key][class_id]):>14}" for key, _ in columns))
        print(f"{'mean':<30}" + "".join(
            f"{number(np.mean(list(result[key].values()))):>14}" for key, _ in columns))
    for class_id, spread in result["code_spread"].items():
        if spread < measures.COLLAPSED:
            print(f"collapsed: all images of {data.class_label(class_id)} have the same code, so its MMD means nothing")
    for sentence in protocol["undefined"]:
        print(f"-: {sentence}")


MODE = Mode(run, "voxel IoU, MMD and baselines, as a table and JSON", options=MMD, several_processes=True)
