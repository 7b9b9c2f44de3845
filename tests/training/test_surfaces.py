"""Points on surfaces and their figures compared with closed forms and plain definitions; crossing faces compared with
exact arithmetic."""
import itertools
from fractions import Fraction

import numpy as np
import pytest
import scipy.spatial
import torch
import trimesh
from metrics import surfaces
from metrics.crossings import self_intersecting
from metrics.surfaces import Surfaces, draw_points
from models import icosphere
from solids import box

SPHERE, FACES = icosphere(4)


def samples(vertices, faces, count, seed):
    return torch.cat(draw_points(vertices, faces, count, seed), 2).numpy()


# ---- points ---------------------------------------------------------------------------------------------

def test_points_are_uniform_by_area_and_on_their_faces():
    vertices, faces = (torch.tensor(a) for a in box((0, 0, 0), (3, 1, .2)))
    points, normals = (t[0].numpy() for t in draw_points(vertices[None], faces, 20000))
    corners = vertices.numpy()[faces.numpy()]
    nearest = trimesh.triangles.closest_point(np.tile(corners, (300, 1, 1)), np.repeat(points[:300], 12, 0))
    distance = np.linalg.norm(nearest.reshape(300, 12, 3) - points[:300, None], axis=2)
    assert distance.min(1).max() < 1e-9
    assert np.allclose(trimesh.triangles.normals(corners)[0][distance.argmin(1)], normals[:300])
    sides = np.abs(normals).argmax(1)
    share = np.array([.2, .6, 3]) / 3.8
    assert np.abs(np.bincount(sides) / 20000 - share).max() < 4 * (share * (1 - share) / 20000).max() ** .5
    top = points[(normals[:, 2] > .5)]
    counts = np.histogram2d(top[:, 0], top[:, 1], (6, 2), ((0, 3), (0, 1)))[0]
    assert ((counts - len(top) / 12) ** 2 / (len(top) / 12)).sum() < 35, "chi-squared of 11 degrees: 1e-4"


def test_points_are_seeded_and_a_batch_is_its_members():
    batch = torch.stack([SPHERE, .3 * SPHERE, SPHERE * torch.tensor([1, .2, .5])])
    points, normals = draw_points(batch, FACES, 200, 3)
    for k in range(3):
        assert all(torch.equal(a[0], b[k]) for a, b in zip(draw_points(batch[k:k + 1], FACES, 200, 3), (points, normals)))
    assert not torch.equal(points, draw_points(batch, FACES, 200, 4)[0]) and points.dtype == torch.float32


def test_faces_without_area_get_no_points():
    vertices = torch.tensor([[0., 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]])
    faces = torch.tensor([[3, 3, 3], [0, 1, 2], [3, 3, 0]])
    points, normals = draw_points(vertices[None], faces, 500)
    assert points.max() < 1 and (normals == torch.tensor([0., 0, 1])).all()
    collapsed, none = draw_points(torch.full((1, 4, 3), .5), faces, 50)
    assert (collapsed == .5).all() and (none == 0).all()


@pytest.mark.parametrize("vertices, faces", [(SPHERE * float("nan"), FACES), (SPHERE, FACES[:0])])
def test_no_points_on_what_is_no_mesh(vertices, faces):
    with pytest.raises(ValueError, match="meshes with faces, whose vertices are finite"):
        draw_points(vertices[None], faces)


# ---- figures --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("radius", [.48, .495, .5, .45])
def test_two_spheres_in_closed_form(radius):
    """At an angle t, d^2 = (R - r)^2 + r R t^2. The probability that none of N points is within t is
    ((1 + cos t) / 2)^N."""
    big, count = .5, 10000
    true = Surfaces(samples(big * SPHERE[None], FACES, count, 1))
    chamfer, *scores, normals = true.figures(*draw_points(radius * SPHERE[None], FACES, count), [[0]], 10000)[0, 0]

    def nearer(distance):  # the share of points
        square = np.maximum(distance ** 2 - (big - radius) ** 2, 0) / (radius * big)
        return 1 - ((1 + np.cos(np.sqrt(square))) / 2) ** count
    for score, threshold in zip(scores, (.01, .02)):
        assert float(score) == pytest.approx(nearer(threshold), abs=.02)
    grid = np.linspace(0, .2, 20001)
    assert float(chamfer) == pytest.approx(np.trapezoid(1 - nearer(grid), grid) / .1, rel=.02)
    assert float(chamfer) == pytest.approx((big - radius) / .1, abs=.1), "tenths of the longest side"
    assert .999 < normals <= 1


