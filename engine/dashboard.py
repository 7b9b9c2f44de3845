"""The live view of a run in visdom.

`metrics.jsonl` is the truth and the dashboard a view of it: a `Follower` reads the file, never the
training, and sends each window whole under a fixed name. So a resumed run replaces its curves, a finished
run can be shown later, and what an absent, dead or hung server missed is sent when it is back.
"""
import contextlib
import html
import math
import os
import sys
import threading
from array import array

import numpy as np
from PIL import Image

import neural_renderer as nr
from engine import runs, strict_json
from engine.visdom_server import Trouble

POINTS = 1000  # of a window: twice its width in pixels; visdom copies a window as a whole, so each one costs
SIZE = {"width": 460, "height": 330}
PATIENCE = 5   # seconds that the end of training waits for the last records to arrive

# What a record holds besides losses: the window it is drawn in, and its name there.
PLACES = {"val_iou": ("validation", "IoU"), "val_mmd": ("validation", "MMD"),
          "val_inside_out": ("validation", "inside out"), "lr": ("learning rate", "of E and G"),
          "lr_D": ("learning rate", "of D"), "images_per_s": ("images/s", "images/s")}
CURVES = ("losses", "validation", "learning rate", "images/s")
# In the order they are sent; 'save' is the request to keep them on the server's disk.
EVERYTHING = ("options", *CURVES, "picture", "mesh", "save")


class Curve:
    """One figure over the steps: 16 bytes a point, so that those of a long run fit in memory."""

    def __init__(self):
        self.steps, self.values = array("d"), array("d")

    def __len__(self):
        return len(self.steps)

    def add(self, step, value):
        self.steps.append(step)
        self.values.append(value)

    def thinned(self, count):
        """Steps and values of exactly `count` points spread evenly, with the first and the last; points
        repeat, which no eye sees, where the curve has fewer."""
        index = np.linspace(0, len(self) - 1, count).round().astype(int)
        return np.array(self.steps)[index], np.array(self.values)[index]


