"""What all datasets share: `Dataset`, a split that is open, over the `Conventions` of its class.

The modes use nothing else and never ask which dataset they have. A dataset of one's own is one class with what is
marked in both as the dataset's own, and its line in `datasets.DATASETS`.
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

SHAPENET = {  # names of the 13 classes that are in use, by their ids
    "02691156": "airplane", "02828884": "bench", "02933112": "dresser", "02958343": "car", "03001627": "chair",
    "03211117": "display", "03636649": "lamp", "03691459": "loudspeaker", "04090263": "rifle", "04256520": "sofa",
    "04379243": "table", "04401088": "telephone", "04530566": "vessel"}


@dataclass
class Batch:
    """Some images of a dataset and all that goes with them; B of each.

    As `read` gives them, images and silhouettes are bytes, 0 ... 255, and silhouettes None where they are the
    images' alpha.
    """
    images: torch.Tensor       # (B, C, H, W) float in [0, 1], RGB or RGBA, row 0 at the top
    silhouettes: torch.Tensor  # (B, S, S) float in [0, 1]
    cameras: torch.Tensor      # (B, ...) what `project` needs to know of the camera
    poses: torch.Tensor        # (B,) int64 pose bins
    objects: torch.Tensor      # (B,) int64, counted through all classes

    def tensors(self):
        return [t for t in vars(self).values() if t is not None]

    def map(self, function):
        """A batch of what the function makes of each tensor."""
        return Batch(**{name: None if t is None else function(t) for name, t in vars(self).items()})

    def to(self, device):
        return self.map(lambda t: t.to(device, non_blocking=True))

    def as_numbers(self):
        """Bytes to [0, 1], wherever they are."""
        def scaled(tensor):
            return tensor.float().mul_(1 / 255)
        images = scaled(self.images)
        silhouettes = images[:, 3] if self.silhouettes is None else scaled(self.silhouettes)
        return dataclasses.replace(self, images=images, silhouettes=silhouettes)


# Options that several datasets have.
WIDTH_OF_BINS = {"wAzimuth": dict(type=number(0, above=True), metavar="DEG", help=(
    "NIPS17, R2N2: width of the pose bins"))}
SPLIT_FILE = {"split_file": dict(metavar="JSON", help=(
    "NIPS17, R2N2, MESH_DIR: {class: {train, val, test: [objects]}} or [{taxonomy_id, train, val, test}] (default: "
    "DATA_DIR/splits.json)"))}
SKIP_BAD = {"skip_bad": dict(action="store_true", help=(
    "go on without objects, meshes or images whose files are broken, and list them"))}


def table(**columns):
    """A structured array with a row for each image, from columns (M,) of whole numbers."""
    rows = np.empty(len(next(iter(columns.values()))), [(name, np.int64) for name in columns])
    for name, column in columns.items():
        rows[name] = column
    return rows


class Dataset(Conventions):
    """A split of some classes.

    Parameters (of every dataset's constructor)
    -------------------------------------------
    data_dir : folder of the files.
    class_ids : list of str.
    split : one of `splits`.
    cache_dir : where images are kept uncompressed, to be mapped into memory.
    trainViews : int or None. Views kept of each training object.
    seed : int, of whatever is drawn at random.
    only_voxels : bool. Leave the images alone: `gather` will not be called.
    say : called with a line of progress.
    Further ones are options of the command line, and named in `reads`. A dataset that lacks one of the abstract
    methods cannot be opened: the TypeError names them.

    Attributes (set by the constructor)
    -----------------------------------
    class_ids, split : as given.
    img_size : side of the images in pixels.
    num_poses : number of pose bins.
    rows : `table` of the M images, object by object. The columns `class_number` (index into class_ids) and `object`
        (number within its class) are used here; others are the dataset's own.
    object_class : (objects,) int, the class number of each object, counted through all classes.
    left_out : list of str, a sentence for each object that skip_bad left out. Results have it in their JSON.
    """

    # The dataset's own.
    splits = ("train", "val", "test")
    eval_split, tsne_split = "test", "val"
    published = {}                       # options of the published run: what is not given is this
    reads = ()                           # options that the constructor takes
    options = {}                         # those that are its own, {name: keywords of argparse's add_argument}
    taken_by_all = {}                    # the same of the published program, whose scripts give them to every dataset
    published_bgr = False                # the published program read its colours in this order
    augments = False                     # training images are made anew for each batch
    files = None                         # what a folder of it holds, in words
    contents = None                      # the same with types and sizes
    source = None                        # where its authors publish it
    writer = None                        # makes files of a class from meshes (see readers/writers.py), if it can

    class_ids = split = img_size = num_poses = rows = object_class = None
    left_out = ()

    def pose_angle(self, a, b):
        """(B,) degrees between pose bins (B,) and (B,), NaN where it is not known."""
        return torch.full(a.shape, float("nan"))

    @classmethod
    def count_poses(cls, options):
        """Pose bins by the options (a dict) alone, None where the files decide."""
        return cls.num_poses

    @classmethod
    @abc.abstractmethod
    def available(cls, data_dir, options=None):
        """Class ids that a folder holds."""

    @classmethod
    def held(cls, data_dir):
        """Whether a folder holds any files of this layout."""
        return bool(cls.available(data_dir))

    @classmethod
    def classes(cls, data_dir, options):
        """The class ids that the options (a dict) give, each once, or else all that a folder holds."""
        check_folder(data_dir, cls.files)
        found = options.get("class_ids") or cls.available(data_dir, options)
        if not found:
            raise InputError(f"--data_dir={data_dir} holds no class of {cls.name}: {cls.files}")
        return list(dict.fromkeys(found))

    @classmethod
    def views_to_check(cls, data_dir, class_id, options, say):
        """Views of each training object that `check_data` reads: those of the options (a dict), None for all."""
        return options["trainViews"]

    @classmethod
    def defaults(cls, given):
        """Options of the published run, for the others that are given (a dict)."""
        return cls.published

    @classmethod
    def open(cls, options, split, data_dir=None, class_ids=None, **more):
        """The split as the options of a run (a dict) say, except for what is given."""
        data_dir = data_dir or options["data_dir"]
        if split not in cls.splits:
            raise InputError(f"--split={split}: {cls.name} has {', '.join(cls.splits)}")
        more.setdefault("cache_dir", options.get("cache_dir") or os.path.join(data_dir, ".cache"))
        taken = {name: options[name] for name in cls.reads if options.get(name) is not None}
        return cls(data_dir, class_ids or options["class_ids"], split, **{**taken, **more})

    def gather(self, indices, step=None, part=slice(None)):
        """`read`, as numbers in [0, 1]."""
        return self.read(indices, step, part).as_numbers()

    @abc.abstractmethod
    def read(self, indices, step=None, part=slice(None)):
        """`Batch` of bytes, of the images with these numbers or the part (slice) of them, on the CPU. With a step,
        as training augments them: a function of the seed, the step and the place among `indices`."""

    @abc.abstractmethod
    def all_poses(self):
        """(M,) int64 pose bins of all images."""

    def all_objects(self):
        """(M,) int64 objects of all images, counted through all classes."""
        return torch.from_numpy(self._first_object[self.rows["class_number"]] + self.rows["object"])

    def voxels(self, objects):
        """(len(objects), 32, 32, 32) bool of objects counted through all classes."""
        classes = self.object_class[objects]
        grids = [self._voxels[c][o - self._first_object[c]] for c, o in zip(classes, objects)]
        return torch.from_numpy(np.stack(grids).astype(bool))

    def grid_scales(self, objects):
        """(len(objects),) float64: lengths of the renderer's frame that count as 1 in `to_grid`. Others than 1 where
        each object's grid has a size of its own."""
        return torch.ones(len(objects), dtype=torch.float64)

    def voxelize_as(self, objects, vertices, faces):
        """`voxelize` of meshes (B, V, 3), each in the grid of one of these objects (B,)."""
        scales = self.grid_scales(objects).to(vertices)
        return self.voxelize(vertices / scales[:, None, None], faces)

    def voxel_meshes(self, objects):
        """`voxel_mesh` of each of these objects, as large as it is."""
        return [(vertices * scale, faces) for (vertices, faces), scale in
                zip(map(self.voxel_mesh, self.voxels(objects)), self.grid_scales(objects).tolist())]

    def _leave_out(self, problems, say):
        """Keep, and list, a sentence for each broken object."""
        self.left_out = [*self.left_out, *problems]
        tell_left_out(problems, say)

    def _count_objects(self, sizes):
        """Number the objects of classes of these sizes through."""
        self.object_class = np.repeat(np.arange(len(sizes)), sizes)   # (objects,)
        self._first_object = np.concatenate([[0], np.cumsum(sizes)])

    def __len__(self):
        """Number of images."""
        return len(self.rows)

    @property
    def num_objects(self):
        return len(self.object_class)

    def spread(self, count, step=7, first=0):
        """Numbers of at most `count` objects, spread evenly, and of one image of each: of the k-th object the image
        at place first + k step, counted round."""
        objects = np.linspace(0, self.num_objects - 1, min(count, self.num_objects)).astype(int)
        owners = self.all_objects().numpy()
        images = [np.flatnonzero(owners == o) for o in objects]
        return objects, [int(numbers[(first + step * k) % len(numbers)]) for k, numbers in enumerate(images)]

    def images_of_class(self, c):
        """Numbers of all images of the c-th class, object by object. Objects of one class have equally
        many."""
        return np.flatnonzero(self.rows["class_number"] == c)


def apart(degrees):
    """Differences of angles, in degrees, as 0 ... 180."""
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
    """Whether a file or folder is hidden, or one that systems leave in folders: .DS_Store, ._car.png, Thumbs.db."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "@eadir")


def tell_left_out(problems, say):
    if problems:
        say(f"left out, for their files are broken ({len(problems)}):")
        for problem in problems:
            say(f"  {problem}")


class Rows:
    """Chosen rows of mapped arrays, one after the other: parts is a list of (array, row numbers)."""

    def __init__(self, parts):
        self.arrays = [array for array, _ in parts]
        self.rows = np.concatenate([np.stack([np.full(len(chosen), p), chosen], 1)
                                    for p, (_, chosen) in enumerate(parts)])

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        part, row = self.rows[i]
        return self.arrays[part][row]
