"""What the faces of a mesh look like: colours of their corners, and pictures laid over them.

Colours are as screens show them (sRGB), in [0, 1].
"""
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from neural_renderer import textures

GREY = 0.7  # of what has no colour of its own


@dataclass(eq=False)
class Picture:
    """A picture laid over faces; texture coordinates are those of `neural_renderer.textures.sample`."""
    pixels: np.ndarray                   # uint8 (H, W, 3), or (H, W, 4) where alpha is that of a cut-out; row 0 on top
    wrapping: tuple = ("REPEAT",) * 2    # along u and v
    bilinear: bool = True
    base: float = 0.0                    # values become base + gain * value
    gain: float = 1.0
    cutoff: float | None = None          # where its alpha is below this there is no surface; None: all of it is
    _reduced: dict = field(default_factory=dict)

    def reduced(self, level):
        """The pixels averaged over squares of 2^level; Pillow weighs their colours by alpha."""
        if level <= 0:
            return self.pixels
        if level not in self._reduced:
            size = tuple(max(round(side / 2 ** level), 1) for side in self.pixels.shape[1::-1])
            self._reduced[level] = np.asarray(Image.fromarray(self.pixels).resize(size, Image.Resampling.BOX))
        return self._reduced[level]

    def at(self, uv, level=0):
        """Colours (N, 3) and alpha (N,) at uv (N, 2)."""
        values = textures.sample(self.reduced(level), uv, self.wrapping, self.bilinear or level > 0)
        colours = values[:, :3]
        if (self.base, self.gain) != (0, 1):
            colours = np.clip(self.base + self.gain * colours, 0, 1)
        return colours, values[:, 3] if values.shape[1] == 4 else np.ones(len(values))


@dataclass
class Look:
    """Of F faces. What a face shows is the colour, interpolated between its corners, times its picture."""
    colours: np.ndarray                            # (F, 3, 3) float32, of the corners
    picture: np.ndarray                            # (F,) int64 into pictures, -1 for none
    uv: np.ndarray                                 # (F, 3, 2) float64, of the corners
    pictures: list = field(default_factory=list)

    def __len__(self):
        return len(self.colours)

    @classmethod
    def plain(cls, colours):
        """Of colours of faces (F, 3) or of corners (F, 3, 3)."""
        colours = np.asarray(colours, np.float32)
        colours = np.repeat(colours[:, None], 3, 1) if colours.ndim == 2 else colours
        return cls(colours, np.full(len(colours), -1), np.zeros((len(colours), 3, 2)))

    def some(self, faces):
        """Of the faces of an index."""
        return Look(self.colours[faces], self.picture[faces], self.uv[faces], self.pictures)

    def pieces(self, owner, weights):
        """Of pieces of faces: owner (P,) the face of each, weights (P, 3, 3) of its corners in that face."""
        return Look((weights @ self.colours[owner]).astype(np.float32), self.picture[owner], weights @ self.uv[owner],
                    self.pictures)

    def joined(self, other):
        """This one's faces, then another's."""
        picture = np.where(other.picture < 0, -1, other.picture + len(self.pictures))
        return Look(np.concatenate([self.colours, other.colours]), np.concatenate([self.picture, picture]),
                    np.concatenate([self.uv, other.uv]), self.pictures + other.pictures)
