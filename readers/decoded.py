"""Classes with separate files for each object. They are decoded once, on all cores, into the cache."""
import abc
import concurrent.futures
import os
import warnings

import numpy as np
from PIL import Image

from engine.monitor import Progress
from errors import InputError

from .base import read_text
from .cache import build, fingerprint
from .conventions import VOXEL_GRID


class DecodedClass(abc.ABC):
    """The objects of one class and split.

    Attributes
    ----------
    layout : name of the dataset.
    class_id, objects : the class and the names of its objects.
    views, side : number of pictures of each object (0: none), and the side in pixels to which they are resized.
    source : the folder of the class; several folders may share a cache.
    settings : list of plain values on which the result depends, too.
    """

    layout = source = None
    settings = ()

    def __init__(self, class_id, objects, views, side):
        self.class_id, self.objects, self.views, self.side = class_id, objects, views, side

    @abc.abstractmethod
    def files(self, name):
        """The paths of the files of an object that this class reads."""

    @abc.abstractmethod
    def decoded(self, name):
        """dict of one object: images (v, 4, S, S) uint8, cameras (v, 3), voxels (32, 32, 32) bool, tilt (the largest
        in-plane angle in degrees), and the dataset's own numbers. Raises InputError if a file is broken."""

    def open(self, cache_dir, split, skip_bad, say):
        """dict of images (N, v, 4, S, S) uint8 and voxels (N, 32, 32, 32) bool, mapped into memory; cameras (N, v, 3);
        the dataset's own numbers (N,); `kept`, the numbers of intact objects; and `problems`, a message for each
        other object."""
        paths = [path for name in self.objects for path in self.files(name)]
        known = [self.objects, self.views, self.side, *self.settings]
        stem = "_".join(map(str, (self.layout, self.class_id, split, f"{self.views}x{self.side}", *self.settings[:1])))
        found = build(cache_dir, stem, self.source, fingerprint(known, paths),
                      lambda make: self._decode(make, say, skip_bad))
        if len(found["problems"]) and not skip_bad:
            raise InputError(str(found["problems"][0]))
        return {**found, "problems": list(map(str, found["problems"]))}

    def _decode(self, make, say, skip_bad):
        count = len(self.objects)
        images = make("images", (count, self.views, 4, self.side, self.side), np.uint8)
        voxels = make("voxels", (count,) + (VOXEL_GRID,) * 3, bool)
        cameras, kept, problems, own, tilt = np.zeros((count, self.views, 3)), [], [], {}, 0.0
        progress = Progress(f"decoding {self.layout} {self.class_id}, this time only", count, " objects")
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for k, found in enumerate(pool.map(self._one, self.objects)):
                if isinstance(found, InputError):
                    if not skip_bad:
                        pool.shutdown(cancel_futures=True)
                        raise found
                    problems.append(f"{self.class_id}/{self.objects[k]}: {found}")
                else:
                    images[k], cameras[k], voxels[k] = (found.pop(name) for name in ("images", "cameras", "voxels"))
                    tilt = max(tilt, found.pop("tilt"))
                    for name, value in found.items():
                        own.setdefault(name, np.zeros(count))[k] = value
                    kept.append(k)
                progress.update(k + 1)
        if tilt > 0.5:
            say(f"note: in-plane angles of {self.class_id} up to {tilt:.1f} degrees are not used by this camera")
        return {"cameras": cameras, **own, "kept": np.array(kept, np.int64), "problems": np.array(problems, dtype=str)}

    def _one(self, name):
        try:
            return self.decoded(name)
        except InputError as error:
            return error


def largest_tilt(degrees):
    """The largest absolute value of angles (n,) in degrees, modulo whole turns."""
    return float(np.abs((degrees + 180) % 360 - 180).max(initial=0))


def read_png(path):
    """Load a PNG; raises InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG",))
            image.load()
        return image
    except FileNotFoundError:
        raise InputError(f"there is no {path}") from None
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} is not a PNG that can be read: {error}") from None


def read_numbers(path):
    """Read rows of numbers, separated by blanks or commas, as a list of lists; skips empty lines and comments (#)."""
    try:
        lines = (line.partition("#")[0].replace(",", " ").split() for line in read_text(path).splitlines())
        return [[float(word) for word in words] for words in lines if words]
    except FileNotFoundError:
        raise InputError(f"there is no {path}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} must hold numbers, one row per view: {error}") from None
