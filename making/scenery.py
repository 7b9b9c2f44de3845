"""The surroundings of the objects in a dataset's pictures: light and backgrounds."""
import zlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps

from errors import InputError
from neural_renderer.textures import FORMATS

MAX_PIXELS = 64_000_000
KEPT = 64  # reduced pictures in memory

# A light is a row of x, y, z of the direction to it, not normalised, and of its ambient and directional intensity. A
# surface with unit normal n shows its colour times ambient + directional * max(n . direction, 0).
FIXED = (0.35, 0.85, -0.4, 0.5, 0.5)  # in the renderer's frame: above, slightly right and in front
IN_PICTURE = (0.35, 0.85, 0.4, 0.5, 0.5)  # the same in the viewer's frame: x right, y up, z to the viewer


def described(light, frame):
    """The entry `light` of dataset.json, from a row or from the value of --light."""
    if isinstance(light, str):
        return light
    return {"ambient": light[3], "directional": light[4], "direction": list(light[:3]), "frame": frame}


@dataclass
class Scenery:
    """Light and backgrounds of a class. Those of a view depend only on the seed, the class, the split, the number of
    the object and the number of the view.

    light : 'fixed' (`FIXED`) or 'random': uniform over the directions that are at least 11.5 degrees above the horizon;
        ambient + directional is 0.7 to 1.1, and the share of ambient 0.3 to 0.7.
    grounds : paths of pictures, or (). The background of a view is a random part of a random picture, as large as half
        to all of what fits, mirrored with probability 1/2.
    stamp : hash of the pictures' sizes and times
    """
    class_id: str
    seed: int
    light: str = "fixed"
    grounds: tuple = ()
    stamp: str = ""

    def _rng(self, what, split, i, view):
        return np.random.default_rng([self.seed, zlib.crc32(self.class_id.encode()), split, i, int(view), what])

    def lights(self, split, i, views):
        """Rows like FIXED (v, 5), float32, for some views of object i; `split` is its number. None for fixed light."""
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
        """Add the backgrounds to pictures (v, 4, H, W) in [0, 1], colours multiplied by alpha. Alpha is unchanged."""
        if not self.grounds:
            return pictures
        grounds = torch.stack([torch.from_numpy(self.ground(split, i, view, pictures.shape[-2:])) for view in views])
        return torch.cat([pictures[:, :3] + (1 - pictures[:, 3:]) * grounds, pictures[:, 3:]], 1).clamp(0, 1)

    def ground(self, split, i, view, size):
        """The background of a view of size (H, W): (3, H, W) float32 in [0, 1]."""
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
    """A picture as RGB. If it is large, it is reduced such that its shorter side is one to two times `side`."""
    if (path, side) not in _kept:
        _kept[path, side] = read_ground(path, side)
        if len(_kept) > KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end((path, side))
    return _kept[path, side]


def read_ground(path, side=64):
    """Read a picture like `_reduced`. Raises InputError, naming the file."""
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
    """Why a picture cannot be a background, or None."""
    try:
        read_ground(path)
    except InputError as error:
        return str(error)
    return None
