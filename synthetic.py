"""Make datasets in the published layouts: the built-in one from procedural shapes, or one from your meshes.

The writers in readers/writers.py write the files.
"""
import itertools
import os
import shlex
from dataclasses import dataclass

import numpy as np
import torch

import shapes
from datasets import CVPR18, DATASETS, DEFAULT
from engine import disk, strict_json
from engine.arguments import integer
from errors import InputError
from images import IMAGE_ENDINGS
from making import scenery
from making.cubes import cut_out
from making.grids import SURFACES, turn_grid
from making.looks import GREY
from making.scenery import Scenery
from making.workers import in_order
from readers.base import VOXEL_GRID, is_of_a_system, tell_left_out
from readers.cache import fingerprint
from readers.meshes import read_mesh
from readers.nips17_files import objects_of_split, read_splits
from readers.voxel_files import ENDINGS as GRID_ENDINGS
from readers.voxel_files import read_voxels

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data", "synthetic")  # of the built-in data
SIZES = {"n_train": 300, "n_val": 40, "n_test": 40}  # objects per class
SHAPES = {  # options of the procedural shapes
    "n_train": dict(type=integer(1), default=SIZES["n_train"], help="training objects per class"),
    "n_val": dict(type=integer(1), default=SIZES["n_val"], help="validation objects per class"),
    "n_test": dict(type=integer(1), default=SIZES["n_test"], help="test objects per class"),
    "palette": dict(choices=("own", "shared"), default="own", help=(
        "own: each object has its own colours; shared: all have the same, so that colour cannot identify an object"))}
EMBEDDED = {  # options of the procedural shapes and of their pictures
    **SHAPES,
    "train_views": dict(type=integer(1), help="views of each training object (default: all views of the layout)")}
AROUND = {  # options of the surroundings of all objects
    "light": dict(choices=("fixed", "random"), default="fixed", help=(
        "fixed: one light for all pictures; random: each picture has its own light, from above")),
    "background": dict(metavar="DIR", default="none", help=(
        "a folder of pictures: a random part of one is behind the object in each picture; none: the ground is black, "
        "in Pascal3D's layout coloured"))}
SPLITS = ("train", "val", "test")
MAIN_CLASSES = ("02691156", "02958343", "03001627", "04379243", "04256520")
DESCRIPTION = "dataset.json"
PLAIN = {"colors": "own", "light": "fixed", "background": "none"}  # defaults that dataset.json omits
MESH_ENDINGS = (".obj", ".off", ".ply", ".stl", ".glb", ".gltf")


def _tensors(vertices, faces, colors):
    return (torch.from_numpy(np.ascontiguousarray(vertices)).float(),
            torch.from_numpy(np.ascontiguousarray(faces)).long(),
            torch.from_numpy(np.ascontiguousarray(colors)).float())


@dataclass
class Procedural:
    """Makes the objects of a built-in class."""
    class_id: str
    palette: str
    seed: int

    def __call__(self, split, i):
        rng = np.random.default_rng([self.seed, int(self.class_id), SPLITS.index(split), i])
        return _tensors(*shapes.make_object(self.class_id, rng, self.palette))


# ---- procedural shapes --------------------------------------------------------------------------

