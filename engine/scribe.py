"""What is written of a run: in order, and beside a GPU's steps instead of between them."""
import concurrent.futures

import torch

BESIDE = ("cuda",)  # devices that go on meanwhile; a CPU would only work for two


class Scribe:
    """Calls functions one after the other: at once, or where the device trains on meanwhile in a thread of its own.
    What one of them raises, the next call here raises, and no later one is started."""

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
            before.result()  # has ended; raises again what it raised
        function(*arguments)

    def wait(self):
        """Until all is written."""
        if self.last is not None:
            self.last.result()

    def copied(self, state):
        """A nested dict or list as it is now, for a function that runs while the next steps change its tensors. The
        copies are this one's own and made anew by the next call, which waits until nobody reads them."""
        if self.thread is None:
            return state
        self.wait()
        copy = self._copied(state, ())
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()  # copying to pinned memory did not wait
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
            # Pinned once, for that takes longer than the copying: a GPU writes there at the full speed of its bus.
            kept = self.host[path] = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return kept.copy_(value.detach(), non_blocking=True)

    def close(self):
        if self.thread is not None:
            self.thread.shutdown()
            self.wait()
