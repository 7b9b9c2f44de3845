"""The live view of a run in visdom.

A `Follower` reads `metrics.jsonl`, not the training, and sends whole windows under fixed names. So a
resumed run replaces its curves, and a finished run can be shown later. If the server is absent, dead or
hanging, the follower sends what is missing when the server is back.
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

POINTS = 1000  # most points of a curve: twice the window's width in pixels; visdom copies whole windows
SIZE = {"width": 460, "height": 330}
PATIENCE = 5   # seconds to wait at the end of training until the last records are sent

# {entry of a record that is not a loss: (its window, its name there)}
PLACES = {"val_iou": ("validation", "IoU"), "val_mmd": ("validation", "MMD"),
          "val_inside_out": ("validation", "inside out"), "val_psnr_own": ("PSNR", "own view"),
          "val_psnr_new": ("PSNR", "new view"), "lr": ("learning rate", "of E and G"),
          "lr_D": ("learning rate", "of D"), "images_per_s": ("images/s", "images/s")}
CURVES = ("losses", "validation", "PSNR", "learning rate", "images/s")
# All windows, in the order in which they are sent. 'save' asks the server to save them to its disk.
EVERYTHING = ("options", *CURVES, "picture", "mesh", "save")


class Curve:
    """One figure over the steps. A point takes 16 bytes, so that the curves of a long run fit in memory."""

    def __init__(self):
        self.steps, self.values = array("d"), array("d")

    def __len__(self):
        return len(self.steps)

    def add(self, step, value):
        self.steps.append(step)
        self.values.append(value)

    def thinned(self, count):
        """Steps and values of exactly `count` evenly spread points, including the first and the last. If the curve
        has fewer points, points repeat, which is invisible."""
        index = np.linspace(0, len(self) - 1, count).round().astype(int)
        return np.array(self.steps)[index], np.array(self.values)[index]


class Follower:
    """Shows the run in `ckpt_dir`, with its pictures and meshes in `sample_dir`, and updates while the run grows.

    Parameters
    ----------
    env, server : visdom environment, and its `VisdomServer`.
    every : seconds between two updates.

    Notes
    -----
    `offset` is the number of bytes of the file that were read. `pending` are the windows that the server has
    not accepted yet in their newest form. After a failure all windows are pending, since the server may have
    lost everything.
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
        """Read the records written since the last call. If a resumed run has rewritten the file, read all of
        them."""
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
            return  # an incomplete line: the disk was full
        record.pop("time", None)
        for name, value in record.items():
            if name in ("picture", "mesh"):
                self.latest[name] = value
                self.pending.add(name)
            elif isinstance(value, (int, float)) and math.isfinite(value):
                window, name = PLACES.get(name, ("losses", name.replace("_", " ")))
                self.curves[window].setdefault(name, Curve()).add(step, value)
                self.pending.add(window)
        if "val_iou" in record:  # at each checkpoint the server saves, too
            self.pending.add("save")

    # ---- to the server --------------------------------------------------------------------------

    def push(self):
        """Send the pending windows. After a `Trouble` the windows that were not accepted stay pending."""
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
            margintop=30, layoutopts={"plotly": {"title": ""}}))  # the window has its own title

    def _options(self):
        path = os.path.join(self.folder, runs.OPTIONS)
        try:
            with open(path) as file:
                options = dict(strict_json.loads(file.read())["options"])
        except (OSError, ValueError, KeyError, TypeError):
            return  # an old or damaged folder: show only its curves
        rows = "".join(f"<tr><td>{html.escape(name)}&nbsp;</td><td>{html.escape(str(value))}</td></tr>"
                       for name, value in options.items() if value is not None)
        self.client.text(f"<table>{rows}</table>", win="options",
                         opts=dict(title=f"options of {self.folder}", **SIZE))

    def _picture(self):
        """The newest sample sheet, as JPEG, since a PNG would take visdom 100 ms."""
        try:
            with Image.open(os.path.join(self.sample_dir, self.latest["picture"])) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, ValueError, KeyError):
            return  # there is none yet, or it was removed
        self.client.image(pixels.transpose(2, 0, 1), win="picture", opts=dict(
            title=f"samples, {self.latest['picture']}", jpgquality=90))

    def _mesh(self):
        """The newest mesh, in its colours if it has any. The files have y up; plotly has z up."""
        try:
            path = os.path.join(self.sample_dir, self.latest["mesh"])
            vertices, faces = nr.load_obj(path, normalization=False, device="cpu")
            colours = None
            if os.path.exists(os.path.splitext(path)[0] + "_colours.mtl"):
                textures = nr.load_obj(path, texture_size=2, load_texture=True, device="cpu")[2]
                colours = [f"rgb({r}, {g}, {b})" for r, g, b in (255 * textures[:, 0, 0, 0]).int().tolist()]
        except (OSError, ValueError, KeyError):
            return
        vertices, faces = vertices.numpy()[:, [0, 2, 1]] * (1, -1, 1), faces.numpy()
        layout = {"title": "", "scene": {"aspectmode": "data"}}
        opts = dict(title=f"mesh, {self.latest['mesh']}", color="rgb(219, 168, 115)", opacity=1, **SIZE,
                    layoutopts={"plotly": layout})
        if colours is None:
            self.client.mesh(vertices, faces, win="mesh", opts=opts)
            return
        # visdom's `mesh` knows no colours of faces, plotly does: the same message, with them.
        rows = {name: row.tolist() for name, row in zip("xyzijk", (*vertices.T, *faces.T))}
        margin = {"margin": dict.fromkeys("lrtb", 60), "showlegend": False}
        self.client._send({"data": [{"type": "mesh3d", "opacity": 1, "facecolor": colours, **rows}], "win": "mesh",
                           "eid": self.env, "layout": {**margin, **layout}, "opts": opts})

    def _save(self):
        self.client.save([self.env])

    # ---- again and again ------------------------------------------------------------------------

    def update(self):
        """Read and send. After a failure, print a warning once and try again in the next call."""
        try:
            self.read()
            self.push()
        except Exception as error:  # no error of the dashboard may end a training
            if not self.lost:
                reason = error if isinstance(error, Trouble) else f"cannot be used ({type(error).__name__}: {error})"
                _say(f"warning: the visdom server {self.server.url} {reason}; the missing windows are sent when it is "
                     "back")
            # A server that was restarted has forgotten the login.
            self.lost, self.pending, self.client = True, set(EVERYTHING), None
        else:
            if self.lost:
                _say(f"the visdom server {self.server.url} is back and up to date")
                # Send everything again: a server that hung may have applied old requests after new ones.
                self.lost, self.pending = False, set(EVERYTHING)

    def follow(self):
        """Update until `stop` is called, and once more after it for the last records."""
        ending = False
        while not ending:
            ending = self.stopped.is_set()
            self.update()
            self.stopped.wait(self.every)

    def start_in_background(self):
        self.thread = threading.Thread(target=self.follow, name="dashboard", daemon=True)
        self.thread.start()

    def stop(self, patience=PATIENCE):
        """End the thread; waits at most `patience` seconds for the last records to be sent."""
        self.stopped.set()
        self.thread.join(patience)


def _say(line):
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def shown(ckpt_dir, sample_dir, env, server):
    """A context that shows the training inside it in the environment `env` of a `VisdomServer`, unless `env` is None.
    The training never waits for the server."""
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
