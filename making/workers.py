"""Objects made on all cores, in order, and kept on disk as they come."""
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

PER_WORKER = 16  # objects that are worth the start of a process
# Imported once, not in each process. None of our own: the server of forks finds those from some folders alone.
PRELOADED = ["torch", "scipy.sparse", "skimage.measure", "PIL.Image", "neural_renderer"]


def cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function, items, workers=None):
    """Yield function(item) of each item, in their order, from that many processes (default: all cores).

    The function is pickled once for each process; one thread computes in each, so that results are equal to the bit
    however many there are. Few items are worked out in this process.
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
        raise DeviceError(f"one of {workers} processes ended without a word, perhaps for want of memory; --workers=N "
                          "takes fewer, and the same command goes on where this one stopped") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function = None


def _begin(pickled):
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends this
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _function = pickle.loads(pickled)


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(item):
    return _function(item)


class Journal:
    """Records made so far, in a file that outlives an interruption.

    Each record is bytes. `key` stands for all that they depend on: a file with another one is begun anew. What a crash
    cut short or a disk garbled ends the list of those that count.
    """

    HEAD = struct.Struct("<QI")  # length and CRC-32 of what follows

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
