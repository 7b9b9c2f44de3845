"""Load photographs and other pictures of objects as input of the networks."""
import os
import sys
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps

from errors import InputError
from readers.base import is_of_a_system

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 64_000_000


def load_image(path, size, mask_path=None):
    """Load a picture of one object as (4, size, size) float in [0, 1]: square, on black.

    The mask of the object is `mask_path` (white on black) if given, else the alpha channel. If alpha is (nearly)
    uniform, or only frames the picture, the mask is where the picture differs from the uniform colour of its border.
    Colours are multiplied by the mask, as in the training images, and everything is resized with anti-aliasing.

    Raises InputError, naming the file, if it cannot be read or no object can be separated from its background.
    """
    image = _open_image(path)
    has_alpha = "A" in image.getbands() or "transparency" in image.info
    rgba = _unit_rgba(image)
    rgb, alpha, shown_by = rgba[..., :3], rgba[..., 3], "alpha"
    if mask_path:
        alpha, shown_by = _mask_of(mask_path, image, path), "mask"
    elif not has_alpha or not _says_something(alpha):
        alpha, shown_by = _ground(rgb, path), "difference from its background"
    elif part := _framed(alpha):
        alpha, shown_by = np.zeros_like(alpha), "difference from its background"
        alpha[part] = _ground(rgb[part], path)
        print(f"note: alpha shows a full rectangle in {path}; the object is what differs from its background there",
              file=sys.stderr)
    if alpha.max() < 0.5:
        raise InputError(f"{path} shows no object: its {shown_by} is empty{_dark(alpha, shown_by)}")
    if all((side >= 0.5).any() for side in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1])):
        print(f"warning: in {path} the object touches all four borders, according to its {shown_by}: it may be cut "
              "off, or the whole picture may have been taken for the object", file=sys.stderr)
    premultiplied = np.concatenate([rgb * alpha[..., None], alpha[..., None]], 2)
    height, width = alpha.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side, 4), np.float32)
    square[top:top + height, left:left + width] = premultiplied
    tensor = torch.from_numpy(square).permute(2, 0, 1)[None]
    if side != size:
        tensor = torch.nn.functional.interpolate(tensor, size=(size, size), mode="bilinear",
                                                 antialias=True)
    return tensor[0].clamp(0, 1)


def load_photo(path, size, mask_path=None, margin=0.15):
    """Load a picture of one object as (3, size, size) float in [0, 1], with its background.

    If `mask_path` (white on black) or alpha shows the object, the picture is cropped to the object's box, widened by
    `margin` times its size on each side and clipped to the picture. Transparent parts become black; a transparent frame
    is cut off. The crop is resized to a square with anti-aliasing, whatever its proportions, like the training images.
    """
    image = _open_image(path)
    rgba = _unit_rgba(image)
    alpha = _mask_of(mask_path, image, path) if mask_path else rgba[..., 3]
    rows, columns = (np.flatnonzero((alpha >= 0.5).any(axis)) for axis in (1, 0))
    if not len(rows):
        shown_by = "mask" if mask_path else "alpha"
        raise InputError(f"{path} shows no object: its {shown_by} is empty{_dark(alpha, shown_by)}")
    shown = rgba[..., :3] * rgba[..., 3:] if _says_something(rgba[..., 3]) else rgba[..., :3]
    if not mask_path and (part := _framed(alpha)):
        shown = shown[part]
    elif _says_something(alpha):
        (top, bottom), (left, right) = (_widened(n[0], n[-1] + 1, margin) for n in (rows, columns))
        shown = shown[top:bottom, left:right]
    tensor = torch.from_numpy(np.ascontiguousarray(shown)).permute(2, 0, 1)[None]
    return torch.nn.functional.interpolate(tensor, size=(size, size), mode="bilinear",
                                           antialias=True)[0].clamp(0, 1)


def _widened(first, end, margin):
    return max(round(first - margin * (end - first)), 0), round(end + margin * (end - first))


def load_input(path, size, channels, mask_path=None):
    """Load a picture for a network with 4 channels (`load_image`) or 3 (`load_photo`)."""
    return load_image(path, size, mask_path) if channels == 4 else load_photo(path, size, mask_path)


