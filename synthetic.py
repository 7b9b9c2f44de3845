"""Datasets in the published layouts: the embedded one from procedural shapes, and one from your meshes.

The datasets' writers make the files (readers/writers.py).
"""
import itertools
import os
import shlex

import numpy as np
import torch

import shapes
from datasets import CVPR18, DATASETS, DEFAULT
from engine import disk, strict_json
from engine.arguments import integer
from engine.monitor import Progress
from errors import InputError
from readers.base import is_of_a_system, tell_left_out
from readers.meshes import read_mesh

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "synthetic")  # of the embedded data
SIZES = {"n_train": 300, "n_val": 40, "n_test": 40}  # objects of a class
SHAPES = {  # options of the procedural shapes
    "n_train": dict(type=integer(1), default=SIZES["n_train"], help="objects of a class to train on"),
    "n_val": dict(type=integer(1), default=SIZES["n_val"], help="... to validate"),
    "n_test": dict(type=integer(1), default=SIZES["n_test"], help="... to test"),
    "palette": dict(choices=("own", "shared"), default="own", help=(
        "colours of each object's own, or shared so that colour cannot identify it"))}
EMBEDDED = {  # and of their pictures
    **SHAPES,
    "train_views": dict(type=integer(1), help="views drawn of a training object (default: all that the layout has)")}
SPLITS = ("train", "val", "test")
MAIN_CLASSES = ("02691156", "02958343", "03001627", "04379243", "04256520")
DESCRIPTION = "dataset.json"
MESH_ENDINGS = (".obj", ".off", ".ply", ".stl", ".glb", ".gltf")


def _tensors(vertices, faces, colors):
    return (torch.from_numpy(np.ascontiguousarray(vertices)).float(),
            torch.from_numpy(np.ascontiguousarray(faces)).long(),
            torch.from_numpy(np.ascontiguousarray(colors)).float())


# ---- procedural shapes --------------------------------------------------------------------------

def make_synthetic(folder, class_ids=MAIN_CLASSES, n_train=SIZES["n_train"], n_val=SIZES["n_val"],
                   n_test=SIZES["n_test"], train_views=None, palette="own", seed=0, layout=DEFAULT):
    """Make the embedded dataset, or complete it: classes that are there already are kept.

    Object i of a split is a function of the seed, the class, the split and i alone.
    """
    train_views = _views(layout, train_views)
    settings = {"made_by": "synthetic shapes", "n_train": n_train, "n_val": n_val, "n_test": n_test,
                "train_views": train_views, "palette": palette, "data_seed": seed}
    unknown = [c for c in class_ids if c not in shapes.CLASSES]
    if unknown:
        known = ", ".join(f"{k} {v}" for k, v in shapes.CLASSES.items())
        raise InputError(f"--class_ids={unknown[0]} is not a class of the embedded data; known: {known}")
    if min(n_train, n_val, n_test) < 1:
        raise InputError(f"--n_train={n_train}, --n_val={n_val}, --n_test={n_test} must be at least 1")
    done = _begin(folder, settings, layout)
    for class_id in class_ids:
        if class_id in done:
            continue

        def make(split, i):
            rng = np.random.default_rng([seed, int(class_id), SPLITS.index(split), i])
            return _tensors(*shapes.make_object(class_id, rng, palette))

        DATASETS[layout].writer(folder, class_id, _sizes(layout, n_train, n_val, n_test), make, train_views,
                                seed, f"{class_id} {shapes.CLASSES[class_id]}")
        done.append(class_id)
        _describe(folder, settings, done)
    return folder


def _views(layout, train_views):
    """Views of a training object: those asked for, or all that the layout has."""
    most = DATASETS[layout].count_of_views
    train_views = most if train_views is None else train_views
    if not 1 <= train_views <= most:
        raise InputError(f"--train_views={train_views} must be from 1 to {most}, the views of an object in "
                         f"{layout}'s layout")
    return train_views


def _sizes(layout, *counts):
    return {split: count for split, count in zip(SPLITS, counts) if split in DATASETS[layout].splits}


def _begin(folder, settings, layout):
    """Class ids that a folder holds already, made with the same settings."""
    if layout != DEFAULT:  # the first one, which needs no mention
        settings["layout"] = layout
    path = os.path.join(folder, DESCRIPTION)
    if os.path.exists(path):
        try:
            with open(path) as file:
                before = strict_json.loads(file.read())
            done = before.pop("classes")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} cannot be read as the description of a dataset: {error}") from None
        if before == settings:
            return done
        if not all(name == DESCRIPTION or name.endswith(".part") for name in os.listdir(folder)):
            other = next(k for k in {**before, **settings} if before.get(k) != settings.get(k))
            raise InputError(f"--data_dir={folder} was made with {other}={before.get(other)}, now "
                             f"{other}={settings.get(other)}; make another, {_command(settings, layout)}, and train "
                             "with its --data_dir, or remove this one")
    elif os.path.isdir(folder) and DATASETS[layout].held(folder):
        raise InputError(f"--data_dir={folder} holds a dataset that this program did not make; choose "
                         "another folder")
    disk.make_folder(folder, "--data_dir")
    _describe(folder, settings, [])
    return []


