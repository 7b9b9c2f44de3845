"""The losses: pure functions of tensors, each a scalar, and `LOSSES`, the table of those that a step adds up.

To add a loss: write its function here and its row in `LOSSES`, and give its weight an option in training.
What a method's adversary adds is in `methods`. B = batch, V = vertices.
"""
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

import neural_renderer as nr
from losses import colours, priors


def silhouette_loss(rendered, target):
    """1 - mean over the batch of |S T| / |S + T - S T|; images (B, H, W) in [0, 1].

    A pair in which both are empty counts as a perfect match (the published program divides 0 by 0).
    """
    product = rendered * target
    intersection = product.sum((1, 2))
    union = (rendered + target - product).sum((1, 2))
    empty = union == 0
    return 1 - torch.where(empty, 1.0, intersection / union.masked_fill(empty, 1.0)).mean()


class MeshTopology:
    """What the mesh losses need to know of a template's faces (F, 3): edges and what is around them.

    Attributes
    ----------
    edges : (E, 2) int64, every edge once.
    wings : (4, I) int64, for each edge with two faces its two ends and the two opposite vertices.
    outward : 1, or -1 if the template's faces are clockwise seen from outside.
    """

    def __init__(self, faces, template=None):
        """template : its vertices (V, 3), which tell `outward`."""
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
    """(B, V, 3) as (V, 3, B): picking a vertex then copies one contiguous run."""
    return vertices.permute(1, 2, 0).contiguous()


def smoothness_loss(vertices, topology):
    """Sum over interior edges of (cos + 1)^2, divided by B; flat is 0 (Kato et al. 2018).

    cos is that of the angle between the two perpendiculars dropped from an edge, inside its two
    faces, to the opposite vertices.
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
    """Negative log-likelihood of the true pose bins; (B, K) and (B,)."""
    return torch.nn.functional.nll_loss(log_probabilities, poses)


def confusion_loss(log_probabilities, kind="log2"):
    """Adversarial domain confusion: 0 only where no pose bin is likelier than another.

    'log2', as published: sum over bins of (log 1/K - log p)^2, divided by B.
    'ce': cross-entropy of p to the uniform distribution, less its minimum log K, mean over the batch.
    """
    batch, bins = log_probabilities.shape
    if kind == "log2":
        return (-math.log(bins) - log_probabilities).square().sum() / batch
    if kind == "ce":
        return -log_probabilities.mean() - math.log(bins)
    raise ValueError(f"confusion must be 'log2' or 'ce', got {kind!r}")


def real_or_fake(logits, real):
    """Binary cross-entropy of sigmoid(logits) (B,) with all real (True) or all fake (False)."""
    target = torch.full_like(logits, float(real))
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, target)


# ---- the losses of a step ---------------------------------------------------------------------------

@dataclass
class View:
    """The shapes of a step from other cameras than those of its images."""
    cameras: torch.Tensor                 # (B, ...) as the dataset's `project` takes them
    poses: torch.Tensor                   # (B,) int64 their pose bins
    rendered: torch.Tensor | None = None  # (B, S, S) silhouettes, where these were asked for


@dataclass
class Step:
    """One step of training as its losses see it: images and what the networks make of them.

    Vertices are in the renderer's frame of the dataset (see readers/base.py); images and silhouettes in [0, 1], row
    0 at the top. In a run of several processes each has its part of the batch.
    """
    images: torch.Tensor        # (B, C, H, W)
    silhouettes: torch.Tensor   # (B, S, S) of the images: the target
    cameras: torch.Tensor       # (B, ...) of the images, as the dataset's `project` takes them
    poses: torch.Tensor         # (B,) int64 their pose bins
    objects: torch.Tensor       # (B,) int64 their objects, counted through all classes
    codes: torch.Tensor         # (B, latent_dim) shape codes
    vertices: torch.Tensor      # (B, V, 3) shapes
    faces: torch.Tensor         # (F, 3) int64, the same for all shapes
    topology: MeshTopology      # of the faces
    dataset: Any                # its conventions: `project`, `mirrors`, ...
    renderer: Any               # for vertices that went through `project`
    prepared: dict = field(default_factory=dict)   # {loss: what its `prepare` gave}
    views: dict = field(default_factory=dict)      # {loss: the `View` that it asked for}
    rendered: torch.Tensor | None = None           # (B, S, S) silhouettes of the shapes from the images' cameras
    # With --texture alone:
    surface: Any = None                            # `models.TextureDecoder`: where the colours are
    colours: torch.Tensor | None = None            # (B, P, 3) colours of the surface
    painted: torch.Tensor | None = None            # (B, 3, S, S) the shapes in their colours, as the images show them

    def draw(self, *cameras):
        """Silhouettes (B, S, S) of the shapes from each of these cameras (B, ...), all drawn in one call."""
        screens = torch.cat([self.dataset.project(self.vertices, c) for c in cameras])
        return self.renderer.render_silhouettes(screens, self.faces).split(len(self.vertices))


@dataclass(frozen=True)
class Loss:
    """A row of `LOSSES`.

    Attributes
    ----------
    name : in records and messages.
    option : of the weight; None is a weight of 1. A loss of weight 0 is not taken, unless `always`.
    function : called as function(step), a `Step`; returns a scalar. It runs inside a CUDA graph: it must neither
        wait for the GPU nor move anything between GPU and host.
    always : take and record the loss at weight 0, too.
    prepare : called as prepare(options, data, device) once, before the first step, with the training split; what it
        returns is `step.prepared[name]`. It must follow from its arguments alone, so that a resumed run has the same.
    views : called as views(dataset, cameras, poses) before each step, outside the graph and with the whole batch of
        all processes: random numbers belong here, from torch's generator of the CPU. Returns other cameras and
        their pose bins, one for each image; the loss finds them in `step.views[name]`.
    silhouettes : draw those views' silhouettes together with the step's own.
    begins : option that names the iteration from which the loss counts; before it, its weight is 0.
    of_colours : take it with --texture alone.
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
    """The shapes from their images' views; with --pairs=2 also from that of the other image of their object, as Kato
    et al. (2018) train: the mean over both."""
    pair = step.views.get(PAIR)
    if pair is None:
        return silhouette_loss(step.rendered, step.silhouettes)
    return silhouette_loss(torch.cat([step.rendered, pair.rendered]),
                           torch.cat([step.silhouettes, exchanged(step.silhouettes)]))


PAIR = "pair"  # name of the view


def exchanged(tensor):
    """Neighbours (0 and 1, 2 and 3, ...) of a batch (B, ...) in each other's place; B is even."""
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
    Loss("near", "lambda_near", lambda step: priors.nearest_of_step(step, silhouette_loss), prepare=priors.open_bank,
         views=priors.one_view_of_batch, begins="near_from"),
    Loss("mirror", "lambda_mirror", lambda step: priors.mirror_of_step(step, silhouette_loss),
         prepare=priors.open_mirror),
    Loss("colour", "lambda_colour", colours.colours_of_step, of_colours=True),
    Loss("variation", "lambda_tv", colours.variation_of_step, of_colours=True),
)
