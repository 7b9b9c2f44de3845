"""Both voxel rules in plain NumPy, float64. They define what the kernels must compute, and replace missing kernels."""
import numpy as np


def published(triangles, n):
    """Voxelise (F, 3, 3) triangles in [0, 1] to (n, n, n) bool by the rule of `voxelization.voxelize`."""
    solid = np.zeros((n, n, n), bool)
    corners = np.asarray(triangles, np.float64).reshape(-1, 3, 3) * n

    def mark(cell):
        if all(0 <= c < n for c in cell):
            solid[tuple(cell)] = True

    for t in corners:
        for axis in range(3):
            iu, iv = (axis + 1) % 3, (axis + 2) % 3
            u, v, w = t[:, iu], t[:, iv], t[:, axis]
            det = (u[1] - u[0]) * (v[2] - v[0]) - (u[2] - u[0]) * (v[1] - v[0])
            if det == 0:
                continue
            for line_u in range(max(0, _ceil(u.min(), n)), min(n - 1, _floor(u.max(), n)) + 1):
                for line_v in range(max(0, _ceil(v.min(), n)), min(n - 1, _floor(v.max(), n)) + 1):
                    e = [(u[b] - u[a]) * (line_v - v[a]) - (v[b] - v[a]) * (line_u - u[a])
                         for a, b in ((1, 2), (2, 0), (0, 1))]
                    if any(x * np.sign(det) < 0 for x in e):
                        continue
                    cell = [0, 0, 0]
                    cell[axis] = np.floor(w[0] + (e[1] * (w[1] - w[0]) + e[2] * (w[2] - w[0])) / det)
                    for a in (-1, 0):
                        for b in (-1, 0):
                            cell[iu], cell[iv] = line_u + a, line_v + b
                            if 0 <= cell[axis] < n:
                                mark([int(c) for c in cell])
        for corner in t:
            if np.abs(corner).max() < 2 ** 31:
                mark([int(c) for c in corner])  # int() truncates: coordinates in (-1, 0) give cell 0
    return ~_reached_from_the_border(~solid)


def _reached_from_the_border(empty):
    """Empty cells that a path through faces of empty cells connects with the border of the grid."""
    border = np.ones(empty.shape, bool)
    border[1:-1, 1:-1, 1:-1] = False
    reached = border & empty
    while True:
        grown = reached.copy()
        for axis in range(3):
            ahead, behind = np.moveaxis(grown, axis, 0), np.moveaxis(reached, axis, 0)
            ahead[1:] |= behind[:-1]
            ahead[:-1] |= behind[1:]
        grown &= empty
        if (grown == reached).all():
            return reached
        reached = grown


def _ceil(value, n):
    return int(np.ceil(np.clip(value, -1, n + 1)))


SAME = 1e-5  # of the side of the grid: crossings closer than this are at the same place


def _floor(value, n):
    return int(np.floor(np.clip(value, -1, n + 1)))


def solid(triangles, n):
    """Voxelise (F, 3, 3) triangles in [0, 1] to (n, n, n) bool by the rule of `voxelization.voxelize_solid`."""
    corners = np.asarray(triangles, np.float64).reshape(-1, 3, 3) * n
    lines = {}  # (axis, u, v): [(height, sign)]
    for axis in range(3):
        for t in corners:
            for u, v, height, sign in _crossings(t, axis, n):
                lines.setdefault((axis, u, v), []).append((height, sign))
    by_winding, turning, consistent = {}, 0, 0
    for line, met in lines.items():
        winding = _running(met, n)
        end = sum(sign for _, sign in met)
        turning += winding.any() or end != 0
        consistent += winding.any() and end == 0
        if end == 0 and (winding.any() or abs(sum(sign * height for height, sign in met)) > SAME * n):
            by_winding[line] = winding != 0
    oriented = 4 * consistent >= 3 * turning
    votes = np.zeros((n, n, n), int)
    for (axis, u, v), met in lines.items():
        inside = by_winding.get((axis, u, v)) if oriented else None
        np.moveaxis(votes, [(axis + 1) % 3, (axis + 2) % 3, axis], [0, 1, 2])[u, v] += (
            _parity(met, n) if inside is None else inside)
    return votes >= 2


def _crossings(t, axis, n):
    """(u, v, height, sign) of the lines along an axis, through the centres of cells, that cross a triangle. A line
    through a shared edge or corner belongs to exactly one of the triangles."""
    centres = np.arange(n) + 0.5
    u, v, w = t[:, (axis + 1) % 3], t[:, (axis + 2) % 3], t[:, axis]
    det = (u[1] - u[0]) * (v[2] - v[0]) - (u[2] - u[0]) * (v[1] - v[0])
    if det == 0:
        return []
    sign = int(np.sign(det))
    iu, iv = (np.flatnonzero((centres >= x.min()) & (centres <= x.max())) for x in (u, v))
    cu, cv = np.meshgrid(centres[iu], centres[iv], indexing="ij")
    inside, e = np.ones(cu.shape, bool), []
    for a, b in ((1, 2), (2, 0), (0, 1)):
        value = sign * ((u[b] - u[a]) * (cv - v[a]) - (v[b] - v[a]) * (cu - u[a]))
        du, dv = sign * (u[b] - u[a]), sign * (v[b] - v[a])
        inside &= (value > 0) | ((value == 0) & (dv < 0 or (dv == 0 and du > 0)))
        e.append(value)
    height = w[0] + (e[1] * (w[1] - w[0]) + e[2] * (w[2] - w[0])) / abs(det)
    return [(iu[i], iv[j], height[i, j], sign) for i, j in np.argwhere(inside)]


def _running(met, n):
    """The sum of the signs of the crossings at or before each centre of a line."""
    centres = np.arange(n) + 0.5
    return sum(sign * (centres >= height) for height, sign in met)


def _parity(met, n):
    """Whether each centre of a line lies behind an odd number of crossings. Crossings at the same place count once,
    unless that makes their number odd and it is even otherwise."""
    heights = np.sort([height for height, _ in met])
    once = heights[np.diff(heights, prepend=-np.inf) > SAME * n]
    chosen = heights if len(once) % 2 and len(heights) % 2 == 0 else once
    return _running([(height, 1) for height in chosen], n) % 2 == 1
