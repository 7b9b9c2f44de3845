"""The published metrics: voxel IoU and MMD, as functions of tensors."""
import torch

from voxelization import overlap


def voxel_iou(a, b):
    """Intersection over union (B,) of boolean grids a (B, n, n, n) and b (B, n, n, n), or one grid b (n, n, n) for all
    of a. The IoU of two empty grids is 1."""
    intersection, union = overlap(a, b if b.dim() == 4 else b[None])
    return torch.where(union == 0, 1.0, intersection / union.clamp_min(1))


def pairwise_iou(a, b):
    """IoU of every grid of a (N, n, n, n) with every grid of b (M, n, n, n): (N, M)."""
    a, b = a.flatten(1).float(), b.flatten(1).float()
    intersection = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1)[None, :] - intersection
    return torch.where(union == 0, 1.0, intersection / union.clamp_min(1))


def mean_shape(grids):
    """One grid for a whole class: the cells whose mean occupancy exceeds the best threshold.

    Parameters
    ----------
    grids : (N, n, n, n) bool, the training objects.

    Returns
    -------
    (grid (n, n, n) bool, threshold). Of the thresholds 0.05 ... 0.95 it is the one whose grid has the
    highest mean IoU with the given grids.
    """
    pieces = grids.split(512)  # all objects of a class as floats would take gigabytes
    mean = sum(piece.sum(0) for piece in pieces) / len(grids)
    thresholds = [t / 20 for t in range(1, 20)]
    candidates = torch.stack([mean > t for t in thresholds])
    best = int(sum(pairwise_iou(candidates, piece).sum(1) for piece in pieces).argmax())
    return candidates[best], thresholds[best]


def _mean_kernel(distances, base, scratch):
    """Mean over all pairs of the sum of exp(-d^2 / (base 2^i)), i = -2 ... 2, from squared distances (n, m). It takes
    one exp and four squarings; working in place is three times as fast as with new tensors."""
    kernel = torch.mul(distances, -0.25 / base, out=scratch[:distances.numel()].view_as(distances)).exp_()  # i = 2
    total = kernel.sum()
    for _ in range(4):
        total += kernel.mul_(kernel).sum()
    return total / distances.numel()


def mmd_matrix(groups):
    """Squared MMD between every two groups of codes: (P, P), symmetric, 0 on the diagonal.

    The biased estimate mean(K_xx + K_yy - 2 K_xy) with a sum of five Gaussian kernels exp(-d^2 / h),
    h = base * 2^i, i = -2 ... 2. base is the sum of the squared distances between all n codes of both
    groups, divided by n^2 - n (Gretton et al. 2012; kernels of Long et al. 2015, as in the published
    program).

    Parameters
    ----------
    groups : list of (n_p, d) float tensors, each with at least two codes.
    """
    for p, codes in enumerate(groups):
        if codes.dim() != 2 or len(codes) < 2:
            raise ValueError(f"group {p} has shape {tuple(codes.shape)}; MMD needs at least two codes")
    # Centre in double precision, so that squared distances can be computed from dot products. A GPU also multiplies in
    # double precision, because --tf32 would leave 10 bits of single precision.
    everything = torch.cat(groups).double()
    centre = everything.mean(0)
    groups = [(g.double() - centre).to(torch.float64 if g.is_cuda else torch.float32) for g in groups]
    squares = [g.square().sum(1) for g in groups]

    def distances(p, q):
        d = squares[p][:, None] + squares[q][None, :] - 2 * groups[p] @ groups[q].T
        return d.clamp_min_(0).float()

    scratch = centre.new_empty(max(map(len, groups)) ** 2, dtype=torch.float32)
    within = [distances(p, p).fill_diagonal_(0) for p in range(len(groups))]
    result = torch.zeros(len(groups), len(groups))
    for p in range(len(groups)):
        for q in range(p):
            between = distances(p, q)
            n = len(groups[p]) + len(groups[q])
            base = (within[p].sum(dtype=torch.float64) + within[q].sum(dtype=torch.float64)
                    + 2 * between.sum(dtype=torch.float64)) / (n * n - n)
            if base == 0:
                continue  # all codes are the same point, so the MMD is 0
            base = float(base)
            value = (_mean_kernel(within[p], base, scratch) + _mean_kernel(within[q], base, scratch)
                     - 2 * _mean_kernel(between, base, scratch))
            result[p, q] = result[q, p] = value
    return result


def shared_bins(poses, objects, num_poses):
    """Pose bins with images of at least two objects: the codes of a single object say nothing about a pose.

    poses, objects : (M,) int, of M images.
    """
    pairs = torch.stack([poses, objects], 1).unique(dim=0)
    counts = torch.bincount(pairs[:, 0], minlength=num_poses)
    return [p for p in range(num_poses) if counts[p] >= 2]


def pose_mmd(codes, poses, bins, seed=None):
    """Squared MMD between every two pose bins: (matrix (P, P), its mean over pairs, NaN for fewer than two bins).

    Parameters
    ----------
    codes : (M, d), of one class, since classes differ by more than the pose.
    poses : (M,) int.
    bins : P pose bins, from `shared_bins`.
    seed : if given, permutes the pose labels first. This is the control: its MMD does not depend on poses.
    """
    if len(bins) < 2:
        return codes.new_zeros(len(bins), len(bins)), float("nan")
    if seed is not None:
        poses = poses[torch.randperm(len(poses), generator=torch.Generator().manual_seed(seed))]
    matrix = mmd_matrix([codes[poses == p] for p in bins])
    return matrix, float(matrix[tuple(torch.tril_indices(len(bins), len(bins), -1))].mean())