def make_synthetic(folder, class_ids=MAIN_CLASSES, n_train=SIZES["n_train"], n_val=SIZES["n_val"],
                   n_test=SIZES["n_test"], train_views=None, palette="own", seed=0, layout=DEFAULT,
                   workers=None, light="fixed", background="none", skip_bad=False):
    """Make the built-in dataset, or complete it: existing classes are kept.

    Object i of a split depends only on the seed, the class, the split and i.
    """
    train_views = _views(layout, train_views)
    settings = {"made_by": "synthetic shapes", "n_train": n_train, "n_val": n_val, "n_test": n_test,
                "train_views": train_views, "palette": palette, "data_seed": seed,
                **_around(light, background, layout)}
    unknown = [c for c in class_ids if c not in shapes.CLASSES]
    if unknown:
        known = ", ".join(f"{k} {v}" for k, v in shapes.CLASSES.items())
        raise InputError(f"--class_ids={unknown[0]} is not a class of the embedded data; known: {known}")
    if min(n_train, n_val, n_test) < 1:
        raise InputError(f"--n_train={n_train}, --n_val={n_val}, --n_test={n_test} must be at least 1")
    complete = _described(folder).get("classes", [])
    missing = set(class_ids) - set(complete)
    grounds, bad_grounds = _grounds(background, workers, skip_bad) if missing else ((), {})
    done = _begin(folder, settings, layout)
    for class_id in [class_id for class_id in class_ids if class_id not in done]:
        DATASETS[layout].writer(folder, class_id, _sizes(layout, n_train, n_val, n_test),
                                Procedural(class_id, palette, seed), train_views, seed,
                                f"{class_id} {shapes.CLASSES[class_id]}", workers,
                                **_scenery(class_id, seed, light, grounds))
        done.append(class_id)
        _describe(folder, settings, done, bad_grounds=bad_grounds)
    return folder


def _views(layout, train_views):
    """Number of views of a training object: `train_views`, or all views of the layout."""
    most = DATASETS[layout].count_of_views
    train_views = most if train_views is None else train_views
    if not 1 <= train_views <= most:
        raise InputError(f"--train_views={train_views} must be from 1 to {most}, the views of an object in "
                         f"{layout}'s layout")
    return train_views


def _around(light, background, layout):
    """The settings of AROUND that differ from the defaults."""
    if background != "none" and not DATASETS[layout].shows_grounds:
        raise InputError(f"--background is not for --layout={layout}: its readers ignore what is behind the objects")
    if background != "none" and not os.path.isdir(background):
        raise InputError(f"--background={background} is not a folder; expected one of pictures, or none")
    return {**({"light": light} if light != "fixed" else {}),
            **({"background": os.path.abspath(background)} if background != "none" else {})}


def _grounds(background, workers, skip_bad):
    """(paths of the pictures below a folder, sorted; {path in it: what is wrong} of those that skip_bad leaves out).
    Each is read once, to find broken ones before the work starts."""
    if background == "none":
        return (), {}
    found = []
    for root, folders, names in os.walk(background):
        folders[:] = [name for name in folders if not is_of_a_system(name)]
        found += [os.path.join(root, name) for name in names
                  if name.lower().endswith(IMAGE_ENDINGS) and not is_of_a_system(name)]
    if not found:
        raise InputError(f"--background={background} has no pictures ({', '.join(IMAGE_ENDINGS)})")
    found.sort()
    problems = {path: said for path, said in zip(found, in_order(scenery.problem, found, workers)) if said}
    if problems and not skip_bad:
        raise InputError(next(iter(problems.values())) + "; --skip_bad leaves out such pictures" * (len(found) > 1))
    if len(problems) == len(found):
        raise InputError(f"--skip_bad leaves no picture of --background={background}")
    tell_left_out(list(problems.values()), print)
    return (tuple(path for path in found if path not in problems),
            {os.path.relpath(path, background): said for path, said in problems.items()})


def _scenery(class_id, seed, light, grounds):
    """{"scenery": Scenery} for a writer, or {} for the fixed light without backgrounds, the default of writers."""
    varies = light != "fixed" or grounds
    return {"scenery": Scenery(class_id, seed, light, grounds, fingerprint([], grounds))} if varies else {}


def _sizes(layout, *counts):
    return {split: count for split, count in zip(SPLITS, counts) if split in DATASETS[layout].splits}


