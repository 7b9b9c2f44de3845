"""Records of objects as bytes, which processes send and journals keep, and npz files that are assembled from pieces
which the processes have compressed.
"""
import contextlib
import functools
import io
import json
import math
import os
import struct
import zipfile
import zlib

import numpy as np

from engine import disk

NUMBER = struct.Struct("<I")


def to_bytes(record):
    """Convert a dict of numeric arrays to bytes: the length of a JSON header, the header, the contents."""
    arrays = {name: np.ascontiguousarray(array) for name, array in record.items()}
    head = json.dumps({name: (array.dtype.str, np.shape(record[name])) for name, array in arrays.items()}).encode()
    return b"".join([NUMBER.pack(len(head)), head, *(array.tobytes() for array in arrays.values())])


def from_bytes(payload):
    """The inverse of `to_bytes`."""
    at = NUMBER.size + NUMBER.unpack_from(payload)[0]
    record = {}
    for name, (dtype, shape) in json.loads(payload[NUMBER.size:at]).items():
        record[name] = np.frombuffer(payload, dtype, math.prod(shape), at).reshape(shape)
        at += record[name].nbytes
    return record


def deflated(row):
    """Compress an array to a piece for `rows_file`: (n,) uint8, the CRC-32 of its bytes, then a stream of deflate that
    ends at a whole byte and does not refer to earlier data."""
    content = np.ascontiguousarray(row).tobytes()
    squeezer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = NUMBER.pack(zlib.crc32(content)), squeezer.compress(content), squeezer.flush(zlib.Z_FULL_FLUSH)
    return np.frombuffer(b"".join(pieces), np.uint8)


def inflated(piece, shape, dtype):
    """The array that was `deflated`."""
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(piece[NUMBER.size:].tobytes())
    return np.frombuffer(content, dtype).reshape(shape)


@contextlib.contextmanager
def rows_file(folder, stem, shape, dtype, compressed=True):
    """A context that writes `stem`.npz, a file with one array. It gives a function that must be called with each of the
    shape[0] rows: a `deflated` piece or, with compressed=False, the row.

    A member of a zip file is one stream of deflate with a CRC-32. Streams that end at a whole byte can be concatenated,
    and the CRC-32 of the whole follows from those of the pieces, so that nothing is compressed twice.
    """
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(dtype))})
    head, length = head.getvalue(), math.prod(shape[1:]) * np.dtype(dtype).itemsize
    with disk.written_whole(os.path.join(folder, stem + ".npz"), "wb") as out, zipfile.ZipFile(out, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as array:
            if not compressed:
                array.write(head)
                yield lambda row: array.write(np.ascontiguousarray(row, dtype).tobytes())
                return
            crc, whole = zlib.crc32(head), zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
            array.write(whole.compress(head) + whole.flush(zlib.Z_FULL_FLUSH))

            def add(piece):
                nonlocal crc
                crc = _crc_of_both(crc, NUMBER.unpack(piece[:NUMBER.size])[0], length)
                array.write(piece[NUMBER.size:])
            yield add
            array.write(b"\x03\x00")  # an empty last block
        entry = archive.getinfo("arr_0.npy")
        entry.compress_type, entry.CRC, entry.file_size = zipfile.ZIP_DEFLATED, crc, len(head) + shape[0] * length
        out.seek(entry.header_offset)
        out.write(entry.FileHeader(zip64=True))


def _crc_of_both(first, second, length):
    """The CRC-32 of two concatenated pieces, from those of the pieces and the length of the second."""
    for bit, column in enumerate(_crc_columns(length)):
        if first >> bit & 1:
            second ^= column
    return second


@functools.cache
def _crc_columns(length):
    """How `length` more bytes change each bit of a CRC-32, which is linear except for a constant."""
    zeros = bytes(length)
    constant = zlib.crc32(zeros)
    return [zlib.crc32(zeros, 1 << bit) ^ constant for bit in range(32)]