def _command(settings, layout):
    """What makes a dataset of these settings elsewhere."""
    plain = {"made_by": settings["made_by"], **SIZES, "palette": "own", "data_seed": 0, "up": "y",
             "train_views": _views(layout, None)}
    given = [f" --{name}={shlex.quote(str(value))}" for name, value in settings.items() if value != plain.get(name)]
    return "--mode=make_dataset --data_dir=OTHER" + "".join(given)


def making(layout, folder, *more):
    """The command that makes a dataset of a layout in a folder."""
    given = [] if layout == DEFAULT else [f"--layout={layout}"]
    return " ".join(["--mode=make_dataset", *given, f"--data_dir={shlex.quote(folder)}", *more])


def _describe(folder, settings, done):
    disk.write_json(os.path.join(folder, DESCRIPTION), {**settings, "classes": done})


# ---- meshes of people ---------------------------------------------------------------------------

# Rows: where x, y, z of the dataset's frame come from, for meshes whose up axis is the key. Rotations,
# never reflections: an object keeps its hand.
UP = {"y": ((1, 0, 0), (0, 1, 0), (0, 0, 1)), "z": ((1, 0, 0), (0, 0, 1), (0, -1, 0)),
      "x": ((0, -1, 0), (1, 0, 0), (0, 0, 1)), "-y": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
      "-z": ((1, 0, 0), (0, 0, -1), (0, 1, 0)), "-x": ((0, 1, 0), (-1, 0, 0), (0, 0, 1))}


def load_mesh(path, up="y"):
    """(vertices, faces, colors) of a mesh file, upright, centred, its longest side 1.

    Made smaller where a corner would leave one of the 24 pictures. Face colours where the file has
    them, grey elsewhere. Materials and pictures are left alone; what else a file consists of (the buffers of
    a glTF) must lie in its folder or below.
    """
    vertices, faces, colors = read_mesh(path)
    used = vertices[faces]
    low, high = used.min((0, 1)), used.max((0, 1))
    if not (high - low).max() > 0:
        raise InputError(f"{path} is a single point")
    vertices = (vertices - (low + high) / 2) / (high - low).max() @ np.array(UP[up], np.float64).T
    vertices = np.where(np.isfinite(vertices), vertices, 0)  # corners of no face
    vertices *= _scale_to_fit(vertices[np.unique(faces)])
    return _tensors(vertices, faces, np.full((len(faces), 3), 0.7) if colors is None else colors)


def _scale_to_fit(vertices, margin=0.97):
    points = CVPR18.flip_handedness(torch.from_numpy(vertices))[None].expand(CVPR18.num_views, -1, -1)
    views, scale = torch.arange(CVPR18.num_views), 1.0
    while float(CVPR18.project(points * scale, views)[..., :2].abs().max()) > margin:
        scale *= 0.98
    return scale


