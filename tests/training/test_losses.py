"""Losses compared with plain NumPy loops of their formulas; gradients compared with finite differences."""
import math

import losses
import numpy as np
import pytest
import torch
from losses import MeshTopology
from models import icosphere
from solids import box

RNG = np.random.default_rng(0)
TETRAHEDRON = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
HINGE = np.array([[0, 1, 2], [1, 0, 3]])  # two triangles that share the edge 0-1


def tensor(array):
    return torch.tensor(np.asarray(array), dtype=torch.float64)


def random_mesh(batch=2, seed=0):
    """An icosphere of 42 vertices and 80 faces with noise: (B, 42, 3) float64 and (80, 3)."""
    vertices, faces = icosphere(1)
    noise = np.random.default_rng(seed).normal(0, .1, (batch,) + tuple(vertices.shape))
    return vertices.numpy().astype(float) + noise, faces.numpy()


# ---- topology -------------------------------------------------------------------------------------


def edges_by_hand(faces):
    """{(a, b) with a < b: opposite vertices}."""
    found = {}
    for face in faces.tolist():
        for k in range(3):
            a, b, opposite = face[k], face[(k + 1) % 3], face[(k + 2) % 3]
            found.setdefault((min(a, b), max(a, b)), []).append(opposite)
    return found


def test_topology_of_the_template():
    topology = MeshTopology(icosphere(3)[1])
    assert topology.edges.shape == (1920, 2) and topology.wings.shape == (4, 1920)


@pytest.mark.parametrize("faces, edges, inner", [
    (icosphere(2)[1].numpy(), 480, 480),
    (TETRAHEDRON, 6, 6),
    (HINGE, 5, 1),
    (np.array([[0, 1, 2]]), 3, 0),
    (TETRAHEDRON[:2], 5, 1),
    (icosphere(1)[1].numpy()[:37], None, None),  # a sphere with a hole
    (np.array([[0, 1, 2], [1, 0, 3], [0, 1, 4]]), 7, 0)])  # three wings at one edge: not a hinge
def test_topology_has_every_edge_once_and_the_wings_of_inner_edges(faces, edges, inner):
    topology, expected = MeshTopology(torch.from_numpy(faces)), edges_by_hand(faces)
    assert sorted(map(tuple, topology.edges.sort(1).values.tolist())) == sorted(expected)
    wings = {(min(a, b), max(a, b)): sorted((c, d)) for a, b, c, d in topology.wings.T.tolist()}
    assert len(wings) == topology.wings.shape[1], "an edge comes twice"
    assert wings == {edge: sorted(o) for edge, o in expected.items() if len(o) == 2}
    if edges is not None:
        assert (len(topology.edges), topology.wings.shape[1]) == (edges, inner)


# ---- smoothness -----------------------------------------------------------------------------------


def smoothness_by_hand(vertices, faces):
    """Smoothness from the perpendiculars between an edge and its opposite vertices, one edge at a time."""
    total = 0.0
    for mesh in vertices:
        for (a, b), opposite in edges_by_hand(faces).items():
            if len(opposite) == 2:
                along = (mesh[b] - mesh[a]) / np.linalg.norm(mesh[b] - mesh[a])
                p, q = (mesh[c] - mesh[a] - along * np.dot(mesh[c] - mesh[a], along) for c in opposite)
                total += (np.dot(p, q) / np.linalg.norm(p) / np.linalg.norm(q) + 1) ** 2
    return total / len(vertices)


def hinge(degrees):
    """Two unequal triangles over the edge 0-1; 180 degrees between them is flat."""
    t = math.radians(degrees)
    return np.array([[[0, 0, 0], [1, 0, 0], [.3, 2, 0], [.8, 1.5 * math.cos(t), 1.5 * math.sin(t)]]])


@pytest.mark.parametrize("degrees", [0, 30, 60, 90, 120, 150, 180, 270])
def test_smoothness_of_a_known_angle(degrees):
    value = float(losses.smoothness_loss(tensor(hinge(degrees)), MeshTopology(HINGE)))
    # eps = 1e-6 inside the roots moves the cosine by about that much
    assert value == pytest.approx((math.cos(math.radians(degrees)) + 1) ** 2, abs=2e-5)


def test_smoothness_of_flat_meshes_is_zero_and_of_a_cube_is_known():
    grid = np.stack(np.meshgrid(np.arange(4.), np.arange(4.), [0.]), -1).reshape(1, -1, 3)
    grid[..., :2] += RNG.uniform(-.2, .2, (1, 16, 2))
    faces = [f for r in range(3) for c in range(3) for i in [4 * r + c]
             for f in ((i, i + 1, i + 5), (i, i + 5, i + 4))]
    flat = losses.smoothness_loss(tensor(grid), MeshTopology(np.array(faces)))
    assert 0 <= float(flat) < 1e-8
    vertices, faces = box((0, 0, 0), (1, 1, 1))
    # 12 edges of 90 degrees; the 6 diagonals are flat.
    assert float(losses.smoothness_loss(tensor([vertices]), MeshTopology(faces))) == pytest.approx(12, abs=1e-4)


