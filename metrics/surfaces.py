"""Figures of surfaces, which show what voxel IoU hides: Chamfer-L1, F-score, normal consistency.

A surface is a set of points on it with their unit normals, drawn uniformly by area. B = surfaces, N = points of each,
V = vertices, F = faces.

Distance of a point to a surface is the distance to the nearest of its points. From points of the predicted surface to
the true one it is the accuracy, from points of the true one to the predicted one the completeness.

Chamfer-L1 (Mescheder et al., "Occupancy Networks", CVPR 2019): (mean accuracy + mean completeness) / 2, Euclidean, in
units of a tenth of the longest side of the true object's box. Lower is better.

F-score at d (Tatarchenko et al., "What Do Single-view 3D Reconstruction Networks Learn?", CVPR 2019): 2 P R / (P + R),
P being the share of predicted points at most d from the true surface, R that of true points at most d from the
predicted one; 0 where both are 0. d is 1 % and 2 % of the longest side of the true object's box.

Normal consistency (Mescheder et al. 2019): mean of |n . n'| over points and the nearest of the other surface, mean of
both directions. 1 is best; 1/2 is what random directions have.

Points of two drawings of one surface are apart themselves: of N points to an area of A longest sides squared a perfect
shape reaches an F-score at d of 1 - exp(-pi d^2 N / A) alone, at 1 % and 10,000 points .96 for A = 1. Figures can be
compared where N is the same.
"""
import concurrent.futures
import functools

import numpy as np
import torch

PER_OBJECT = 10000  # points that are drawn on a surface
ASKED = 1000  # of them, whose distances to all points of the other surface are measured
THRESHOLDS = 0.01, 0.02  # of the F-score, in longest sides
AT_ONCE = 1 << 27  # distances in memory, on a GPU
NAMES = "chamfer_l1", "fscore_1", "fscore_2", "normal_consistency"


def draw_points(vertices, faces, count=PER_OBJECT, seed=0):
    """(points (B, count, 3), unit normals (B, count, 3)) on meshes (B, V, 3), faces (F, 3), uniformly by area.

    The random numbers are the same for each mesh, so that a batch is its members one by one, on any device. A face
    without area gets no points; of a mesh without any area each face gets as many, with normals of 0.
    """
    if not len(faces) or not torch.isfinite(vertices).all():
        raise ValueError("points are drawn on meshes with faces, whose vertices are finite")
    rng = np.random.default_rng(seed)
    chosen, root, side = (torch.from_numpy(rng.random(count)).to(vertices.device) for _ in range(3))
    corners = vertices.double()[:, faces]  # (B, F, 3, 3)
    a, b, c = corners.unbind(2)
    normals = torch.linalg.cross(b - a, c - a)
    areas = normals.norm(dim=-1)
    normals = normals / areas.clamp_min(1e-300)[..., None]
    areas = torch.where(areas.sum(1, keepdim=True) > 0, areas, 1)
    ends = areas.cumsum(1)
    # Right of the ends: a face without area is never chosen.
    face = torch.searchsorted(ends, (chosen * ends[:, -1:]).contiguous(), right=True)
    last = (areas > 0).long().cumsum(1).argmax(1, keepdim=True)  # rounding may lead beyond it
    face = torch.minimum(face, last)[..., None].expand(-1, -1, 3)
    root = root.sqrt()[:, None]
    side = side[:, None]
    points = (1 - root) * a.gather(1, face) + root * (1 - side) * b.gather(1, face) + root * side * c.gather(1, face)
    return points.to(vertices), normals.gather(1, face).to(vertices)


