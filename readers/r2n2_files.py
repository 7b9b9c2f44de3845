"""Read the files of 3D-R2N2: pictures, cameras and voxel grids of objects, splits, and the two archives."""
import glob
import gzip
import hashlib
import os
import re
import shutil
import tarfile
import zlib

import numpy as np
import torch

from engine.monitor import Progress
from errors import InputError

from .base import VOXEL_GRID, check_folder
from .decoded import DecodedClass, largest_tilt, read_numbers, read_png
from .nips17_files import objects_of_split
from .voxel_files import read_voxels

RENDERING, VOX = "ShapeNetRendering", "ShapeNetVox32"
FILES = (f"{RENDERING}/<class>/<object>/rendering/{{00.png ... 23.png, rendering_metadata.txt}} and "
         f"{VOX}/<class>/<object>/model.binvox, or the archives {RENDERING}.tgz and {VOX}.tgz")
SPLITS_FILE = "splits.json"
PICTURE = 137  # side of the pictures in pixels
DISTANCE = 1.75  # distance of a camera with ratio 1, in object units: the diagonal of an object's box is 1
SPLITS = ("train", "val", "test")
LARGEST = 1 << 26  # most bytes of a file in an archive; pictures have 50 kB


class ClassReader(DecodedClass):
    """The objects of one class and split. In addition to the arrays of `DecodedClass`: scale (N,), the longest side of
    each object's box in object units, which is also the side of its grid."""

    layout = "R2N2"

    def __init__(self, folders, class_id, objects, views, side):
        super().__init__(class_id, objects, views, side)
        self.source, self.volumes = (os.path.join(folders[name], class_id) for name in (RENDERING, VOX))

    def files(self, name):
        folder = os.path.join(self.source, name, "rendering")
        pictures = [os.path.join(folder, f"{i:02d}.png") for i in range(self.views)]
        rows = [os.path.join(folder, "rendering_metadata.txt")] if self.views else []
        return pictures + rows + [os.path.join(self.volumes, name, "model.binvox")]

    def decoded(self, name):
        *pictures, path = self.files(name)
        rows = read_cameras(pictures.pop(), self.views) if self.views else np.zeros((0, 4))
        images = np.empty((self.views, 4, self.side, self.side), np.uint8)
        for i, picture in enumerate(pictures):
            images[i] = read_picture(picture, self.side)
        if not os.path.exists(path):
            raise InputError(f"there is no {path}")
        found = read_voxels(path)
        if found.grid.shape != (VOXEL_GRID,) * 3:
            raise InputError(f"{path} has dim {' '.join(map(str, found.grid.shape))}; expected 32 32 32")
        return {"images": images, "cameras": rows[:, :3], "tilt": largest_tilt(rows[:, 3]), "voxels": found.grid,
                "scale": found.scale}


def read_picture(path, side):
    """Read an RGBA picture as (4, side, side) uint8 on black: colours times alpha, resized with anti-aliasing, as in
    `images.load_image`."""
    image = read_png(path)
    if image.mode != "RGBA" or image.size != (PICTURE, PICTURE):
        raise InputError(f"{path} must be RGBA of {PICTURE}x{PICTURE} pixels, got {image.mode} of "
                         f"{image.size[0]}x{image.size[1]}")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    pixels[:, :3] *= pixels[:, 3:]
    pixels = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)
    return (pixels[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def read_cameras(path, wanted):
    """Read the first rows (wanted, 4) of a rendering_metadata.txt as azimuth, elevation, distance in object units, and
    in-plane angle. The fifth column of the file, 25 in every row, is not the field of view."""
    rows = read_numbers(path)
    if len(rows) < wanted:
        raise InputError(f"{path} has {len(rows)} views, but {wanted} are needed")
    for i, row in enumerate(rows[:wanted]):
        if len(row) != 5:
            raise InputError(f"{path} has {len(row)} numbers in row {i}; expected azimuth, elevation, in-plane angle, "
                             "distance ratio and 25")
        if not (np.isfinite(row).all() and abs(row[1]) <= 90 and row[3] * DISTANCE > 0.5):
            raise InputError(f"{path}, row {i}: azimuth {row[0]:g}, elevation {row[1]:g}, distance ratio {row[3]:g}; "
                             "expected finite numbers, an elevation of -90 to 90 and a camera outside of the object, "
                             f"from {0.5 / DISTANCE:.3f} on")
    rows = np.array([row[:4] for row in rows[:wanted]])
    return np.stack([rows[:, 0], rows[:, 1], rows[:, 3] * DISTANCE, rows[:, 2]], 1)


# ---- splits ---------------------------------------------------------------------------------------

def classes_of(folders):
    """The ids of classes with renderings, sorted."""
    return sorted(name for name in os.listdir(folders[RENDERING]) if _objects_of(folders, name))


def _objects_of(folders, class_id):
    folder = os.path.join(folders[RENDERING], class_id)
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name, "rendering")))


