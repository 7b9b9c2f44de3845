"""Reads the files of NIPS17 and decodes them into the cache."""
import functools
import os

import numpy as np
from PIL import Image

from engine import strict_json
from errors import InputError

from .base import VOXEL_GRID, check_folder, read_text
from .decoded import DecodedClass, largest_tilt, read_numbers, read_png

FILES = ("renders/<class>/<object>/{render_<i>.png,depth_<i>.png,view.txt}, "
         "voxels/modelVoxels32/<class>/<object>.mat and splits.json")


class ClassReader(DecodedClass):
    """The objects of one class and split."""

    layout = "NIPS17"

    def __init__(self, data_dir, class_id, objects, views, side, mask_from):
        super().__init__(class_id, objects, views, side)
        self.mask_from = mask_from
        self.settings = [mask_from, "resized by a Gaussian"]
        self.source = os.path.join(data_dir, "renders", class_id)
        self.volumes = os.path.join(data_dir, "voxels", "modelVoxels32", class_id)

    def files(self, name):
        """The files of one object that this reader needs."""
        folder = os.path.join(self.source, name)
        images = [os.path.join(folder, f"render_{i}.png") for i in range(self.views)]
        depths = [os.path.join(folder, f"depth_{i}.png") for i in range(self.views)] \
            if self.mask_from == "depth" else []
        view = [os.path.join(folder, "view.txt")] if self.views else []
        return images + depths + view + [os.path.join(self.volumes, name + ".mat")]

    def decoded(self, name):
        folder = os.path.join(self.source, name)
        rows = read_views(os.path.join(folder, "view.txt"), self.views) if self.views else np.zeros((0, 4))
        images = np.empty((self.views, 4, self.side, self.side), np.uint8)
        for i in range(self.views):
            images[i] = self._image(folder, i)
        return {"images": images, "cameras": rows[:, [0, 1, 3]], "tilt": largest_tilt(rows[:, 2]),
                "voxels": read_volume(os.path.join(self.volumes, name + ".mat"))}

    def _image(self, folder, i):
        path = os.path.join(folder, f"render_{i}.png")
        image = read_png(path)
        if image.mode not in ("RGB", "RGBA"):
            raise InputError(f"{path} must be RGB or RGBA, got mode {image.mode}")
        if self.mask_from == "alpha":
            if image.mode != "RGBA":
                raise InputError(f"{path} has no alpha channel for --mask_from=alpha")
            mask = image.getchannel("A")
        else:
            beside = os.path.join(folder, f"depth_{i}.png")
            mask = _depth_mask(beside)
            if mask.size != image.size:
                raise InputError(f"{beside} is {mask.size[0]}x{mask.size[1]}, render_{i}.png "
                                 f"{image.size[0]}x{image.size[1]}")
        channels = np.concatenate([np.asarray(image)[..., :3].transpose(2, 0, 1), np.asarray(mask)[None]])
        return resized(channels, self.side).round().astype(np.uint8)


def resized(images, side):
    """Resize images (..., H, W) to (..., side, side) float64 like scikit-image's `resize` in the published program
    (defaults of version 0.15 and later): if the image shrinks, a Gaussian of (scale - 1) / 2 pixels; then linear
    interpolation between pixel centres. Values outside of the image are mirrored."""
    rows, columns = (_resizing(n, side) for n in images.shape[-2:])
    return rows @ images.astype(np.float64) @ columns.T


@functools.cache
def _resizing(before, after):
    """The matrix (after, before) of both steps: they are linear, and the same for every row and column."""
    import scipy.ndimage
    smooth = np.eye(before)
    if after < before:
        smooth = scipy.ndimage.gaussian_filter1d(smooth, (before / after - 1) / 2, axis=0, mode="mirror")
    return scipy.ndimage.zoom(smooth, (after / before, 1), order=1, mode="mirror", grid_mode=True)


def _depth_mask(path):
    """255 where the high byte of a depth image is below 250."""
    image = read_png(path)
    values = np.asarray(image)
    if image.mode.startswith("I"):
        high = values >> 8
    elif image.mode in ("L", "LA", "RGB", "RGBA"):
        high = values if values.ndim == 2 else values[..., 0]
    else:
        raise InputError(f"{path} must be a 16-bit or 8-bit depth image, got mode {image.mode}")
    return Image.fromarray(np.where(high < 250, 255, 0).astype(np.uint8))


