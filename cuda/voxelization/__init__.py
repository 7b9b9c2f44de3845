"""Voxelisers: triangles to occupancy grids, many meshes at a time.

`voxelize` is the rule of the evaluation code of this line of work (Kato & Harada, CVPR 2019):
published IoU figures are comparable only under it. `voxelize_solid` is exact: a cell is solid where
its centre is inside. `overlap` counts what an IoU of grids is made of.

Convention
----------
Coordinate k of a triangle runs along axis k of the grid; [0, 1] spans all `size` cells.
"""
import functools

import torch
from neural_renderer.backend import default

from . import reference

try:
    from . import _kernels
except ImportError as error:
    _kernels, _why = None, error

__all__ = ["voxelize", "voxelize_solid", "overlap"]
_PUBLISHED, _SOLID = 0, 1


def _check(faces, size):
    if not isinstance(faces, torch.Tensor) or faces.dim() != 4 or faces.shape[2:] != (3, 3) \
            or not faces.is_floating_point():
        got = f"{str(faces.dtype)[6:]} of shape {tuple(faces.shape)}" if isinstance(
            faces, torch.Tensor) else type(faces).__name__
        raise ValueError(f"faces must be a float tensor of shape (B, F, 3, 3), got {got}")
    if not isinstance(size, int) or not 1 <= size <= 1024:
        raise ValueError(f"size must be an int from 1 to 1024, got {size!r}")


@functools.cache
def _backend():
    return default("voxelization", _kernels, None if _kernels else _why, stacklevel=6)


def _first_not_finite(faces):
    return next((b for b, mesh in enumerate(faces) if not torch.isfinite(mesh).all()), -1)


def _refuse_not_finite(bad):
    if bad >= 0:
        raise ValueError(f"faces must be finite, mesh {bad} of the batch is not")


def _run(faces, size, rule, dtype):
    device, compiled = faces.device, _backend() == "compiled"
    faces = faces.detach()
    if faces.dtype not in (torch.float32, torch.float64):
        faces = faces.float()
    if faces.is_cuda and compiled and rule == _PUBLISHED and _kernels.cuda_architectures is not None:
        return _run_cuda(faces.contiguous(), size).to(dtype)
    faces = faces.cpu().contiguous()
    B, F = faces.shape[:2]
    voxels = torch.empty(B, size, size, size, dtype=torch.bool)
    if compiled:
        run = _kernels.voxelize_float32 if faces.dtype == torch.float32 else _kernels.voxelize_float64
        bad = run(faces.data_ptr(), voxels.data_ptr(), B, F, size, rule, torch.get_num_threads())
    else:
        slow = reference.published if rule == _PUBLISHED else reference.solid
        bad = _first_not_finite(faces)
        for b in range(B if bad < 0 else 0):
            voxels[b] = torch.from_numpy(slow(faces[b].numpy(), size))
    _refuse_not_finite(bad)
    return voxels.to(device=device, dtype=dtype)


def _run_cuda(faces, size):
    B, F = faces.shape[:2]
    voxels = torch.empty(B, size, size, size, dtype=torch.bool, device=faces.device)
    workspace = torch.empty(_kernels.workspace(B, size), dtype=torch.uint8, device=faces.device)
    bad = torch.full((), B, dtype=torch.int64, device=faces.device)
    run = _kernels.voxelize_cuda_float32 if faces.dtype == torch.float32 else _kernels.voxelize_cuda_float64
    with torch.cuda.device(faces.device):
        run(faces.device.index, torch.cuda.current_stream(faces.device).cuda_stream, faces.data_ptr(),
            voxels.data_ptr(), B, F, size, workspace.data_ptr(), bad.data_ptr())
    if not torch.cuda.is_current_stream_capturing():
        _refuse_not_finite(-1 if int(bad) == B else int(bad))
    return voxels


