"""Readers of the published datasets, one interface for all.

A dataset class knows what is particular to it: files, cameras, pose bins, and the axes of its
voxels. The modes only use the interface of `CVPR18` below and never ask which dataset they have.

Convention
----------
Predicted meshes live in the RENDERER's frame: x right, y up, inside [-0.5, 0.5]^3, seen by cameras
that mirror (see `neural_renderer.cameras`). A mesh that people made, right-handed with y up, is the
same mesh with z negated: `flip_handedness` goes both ways.
"""
import glob
import hashlib
import os
import tokenize
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np
import torch

import neural_renderer as nr
import voxelization
from errors import InputError

VOXEL_GRID = 32


@dataclass
class Batch:
    """Some images of a dataset and all that goes with them; B of each."""
    images: torch.Tensor       # (B, 4, H, W) float in [0, 1], RGBA, row 0 at the top
    silhouettes: torch.Tensor  # (B, H, W) float in [0, 1]
    views: torch.Tensor        # (B, ...) what `project` needs to know of the camera
    poses: torch.Tensor        # (B,) int64 pose bins
    objects: torch.Tensor      # (B,) int64, counted through all classes


class CVPR18:
    """Kato et al.: ShapeNet objects, each from 24 views around it.

    Files: `<class>_<split>_images.npz`, uint8 (N, 24, 4, 64, 64), RGBA, and
    `<class>_<split>_voxels.npz`, bool or uint8 (N, 32, 32, 32); one array `arr_0` in each. A training
    set with fewer views of each object, (N, v, 4, 64, 64), names them in `<class>_train_views.npz`,
    integer (N, v).

    Camera of view i: azimuth -15 i degrees, elevation 30 degrees, distance 2.732, looking at the
    origin; the half-width of the frustum is tan(15 degrees). Poses are the 24 views.

    Voxels of a mesh in the renderer's frame: coordinates * 31/32 + 0.5, published rule at 32^3, then
    grid axes 0 and 1 swapped and axis 2 reversed. That is grid[y, x, z] of the mesh people made.

    Parameters
    ----------
    data_dir : folder of the files.
    class_ids : list of str.
    split : 'train', 'val' or 'test'.
    cache_dir : where the images are kept uncompressed, to be mapped into memory.
    train_views : int or None. Views kept of each training object, drawn by `seed`; None keeps all.
    say : called with a line of progress.
    """

    name = "CVPR18"
    img_size = 64
    channels = 4
    num_views = 24
    num_poses = 24
    elevation, distance, viewing_angle = 30.0, 2.732, 15.0
    class_names = {
        "02691156": "airplane", "02828884": "bench", "02933112": "dresser", "02958343": "car",
        "03001627": "chair", "03211117": "display", "03636649": "lamp", "03691459": "loudspeaker",
        "04090263": "rifle", "04256520": "sofa", "04379243": "table", "04401088": "telephone",
        "04530566": "vessel"}

    # ---- conventions: need no files -------------------------------------------------------------

    @classmethod
    def azimuth(cls, views):
        """Degrees; views (B,) int or float, so that one may look from between two of them."""
        return -360.0 / cls.num_views * views

    @classmethod
    def project(cls, vertices, views):
        """Renderer frame to NDC: vertices (B, V, 3), views (B,)."""
        azimuth = cls.azimuth(views.to(vertices.dtype))
        eye = nr.get_points_from_angles(torch.full_like(azimuth, cls.distance),
                                        torch.full_like(azimuth, cls.elevation), azimuth)
        return nr.perspective(nr.look_at(vertices, eye), cls.viewing_angle)

    @classmethod
    def renderer(cls, image_size=None):
        """A Renderer for vertices that went through `project`."""
        return nr.Renderer(image_size or cls.img_size, camera_mode="none")

    @classmethod
    def turntable(cls, count):
        """Views of one turn around an object, the first being view 0: (count,) float."""
        return torch.arange(count) * (cls.num_views / count)

    @staticmethod
    def flip_handedness(vertices):
        """Renderer frame to the frame of people's meshes, and back (z negated). Reverse faces too."""
        return vertices * torch.tensor([1.0, 1.0, -1.0], dtype=vertices.dtype, device=vertices.device)

    @staticmethod
    def voxelize(vertices, faces):
        """Occupancy (B, 32, 32, 32) bool, in the dataset's axes, of meshes in the renderer's frame."""
        corners = nr.vertices_to_faces(vertices * (VOXEL_GRID - 1) / VOXEL_GRID + 0.5, faces)
        grid = voxelization.voxelize(corners, VOXEL_GRID, dtype=torch.bool)
        return grid.transpose(1, 2).flip(3)

    @staticmethod
    def voxel_mesh(grid):
        """Cubes of an occupancy grid (32, 32, 32), dataset axes, as a mesh in the renderer's frame:
        vertices (1, V, 3), faces (F, 3). The inverse of `voxelize`, cell for cell."""
        inside = grid.flip(2).transpose(0, 1)  # the grid the voxeliser made
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
        return ((corners - 0.5) * VOXEL_GRID / (VOXEL_GRID - 1))[None], faces

    # ---- files ----------------------------------------------------------------------------------

    def __init__(self, data_dir, class_ids, split, cache_dir, train_views=None, seed=0, say=print):
        self.class_ids, self.split = list(class_ids), split
        self._images, self._kept, self._voxels = [], [], []
        if not os.path.isdir(data_dir):
            raise InputError(f"--data_dir={data_dir} is not a folder; expected one with files like "
                             "02958343_train_images.npz")
        missing = [c for c in self.class_ids if not os.path.exists(
            os.path.join(data_dir, f"{c}_{split}_images.npz"))]
        if missing:
            raise InputError(f"--data_dir={data_dir} has no {missing[0]}_{split}_images.npz; classes "
                             f"there: {', '.join(self.available(data_dir)) or 'none'}")
        for class_id in self.class_ids:
            images = self._open(data_dir, cache_dir, f"{class_id}_{split}_images", say)
            voxels = self._open(data_dir, cache_dir, f"{class_id}_{split}_voxels", say)
            self._check_images(data_dir, class_id, images)
            shown = self._views_shown(data_dir, cache_dir, class_id, images, say)
            self._check_voxels(data_dir, class_id, images, voxels)
            keep = np.broadcast_to(np.arange(images.shape[1]), images.shape[:2])
            if split == "train" and train_views is not None:
                if not 1 <= train_views <= images.shape[1]:
                    raise InputError(f"--trainViews={train_views} of {class_id}, whose objects have "
                                     f"{images.shape[1]} views in {data_dir}")
                rng = np.random.default_rng([seed, int(class_id) if class_id.isdigit() else 0])
                keep = np.sort(rng.permuted(keep, axis=1)[:, :train_views], axis=1)
            self._images.append(images)
            self._voxels.append(voxels)
            self._kept.append((keep, np.take_along_axis(shown, keep, 1)))
        sizes = [len(v) for v in self._voxels]
        self.object_class = np.repeat(np.arange(len(sizes)), sizes)   # (objects,)
        self._first_object = np.concatenate([[0], np.cumsum(sizes)])
        # One row for each image: class, object within it, place in the file, view.
        rows = []
        for c, (keep, shown) in enumerate(self._kept):
            n, v = keep.shape
            rows.append(np.stack([np.full(n * v, c), np.repeat(np.arange(n), v), keep.reshape(-1),
                                  shown.reshape(-1)], 1))
        self.rows = np.concatenate(rows)

    @classmethod
    def available(cls, data_dir):
        """Class ids for which a folder has training, validation or test images."""
        found = glob.glob(os.path.join(glob.escape(data_dir), "*_images.npz"))
        return sorted({os.path.basename(f).rsplit("_", 2)[0] for f in found})

    def __len__(self):
        """Number of images."""
        return len(self.rows)

    @property
    def num_objects(self):
        return len(self.object_class)

    def class_name(self, class_id):
        return self.class_names.get(class_id, class_id)

    def gather(self, indices):
        """`Batch` of the images with these numbers, on the CPU."""
        rows = self.rows[np.asarray(indices)]
        pixels = np.empty((len(rows), self.channels, self.img_size, self.img_size), np.uint8)
        for c in np.unique(rows[:, 0]):
            mine = np.flatnonzero(rows[:, 0] == c)
            pixels[mine] = self._images[c][rows[mine, 1], rows[mine, 2]]
        images = torch.from_numpy(pixels).float().mul_(1 / 255)
        views = torch.from_numpy(rows[:, 3].astype(np.int64))
        objects = torch.from_numpy(self._first_object[rows[:, 0]] + rows[:, 1])
        return Batch(images, images[:, 3], views, self.pose_bins(views), objects)

    @classmethod
    def pose_bins(cls, views):
        return views

    def all_poses(self):
        """(M,) int64 pose bins of all images."""
        return self.pose_bins(torch.from_numpy(self.rows[:, 3].astype(np.int64)))

    def voxels(self, objects):
        """(len(objects), 32, 32, 32) bool of objects counted through all classes."""
        classes = self.object_class[objects]
        grids = [self._voxels[c][o - self._first_object[c]] for c, o in zip(classes, objects)]
        return torch.from_numpy(np.stack(grids).astype(bool))

    def images_of_class(self, c):
        """Numbers of all images of the c-th class, object by object."""
        return np.flatnonzero(self.rows[:, 0] == c)

    def _views_shown(self, data_dir, cache_dir, class_id, images, say):
        """(N, v) which of the 24 views each stored image is."""
        if self.split == "train" and images.shape[1] != self.num_views:
            views = self._open(data_dir, cache_dir, f"{class_id}_train_views", say)
            if views.shape != images.shape[:2] or views.dtype.kind not in "iu" or (
                    views.size and not (0 <= views.min() and views.max() < self.num_views)):
                raise InputError(f"{data_dir}/{class_id}_train_views.npz must hold integers of shape "
                                 f"{images.shape[:2]} from 0 to {self.num_views - 1}, got "
                                 f"{views.dtype} {views.shape}")
            return np.asarray(views)
        return np.broadcast_to(np.arange(images.shape[1]), images.shape[:2])

    def _check_images(self, data_dir, class_id, images):
        path, side = f"{data_dir}/{class_id}_{self.split}_images.npz", self.img_size
        if images.dtype != np.uint8 or images.ndim != 5 or images.shape[2:] != (self.channels, side, side):
            raise InputError(f"{path} must be uint8 of shape (N, {self.num_views}, {self.channels}, {side}, "
                             f"{side}), got {images.dtype} {images.shape}")
        if self.split != "train" and images.shape[1] != self.num_views:
            raise InputError(f"{path} must have all {self.num_views} views of each object, got {images.shape}")
        if not images.size:
            raise InputError(f"{path} has no objects")

    def _check_voxels(self, data_dir, class_id, images, voxels):
        grid = (len(images),) + (VOXEL_GRID,) * 3
        if voxels.dtype not in (np.bool_, np.uint8) or voxels.shape != grid:
            raise InputError(f"{data_dir}/{class_id}_{self.split}_voxels.npz must be bool or uint8 of shape "
                             f"{grid}, got {voxels.dtype} {voxels.shape}")

    @staticmethod
    def _open(data_dir, cache_dir, stem, say):
        return open_npz(os.path.join(data_dir, stem + ".npz"), cache_dir, say)