def objects_to_read(data_dir, folders, class_id, split, split_file, skip_bad, say):
    """The names of the objects of a class and split, from --split_file or splits.json in the data folder, and with
    skip_bad a sentence for each object that the file names and the folder lacks. Without a file, the objects in the
    order of their names are split 70, 10 and 20 percent into train, val and test, at least one each; if there are only
    one or two objects, the last is in several splits."""
    there = _objects_of(folders, class_id)
    if not there:
        raise InputError(f"{data_dir} has no objects of class {class_id} in {RENDERING}; classes there: "
                         f"{', '.join(classes_of(folders)) or 'none'}")
    beside = os.path.join(data_dir, SPLITS_FILE)
    path = split_file or (beside if os.path.exists(beside) else None)
    if path is None:
        val, test = max(1, len(there) // 10), max(1, len(there) // 5)
        train = len(there) - val - test
        parts = {"train": there[:train], "val": there[train:train + val], "test": there[train + val:]} if train > 0 \
            else {"train": there[:1], "val": there[-1:], "test": there[-1:]}
        say(f"note: no --split_file; of {len(there)} objects of {class_id}, sorted by name, "
            f"{', '.join(f'{len(parts[s])} {s}' for s in SPLITS)}")
        return parts[split], []
    named = objects_of_split(data_dir, [class_id], split, path, say)[class_id]
    missing = sorted(set(named) - set(there))
    if missing:
        told = (f"{path} names {len(missing)} of {len(named)} objects of {class_id} {split} that {data_dir} lacks "
                f"({missing[0]}{', ...' if len(missing) > 1 else ''})")
        if not skip_bad:
            raise InputError(f"{told}; --skip_bad leaves them out")
        say(f"left out: {told}")
        gone = set(missing)
        named = [name for name in named if name not in gone]
        if not named:
            raise InputError(f"{told}: none is left")
    return named, [f"{class_id}/{name}: {data_dir} lacks it, and {path} names it" for name in missing]


# ---- archives -------------------------------------------------------------------------------------

def folders_of(data_dir, cache_dir, say=print):
    """{'ShapeNetRendering': its folder, 'ShapeNetVox32': its folder}, in data_dir, or in cache_dir if data_dir has an
    archive, which is unpacked once."""
    check_folder(data_dir, FILES)
    places = {}
    for name in (RENDERING, VOX):
        if os.path.isdir(os.path.join(data_dir, name)):
            places[name] = os.path.join(data_dir, name)
            continue
        archive = next((path for ending in (".tgz", ".tar.gz")
                        if os.path.isfile(path := os.path.join(data_dir, name + ending))), None)
        if archive is None:
            raise InputError(f"--data_dir={data_dir} has neither {name} nor {name}.tgz; expected {FILES}")
        places[name] = os.path.join(unpacked(archive, name, cache_dir, say), name)
    return places


class _Counted:
    """A file that reports its reading position to a progress line."""

    def __init__(self, file, progress):
        self.file, self.progress = file, progress

    def read(self, size=-1):
        self.progress.update(self.file.tell() >> 20)
        return self.file.read(size)


def unpacked(archive, name, cache_dir, say=print):
    """Unpack an archive once; returns the folder in cache_dir with its files, `name/<class>/<object>/...`. Only plain
    files with such paths are unpacked; a path out of the folder raises InputError."""
    status = os.stat(archive)
    stem = f"{name}.{hashlib.sha256(os.path.abspath(archive).encode()).hexdigest()[:8]}."
    folder = os.path.join(cache_dir, f"{stem}{status.st_size}-{status.st_mtime_ns}")
    if os.path.isdir(folder):
        return folder
    for old in glob.glob(os.path.join(glob.escape(cache_dir), glob.escape(stem) + "*")):
        shutil.rmtree(old, ignore_errors=True)
    wanted = re.compile(re.escape(name) + (r"/[^/]+/[^/]+/rendering/[^/]+\.(png|txt)" if name == RENDERING
                                           else r"/[^/]+/[^/]+/model\.binvox"))
    say(f"unpacking {os.path.basename(archive)} into {cache_dir}, this time only")
    beside, count = f"{folder}.{os.getpid()}.part", 0
    progress = Progress(f"  {os.path.basename(archive)}", (status.st_size >> 20) + 1, " MB")
    try:
        os.makedirs(beside)
        with open(archive, "rb") as file, gzip.GzipFile(fileobj=_Counted(file, progress)) as unzipped, \
                tarfile.open(fileobj=unzipped, mode="r|", bufsize=1 << 20) as members:
            for member in members:
                path = os.path.normpath(member.name)
                if os.path.isabs(member.name) or path.split(os.sep)[0] == ".." or "\0" in member.name:
                    raise InputError(f"{archive} holds {member.name!r}, a path out of its folder")
                if not member.isreg() or not wanted.fullmatch(path):
                    continue
                if member.size > LARGEST:
                    raise InputError(f"{archive}: {path} has {member.size} bytes; at most {LARGEST} are expected")
                target = os.path.join(beside, path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with members.extractfile(member) as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out)
                count += 1
            while unzipped.read(1 << 20):  # read on to the final checksum: tarfile treats a broken header as the end
                pass
        progress.update((status.st_size >> 20) + 1)
        if not count:
            raise InputError(f"{archive} holds no files of the form {FILES}")
        os.replace(beside, folder)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{archive} is damaged or not a .tgz archive: {error}") from None
    except OSError as error:
        raise InputError(f"cannot unpack {archive} into {cache_dir}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder
