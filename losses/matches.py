"""Silhouettes of like objects: what an object may look like from another view, by the training images of that view.

Nobody says which images show similar objects. For an image i with view a and an image j with view b there are two
clues, which the present model gives: the shape predicted from i looks from b like the silhouette of j, and the shape
predicted from j looks from a like the silhouette of i. The score of a pair is the sum of the two IoUs.

Poses are independent of shapes, so the shapes seen from a and from b have one distribution. Optimal transport finds the
matches that keep it: every image of both views gets the same weight in all. Without that, a few images that fit most
predictions a little would be the matches of most. docs/results.md has the figures.

M = training images, K = pose bins, S = side of the silhouettes.
"""
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, pad

import neural_renderer as nr
from engine import distributed
from errors import InputError

COUNT = 8          # matches of an image; the target is their weighted mean, which no single wrong match spoils
CANDIDATES = 2048  # at most so many images of two pose bins are compared at once: the time grows with M, not with M^2
TEMPERATURE = .02  # of the transport: a score that is larger by it gets e times the weight
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
    """For each training image, images of one other pose bin that probably show similar objects, and their weights.

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
        self.weights = torch.zeros(self.numbers.shape, device=bank.whole.device)  # of an image, 1 in sum
        self.known = False

    def state(self):
        """Of a run's checkpoint: {'numbers', 'weights'} (M, count), empty before they are known."""
        return {"numbers": self.numbers.clone(), "weights": self.weights.clone()} if self.known else {}

    def load(self, state):
        self.known = isinstance(state, dict) and bool(state)  # older checkpoints have numbers alone
        if self.known:
            self.numbers.copy_(state["numbers"])
            self.weights.copy_(state["weights"])

    def refresh(self, model, step):
        """Find the matches anew if it is time."""
        if step >= self.first and (not self.known or (step - self.first) % self.every == 0):
            self.find(model, np.random.default_rng([self.seed, step]))
            distributed.copied_from_main(self.numbers)
            distributed.copied_from_main(self.weights)
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
            here, theirs = drawn(candidates, cameras[own]), real(candidates)
            images = images[rng.permutation(len(images))]
            for some in images.tensor_split(-(-len(images) // CANDIDATES)):
                scores = overlap(drawn(some, cameras[own - 1]), theirs) + overlap(real(some), here)
                # Where there are too few candidates, the last comes again with weight 0.
                shares = pad(transport(scores / TEMPERATURE), (0, max(0, self.count - len(candidates))))
                weights, best = shares.topk(self.count, 1)
                some = some.to(self.numbers.device)
                self.numbers[some] = candidates[best.clamp_max(len(candidates) - 1).cpu()].to(self.numbers.device)
                self.weights[some] = (weights / weights.sum(1, keepdim=True)).to(self.weights.device)

    def of(self, numbers):
        """Targets (B, S, S) in [0, 1] for the images of a `Batch` with these numbers, and their cameras (B, ...)."""
        device, mirrored = numbers.device, numbers < 0
        rows = torch.where(mirrored, -1 - numbers, numbers).to(self.numbers.device)
        found, weights = self.numbers[rows], self.weights[rows]
        target = torch.einsum("bc,bcij->bij", weights / 255, self.bank.whole[found].float()).to(device)
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


def transport(scores, iterations=30):
    """Weights (A, B) of entropic optimal transport with these scores (A, B), each row with sum 1: the rows of the plan
    weigh the same, and so do its columns (Sinkhorn's iterations, Cuturi 2013)."""
    for _ in range(iterations):
        scores = scores - scores.logsumexp(1, keepdim=True)
        scores = scores - scores.logsumexp(0, keepdim=True)
    return scores.softmax(1)


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
