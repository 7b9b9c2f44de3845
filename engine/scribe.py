"""Writes the files of a run in order; while a GPU trains, in a background thread."""
import concurrent.futures

import torch

BESIDE = ("cuda",)  # devices that compute while the CPU writes; on a CPU a thread would only slow the steps down


class Scribe:
    """Calls functions one after the other: immediately on a CPU, in a background thread beside a GPU. If a function
    raises, the next call raises the same exception and no further function runs."""

    def __init__(self, device):
        self.device = device
        self.thread = concurrent.futures.ThreadPoolExecutor(1) if device.type in BESIDE else None
        self.last, self.host = None, {}

    def do(self, function, *arguments):
        if self.thread is None:
            function(*arguments)
        else:
            if self.last is not None and self.last.done():
                self.last.result()
            self.last = self.thread.submit(self._after, self.last, function, arguments)

    @staticmethod
    def _after(before, function, arguments):
        if before is not None:
            before.result()  # it has ended; this raises its exception again
        function(*arguments)

    def wait(self):
        """Wait until everything is written."""
        if self.last is not None:
            self.last.result()

    def copied(self, state):
        """Copy a nested dict or list, for a function that runs while the next steps change its tensors. The next call
        reuses the memory of the copies; it first waits until all functions have ended."""
        if self.thread is None:
            return state
        self.wait()
        copy = self._copied(state, ())
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # copies to pinned memory are asynchronous
        return copy

    def _copied(self, value, path):
        if isinstance(value, dict):
            return {key: self._copied(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self._copied(item, (*path, number)) for number, item in enumerate(value)]
        if not isinstance(value, torch.Tensor):
            return value
        kept = self.host.get(path)
        if kept is None or kept.shape != value.shape or kept.dtype != value.dtype:
            # Pin once: pinning takes longer than copying, and a GPU writes to pinned memory at full bus speed.
            kept = self.host[path] = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return kept.copy_(value.detach(), non_blocking=True)

    def close(self):
        if self.thread is not None:
            self.thread.shutdown()
            self.wait()
