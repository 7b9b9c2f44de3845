"""What processes hand over of an object, as bytes, and npz files that are put together from it without compressing
anything again.
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
    """Bytes of a dict of arrays, of numbers alone: what they are in JSON, its length before it, and their contents."""
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
    """A piece for `rows_file`: (n,) uint8, the CRC-32 of an array's bytes and these compressed, up to a whole byte and
    without looking back beyond the array."""
    content = np.ascontiguousarray(row).tobytes()
    squeezer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    pieces = NUMBER.pack(zlib.crc32(content)), squeezer.compress(content), squeezer.flush(zlib.Z_FULL_FLUSH)
    return np.frombuffer(b"".join(pieces), np.uint8)


@contextlib.contextmanager
def rows_file(folder, stem, shape, dtype, compressed=True):
    """A function that adds the next row, of shape[0], to `stem`.npz, a file of one array: a `deflated` piece or, not
    compressed, the row itself.

    The members of a zip file have one stream of deflate each and the CRC-32 of all of it. Streams that end at a whole
    byte may be put one behind the other, and the CRC-32 follows from theirs; so processes compress.
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
            array.write(b"\x03\x00")  # the last block, empty
        entry = archive.getinfo("arr_0.npy")
        entry.compress_type, entry.CRC, entry.file_size = zipfile.ZIP_DEFLATED, crc, len(head) + shape[0] * length
        out.seek(entry.header_offset)
        out.write(entry.FileHeader(zip64=True))


def _crc_of_both(first, second, length):
    """CRC-32 of two pieces of bytes one behind the other, from theirs and the length of the second."""
    for bit, column in enumerate(_crc_columns(length)):
        if first >> bit & 1:
            second ^= column
    return second


@functools.cache
def _crc_columns(length):
    """What each bit of a CRC-32 becomes by so many bytes more: CRC-32 is linear but for a constant."""
    zeros = bytes(length)
    constant = zlib.crc32(zeros)
    return [zlib.crc32(zeros, 1 << bit) ^ constant for bit in range(32)]
