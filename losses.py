"""The losses of the method: pure functions of tensors, each a scalar. B = batch, V = vertices."""
import math

import numpy as np
import torch

import neural_renderer as nr


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
    """

    def __init__(self, faces):
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
