"""Silhouettes of like objects: what an object may look like from another view, by the training images of that view.

Nobody says which images show similar objects. For an image i with view a and an image j with view b there are two
clues, which the present model gives: the shape predicted from i looks from b like the silhouette of j, and the shape
predicted from j looks from a like the silhouette of i. An image for which both hold tells more of the other view of i
than the prediction itself, and more than an image for which one holds (docs/results.md has the figures).

M = training images, K = pose bins, S = side of the silhouettes.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

import neural_renderer as nr
from engine import distributed
from errors import InputError

COUNT = 4          # matches of an image; the target is their mean silhouette, which no single wrong match spoils
CANDIDATES = 2048  # at most so many images of a pose bin are compared, so that the time grows with M, not with M^2
AT_ONCE = 1024     # images


@dataclass
class Bank:
    """The silhouettes of a training split, without augmentation. It depends only on the data."""
    whole: torch.Tensor    # (M, S, S) uint8
    halves: torch.Tensor   # (M, S/2 * S/2) uint8, at half resolution
    cameras: torch.Tensor  # (M, ...)
    bins: list             # K tensors (n,) int64, the images of each pose bin

    @classmethod
    def of(cls, data, device):
        """Make the bank of a training split on a device."""
        whole = halves = cameras = None
        for start in range(0, len(data), AT_ONCE):
            part = data.read(range(start, min(start + AT_ONCE, len(data)))).to(device)
            silhouettes = part.images[:, 3] if part.silhouettes is None else part.silhouettes
            if whole is None:
                whole = silhouettes.new_empty(len(data), *silhouettes.shape[1:])
                halves = whole.new_empty(len(data), (whole.shape[-1] // 2) ** 2)
                cameras = part.cameras.new_empty(len(data), *part.cameras.shape[1:])
            here = slice(start, start + len(silhouettes))
            whole[here], cameras[here] = silhouettes, part.cameras
            halves[here] = halved(silhouettes.float()).round().to(torch.uint8)
        poses = data.all_poses()
        return cls(whole, halves, cameras, [(poses == k).nonzero().flatten() for k in range(data.num_poses)])


def halved(silhouettes):
    """(B, S, S) to (B, S/2 * S/2): each value is the mean of four pixels."""
    return avg_pool2d(silhouettes[:, None], 2).flatten(1)


class Matches:
    """For each training image, images of one other pose bin that probably show similar objects.

    `refresh` finds them with the present model, in all bins anew: each bin is compared with one other, at random. They
    are a part of the state of a run.
    """

    def __init__(self, bank, data, options):
        self.bank, self.data = bank, data
        self.first, self.every, self.seed = max(options.near_from, 1), options.near_every, options.seed
        # Images with cameras of their own do not fit on each other, so their mean would be no silhouette.
        self.count = COUNT if data.num_views is not None else 1
        # A dataset that mirrors images knows its plane of symmetry.
        self.plane = next(iter(data.mirror_planes()), None) if data.augments else None
        self.numbers = torch.zeros(len(bank.whole), self.count, dtype=torch.int64, device=bank.whole.device)
        self.known = False

    def state(self):
        """Of a run's checkpoint: the numbers (M, count), or (0, count) before they are known."""
        return self.numbers[:len(self.numbers) * self.known].clone()

    def load(self, state):
        self.known = len(state) > 0
        if self.known:
            self.numbers.copy_(state)

    def refresh(self, model, step):
        """Find the matches anew if it is time."""
        if step >= self.first and (not self.known or (step - self.first) % self.every == 0):
            self.find(model, np.random.default_rng([self.seed, step]))
            distributed.copied_from_main(self.numbers)
            self.known = True

    @torch.no_grad()
    def find(self, model, rng):
        """Compare each pose bin with another one, by a model (`inference.Model`)."""
        device, bank = model.device, self.bank
        codes = torch.cat([model.encode(self.data.gather(range(start, min(start + AT_ONCE, len(self.data)))).images)
                           for start in range(0, len(self.data), AT_ONCE)])
        renderer = nr.Renderer(bank.whole.shape[-1] // 2, camera_mode="none", anti_aliasing=False)

        def drawn(numbers, camera):
            """(n, S/2 * S/2) the shapes of these images from one camera."""
            parts = []
            for some in numbers.to(device).split(AT_ONCE):
                screens = model.dataset.project(model.decode(codes[some]), camera.expand(len(some), *camera.shape))
                parts.append(renderer.render_silhouettes(screens, model.faces).flatten(1))
            return torch.cat(parts)

        def real(numbers):
            return bank.halves[numbers.to(bank.halves.device)].to(device).float() / 255

        bins = [images for images in bank.bins if len(images)]
        bins = [bins[k] for k in rng.permutation(len(bins))]
        cameras = [bank.cameras[images[rng.integers(len(images))]].to(device) for images in bins]
        for own, images in enumerate(bins):
            candidates = bins[own - 1]
            candidates = candidates[np.sort(rng.permutation(len(candidates))[:CANDIDATES])]
            there, here = drawn(images, cameras[own - 1]), drawn(candidates, cameras[own])
            mine, theirs = real(images), real(candidates)
            for start in range(0, len(images), AT_ONCE):
                rows = slice(start, start + AT_ONCE)
                fit = standardised(overlap(there[rows], theirs)) + standardised(overlap(mine[rows], here))
                best = fit.topk(min(self.count, len(candidates)), 1).indices.cpu()
                best = best[:, torch.arange(self.count) % best.shape[1]]
                self.numbers[images[rows].to(self.numbers.device)] = candidates[best].to(self.numbers.device)

    def of(self, numbers):
        """Targets (B, S, S) in [0, 1] for the images of a `Batch` with these numbers, and their cameras (B, ...)."""
        device, mirrored = numbers.device, numbers < 0
        found = self.numbers[torch.where(mirrored, -1 - numbers, numbers).to(self.numbers.device)]
        target = (self.bank.whole[found].float().mean(1) / 255).to(device)
        cameras = self.bank.cameras[found[:, 0]].to(device)
        if self.plane is not None:
            target = torch.where(mirrored[:, None, None], target.flip(-1), target)
            others = self.data.mirrored(cameras, self.plane)
            cameras = torch.where(mirrored.view(-1, *[1] * (cameras.dim() - 1)), others, cameras)
        return target, cameras


def overlap(a, b):
    """IoU (A, B) of each of the silhouettes (A, n) with each of (B, n), in [0, 1]."""
    shared = a @ b.T
    return shared / (a.sum(1)[:, None] + b.sum(1) - shared).clamp_min(1e-6)


def standardised(values):
    """Each row with mean 0 and standard deviation 1, so that two kinds of values can be added."""
    values = values - values.mean(1, keepdim=True)
    return values / values.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)


def open_matches(options, data, device, say=print):
    """The `Matches` for --lambda_near, in the memory of the device, or of the host if the device has too little."""
    filled = len(data.all_poses().unique())
    if filled < 2:
        raise InputError(f"--lambda_near={options.lambda_near:g} looks for silhouettes in other pose bins than an "
                         f"image's own, but the images of this training set of {data.name} are in {filled} pose bin")
    try:
        bank = Bank.of(data, device)
    except torch.OutOfMemoryError:
        say(f"the silhouettes for --lambda_near do not fit into the memory of {device}: they stay in the memory of the "
            "host, and steps are not recorded as CUDA graphs")
        bank = Bank.of(data, torch.device("cpu"))
    if filled < data.num_poses:
        say(f"--lambda_near leaves out {data.num_poses - filled} of {data.num_poses} pose bins, which have no training "
            "images")
    return Matches(bank, data, options)


def near_of_step(step, silhouette_loss):
    """Silhouette loss between the shapes of a `losses.Step`, seen from the views of their matches, and those."""
    target, cameras = step.prepared["near"].of(step.numbers)
    return silhouette_loss(step.draw(cameras)[0], target)