def make_from_meshes(folder, mesh_dir, up="y", seed=0, train_views=None, layout=DEFAULT, skip_bad=False,
                     class_ids=None):
    """Make a dataset from a folder of meshes: each subfolder, or each that class_ids name, is a class.

    Classes of fewer than 3 meshes are left out, with a line that names them. A tenth of the objects of a
    class (at least one) validates, two tenths (at least one) test. With skip_bad, meshes that cannot be used are
    left out and listed, here and in `<class>_objects.json`.
    """
    if not mesh_dir or not os.path.isdir(mesh_dir):
        raise InputError(f"--mesh_dir={mesh_dir} is not a folder; expected one with a subfolder of meshes "
                         "for each class")
    found = {}
    for class_id in sorted(os.listdir(mesh_dir)):
        if is_of_a_system(class_id):
            continue
        files = []
        for root, folders, names in os.walk(os.path.join(mesh_dir, class_id)):
            folders[:] = [name for name in folders if not is_of_a_system(name)]
            files += [os.path.join(root, f) for f in names
                      if f.lower().endswith(MESH_ENDINGS) and not is_of_a_system(f)]
        files.sort()
        if files:
            found[class_id] = files
    if not found:
        raise InputError(f"--mesh_dir={mesh_dir} has no subfolder with meshes ({', '.join(MESH_ENDINGS)})")
    unknown = [c for c in class_ids or () if c not in found]
    if unknown:
        raise InputError(f"--class_ids={unknown[0]} is not a subfolder of --mesh_dir={mesh_dir} with meshes; there: "
                         f"{', '.join(found)}")
    found = {c: found[c] for c in class_ids or found}
    small = [f"{c} ({len(f)})" for c, f in found.items() if len(f) < 3]
    classes = {c: f for c, f in found.items() if len(f) >= 3}
    if not classes:
        raise InputError(f"--mesh_dir={mesh_dir} has no class of at least 3 meshes, for training, validation and "
                         f"test: {', '.join(small)}")
    if small:
        print(f"left out, for they have fewer than 3 meshes: {', '.join(small)}")
    train_views = _views(layout, train_views)
    settings = {"made_by": "meshes", "mesh_dir": os.path.abspath(mesh_dir), "up": up, "data_seed": seed,
                "train_views": train_views}
    done = _begin(folder, settings, layout)
    for class_id in [c for c in done if c in found or not class_ids]:
        _check_same_meshes(folder, class_id, mesh_dir, found.get(class_id, []))
    for class_id, files in classes.items():
        if class_id in done:
            continue
        bad = {}
        if skip_bad:
            bad = _unusable(class_id, files, up)
            tell_left_out(list(bad.values()), print)
            files = [path for path in files if path not in bad]
            if len(files) < 3:
                print(f"left out, for fewer than 3 of its meshes can be used: {class_id} ({len(files)})")
                continue
        order = np.random.default_rng(seed).permutation(len(files))
        n_val, n_test = max(1, len(files) // 10), max(1, len(files) // 5)
        split = {"val": order[:n_val], "test": order[n_val:n_val + n_test], "train": order[n_val + n_test:]}
        DATASETS[layout].writer(folder, class_id, _sizes(layout, *(len(split[s]) for s in SPLITS)),
                                lambda s, i: _load(files[split[s][i]], up), train_views, seed, class_id)
        names = {**{s: [files[j] for j in split[s]] for s in SPLITS}, **({"left_out": list(bad)} if bad else {})}
        disk.write_json(_list_of(folder, class_id),
                        {s: [os.path.relpath(path, mesh_dir) for path in paths] for s, paths in names.items()})
        done.append(class_id)
        _describe(folder, settings, done)
    if not done:
        raise InputError(f"--skip_bad leaves no class of at least 3 meshes of --mesh_dir={mesh_dir}")
    print(f"{folder}: " + ", ".join(_told(folder, class_id, layout) for class_id in done))
    return folder


def _load(path, up):
    try:
        return load_mesh(path, up)
    except InputError as error:
        raise InputError(f"{error}; --skip_bad goes on without such meshes") from None


def _unusable(class_id, files, up):
    """{path: sentence} of the meshes that cannot be used."""
    bad, progress = {}, Progress(f"  {class_id}: looking for broken ones", len(files), " meshes")
    for k, path in enumerate(files):
        try:
            load_mesh(path, up)
        except InputError as error:
            bad[path] = str(error)
        progress.update(k + 1)
    return bad


def _list_of(folder, class_id):
    return os.path.join(folder, f"{class_id}_objects.json")


def _listed(folder, class_id):
    """{split: [meshes]} that a class was made from, and left_out, by their paths below --mesh_dir."""
    path = _list_of(folder, class_id)
    try:
        with open(path) as file:
            return {split: list(map(str, names)) for split, names in strict_json.loads(file.read()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as the list of the meshes of {class_id}: {error}") from None


def _told(folder, class_id, layout):
    """'table (6 objects, 1 mesh left out)': what the files hold."""
    listed = _listed(folder, class_id)
    count, bad = sum(len(listed.get(split, ())) for split in DATASETS[layout].splits), len(listed.get("left_out", ()))
    left_out = f", {bad} mesh{'es' if bad > 1 else ''} left out" if bad else ""
    return f"{class_id} ({count} objects{left_out})"


def _check_same_meshes(folder, class_id, mesh_dir, files):
    """Refuse other meshes than a class was made from: its split would move objects from training to test."""
    before = set(itertools.chain(*_listed(folder, class_id).values()))
    now = {os.path.relpath(path, mesh_dir) for path in files}
    changes = [f"{len(names)} {what} ({min(names)}{', ...' if len(names) > 1 else ''})"
               for what, names in (("new", now - before), ("gone", before - now)) if names]
    if changes:
        raise InputError(f"--mesh_dir={mesh_dir} has other meshes of {class_id} than {_list_of(folder, class_id)} "
                         f"lists, {' and '.join(changes)}: make all of them into another --data_dir, or remove "
                         f"{folder} first")
