"""Convert pictures to texture cubes and texture cubes to pictures, in NumPy. Pillow reads and writes the pictures.

Convention
----------
A face has a cube of T^3 texels; axis k belongs to corner k. At the barycentric weights w the rasteriser
interpolates the cube trilinearly at w (T - 1). So the plane i + j + k = T - 1 is the face, and texels
off that plane matter only through interpolation. As in the original program, texel (i, j, k) holds the
colour at the weights (i, j, k) / (i + j + k). Texel (0, 0, 0) has no such weights; it holds the face's centre.
"""
import warnings

import numpy as np

WRAPPINGS = ("REPEAT", "MIRRORED_REPEAT", "CLAMP_TO_EDGE", "CLAMP_TO_BORDER")
# Without EPS and WMF: Pillow runs other programs to read those.
FORMATS = ("PNG", "JPEG", "BMP", "TGA", "TIFF", "GIF", "WEBP", "PPM")
AT_ONCE = 1 << 20  # samples


def pillow():
    """Pillow's Image module, needed only where pictures are read or written."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("texture images need Pillow: pip install pillow") from None
    return Image


def read_image(path, file=None, alpha=False):
    """Read a picture as uint8 (H, W, 3), row 0 at the top; transparency is dropped, or the fourth channel with `alpha`.

    `file`, an open binary file, is read instead of the path, which then only names it in messages.

    Raises
    ------
    ValueError if the file is not a picture, or has more pixels than PIL.Image.MAX_IMAGE_PIXELS.
    """
    Image = pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path if file is None else file, formats=FORMATS) as image:
                if image.mode.startswith("I"):  # Pillow would clip 16-bit values to 255
                    image = Image.fromarray(np.clip(np.asarray(image, np.int64) // 256, 0, 255).astype(np.uint8))
                return np.asarray(image.convert("RGBA" if alpha else "RGB"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise ValueError(f"{path} has more pixels than PIL.Image.MAX_IMAGE_PIXELS, {Image.MAX_IMAGE_PIXELS}; "
                         "raise that if you trust the file") from None
    except FileNotFoundError:
        raise
    except Exception as error:  # Pillow's decoders fail in many ways on damaged files
        raise ValueError(f"{path} is not a picture that can be read ({error})") from None


def cube_weights(T):
    """Barycentric weights (T^3, 3) of the texels of a cube, in the order in which they lie in memory."""
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
    """Sample a picture, uint8 (H, W, C), at uv (N, 2): values (N, C) in [0, 1].

    The convention is OpenGL's: (0, 0) is the lower left corner of the lower left pixel, (1, 1) the upper
    right corner of the upper right pixel. `wrapping` is one for both axes, or a pair for u and v. The border colour of
    CLAMP_TO_BORDER is black.
    """
    size = np.array(image.shape[1::-1])
    along_u, along_v = (wrapping, wrapping) if isinstance(wrapping, str) else wrapping
    at = np.asarray(uv, np.float64) * size
    if bilinear:
        at = at - 0.5
    cell = np.floor(at)
    fraction = at - cell
    cell = cell.astype(np.int64)
    out = np.zeros((len(cell), image.shape[2]))
    for right, up in ((0, 0), (1, 0), (0, 1), (1, 1)) if bilinear else ((0, 0),):
        x, y = cell[:, 0] + right, cell[:, 1] + up
        weight = (abs(1 - right - fraction[:, 0]) * abs(1 - up - fraction[:, 1])) if bilinear else 1.0
        for place, most, how in ((x, size[0], along_u), (y, size[1], along_v)):
            if how == "CLAMP_TO_BORDER":
                weight = weight * ((place >= 0) & (place < most))
        row = size[1] - 1 - _wrapped(y, size[1], along_v)
        colour = image[row, _wrapped(x, size[0], along_u)]
        out += np.broadcast_to(weight, len(cell))[:, None] * colour
    return out / 255


def bake(image, corners, T, wrapping, bilinear):
    """Sample a picture into texture cubes (F, T, T, T, 3) float32 of faces with corners at uv (F, 3, 2)."""
    weights = cube_weights(T)
    out = np.empty((len(corners), T, T, T, 3), np.float32)
    step = max(AT_ONCE // len(weights), 1)
    for start in range(0, len(corners), step):
        some = corners[start:start + step]
        uv = np.einsum("tk,fkc->ftc", weights, some).reshape(-1, 2)
        out[start:start + step] = sample(image, uv, wrapping, bilinear).reshape(-1, T, T, T, 3)
    return out


def read_cubes(textures, weights):
    """Colours (F, N, 3) of cubes (F, T, T, T, 3) at barycentric weights (N, 3), interpolated as the rasteriser does."""
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
    """Draw the textures of all faces into one picture, and return the positions of their corners on it.

    Every face gets a square tile with a right triangle, whose legs have four pixels per texel. Pixels outside of
    the triangle repeat its nearest colour, so that programs that interpolate do not mix in a neighbouring face.

    Parameters
    ----------
    textures : (F, T, T, T, 3) in [0, 1]; values outside are clipped.
    side : width and height of a tile in pixels, at least 4; default 4 (T - 1) + 3

    Returns
    -------
    image : uint8 (H, W, 3), row 0 at the top
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