def _begin(folder, settings, layout):
    """The class ids that a folder already holds. Raises InputError if it was made with other settings."""
    if layout != DEFAULT:  # the description of a dataset omits the default layout
        settings["layout"] = layout
    path = os.path.join(folder, DESCRIPTION)
    if os.path.exists(path):
        try:
            with open(path) as file:
                before = strict_json.loads(file.read())
            done = before.pop("classes")
            if isinstance(before.get("light"), dict):  # the fixed light, which is no setting
                del before["light"]
            for key in ("backgrounds_left_out", "count_backgrounds_left_out"):
                before.pop(key, None)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise InputError(f"{path} cannot be read as the description of a dataset: {error}") from None
        if before == settings:
            return done
        if not all(name == DESCRIPTION or name.endswith(".part") for name in os.listdir(folder)):
            other = next(k for k in {**before, **settings} if before.get(k) != settings.get(k))
            plain = PLAIN.get(other)
            raise InputError(f"--data_dir={folder} was made with {other}={before.get(other, plain)}, now "
                             f"{other}={settings.get(other, plain)}; make another, {_command(settings, layout)}, and "
                             "train with its --data_dir, or remove this one")
    elif os.path.isdir(folder) and DATASETS[layout].held(folder):
        raise InputError(f"--data_dir={folder} holds a dataset that this program did not make; choose "
                         "another folder")
    disk.make_folder(folder, "--data_dir")
    _describe(folder, settings, [])
    return []


def _command(settings, layout):
    """The command that makes a dataset with these settings in another folder."""
    plain = {"made_by": settings["made_by"], **SIZES, "palette": "own", "data_seed": 0, "up": "y",
             "train_views": _views(layout, None), "colors": "own"}
    given = [f" --{name}={shlex.quote(str(value))}" for name, value in settings.items() if value != plain.get(name)]
    return "--mode=make_dataset --data_dir=OTHER" + "".join(given)


def making(layout, folder, *more):
    """The command that makes a dataset with this layout in this folder."""
    given = [] if layout == DEFAULT else [f"--layout={layout}"]
    return " ".join(["--mode=make_dataset", *given, f"--data_dir={shlex.quote(folder)}", *more])


def _describe(folder, settings, done, with_light=True, bad_grounds=None):
    """Write dataset.json: the settings, the light on the objects (`scenery.described`), the backgrounds that --skip_bad
    left out, the complete classes."""
    frame = DATASETS[settings.get("layout", DEFAULT)].light_frame
    row = scenery.IN_PICTURE if frame == "viewer" else scenery.FIXED
    light = {"light": scenery.described(settings.get("light", row), frame)} if with_light else {}
    left_out = {"backgrounds_left_out": bad_grounds,
                "count_backgrounds_left_out": len(bad_grounds)} if bad_grounds else {}
    disk.write_json(os.path.join(folder, DESCRIPTION), {**settings, **light, **left_out, "classes": done})


def _described(folder):
    """The content of dataset.json, or {} if it cannot be read; `_begin` raises the error."""
    try:
        with open(os.path.join(folder, DESCRIPTION)) as file:
            before = strict_json.loads(file.read())
        return before if isinstance(before["classes"], list) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# ---- your meshes --------------------------------------------------------------------------------

FRONT = {"y": "+z", "z": "-y", "x": "+z", "-y": "+z", "-z": "+y", "-x": "+z"}  # default front for each up axis


def orientation(up="y", front=None):
    """The (3, 3) rotation from the frame of the files to the people frame: y up, front to +z. In the files, `up` is the
    up axis and the front of objects points to `front` ('+x', '-z', ...; default: FRONT[up])."""
    front = front or FRONT[up]
    axes = [np.eye(3)["xyz".index(name[-1])] * (-1 if name[0] == "-" else 1) for name in (up, front)]
    if axes[0] @ axes[1]:
        raise InputError(f"--front={front} and --up={up} name the same axis; the front must point to another axis")
    return np.stack([np.cross(*axes), *axes])


