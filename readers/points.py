"""Read `<class>_<split>_points.npz`, the points on the surfaces of the objects of a split. `make_dataset` writes it.

The file has one array `arr_0`, float16 (N, 10000, 6), one row per object: x, y, z in the renderer's frame of the
dataset, as predicted vertices have them, and the unit normal. Points are uniform by area and in random order.
"""
import os

import numpy as np

from errors import InputError
from metrics.surfaces import PER_OBJECT

from .base import Rows
from .cache import open_npz
from .nips17_files import objects_of_split


def open_points(place, stem, count):
    """Open `<stem>_points.npz`: (count, 10000, 6) float16, memory-mapped; None if there is no such file.

    place : (data_dir, cache_dir, say). Raises InputError for another shape or type, points that are not finite or all
    equal, and normals whose length is not 1.
    """
    data_dir, cache_dir, say = place
    path = os.path.join(data_dir, f"{stem}_points.npz")
    if not os.path.exists(path):
        return None
    samples = open_npz(path, cache_dir, say)
    if samples.dtype != np.float16 or samples.shape != (count, PER_OBJECT, 6):
        raise InputError(f"{path} must be float16 of shape {(count, PER_OBJECT, 6)}, points and normals of each "
                         f"object, got {samples.dtype} {samples.shape}")
    for k, sample in enumerate(samples):
        numbers = sample.astype(np.float32)
        if not (np.isfinite(numbers).all() and np.ptp(numbers[:, :3], axis=0).any()
                and (np.abs((numbers[:, 3:] ** 2).sum(1) - 1) < 0.02).all()):
            raise InputError(f"{path}: object {k} must have finite points, which are not all equal, and normals of "
                             "length 1")
    return samples


def points_of_names(place, class_id, split, names):
    """`open_points` for the objects with these names; the rows of the file are in the order of splits.json. None if it
    does not have all of them."""
    path = os.path.join(place[0], "splits.json")
    if not os.path.exists(os.path.join(place[0], f"{class_id}_{split}_points.npz")) or not os.path.exists(path):
        return None
    listed = objects_of_split(place[0], [class_id], split, path)[class_id]
    rows = {name: k for k, name in enumerate(listed)}
    other = next((name for name in names if name not in rows), None)
    if other is not None:
        place[2](f"note: the points of {class_id} are not used: {path} does not list {other} in {split}")
        return None
    return Rows([(open_points(place, f"{class_id}_{split}", len(listed)), np.array([rows[name] for name in names]))])
