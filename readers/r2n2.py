"""R2N2: the renderings of Choy et al. (3D-R2N2, ECCV 2016) of ShapeNet's objects."""
import os

import numpy as np
import torch

import neural_renderer as nr
import voxelization
from errors import InputError

from .base import SHAPENET, SKIP_BAD, SPLIT_FILE, VOXEL_GRID, WIDTH_OF_BINS, Rows, apart, table
from .folders import FolderDataset
from .r2n2_files import FILES, RENDERING, VOX, ClassReader, classes_of, folders_of, objects_to_read
from .writers import write_r2n2

FOCAL = 35 / 16  # focal length in half pictures: lens 35 mm, sensor 32 mm; half the field of view is 24.567 degrees


class R2N2(FolderDataset):
    """ShapeNet objects, each seen from its own 24 views.

    Files: `ShapeNetRendering/<class>/<object>/rendering/00.png ... 23.png`, 137x137 RGBA; in the same folder
    rendering_metadata.txt with one row per view: azimuth, elevation and in-plane angle in degrees, distance ratio, and
    25, which is not the field of view; `ShapeNetVox32/<class>/<object>/model.binvox`. Each top folder may also be an
    archive with its name and the ending .tgz; it is unpacked into the cache once. Splits come from `split_file`, or
    from splits.json in the data folder, in the form {class: {train, val, test: [objects]}} or [{taxonomy_id, train,
    val, test}]; without one, 70, 10 and 20 percent of the objects in the order of their names.

    The renderer's frame is that of the files: right-handed, y up, front to +x; the objects' boxes are centred and have
    a diagonal of 1. Cameras are (azimuth, elevation, distance), where distance is 1.75 times the ratio. The eye is at
    distance * (cos el cos az, sin el, cos el sin az) and looks at the origin. The cameras do not mirror. The in-plane
    angle, 0 in the released files, is not used. Pose bins are wAzimuth degrees wide, from azimuth 0 on.

    Voxels are those of the files: grid[x, y, z], centred on the object, with 32 cells along the longest side of its
    box; the file contains the length of that side. Coordinates of a mesh are divided by this length, 0.5 is added, and
    the mesh is voxelised exactly: a cell is solid if its centre is inside (`voxelization.voxelize_solid`). The files'
    grids are solid, made by binvox's parity and ray rules. The rule of the other datasets would leave a mesh that
    reaches the border of the grid hollow.

    Images are RGBA on black, resized to img_size with anti-aliasing. A training set has the first trainViews views of
    each object (None: all). With skip_bad, objects with broken files are left out and listed.
    """

    name = "R2N2"
    img_sizes = (64, 128)
    tsne_split = "test"
    count_of_views = 24
    shows_grounds = False                # transparent ground is black
    mirrors = False
    mirror_axis = 2
    published = dict(img_size=64, n_iters=20000, lambda_Gprior=1.0, lambda_adv=1.0, decay_batch=40000, wAzimuth=15.0)
    reads = ("img_size", "wAzimuth", "split_file", "skip_bad")
    grid_rule = ("coordinates / longest side of the object's box + 0.5, grid[x, y, z], cells whose centre is inside, "
                 "exactly")
    files = FILES
    contents = (f"{RENDERING}/<class>/<object>/rendering/00.png ... 23.png, 137x137 RGBA, and "
                "rendering_metadata.txt, 24 rows: azimuth, elevation, in-plane angle, distance ratio, 25; "
                f"{VOX}/<class>/<object>/model.binvox, 32x32x32; or both as .tgz; splits.json or --split_file")
    source = "https://github.com/chrischoy/3D-R2N2"
    class_names = SHAPENET
    options = SKIP_BAD
    taken_by_all = {**WIDTH_OF_BINS, **SPLIT_FILE}
    writer = classmethod(write_r2n2)

    # ---- conventions ----------------------------------------------------------------------------

    @classmethod
    def project(cls, vertices, cameras):
        """Renderer frame to NDC: vertices (B, V, 3), cameras (B, 3)."""
        azimuth, elevation, distance = cameras.to(vertices.dtype).unbind(-1)
        azimuth, elevation = torch.deg2rad(azimuth), torch.deg2rad(elevation)
        ca, sa, ce, se = torch.cos(azimuth), torch.sin(azimuth), torch.cos(elevation), torch.sin(elevation)
        right = torch.stack([sa, torch.zeros_like(sa), -ca], -1)
        up = torch.stack([-se * ca, ce, -se * sa], -1)
        back = torch.stack([ce * ca, se, ce * sa], -1)
        seen = vertices @ torch.stack([right, up, back], -1)
        depth = distance[:, None] - seen[..., 2]
        return torch.stack([FOCAL * seen[..., 0] / depth, FOCAL * seen[..., 1] / depth, depth], -1)

    @classmethod
    def turntable(cls, count):
        """Cameras (count, 3) with azimuths from 0 on, and the mean elevation 27.5 degrees and distance 1.4 of the
        files."""
        azimuth = torch.arange(count) * (360 / count)
        return torch.stack([azimuth, torch.full((count,), 27.5), torch.full((count,), 1.4)], 1)

    @classmethod
    def turned(cls, cameras, turns):
        return cameras + cameras.new_tensor([360 * turns, 0, 0])

    @classmethod
    def mirror_planes(cls):
        """z = 0, the plane in which most objects of these files are symmetric."""
        return (0,)

    @classmethod
    def mirrored(cls, cameras, plane):
        azimuth, *rest = cameras.unbind(-1)
        return torch.stack([-azimuth % 360, *rest], -1)

    def pose_angle(self, a, b):
        """The angle between the azimuths."""
        return apart(self.wAzimuth * (a - b))

    @classmethod
    def voxelize(cls, vertices, faces):
        """Voxelise meshes with longest side 1 by the exact rule: (B, 32, 32, 32) bool."""
        return voxelization.voxelize_solid(nr.vertices_to_faces(cls.to_grid(vertices), faces), VOXEL_GRID, torch.bool)

    @staticmethod
    def to_grid(vertices):
        """Transform an object with longest side 1 to [0, 1]^3."""
        return vertices + 0.5

    @staticmethod
    def from_grid(vertices):
        return vertices - 0.5

    @staticmethod
    def grid_axes(grid):
        return grid

    @staticmethod
    def mesh_axes(grid):
        return grid

    @classmethod
    def place(cls, vertices):
        """Rotate by (x, y, z) -> (z, y, -x): the front, +z in the people frame, points to +x."""
        return torch.stack([vertices[:, 2], vertices[:, 1], -vertices[:, 0]], 1)

    @classmethod
    def count_poses(cls, options):
        return int(np.ceil(360 / options["wAzimuth"] - 1e-9))

    @classmethod
    def available(cls, data_dir, options=None):
        cache_dir = (options or {}).get("cache_dir") or os.path.join(data_dir, ".cache")
        return classes_of(folders_of(data_dir, cache_dir))

    @classmethod
    def held(cls, data_dir):
        return any(os.path.exists(os.path.join(data_dir, name + ending))
                   for name in (RENDERING, VOX) for ending in ("", ".tgz", ".tar.gz"))

    # ---- a split that is open -------------------------------------------------------------------

    def __init__(self, data_dir, class_ids, split, cache_dir, trainViews=None, seed=0, only_voxels=False,
                 say=print, img_size=64, wAzimuth=15.0, split_file=None, skip_bad=False):
        self.class_ids, self.split, self.img_size, self.wAzimuth = list(class_ids), split, img_size, wAzimuth
        self.num_poses = self.count_poses({"wAzimuth": wAzimuth})
        self._place, views = (data_dir, cache_dir, say), self.count_of_views
        if split == "train" and trainViews is not None:
            if not 1 <= trainViews <= views:
                raise InputError(f"--trainViews={trainViews}: objects of R2N2 have {views} views")
            views = trainViews
        folders = folders_of(data_dir, cache_dir, say)
        self._images, self._voxels, self.names, scales, cameras, rows, problems = [], [], [], [], [], [], []
        for c, class_id in enumerate(self.class_ids):
            objects, absent = objects_to_read(data_dir, folders, class_id, split, split_file, skip_bad, say)
            self.left_out = [*self.left_out, *absent]
            found = ClassReader(folders, class_id, objects, 0 if only_voxels else views, img_size).open(
                cache_dir, split, skip_bad, say)
            problems += found["problems"]
            kept = found["kept"]
            if not len(kept):
                raise InputError(f"--skip_bad leaves no object of {class_id} in {split}; the first one: "
                                 f"{problems[0]}")
            self._images.append(found["images"])
            self._voxels.append(Rows([(found["voxels"], kept)]))
            self.names.append([objects[k] for k in kept])
            scales.append(found["scale"][kept])
            cameras.append(found["cameras"][kept].reshape(-1, 3))
            n, v = len(kept), found["cameras"].shape[1]
            rows.append(table(class_number=np.full(n * v, c), object=np.repeat(np.arange(n), v),
                              place=np.repeat(kept, v), view=np.tile(np.arange(v), n)))
        self._count_objects([len(v) for v in self._voxels])
        self.rows, self._cameras = np.concatenate(rows), torch.from_numpy(np.concatenate(cameras))
        self._scales = torch.from_numpy(np.concatenate(scales))
        self._leave_out(problems, say)

    def grid_scales(self, objects):
        return self._scales[torch.as_tensor(objects)]

    def pose_bins(self, cameras):
        """(B,) int64: floor(azimuth / wAzimuth), azimuth in [0, 360)."""
        return ((cameras[:, 0].double() % 360) / self.wAzimuth).floor().long().clamp(0, self.num_poses - 1)

    def all_poses(self):
        return self.pose_bins(self._cameras)
