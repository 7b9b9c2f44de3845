"""Reads the npz files of Pascal3D and unpacks them into the cache."""
import functools
import os
import zipfile
import zlib

import numpy as np
from PIL import Image

from engine.monitor import Progress
from errors import InputError

from .base import VOXEL_GRID
from .cache import build, fingerprint, npy_header
from .object_arrays import read_objects

SILHOUETTES = {64: 64, 128: 128, 224: 64}  # {side of the images: side of their silhouettes}, in pixels
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)


def open_part(path, cache_dir, only_rest, say, img_size=224):
    """Open a file as a dict of arrays, which are mapped into memory.

    pixels: all images, one after the other, and places (N, 3): offset, height and width of each (only_rest leaves out
    both); masks (N, 2, S, S) uint8, original and mirrored, for images of img_size; boxes (N, 4); rotations (N, 3, 3);
    voxels (N, 32, 32, 32) bool; `kept`, the numbers of intact items, and `problems`, a message for each other item.
    """
    stem = "Pascal3D_" + os.path.basename(path)[:-len(".npz")]
    key = fingerprint([], [path])
    part = build(cache_dir, f"{stem}_rest_{img_size}", path, key,
                 lambda make: _reading(path, functools.partial(_read_rest, img_size), make))
    if not only_rest:
        part.update(build(cache_dir, stem + "_images", path, key, lambda make: _reading(path, _read_images, make)))
        if len(part["places"]) != len(part["boxes"]):
            raise InputError(f"{path} has {len(part['places'])} images and {len(part['boxes'])} bounding_boxes")
    problems = _problems(path, part)
    part["kept"] = np.array([i for i in range(len(part["boxes"])) if i not in problems], np.int64)
    part["problems"] = list(problems.values())
    return part


def whole_rotations(path):
    """The valid rotation matrices of a file, (n, 3, 3)."""
    rotations = _reading(path, lambda path, archive, _: _array(archive, "rotation_matrices", (None, 3, 3)))
    return rotations[[_is_rotation(r) for r in rotations]]


def picture(part, i):
    """(H, W, 3) uint8, mapped."""
    offset, height, width = part["places"][i]
    return part["pixels"][offset:offset + 3 * height * width].reshape(height, width, 3)


