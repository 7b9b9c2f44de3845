"""Chamfer-L1, F-score and normal consistency of predicted surfaces. They show defects that voxel IoU does not.

A surface is represented by points and their unit normals, drawn uniformly by area. B = surfaces, N = points of each,
V = vertices, F = faces.

The distance of a point to a surface is the distance to its nearest point. Accuracy is the distance of predicted points
to the true surface, completeness the distance of true points to the predicted surface.

Chamfer-L1 (Mescheder et al., "Occupancy Networks", CVPR 2019): (mean accuracy + mean completeness) / 2, Euclidean, in
units of a tenth of the longest side of the true object's box. Lower is better.

F-score at d (Tatarchenko et al., "What Do Single-view 3D Reconstruction Networks Learn?", CVPR 2019): 2 P R / (P + R).
P is the share of predicted points whose distance is at most d, R the share of true points; 0 if both are 0. d is 1 % or
2 % of the longest side of the true object's box. Higher is better.

Normal consistency (Mescheder et al. 2019): the mean of |n . n'| over points and their nearest points, averaged over
both directions. 1 is best; random directions give 1/2.

The longest side is measured on the true points. All figures depend on N, because two sets of points on the same surface
are not at distance 0: on an area of A squared longest sides, a perfect prediction has an F-score of
1 - exp(-pi d^2 N / A) with d in longest sides: 0.96 at 1 % for A = 1 and N = 10,000, and 0.54 for N = 2,500. Compare
figures of equal N only.
"""
import concurrent.futures
import functools

import numpy as np
import torch

PER_OBJECT = 10000  # points on a surface
ASKED = 1000  # points of a surface whose distances are measured, to all points of the other surface
THRESHOLDS = 0.01, 0.02  # of the F-score, in longest sides
AT_ONCE = 1 << 27  # distances in memory on a GPU
NAMES = "chamfer_l1", "fscore_1", "fscore_2", "normal_consistency"


def draw_points(vertices, faces, count=PER_OBJECT, seed=0):
    """Draw points uniformly by area on meshes (B, V, 3) with faces (F, 3): (points (B, count, 3), unit normals
    (B, count, 3)).

    Each mesh gets the same random numbers, so that the points of a mesh do not depend on the batch. A face without area
    gets no points. If no face of a mesh has an area, all faces get points, with normals of 0.

    Raises ValueError if there are no faces or a vertex is not finite.
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
    # right=True never chooses a face without area.
    face = torch.searchsorted(ends, (chosen * ends[:, -1:]).contiguous(), right=True)
    last = (areas > 0).long().cumsum(1).argmax(1, keepdim=True)  # rounding may exceed the last end
    face = torch.minimum(face, last)[..., None].expand(-1, -1, 3)
    root = root.sqrt()[:, None]
    side = side[:, None]
    points = (1 - root) * a.gather(1, face) + root * (1 - side) * b.gather(1, face) + root * side * c.gather(1, face)
    return points.to(vertices), normals.gather(1, face).to(vertices)


class Surfaces:
    """The true surfaces of some objects. Q = points whose distances are measured.

    samples : (objects, N, 6), points and normals: an array, or what a dataset's `points` returns.
    """

    def __init__(self, samples, device="cpu"):
        self.samples, self.device = samples, torch.device(device)
        self.of = functools.lru_cache(64)(self._of)
        self.tree = functools.lru_cache(64)(lambda number: _tree_of(self.of(number)[:, :3].numpy()))

    def __len__(self):
        return len(self.samples)

    def _of(self, number):
        """Points and normals of an object: (N, 6) float64."""
        sample = torch.from_numpy(np.array(self.samples[number], np.float64))
        sample[:, 3:] /= sample[:, 3:].norm(dim=1, keepdim=True).clamp_min(1e-300)  # float16 is not exact enough
        return sample.to(self.device)

    def figures(self, points, normals, numbers, asked=ASKED, parts=None):
        """Compare B predicted surfaces with K objects each: (B, K, 4) float64, in the order of NAMES.

        Uses k-d trees on the CPU and all distances on a GPU; the results are the same. Raises ValueError if a point is
        not finite.

        Parameters
        ----------
        points, normals : (B, N, 3), of the predicted surfaces
        numbers : (B, K) int, the objects
        asked : Q, the number of points of each surface whose distances are measured
        parts : (B,) int, which Q of the true points: 0 takes the first Q, 1 the next Q, and so on, cyclically. Several
            predictions of one object can thus cover all true points. Default 0. Of the predicted points it is always
            the first Q.
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
        """Nearest points: (distances (B, K, Q), indices (B, K, Q)) from predicted to true points, and the same from
        true to predicted points."""
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