def plain(points, normals, true, true_normals):
    """Compare with the definitions, written out here."""
    distances = scipy.spatial.distance.cdist(points, true)
    side = np.ptp(true, axis=0).max()
    accuracy, completeness = distances.min(1), distances.min(0)
    found = [(accuracy.mean() + completeness.mean()) / 2 * 10 / side]
    for d in (.01 * side, .02 * side):
        p, r = (accuracy <= d).mean(), (completeness <= d).mean()
        found.append(2 * p * r / (p + r) if p + r else 0)
    there = np.abs((normals * true_normals[distances.argmin(1)]).sum(1)).mean()
    back = np.abs((true_normals * normals[distances.argmin(0)]).sum(1)).mean()
    return [*found, (there + back) / 2]


@pytest.fixture(scope="module")
def some():
    """Two true and three predicted shapes with 600 points each."""
    true = torch.stack([.4 * SPHERE, SPHERE * torch.tensor([.5, .2, .3])])
    return Surfaces(samples(true, FACES, 600, 1)), draw_points(torch.stack(
        [.42 * SPHERE, .01 + SPHERE * torch.tensor([.45, .2, .35]), .4 * SPHERE]), FACES, 600)


@pytest.mark.parametrize("kind", ["_by_trees", "_by_all"])
def test_figures_are_their_definitions(some, kind, monkeypatch):
    true, (points, normals) = some
    monkeypatch.setattr(Surfaces, "_by_trees", getattr(Surfaces, kind))
    numbers = [[0, 1], [1, 0], [1, 1]]
    found = true.figures(points, normals, numbers, asked=600)
    for b, row in enumerate(numbers):
        for k, n in enumerate(row):
            sample = true.samples[n].astype(float)
            wanted = plain(points[b].double().numpy(), normals[b].numpy(), sample[:, :3], sample[:, 3:])
            assert found[b, k].tolist() == pytest.approx(wanted, rel=1e-5)


def test_figures_of_a_batch_are_those_of_its_members_and_parts_ask_for_all(some):
    true, (points, normals) = some
    numbers = np.array([[0, 1], [1, 0], [1, 1]])
    whole = true.figures(points, normals, numbers, 200, parts=[0, 2, 4])
    for b in range(3):
        alone = true.figures(points[b:b + 1], normals[b:b + 1], numbers[b:b + 1], 200, parts=[(0, 2, 1)[b]])
        assert torch.equal(alone[0], whole[b])
    parts = [true.figures(points[:1], normals[:1], [[1]], 200, parts=[k])[0, 0] for k in range(3)]
    back = scipy.spatial.KDTree(points[0].numpy()).query(true.samples[1][:, :3])[0]
    there = scipy.spatial.KDTree(true.samples[1][:, :3]).query(points[0, :200].numpy())[0]
    side = np.ptp(true.samples[1][:, :3], axis=0).max()
    assert float(sum(parts)[0] / 3) == pytest.approx((there.mean() + back.mean()) * 5 / side, rel=1e-5)


def test_a_shape_itself_and_one_that_is_nowhere():
    sample = samples(.4 * SPHERE[None], FACES, 500, 0)
    points, normals = (torch.tensor(sample[..., k:k + 3]) for k in (0, 3))
    true = Surfaces(sample.astype(np.float16))
    assert true.figures(points.half().float(), normals, [[0]], 500)[0, 0].tolist() == pytest.approx([0, 1, 1, 1], abs=1e-6)
    gone = true.figures(points + 9, -normals, [[0]], 500)[0, 0]
    assert gone[0] > 100 and gone[1] == gone[2] == 0
    collapsed = true.figures(*draw_points(torch.zeros(1, len(SPHERE), 3), FACES, 500), [[0]], 500)[0, 0]
    assert collapsed.tolist() == pytest.approx([5, 0, 0, 0], abs=.05)
    with pytest.raises(ValueError, match="not finite"):
        true.figures(points * float("inf"), normals, [[0]])


# ---- faces that cross others ------------------------------------------------------------------------------