def _reading(path, read, make=None):
    try:
        with zipfile.ZipFile(path) as archive:
            return read(path, archive, make)
    except DAMAGED as error:
        reason = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        raise InputError(f"{path} is damaged or not a file of Pascal3D: {reason}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _header(stream):
    shape, fortran, dtype = npy_header(stream)
    if fortran and len(shape) > 1 and not dtype.hasobject:
        raise ValueError("an array is stored in Fortran order; expected C order")
    return shape, dtype


def _rows(archive, name, shape):
    """Yield the number of rows of an array, then each row; None in `shape` allows any size."""
    with archive.open(name + ".npy") as stream:
        found, dtype = _header(stream)
        if dtype.kind not in "buif" or len(found) != len(shape) or any(
                wanted not in (None, n) for n, wanted in zip(found, shape)):
            expected = ", ".join("N" if n is None else str(n) for n in shape)
            raise ValueError(f"{name} must be numbers of shape ({expected}), got {dtype} {found}")
        row = int(np.prod(found[1:], dtype=np.int64)) * dtype.itemsize
        yield found[0]
        for i in range(found[0]):
            data = stream.read(row)
            if len(data) != row:
                raise ValueError(f"{name} is cut short at row {i} of {found[0]}")
            yield np.frombuffer(data, dtype).reshape(found[1:])
        if stream.read(1):
            raise ValueError(f"{name} holds more bytes than its shape {found} says")


def _array(archive, name, shape):
    rows = _rows(archive, name, shape)
    count = next(rows)
    return np.stack(list(rows)).astype(np.float64) if count else np.empty((0,) + shape[1:])


def _read_rest(img_size, path, archive, make):
    boxes = _array(archive, "bounding_boxes", (None, 4))
    rotations = _array(archive, "rotation_matrices", (None, 3, 3))
    count = len(boxes)
    grids = _rows(archive, "voxels", (None,) + (VOXEL_GRID,) * 3)
    crops = _rows(archive, "images_ref", (None, None, None, 4))
    counts = {"rotation_matrices": len(rotations), "voxels": next(grids), "images_ref": next(crops)}
    for name, found in counts.items():
        if found != count:
            raise InputError(f"{path} has {count} bounding_boxes and {found} {name}")
    voxels = make("voxels", (count,) + (VOXEL_GRID,) * 3, bool)
    masks = make("masks", (count, 2) + (SILHOUETTES[img_size],) * 2, np.uint8)
    binary, shown = np.zeros((2, count), bool)
    progress = Progress(f"unpacking {os.path.basename(path)}, this time only", count, " masks")
    for i, (grid, crop) in enumerate(zip(grids, crops, strict=True)):
        if crop.dtype != np.uint8:
            raise InputError(f"{path}: images_ref must be uint8, got {crop.dtype}")
        voxels[i] = grid != 0
        binary[i], shown[i] = np.isin(grid, (0, 1)).all(), crop[..., 3].max(initial=0) >= 128
        # Mirror before resizing, since the nearest neighbour is the upper left pixel of several.
        masks[i] = [_silhouette(mask, img_size) for mask in (crop[..., 3], crop[:, ::-1, 3])]
        progress.update(i + 1)
    return {"boxes": boxes, "rotations": rotations, "binary": binary, "shown": shown}


def _silhouette(mask, img_size):
    """The silhouette, uint8, of a mask (H, W), as published: resized bilinearly with anti-aliasing, like the images;
    for images of 224 px then resized to 64 px by the nearest neighbour."""
    if mask.shape != (img_size, img_size):
        mask = np.asarray(Image.fromarray(mask).resize((img_size, img_size), Image.Resampling.BILINEAR))
    side = SILHOUETTES[img_size]
    nearest = np.arange(side) * img_size // side
    return mask[np.ix_(nearest, nearest)]


def _read_images(path, archive, make):
    # The file is at least as long as its pixels; the rest of the array stays unused.
    pixels = make("pixels", (archive.getinfo("images.npy").file_size,), np.uint8)
    places, end = [], 0
    progress = Progress(f"unpacking {os.path.basename(path)}, this time only", max(1, pixels.size >> 20), " MB")

    def keep(image):
        nonlocal end
        if image.ndim != 3 or image.shape[2] != 3 or not image.size:
            return None
        begin, end = end, end + image.size
        pixels[begin:end] = image.reshape(-1)
        progress.update(end >> 20)
        return begin, *image.shape[:2]

    with archive.open("images.npy") as stream:
        shape, dtype = _header(stream)
        if dtype.hasobject:
            try:
                places = read_objects(stream, keep)
            except ValueError as error:
                raise InputError(f"{path}: the array `images` {error}; expected an object array of uint8 "
                                 "images") from None
            if (len(places),) != shape:
                raise InputError(f"{path}: the array `images` has shape {shape}, but contains {len(places)} images")
        elif dtype == np.uint8 and len(shape) == 4:  # numpy makes this array if all images have the same size
            size = int(np.prod(shape[1:]))
            for _ in range(shape[0]):
                data = stream.read(size)
                if len(data) != size:
                    raise ValueError("images is cut short")
                places.append(keep(np.frombuffer(data, np.uint8).reshape(shape[1:])))
        else:
            raise InputError(f"{path}: the array `images` must hold uint8 images, got {dtype} {shape}")
        if stream.read(1):
            raise ValueError("images holds more than an array")
    return {"places": np.array([place or (-1, 0, 0) for place in places], np.int64).reshape(-1, 3)}


def _is_rotation(matrix, tolerance=1e-3):
    return bool(np.isfinite(matrix).all() and np.abs(matrix @ matrix.T - np.eye(3)).max() < tolerance
                and np.linalg.det(matrix) > 0)


def _problems(path, part):
    """{number: message} of broken items."""
    problems = {}
    for i, (box, rotation) in enumerate(zip(part["boxes"], part["rotations"])):
        height = width = np.inf
        if "places" in part:
            offset, height, width = part["places"][i]
            if offset < 0:
                problems[i] = f"{path}: image {i} must be a uint8 array (H, W, 3)"
                continue
        left, top, w, h = box
        if not (np.isfinite(box).all() and w > 0 and h > 0 and left < width and top < height
                and left + w > 0 and top + h > 0):
            size = "" if height == np.inf else f", {width}x{height} pixels"
            problems[i] = (f"{path}: bounding box {i} (left {left:g}, top {top:g}, width {w:g}, height {h:g}) "
                           f"lies outside its image{size}")
        elif not _is_rotation(rotation):
            problems[i] = f"{path}: rotation matrix {i} is not a rotation: {np.round(rotation, 3).tolist()}"
        elif not part["binary"][i]:
            problems[i] = f"{path}: the voxels of image {i} must be 0 and 1"
        elif not part["shown"][i]:
            problems[i] = (f"{path}: the mask of image {i} (images_ref, channel 3) is empty; expected 255 on the "
                           "object")
    return problems
