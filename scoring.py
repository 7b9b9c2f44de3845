"""Measure a trained model: the figures of a split, their protocol, and a check that figures can be compared."""
import math
import os

import numpy as np
import torch

from engine import distributed
from engine.arguments import integer
from engine.monitor import Progress
from errors import InputError
from inference import label
from losses import priors
from making.grids import surface
from metrics import colours, mean_shape, measures, pairwise_iou, pose_mmd, shared_bins, surfaces, voxel_iou
from metrics.crossings import self_intersecting
from readers.base import VOXEL_GRID

MMD = {"mmd_batches": dict(type=integer(1), metavar="N", help=(
    "compute MMD from the first N batches of BATCH_SIZE codes of each class, in the order of objects; the published "
    "program took 96 batches of 128, on CVPR18 512 objects x 24 views (default: all codes)"))}
COLUMNS = (("iou", "IoU"), ("mean_shape_iou", "mean shape"), ("iou_wrong_object", "wrong object"),
           ("view_agreement", "agreement"), ("mmd", "MMD"), ("mmd_shuffled", "MMD shuffled"))
# Columns that evaluations by older versions do not have.
MORE = (("own_view", "own view"), ("new_view", "new view"), ("inside_out", "inside out"), ("pose_probe", "pose probe"),
        ("pose_chance", "by chance"), ("pose_degrees", "degrees off"), ("self_intersecting", "crossing"))
# For datasets with surface points: each figure, that of the mean shape, and that with a wrong object.
SURFACES = tuple((form.format(name), title + of) for name, title in zip(
    surfaces.NAMES, ("Chamfer", "F@1%", "F@2%", "normals"))
    for form, of in (("{}", ""), ("mean_shape_{}", " mean"), ("{}_wrong_object", " wrong")))
# For runs with colours: each figure, that of one colour, and that of the nearest training image's colours.
PSNR, SSIM = (tuple((f"{key}_{view}{control}", f"{title} {view}{word}") for view in ("own", "new")
                    for control, word in (("", ""), ("_mean", " mean"), ("_nearest", " near")))
              for key, title in (("psnr", "PSNR"), ("ssim", "SSIM")))
_FEW_POSES = "fewer than two poses show two objects or more"
UNDEFINED = {"iou_wrong_object": "there is one object", "view_agreement": "each object has one view",
             "mmd": _FEW_POSES, "mmd_shuffled": _FEW_POSES, "new_view": "each object has one view",
             **{key: "each object has one view" for key, _ in PSNR + SSIM if "_new" in key},
             "inside_out": "nothing is drawn", "pose_probe": "there is one pose or one object",
             "pose_chance": "there is one pose or one object", "pose_degrees": "angles between poses are not known",
             **{key: "the set has no points of it" + (", or one object" if "wrong" in key else "")
                for key, _ in SURFACES}}


