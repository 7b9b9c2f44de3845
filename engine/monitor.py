"""Console output and records (one JSON line each) of a run. Errors here never stop a training."""
import math
import os
import sys
import time

from engine import strict_json
from errors import WriteError

# Figures that may be undefined for a split, and why. A loss that is NaN is printed as such.
UNDEFINED = {"val MMD": "- (too few objects a pose)"}


def duration(seconds):
    """12 -> '12s', 754 -> '12m34s', 7449 -> '2h04m'."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"


class Progress:
    """Lines like '  car train 120/300, 41.2/s, 4s left': rewritten on a terminal, every 10 s elsewhere.

    Off a terminal tqdm writes a bar at a time into one line; log files want whole lines.
    """

    def __init__(self, what, total, unit="", out=None):
        self.what, self.total, self.unit = what, total, unit
        self.out = out or sys.stderr
        self.start = self.shown = time.monotonic()
        self.alive = self.out.isatty()
        self.first = 0  # done before this began

    def update(self, done):
        now = time.monotonic()
        last = done >= self.total
        if not last and now - self.shown < (0.2 if self.alive else 10):
            return
        self.shown = now
        rate = max(done - self.first, 0) / max(now - self.start, 1e-9)
        left = "done in " + duration(now - self.start) if last else \
            duration((self.total - done) / max(rate, 1e-9)) + " left"
        line = f"{self.what} {done}/{self.total}{self.unit}, {rate:.1f}/s, {left}"
        if self.alive:
            self.out.write("\r\x1b[K" + line + ("\n" if last else ""))
        else:
            self.out.write(line + "\n")
        self.out.flush()


class Monitor:
    """Records of a training run.

    Parameters
    ----------
    path : the JSONL file; records are appended. If a write fails, the monitor warns once and retries with the next
        record, so a disk that is full for a while loses nothing.
    first, total : the first and the last step of this training.
    elapsed : seconds that the resumed run has taken so far.
    """

    def __init__(self, path, first, total, elapsed=0.0):
        self.path, self.first, self.total = path, first, total
        self.start = time.monotonic()
        self.before = elapsed
        self.waiting, self.failed = [], False

    @property
    def elapsed(self):
        return self.before + time.monotonic() - self.start

    def record(self, step, values, time=None):
        """Append {'step', 'time', **values}; numbers that are not finite become null. time : default, now."""
        time = round(self.elapsed if time is None else time, 3)
        self.waiting.append(strict_json.dumps({"step": step, "time": time, **values}) + "\n")
        try:
            self._write()
        except OSError as error:
            if not self.failed:
                self.say(f"warning: cannot write {self.path} ({error.strerror}); records are kept and "
                         "tried again")
            self.failed = True

    def sync(self):
        """Sync all records to disk, or raise WriteError. Called before a checkpoint claims their steps."""
        try:
            self._write(sync=True)
        except OSError as error:
            raise WriteError(f"cannot write {self.path}: {error.strerror}") from None

    def _write(self, sync=False):
        size = None
        try:
            with open(self.path, "a") as out:
                size = out.tell()
                out.write("".join(self.waiting))
                out.flush()
                if sync:
                    os.fsync(out.fileno())
        except OSError:
            self._forget_torn_lines(size)
            raise
        self.waiting.clear()

    def _forget_torn_lines(self, size):
        """Truncate to the last complete record: a full disk may have written part of one."""
        if size is not None:
            try:
                os.truncate(self.path, size)
            except OSError:
                pass  # a resumed run drops them (runs.start)

    def progress(self, step, values):
        """Print a line: figures, rate, time left."""
        done = step - self.first
        rate = done / max(time.monotonic() - self.start, 1e-9)
        left = duration((self.total - step) / rate) if rate > 0 else "?"
        figures = "  ".join(f"{k} " + (UNDEFINED[k] if k in UNDEFINED and math.isnan(v) else f"{v:.4g}")
                            for k, v in values.items())
        self.say(f"{step:>{len(str(self.total))}}/{self.total}  {figures}  {rate:.1f} it/s, {left} left")

    def say(self, line):
        try:
            print(line, flush=True)
        except OSError:
            pass  # the terminal is gone; the run is not
