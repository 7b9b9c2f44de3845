"""Signals that end a training: SIGTERM, SIGINT, and SIGUSR1, which Slurm sends before it takes a node."""
import signal

from errors import Stopped

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Interruption:
    """A context in which the signals raise `Stopped`. Once `stepping` is set, they set `wanted` instead, which asks the
    loop to stop after the current step; a second SIGINT still stops at once."""

    def __init__(self):
        self.wanted, self.stepping, self._sigints = None, False, 0

    def __enter__(self):
        self.before = {s: signal.signal(s, self._note) for s in SIGNALS}
        return self

    def _note(self, number, _frame):
        self._sigints += number == signal.SIGINT
        self.wanted = signal.Signals(number)
        if not self.stepping or self._sigints > 1:
            raise Stopped(f"{self.wanted.name}: stopped " + (
                "at once; the last checkpoint stays: continue with --resume" if self.stepping
                else "before the first step"))

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