DATASETS = {"CVPR18": CVPR18}


def open_npz(path, cache_dir, say=print):
    """The array `arr_0` of an npz file, mapped into memory, read only.

    The first time it is unpacked into `cache_dir`, in pieces; the copy is known by the source's path,
    size and time, so that a changed source is unpacked anew. Arrays of Python objects, which are
    pickles, are refused.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    stem = os.path.basename(path)[:-len(".npz")]
    source = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:8]
    prefix = os.path.join(cache_dir, f"{stem}.{source}.")
    cached = f"{prefix}{status.st_size}-{status.st_mtime_ns}.npy"
    if not os.path.exists(cached):
        try:
            os.makedirs(cache_dir, exist_ok=True)
        except OSError as error:
            raise InputError(f"--cache_dir={cache_dir} cannot be made: {error.strerror}") from None
        for old in glob.glob(glob.escape(prefix) + "*.npy"):
            os.remove(old)
        _unpack(path, cached, say)
    return np.load(cached, mmap_mode="r", allow_pickle=False)


def _unpack(path, target, say):
    beside = f"{target}.{os.getpid()}.part"
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as source:
            version = np.lib.format.read_magic(source)
            read = {(1, 0): np.lib.format.read_array_header_1_0,
                    (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, fortran, dtype = read(source)
            if dtype.hasobject:
                raise InputError(f"{path} holds Python objects, which may run code; expected numbers")
            expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if fortran:
                raise InputError(f"{path} is stored in Fortran order; expected C order")
            if expected > 256e6:
                say(f"unpacking {os.path.basename(path)} ({expected / 1e9:.1f} GB), this time only ...")
            with open(beside, "wb") as out:
                np.lib.format.write_array_header_1_0(
                    out, {"shape": shape, "fortran_order": False,
                          "descr": np.lib.format.dtype_to_descr(dtype)})
                left = expected
                while left:
                    piece = source.read(min(left, 1 << 24))
                    if not piece:
                        raise InputError(f"{path} is cut short: {left} of {expected} bytes of arr_0 missing")
                    out.write(piece)
                    left -= len(piece)
                if source.read(1):
                    raise InputError(f"{path} holds more bytes than its shape {shape} says")
        os.replace(beside, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError,
            tokenize.TokenError) as error:
        raise InputError(f"{path} is damaged or not an npz file with an array arr_0: {error}") from None
    except OSError as error:
        raise InputError(f"cannot unpack {path} into {os.path.dirname(target)}: {error.strerror}") from None
    finally:
        if os.path.exists(beside):
            os.remove(beside)