def test_smoothness_of_a_random_mesh():
    vertices, faces = random_mesh(3)
    expected = smoothness_by_hand(vertices, faces)
    topology = MeshTopology(faces)
    assert float(losses.smoothness_loss(tensor(vertices), topology)) == pytest.approx(expected, rel=1e-4)
    single = tensor(vertices).float()
    assert float(losses.smoothness_loss(single, topology)) == pytest.approx(expected, rel=1e-4)
    reversed_faces = MeshTopology(faces[:, ::-1].copy())
    assert float(losses.smoothness_loss(single, reversed_faces)) == pytest.approx(expected, rel=1e-4)
    # Control: the comparison would notice a mesh that is stretched a little.
    assert abs(smoothness_by_hand(vertices * (1, 1, 1.2), faces) / expected - 1) > .01


def test_smoothness_of_a_collapsed_mesh_is_finite_with_its_gradient():
    vertices = torch.zeros(1, 4, 3, requires_grad=True)
    value = losses.smoothness_loss(vertices, MeshTopology(TETRAHEDRON))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(vertices.grad).all()


# ---- the other mesh losses --------------------------------------------------------------------------


def test_laplacian_and_edge_length():
    vertices, faces = random_mesh(2)
    topology, edges = MeshTopology(faces), list(edges_by_hand(faces))
    laplacian = edge_length = 0.0
    for mesh in vertices:
        for v in range(len(mesh)):
            around = [a if b == v else b for a, b in edges if v in (a, b)]
            laplacian += ((mesh[v] - mesh[around].mean(0)) ** 2).sum()
        lengths = [np.linalg.norm(mesh[a] - mesh[b]) for a, b in edges]
        edge_length += sum((length - np.mean(lengths)) ** 2 for length in lengths)
    assert float(losses.laplacian_loss(tensor(vertices), topology)) == pytest.approx(laplacian / 2)
    assert float(losses.edge_length_loss(tensor(vertices), topology)) == pytest.approx(edge_length / 2)


def test_edge_length_compares_with_the_mean_of_the_same_mesh():
    regular = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], float)
    both = tensor([regular, 5 * regular])
    assert float(losses.edge_length_loss(both, MeshTopology(TETRAHEDRON))) == pytest.approx(0, abs=1e-12)
    line = tensor([[[0, 0, 0], [3, 0, 0], [0, 4, 0]]])  # lengths 3, 4, 5 around 4
    assert float(losses.edge_length_loss(line, MeshTopology([[0, 1, 2]]))) == pytest.approx(2)


def test_laplacian_of_a_triangle_is_known():
    line = tensor([[[0, 0, 0], [3, 0, 0], [0, 6, 0]]])
    expected = (1.5 ** 2 + 3 ** 2) + (3 ** 2 + 3 ** 2) + (1.5 ** 2 + 6 ** 2)
    assert float(losses.laplacian_loss(line, MeshTopology([[0, 1, 2]]))) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["smoothness_loss", "laplacian_loss", "edge_length_loss"])
def test_mesh_losses_average_over_the_batch_and_have_the_right_gradient(name):
    loss, (vertices, faces) = getattr(losses, name), random_mesh(3)
    topology = MeshTopology(faces)
    alone = [float(loss(tensor(vertices[k:k + 1]), topology)) for k in range(3)]
    assert len({round(a, 6) for a in alone}) == 3
    assert float(loss(tensor(vertices), topology)) == pytest.approx(np.mean(alone))
    small = tensor(np.random.default_rng(1).normal(size=(2, 4, 3))).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, MeshTopology(TETRAHEDRON)), small)


# ---- silhouettes ------------------------------------------------------------------------------------


def silhouette_by_hand(rendered, target):
    ratios = []
    for s, t in zip(rendered, target):
        union = (s + t - s * t).sum()
        ratios.append((s * t).sum() / union if union else 1.0)
    return 1 - np.mean(ratios)


