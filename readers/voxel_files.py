"""Read files of one voxel grid: `.binvox`, and boolean `.npy` and `.npz`.

Convention
----------
A grid is (X, Y, Z) bool, axis k along coordinate k of the file, whatever the storage order of the file.
"""
import os
import re
import zipfile
import zlib
from dataclasses import dataclass

import numpy as np

from errors import InputError

from .cache import npy_header

ENDINGS = (".binvox", ".npy", ".npz")
LARGEST = 1024  # most cells along an axis; a run of 255 cells takes 2 bytes, so a small file may claim a large grid


@dataclass
class VoxelFile:
    """A grid and its position.

    Attributes
    ----------
    grid : (X, Y, Z) bool.
    translate : (3,) float64 and scale : float. In the binvox format the centre of cell (i, j, k) is at
        ((i, j, k) + 1/2) / max(X, Y, Z) * scale + translate, and `scale` is the length of the longest side of the
        grid. 3D-R2N2's ShapeNetVox32 differs: its grids are centred on the object, whose longest side is `scale`
        and spans all 32 cells, so a centre is at (((i, j, k) + 1/2) / 32 - 1/2) * scale; `translate` is a
        corner of the original mesh. Shapes that are centred and scaled afterwards need neither.
    """
    grid: np.ndarray
    translate: np.ndarray
    scale: float


def read_voxels(path):
    """Read a .binvox, .npy or .npz file as a `VoxelFile`; raises InputError."""
    try:
        if os.path.splitext(path)[1].lower() == ".binvox":
            with open(path, "rb") as file:
                return _binvox(path, file.read())
        return VoxelFile(_array(path), np.zeros(3), 1.0)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def _binvox(path, content):
    """Parse Patrick Min's format: an ASCII header, then runs (value byte, count byte)."""
    match = re.match(rb"#binvox\s+1\s*\n(.{0,4096}?)\bdata\r?\n", content, re.DOTALL)
    if not match:
        raise InputError(f"{path} is not a binvox file: expected '#binvox 1', 'dim', 'translate', 'scale' and 'data' "
                         "lines")
    fields = {}
    for line in match[1].decode("ascii", "replace").splitlines():
        if line.strip() and not line.startswith("#"):
            name, *values = line.split()
            fields[name] = values
    try:
        dims = tuple(int(n) for n in fields["dim"])
        translate = np.array([float(x) for x in fields.get("translate", (0, 0, 0))])
        scale, = (float(x) for x in fields.get("scale", (1,)))
    except (KeyError, ValueError):
        raise InputError(f"{path} has a header that cannot be read; expected 'dim X Y Z', 'translate x y z' and "
                         "'scale s'") from None
    if len(dims) != 3 or not all(1 <= n <= LARGEST for n in dims):
        raise InputError(f"{path} has dim {' '.join(map(str, dims))}; expected three sizes from 1 to {LARGEST}")
    if translate.shape != (3,) or not np.isfinite(translate).all() or not 0 < scale < float("inf"):
        raise InputError(f"{path} has translate {translate.tolist()} and scale {scale:g}; expected three finite "
                         "numbers and a positive one")
    runs = np.frombuffer(content, np.uint8, offset=match.end())
    if len(runs) % 2:
        raise InputError(f"{path} is cut short: its last run has a value and no count")
    values, counts = runs[::2], runs[1::2]
    cells, expected = int(counts.sum(dtype=np.int64)), dims[0] * dims[1] * dims[2]
    if cells != expected:
        raise InputError(f"{path} {'is cut short' if cells < expected else 'overflows'}: its runs are {cells} cells, "
                         f"its header says {dims[0]} x {dims[1]} x {dims[2]} = {expected}")
    if values.max(initial=0) > 1:
        raise InputError(f"{path} holds the value {values.max()}; expected runs of 0 and 1")
    # Cells are stored with x slowest and y fastest: index = (x * Z + z) * Y + y. dim is X Z Y in this order.
    stored = np.repeat(values.view(bool), counts).reshape(dims)
    return VoxelFile(np.ascontiguousarray(stored.transpose(0, 2, 1)), translate, scale)


def _array(path):
    """Read the single array of a .npy or .npz file as (X, Y, Z) bool. Pickles are rejected without reading them."""
    try:
        if path.lower().endswith(".npy"):
            with open(path, "rb") as file:
                _check_header(path, file)
            array = np.load(path, allow_pickle=False)
        else:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                if len(names) != 1:
                    raise InputError(f"{path} holds {len(names)} arrays ({', '.join(names[:3])}"
                                     f"{', ...' * (len(names) > 3)}); expected one grid")
                with archive.open(names[0]) as stream:
                    _check_header(path, stream)
            with np.load(path, allow_pickle=False) as arrays:
                array, = arrays.values()
    except (ValueError, KeyError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is damaged or not a file of numpy: {error}") from None
    if array.dtype != bool:
        if not ((array == 0) | (array == 1)).all():
            raise InputError(f"{path} holds other values than 0 and 1; expected a grid of occupied cells")
        array = array == 1
    return np.ascontiguousarray(array)


def _check_header(path, stream):
    shape, _, dtype = npy_header(stream)
    if len(shape) != 3 or not all(1 <= n <= LARGEST for n in shape):
        raise InputError(f"{path} is an array of shape {shape}; expected a grid (X, Y, Z) of 1 to "
                         f"{LARGEST} cells a side")
    if dtype.kind not in "biuf":
        raise InputError(f"{path} is an array of {dtype}; expected bool, or numbers 0 and 1")
