"""Make objects on all cores, in order, and keep finished ones on disk."""
import collections
import concurrent.futures
import hashlib
import multiprocessing
import os
import pickle
import signal
import struct
import threading
import zlib

import torch

from errors import DeviceError, WriteError

PER_WORKER = 16  # least number of objects for which starting a process pays off
# The fork server imports these once for all processes. Only installed packages: it may not find this program's own.
PRELOADED = ["torch", "scipy.sparse", "skimage.measure", "PIL.Image", "neural_renderer"]


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function, items, workers=None):
    """Yield function(item) for each item, in order, computed by `workers` processes (default: one per core).

    The function is pickled once for each process. Each process uses one thread, so that results are bit for bit the
    same for any number of processes. If there are few items, this process computes them itself.
    """
    workers = min(workers or cores(), len(items) // PER_WORKER)
    if workers < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for item in items:
                yield function(item)
        finally:
            torch.set_num_threads(threads)
        return
    methods = multiprocessing.get_all_start_methods()  # never fork: this process has threads
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, _begin, (pickle.dumps(function),))
    waiting, rest = collections.deque(), iter(items)
    try:
        for item in rest:
            waiting.append(pool.submit(_work, item))
            if len(waiting) >= 4 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except concurrent.futures.process.BrokenProcessPool:
        raise DeviceError(f"one of {workers} processes died, perhaps because memory ran out; give fewer with "
                          "--workers=N; the same command continues where this one stopped") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function = None


def _begin(pickled):
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _function = pickle.loads(pickled)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(item):
    return _function(item)


class Journal:
    """Finished records in a file, so that an interrupted program can continue.

    Each record is bytes. `key` describes everything that the records depend on; if the file has another key, it is
    replaced. The records end before the first one that is incomplete or damaged.
    """

    HEAD = struct.Struct("<QI")  # length and CRC-32 of the record

    def __init__(self, path, key):
        self.path, self.count = path, 0
        self.stamp = hashlib.sha256(key).digest()
        try:
            self.file = open(path, "r+b" if os.path.exists(path) else "w+b")
            if self.file.read(len(self.stamp)) != self.stamp:
                self.file.seek(0)
                self.file.write(self.stamp)
            else:
                self.count = sum(1 for _ in self)
            self.end = len(self.stamp) if not self.count else self.end
            self.file.truncate(self.end)
        except OSError as error:
            raise WriteError(f"cannot write {path}: {error.strerror or error}") from None

    def __len__(self):
        return self.count

    def append(self, record):
        try:
            self.file.seek(self.end)
            self.file.write(self.HEAD.pack(len(record), zlib.crc32(record)) + record)
            self.file.flush()
        except OSError as error:
            raise WriteError(f"cannot write {self.path}: {error.strerror or error}") from None
        self.end = self.file.tell()
        self.count += 1

    def __iter__(self):
        self.file.seek(len(self.stamp))
        while len(head := self.file.read(self.HEAD.size)) == self.HEAD.size:
            length, crc = self.HEAD.unpack(head)
            record = self.file.read(min(length, 1 << 32))
            if len(record) < length or zlib.crc32(record) != crc:
                return
            self.end = self.file.tell()
            yield record

    def close(self):
        self.file.close()

    def remove(self):
        self.file.close()
        os.remove(self.path)