def load_pair(first, second, size, channels, masks=(None, None)):
    """Load two pictures with `load_input`, (2, channels, size, size). With 4 channels they must have the same size:
    the part of the frame that an object fills shows its size, so different frames could not be compared."""
    if channels == 4:
        sizes = ["{}x{}".format(*_open_image(path).size) for path in (first, second)]
        if sizes[0] != sizes[1]:
            raise InputError(f"--load_im={first} is {sizes[0]} and --load_im1={second} is {sizes[1]}: bring both to "
                             "the same size, with the objects framed as in training")
    return torch.stack([load_input(path, size, channels, mask) for path, mask in zip((first, second), masks)])


def _mask_of(mask_path, image, path):
    mask = _open_image(mask_path)
    if mask.size != image.size:
        raise InputError(f"--mask={mask_path} is {mask.size[0]}x{mask.size[1]}, the image {path} is "
                         f"{image.size[0]}x{image.size[1]}")
    rgba = _unit_rgba(mask)
    return rgba[..., :3].mean(2) * rgba[..., 3]  # a white picture with the object in alpha is a mask too


def _says_something(alpha, least=0.002):
    """Whether alpha shows an object. It does not if it is (nearly) uniform, or if all but a few pixels are opaque. But
    alpha that is zero everywhere shows that there is no object."""
    return alpha.max() < 0.02 or alpha.max() - alpha.min() > 0.02 and (alpha < 0.5).mean() >= least


def _framed(alpha):
    """The part of a picture that alpha frames, two slices, or None: a full rectangle of more than half the picture is
    the picture itself, with a border or bars, and not an object."""
    opaque = alpha >= 0.5
    rows, columns = (np.flatnonzero(opaque.any(axis)) for axis in (1, 0))
    if not len(rows) or opaque.mean() < 0.5:
        return None
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return part if opaque[part].mean() > 0.99 else None


def _dark(alpha, shown_by):
    """What is wrong with a mask that is not black, but too dark."""
    if shown_by != "mask" or not alpha.max():
        return ""
    return f" (its brightest pixel has {round(255 * float(alpha.max()))} of 255; the object must be white)"


def _open_image(path):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is lower
            image = Image.open(path)
        if image.width * image.height > MAX_PIXELS:
            raise InputError(f"{path} has {image.width}x{image.height} pixels; at most "
                             f"{MAX_PIXELS // 1_000_000} million are read")
        image.load()
        return ImageOps.exif_transpose(image)  # phones store photos unrotated
    except FileNotFoundError:
        raise InputError(f"there is no image {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not an image that can be read: {error}") from None


def _unit_rgba(image):
    """An image of any mode as (H, W, 4) float32 in [0, 1]. Pillow itself would clip 16-bit values to 8 bits."""
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.float32) / 65535
        return np.stack([grey, grey, grey, np.ones_like(grey)], 2).clip(0, 1)
    return np.asarray(image.convert("RGBA"), np.float32) / 255


def _ground(rgb, path, tolerance=0.06):
    """Mask of the pixels that differ from a uniform border."""
    border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
    ground = np.median(border, 0)
    if np.quantile(np.abs(border - ground).max(1), 0.9) > tolerance:
        raise InputError(f"{path} has neither alpha nor a uniform background; give --mask, a picture of "
                         "the same size that is white where the object is")
    return (np.abs(rgb - ground).max(2) > tolerance).astype(np.float32)


def list_images(path):
    """The image files of a folder, sorted, or the one file."""
    if os.path.isdir(path):
        names = os.listdir(path)
        of_systems = [name for name in names if is_of_a_system(name)]
        if of_systems:
            print(f"ignored in {path}: {len(of_systems)} hidden or system files ({min(of_systems)}"
                  f"{', ...' if len(of_systems) > 1 else ''})")
        found = sorted(f for f in names if f.lower().endswith(IMAGE_ENDINGS) and not is_of_a_system(f))
        if not found:
            raise InputError(f"--load_im={path} is a folder without images ({', '.join(IMAGE_ENDINGS)})")
        return [os.path.join(path, f) for f in found]
    if not os.path.exists(path):
        raise InputError(f"--load_im={path}: there is no such file or folder")
    return [path]
