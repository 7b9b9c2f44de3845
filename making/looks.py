"""The appearance of meshes: colours of the corners of their faces, and pictures on the faces.

Colours are sRGB values in [0, 1].
"""
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from neural_renderer import textures

GREY = 0.7  # the colour of faces that have none


@dataclass(eq=False)
class Picture:
    """A picture on faces. Texture coordinates are those of `neural_renderer.textures.sample`."""
    pixels: np.ndarray                   # uint8 (H, W, 3), or (H, W, 4) if alpha cuts parts out; row 0 at the top
    wrapping: tuple = ("REPEAT",) * 2    # along u and v
    bilinear: bool = True
    base: float = 0.0                    # the values become base + gain * value
    gain: float = 1.0
    cutoff: float | None = None          # there is no surface where alpha is below this; None: alpha is ignored
    _reduced: dict = field(default_factory=dict)

    def reduced(self, level):
        """The pixels, averaged over squares of side 2^level. Pillow weights their colours by alpha."""
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
    """The appearance of F faces: the colours of the corners, interpolated, times the picture."""
    colours: np.ndarray                            # (F, 3, 3) float32, of the corners
    picture: np.ndarray                            # (F,) int64 into pictures, -1 for none
    uv: np.ndarray                                 # (F, 3, 2) float64, of the corners
    pictures: list = field(default_factory=list)

    def __len__(self):
        return len(self.colours)

    def has_cut_outs(self):
        """Whether the alpha of some picture may remove parts of faces."""
        return any(picture.cutoff is not None for picture in self.pictures)

    @classmethod
    def plain(cls, colours):
        """The look of faces with colours (F, 3), or (F, 3, 3) of their corners."""
        colours = np.asarray(colours, np.float32)
        colours = np.repeat(colours[:, None], 3, 1) if colours.ndim == 2 else colours
        return cls(colours, np.full(len(colours), -1), np.zeros((len(colours), 3, 2)))

    def some(self, faces):
        """The look of the faces that an index selects."""
        return Look(self.colours[faces], self.picture[faces], self.uv[faces], self.pictures)

    def pieces(self, owner, weights):
        """The look of P pieces of faces: owner (P,) is the face of each piece, weights (P, 3, 3) are the barycentric
        weights of its corners in that face."""
        return Look((weights @ self.colours[owner]).astype(np.float32), self.picture[owner], weights @ self.uv[owner],
                    self.pictures)

    def joined(self, other):
        """The look of these faces followed by those of another look."""
        picture = np.where(other.picture < 0, -1, other.picture + len(self.pictures))
        return Look(np.concatenate([self.colours, other.colours]), np.concatenate([self.picture, picture]),
                    np.concatenate([self.uv, other.uv]), self.pictures + other.pictures)
