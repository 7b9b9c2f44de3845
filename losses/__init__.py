"""The losses: functions of tensors that return a scalar, and `LOSSES`, the table of the losses that a step adds up.

To add a loss, write its function here, add its row to `LOSSES`, and add an option for its weight in modes/train.py.
The adversarial losses of the methods are in `methods`. B = batch, V = vertices.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import neural_renderer as nr
from losses import colours, matches, priors


def silhouette_loss(rendered, target):
    """1 - mean over the batch of |S T| / |S + T - S T|; images (B, H, W) in [0, 1].

    A pair of two empty images counts as a perfect match (the published program divides 0 by 0).
    """
    product = rendered * target
    intersection = product.sum((1, 2))
    union = (rendered + target - product).sum((1, 2))
    empty = union == 0
    return 1 - torch.where(empty, 1.0, intersection / union.masked_fill(empty, 1.0)).mean()


class MeshTopology:
    """The edges of a template's faces (F, 3) and their neighbourhood, for the mesh losses.

    Attributes
    ----------
    edges : (E, 2) int64, every edge once.
    wings : (4, I) int64, for each edge with two faces its two ends and the two opposite vertices.
    outward : 1 if the template's faces are counterclockwise seen from outside, -1 if they are clockwise.
    """

    def __init__(self, faces, template=None):
        """template : its vertices (V, 3), from which `outward` is computed; without them it is 1."""
        self.outward = 1 if template is None else priors.orientation(template.cpu(), faces.cpu())
        faces = np.asarray(faces.cpu() if isinstance(faces, torch.Tensor) else faces)
        sides = np.sort(faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), 1)
        opposite = faces[:, [2, 0, 1]].reshape(-1)
        edges, place, count = np.unique(sides, axis=0, return_inverse=True, return_counts=True)
        order = np.argsort(place.reshape(-1), kind="stable")
        first = np.concatenate([[0], np.cumsum(count)[:-1]])
        inner = np.flatnonzero(count == 2)
        self.edges = torch.from_numpy(edges)
        self.wings = torch.from_numpy(np.stack([
            edges[inner, 0], edges[inner, 1],
            opposite[order[first[inner]]], opposite[order[first[inner] + 1]]]))
        self.num_vertices = int(faces.max()) + 1 if faces.size else 0

    def to(self, device):
        self.edges, self.wings = self.edges.to(device), self.wings.to(device)
        return self


def _vertex_major(vertices):
    """(B, V, 3) as (V, 3, B), so that indexing a vertex copies one contiguous run."""
    return vertices.permute(1, 2, 0).contiguous()


def smoothness_loss(vertices, topology):
    """Sum over interior edges of (cos + 1)^2, divided by B; 0 for a flat mesh (Kato et al. 2018).

    cos is the cosine of the angle between two perpendiculars to the edge: each lies in one of its two
    faces and runs to the opposite vertex.
    """
    return nr.smoothness(vertices, topology.wings).sum() / len(vertices)


def laplacian_loss(vertices, topology):
    """Sum over vertices of |v - mean of its neighbours|^2, divided by B."""
    v = _vertex_major(vertices)
    a, b = topology.edges.T
    total = torch.zeros_like(v).index_add(0, a, v[b]).index_add(0, b, v[a])
    ends = topology.edges.reshape(-1)
    count = v.new_zeros(len(v)).index_add(0, ends, v.new_ones(len(ends))).clamp_min(1)  # bincount waits for a GPU
    return (v - total / count[:, None, None]).square().sum() / len(vertices)


def edge_length_loss(vertices, topology):
    """Sum over edges of (length - mean length of that mesh)^2, divided by B."""
    v = _vertex_major(vertices)
    a, b = topology.edges.T
    lengths = (v[a] - v[b]).square().sum(1).clamp_min(1e-12).sqrt()  # (E, B)
    return (lengths - lengths.mean(0)).square().sum() / len(vertices)


def gaussian_prior(codes):
    """sum(z^2) / B."""
    return codes.square().sum() / len(codes)


def discriminator_loss(log_probabilities, poses):
    """Negative log-likelihood of the true pose bins (B,) under log-probabilities (B, K)."""
    return torch.nn.functional.nll_loss(log_probabilities, poses)


def confusion_loss(log_probabilities, kind="log2"):
    """Adversarial domain confusion of log-probabilities (B, K): 0 only if all pose bins are equally likely.

    'log2', as published: sum over bins and batch of (log 1/K - log p)^2, divided by B.
    'ce': cross-entropy between the uniform distribution and p, minus its minimum log K, mean over the batch.
    """
    batch, bins = log_probabilities.shape
    if kind == "log2":
        return (-math.log(bins) - log_probabilities).square().sum() / batch
    if kind == "ce":
        return -log_probabilities.mean() - math.log(bins)
    raise ValueError(f"confusion must be 'log2' or 'ce', got {kind!r}")


def real_or_fake(logits, real):
    """Binary cross-entropy of sigmoid(logits), logits (B,), where all are real (True) or all are fake (False)."""
    target = torch.full_like(logits, float(real))
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)


# ---- the losses of a step ---------------------------------------------------------------------------

@dataclass
class View:
    """The shapes of a step seen from other cameras than those of its images."""
    cameras: torch.Tensor                 # (B, ...) as the dataset's `project` takes them
    poses: torch.Tensor                   # (B,) int64 their pose bins
    rendered: torch.Tensor | None = None  # (B, S, S) silhouettes, if they were asked for


@dataclass
class Step:
    """The input of the losses in one training step: images, and what the networks predict from them.

    Vertices are in the renderer's frame of the dataset (see readers/base.py). Images and silhouettes are in [0, 1], row
    0 at the top. If several processes train, each has its part of the batch.
    """
    images: torch.Tensor        # (B, C, H, W)
    silhouettes: torch.Tensor   # (B, S, S) silhouettes of the images, the target
    cameras: torch.Tensor       # (B, ...) of the images, as the dataset's `project` takes them
    poses: torch.Tensor         # (B,) int64 pose bins of the images
    objects: torch.Tensor       # (B,) int64 objects of the images, numbered across all classes
    numbers: torch.Tensor       # (B,) int64 numbers of the images in the training split, as in `Batch`
    codes: torch.Tensor         # (B, latent_dim) shape codes
    vertices: torch.Tensor      # (B, V, 3) shapes
    faces: torch.Tensor         # (F, 3) int64, the same for all shapes
    topology: MeshTopology      # of the faces
    dataset: Any                # the conventions of the dataset: `project`, `mirrors`, ...
    renderer: Any               # draws vertices that `project` has transformed
    prepared: dict = field(default_factory=dict)   # {loss name: the result of its `prepare`}
    views: dict = field(default_factory=dict)      # {loss name: the `View` that it asked for}
    rendered: torch.Tensor | None = None           # (B, S, S) silhouettes of the shapes from the images' cameras
    # With --texture alone:
    surface: Any = None                            # `models.TextureDecoder`: where the colours are
    colours: torch.Tensor | None = None            # (B, P, 3) colours of the surface
    painted: torch.Tensor | None = None            # (B, 3, S, S) the shapes in their colours, as the images show them

    def draw(self, *cameras):
        """Draw the shapes from each of `cameras`, (B, ...) each, in one call; a tuple of silhouettes (B, S, S)."""
        screens = torch.cat([self.dataset.project(self.vertices, c) for c in cameras])
        return self.renderer.render_silhouettes(screens, self.faces).split(len(self.vertices))


@dataclass(frozen=True)
class Loss:
    """A row of `LOSSES`.

    Attributes
    ----------
    name : the name in records and messages.
    option : the name of the option with the weight; None means weight 1. A loss of weight 0 is not computed, unless
        `always`.
    function : called as function(step) with a `Step`; returns a scalar. It runs inside a CUDA graph, so it must not
        wait for the GPU or copy between GPU and host.
    always : compute and record the loss at weight 0 too.
    prepare : called once as prepare(options, data, device) before the first step, with the training split; its result
        becomes `step.prepared[name]`. The result must depend only on the arguments, so that a resumed run has the same;
        or it has the methods refresh(model, step), called before each step, state(), whose dict of tensors goes into
        checkpoints, and load(state).
    views : called as views(dataset, cameras, poses) before each step, outside the graph, with the whole batch of all
        processes. Draw random numbers here, with torch's CPU generator. Returns other cameras and their pose bins, one
        for each image; the loss finds them in `step.views[name]`.
    silhouettes : draw the silhouettes of these views together with those of the step.
    begins : the name of the option with the first iteration of the loss; before it the weight is 0.
    of_colours : compute it with --texture only.
    """
    name: str
    option: str | None
    function: Callable
    always: bool = False
    prepare: Callable | None = None
    views: Callable | None = None
    silhouettes: bool = True
    begins: str | None = None
    of_colours: bool = False

    def weight(self, options):
        if self.of_colours and options.texture == "none":
            return 0.0
        return 1.0 if self.option is None else getattr(options, self.option)


def silhouettes_of_step(step):
    """The silhouette loss of the shapes from the views of their images. With --pairs=2 each shape is also drawn from
    the view of the other image of its object (Kato et al. 2018), and the loss is the mean over both."""
    pair = step.views.get(PAIR)
    if pair is None:
        return silhouette_loss(step.rendered, step.silhouettes)
    return silhouette_loss(torch.cat([step.rendered, pair.rendered]),
                           torch.cat([step.silhouettes, exchanged(step.silhouettes)]))


PAIR = "pair"  # name of the view of the other image of the object


def exchanged(tensor):
    """Swap neighbours (0 and 1, 2 and 3, ...) of a batch (B, ...); B is even."""
    return tensor.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


LOSSES = (
    Loss("silhouette", None, silhouettes_of_step),
    Loss("smoothness", "lambda_smth", lambda step: smoothness_loss(step.vertices, step.topology), always=True),
    Loss("prior", "lambda_Gprior", lambda step: gaussian_prior(step.codes), always=True),
    Loss("laplacian", "lambda_Lap", lambda step: laplacian_loss(step.vertices, step.topology)),
    Loss("edge", "lambda_edge", lambda step: edge_length_loss(step.vertices, step.topology)),
    Loss("pressure", "lambda_pressure",
         lambda step: priors.pressure_loss(step.vertices, step.faces, step.topology.outward)),
    Loss("front", "lambda_front", priors.fronts_of_step, views=priors.turned_views, silhouettes=False),
    Loss("flat", "lambda_flat", lambda step: priors.flat_loss(step.vertices, step.faces, step.prepared["flat"],
                                                              step.topology.outward), prepare=priors.open_sides),
    Loss("near", "lambda_near", lambda step: matches.near_of_step(step, silhouette_loss), prepare=matches.open_matches,
         begins="near_from"),
    Loss("mirror", "lambda_mirror", lambda step: priors.mirror_of_step(step, silhouette_loss),
         prepare=priors.open_mirror),
    Loss("colour", "lambda_colour", colours.colours_of_step, of_colours=True),
    Loss("variation", "lambda_tv", colours.variation_of_step, of_colours=True),
)