def exactly(vertices, faces):
    """The shares in rational numbers, for every pair of faces in two ways: by the intervals that each face cuts out of
    the other's plane, and by edges that pass through the interior of the other face."""
    def sub(a, b):
        return [x - y for x, y in zip(a, b)]

    def cross(a, b):
        return [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b))

    def cut(one, other):
        """The points where the outline of one face meets the plane of the other; None if it does not cross it."""
        h = [dot(cross(sub(other[1], other[0]), sub(other[2], other[0])), sub(x, other[0])) for x in one]
        if not min(h) < 0 < max(h):
            return None
        edges = [(one[k], one[k - 1], h[k], h[k - 1]) for k in range(3)]
        return [p for p, _, a, _ in edges if a == 0] + [
            [x + (y - x) * a / (a - b) for x, y in zip(p, q)] for p, q, a, b in edges if a * b < 0]

    def through(one, other):
        for p, q in ((one[k], one[k - 1]) for k in range(3)):
            heights = [dot(cross(sub(other[1], other[0]), sub(other[2], other[0])), sub(x, other[0])) for x in (p, q)]
            turns = [dot(cross(sub(other[m], p), sub(other[m - 1], p)), sub(q, p)) for m in range(3)]
            if heights[0] * heights[1] < 0 and (all(t > 0 for t in turns) or all(t < 0 for t in turns)):
                return True
        return False
    corners = [[[Fraction(float(x)) for x in vertices[i]] for i in face] for face in faces]
    found = set(), set()
    for i, j in itertools.combinations(range(len(faces)), 2):
        cuts = cut(corners[i], corners[j]), cut(corners[j], corners[i])
        if None not in cuts and all(any(cross(sub(c[1], c[0]), sub(c[2], c[0]))) for c in (corners[i], corners[j])):
            k = max(range(3), key=lambda k: abs(cuts[0][1][k] - cuts[0][0][k]))
            low, high = zip(*((min(p[k] for p in c), max(p[k] for p in c)) for c in cuts))
            found[0].update({i, j} if max(low) < min(high) else ())
        found[1].update({i, j} if through(corners[i], corners[j]) or through(corners[j], corners[i]) else ())
    return [len(f) / len(faces) for f in found]


@pytest.mark.parametrize("whole", [False, True])
def test_crossing_faces_are_those_of_exact_arithmetic(whole):
    """With integer coordinates many faces touch, lie in one plane, or have no area."""
    generator = torch.Generator().manual_seed(0)
    for corners, count in ((8, 14), (12, 18), (30, 20)):
        draw = torch.randint(-2, 3, (corners, 3), generator=generator).float() if whole else \
            torch.randn(corners, 3, generator=generator)
        faces = torch.stack([torch.randperm(corners, generator=generator)[:3] for _ in range(count)])
        found, (wanted, by_edges) = float(self_intersecting(draw[None], faces)), exactly(draw.numpy(), faces.numpy())
        assert found == pytest.approx(wanted, abs=1e-12) and found > 0 and (whole or wanted == by_edges)


def test_sound_shapes_cross_nothing_and_what_is_pushed_through_does():
    vertices, faces = icosphere(2)
    assert self_intersecting(torch.stack([vertices, 1e-4 * vertices, 1e4 * vertices]), faces).tolist() == [0, 0, 0]
    for scale in (1e-4, 1, 1e4):
        dent = vertices.clone()
        dent[0] = -1.5 * dent[0]  # through the other side
        both = self_intersecting(scale * torch.stack([dent, vertices]), faces)
        assert both[1] == 0 and both[0] == self_intersecting(scale * dent[None], faces)[0] > .01
    two = torch.cat([vertices, vertices + torch.tensor([1.2, 0, 0])])
    both = torch.cat([faces, faces + len(vertices)])
    share = float(self_intersecting(two[None], both))  # mirror images of each other: edges meet edges
    assert .05 < share < .4 and share == float(self_intersecting(two[None].flip(-1), both))
    apart = torch.cat([vertices[faces].reshape(-1, 3)])  # neighbours touch, and have no vertex in common
    assert float(self_intersecting(apart[None], torch.arange(len(apart)).view(-1, 3))) == 0
    assert float(self_intersecting(torch.zeros(1, len(vertices), 3), faces)) == 0
    with pytest.raises(ValueError, match="finite"):
        self_intersecting(vertices[None] * float("nan"), faces)


def test_names_go_with_the_figures():
    assert surfaces.NAMES == ("chamfer_l1", "fscore_1", "fscore_2", "normal_consistency")
