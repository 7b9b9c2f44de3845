"""Texture cubes from pictures and pictures from texture cubes, in NumPy. Pillow reads and writes them.

Convention
----------
A face has a cube of T^3 texels; axis k belongs to corner k. Where the barycentric weights are w, the
rasteriser reads the cube at w (T - 1), trilinear. So the plane i + j + k = T - 1 is the face, and texels
off that plane only take part through interpolation. As in the original program, texel (i, j, k) holds the
colour at the weights (i, j, k) / (i + j + k); texel (0, 0, 0), which has none there, the face's centre.
"""
import warnings

import numpy as np

WRAPPINGS = ("REPEAT", "MIRRORED_REPEAT", "CLAMP_TO_EDGE", "CLAMP_TO_BORDER")
# No EPS or WMF: Pillow hands those to other programs.
FORMATS = ("PNG", "JPEG", "BMP", "TGA", "TIFF", "GIF", "WEBP", "PPM")
AT_ONCE = 1 << 20  # samples


def pillow():
    """Pillow's Image module, needed only where pictures are read or written."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("texture images need Pillow: pip install pillow") from None
    return Image


def read_image(path):
    """A picture as uint8 (H, W, 3), row 0 on top; transparency is dropped.

    Raises
    ------
    ValueError for what is no picture, and for more pixels than PIL.Image.MAX_IMAGE_PIXELS.
    """
    Image = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
                    grey = np.clip(np.asarray(image, np.int64) // 256, 0, 255)
                    return np.repeat(grey[..., None], 3, 2).astype(np.uint8)
                return np.asarray(image.convert("RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} has more pixels than PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS}; "
                         "raise that if you trust the file") from None
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders fail in many ways on damaged files
        raise ValueError(f"{path} is not a picture that can be read ({error})") from None


def cube_weights(T):
    """Barycentric weights (T^3, 3) of the texels of a cube, in the order of its memory."""
    index = np.indices((T, T, T)).reshape(3, -1).T.astype(np.float64)
    index[0] = 1
    return index / index.sum(1, keepdims=True)


def _wrapped(index, size, wrapping):
    if wrapping == "REPEAT":
        return index % size
    if wrapping == "MIRRORED_REPEAT":
        return np.where(index // size % 2, size - 1 - index % size, index % size)
    return np.clip(index, 0, size - 1)


def sample(image, uv, wrapping, bilinear):
    """Colours (N, 3) in [0, 1] of a picture uint8 (H, W, 3) at uv (N, 2).

    As OpenGL samples: (0, 0) is the lower left corner of the lower left pixel, (1, 1) the upper right
    corner of the upper right one; pixel centres lie in between. Beyond CLAMP_TO_BORDER's border is black.
    """
    size = np.array(image.shape[1::-1])
    at = np.asarray(uv, np.float64) * size
    if bilinear:
        at = at - 0.5
    cell = np.floor(at)
    fraction = at - cell
    cell = cell.astype(np.int64)
    out = np.zeros((len(cell), 3))
    for right, up in ((0, 0), (1, 0), (0, 1), (1, 1)) if bilinear else ((0, 0),):
        x, y = cell[:, 0] + right, cell[:, 1] + up
        weight = (abs(1 - right - fraction[:, 0]) * abs(1 - up - fraction[:, 1])) if bilinear else 1.0
        if wrapping == "CLAMP_TO_BORDER":
            weight = weight * ((x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1]))
        row = size[1] - 1 - _wrapped(y, size[1], wrapping)
        colour = image[row, _wrapped(x, size[0], wrapping)]
        out += np.broadcast_to(weight, len(cell))[:, None] * colour
    return out / 255


def bake(image, corners, T, wrapping, bilinear):
    """Texture cubes (F, T, T, T, 3) float32 of faces whose corners lie at uv `corners` (F, 3, 2)."""
    weights = cube_weights(T)
    out = np.empty((len(corners), T, T, T, 3), np.float32)
    step = max(AT_ONCE // len(weights), 1)
    for start in range(0, len(corners), step):
        some = corners[start:start + step]
        uv = np.einsum("tk,fkc->ftc", weights, some).reshape(-1, 2)
        out[start:start + step] = sample(image, uv, wrapping, bilinear).reshape(-1, T, T, T, 3)
    return out


def read_cubes(textures, weights):
    """Colours (F, N, 3) that cubes (F, T, T, T, 3) show at barycentric weights (N, 3)."""
    T = textures.shape[1]
    position = weights * (T - 1)
    cell = np.minimum(position.astype(int), max(T - 2, 0))
    fraction = position - cell
    out = np.zeros((len(textures), len(weights), 3))
    for up in np.ndindex(2, 2, 2):
        i, j, k = np.minimum(cell + up, T - 1).T
        share = np.where(up, fraction, 1 - fraction).prod(1)
        out += share[:, None] * textures[:, i, j, k]
    return out


def atlas(textures, side=None):
    """One picture of all faces, and where their corners lie on it.

    Every face has a square tile: four pixels a texel along the two legs of a right triangle, and a border
    that goes on with the nearest colour, so that programs that interpolate do not mix in a neighbour.

    Parameters
    ----------
    textures : (F, T, T, T, 3) in [0, 1]; values beyond are cut off.
    side : pixels of a tile, at least 4; default 4 (T - 1) + 3

    Returns
    -------
    image : uint8 (H, W, 3), row 0 on top
    uv : (F, 3, 2), as in `sample`
    """
    F, T = textures.shape[:2]
    leg = max(4 * (T - 1), 1) if side is None else side - 3
    side = leg + 3  # leg + 1 pixel centres and the border
    across = max(int(np.ceil(np.sqrt(F))), 1)
    down = max(-(-F // across), 1)
    limit = pillow().MAX_IMAGE_PIXELS
    if limit and across * down * side ** 2 > limit:
        raise ValueError(f"textures of {F} faces with {T} texels an axis make a picture of {across * side} x "
                         f"{down * side} pixels; PIL.Image.MAX_IMAGE_PIXELS is {limit}")
    y, x = (v.ravel() for v in np.indices((side, side)) - 1)
    weights = np.maximum(np.stack([leg - x - y, x, y], 1), 0).astype(np.float64)
    weights /= weights.sum(1, keepdims=True)
    tiles = np.zeros((across * down, side, side, 3), np.uint8)  # y up
    step = max(AT_ONCE // side ** 2, 1)
    for start in range(0, F, step):
        colours = read_cubes(textures[start:start + step], weights)
        colours = np.round(np.clip(colours, 0, 1) * 255).reshape(-1, side, side, 3)
        tiles[start:start + len(colours)] = colours
    image = tiles.reshape(down, across, side, side, 3).swapaxes(1, 2).reshape(down * side, across * side, 3)
    row, column = np.divmod(np.arange(F), across)
    corners = np.array([[0, 0], [leg, 0], [0, leg]]) + 1.5  # pixel centres
    uv = (np.stack([column, row], 1)[:, None] * side + corners) / (across * side, down * side)
    return image[::-1], uv
