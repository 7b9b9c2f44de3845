"""The cache: dataset files, unpacked or decoded once, then mapped into memory."""
import contextlib
import glob
import hashlib
import json
import os
import shutil
import zipfile
import zlib

import numpy as np

from errors import InputError


def open_npz(path, cache_dir, say=print):
    """The array `arr_0` of an npz file, mapped into memory, read only.

    The first call unpacks it into `cache_dir`, piece by piece. The name of the copy contains the path, size and time of
    the source, so a changed source is unpacked again. Raises InputError for arrays of Python objects, which are
    pickles.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    stem = os.path.basename(path)[:-len(".npz")]
    source = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:8]
    prefix = os.path.join(cache_dir, f"{stem}.{source}.")
    cached = f"{prefix}{status.st_size}-{status.st_mtime_ns}.npy"
    if not os.path.exists(cached):
        try:
            os.makedirs(cache_dir, exist_ok=True)
        except OSError as error:
            raise InputError(f"--cache_dir={cache_dir} cannot be made: {error.strerror}") from None
        for old in glob.glob(glob.escape(prefix) + "*.npy"):
            os.remove(old)
        _unpack(path, cached, say)
    return np.load(cached, mmap_mode="r", allow_pickle=False)


def npy_header(stream):
    """(shape, whether in Fortran order, dtype) of an npy file, or ValueError."""
    version = np.lib.format.read_magic(stream)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"an npy header of version {version}; expected 1.0 or 2.0")
    try:
        return read(stream)
    except Exception as error:  # numpy parses it as Python, which raises many kinds of errors
        raise ValueError(f"an npy header that cannot be read: {error}") from None


def _unpack(path, target, say):
    beside = f"{target}.{os.getpid()}.part"
    try:
        with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as source:
            shape, fortran, dtype = npy_header(source)
            if dtype.hasobject:
                raise InputError(f"{path} holds Python objects, which may run code; expected numbers")
            expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            if fortran:
                raise InputError(f"{path} is stored in Fortran order; expected C order")
            if expected > 256e6:
                say(f"unpacking {os.path.basename(path)} ({expected / 1e9:.1f} GB), this time only ...")
            with open(beside, "wb") as out:
                np.lib.format.write_array_header_1_0(
                    out, {"shape": shape, "fortran_order": False,
                          "descr": np.lib.format.dtype_to_descr(dtype)})
                left = expected
                while left:
                    piece = source.read(min(left, 1 << 24))
                    if not piece:
                        raise InputError(f"{path} is cut short: {left} of {expected} bytes of arr_0 missing")
                    out.write(piece)
                    left -= len(piece)
                if source.read(1):
                    raise InputError(f"{path} holds more bytes than its shape {shape} says")
        os.replace(beside, target)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is damaged or not an npz file with an array arr_0: {error}") from None
    except OSError as error:
        raise InputError(f"cannot unpack {path} into {os.path.dirname(target)}: {error.strerror}") from None
    finally:
        if os.path.exists(beside):
            os.remove(beside)


# ---- decoded arrays -----------------------------------------------------------------------------------

FORMAT = 2  # of the decoded arrays; raise it to make every cache decode again


def fingerprint(known, paths):
    """A key that changes with `known` (plain values) and with the path, size or time of any file."""
    digest = hashlib.sha256(json.dumps([FORMAT, known]).encode())
    for path in paths:
        try:
            status = os.stat(path)
            digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        except OSError:
            digest.update(f"{path}\0missing\0".encode())
    return digest.hexdigest()[:16]


def build(cache_dir, stem, source, key, write):
    """Arrays that `write` makes once, in `cache_dir/<stem>.<source>.<key>`; mapped into memory, read only.

    Parameters
    ----------
    source : the folder of the dataset; several datasets may share a cache. Arrays of the same source with another key
        are removed.
    write : called as write(make), where make(name, shape, dtype) gives an array on disk to fill; it returns a
        dict of further arrays. If it raises, nothing remains on disk.

    Returns
    -------
    dict of all arrays by name.
    """
    source = hashlib.sha256(os.path.abspath(source).encode()).hexdigest()[:8]
    prefix = os.path.join(cache_dir, f"{stem}.{source}.")
    folder = prefix + key
    if not os.path.isdir(folder):
        for old in glob.glob(glob.escape(prefix) + "*"):
            shutil.rmtree(old, ignore_errors=True)
        beside = f"{folder}.{os.getpid()}.part"
        made = {}

        def make(name, shape, dtype):
            path = os.path.join(beside, name + ".npy")
            if not np.prod(shape):  # nothing to map
                made[name] = np.empty(shape, dtype)
                return made[name]
            made[name] = np.lib.format.open_memmap(path, "w+", dtype, shape)
            if hasattr(os, "posix_fallocate"):  # a full disk raises here, instead of SIGBUS on a later write
                with open(path, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
            return made[name]

        try:
            os.makedirs(beside)
            for name, array in write(make).items():
                np.save(os.path.join(beside, name + ".npy"), array, allow_pickle=False)
            for name, array in made.items():
                if array.size:
                    array.flush()
                else:
                    np.save(os.path.join(beside, name + ".npy"), array)
            made.clear()
            os.replace(beside, folder)
        except OSError as error:
            raise InputError(f"--cache_dir={cache_dir} cannot be written: {error.strerror or error}") from None
        finally:
            with contextlib.suppress(OSError):
                shutil.rmtree(beside)
    return {os.path.basename(path)[:-len(".npy")]: _mapped(path)
            for path in glob.glob(os.path.join(glob.escape(folder), "*.npy"))}


def _mapped(path):
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError:
        return np.load(path, allow_pickle=False)
