"""Colours of surfaces: drawing them under the light of the pictures, and the losses that train them.

B = batch, V = vertices, F = faces, P = points with colours (`models.Lattice`), S = side of the pictures.
"""
import math

import torch
from torch.nn.functional import interpolate

from errors import InputError
from neural_renderer.ops import rasterize


GREY = 2 / 255  # a channel up to this is black; channels that differ by at most this are grey


def light_on(vertices, faces, light, mirrors=True):
    """Light (B, F, 2, 3) on fronts and backs of faces, as the rasteriser takes it: ambient + directional max(0, n . d),
    n being the unit normal of the side that is seen, d the direction towards the light.

    It is `neural_renderer.lighting.face_light` of white light for cameras that mirror, but with its arrays
    in an order that takes a third of the time.

    vertices : (B, V, 3), renderer's frame. faces : (F, 3). light : (5,) ambient, directional, direction.
    mirrors : whether the dataset's cameras mirror; for cameras that do not, the normals are reversed.
    """
    v = vertices.permute(1, 2, 0).contiguous()  # (V, 3, B): picking a vertex then copies one contiguous run
    a, b, c = (v[faces[:, k]] for k in range(3))
    normals = torch.linalg.cross(a - b, c - b, dim=1)
    direction = light[2:, None] if mirrors else -light[2:, None]
    cosine = (normals * direction).sum(1) / normals.square().sum(1).sqrt().clamp_min(1e-12)  # (F, B)
    sides = torch.stack([cosine, -cosine], -1).clamp_min(0).transpose(0, 1)
    return (light[0] + light[1] * sides)[..., None].expand(-1, -1, -1, 3)


def paint(dataset, vertices, faces, textures, cameras, size, light):
    """Pictures (B, 3, S, S) of coloured meshes under a light, on black: colours times coverage, as `Step.images` are.

    vertices : (B, V, 3), renderer's frame. textures : (B, F, T, T, T, 3). cameras : (B, ...) of the dataset.
    """
    return rasterize(dataset.for_pictures(vertices, cameras), faces, textures,
                     light_on(vertices, faces, light, dataset.mirrors), image_size=size, anti_aliasing=True, near=0.1,
                     far=100, eps=1e-3, fill_back=True, rgb=True)[0]


def given_colours(images, silhouettes):
    """Colours times coverage (B, 3, S, S) of images (B, C, H, W), at the size of their silhouettes (B, S, S). Images on
    black are already like this; from others the background is removed."""
    colours, around = images[:, :3], (silhouettes == 0)[:, None]
    if colours.shape[-1] != silhouettes.shape[-1]:
        colours = interpolate(colours, size=silhouettes.shape[-2:], mode="bilinear", antialias=True)
    on_black = (colours * around).amax((1, 2, 3), keepdim=True) <= GREY
    return torch.where(on_black, colours, colours * silhouettes[:, None])


def colour_loss(painted, rendered, given, silhouettes):
    """L1 between the drawn and the given colours inside both silhouettes, as in Kanazawa et al. 2018: mean over
    channels, over the pixels that both cover, and over the batch; 0 for an image where they share no pixel.

    painted, given : (B, 3, S, S), colours times coverage.
    rendered, silhouettes : (B, S, S), the coverages a and t. They are only weights, without gradient, so the shape
        cannot lower the loss by covering less.

    No picture is divided by its coverage, because |t a c - a t c'| = a t |c - c'|.
    """
    a, t = rendered.detach()[:, None], silhouettes[:, None]
    difference = (t * painted - a * given).abs().mean(1).sum((1, 2))
    return (difference / (a * t).sum((1, 2, 3)).clamp_min(1)).mean()


def variation_loss(colours, neighbours):
    """Total variation: mean over pairs of neighbours, channels and the batch of |c_i - c_j| (Rudin et al. 1992, on the
    surface). colours : (B, P, 3). neighbours : (2, E')."""
    c = colours.permute(1, 2, 0).contiguous()
    return (c[neighbours[0]] - c[neighbours[1]]).abs().mean()


def colours_of_step(step):
    """`colour_loss` of a `losses.Step`, from the views of its images."""
    return colour_loss(step.painted, step.rendered, given_colours(step.images, step.silhouettes), step.silhouettes)


