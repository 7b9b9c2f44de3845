"""NIPS17: the renderings of Kar et al. (Learning a Multi-View Stereo Machine, 2017)."""
import os

import numpy as np
import torch

import neural_renderer as nr
from engine.arguments import number
from errors import InputError

from .base import SHAPENET, SKIP_BAD, SPLIT_FILE, WIDTH_OF_BINS, Rows, apart, table
from .folders import FolderDataset
from .nips17_files import FILES, ClassReader, objects_of_split, read_splits
from .writers import write_nips17


class NIPS17(FolderDataset):
    """ShapeNet objects, each seen from its own 20 random views.

    Files: `renders/<class>/<object>/render_<i>.png` (224x224, RGB or RGBA) and `depth_<i>.png` (16-bit, or
    8-bit in some copies; pixels whose high byte is below 250 show the object); `view.txt` beside them, one row per
    view: azimuth, elevation, in-plane angle (in degrees), distance; `voxels/modelVoxels32/<class>/<object>.mat`
    with `Volume` (32, 32, 32); and splits.json, {class: {train, val, test: [objects]}}.

    Cameras are (azimuth, elevation, distance). They look at the origin; half the field of view is 14.9314
    degrees, atan(16/60). Azimuth is in [-180, 180], elevation in [-20, 40]; the in-plane angle is not used.
    Pose bins are wAzimuth x wElevation degrees; the upper limits belong to the last bins.

    Voxels of a mesh in the renderer's frame: coordinates * 31/32 + 0.5, the published rule at 32^3, then swap grid
    axes 0 and 2 and reverse axis 0.

    Images are RGB and mask. (The published program used BGR; its weights are reordered when they are loaded.) They
    are resized to img_size as published, by a Gaussian and linear interpolation (`nips17_files.resized`). A training
    set has the first trainViews views of each object (None: all), the other splits all 20. `mask_from` is 'depth' or
    'alpha'. With skip_bad, objects with broken files are left out and listed.
    """

    name = "NIPS17"
    img_sizes = (64, 128)
    tsne_split = "test"
    published_bgr = True
    count_of_views = 20
    viewing_angle = 14.9314  # degrees, half the field of view; published with so many decimals
    published = dict(img_size=64, trainViews=1, n_iters=20000, lambda_Gprior=1.0, lambda_adv=1.0,
                     decay_batch=40000, wAzimuth=15.0, wElevation=20.0, mask_from="depth")
    reads = ("img_size", "wAzimuth", "wElevation", "split_file", "mask_from", "skip_bad")
    grid_rule = "coordinates * 31/32 + 0.5, grid axes 0 and 2 swapped, axis 0 reversed"
    files = FILES
    contents = ("renders/<class>/<object>/render_0.png ... render_19.png, 224x224 RGB or RGBA, depth_0.png ... "
                "depth_19.png, 16-bit, and view.txt, 20 rows of 4 numbers; "
                "voxels/modelVoxels32/<class>/<object>.mat, Volume (32, 32, 32); splits.json, {class: {train, "
                "val, test: [objects]}}")
    source = "https://github.com/akar43/lsm"
    class_names = SHAPENET
    options = {"mask_from": dict(choices=("depth", "alpha"), help="NIPS17: source of the object's mask"), **SKIP_BAD}
    taken_by_all = {
        **WIDTH_OF_BINS,
        "wElevation": dict(type=number(0, above=True), metavar="DEG", help="NIPS17: width of pose bins in elevation"),
        **SPLIT_FILE}
    writer = classmethod(write_nips17)

    # ---- conventions ----------------------------------------------------------------------------

    @classmethod
    def project(cls, vertices, cameras):
        """Renderer frame to NDC: vertices (B, V, 3), cameras (B, 3)."""
        azimuth, elevation, distance = cameras.to(vertices.dtype).unbind(-1)
        eye = nr.get_points_from_angles(distance, elevation, azimuth)
        return nr.perspective(nr.look_at(vertices, eye), cls.viewing_angle)

    @classmethod
    def turntable(cls, count):
        """Cameras (count, 3) with azimuths from -180 degrees on, elevation 20 degrees and distance 2."""
        azimuth = torch.arange(count) * (360 / count) - 180
        return torch.stack([azimuth, torch.full((count,), 20.0), torch.full((count,), 2.0)], 1)

    @classmethod
    def turned(cls, cameras, turns):
        return cameras + cameras.new_tensor([360 * turns, 0, 0])

    def pose_angle(self, a, b):
        """In azimuth."""
        _, up = _bins(self.wAzimuth, self.wElevation)
        return apart(self.wAzimuth * (a // up - b // up))

    @classmethod
    def mirror_planes(cls):
        """A plane is the sum, in degrees, of the azimuths of two cameras that mirror each other in it."""
        return range(0, 360, 15)

    @classmethod
    def plane_named(cls, plane):
        return f"the upright plane through azimuth {plane / 2:g} degrees"

    @classmethod
    def mirrored(cls, cameras, plane):
        azimuth, *rest = cameras.unbind(-1)
        return torch.stack([(plane - azimuth + 180) % 360 - 180, *rest], -1)

    @staticmethod
    def grid_axes(grid):
        return grid.transpose(-3, -1).flip(-3)

    @staticmethod
    def mesh_axes(grid):
        return grid.flip(-3).transpose(-3, -1)

    @classmethod
    def place(cls, vertices):
        """Rotate by (x, y, z) -> (z, y, -x), like the objects of the released files, and negate z, because these
        cameras mirror: (z, y, x)."""
        return vertices.flip(-1)

    @classmethod
    def count_poses(cls, options):
        return int(np.prod(_bins(options["wAzimuth"], options["wElevation"])))

    @classmethod
    def available(cls, data_dir, options=None):
        splits, _ = read_splits(data_dir, (options or {}).get("split_file"))
        return sorted(splits)

    @classmethod
    def held(cls, data_dir):
        return any(os.path.exists(os.path.join(data_dir, name)) for name in ("splits.json", "renders", "voxels"))

    @classmethod
    def views_to_check(cls, data_dir, class_id, options, say):
        """Default: the largest number of views of any training object, since a dataset may have been made with fewer
        than 20."""
        if options["trainViews"] is not None:
            return options["trainViews"]
        objects = objects_of_split(data_dir, [class_id], "train", options.get("split_file"))[class_id]
        most = max(_count_views(os.path.join(data_dir, "renders", class_id, name)) for name in objects)
        if 1 <= most < cls.count_of_views:
            say(f"note: training objects of {class_id} have {most} of {cls.count_of_views} views")
        return max(1, most)

    # ---- a split that is open -------------------------------------------------------------------

    def __init__(self, data_dir, class_ids, split, cache_dir, trainViews=None, seed=0, only_voxels=False,
                 say=print, img_size=64, wAzimuth=15.0, wElevation=20.0, split_file=None, mask_from="depth",
                 skip_bad=False):
        self.class_ids, self.split, self.img_size = list(class_ids), split, img_size
        self.wAzimuth, self.wElevation = wAzimuth, wElevation
        self.num_poses = self.count_poses({"wAzimuth": wAzimuth, "wElevation": wElevation})
        self._place, views = (data_dir, cache_dir, say), self.count_of_views
        if split == "train" and trainViews is not None:
            if not 1 <= trainViews <= views:
                raise InputError(f"--trainViews={trainViews}: objects of NIPS17 have {views} views")
            views = trainViews
        objects = objects_of_split(data_dir, self.class_ids, split, split_file, say)
        self._images, self._voxels, self.names, cameras, rows, problems = [], [], [], [], [], []
        for c, class_id in enumerate(self.class_ids):
            reader = ClassReader(data_dir, class_id, objects[class_id], 0 if only_voxels else views, img_size,
                                 mask_from)
            found = reader.open(cache_dir, split, skip_bad, say)
            problems += found["problems"]
            kept = found["kept"]
            if not len(kept):
                raise InputError(f"--skip_bad leaves no object of {class_id} in {split}; the first one: "
                                 f"{problems[0]}")
            self._images.append(found["images"])
            self._voxels.append(Rows([(found["voxels"], kept)]))
            self.names.append([objects[class_id][k] for k in kept])
            cameras.append(found["cameras"][kept].reshape(-1, 3))
            n = len(kept)
            v = found["cameras"].shape[1]
            rows.append(table(class_number=np.full(n * v, c), object=np.repeat(np.arange(n), v),
                              place=np.repeat(kept, v), view=np.tile(np.arange(v), n)))
        self._count_objects([len(v) for v in self._voxels])
        self.rows, self._cameras = np.concatenate(rows), torch.from_numpy(np.concatenate(cameras))
        self._leave_out(problems, say)

    def pose_bins(self, cameras):
        """(B,) int64: floor((azimuth + 180) / wAzimuth) * n + floor((elevation + 20) / wElevation), where n is
        the number of bins in elevation; the upper limits belong to the last bins."""
        across, up = _bins(self.wAzimuth, self.wElevation)
        a = ((cameras[:, 0].double() + 180) / self.wAzimuth).floor().long().clamp(0, across - 1)
        e = ((cameras[:, 1].double() + 20) / self.wElevation).floor().long().clamp(0, up - 1)
        return a * up + e

    def all_poses(self):
        return self.pose_bins(self._cameras)


def _bins(wAzimuth, wElevation):
    """Numbers of bins in azimuth and elevation; the last of each may be narrower."""
    return int(np.ceil(360 / wAzimuth - 1e-9)), int(np.ceil(60 / wElevation - 1e-9))


def _count_views(folder):
    """Number of views of an object, from the number of its last picture; earlier ones may be missing."""
    there = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    return max((i + 1 for i in range(NIPS17.count_of_views) if f"render_{i}.png" in there), default=0)
