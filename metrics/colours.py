"""Figures of colours: PSNR and SSIM of the drawn shapes inside the silhouettes, beside two controls.

B = batch, F = faces, S = side of the pictures.
"""
import torch
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from losses.colours import given_colours, paint

BEST = 100.0  # dB, of pictures that are equal: their PSNR is infinite
FIGURES = tuple(f"{figure}_{view}{control}" for figure in ("psnr", "ssim") for view in ("own", "new")
                for control in ("", "_mean", "_nearest"))  # the order of `seen_colours`
WHILE_TRAINING = "psnr_own", "psnr_new"  # the order of `psnr_of_shapes`


def psnr(drawn, given, inside):
    """(B,) peak signal-to-noise ratio in dB, -10 log10 of the mean squared error of (B, 3, S, S) in [0, 1], over pixels
    inside (B, S, S) bool and channels; NaN where there are none."""
    weights = inside[:, None].to(drawn.dtype)
    error = ((drawn - given).square() * weights).sum((1, 2, 3)) / (3 * weights.sum((1, 2, 3)))
    return -10 * torch.log10(error.clamp_min(10 ** (-BEST / 10)))


def ssim(drawn, given, inside):
    """(B,) structural similarity (Wang et al. 2004: Gaussian of 1.5 pixels and 11 taps, K 0.01 and 0.03), mean of its
    map over pixels inside and channels.

    Pixels outside count as black in both pictures. The result is that of scikit-image's structural_similarity with
    gaussian_weights and without use_sample_covariance, for a whole batch in one call.
    """
    mask = inside[:, None].double()
    x, y = drawn.double() * mask, given.double() * mask
    mean_x, mean_y, xx, yy, xy = (_blurred(t) for t in (x, y, x * x, y * y, x * y))
    c1, c2 = 0.01 ** 2, 0.03 ** 2
    likeness = (2 * mean_x * mean_y + c1) * (2 * (xy - mean_x * mean_y) + c2) / (
        (mean_x ** 2 + mean_y ** 2 + c1) * (xx - mean_x ** 2 + yy - mean_y ** 2 + c2))
    return (likeness * mask).sum((1, 2, 3)) / (3 * mask.sum((1, 2, 3)))


def _blurred(pictures, sigma=1.5, radius=5):
    """Pictures (B, C, H, W), mirrored at their borders, edge pixels included, under a Gaussian."""
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1).to(pictures) / sigma) ** 2)
    taps = (taps / taps.sum())[None, None]
    for axis in (2, 3):
        x = pictures.transpose(axis, 3)
        x = torch.cat([x[..., :radius].flip(-1), x, x[..., -radius:].flip(-1)], -1)
        pictures = conv2d(x.flatten(0, 1)[:, None], taps[:, :, None])[:, 0].unflatten(0, x.shape[:2]).transpose(axis, 3)
    return pictures


def one_colour(painted_white, rendered, given, silhouettes):
    """(B, 3) in [0, 1]: for each shape the one colour whose drawing has the mean of the picture inside both
    silhouettes, or inside the picture's silhouette alone if they share no pixel.

    painted_white : (B, 3, S, S), the shape in white under the light. rendered, silhouettes : (B, S, S).
    """
    picture = (given * rendered[:, None]).sum((2, 3)) / (painted_white * silhouettes[:, None]).sum((2, 3))
    alone = given.sum((2, 3)) / silhouettes.sum((1, 2)).clamp_min(1e-6)[:, None]
    return torch.where(picture.isfinite(), picture, alone).clamp(0, 1)


class Nearest:
    """Finds the training image of a class that is most like another image: the smallest squared distance of RGB(A) at
    16 x 16 pixels, among the images of the same pose bin, or among all if the bin has none."""

    def __init__(self, data, numbers, at_once=1024):
        """data : a training split. numbers : (M,) of the images."""
        self.data, self.numbers = data, torch.as_tensor(numbers)
        self.poses = data.all_poses()[self.numbers]
        self.small = torch.cat([_small(data.gather(part.numpy()).images) for part in self.numbers.split(at_once)])

    def images(self, images, poses):
        """The nearest training images (B, C, H, W) of images (B, C, H, W) with pose bins (B,)."""
        wanted, found = _small(images.cpu()), torch.empty(len(images), dtype=torch.int64)
        for pose in poses.unique().cpu():
            mine, there = (poses.cpu() == pose).nonzero()[:, 0], (self.poses == pose).nonzero()[:, 0]
            there = there if len(there) else torch.arange(len(self.numbers))
            found[mine] = there[torch.cdist(wanted[mine], self.small[there]).argmin(1)]
        return self.data.gather(self.numbers[found].numpy()).images.to(images.device)


def _small(images):
    return adaptive_avg_pool2d(images, 16).flatten(1)


def _light(model, data):
    """(5,) the light in which a model's shapes are drawn to be compared with the pictures of a split."""
    light = model.texture.light
    return light.new_tensor(data.light) if data.light is not None and light[1] > 0 else light


def psnr_of_shapes(model, data, prediction, batch, numbers, others):
    """(N, 2) float64: WHILE_TRAINING of the shapes with these numbers (N,) within the batch, from the views of their
    images and of others (N,), None where there are none: NaN. It draws two pictures of each shape."""
    vertices, textures = prediction.vertices[numbers], prediction.textures[numbers]
    given, light = given_colours(batch.images, batch.silhouettes), _light(model, data)
    columns = []
    for seen in (numbers, others):
        if seen is None:
            columns.append(vertices.new_full((len(vertices),), float("nan")))
        else:
            picture = paint(data, vertices, prediction.faces, textures, batch.cameras[seen], given.shape[-1], light)
            columns.append(psnr(picture, given[seen], batch.silhouettes[seen] > 0.5))
    return torch.stack(columns, 1).double()


def seen_colours(model, data, prediction, batch, others, nearest):
    """(B, 12) float64: FIGURES of the shapes in their colours, inside the real silhouettes, from the view of their own
    image and of another one; and the same of two controls: the shapes in one colour (`one_colour` of the own view),
    and in the colours that the model predicts for the nearest training image.

    others : (B,) the other images: numbers within the batch, of the same objects. If None, the figures of new views
        are NaN.
    """
    light = _light(model, data)
    vertices, faces, size = prediction.vertices, prediction.faces, batch.silhouettes.shape[-1]
    given = given_colours(batch.images, batch.silhouettes)

    def painted(textures, cameras):
        return paint(data, vertices, faces, textures, cameras, size, light)

    def all_over(colours):
        return colours[:, None, None, None, None].expand(-1, len(faces), 1, 1, 1, 3)
    rendered = data.renderer(size).render_silhouettes(data.project(vertices, batch.cameras), faces)
    white = painted(all_over(vertices.new_ones(len(vertices), 3)), batch.cameras)
    alone = all_over(one_colour(white, rendered, given, batch.silhouettes))
    theirs = model.colour(model.codes(nearest.images(batch.images, batch.poses))[1])
    columns = {}
    for view, seen in (("own", torch.arange(len(vertices), device=vertices.device)), ("new", others)):
        for control, textures in (("", prediction.textures), ("_mean", alone), ("_nearest", theirs)):
            if seen is None:
                psnrs = ssims = vertices.new_full((len(vertices),), float("nan"))
            else:
                picture = painted(textures, batch.cameras[seen]), given[seen], batch.silhouettes[seen] > 0.5
                psnrs, ssims = psnr(*picture), ssim(*picture)
            columns[f"psnr_{view}{control}"], columns[f"ssim_{view}{control}"] = psnrs, ssims
    return torch.stack([columns[name].double() for name in FIGURES], 1)
