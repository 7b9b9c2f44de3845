"""Read the pictures that meshes name, and the colours of OBJ files as a `Look`."""
import dataclasses
import os
import warnings

import numpy as np
from neural_renderer import materials, textures
from PIL import Image

from making.looks import GREY, Look, Picture

FARTHEST = 2e9  # larger texture coordinates are treated as not finite
LARGEST = 2048  # pixels; a picture whose longer side has more is reduced when it is read


class NotRead(Exception):
    """A file that a mesh names is not read: it is missing, outside of the permitted folder, or in an unknown format."""


def as_screens_show(linear):
    """sRGB values in [0, 1] of linear light (IEC 61966-2-1)."""
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def linear_of(shown):
    """The inverse of `as_screens_show`."""
    return np.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)


def unit_colours(values):
    """Colours in [0, 1]. The input is unsigned integers of the full range of their type, or numbers up to 1 or 255."""
    values = np.asarray(values)
    if values.dtype.kind == "u":
        return values / np.iinfo(values.dtype).max
    values = values.astype(np.float64)
    known = values[np.isfinite(values)]
    return np.clip(values / 255 if len(known) and np.abs(known).max() > 1 else values, 0, 1)


def far_uv(uv):
    """Which faces have texture coordinates (F, 3, 2) that are not finite, or too large to be of use: (F,) bool."""
    with np.errstate(invalid="ignore"):
        return ~(np.abs(uv) < FARTHEST).all((1, 2))


def find(name, source, root):
    """Path of the file `name` (bytes) that the file `source` names. It must lie in `root`.

    If there is none, the last part of the name is looked up beside `source`: many programs write the path that the
    picture had on the disk of its author. Raises NotRead.
    """
    if b"://" in name[:12]:
        raise NotRead(f"{source} names {materials.shown(name[:60])!r}, which is not a local file")
    first = None
    for some in dict.fromkeys((name, name.replace(b"\\", b"/").rpartition(b"/")[2])):
        try:
            return materials.named_file(some, source, root)
        except (FileNotFoundError, ValueError) as error:
            first = first or error
    raise NotRead(str(first))


def read_picture(path, file=None, alpha=False):
    """Pixels for a `Picture`: (H, W, 3), or (H, W, 4) with `alpha` if some are transparent.

    Raises ValueError, naming the file, if it is not a picture or has too many pixels.
    """
    pixels = textures.read_image(path, file, alpha=True)
    if max(pixels.shape[:2]) > LARGEST:
        scale = LARGEST / max(pixels.shape[:2])
        size = tuple(max(round(side * scale), 1) for side in pixels.shape[1::-1])
        pixels = np.asarray(Image.fromarray(pixels if alpha else pixels[..., :3]).resize(size, Image.Resampling.BOX))
    if alpha and (pixels[..., 3] < 255).any():
        return _spread(pixels)
    return np.ascontiguousarray(pixels[..., :3])


def _spread(pixels):
    """RGBA pixels (H, W, 4) in which transparent pixels get the colours of opaque ones nearby. Files have arbitrary
    colours there, and interpolation would mix them in at the outline."""
    pixels, image = pixels.copy(), Image.fromarray(pixels)
    open_ones, level = pixels[..., 3] == 0, 1
    while open_ones.any() and 2 ** level <= 2 * max(pixels.shape[:2]):
        # Pillow weights the colours by alpha.
        small = image.resize([max(side >> level, 1) for side in image.size], Image.Resampling.BOX)
        near = np.asarray(small.resize(image.size, Image.Resampling.NEAREST))
        found = open_ones & (near[..., 3] > 0)
        pixels[found, :3], open_ones, level = near[found, :3], open_ones & ~found, level + 1
    return pixels


# ---- Wavefront OBJ ------------------------------------------------------------------------------------------------


def of_obj(mesh, root, report):
    """The `Look` of a `wavefront.Geometry`, or None if it has no colours. `report` is called with a sentence about each
    file that is not read, and about faces that lose their picture.

    A face shows the picture of its material; without one Kd; without a material the colours of its vertices; without
    these grey. A picture replaces Kd, as in `load_obj`, because exporters often write Kd 0 0 0 beside it.
    """
    missing, used, of_face = [], [], None
    if mesh.libraries:
        own = os.path.splitext(mesh.filename)[0] + ".mtl"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            used, of_face = materials.materials_of(mesh, root, missing.append)
            if missing and not used and os.path.isfile(own):  # the mesh and its library were renamed
                again = dataclasses.replace(mesh, libraries=[os.fsencode(os.path.basename(own))])
                missing.clear(), caught.clear()
                used, of_face = materials.materials_of(again, root, missing.append)
        missing = missing or [warning.message for warning in caught]
    look, pictures = Look.plain(np.full((len(mesh.faces), 3), GREY)), {}
    coloured = np.zeros(len(mesh.faces), bool)
    if mesh.colours is not None:
        colours = unit_colours(mesh.colours)[mesh.faces]
        coloured = np.isfinite(colours).all((1, 2))
        look.colours[coloured] = colours[coloured]
    for k, material in enumerate(used):
        faces = np.flatnonzero(of_face == k)
        if material.colour is not None:
            look.colours[faces] = material.colour
            coloured[faces] = True
        if material.image is None and material.opacity is None or not len(faces):
            continue
        with np.errstate(over="ignore", invalid="ignore"):
            uv = mesh.uv[mesh.uv_faces[faces]] * material.scale + material.offset if len(mesh.uv) else \
                np.full((len(faces), 3, 2), np.nan)
        named = (mesh.uv_faces[faces] >= 0).all(1)
        far = far_uv(uv) & named
        if far.any():
            missing.append(f"{mesh.filename}: texture coordinates (vt) of {far.sum()} faces are not finite")
        usable = named & ~far
        if not usable.any():
            continue
        try:
            picture = _picture_of(material, root, pictures)
        except NotRead as error:
            missing.append(error)
            continue
        faces = faces[usable]
        if material.image is not None:
            look.colours[faces] = 1
        look.picture[faces], look.uv[faces] = len(look.pictures), uv[usable]
        look.pictures.append(picture)
        coloured[faces] = True
    for sentence in missing:
        report(str(sentence))
    return look if coloured.any() else None


def _picture_of(material, root, known):
    """The `Picture` of an MTL material: map_Kd with its alpha, or with that (else the brightness) of map_d. `known`
    keeps the pixels of each pair of files."""
    paths = tuple(None if name is None else find(name, material.source, root)
                  for name in (material.image, material.opacity))
    if paths not in known:
        known[paths] = _pixels_of(*paths)
    pixels, wrapping = known[paths], ("CLAMP_TO_EDGE" if material.clamp else "REPEAT",) * 2
    return Picture(pixels, wrapping, True, material.base, material.gain, 0.5 if pixels.shape[2] == 4 else None)


def _pixels_of(image, opacity):
    if opacity is None:
        return read_picture(image, alpha=True)
    mask = read_picture(opacity, alpha=True)
    mask = mask[..., 3] if mask.shape[2] == 4 else mask.mean(2).round().astype(np.uint8)
    colours = np.full((*mask.shape, 3), 255, np.uint8) if image is None else read_picture(image, alpha=True)[..., :3]
    mask = Image.fromarray(mask).resize(colours.shape[1::-1], Image.Resampling.BILINEAR)
    return np.concatenate([colours, np.asarray(mask)[..., None]], 2)