def score(model, data, objects_at_once=None, full=False, mean_grids=None, progress=None, mmd_codes=None,
          seed=0, points=None, train=None):
    """Measure a model on every view of every object of a split.

    Parameters
    ----------
    data : a dataset whose objects have all their views.
    objects_at_once : default 8, on a GPU 32. The figures do not depend on it.
    full : also compute the controls (below). The validation during training does not.
    mean_grids : {class_id: (n, n, n) bool}, with `full`: mean shapes of the training set.
    mmd_codes : int. MMD is computed from the first `mmd_codes` codes of a class, in the order of objects; None: all.
    seed : seed of the permuted labels of `mmd_shuffled`, of directions, of other views, of the probe and of points.
    points : with `full`: a list of `data.points(c)` for each class, None for a class without points.
    train : the training split, with its images; needed with `full` for a model with colours.

    Returns
    -------
    dict of {class_id: figure}: `iou` (mean over all views of voxel IoU), `mmd`, `inside_out` (the share of drawn
    pixels that show a face from behind, each shape from a random direction; without `full` of one view of each
    object) and `code_spread` (see `measures`); with `full` also
    `iou_wrong_object` (each prediction against up to 20 other objects of its class),
    `view_agreement` (IoU of the shapes predicted from any two views of one object), `mean_shape_iou`,
    `mmd_shuffled` (pose labels permuted), `own_view` and `new_view` (IoU of drawn and real silhouettes, the input's
    view and from another one of the object), `pose_probe`, `pose_degrees`, `pose_chance` (`measures.pose_probe`) and
    `self_intersecting` (share of the faces that cross others, of one prediction per object). If any class has points,
    also the figures in `surfaces.NAMES`, means over all views; `<name>_wrong_object` (each prediction against one other
    object of its class, up to 20 of them in turn); and `mean_shape_<name>` (the surface of the mean grid). For a
    model with colours, also `colours.FIGURES`; without `full`, `colours.WHILE_TRAINING` of one shape of each object.
    """
    names_of_colours = () if model.texture is None else colours.FIGURES if full else colours.WHILE_TRAINING
    objects_at_once = objects_at_once or (8 if model.device.type == "cpu" else 32)
    coloured = full and model.texture is not None
    points = points or [None] * len(data.class_ids)
    result = {key: {} for key in ("iou", "mmd", "inside_out", "code_spread") + (
        ("iou_wrong_object", "view_agreement", "mean_shape_iou", "mmd_shuffled", "own_view", "new_view", "pose_probe",
         "pose_degrees", "pose_chance", "self_intersecting") if full else ()) + (
        tuple(key for key, _ in SURFACES) if any(p is not None for p in points) else ()) + (
        names_of_colours)}
    done = 0
    for c, class_id in enumerate(data.class_ids):
        numbers = data.images_of_class(c)
        objects = np.flatnonzero(data.object_class == c)
        views = len(numbers) // len(objects)
        truth = data.voxels(objects).to(model.device)
        # One row per object, so that sums have the same order whichever process measured which object.
        figures = torch.zeros(len(objects), 16, dtype=torch.float64, device=model.device)
        of_colours = torch.zeros(len(objects), len(names_of_colours), dtype=torch.float64, device=model.device)
        nearest = colours.Nearest(train, train.images_of_class(c)) if coloured else None
        codes = torch.zeros(len(numbers), model.options["latent_dim"], device=model.device)
        true = points[c] is not None and surfaces.Surfaces(points[c], model.device)
        poses, shown = data.all_poses()[numbers], data.all_objects()[numbers]
        for k, first in enumerate(range(0, len(objects), objects_at_once)):
            places = slice(first * views, (first + objects_at_once) * views)
            if k % distributed.size() == distributed.rank():
                batch = data.read(numbers[places]).to(model.device).as_numbers()
                prediction = model.predict(batch.images)
                grids = data.voxelize_as(batch.objects.cpu(), prediction.vertices, prediction.faces)
                codes[places] = prediction.codes.float()
                for o, shapes in enumerate(grids.split(views), first):
                    figures[o, 0] = voxel_iou(shapes, truth[o]).mean()
                    if full:
                        figures[o, 1:3] = _controls(shapes, truth, o)
                here = slice(first, first + len(batch.images) // views)
                shapes, faces, count = prediction.vertices, prediction.faces, here.stop - here.start
                size = batch.silhouettes.shape[-1]
                every = 1 if full else views
                # One view of each object, another for each.
                one = torch.arange(count) * views + (first + torch.arange(count)) % views
                rotations, others = _random_views(range(first, here.stop), views, every, seed)
                figures[here, 3:5] = measures.inside_out(data, shapes[::every], faces, batch.cameras[::every], size,
                                                         prediction.outward, rotations).view(count, -1, 2).sum(1)
                if full:
                    seen = measures.seen_views(data, data.renderer(size), shapes, faces, batch, others)
                    figures[here, 5:7] = seen.view(count, -1, 2).mean(1)
                    figures[here, 7] = self_intersecting(shapes[one], faces)
                if coloured:
                    seen = colours.seen_colours(model, data, prediction, batch, others, nearest)
                    of_colours[here] = seen.view(count, views, -1).mean(1)
                elif names_of_colours:
                    opposite = None if views < 2 else one - one % views + (one + views // 2) % views
                    of_colours[here] = colours.psnr_of_shapes(model, data, prediction, batch, one, opposite)
                if true:
                    figures[here, 8:] = _surface_figures(true, shapes, faces, np.arange(first, first + count), seed)
            done += len(numbers[places])
            if progress:
                progress(done)
        figures, codes = distributed.filled_in(figures), distributed.filled_in(codes)
        mean = [sum(column) / len(objects) for column in figures.T.tolist()]
        result["inside_out"][class_id] = mean[3] / mean[4] if mean[4] else float("nan")
        result["code_spread"][class_id] = measures.code_spread(codes)
        codes, poses, shown = codes[:mmd_codes], poses[:mmd_codes], shown[:mmd_codes]
        bins = shared_bins(poses, shown, data.num_poses)
        result["iou"][class_id] = mean[0]
        if names_of_colours:
            for key, column in zip(names_of_colours, distributed.filled_in(of_colours).T.tolist(), strict=True):
                result[key][class_id] = sum(column) / len(objects)
        result["mmd"][class_id] = pose_mmd(codes, poses, bins)[1]
        if full:
            result["iou_wrong_object"][class_id], result["view_agreement"][class_id] = mean[1:3]
            for key, value in zip(("own_view", "new_view", "self_intersecting"), mean[5:8]):
                result[key][class_id] = value
            probe = measures.pose_probe(codes, poses, shown, data.pose_angle, seed)
            result["pose_probe"][class_id], result["pose_degrees"][class_id] = probe["accuracy"], probe["degrees"]
            result["pose_chance"][class_id] = probe["chance"]
            result["mean_shape_iou"][class_id] = float(
                voxel_iou(truth, mean_grids[class_id][None].to(truth.device)).mean())
            result["mmd_shuffled"][class_id] = pose_mmd(codes, poses, bins, seed)[1]
        if SURFACES[0][0] in result:
            values = (_mean_shape_figures(true, data, objects, mean_grids[class_id], seed) if true
                      else torch.full((4,), float("nan"))).tolist()
            values = zip(*(mean[8:12], values, mean[12:]) if true else (values,) * 3)
            for (key, _), value in zip(SURFACES, sum(values, ())):
                result[key][class_id] = value
    return result


def _random_views(objects, views, every, seed):
    """Random rotations of every `every`-th of the shapes of these objects, and `measures.other_images` of all. Those of
    an object depend only on the seed and its number."""
    rotations, others = [], []
    for place, number in enumerate(objects):
        generator = torch.Generator().manual_seed(seed * 1000003 + number)
        rotations.append(priors.random_rotations(len(range(0, views, every)), generator))
        if views > 1:
            others.append(place * views + measures.other_images(1, views, generator))
    return torch.cat(rotations), torch.cat(others) if others else None


def _surface_figures(true, vertices, faces, objects, seed):
    """(objects, 8): the mean figures of the surfaces of shapes (B, V, 3), then those with wrong objects, one for each
    shape. The shapes are in the order of the objects, equally many of each. NaN if there is one object."""
    views, others = len(vertices) // len(objects), min(len(true) - 1, 20)
    own, view = np.repeat(objects, views), np.tile(np.arange(views), len(objects))
    numbers = own[:, None] if not others else np.stack([own, (own + 1 + view % others) % len(true)], 1)
    found = true.figures(*surfaces.draw_points(vertices, faces, seed=seed), numbers, parts=view)
    if not others:
        found = torch.cat([found, torch.full_like(found, float("nan"))], 1)
    return found.flatten(1).view(len(objects), views, 8).mean(1)


def _mean_shape_figures(true, data, objects, grid, seed):
    """(4,) figures of the surface of a class's mean grid, scaled to each object's own grid."""
    if not grid.any():
        return torch.full((4,), float("nan"))
    vertices, faces = surface(data.mesh_axes(grid.cpu()).numpy())
    vertices = data.from_grid(torch.from_numpy(vertices)[None] / VOXEL_GRID)
    points, normals = surfaces.draw_points(vertices, torch.from_numpy(faces.copy()), seed=seed)
    scales = data.grid_scales(objects).tolist()
    return torch.cat([true.figures(points * scale, normals, [[o]])[0] for o, scale in enumerate(scales)]).mean(0)


def _controls(shapes, truth, o):
    """Mean IoU of the shapes (views, n, n, n) predicted for object o with other objects, and with each other."""
    others = [(o + shift) % len(truth) for shift in range(1, min(len(truth), 21))]
    agreement = pairwise_iou(shapes, shapes)
    wrong = pairwise_iou(shapes, truth[others]).mean() if others else agreement.new_full((), float("nan"))
    return torch.stack([wrong, agreement[tuple(torch.tril_indices(len(shapes), len(shapes), -1))].mean()])


def mean_shapes(train_data):
    """{class_id: (n, n, n) bool}: the one mean voxel grid of each class of a training set."""
    return {class_id: mean_shape(train_data.voxels(np.flatnonzero(train_data.object_class == c)))[0]
            for c, class_id in enumerate(train_data.class_ids)}


def codes_of(name, model, data, numbers):
    """Codes (M, d), poses (M,) and objects (M,) of the images with these numbers (M,)."""
    progress = Progress(f"encoding {label(name)}", len(numbers), " images")
    codes, poses, objects = [], [], []
    for first in range(0, len(numbers), 256):
        batch = data.gather(numbers[first:first + 256])
        codes.append(model.encode(batch.images).float().cpu())
        poses.append(batch.poses)
        objects.append(batch.objects)
        progress.update(min(first + 256, len(numbers)))
    return torch.cat(codes), torch.cat(poses), torch.cat(objects)


def mmd_codes(options):
    """The number of codes of each class from which MMD is computed; None for all."""
    return options.mmd_batches and options.mmd_batches * options.batch_size


def protocol_of(options, model, data):
    """The protocol of the figures of a split: which data they are from and how MMD is computed. --mode=evaluation and
    --mode=MMD have the same protocol and give the same MMD."""
    objects = {c: int((data.object_class == i).sum()) for i, c in enumerate(data.class_ids)}
    views = sorted({len(data.images_of_class(i)) // n for i, n in enumerate(objects.values())})
    taken = "all objects of the split" if options.mmd_batches is None else (
        f"the first {mmd_codes(options)} codes ({options.mmd_batches} batches of {options.batch_size}) of the split, "
        "object by object, or all where there are fewer")
    return {"dataset": model.dataset.name,
            "data_dir": os.path.abspath(options.data_dir or model.options["data_dir"]),
            "split": data.split, "checkpoint": options.eval_flag, "objects": objects,
            "left_out": list(data.left_out), "count_left_out": len(data.left_out),
            "views": f"every view of every object ({', '.join(map(str, views))})",
            "mmd": "squared, mean over pairs of poses, then over classes; 5 Gaussian kernels, bandwidth by pair, "
                   f"biased; {taken}, each class by itself",
            "mmd_codes": mmd_codes(options),
            "mmd_shuffled": f"the same with pose labels permuted, seed {options.seed}"}


def same_protocol(folders, protocols, keys=("dataset", "data_dir", "split", "objects", "voxel_rule",
                                             "mmd_codes")):
    """Raise InputError if evaluations have different protocols, since their figures cannot be compared."""
    first = protocols[0]
    for folder, protocol in zip(folders, protocols):
        for key in keys:
            if protocol.get(key) != first.get(key):
                raise InputError(f"{folders[0]} and {folder} were evaluated with different {key}: "
                                 f"{first.get(key)} and {protocol.get(key)}")


def undefined(figures):
    """Sentences that say why some of the figures, {name: {class_id: number}}, are undefined."""
    found = {}
    for key, title in COLUMNS + MORE + SURFACES + PSNR + SSIM:
        classes = tuple(c for c, value in figures.get(key, {}).items() if not math.isfinite(value))
        if classes:
            found.setdefault((classes, UNDEFINED.get(key, "not finite")), []).append(title)
    return [f"no {', no '.join(titles)} of {', '.join(classes)}: {why}" for (classes, why), titles in found.items()]


def number(value, digits=4):
    """A figure as tables print it; '-' if it is undefined (see `undefined`)."""
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def step_of(step):
    """A step as tables print it; '?' for a state dict, which does not contain its step."""
    return "?" if step is None else step