def read_views(path, wanted):
    """Read the first rows (wanted, 4) of a view.txt: azimuth, elevation, in-plane angle, distance."""
    rows = read_numbers(path)
    if len(rows) < wanted:
        raise InputError(f"{path} has {len(rows)} views, but {wanted} are needed")
    for i, row in enumerate(rows[:wanted]):
        if len(row) < 4:
            raise InputError(f"{path} has {len(row)} numbers in row {i}; expected azimuth, elevation, in-plane "
                             "angle, distance")
        azimuth, elevation, _, distance = row[:4]
        if not (np.isfinite(row[:4]).all() and -180 <= azimuth <= 180 and -20 <= elevation <= 40 and distance > 0):
            raise InputError(f"{path}, row {i}: azimuth {azimuth:g}, elevation {elevation:g}, distance "
                             f"{distance:g}; expected -180 to 180, -20 to 40 and above 0")
    return np.array([row[:4] for row in rows[:wanted]])


def read_volume(path):
    """Read `Volume`, (32, 32, 32) bool, of a .mat file; reads only numbers."""
    import scipy.io
    try:
        volume = scipy.io.loadmat(path, variable_names=["Volume"])["Volume"]
    except FileNotFoundError:
        raise InputError(f"there is no {path}") from None
    except KeyError:
        raise InputError(f"{path} has no `Volume`") from None
    except Exception as error:  # scipy's parser raises many kinds of errors
        raise InputError(f"{path} is not a .mat file that can be read: {type(error).__name__}: {error}") from None
    if not isinstance(volume, np.ndarray) or volume.dtype.kind not in "buif" or volume.shape != (VOXEL_GRID,) * 3:
        raise InputError(f"{path}: `Volume` must be numbers of shape {(VOXEL_GRID,) * 3}, got "
                         f"{getattr(volume, 'dtype', type(volume).__name__)} {getattr(volume, 'shape', '')}")
    if not np.isin(volume, (0, 1)).all():
        raise InputError(f"{path}: `Volume` must be 0 and 1")
    return volume.astype(bool)


def read_splits(data_dir, split_file=None):
    """Read splits.json or --split_file: ({class: {split: [objects]}}, its path)."""
    check_folder(data_dir, FILES)
    path = split_file or os.path.join(data_dir, "splits.json")
    try:
        splits = strict_json.loads(read_text(path))
    except FileNotFoundError:
        raise InputError(f"there is no {path}; expected {{class: {{train, val, test: [objects]}}}} there or in "
                         "--split_file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if isinstance(splits, list) and splits and all(isinstance(s, dict) and isinstance(s.get("taxonomy_id"), str)
                                                   for s in splits):
        splits = {s["taxonomy_id"]: s for s in splits}  # the form for the files of 3D-R2N2
    if not isinstance(splits, dict) or not all(isinstance(s, dict) for s in splits.values()):
        raise InputError(f"{path} must hold {{class: {{train, val, test: [objects]}}}}")
    return splits, path


def objects_of_split(data_dir, class_ids, split, split_file=None, say=None):
    """{class: [objects]} of splits.json. say : told about objects that are in the training split, too."""
    splits, path = read_splits(data_dir, split_file)
    result = {}
    for class_id in class_ids:
        if class_id not in splits:
            raise InputError(f"{path} has no class {class_id}; classes there: "
                             f"{', '.join(sorted(splits)) or 'none'}")
        objects = splits[class_id].get(split)
        if not isinstance(objects, list) or not objects or not all(isinstance(o, str) and o for o in objects):
            raise InputError(f"{path} lists no objects of class {class_id} in {split}; expected a list of their "
                             "names")
        for name in objects:
            if name in (".", "..") or set(name) & set("/\\\0"):
                raise InputError(f"{path} lists {name!r} in {class_id} {split}, which is not the name of a folder")
        if len(set(objects)) != len(objects):
            twice = next(o for o in objects if objects.count(o) > 1)
            raise InputError(f"{path} lists {twice} of {class_id} {split} twice")
        training = splits[class_id].get("train")
        if say and split != "train" and isinstance(training, list):
            if known := sorted(set(objects) & {o for o in training if isinstance(o, str)}):
                say(f"note: {path} lists {len(known)} of {len(objects)} objects of {class_id} {split} in train, too "
                    f"({known[0]}{', ...' if len(known) > 1 else ''}): figures of {split} include them")
        result[class_id] = objects
    return result
