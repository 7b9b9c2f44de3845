"""The dataset CVPR18, and `DATASETS`, the table of all datasets; the others are in `readers`.

To add a dataset, write one class, as `readers.base.Dataset` describes, and add one line to `DATASETS`.
"""
import functools
import glob
import os

import numpy as np
import torch

import neural_renderer as nr
from errors import InputError
from readers.base import SHAPENET, VOXEL_GRID, Batch, Dataset, apart, check_folder, table
from readers.cache import open_npz
from readers.nips17 import NIPS17
from readers.pascal3d import Pascal3D
from readers.points import open_points
from readers.r2n2 import R2N2
from readers.writers import write_cvpr18


class CVPR18(Dataset):
    """The dataset of Kato et al. (2018): ShapeNet objects, each seen from the same 24 views.

    Files: `<class>_<split>_images.npz`, uint8 (N, 24, 4, 64, 64), RGBA, and
    `<class>_<split>_voxels.npz`, bool or uint8 (N, 32, 32, 32), each with one array `arr_0`. A training
    set may have fewer views of each object, (N, v, 4, 64, 64); `<class>_train_views.npz`, integer (N, v),
    then contains their numbers.

    Camera of view i: azimuth -15 i degrees, elevation 30 degrees, distance 2.732, looking at the
    origin; half the field of view is 15 degrees. The pose bins are the 24 views.

    Voxels of a mesh in the renderer's frame: coordinates * 31/32 + 0.5, the published rule at 32^3, then
    swap grid axes 0 and 1 and reverse axis 2. The result is grid[y, x, z] of the mesh in the people frame.

    A training set has `trainViews` random views of each object, drawn with `seed`; None keeps all.
    """

    name = "CVPR18"
    img_size = 64
    num_views = count_of_views = 24
    num_poses = 24
    elevation, distance, viewing_angle = 30.0, 2.732, 15.0
    published = dict(img_size=64, n_iters=20000, lambda_Gprior=1.0, lambda_adv=1.0, decay_batch=40000, channels=25)
    grid_rule = "coordinates * 31/32 + 0.5, grid axes 0 and 1 swapped, axis 2 reversed"
    files = "<class>_<split>_images.npz and <class>_<split>_voxels.npz"
    contents = ("<class>_<split>_images.npz, uint8 (N, 24, 4, 64, 64), 393 kB an object uncompressed, and "
                "<class>_<split>_voxels.npz, bool (N, 32, 32, 32), 33 kB; one array arr_0 in each")
    source = "https://github.com/hiroharu-kato/mesh_reconstruction"
    class_names = SHAPENET
    writer = classmethod(write_cvpr18)

    # ---- conventions ----------------------------------------------------------------------------

    @classmethod
    def azimuth(cls, views):
        """Azimuths in degrees of views (B,), int, or float for cameras between two views."""
        return -360.0 / cls.num_views * views

    @classmethod
    def project(cls, vertices, cameras):
        """Renderer frame to NDC: vertices (B, V, 3), cameras (B,) the numbers of the views."""
        if cameras.is_floating_point():
            seen = nr.look_at(vertices, cls._eyes(cameras.to(vertices.dtype)))
        else:
            eyes, turns = cls._whole_views(vertices.dtype, vertices.device)
            seen = torch.matmul(vertices - eyes[cameras, None], turns[cameras])
        return nr.perspective(seen, cls.viewing_angle)

    @classmethod
    def _eyes(cls, views):
        azimuth = cls.azimuth(views)
        return nr.get_points_from_angles(torch.full_like(azimuth, cls.distance),
                                         torch.full_like(azimuth, cls.elevation), azimuth)

    @classmethod
    @functools.cache
    def _whole_views(cls, dtype, device):
        """Eyes (24, 3) and the rotation of the world to each camera (24, 3, 3). Cached: small operators on cameras
        are a third of a step outside its networks, and on a GPU each costs a launch."""
        with torch.inference_mode(False), torch.no_grad():
            eyes = cls._eyes(torch.arange(cls.num_views, dtype=dtype, device=device))
            return eyes, nr.look(torch.eye(3, dtype=dtype, device=device).expand(cls.num_views, 3, 3), (0, 0, 0), -eyes)

    @classmethod
    def turntable(cls, count):
        """Views (count,) float of one turn around an object, from view 0 on."""
        return torch.arange(count) * (cls.num_views / count)

    @classmethod
    def turned(cls, cameras, turns):
        return cameras + turns * cls.num_views

    @classmethod
    def other_views(cls, cameras, poses):
        """A random other view for each camera."""
        turn = torch.randint(1, cls.num_views, (len(cameras),)).to(cameras.device, non_blocking=True)
        others = (cameras + turn) % cls.num_views
        return others, others

    @classmethod
    def pose_angle(cls, a, b):
        return apart(360 / cls.num_views * (a - b))

    @classmethod
    def mirror_planes(cls):
        """A plane is the sum of the numbers of two views that mirror each other in it."""
        return range(cls.num_views)

    @classmethod
    def plane_named(cls, plane):
        return f"the upright plane that mirrors view 0 into view {plane}"

    @classmethod
    def mirrored(cls, cameras, plane):
        return (plane - cameras) % cls.num_views

    @staticmethod
    def grid_axes(grid):
        return grid.transpose(-3, -2).flip(-1)

    @staticmethod
    def mesh_axes(grid):
        return grid.flip(-1).transpose(-3, -2)

    # ---- a split that is open -------------------------------------------------------------------

    def __init__(self, data_dir, class_ids, split, cache_dir, trainViews=None, seed=0, only_voxels=False,
                 say=print):
        self.class_ids, self.split = list(class_ids), split
        self._images, self._kept, self._voxels = [], [], []
        self._place = data_dir, cache_dir, say
        check_folder(data_dir, "files like 02958343_train_images.npz")
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
            if split == "train" and trainViews is not None:
                if not 1 <= trainViews <= images.shape[1]:
                    raise InputError(f"--trainViews={trainViews}: the objects of {class_id} in {data_dir} have "
                                     f"{images.shape[1]} views")
                rng = np.random.default_rng([seed, int(class_id) if class_id.isdigit() else 0])
                keep = np.sort(rng.permuted(keep, axis=1)[:, :trainViews], axis=1)
            self._images.append(images)
            self._voxels.append(voxels)
            self._kept.append((keep, np.take_along_axis(shown, keep, 1)))
        self._count_objects([len(v) for v in self._voxels])
        rows = []  # for each image: its position among the images of its object in the file, and its view
        for c, (keep, shown) in enumerate(self._kept):
            n, v = keep.shape
            rows.append(table(class_number=np.full(n * v, c), object=np.repeat(np.arange(n), v),
                              place=keep.reshape(-1), view=shown.reshape(-1)))
        self.rows = np.concatenate(rows)

    @classmethod
    def available(cls, data_dir, options=None):
        """Class ids for which a folder has training, validation or test images."""
        found = glob.glob(os.path.join(glob.escape(data_dir), "*_images.npz"))
        return sorted({os.path.basename(f).rsplit("_", 2)[0] for f in found})

    def read(self, indices, step=None, part=slice(None)):
        rows = self.rows[np.asarray(indices)[part]]
        pixels = np.empty((len(rows), self.channels, self.img_size, self.img_size), np.uint8)
        for c in np.unique(rows["class_number"]):
            mine = rows["class_number"] == c
            pixels[mine] = self._images[c][rows["object"][mine], rows["place"][mine]]
        views = torch.from_numpy(rows["view"].copy())
        objects = torch.from_numpy(self._first_object[rows["class_number"]] + rows["object"])
        return Batch(torch.from_numpy(pixels), None, views, self.pose_bins(views), objects)

    def points(self, c):
        return open_points(self._place, f"{self.class_ids[c]}_{self.split}", len(self._voxels[c]))

    @classmethod
    def pose_bins(cls, views):
        return views

    def all_poses(self):
        """(M,) int64 pose bins of all images."""
        return self.pose_bins(torch.from_numpy(self.rows["view"].copy()))

    def _views_shown(self, data_dir, cache_dir, class_id, images, say):
        """(N, v) the number of the view, 0 to 23, of each stored image."""
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


DATASETS = {"CVPR18": CVPR18, "NIPS17": NIPS17, "Pascal3D": Pascal3D, "R2N2": R2N2}
DEFAULT = "CVPR18"  # default of --dataset, and the layout of the built-in shapes


