"""Voxelisers: convert batches of triangle meshes to occupancy grids.

`voxelize` follows the rule of the published evaluation code (Kato & Harada, CVPR 2019): published IoU
figures can only be compared with figures under this rule. `voxelize_solid` is exact: a cell is solid if
its centre is inside the mesh. `overlap` counts the intersection and the union of grids.

Convention
----------
Coordinate k of a triangle runs along axis k of the grid; [0, 1] spans all `size` cells.
"""
import functools

import torch
from neural_renderer.backend import default

from . import reference

try:
    from . import _kernels  # type: ignore[attr-defined]
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
        raise ValueError(f"faces must be finite, but mesh {bad} of the batch has a NaN or infinite coordinate")


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


def voxelize(faces: torch.Tensor, size: int, normalize: bool = False,
             dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """Occupancy by the published rule.

    1. Along each axis, take the grid lines at integer coordinates 0 ... size-1. Where a line meets a triangle
       (edges included), the four cells around the line at that height are solid.
    2. The cell of every corner is solid; its coordinates are truncated towards zero.
    3. Empty cells that no path through empty 6-neighbours connects with the border are solid.

    Thin parts become up to two cells thicker than they are.

    Parameters
    ----------
    faces : (B, F, 3, 3) float, corners in [0, 1]; parts outside of the grid are ignored.
    size : int, cells along each axis.
    normalize : bool. Scale and centre the box of the whole batch so that its longest side spans
        (size - 1) / size of the grid.
    dtype : of the result; torch.bool is fastest.

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


def voxelize_solid(faces: torch.Tensor, size: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    """Exact occupancy: a cell is solid if its centre is inside the mesh, whatever the orientation of the faces.

    Lines through the centres of the cells run along each of the three axes. A cell is solid if its centre is inside
    along at least two of its three lines. There are two rules for the inside of a line:

    - Winding number: a centre is inside where the winding number is not zero. This rule is used if the winding number
      of the line ends at zero behind the mesh, and three quarters of the lines that meet the mesh end so, which shows
      that the faces are oriented consistently. Parts that overlap form their union.
    - Parity, for all other lines: a centre is inside behind an odd number of crossings. Crossings at the same place,
      of duplicated faces, count once, unless only this makes their number odd (a closed part without thickness). The
      orientation of faces does not matter. Where parts overlap, the overlap is hollow.

    A closed, consistently oriented mesh is exact by the winding number. The same mesh with faces doubled or turned at
    random is exact by parity, if its parts do not overlap. In an open mesh the cells are solid where two axes agree: a
    hole that only lines along one axis pass changes nothing, and a single sheet is not solid unless lines along two
    axes cross it twice. A line through an edge or a corner is decided by simulation of simplicity (Edelsbrunner &
    Muecke 1990).

    Shapes, range and errors are those of `voxelize`.
    """
    _check(faces, size)
    return _run(faces, size, _SOLID, dtype)


def overlap(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the cells set in both of two grids and the cells set in at least one; the quotient is the IoU.

    Parameters
    ----------
    a : (B, n, n, n) bool
    b : (B, n, n, n) bool, or one grid (1, n, n, n) to compare with every grid of a.

    Returns
    -------
    intersection (B,), union (B,), int64

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
        raise ValueError(f"b must have the shape {tuple(a.shape)} of a, or hold one grid of that size, and lie on "
                         f"{a.device}; got {tuple(b.shape)} on {b.device}")
    if not _counts_on(a.device):
        return (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    counts = _counts(a.contiguous(), b.contiguous())
    return counts[:, 0], counts[:, 1]


def _counts_on(device):
    """Whether a compiled kernel counts cells on this device."""
    return _backend() == "compiled" and (device.type == "cpu" or
                                         device.type == "cuda" and _kernels.cuda_architectures is not None)


def _counts(a, b):
    cells = a[:1].numel()
    counts = torch.empty(len(a), 2, dtype=torch.int64, device=a.device)
    pairs = (a.data_ptr(), b.data_ptr(), len(a), cells, cells if len(b) == len(a) else 0, counts.data_ptr())
    if a.is_cuda:
        with torch.cuda.device(a.device):
            _kernels.overlap_cuda(a.device.index, torch.cuda.current_stream(a.device).cuda_stream, *pairs)
    else:
        _kernels.overlap(*pairs, torch.get_num_threads())
    return counts