def voxelize(faces, size, normalize=False, dtype=torch.int32):
    """Occupancy by the published rule.

    Along each axis, every grid line at integer coordinates 0 ... size-1 that meets a triangle (edges
    included) marks the four cells around it at the height of the crossing; every corner marks its own
    cell, truncated towards zero; whatever empty space cannot reach from the border through
    6-neighbours is solid. Thin parts come out up to two cells thicker than they are.

    Parameters
    ----------
    faces : (B, F, 3, 3) float, corners in [0, 1]; what lies outside of the grid is left out.
    size : int, cells along each axis.
    normalize : bool. Scale and centre the box of the whole batch so that its longest side spans
        (size - 1) / size of the grid.
    dtype : of the result; torch.bool costs least.

    Returns
    -------
    (B, size, size, size), 0 or 1. Not differentiable.

    Raises
    ------
    ValueError for a wrong shape or type, and for coordinates that are not finite.
    """
    _check(faces, size)
    if normalize and faces.numel():
        _refuse_not_finite(_first_not_finite(faces))
        low, high = faces.amin((0, 1, 2)), faces.amax((0, 1, 2))
        extent = (high - low).max().clamp_min(torch.finfo(faces.dtype).tiny)
        faces = (faces - (low + high) / 2) / extent * ((size - 1) / size) + 0.5
    return _run(faces, size, _PUBLISHED, dtype)


def voxelize_solid(faces, size, dtype=torch.int32):
    """Occupancy that is exact: a cell is solid if its centre is inside, whatever way the faces are turned.

    Lines through the centres run along each of the three axes, and the majority of the axes decides. Along a line,
    a centre is inside

    - where the winding number is not zero, if that ends at zero behind the mesh, and on three quarters of the lines
      that meet the mesh it does so: the mesh is turned consistently. Parts that overlap are then their union.
    - elsewhere by parity: where an odd number of crossings lies before it. Crossings at one place, of faces that
      stand twice, count once, except where this alone makes their number odd (a closed part without thickness).
      Orientation is of no account; where parts overlap, the overlap is hollow.

    A closed mesh is exact by the first; the same mesh with faces doubled or turned at random, by the second, if its
    parts do not overlap. An open mesh is filled as far as two axes agree: a hole costs nothing where only lines along
    one axis pass it; a sheet alone is not solid where lines of two axes do not see both its sides. Lines through
    edges and corners are settled by simulation of simplicity (Edelsbrunner & Muecke 1990).

    Shapes, range and errors as for `voxelize`.
    """
    _check(faces, size)
    return _run(faces, size, _SOLID, dtype)


def overlap(a, b):
    """Count the cells that are set in both of two grids, and those set in either: their quotient is the IoU.

    Parameters
    ----------
    a : (B, n, n, n) bool
    b : (B, n, n, n) bool, or (1, n, n, n) for all of a.

    Returns
    -------
    (B,), (B,) int64

    Raises
    ------
    ValueError for a wrong shape, type or device.
    """
    for name, grid in (("a", a), ("b", b)):
        if not isinstance(grid, torch.Tensor) or grid.dim() != 4 or grid.dtype != torch.bool:
            got = f"{str(grid.dtype)[6:]} of shape {tuple(grid.shape)}" if isinstance(
                grid, torch.Tensor) else type(grid).__name__
            raise ValueError(f"{name} must be a bool tensor of shape (B, n, n, n), got {got}")
    if a.shape[1:] != b.shape[1:] or len(b) not in (1, len(a)) or a.device != b.device:
        raise ValueError(f"b must have the shape {tuple(a.shape)} of a, or its grids only one, and lie on {a.device}; "
                         f"got {tuple(b.shape)} on {b.device}")
    compiled = _backend() == "compiled" and (
        not a.is_cuda or _kernels.cuda_architectures is not None) and a.device.type in ("cpu", "cuda")
    if not compiled:
        return (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    a, b = a.contiguous(), b.contiguous()
    cells = a[:1].numel()
    counts = torch.empty(len(a), 2, dtype=torch.int64, device=a.device)
    pairs = (a.data_ptr(), b.data_ptr(), len(a), cells, cells if len(b) == len(a) else 0, counts.data_ptr())
    if a.is_cuda:
        with torch.cuda.device(a.device):
            _kernels.overlap_cuda(a.device.index, torch.cuda.current_stream(a.device).cuda_stream, *pairs)
    else:
        _kernels.overlap(*pairs, torch.get_num_threads())
    return counts[:, 0], counts[:, 1]
