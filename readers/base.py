"""`Dataset`, the base class of all datasets. An instance is an open split; `Conventions` holds what needs no files.

The modes use only this interface and never ask which dataset they have. To add a dataset, write one class that defines
what both base classes mark as the dataset's own, and add its line to `datasets.DATASETS`.
"""
import abc
import dataclasses
import os
from dataclasses import dataclass

import numpy as np
import torch

from engine.arguments import number
from errors import InputError

from .conventions import VOXEL_GRID, Conventions  # noqa: F401  (the grid's side belongs to the interface)
from .light import read_light

SHAPENET = {  # {id: name} of the 13 commonly used classes
    "02691156": "airplane", "02828884": "bench", "02933112": "dresser", "02958343": "car", "03001627": "chair",
    "03211117": "display", "03636649": "lamp", "03691459": "loudspeaker", "04090263": "rifle", "04256520": "sofa",
    "04379243": "table", "04401088": "telephone", "04530566": "vessel"}


@dataclass
class Batch:
    """B images of a dataset, with their silhouettes, cameras, poses and objects.

    In batches from `read`, images and silhouettes are bytes 0 ... 255, and silhouettes are None if they are the alpha
    of the images.
    """
    images: torch.Tensor       # (B, C, H, W) float in [0, 1], RGB or RGBA, row 0 at the top
    silhouettes: torch.Tensor  # (B, S, S) float in [0, 1]
    cameras: torch.Tensor      # (B, ...) camera parameters as `project` takes them
    poses: torch.Tensor        # (B,) int64 pose bins
    objects: torch.Tensor      # (B,) int64, numbered across all classes
    # (B,) int64, numbers of the images in the split; -1 - number if the dataset mirrored image, silhouette and camera
    numbers: torch.Tensor | None = None

    def tensors(self):
        return [t for t in vars(self).values() if t is not None]

    def map(self, function):
        """A batch with the function applied to each tensor."""
        return Batch(**{name: None if t is None else function(t) for name, t in vars(self).items()})

    def to(self, device):
        return self.map(lambda t: t.to(device, non_blocking=True))

    def numbered(self, numbers):
        """The batch with these numbers (B,), unless its dataset gave some."""
        return self if self.numbers is not None else dataclasses.replace(self, numbers=torch.as_tensor(numbers))

    def as_numbers(self):
        """Convert bytes to floats in [0, 1], on the device of the batch."""
        def scaled(tensor):
            return tensor.float().mul_(1 / 255)
        images = scaled(self.images)
        silhouettes = images[:, 3] if self.silhouettes is None else scaled(self.silhouettes)
        return dataclasses.replace(self, images=images, silhouettes=silhouettes)


# Options of several datasets.
WIDTH_OF_BINS = {"wAzimuth": dict(type=number(0, above=True), metavar="DEG", help=(
    "NIPS17, R2N2: width of the pose bins"))}
SPLIT_FILE = {"split_file": dict(metavar="JSON", help=(
    "NIPS17, R2N2, MESH_DIR: the objects of each split, {class: {train, val, test: [objects]}} or [{taxonomy_id, "
    "train, val, test}] (default: DATA_DIR/splits.json)"))}
SKIP_BAD = {"skip_bad": dict(action="store_true", help=(
    "leave out objects, meshes or images with broken files, and list them"))}


def table(**columns):
    """A structured array with one row per image, from integer columns (M,)."""
    rows = np.empty(len(next(iter(columns.values()))), [(name, np.int64) for name in columns])
    for name, column in columns.items():
        rows[name] = column
    return rows