class Follower:
    """Shows the run in `ckpt_dir`, whose pictures and meshes are in `sample_dir`, as it grows.

    Parameters
    ----------
    env, server : where it is shown, the environment and its `VisdomServer`.
    every : seconds between two looks at the file, and so between two updates of a window.

    Notes
    -----
    `offset` is the byte of the file up to which it was read, `pending` are the windows that differ from
    what the server was seen to accept. A server that failed may have forgotten everything: then all are.
    """

    def __init__(self, ckpt_dir, sample_dir, env, server, every=5.0):
        server.check(env)
        self.folder, self.sample_dir, self.env, self.every, self.server = ckpt_dir, sample_dir, env, every, server
        self.client = None
        self.offset, self.inode = 0, None
        self.curves = {window: {} for window in CURVES}
        self.latest = {}
        self.pending = set(EVERYTHING)
        self.lost = False
        self.stopped = threading.Event()
        self.thread = None

    # ---- from the file --------------------------------------------------------------------------

    def read(self):
        """Take in the records written since the last time; all of them if a resumed run, which rewrites
        the file, has begun."""
        try:
            file = open(os.path.join(self.folder, runs.METRICS), "rb")
        except FileNotFoundError:
            return  # no record yet
        with file:
            status = os.fstat(file.fileno())
            if status.st_ino != self.inode or status.st_size < self.offset:
                self.offset, self.inode = 0, status.st_ino
                self.curves = {window: {} for window in CURVES}
                self.pending = set(EVERYTHING)
            file.seek(self.offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self.offset += len(whole + newline)
        for line in whole.splitlines():
            self._take(line)

    def _take(self, line):
        try:
            record = strict_json.loads(line)
            step = float(record.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # a line that a full disk cut
        record.pop("time", None)
        for name, value in record.items():
            if name in ("picture", "mesh"):
                self.latest[name] = value
                self.pending.add(name)
            elif isinstance(value, (int, float)) and math.isfinite(value):
                window, name = PLACES.get(name, ("losses", name.replace("_", " ")))
                self.curves[window].setdefault(name, Curve()).add(step, value)
                self.pending.add(window)
        if "val_iou" in record:  # a checkpoint: a good moment for the server to save, too
            self.pending.add("save")

    # ---- to the server --------------------------------------------------------------------------

    def push(self):
        """Send the pending windows; `Trouble` leaves those that the server did not accept pending."""
        if self.client is None:
            self.client = self.server.client(self.env)
        for window in EVERYTHING:
            if window in self.pending:
                if window in CURVES:
                    self._lines(window)
                else:
                    getattr(self, f"_{window}")()
                self.pending.discard(window)

    def _lines(self, window):
        curves = self.curves[window]
        if not curves:
            return
        count = min(max(map(len, curves.values())), POINTS // len(curves))
        steps, values = zip(*(curve.thinned(count) for curve in curves.values()))
        self.client.line(np.stack(values, 1), np.stack(steps, 1), win=window, opts=dict(
            title=window, xlabel="step", legend=list(curves), showlegend=len(curves) > 1, markers=count < 50,
            markersize=4, ytype="log" if window in ("losses", "learning rate") else "linear", **SIZE,
            margintop=30, layoutopts={"plotly": {"title": ""}}))  # the window has one

    def _options(self):
        path = os.path.join(self.folder, runs.OPTIONS)
        try:
            with open(path) as file:
                options = dict(strict_json.loads(file.read())["options"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # an old or damaged folder: its curves are worth showing all the same
        rows = "".join(f"<tr><td>{html.escape(name)}&nbsp;</td><td>{html.escape(str(value))}</td></tr>"
                       for name, value in options.items() if value is not None)
        self.client.text(f"<table>{rows}</table>", win="options",
                         opts=dict(title=f"options of {self.folder}", **SIZE))

    def _picture(self):
        """The newest sample sheet, as JPEG: visdom would spend 100 ms on a PNG."""
        try:
            with Image.open(os.path.join(self.sample_dir, self.latest["picture"])) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, KeyError):
            return  # none yet, or no longer there: the next one comes
        self.client.image(pixels.transpose(2, 0, 1), win="picture", opts=dict(
            title=f"samples, {self.latest['picture']}", jpgquality=90))

    def _mesh(self):
        """The newest mesh; the files have y up, the browser z."""
        try:
            vertices, faces = nr.load_obj(os.path.join(self.sample_dir, self.latest["mesh"]), normalization=False,
                                         device="cpu")
        except (OSError, ValueError, KeyError):
            return
        self.client.mesh(vertices.cpu().numpy()[:, [0, 2, 1]] * (1, -1, 1), faces.cpu().numpy(), win="mesh",
                         opts=dict(title=f"mesh, {self.latest['mesh']}", color="rgb(219, 168, 115)", opacity=1,
                                   **SIZE, layoutopts={"plotly": {"title": "", "scene": {"aspectmode": "data"}}}))

    def _save(self):
        self.client.save([self.env])

    # ---- again and again ------------------------------------------------------------------------

    def update(self):
        """Read and send. Whatever goes wrong is said once, and tried again the next time."""
        try:
            self.read()
            self.push()
        except Exception as error:  # the dashboard must not cost a run, whatever is wrong with it
            if not self.lost:
                reason = error if isinstance(error, Trouble) else f"cannot be used ({type(error).__name__}: {error})"
                _say(f"warning: the visdom server {self.server.url} {reason}; what it misses is sent when it is back")
            # A server that began anew knows no login.
            self.lost, self.pending, self.client = True, set(EVERYTHING), None
        else:
            if self.lost:
                _say(f"the visdom server {self.server.url} is back and up to date")
                # Once more: what had waited in a server that hung may have come after what is newer.
                self.lost, self.pending = False, set(EVERYTHING)

    def follow(self):
        """Update until `stop`, and once after it, for what was written before."""
        ending = False
        while not ending:
            ending = self.stopped.is_set()
            self.update()
            self.stopped.wait(self.every)

    def start_in_background(self):
        self.thread = threading.Thread(target=self.follow, name="dashboard", daemon=True)
        self.thread.start()

    def stop(self, patience=PATIENCE):
        """End the thread; it may take `patience` seconds for the last records."""
        self.stopped.set()
        self.thread.join(patience)


def _say(line):
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def shown(ckpt_dir, sample_dir, env, server):
    """Training inside this context is shown in the environment `env` of a `VisdomServer`, unless that is None; the
    training never waits for it."""
    if env is None:
        yield
        return
    follower = Follower(ckpt_dir, sample_dir, env, server)
    follower.start_in_background()
    patience = PATIENCE
    try:
        yield
    except KeyboardInterrupt:
        patience = 0
        raise
    finally:
        follower.stop(patience)