def test_silhouette_loss():
    rendered, target = np.random.default_rng(2).random((2, 5, 6, 7))
    target[3:] *= .2
    value = float(losses.silhouette_loss(tensor(rendered), tensor(target)))
    assert value == pytest.approx(silhouette_by_hand(rendered, target), rel=1e-12)
    # It differs from the IoU of the whole batch.
    whole = silhouette_by_hand(rendered.reshape(1, 30, 7), target.reshape(1, 30, 7))
    assert abs(value - whole) > 1e-2
    s, t = tensor(rendered[:2, :3, :3]).requires_grad_(), tensor(target[:2, :3, :3])
    assert torch.autograd.gradcheck(losses.silhouette_loss, (s, t))


def test_silhouette_loss_of_known_pairs():
    one, half, none = (torch.zeros(1, 4, 4) for _ in range(3))
    one[:, :2], half[:, :1] = 1, 1
    for a, b, expected in ((one, one, 0), (one, half, .5), (half, one, .5), (one, none, 1), (none, one, 1),
                           (one, 1 - one, 1), (none, none, 0)):
        assert float(losses.silhouette_loss(a, b)) == expected
    several = losses.silhouette_loss(torch.cat([one, half, none]), torch.cat([one, one, none]))
    assert float(several) == pytest.approx(.5 / 3)


@pytest.mark.parametrize("target", [0.0, 1.0])
def test_silhouette_gradient_is_finite_where_nothing_is_drawn(target):
    rendered = torch.zeros(2, 4, 4, requires_grad=True)
    targets = torch.stack([torch.full((4, 4), target), torch.ones(4, 4)])
    losses.silhouette_loss(rendered, targets).backward()
    assert torch.isfinite(rendered.grad).all()
    assert (rendered.grad[1] < 0).all(), "a pixel more is better"


# ---- codes and poses --------------------------------------------------------------------------------


def test_gaussian_prior():
    codes = np.random.default_rng(3).normal(size=(5, 7))
    assert float(losses.gaussian_prior(tensor(codes))) == pytest.approx((codes ** 2).sum() / 5)


def log_probabilities(batch=6, bins=24):
    scores = np.random.default_rng(4).normal(size=(batch, bins))
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def test_discriminator_loss():
    logp, poses = log_probabilities(), np.array([0, 23, 5, 5, 11, 2])
    expected = -np.mean([logp[b, poses[b]] for b in range(6)])
    assert float(losses.discriminator_loss(tensor(logp), torch.tensor(poses))) == pytest.approx(expected)
    uniform = torch.full((6, 24), -math.log(24))
    assert float(losses.discriminator_loss(uniform, torch.tensor(poses))) == pytest.approx(3.178, abs=1e-3)


def test_confusion_loss():
    logp = log_probabilities()
    squared = sum((math.log(1 / 24) - v) ** 2 for v in logp.ravel()) / 6
    crossed = sum(-v / 24 for v in logp.ravel()) / 6 - math.log(24)
    assert float(losses.confusion_loss(tensor(logp))) == pytest.approx(squared)
    assert float(losses.confusion_loss(tensor(logp), "log2")) == pytest.approx(squared)
    assert float(losses.confusion_loss(tensor(logp), "ce")) == pytest.approx(crossed)
    with pytest.raises(ValueError, match="confusion.*'entropy'"):
        losses.confusion_loss(tensor(logp), "entropy")


@pytest.mark.parametrize("kind", ["log2", "ce"])
@pytest.mark.parametrize("bins", [2, 24])
def test_confusion_is_zero_for_the_uniform_and_above_elsewhere(kind, bins):
    uniform = torch.log_softmax(torch.full((3, bins), 7.0, dtype=torch.float64), 1)
    assert float(losses.confusion_loss(uniform, kind)) == pytest.approx(0, abs=1e-12)
    for step in (1e-3, .1, 1, 10):
        scores = torch.zeros(1, bins, dtype=torch.float64)
        scores[0, 0] = step
        assert float(losses.confusion_loss(torch.log_softmax(scores, 1), kind)) > 1e-8
    # A descent leads to the uniform distribution.
    scores = torch.tensor([[3.0] + [0.0] * (bins - 1)], requires_grad=True)
    losses.confusion_loss(torch.log_softmax(scores, 1), kind).backward()
    assert scores.grad[0, 0] > 0 and (scores.grad[0, 1:] < 0).all()


def test_real_or_fake():
    logits = np.random.default_rng(5).normal(0, 3, 6)
    p = 1 / (1 + np.exp(-logits))
    assert float(losses.real_or_fake(tensor(logits), True)) == pytest.approx(-np.log(p).mean())
    assert float(losses.real_or_fake(tensor(logits), False)) == pytest.approx(-np.log(1 - p).mean())
    extreme = torch.tensor([-200.0, 200.0], requires_grad=True)
    value = losses.real_or_fake(extreme, True)
    value.backward()
    assert float(value.detach()) == pytest.approx(100) and extreme.grad.tolist() == pytest.approx([-.5, 0])
