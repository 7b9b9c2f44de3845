"""Pascal3D: photographs of Pascal 3D+ and ImageNet, as Kato & Harada (CVPR 2019) publish them."""
import glob
import os

import numpy as np
import torch

from errors import InputError

from . import pascal3d_files as files
from .base import SKIP_BAD, Batch, Dataset, Rows, check_folder, table
from .pascal3d_cameras import MARGIN, euler_bins, mirrored, turntable_rotations
from .points import open_points
from .writers import write_pascal3d

JITTER = 0.15  # largest shift of each side of the crop in training, as a fraction of the box


class Pascal3D(Dataset):
    """Photographs of aeroplanes, cars and chairs, each with the voxels of a similar object.

    Files: `<name>_train.npz`, `<name>_imagenet.npz` (added to train) and `<name>_val.npz`, where <name> is the
    name or the id of the class. They contain `images`, an object array of (H, W, 3) uint8 RGB of any size;
    `images_ref` (N, H, W, 4) uint8, reference crops whose channel 3 is the mask; `bounding_boxes` (N, 4),
    left, top, width, height in pixels; `rotation_matrices` (N, 3, 3); `voxels` (N, 32, 32, 32).

    Images are cropped to the box plus 15 % of it on each side, clipped to the image, and resized with anti-aliasing.
    Silhouettes are the masks, resized in the same way to 64 or 128 px; for images of 224 px they have 64 px, by the
    nearest neighbour. In training each side is shifted by up to 15 % of the box, and half of the images are mirrored.
    A mirrored image shows the object's mirror image (z negated), so its mask is mirrored and its rotation R becomes
    diag(-1, 1, 1) R diag(1, 1, -1). The published program mirrors only the image (`published_flip`). In both programs
    the shifts do not change mask and camera.

    Cameras are the file's rotations R (3, 3) and orthographic: R' = diag(-1, 1, 1) R transforms vertices to x
    right, y up, z forward, and 1 + 1e-5 is added to z. They do not mirror.

    Pose bins: Euler angles of R in scipy's extrinsic order y, z, x, with 8 bins of 45 degrees each. The bins that
    have training images (mirrored ones included, unless published_flip) are numbered in ascending order, for
    validation too. Bins that only validation images have come after them.

    Voxels of a mesh in the renderer's frame: (coordinates + 1) / 2, the published rule at 32^3, then swap grid
    axes 1 and 2 and reverse all three.
    """

    name = "Pascal3D"
    channels = 3
    img_sizes = (64, 128, 224)
    splits = ("train", "val")
    eval_split, tsne_split = "val", "train"
    count_of_views = 1
    published = dict(img_size=224, n_iters=40000, lambda_Gprior=0.01, lambda_adv=0.01, decay_batch=60000,
                     symmetric=True)
    reads = ("img_size", "skip_bad", "published_flip")
    augments = True
    light_frame = "viewer"
    mirrors = False
    mirror_axis = 2
    grid_rule = "(coordinates + 1) / 2, grid axes 1 and 2 swapped, all three reversed"
    files = "<name>_train.npz, <name>_imagenet.npz and <name>_val.npz"
    contents = ("<name>_train.npz, <name>_imagenet.npz and <name>_val.npz, name being aeroplane, car, chair or "
                "their ids, each with images, an object array of uint8 (H, W, 3), images_ref, uint8 (N, 224, 224, "
                "4), 201 kB an image, bounding_boxes (N, 4), rotation_matrices (N, 3, 3) and voxels (N, 32, 32, "
                "32)")
    source = "https://github.com/hiroharu-kato/view_prior_learning"
    options = {"published_flip": dict(
        action="store_true", help="Pascal3D: mirror images, but neither their masks nor their cameras, as published"),
        **SKIP_BAD}
    writer = classmethod(write_pascal3d)
    class_names = {"02691156": "aeroplane", "02958343": "car", "03001627": "chair"}

    # ---- conventions ----------------------------------------------------------------------------

    @classmethod
    def defaults(cls, given):
        """The published program predicts symmetric meshes at 224 px, but not at 64 and 128 px."""
        return {**cls.published, "symmetric": given.get("img_size") in (None, 224)}

    @classmethod
    def silhouette_size(cls, img_size):
        return files.SILHOUETTES[img_size]

    @classmethod
    def project(cls, vertices, cameras):
        """Renderer frame to NDC: vertices (B, V, 3), cameras (B, 3, 3)."""
        turned = vertices @ torch.cat([-cameras[:, :1], cameras[:, 1:]], 1).to(vertices.dtype).transpose(1, 2)
        return torch.cat([turned[..., :2], turned[..., 2:] + (1 + 1e-5)], -1)

    @classmethod
    def for_pictures(cls, vertices, cameras):
        """`project` with a large distance added to z: the rasteriser interpolates 1/z, which is right only in
        perspective. From far away the error vanishes."""
        return cls.project(vertices, cameras) + vertices.new_tensor([0, 0, 20])

    @classmethod
    def turntable(cls, count):
        """Cameras (count, 3, 3) of one turn at 20 degrees elevation."""
        return turntable_rotations(torch.arange(count) * (360 / count), torch.full((count,), 20.0))

    @classmethod
    def turned(cls, cameras, turns):
        angle = torch.tensor(2 * np.pi * turns)
        c, s = torch.cos(angle), torch.sin(angle)
        turn = cameras.new_tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        return cameras @ turn

    @classmethod
    def mirror_planes(cls):
        """z = 0, the plane in which symmetric meshes are symmetric."""
        return (0,)

    @classmethod
    def mirrored(cls, cameras, plane):
        """As `pascal3d_cameras.mirrored`, with operators that a CUDA graph can record."""
        flipped = torch.cat([-cameras[:, :1], cameras[:, 1:]], 1)
        return torch.cat([flipped[..., :2], -flipped[..., 2:]], -1)

    @staticmethod
    def to_grid(vertices):
        return (vertices + 1) / 2

    @staticmethod
    def from_grid(vertices):
        return 2 * vertices - 1

    @staticmethod
    def grid_axes(grid):
        return grid.transpose(-2, -1).flip(-3, -2, -1)

    @staticmethod
    def mesh_axes(grid):
        return grid.flip(-3, -2, -1).transpose(-2, -1)

    @classmethod
    def place(cls, vertices):
        """Rotate by (x, y, z) -> (z, y, -x): left and right are then along z, as in `symmetric` meshes."""
        return torch.stack([vertices[:, 2], vertices[:, 1], -vertices[:, 0]], 1)

    @classmethod
    def count_poses(cls, options):
        return None

    @classmethod
    def available(cls, data_dir, options=None):
        found = glob.glob(os.path.join(glob.escape(data_dir), "*_train.npz")) + \
            glob.glob(os.path.join(glob.escape(data_dir), "*_val.npz"))
        ids = {word: class_id for class_id, word in cls.class_names.items()}
        words = {os.path.basename(f).rsplit("_", 1)[0] for f in found}
        return sorted({ids.get(word, word) for word in words})

    @classmethod
    def path(cls, data_dir, class_id, part):
        """The path of a file, which has the class name or the class id in its name. If neither exists, the first."""
        ids = {word: known for known, word in cls.class_names.items()}
        names = [cls.class_name(class_id), class_id, ids.get(class_id, class_id)]
        paths = [os.path.join(data_dir, f"{name}_{part}.npz") for name in dict.fromkeys(names)]
        return next((path for path in paths if os.path.exists(path)), paths[0])

    # ---- a split that is open -------------------------------------------------------------------

    def __init__(self, data_dir, class_ids, split, cache_dir, trainViews=None, seed=0, only_voxels=False,
                 say=print, img_size=224, skip_bad=False, published_flip=False):
        check_folder(data_dir, self.files)
        self.class_ids, self.split, self.img_size = list(class_ids), split, img_size
        self.seed, self.published_flip, self._place = seed, published_flip, (data_dir, cache_dir, say)
        if trainViews not in (None, 1):
            raise InputError(f"--trainViews={trainViews}: objects of Pascal3D have one view each")
        for class_id in self.class_ids:
            if not os.path.exists(self.path(data_dir, class_id, split)):
                raise InputError(f"there is no {self.path(data_dir, class_id, split)}; classes there: "
                                 f"{', '.join(self.available(data_dir)) or 'none'}")
        self._parts, self._parts_of, self._voxels, rows, problems = [], [0], [], [], []
        for c, class_id in enumerate(self.class_ids):
            mine, count = [], 0
            for path in self._files(data_dir, class_id, split, say):
                part = files.open_part(path, cache_dir, only_voxels, say, img_size)
                if part["problems"] and not skip_bad:
                    raise InputError(part["problems"][0])
                problems += part["problems"]
                kept = part["kept"]
                rows.append(table(class_number=np.full(len(kept), c), object=count + np.arange(len(kept)),
                                  part=np.full(len(kept), len(self._parts)), place=kept))
                self._parts.append(part)
                mine.append((part["voxels"], kept))
                count += len(kept)
            if not count:
                raise InputError(f"{self.path(data_dir, class_id, split)} has no " + (
                    f"intact images; the first problem: {problems[0]}" if problems else "images"))
            self._voxels.append(Rows(mine))
            self._parts_of.append(len(self._parts))
        self._count_objects([len(v) for v in self._voxels])
        self.rows = np.concatenate(rows)
        self._cameras = torch.from_numpy(np.concatenate(
            [part["rotations"][part["kept"]] for part in self._parts])).float()
        self._numbers = self._number_bins(data_dir)
        self.num_poses = int((self._numbers >= 0).sum())
        self._poses = self.pose_bins(self._cameras)
        self._leave_out(problems, say)

    @classmethod
    def _files(cls, data_dir, class_id, split, say=lambda line: None):
        found = [cls.path(data_dir, class_id, split)]
        if split == "train":
            more = cls.path(data_dir, class_id, "imagenet")
            if os.path.exists(more):
                found.append(more)
            else:
                say(f"note: there is no {more}; training without the images of ImageNet")
        return found

    def _number_bins(self, data_dir):
        """(512,) the number of each bin; -1 for bins without training images."""
        rotations = self._cameras
        if self.split != "train":
            paths = [path for c in self.class_ids for path in self._files(data_dir, c, "train")]
            missing = [path for path in paths if not os.path.exists(path)]
            if missing:
                raise InputError(f"there is no {missing[0]}, whose poses also determine the pose bins of {self.split}")
            rotations = torch.from_numpy(np.concatenate([files.whole_rotations(p) for p in paths])).float()
        if not self.published_flip:
            rotations = torch.cat([rotations, mirrored(rotations)])
        numbers = torch.full((512,), -1)
        found = euler_bins(rotations).unique()
        numbers[found] = torch.arange(len(found))
        return numbers

    def pose_bins(self, rotations):
        """(B,) int64; bins without training images come after the others."""
        bins = euler_bins(rotations)
        numbers = self._numbers[bins]
        return torch.where(numbers >= 0, numbers, self.num_poses + bins)

    def all_poses(self):
        return self._poses

    def points(self, c):
        """The rows of the file are in the order of the train file, then of the imagenet file."""
        rows = self.rows[self.rows["class_number"] == c]
        first = np.cumsum([0] + [len(part["rotations"]) for part in self._parts])
        before, after = first[self._parts_of[c]], first[self._parts_of[c + 1]]
        found = open_points(self._place, f"{self.class_name(self.class_ids[c])}_{self.split}", int(after - before))
        return None if found is None else Rows([(found, first[rows["part"]] - before + rows["place"])])

    def read(self, indices, step=None, part=slice(None)):
        indices = np.asarray(indices)
        jitter, flips = np.zeros((len(indices), 4)), np.zeros(len(indices), bool)
        if step is not None:
            rng = np.random.default_rng([self.seed, step])
            jitter, flips = rng.uniform(-JITTER, JITTER, jitter.shape), rng.random(len(indices)) < 0.5
        indices, jitter, flips = indices[part], jitter[part], flips[part]
        images = torch.empty(len(indices), 3, self.img_size, self.img_size, dtype=torch.uint8)
        masks = torch.empty(len(indices), *(self.silhouette_size(self.img_size),) * 2, dtype=torch.uint8)
        for k, row in enumerate(self.rows[indices]):
            part, i = self._parts[row["part"]], row["place"]
            images[k] = cropped(files.picture(part, i), part["boxes"][i], jitter[k], self.img_size)
            mirror = int(flips[k] and not self.published_flip)
            masks[k] = torch.from_numpy(np.array(part["masks"][i, mirror]))
        where = torch.from_numpy(indices)
        cameras, poses, flips = self._cameras[where], self._poses[where], torch.from_numpy(flips)
        images = torch.where(flips[:, None, None, None], images.flip(-1), images)
        numbers = where
        if flips.any() and not self.published_flip:
            numbers = torch.where(flips, -1 - where, where)
            cameras = torch.where(flips[:, None, None], mirrored(cameras), cameras)
            poses = self.pose_bins(cameras)
        return Batch(images, masks, cameras, poses, self.all_objects()[where], numbers)


def cropped(image, box, jitter, size):
    """Crop an image (H, W, 3) to a box with its margin, and resize it to (3, size, size) uint8.

    box : left, top, width, height. jitter : (4,) shifts of left, top, right, bottom, as fractions of the box.
    """
    left, top, width, height = box
    h, w = image.shape[:2]
    x0, y0 = left + width * (jitter[0] - MARGIN), top + height * (jitter[1] - MARGIN)
    x1, y1 = left + width * (1 + MARGIN + jitter[2]), top + height * (1 + MARGIN + jitter[3])
    x0, y0 = int(np.clip(x0, 0, w - 1)), int(np.clip(y0, 0, h - 1))  # truncate, as published
    x1, y1 = int(np.clip(x1, x0 + 1, w)), int(np.clip(y1, y0 + 1, h))
    # torch resizes bytes in channels-last order fastest.
    pixels = torch.from_numpy(image[y0:y1, x0:x1].copy()).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)[0]