class Dataset(Conventions):
    """An open split of some classes.

    Parameters (of every dataset's constructor)
    -------------------------------------------
    data_dir : folder of the files.
    class_ids : list of str.
    split : one of `splits`.
    cache_dir : folder for uncompressed images, which are mapped into memory.
    trainViews : int or None. Number of views of each training object.
    seed : int, seed of all random draws.
    only_voxels : bool. Do not open the images; `gather` and `read` will not be called.
    say : called with a line of progress.
    Other parameters are options of the command line; `reads` names them. If a dataset lacks an abstract method, opening
    it raises a TypeError that names the method.

    Attributes (set by the constructor)
    -----------------------------------
    class_ids, split : as given.
    img_size : side of the images in pixels.
    num_poses : number of pose bins.
    light : the result of `readers.light.read_light`; `open` sets it.
    rows : `table` of the M images, object by object. This class uses the columns `class_number` (index into class_ids)
        and `object` (number within the class); others are the dataset's own.
    object_class : (objects,) int, the class number of each object; objects are numbered across all classes.
    left_out : list of str, a sentence for each object that skip_bad left out; results have it in their JSON.
    """

    # The dataset's own.
    splits = ("train", "val", "test")
    eval_split, tsne_split = "test", "val"
    published = {}                       # {option: default}, those of the published run
    reads = ()                           # names of the options that the constructor takes
    options = {}                         # its own options, {name: keywords of argparse's add_argument}
    taken_by_all = {}                    # options that scripts of the published program pass to every dataset
    published_bgr = False                # whether the published program read its images as BGR
    augments = False                     # whether each batch makes its training images anew
    files = None                         # short description of its files
    contents = None                      # the same with types and sizes
    source = None                        # URL of its authors
    writer = None                        # function that writes a class from meshes (readers/writers.py), or None

    class_ids = split = img_size = num_poses = rows = object_class = light = None
    left_out = ()

    def pose_angle(self, a, b):
        """The angles (B,) in degrees between pose bins (B,) and (B,); NaN if they are not known."""
        return torch.full(a.shape, float("nan"))

    @classmethod
    def count_poses(cls, options):
        """The number of pose bins, from the options (a dict); None if it depends on the files."""
        return cls.num_poses

    @classmethod
    @abc.abstractmethod
    def available(cls, data_dir, options=None):
        """The class ids in a folder."""

    @classmethod
    def held(cls, data_dir):
        """Whether a folder contains any files of this layout."""
        return bool(cls.available(data_dir))

    @classmethod
    def classes(cls, data_dir, options):
        """The class ids in the options (a dict), each once, or else all in the folder."""
        check_folder(data_dir, cls.files)
        found = options.get("class_ids") or cls.available(data_dir, options)
        if not found:
            raise InputError(f"--data_dir={data_dir} holds no class of {cls.name}: {cls.files}")
        return list(dict.fromkeys(found))

    @classmethod
    def views_to_check(cls, data_dir, class_id, options, say):
        """The number of views of each training object that `check_data` reads, from the options (a dict); None: all."""
        return options["trainViews"]

    @classmethod
    def defaults(cls, given):
        """The default options of the published run; they may depend on the given options (a dict)."""
        return cls.published

    @classmethod
    def open(cls, options, split, data_dir=None, class_ids=None, **more):
        """Open a split with the options of a run (a dict); the other arguments override them."""
        data_dir = data_dir or options["data_dir"]
        if split not in cls.splits:
            raise InputError(f"--split={split}: {cls.name} has {', '.join(cls.splits)}")
        more.setdefault("cache_dir", options.get("cache_dir") or os.path.join(data_dir, ".cache"))
        taken = {name: options[name] for name in cls.reads if options.get(name) is not None}
        data = cls(data_dir, class_ids or options["class_ids"], split, **{**taken, **more})
        data.light = read_light(data_dir, cls)
        return data

    def gather(self, indices, step=None, part=slice(None)):
        """`read`, with images and silhouettes as floats in [0, 1]."""
        return self.read(indices, step, part).numbered(np.asarray(indices)[part]).as_numbers()

    @abc.abstractmethod
    def read(self, indices, step=None, part=slice(None)):
        """`Batch` of bytes on the CPU: the images with the numbers indices[part]. If a step is given, they are
        augmented for training; this depends only on the seed, the step and the position in `indices`."""

    @abc.abstractmethod
    def all_poses(self):
        """Pose bins (M,) int64 of all images."""

    def all_objects(self):
        """Objects (M,) int64 of all images, numbered across all classes."""
        return torch.from_numpy(self._first_object[self.rows["class_number"]] + self.rows["object"])

    def voxels(self, objects):
        """Voxel grids (len(objects), 32, 32, 32) bool of these objects, numbered across all classes."""
        classes = self.object_class[objects]
        grids = [self._voxels[c][o - self._first_object[c]] for c, o in zip(classes, objects)]
        return torch.from_numpy(np.stack(grids).astype(bool))

    def grid_scales(self, objects):
        """(len(objects),) float64: the length in the renderer's frame that `to_grid` scales to 1. It is 1 unless each
        object's grid has its own size."""
        return torch.ones(len(objects), dtype=torch.float64)

    def voxelize_as(self, objects, vertices, faces):
        """Voxelise meshes (B, V, 3), each in the grid of one of these objects (B,)."""
        scales = self.grid_scales(objects).to(vertices)
        return self.voxelize(vertices / scales[:, None, None], faces)

    def voxel_meshes(self, objects):
        """`voxel_mesh` of each of these objects, in its own size."""
        return [(vertices * scale, faces) for (vertices, faces), scale in
                zip(map(self.voxel_mesh, self.voxels(objects)), self.grid_scales(objects).tolist())]

    def points(self, c):
        """The surface points of the objects of the c-th class: an array, or `Rows`, of (10000, 6) per object, points
        and unit normals in the renderer's frame (see readers/points.py). None if the files have none."""
        return None

    def _leave_out(self, problems, say):
        """List the broken objects, a sentence each, and keep the sentences."""
        self.left_out = [*self.left_out, *problems]
        tell_left_out(problems, say)

    def _count_objects(self, sizes):
        """Number the objects of classes with these sizes across all classes."""
        self.object_class = np.repeat(np.arange(len(sizes)), sizes)   # (objects,)
        self._first_object = np.concatenate([[0], np.cumsum(sizes)])

    def __len__(self):
        """Number of images."""
        return len(self.rows)

    @property
    def num_objects(self):
        return len(self.object_class)

    def spread(self, count, step=7, first=0):
        """The numbers of at most `count` evenly spread objects, and of one image of each: of the k-th object, image
        first + k step, modulo its number of images."""
        objects = np.linspace(0, self.num_objects - 1, min(count, self.num_objects)).astype(int)
        owners = self.all_objects().numpy()
        images = [np.flatnonzero(owners == o) for o in objects]
        return objects, [int(numbers[(first + step * k) % len(numbers)]) for k, numbers in enumerate(images)]

    def images_of_class(self, c):
        """The numbers of all images of class c, object by object. All objects of a class have the same number of
        images."""
        return np.flatnonzero(self.rows["class_number"] == c)


def apart(degrees):
    """Map differences of angles, in degrees, to 0 ... 180."""
    return ((degrees + 180) % 360 - 180).abs()


def check_folder(data_dir, example):
    if not os.path.isdir(data_dir):
        raise InputError(f"--data_dir={data_dir} is not a folder; expected one with {example}")


def read_text(path):
    """Text of a file as any editor wrote it: UTF-8, or UTF-16 where a byte order mark says so; else ValueError."""
    with open(path, "rb") as file:
        content = file.read()
    return content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")


def is_of_a_system(name):
    """Whether a file or folder is hidden or made by an operating system: .DS_Store, ._car.png, Thumbs.db."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir")


def tell_left_out(problems, say):
    if problems:
        say(f"left out, because their files are broken ({len(problems)}):")
        for problem in problems:
            say(f"  {problem}")


class Rows:
    """Chosen rows of mapped arrays, concatenated. parts is a list of (array, row numbers)."""

    def __init__(self, parts):
        self.arrays = [array for array, _ in parts]
        self.rows = np.concatenate([np.stack([np.full(len(chosen), p), chosen], 1)
                                    for p, (_, chosen) in enumerate(parts)])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        part, row = self.rows[i]
        return self.arrays[part][row]
