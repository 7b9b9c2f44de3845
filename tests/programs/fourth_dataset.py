"""A fourth dataset in one file: three orthographic pictures of each object from around it.

    python tests/programs/fourth_dataset.py '[["--mode=make_dataset", ...], ...]'     runs 3D-GAN.py with it
"""
import glob
import importlib.util
import json
import os
import sys
from pathlib import Path

ROOT = next(p for p in Path(__file__).resolve().parents if (p / "3D-GAN.py").exists())
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from datasets import DATASETS  # noqa: E402
from engine import disk  # noqa: E402
from engine.arguments import integer  # noqa: E402
from errors import InputError  # noqa: E402
from readers.base import Batch, Dataset, check_folder, table  # noqa: E402
from readers.writers import as_bytes, draw_rgba, voxel_grid  # noqa: E402

AZIMUTHS = torch.tensor([0.0, 100.0, 220.0])


def write(dataset, folder, class_id, sizes, make, train_views, seed, name, workers=None):
    for split, count in sizes.items():
        made = [make(split, i) for i in range(count)]
        images = [as_bytes(draw_rgba(dataset, dataset.place(v), f, c, AZIMUTHS, 64)) for v, f, c in made]
        with disk.written_whole(os.path.join(folder, f"{class_id}.{split}.npz"), "wb") as out:
            np.savez(out, images=np.stack(images), voxels=np.stack([voxel_grid(dataset, v, f) for v, f, _ in made]))


class Triples(Dataset):
    """`<class>.<split>.npz` with images (N, 3, 4, 64, 64) uint8 and voxels (N, 32, 32, 32) bool.

    Cameras are azimuths in degrees of a viewer who walks around right-handed objects; pose bins are the three views.
    """

    name = "Triples"
    mirrors = False
    num_poses = count_of_views = 3
    published = dict(img_size=64, n_iters=4, lambda_Gprior=1.0, lambda_adv=1.0, decay_batch=100)
    reads = ("brightness",)
    options = {"brightness": dict(type=integer(1), default=100, help="of the images, in percent")}
    grid_rule = "coordinates * 31/32 + 0.5"
    files = contents = "<class>.<split>.npz"
    source = "tests"
    writer = classmethod(write)

    @classmethod
    def project(cls, vertices, cameras):
        angle = torch.deg2rad(cameras.to(vertices.dtype))
        c, s, zero, one = torch.cos(angle), torch.sin(angle), torch.zeros_like(angle), torch.ones_like(angle)
        right, up = torch.stack([c, zero, -s], 1), torch.stack([zero, one, zero], 1)
        forward = torch.stack([-s, zero, -c], 1)
        return vertices @ torch.stack([right, up, forward], 2) + vertices.new_tensor([0, 0, 2])

    @classmethod
    def turntable(cls, count):
        return torch.arange(count) * (360 / count)

    @classmethod
    def turned(cls, cameras, turns):
        return cameras + 360 * turns

    @staticmethod
    def grid_axes(grid):
        return grid

    @staticmethod
    def mesh_axes(grid):
        return grid

    @classmethod
    def available(cls, data_dir, options=None):
        return sorted({os.path.basename(f).split(".")[0] for f in glob.glob(os.path.join(data_dir, "*.train.npz"))})

    def __init__(self, data_dir, class_ids, split, cache_dir, trainViews=None, seed=0, only_voxels=False, say=print,
                 brightness=100):
        check_folder(data_dir, self.files)
        self.class_ids, self.split, self.img_size, self.brightness = list(class_ids), split, 64, brightness
        found = []
        for class_id in self.class_ids:
            path = os.path.join(data_dir, f"{class_id}.{split}.npz")
            if not os.path.exists(path):
                raise InputError(f"there is no {path}")
            with np.load(path) as file:
                found.append((file["images"], file["voxels"]))
        self._images, self._voxels = zip(*found)
        self._count_objects([len(v) for v in self._voxels])
        self.rows = np.concatenate([table(class_number=np.full(3 * len(v), c), object=np.repeat(np.arange(len(v)), 3),
                                          view=np.tile(np.arange(3), len(v))) for c, v in enumerate(self._voxels)])

    def read(self, indices, step=None, part=slice(None)):
        indices = np.asarray(indices)[part]
        images = np.stack([self._images[r["class_number"]][r["object"], r["view"]] for r in self.rows[indices]])
        images[:, :3] = images[:, :3] * (self.brightness / 100)
        poses = self.all_poses()[indices]
        return Batch(torch.from_numpy(images), None, AZIMUTHS[poses], poses, self.all_objects()[indices])

    def all_poses(self):
        return torch.from_numpy(self.rows["view"].copy())


if __name__ == "__main__":
    DATASETS["Triples"] = Triples  # the one line that adds a dataset
    spec = importlib.util.spec_from_file_location("gan", ROOT / "3D-GAN.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    codes = []
    for arguments in json.loads(sys.argv[1]):
        try:
            codes.append(script.main(arguments))
        except SystemExit as end:
            codes.append(end.code)
    print("codes", *codes)