def variation_of_step(step):
    return variation_loss(step.colours, step.surface.neighbours)


# ---- initial colours  ------------------------------------------------------------------------------

SEEN = 4096        # training images, evenly spread, for the mean colour
MIRROR_FIT = 0.75  # how alike the mean grid and its mirror image must be


def begin(model, options, data, say=print):
    """Initialise the `models.TextureDecoder` of an `inference.Model` with the mean colour of the training split's
    surfaces: the mean colour inside the silhouettes, divided by the mean light on the template from the same cameras.
    With --texture_mirror both halves of the template share their colours."""
    light = None if data.light is None else torch.tensor(data.light, dtype=torch.float32)
    numbers = torch.linspace(0, len(data) - 1, min(len(data), SEEN)).long()
    mean, brightest, most_colourful = inside_silhouettes(data, numbers)
    asked = f"--texture={options.texture}"
    if min(brightest, most_colourful) <= GREY:
        say(f"{asked}: the training pictures are {'black' if brightest <= GREY else 'grey'} inside their masks, and so "
            "are the colours to be learnt")
    if light is None:
        say(f"{asked}: the light of the training pictures is not known, so their shading becomes part of the colours")
    else:
        some = numbers[::math.ceil(len(numbers) / 64)]
        mean = mean / mean_light(model, data.gather(some.numpy()).cameras, light)
    try:
        model.texture.begin(mean, light, mirror_axis(data, say) if options.texture_mirror else None)
    except ValueError as error:
        raise InputError(f"--texture_mirror with --obj_dir={options.obj_dir}: {error}") from None


def inside_silhouettes(data, numbers):
    """(mean colour (3,) inside the silhouettes, highest value of a channel, largest difference between the channels of
    a pixel) of the training images with these numbers."""
    total, covered, brightest, most_colourful = torch.zeros(3, dtype=torch.float64), 0.0, 0.0, 0.0
    for part in numbers.split(256):
        batch = data.gather(part.numpy())
        given = given_colours(batch.images, batch.silhouettes)
        total += given.sum((0, 2, 3), dtype=torch.float64)
        covered += float(batch.silhouettes.sum(dtype=torch.float64))
        brightest = max(brightest, float(given.max()))
        most_colourful = max(most_colourful, float((given.amax(1) - given.amin(1)).max()))
    return (total / max(covered, 1e-6)).float(), brightest, most_colourful


def mean_light(model, cameras, light, size=32):
    """The mean light on the surface of the template that cameras (B, ...) see; a number."""
    vertices = (0.5 * model.decoder.template.cpu()).expand(len(cameras), -1, -1)
    white = torch.ones(1, 1, 1, 1, 1, 3).expand(len(cameras), len(model.faces), -1, -1, -1, -1)
    lit, full = (paint(model.dataset, vertices, model.faces.cpu(), white, cameras, size, some).sum()
                 for some in (light, light.new_tensor([1.0, 0, 0, 0, 0])))
    return float(lit / full)


def mirror_axis(data, say=print):
    """0 or 2: the coordinate of the renderer's frame, x or z, in which the objects of a training split are symmetric.
    If the dataset does not tell it, the program compares the mean of the training grids with its mirror image (sum of
    min over sum of max) and takes the axis where they are most alike."""
    if data.mirror_axis is not None:
        return data.mirror_axis
    total = sum(data.mesh_axes(data.voxels(part.numpy())).sum(0, dtype=torch.float64)
                for part in torch.arange(data.num_objects).split(512))
    fits = {axis: float(torch.minimum(total, total.flip(axis)).sum() / torch.maximum(total, total.flip(axis)).sum())
            for axis in (0, 2)}
    axis = max(fits, key=fits.get)
    if not fits[axis] >= MIRROR_FIT:  # NaN without a cell
        raise InputError("--texture_mirror: the training objects have no mirror plane; the mean of their grids and its "
                         f"mirror image are alike by {fits[axis]:.3f} at best, at least {MIRROR_FIT} is needed")
    say(f"--texture_mirror: colours are mirrored in {'xyz'[axis]} = 0; the mean grid and its mirror image are alike by "
        f"{fits[axis]:.3f}")
    return axis
