"""What stands around the objects of a dataset's pictures: the light on them and what is behind them."""
import zlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from errors import InputError
from neural_renderer.textures import FORMATS

MAX_PIXELS = 64_000_000
KEPT = 64  # pictures that stay in memory, reduced

# Rows of a light: x, y, z of the direction towards it, not normalised, then its intensities: ambient, directional. A
# surface of unit normal n shows its colour times ambient + directional * max(n . direction, 0).
FIXED = (0.35, 0.85, -0.4, 0.5, 0.5)  # in the renderer's frame: above, a little right and in front
IN_PICTURE = (0.35, 0.85, 0.4, 0.5, 0.5)  # the same one in the viewer's frame: x right, y up, z towards who looks


def described(light, frame):
    """A light, (5,) or the word of an option, for a dataset's description."""
    if isinstance(light, str):
        return light
    return {"ambient": light[3], "directional": light[4], "direction": list(light[:3]), "frame": frame}


@dataclass
class Scenery:
    """Light and backgrounds of the objects of a class. What a view gets follows from the seed, the class, the split,
    the number of the object and that of the view alone.

    light : 'fixed' (`FIXED`), or 'random': directions spread evenly over those that come from above, at least 12
        degrees over the horizon; the light at full incidence is 0.7 to 1.1, of which 0.3 to 0.7 are ambient.
    grounds : paths of pictures, or () for none. A square of half to all of one's shorter side is behind an object,
        half the time mirrored.
    stamp : of the pictures' sizes and times
    """
    class_id: str
    seed: int
    light: str = "fixed"
    grounds: tuple = ()
    stamp: str = ""

    def _rng(self, what, split, i, view):
        return np.random.default_rng([self.seed, zlib.crc32(self.class_id.encode()), split, i, int(view), what])

    def lights(self, split, i, views):
        """(v, 5) float32 rows like FIXED for some views of object i of a split's number; None where light is fixed."""
        if self.light == "fixed":
            return None
        rows = []
        for view in views:
            rng = self._rng(0, split, i, view)
            y, turn = rng.uniform(0.2, 1), rng.uniform(0, 2 * np.pi)
            full, ambient, across = rng.uniform(0.7, 1.1), rng.uniform(0.3, 0.7), np.sqrt(1 - y * y)
            rows.append([across * np.cos(turn), y, across * np.sin(turn), full * ambient, full * (1 - ambient)])
        return np.array(rows, np.float32)

    def put_behind(self, pictures, split, i, views):
        """Pictures (v, 4, H, W) in [0, 1], colours times alpha, with what is behind the object; alpha stays."""
        if not self.grounds:
            return pictures
        grounds = torch.stack([torch.from_numpy(self.ground(split, i, view, pictures.shape[-2:])) for view in views])
        return torch.cat([pictures[:, :3] + (1 - pictures[:, 3:]) * grounds, pictures[:, 3:]], 1).clamp(0, 1)

    def ground(self, split, i, view, size):
        """(3, H, W) float32 of what is behind a view of that size."""
        rng = self._rng(1, split, i, view)
        path, share = self.grounds[int(rng.integers(len(self.grounds)))], rng.uniform(0.5, 1)
        across, down, mirrored = rng.uniform(), rng.uniform(), rng.uniform() < 0.5
        image = _reduced(path, 2 * max(size))
        scale = share * min(image.width / size[1], image.height / size[0])
        width, height = scale * size[1], scale * size[0]
        left, top = across * (image.width - width), down * (image.height - height)
        image = image.resize(size[::-1], Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        image = ImageOps.mirror(image) if mirrored else image
        return (np.asarray(image, np.float32) / 255).transpose(2, 0, 1)


_kept = OrderedDict()


def _reduced(path, side):
    """A picture as RGB, its shorter side not much above the given one where the file is larger."""
    if (path, side) not in _kept:
        _kept[path, side] = read_ground(path, side)
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end((path, side))
    return _kept[path, side]


def read_ground(path, side=64):
    """See `_reduced`. Raises InputError, naming the file."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(f"--background: {path} has {image.width}x{image.height} pixels; at most "
                                 f"{MAX_PIXELS // 1_000_000} million are read")
            image.draft("RGB", (side, side))  # JPEG files are decoded small
            factor = max(min(image.size) // side, 1)
            return image.convert("RGB").reduce(factor)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"--background: {path} is not a picture that can be read: {error}") from None


def problem(path):
    """Why a picture cannot be behind an object, or None."""
    try:
        read_ground(path)
    except InputError as error:
        return str(error)
    return None
