"""The live view of a run in visdom.

`metrics.jsonl` is the truth and the dashboard a view of it: a `Follower` reads the file, never the
training, and sends each window whole under a fixed name. So a resumed run replaces its curves, a finished
run can be shown later, and what an absent, dead or hung server missed is sent when it is back.
"""
import contextlib
import html
import importlib.util
import math
import os
import sys
import threading
import urllib.parse
from array import array

import numpy as np
from PIL import Image

import neural_renderer as nr
from engine import runs, strict_json
from engine.arguments import integer
from errors import InputError

SERVER = {
    "visdom_env": dict(metavar="NAME", help="show the run in this visdom environment"),
    "visdom_server": dict(metavar="URL", default="http://localhost", help="where visdom runs"),
    "visdom_port": dict(type=integer(1), default=8097, help="its port")}
POINTS = 1000  # of a window: twice its width in pixels; visdom copies a window as a whole, so each one costs
SIZE = {"width": 460, "height": 330}
TIMEOUT = 3    # seconds that the server may take for one request
PATIENCE = 5   # seconds that the end of training waits for the last records to arrive

# What a record holds besides losses: the window it is drawn in, and its name there.
PLACES = {"val_iou": ("validation", "IoU"), "val_mmd": ("validation", "MMD"),
          "val_inside_out": ("validation", "inside out"), "lr": ("learning rate", "of E and G"),
          "lr_D": ("learning rate", "of D"), "images_per_s": ("images/s", "images/s")}
CURVES = ("losses", "validation", "learning rate", "images/s")
# In the order they are sent; 'save' is the request to keep them on the server's disk.
EVERYTHING = ("options", *CURVES, "picture", "mesh", "save")


def check(env, port):
    """Refuse names that visdom would change (it takes '/' for a path and writes '_') or cannot store."""
    if not env.strip() or not env.isprintable() or set("/\\") & set(env) or len(env.encode()) > 200:
        raise InputError(f"--visdom_env={env!r} cannot name a dashboard: it takes 1 to 200 letters, digits or "
                         "signs, but no slash")
    if port > 65535:
        raise InputError(f"--visdom_port={port} is above 65535")
    if importlib.util.find_spec("visdom") is None:
        raise InputError("--visdom_env needs visdom, which is not installed: pip install -r requirements.txt")


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


def _client(env, server, port):
    """A `visdom.Visdom` that raises ConnectionError, prints nothing and waits at most TIMEOUT.

    As it comes, visdom has no timeout, takes an error page for success, and posts while it is constructed:
    so it is constructed offline, and gets a `_handle_post` (which is there to be overridden) of its own.
    """
    import requests
    import visdom
    session = requests.Session()
    if _is_loopback(server):
        session.trust_env = False  # a proxy would look for it on its own machine

    def post(url, data=None):
        reply = session.post(url, data=data, timeout=TIMEOUT)
        client.answered = "" if reply.ok else f"{reply.status_code} {reply.reason}"
        reply.raise_for_status()
        return reply.text
    client = visdom.Visdom(server, port=port, env=env, raise_exceptions=True, use_incoming_socket=False,
                           offline=True, log_to_filename=os.devnull)
    client.offline, client.log_to_filename, client._handle_post = False, None, post
    return client


def _is_loopback(server):
    host = urllib.parse.urlsplit(server if "//" in server else "//" + server).hostname or ""
    return host == "localhost" or host.endswith(".localhost") or host == "::1" or host.startswith("127.")


class Follower:
    """Shows the run in `ckpt_dir`, whose pictures and meshes are in `sample_dir`, as it grows.

    Parameters
    ----------
    env, server, port : where it is shown.
    every : seconds between two looks at the file, and so between two updates of a window.

    Notes
    -----
    `offset` is the byte of the file up to which it was read, `pending` are the windows that differ from
    what the server was seen to accept. A server that failed may have forgotten everything: then all are.
    """

    def __init__(self, ckpt_dir, sample_dir, env, server="http://localhost", port=8097, every=5.0):
        check(env, port)
        self.folder, self.sample_dir, self.env, self.every = ckpt_dir, sample_dir, env, every
        self.server, self.port, self.url = server, port, f"{server}:{port}"
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
        """Send the pending windows; ConnectionError leaves those that the server did not accept pending."""
        if self.client is None:
            self.client = _client(self.env, self.server, self.port)
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
        """The newest mesh, in its colours if it has any; the files have y up, the browser z."""
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
        """Read and send. Whatever goes wrong is said once, and tried again the next time."""
        try:
            self.read()
            self.push()
        except Exception as error:  # the dashboard must not cost a run, whatever is wrong with it
            if not self.lost:
                answered = getattr(self.client, "answered", "")
                reason = f"answers {answered}" if answered and isinstance(error, ConnectionError) else \
                    "does not answer" if isinstance(error, ConnectionError) else \
                    f"cannot be used ({type(error).__name__}: {error})"
                _say(f"warning: the visdom server {self.url} {reason}; what it misses is sent when it is back")
            self.lost, self.pending = True, set(EVERYTHING)
        else:
            if self.lost:
                _say(f"the visdom server {self.url} is back and up to date")
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
def shown(ckpt_dir, sample_dir, env, server, port):
    """Training inside this context is shown in the visdom environment `env`, unless that is None; the training never
    waits for it."""
    if env is None:
        yield
        return
    follower = Follower(ckpt_dir, sample_dir, env, server, port)
    follower.start_in_background()
    patience = PATIENCE
    try:
        yield
    except KeyboardInterrupt:
        patience = 0
        raise
    finally:
        follower.stop(patience)