class Surfaces:
    """True surfaces of some objects, which predicted ones are measured against. Q = points that are asked.

    samples : (objects, N, 6), points and normals: an array, or what a dataset's `points` gives, mapped.
    """

    def __init__(self, samples, device="cpu"):
        self.samples, self.device = samples, torch.device(device)
        self.of = functools.lru_cache(64)(self._of)
        self.tree = functools.lru_cache(64)(lambda number: _tree_of(self.of(number)[:, :3].numpy()))

    def __len__(self):
        return len(self.samples)

    def _of(self, number):
        """(N, 6) float64 of an object."""
        sample = torch.from_numpy(np.array(self.samples[number], np.float64))
        sample[:, 3:] /= sample[:, 3:].norm(dim=1, keepdim=True).clamp_min(1e-300)  # to more digits than float16 has
        return sample.to(self.device)

    def figures(self, points, normals, numbers, asked=ASKED, parts=None):
        """(B, K, 4) float64, in the order of NAMES, of predicted surfaces, each against K objects.

        points, normals : (B, N, 3). numbers : (B, K) ints.
        asked : points of each surface whose distances to the other count. Of predicted ones the first, of true ones
            those of part `parts` (B,) ints, counted round: several predictions of one object then ask for all of it.
        On the CPU by a k-d tree, one for each predicted surface; on a GPU by all distances.
        """
        if not torch.isfinite(points).all():
            raise ValueError("predicted points are not finite")
        points, normals = points.to(self.device, torch.float64), normals.to(self.device, torch.float64)
        numbers = np.asarray(numbers)
        whole = max(len(self.of(int(numbers[0, 0]))) // asked, 1)
        starts = asked * (np.zeros(len(points), int) if parts is None else np.asarray(parts) % whole)
        many = 64 if self.device.type == "cpu" else max(1, AT_ONCE // (numbers.shape[1] * asked * points.shape[1]))
        found = [self._some(points[k:k + many], normals[k:k + many], numbers[k:k + many], starts[k:k + many], asked)
                 for k in range(0, len(points), many)]
        return torch.cat(found)

    def _some(self, points, normals, numbers, starts, asked):
        true = torch.stack([torch.stack([self.of(int(n)) for n in row]) for row in numbers])  # (B, K, N, 6)
        part = torch.stack([t[:, start:start + asked] for t, start in zip(true, starts.tolist())])  # (B, K, Q, 6)
        nearest = self._by_trees if self.device.type == "cpu" else self._by_all
        (accuracy, at), (completeness, back) = nearest(points, true[..., :3], part[..., :3], numbers, asked)
        sides = (true[..., :3].amax(2) - true[..., :3].amin(2)).amax(-1)  # (B, K)
        chamfer = (accuracy.mean(-1) + completeness.mean(-1)) / 2 / (sides / 10)
        scores = []
        for threshold in THRESHOLDS:
            precision, recall = ((distances <= threshold * sides[..., None]).double().mean(-1)
                                 for distances in (accuracy, completeness))
            scores.append(2 * precision * recall / (precision + recall).clamp_min(1e-300))
        alike = [(other.gather(2, index[..., None].expand(*index.shape, 3)) * own).sum(-1).abs().mean(-1)
                 for own, other, index in ((normals[:, None, :asked], true[..., 3:], at),
                                           (part[..., 3:], normals[:, None].expand(-1, len(numbers[0]), -1, -1),
                                            back))]
        return torch.stack([chamfer, *scores, sum(alike) / 2], -1)

    def _by_trees(self, points, true, part, numbers, asked):
        """((distances (B, K, Q), indices (B, K, Q)) from predicted to true points, the same back)."""
        def of(b):
            tree = _tree_of(points[b].numpy())
            return ([self.tree(int(n)).query(points[b, :asked].numpy()) for n in numbers[b]],
                    [tree.query(asking.numpy()) for asking in part[b]])
        with concurrent.futures.ThreadPoolExecutor(torch.get_num_threads()) as pool:
            measured = list(pool.map(of, range(len(points))))
        return [[torch.from_numpy(np.stack([[k[what] for k in m[way]] for m in measured])) for what in (0, 1)]
                for way in (0, 1)]

    def _by_all(self, points, true, part, numbers, asked):
        return torch.cdist(points[:, None, :asked], true).min(-1), torch.cdist(part, points[:, None]).min(-1)


def _tree_of(points):
    from scipy.spatial import cKDTree
    return cKDTree(points, balanced_tree=False)
