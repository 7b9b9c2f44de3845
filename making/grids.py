"""Surfaces around the occupied cells of voxel grids, and rotations of grids.

Convention
----------
A grid is bool, axis k along coordinate k; cell i of an axis of n cells spans [i, i + 1]. Surfaces are
counter-clockwise seen from outside.
"""
import numpy as np

from errors import InputError

LAMBDA, MU, STEPS = 0.5, -0.53, 5  # parameters of Taubin's smoothing


def turn_grid(grid, matrix):
    """Rotate a grid (X, Y, Z) about its middle by a signed permutation matrix (3, 3): new = matrix @ old."""
    matrix = np.asarray(matrix)
    axes = np.abs(matrix).argmax(1)
    turned = np.transpose(np.asarray(grid), axes)
    return np.ascontiguousarray(np.flip(turned, [k for k in range(3) if matrix[k, axes[k]] < 0]))


def surface(grid):
    """(vertices (V, 3) float64 in cells, faces (F, 3) int64): marching cubes (Lewiner et al. 2003) at 1/2 between the
    centres of the cells, then smoothed."""
    try:
        from skimage.measure import marching_cubes
    except ImportError as error:
        raise InputError(f"surfaces of voxel grids need scikit-image ({error}): pip install scikit-image, or take the "
                         "bare cubes with --grid_surface=cubes") from None
    vertices, faces, _, _ = marching_cubes(np.pad(grid, 1).astype(np.float32), 0.5)
    faces = faces.astype(np.int64)[:, ::-1]
    return smoothed(vertices.astype(np.float64) - 0.5, faces), faces  # -1 for the padding, +1/2 for the centre


def smoothed(vertices, faces, steps=STEPS):
    """Taubin's smoothing (A signal processing approach to fair surface design, SIGGRAPH 1995). Each step moves vertices
    by LAMBDA and then by MU < 0 times the vector to the mean of their neighbours, so that the surface does not
    shrink."""
    from scipy import sparse
    ends = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    ends = np.concatenate([ends, ends[:, ::-1]])
    links = sparse.csr_matrix((np.ones(len(ends)), ends.T), (len(vertices),) * 2)
    links.data[:] = 1
    mean = sparse.diags(1 / np.maximum(links.sum(1).A1 if hasattr(links.sum(1), "A1") else links.sum(1), 1)) @ links
    for _ in range(steps):
        for factor in (LAMBDA, MU):
            vertices = vertices + factor * (mean @ vertices - vertices)
    return vertices


def cubes(grid):
    """`surface` without smoothing: the sides between an occupied and an empty cell, two triangles each."""
    padded, quads = np.pad(grid, 1), []
    for axis in range(3):
        for step in (0, 1):
            beyond = np.roll(padded, 1 - 2 * step, axis)[1:-1, 1:-1, 1:-1]
            corner = np.repeat(np.argwhere(grid & ~beyond)[:, None], 4, 1)  # (n, 4, 3)
            corner[..., axis] += step
            corner[:, [1, 2], (axis + 1) % 3] += 1
            corner[:, [2, 3], (axis + 2) % 3] += 1
            quads.append(corner if step else corner[:, ::-1])
    corners = np.concatenate(quads).reshape(-1, 3).astype(np.float64)
    vertices, numbers = np.unique(corners, axis=0, return_inverse=True)
    quads = numbers.reshape(-1, 4)
    return vertices, quads[:, [[0, 1, 2], [0, 2, 3]]].reshape(-1, 3)


SURFACES = {"smooth": surface, "cubes": cubes}
