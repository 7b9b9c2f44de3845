"""The interface that all datasets share, and what they have in common.

The modes use nothing else and never ask which dataset they have. A dataset of one's own is one class
with what is marked below as the dataset's own, and its line in `datasets.DATASETS`.

Convention
----------
Predicted meshes live in the RENDERER's frame of their dataset: y up, seen by its `project`. A mesh that
people made is right-handed with y up: `flip_handedness` goes from one to the other and back.
"""
import abc
import dataclasses
import os
from dataclasses import dataclass

import numpy as np
import torch

import neural_renderer as nr
import voxelization
from errors import InputError

VOXEL_GRID = 32
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


class Dataset(abc.ABC):
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
    """

    # The dataset's own.
    name = None
    channels = 4                         # of the images
    img_sizes = (64,)                    # sides that the images may have
    splits = ("train", "val", "test")
    eval_split, tsne_split = "test", "val"
    num_views = None                     # numbered views that all objects share, if there are such
    published = {}                       # options of the published run: what is not given is this
    reads = ()                           # options that the constructor takes
    published_bgr = False                # the published program read its colours in this order
    augments = False                     # training images are made anew for each batch
    mirrors = True                       # its cameras mirror a right-handed scene
    grid_rule = None                     # how voxels come from coordinates, in words
    files = None                         # what a folder of it holds, in words
    contents = None                      # the same with types and sizes
    source = None                        # where its authors publish it
    class_names = {}

    class_ids = split = rows = object_class = num_poses = None  # set by the constructor

    @classmethod
    @abc.abstractmethod
    def project(cls, vertices, cameras):
        """Renderer frame to NDC: vertices (B, V, 3), cameras (B, ...)."""

    @classmethod
    def for_pictures(cls, vertices, cameras):
        """`project` with depths that a picture may be shaded by."""
        return cls.project(vertices, cameras)

    @classmethod
    @abc.abstractmethod
    def turntable(cls, count):
        """Cameras (count, ...) of one turn around an object."""

    @classmethod
    @abc.abstractmethod
    def turned(cls, cameras, turns):
        """Cameras that see the object turned further, by a number of whole turns."""

    @staticmethod
    def to_grid(vertices):
        """Renderer frame to [0, 1]^3, as `voxelize` needs it."""
        return vertices * (VOXEL_GRID - 1) / VOXEL_GRID + 0.5

    @staticmethod
    def from_grid(vertices):
        """The inverse of `to_grid`."""
        return (vertices - 0.5) * VOXEL_GRID / (VOXEL_GRID - 1)

    @staticmethod
    @abc.abstractmethod
    def grid_axes(grid):
        """The voxeliser's grids (..., x, y, z) in the dataset's axes."""

    @staticmethod
    @abc.abstractmethod
    def mesh_axes(grid):
        """The inverse of `grid_axes`."""

    @classmethod
    def place(cls, vertices):
        """A mesh that people made, right-handed, y up, front on +z, as this dataset's objects lie in the
        renderer's frame."""
        return cls.flip_handedness(vertices)

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

    # ---- shared conventions: need no files ------------------------------------------------------

    @classmethod
    def silhouette_size(cls, img_size):
        """Side of the silhouettes that go with images of a size."""
        return img_size

    @classmethod
    def renderer(cls, image_size):
        """A Renderer for vertices that went through `project`."""
        return nr.Renderer(image_size, camera_mode="none")

    @classmethod
    def flip_handedness(cls, vertices):
        """Renderer frame to the frame of people's meshes, and back. Where `mirrors`, z is negated; reverse
        the faces too."""
        if not cls.mirrors:
            return vertices
        return vertices * torch.tensor([1.0, 1.0, -1.0], dtype=vertices.dtype, device=vertices.device)

    @classmethod
    def people_faces(cls, faces):
        """Faces (F, 3) for vertices that went through `flip_handedness`."""
        return faces.flip(-1) if cls.mirrors else faces

    @classmethod
    def voxelize(cls, vertices, faces):
        """Occupancy (B, 32, 32, 32) bool, in the dataset's axes, of meshes in the renderer's frame."""
        corners = nr.vertices_to_faces(cls.to_grid(vertices), faces)
        return cls.grid_axes(voxelization.voxelize(corners, VOXEL_GRID, dtype=torch.bool))

    @classmethod
    def voxel_mesh(cls, grid):
        """Cubes of an occupancy grid (32, 32, 32), dataset axes, as a mesh in the renderer's frame:
        vertices (1, V, 3), faces (F, 3). The inverse of `voxelize`, cell for cell."""
        inside = cls.mesh_axes(grid)
        padded = torch.nn.functional.pad(inside, (1,) * 6)
        quads = []
        for axis in range(3):
            for step in (0, 1):
                cells = inside & ~padded.roll(1 - 2 * step, axis)[1:-1, 1:-1, 1:-1]
                corner = cells.nonzero()[:, None].expand(-1, 4, -1).clone()  # (n, 4, 3)
                corner[..., axis] += step
                corner[:, [1, 2], (axis + 1) % 3] += 1
                corner[:, [2, 3], (axis + 2) % 3] += 1
                quads.append(corner if step else corner.flip(1))
        corners = torch.cat(quads).reshape(-1, 3).float() / VOXEL_GRID
        start = 4 * torch.arange(len(corners) // 4)[:, None, None]
        faces = (start + torch.tensor([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
        return cls.from_grid(corners)[None], faces

    @classmethod
    def other_views(cls, cameras, poses):
        """Random other cameras and their pose bins, one for each: here those of other images of the
        batch, so that they are spread as the dataset's are."""
        shift = int(torch.randint(1, len(cameras), ())) if len(cameras) > 1 else 0
        return cameras.roll(shift, 0), poses.roll(shift, 0)

    # ---- a split that is open -------------------------------------------------------------------

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
        return torch.from_numpy(self._first_object[self.rows[:, 0]] + self.rows[:, 1])

    def voxels(self, objects):
        """(len(objects), 32, 32, 32) bool of objects counted through all classes."""
        classes = self.object_class[objects]
        grids = [self._voxels[c][o - self._first_object[c]] for c, o in zip(classes, objects)]
        return torch.from_numpy(np.stack(grids).astype(bool))

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

    @classmethod
    def class_name(cls, class_id):
        return cls.class_names.get(class_id, class_id)

    def images_of_class(self, c):
        """Numbers of all images of the c-th class, object by object. Objects of one class have equally
        many."""
        return np.flatnonzero(self.rows[:, 0] == c)


def check_folder(data_dir, example):
    if not os.path.isdir(data_dir):
        raise InputError(f"--data_dir={data_dir} is not a folder; expected one with {example}")


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
