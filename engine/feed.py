"""The batches of a training run, on the device that trains."""
import concurrent.futures

import torch

from errors import InputError

SHARE = 0.5  # of a GPU's free memory that images may take; training needs the rest
CHUNK = 4096  # images copied to the GPU at once


def open_feed(data, sampler, device, part, data_on="auto"):
    """A feed: `batch(step)` gives the `Batch` of a step on `device`; call `close()` at the end.

    part : slice of each batch that this process takes.
    data_on : 'device' keeps all images in the device's memory, as bytes; 'host' reads them from the files, for a GPU
        one batch ahead in a thread; 'auto' is 'device' on a GPU if the images take at most half of its free memory.
    """
    if data_on == "auto":
        data_on = "device" if device.type == "cuda" and not data.augments and fits(data, device) else "host"
    if data_on == "device":
        if data.augments:
            raise InputError(f"--data_on=device: {data.name} crops its images anew for every batch; give host or "
                             "auto")
        return Resident(data, sampler, device, part)
    return (Ahead if device.type == "cuda" else FromFiles)(data, sampler, device, part)


def size_of(data):
    """Bytes of all images of a split, with silhouettes, cameras, poses and object numbers."""
    return len(data) * sum(t.numel() * t.element_size() for t in data.read([0]).tensors())


def fits(data, device):
    free, _ = torch.cuda.mem_get_info(device)
    return size_of(data) <= SHARE * free


class FromFiles:
    """Reads each batch when it is asked for."""

    told = None  # a line for the console: where the images are

    def __init__(self, data, sampler, device, part):
        self.data, self.sampler, self.device, self.part = data, sampler, device, part

    def batch(self, step):
        return self._read(step).to(self.device).as_numbers()

    def _read(self, step):
        numbers = self.sampler.batch(step)
        return self.data.read(numbers, step, self.part).numbered(numbers[self.part])

    def close(self):
        pass


class Ahead(FromFiles):
    """Reads the next batch in a thread while the step before runs, into pinned memory, which a GPU reads directly."""

    told = "images are read from the host, one batch ahead"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.thread = concurrent.futures.ThreadPoolExecutor(1)
        self.coming = {}

    def batch(self, step):
        reading = self.coming.pop(step, None) or self.thread.submit(self._pinned, step)
        self.coming = {step + 1: self.thread.submit(self._pinned, step + 1)}
        return reading.result().to(self.device).as_numbers()

    def _pinned(self, step):
        batch = self._read(step)
        return batch.map(torch.Tensor.pin_memory) if self.device.type == "cuda" else batch

    def close(self):
        self.thread.shutdown(cancel_futures=True)


class Resident(FromFiles):
    """Keeps all images in the device's memory and gathers batches there."""

    def __init__(self, data, sampler, device, part):
        super().__init__(data, sampler, device, part)
        self.whole = data.read([0]).map(
            lambda t: torch.empty(len(data), *t.shape[1:], dtype=t.dtype, device=device))
        for first in range(0, len(data), CHUNK):
            chunk = data.read(range(first, min(first + CHUNK, len(data))))
            for target, source in zip(self.whole.tensors(), chunk.tensors(), strict=True):
                target[first:first + len(source)] = source
        self.whole = self.whole.numbered(torch.arange(len(data), device=device))
        self.told = f"all images are in the memory of {device}: {size_of(data) / 1e9:.1f} GB"

    def batch(self, step):
        numbers = torch.from_numpy(self.sampler.batch(step)[self.part])
        if self.device.type == "cuda":  # copies from pinned memory are asynchronous
            numbers = numbers.pin_memory().to(self.device, non_blocking=True)
        return self.whole.map(lambda t: t.index_select(0, numbers)).as_numbers()