def load_grid(path, up="y", front=None, surface="smooth", keep=True):
    """Load a file of one voxel grid: (vertices, faces, colors) as from `load_mesh`. With `keep`, a grid of 32^3 cells
    is returned too, (32, 32, 32) bool in the people frame.

    A kept grid spans [-1/2, 1/2] in each coordinate, and its object is neither scaled nor moved. `surface` is 'smooth'
    (marching cubes and Taubin's smoothing) or 'cubes'.
    """
    grid = turn_grid(read_voxels(path).grid, orientation(up, front))  # translate and scale of the file are not needed
    if not grid.any():
        raise InputError(f"{path} has no occupied cell")
    vertices, faces = SURFACES[surface](grid)
    colors = np.full((len(faces), 3), GREY)
    if keep and grid.shape == (VOXEL_GRID,) * 3:
        return *_tensors(vertices / VOXEL_GRID - 0.5, faces, colors), torch.from_numpy(grid)
    low, high = vertices.min(0), vertices.max(0)
    vertices = (vertices - (low + high) / 2) / (high - low).max()
    return _tensors(vertices * _scale_to_fit(vertices), faces, colors)


@dataclass
class FromFiles:
    """Makes the objects of a class from files: paths {split: [path]}, and how to read them."""
    paths: dict
    up: str
    front: str | None
    grid_surface: str
    keep_grid: bool
    root: str            # files outside of it are not read
    colors: str = "own"
    stamp: str = ""  # hash of the files' sizes and times: after a change, unfinished work is not continued

    def __post_init__(self):
        self.missing = []  # sentences about files that the last object lacks

    def __call__(self, split, i):
        self.missing.clear()
        try:
            return self.load(self.paths[split][i])
        except InputError as error:
            raise InputError(f"{error}; --skip_bad leaves out such meshes") from None

    def load(self, path):
        if path.lower().endswith(GRID_ENDINGS):
            return load_grid(path, self.up, self.front, self.grid_surface, self.keep_grid)
        return load_mesh(path, self.up, self.front, self.root, self.colors == "own", self.missing.append)

    def problem(self, path):
        """Why a file cannot be used, or None."""
        try:
            self.load(path)
        except InputError as error:
            return str(error)
        return None


def load_mesh(path, up="y", front=None, root=None, coloured=True, report=lambda sentence: None):
    """Load a mesh file: (vertices, faces, colors), upright and centred, with longest side 1.

    The mesh is made smaller if a corner would leave one of the 24 pictures. colors is a `Look`, or (F, 3) grey if the
    file has no colours. Parts that the alpha of pictures cuts out are removed. See `read_mesh` for root, coloured and
    report.
    """
    vertices, faces, look = read_mesh(path, root, coloured, report)
    vertices = _centred(path, vertices, faces)
    if look is not None and look.has_cut_outs():
        vertices, faces, look = cut_out(vertices, faces, look)
        if not len(faces):
            raise InputError(f"{path} is transparent everywhere (alpha of its pictures); --colors=grey takes its whole "
                             "shape")
        vertices = _centred(path, vertices, faces)
    vertices = vertices @ orientation(up, front).T
    vertices = np.where(np.isfinite(vertices), vertices, 0)  # corners of no face
    vertices *= _scale_to_fit(vertices[np.unique(faces)])
    tensors = _tensors(vertices, faces, np.full((len(faces), 3), GREY))
    return tensors if look is None else (*tensors[:2], look)


def _centred(path, vertices, faces):
    """Vertices whose bounding box, of those that faces use, is centred and has a longest side of 1."""
    used = vertices[faces]
    low, high = used.min((0, 1)), used.max((0, 1))
    if not (high - low).max() > 0:
        raise InputError(f"{path} is a single point")
    if not np.cross(used[:, 1] - used[:, 0], used[:, 2] - used[:, 0]).any():
        raise InputError(f"{path} has no surface: none of its faces has an area")
    return (vertices - (low + high) / 2) / (high - low).max()


def _scale_to_fit(vertices, margin=0.97):
    points = CVPR18.flip_handedness(torch.from_numpy(vertices))[None].expand(CVPR18.num_views, -1, -1)
    views, scale = torch.arange(CVPR18.num_views), 1.0
    while float(CVPR18.project(points * scale, views)[..., :2].abs().max()) > margin:
        scale *= 0.98
    return scale


def make_from_meshes(folder, mesh_dir, up="y", seed=0, train_views=None, layout=DEFAULT, skip_bad=False,
                     class_ids=None, front=None, split_file=None, grid_surface="smooth", voxels=None, workers=None,
                     colors="own", light="fixed", background="none"):
    """Make a dataset from a folder of meshes and voxel grids. Each subfolder, or each that class_ids names, is a class.

    Classes with fewer than 3 meshes are left out, and a line names them. A tenth of the objects of a class (at least
    one) is for validation, two tenths (at least one) for testing. With skip_bad, unusable meshes are left out, listed
    and counted, on the console and in `<class>_objects.json`. A split_file, {class: {train, val, test: [objects]}} or
    [{taxonomy_id, train, val, test}], determines the splits instead; an object is the name of a folder or of a file of
    the class, without its ending. voxels: 'given' keeps grids of 32^3 cells as they are (the default in CVPR18's
    layout), 'surface' voxelises their surfaces like meshes. colors: 'own', or 'grey' for all. The pictures of materials
    may lie anywhere below mesh_dir; a line says how many meshes lack some.
    """
    orientation(up, front)
    if voxels == "given" and layout != "CVPR18":
        raise InputError(f"--voxels=given is for --layout=CVPR18: in {layout} every object has its own size")
    keep = (voxels or "given") == "given" and layout == "CVPR18"
    if not mesh_dir or not os.path.isdir(mesh_dir):
        raise InputError(f"--mesh_dir={mesh_dir} is not a folder; expected one with a subfolder of meshes "
                         "for each class")
    found = {}
    for class_id in sorted(os.listdir(mesh_dir)):
        if is_of_a_system(class_id):
            continue
        if files := _files_of(os.path.join(mesh_dir, class_id)):
            found[class_id] = files
    if not found:
        raise InputError(f"--mesh_dir={mesh_dir} has no subfolder with meshes or voxel grids "
                         f"({', '.join(MESH_ENDINGS + GRID_ENDINGS)})")
    unknown = [c for c in class_ids or () if c not in found]
    if unknown:
        raise InputError(f"--class_ids={unknown[0]} is not a subfolder of --mesh_dir={mesh_dir} with meshes; there: "
                         f"{', '.join(found)}")
    found = {c: found[c] for c in class_ids or found}
    planned, absent = _planned(split_file, mesh_dir, found, class_ids, skip_bad) if split_file else (None, {})
    if planned:
        found = {c: list(itertools.chain(*splits.values())) for c, splits in planned.items()}
    small = [f"{c} ({len(f)})" for c, f in found.items() if len(f) < 3]
    classes = {c: f for c, f in found.items() if len(f) >= 3}
    if not classes:
        raise InputError(f"--mesh_dir={mesh_dir} has no class of at least 3 meshes, for training, validation and "
                         f"test: {', '.join(small)}")
    if small:
        print(f"left out, because they have fewer than 3 meshes: {', '.join(small)}")
    train_views = _views(layout, train_views)
    settings = {"made_by": "meshes", "mesh_dir": os.path.abspath(mesh_dir), "up": up, "data_seed": seed,
                "train_views": train_views}
    for option, value, plain in (("front", front, None), ("grid_surface", grid_surface, "smooth"),
                                 ("voxels", voxels, None),
                                 ("split_file", split_file and os.path.abspath(split_file), None)):
        if value != plain:  # the description of a dataset omits default values
            settings[option] = value
    settings |= _around(light, background, layout)
    before = _described(folder)
    todo = set(classes) - set(before.get("classes", []))
    # Versions that did not read materials did not describe the light either.
    in_grey = bool(before.get("classes")) and before.get("made_by") == "meshes" and "light" not in before
    if in_grey:
        colors = "grey"
    elif colors != "own":
        settings["colors"] = colors
    grounds, bad_grounds = _grounds(background, workers, skip_bad) if todo else ((), {})
    done = _begin(folder, settings, layout)
    if in_grey and todo:
        print(f"{folder} was made by a version without colours; it is continued with --colors=grey")
    for class_id in [c for c in done if c in found or not class_ids]:
        _check_same_meshes(folder, class_id, mesh_dir, found.get(class_id, []))
    for class_id, files in classes.items():
        if class_id in done:
            continue
        bad, root = {}, _root(mesh_dir, class_id)
        if skip_bad:
            loader = FromFiles({}, up, front, grid_surface, keep, root, colors)
            bad = {path: said for path, said in zip(files, in_order(loader.problem, files, workers)) if said}
            tell_left_out(list(bad.values()), print)
            files = [path for path in files if path not in bad]
            if len(files) < 3:
                print(f"left out, because fewer than 3 of its meshes can be used: {class_id} ({len(files)})")
                continue
        if planned:
            paths = {s: [path for path in planned[class_id][s] if path not in bad] for s in SPLITS}
            if empty := next((s for s in DATASETS[layout].splits if not paths[s]), None):
                raise InputError(f"--split_file={split_file} leaves no objects of {class_id} in {empty}")
        else:
            order = np.random.default_rng(seed).permutation(len(files))
            n_val, n_test = max(1, len(files) // 10), max(1, len(files) // 5)
            split = {"train": order[n_val + n_test:], "val": order[:n_val], "test": order[n_val:n_val + n_test]}
            paths = {s: [files[j] for j in chosen] for s, chosen in split.items()}
        make = FromFiles(paths, up, front, grid_surface, keep, root, colors, fingerprint([], files))
        missing = DATASETS[layout].writer(folder, class_id, _sizes(layout, *map(len, paths.values())), make,
                                          train_views, seed, class_id, workers,
                                          **_scenery(class_id, seed, light, grounds))
        if missing:
            lack = "1 mesh lacks" if len(missing) == 1 else f"{len(missing)} meshes lack"
            print(f"  {class_id}: {lack} a material or a picture; the first one: {missing[0][0]}")
        listed = {split: [os.path.relpath(path, mesh_dir) for path in its] for split, its in paths.items()}
        if bad:
            listed["left_out"] = {os.path.relpath(path, mesh_dir): said for path, said in bad.items()}
        if absent.get(class_id):
            listed["absent"] = absent[class_id]
        if skip_bad:
            listed["count_left_out"] = len(bad) + len(absent.get(class_id, ()))
        disk.write_json(_list_of(folder, class_id), listed)
        done.append(class_id)
        _describe(folder, settings, done, not in_grey, bad_grounds)
    if not done:
        raise InputError(f"--skip_bad leaves no class of at least 3 meshes of --mesh_dir={mesh_dir}")
    print(f"{folder}: " + ", ".join(_told(folder, class_id, layout) for class_id in done))
    return folder


def _files_of(folder):
    """Meshes and voxel grids below a folder, sorted. A grid beside a mesh of the same name (ShapeNetCore's
    model_normalized.solid.binvox) shows the same object and is ignored."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not is_of_a_system(name)]
        names = [name for name in names if not is_of_a_system(name)]
        meshes = [name for name in names if name.lower().endswith(MESH_ENDINGS)]
        stems = {name.split(".")[0] for name in meshes}
        grids = [name for name in names if name.lower().endswith(GRID_ENDINGS) and name.split(".")[0] not in stems]
        found += [os.path.join(root, name) for name in meshes + grids]
    return sorted(found)


def _root(mesh_dir, class_id):
    """The folder whose files the meshes of a class may name: mesh_dir, or the folder of the class if that is a link."""
    top, folder = os.path.realpath(mesh_dir), os.path.join(mesh_dir, class_id)
    return mesh_dir if os.path.commonpath([top, os.path.realpath(folder)]) == top else folder


def _planned(split_file, mesh_dir, found, class_ids, skip_bad):
    """({class: {split: [path]}} of the classes that both the split file and the folder have, {class: [object]} of the
    objects that the folder lacks)."""
    splits = read_splits(mesh_dir, split_file)[0]
    plan, absent = {}, {}
    for class_id in [c for c in found if c in splits or class_ids]:
        by_name = {}
        for path in found[class_id]:
            first = os.path.relpath(path, os.path.join(mesh_dir, class_id)).split(os.sep)
            by_name.setdefault(first[0] if len(first) > 1 else os.path.splitext(first[0])[0], []).append(path)
        plan[class_id] = {}
        for split in SPLITS:
            names = objects_of_split(mesh_dir, [class_id], split, split_file)[class_id] \
                if split in splits.get(class_id, SPLITS) else []
            absent.setdefault(class_id, []).extend(name for name in names if name not in by_name)
            several = next((name for name in names if len(by_name.get(name, ())) > 1), None)
            if several:
                raise InputError(f"--mesh_dir={mesh_dir} has {len(by_name[several])} files of {class_id}/{several}, "
                                 "which --split_file names once: "
                                 + ", ".join(map(os.path.basename, by_name[several][:3])))
            plan[class_id][split] = [by_name[name][0] for name in names if name in by_name]
        counts = {name: split for split in SPLITS for name in plan[class_id][split]}
        if len(counts) < sum(map(len, plan[class_id].values())):
            raise InputError(f"--split_file={split_file} names an object of {class_id} in two splits")
        if unnamed := len(found[class_id]) - len(counts):
            print(f"left out, because --split_file does not name them: {unnamed} of {class_id}")
    if not plan:
        raise InputError(f"--split_file={split_file} names no class of --mesh_dir={mesh_dir}: "
                         f"it names {', '.join(sorted(splits))}, the folder has {', '.join(found)}")
    if missing := [f"{class_id}/{name}" for class_id, names in absent.items() for name in names]:
        told = (f"--split_file={split_file} names {len(missing)} objects that --mesh_dir={mesh_dir} lacks "
                f"({missing[0]}{', ...' if len(missing) > 1 else ''})")
        if not skip_bad:
            raise InputError(f"{told}; --skip_bad leaves them out")
        print(f"left out: {told}")
    if others := [c for c in found if c not in plan]:
        print(f"left out, because --split_file has no such class: {', '.join(others)}")
    return plan, absent


def _list_of(folder, class_id):
    return os.path.join(folder, f"{class_id}_objects.json")


def _listed(folder, class_id):
    """{split: [meshes], left_out: [meshes]} from which a class was made; paths below --mesh_dir."""
    path = _list_of(folder, class_id)
    try:
        with open(path) as file:
            return {name: list(map(str, names)) for name, names in strict_json.loads(file.read()).items()
                    if name in (*SPLITS, "left_out")}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} cannot be read as the list of the meshes of {class_id}: {error}") from None


def _told(folder, class_id, layout):
    """'table (6 objects, 1 mesh left out)', the content of the files."""
    listed = _listed(folder, class_id)
    count, bad = sum(len(listed.get(split, ())) for split in DATASETS[layout].splits), len(listed.get("left_out", ()))
    left_out = f", {bad} mesh{'es' if bad > 1 else ''} left out" if bad else ""
    return f"{class_id} ({count} objects{left_out})"


def _check_same_meshes(folder, class_id, mesh_dir, files):
    """Raise InputError if the meshes differ from those of which a class was made: a new split could move objects from
    training to test."""
    before = set(itertools.chain(*_listed(folder, class_id).values()))
    now = {os.path.relpath(path, mesh_dir) for path in files}
    changes = [f"{len(names)} {what} ({min(names)}{', ...' if len(names) > 1 else ''})"
               for what, names in (("new", now - before), ("gone", before - now)) if names]
    if changes:
        raise InputError(f"--mesh_dir={mesh_dir} has other meshes of {class_id} than {_list_of(folder, class_id)} "
                         f"lists, {' and '.join(changes)}: make all of them into another --data_dir, or remove "
                         f"{folder} first")
