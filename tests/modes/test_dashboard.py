"""The dashboard with a real visdom server on loopback, which is absent, killed, restarted or stopped."""
import contextlib
import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import requests
from command import SCRIPT, TINY, call, environment, metrics, start
from engine import dashboard, visdom_server
from engine.visdom_server import VisdomServer

# `python -m visdom.server` first fetches JavaScript, which only a browser needs, and fails without internet.
SERVER = "from visdom.server.run_server import main; main()"


class Server:
    """A visdom server that can be killed and started again on its port; it keeps what it has saved."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.process, self.prefix = folder, None, ""

    def start(self, *more, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, "-port", str(self.port), "-env_path", str(self.folder), "-bind_local",
             "-logging_level", "ERROR", *more], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, **environment})
        wait(lambda: self.windows("main") is not None)

    def kill(self):
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def hung(self):
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def windows(self, env="run"):
        """{name: window} of an environment; None if the server does not answer."""
        try:
            reply = requests.post(f"http://127.0.0.1:{self.port}{self.prefix}/win_data", timeout=5,
                                  data=json.dumps({"eid": env, "win": None}))
            return reply.json() if reply.ok else {}
        except requests.RequestException:
            return None

    def curves(self, window):
        """{name: {step: value}} of a window."""
        drawn = (self.windows() or {}).get(window)
        return {c["name"]: dict(zip(c["x"], c["y"])) for c in drawn["content"]["data"]} if drawn else {}


def wait(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


@pytest.fixture
def absent(tmp_path):
    """A server that was not started."""
    server = Server(tmp_path / "visdom")
    server.folder.mkdir()
    yield server
    if server.process:
        server.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("visdom"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def server(running):
    """A server that knows nothing of the environment `run`. It is one for all: to start it takes seconds."""
    requests.post(f"http://127.0.0.1:{running.port}/delete_env", timeout=5, data=json.dumps({"eid": "run"}))
    assert not running.windows()
    return running


def record(folder, *records):
    folder.mkdir(exist_ok=True)
    with open(folder / "metrics.jsonl", "a") as out:
        out.writelines(json.dumps({"time": 1.0, **r}) + "\n" for r in records)


@pytest.fixture
def follow(tmp_path):
    """A function that starts a follower of tmp_path/run in the background, with ten updates per second."""
    started = []

    def follower(server):
        folder = tmp_path / "run"
        started.append(dashboard.Follower(folder, folder / "samples", "run", VisdomServer(port=server.port),
                                          every=0.1))
        started[-1].start_in_background()
        return started[-1]
    yield follower
    for each in started:
        each.stop()


def losses(first, last):
    return [{"step": step, "silhouette": 1 / step} for step in range(first, last + 1)]


def has(server, steps):
    return lambda: list(server.curves("losses").get("silhouette", {})) == list(range(1, steps + 1))


# ---- what is shown ------------------------------------------------------------------------------------

def test_a_finished_run_is_shown_and_shown_again(ae, server, capsys):
    import neural_renderer as nr
    show = ("--mode=dashboard", "--ckpt_dir", ae, "--visdom_env=run", "--visdom_port", server.port)
    assert call(*show) == 0 and call(*show) == 0
    shown, rows = server.windows(), metrics(ae)
    assert set(shown) == {"options", "losses", "validation", "learning rate", "images/s", "picture", "mesh"}
    wanted = {"silhouette", "smoothness", "prior"}
    assert server.curves("losses") == {k: {r["step"]: r[k] for r in rows} for k in wanted}
    assert server.curves("validation") == {name: {r["step"]: r[key] for r in rows if key in r}
                                           for name, key in (("IoU", "val_iou"), ("MMD", "val_mmd"),
                                                             ("inside out", "val_inside_out"))}
    assert server.curves("learning rate") == {"of E and G": {r["step"]: 1e-4 for r in rows}}
    assert list(server.curves("images/s")["images/s"]) == [1, 2, 3, 4, 5, 6]
    assert shown["picture"]["title"] == "samples, 00006.png"
    assert shown["picture"]["content"]["src"].startswith("data:image/jpeg;base64,")
    vertices, faces = nr.load_obj(ae / "samples" / "00006.obj", normalization=False)
    mesh = shown["mesh"]["content"]["data"][0]
    assert mesh["type"] == "mesh3d" and [mesh[k] for k in "ijk"] == faces.T.tolist()
    np.testing.assert_allclose([mesh["x"], mesh["z"], mesh["y"]], vertices.numpy().T * [[1], [1], [-1]], atol=1e-6)
    assert re.search(r"lambda_adv&nbsp;</td><td>0.0<", shown["options"]["content"])
    assert (server.folder / "run.json").exists(), "the server was asked to save at a checkpoint"
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2 and said.out.splitlines()[0].endswith("/env/run") and not said.err


def test_a_mesh_in_its_colours(server, tmp_path):
    import neural_renderer as nr
    import torch
    (tmp_path / "samples").mkdir()
    vertices, faces = torch.eye(4)[:, :3], torch.tensor([[0, 1, 2], [0, 2, 3]])
    colours = torch.tensor([[1, 0, 0], [0, .2, 1.]])[:, None, None, None]
    nr.save_obj(tmp_path / "samples" / "a.obj", vertices, faces, colours, "a_colours")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "mesh": "a.obj"}\n')
    assert call("--mode=dashboard", "--ckpt_dir", tmp_path, "--visdom_env=run", "--visdom_port", server.port) == 0
    shown = server.windows()["mesh"]
    mesh = shown["content"]["data"][0]
    assert mesh["facecolor"] == ["rgb(255, 0, 0)", "rgb(0, 51, 255)"] and mesh["x"] == [1, 0, 0, 0]
    assert [mesh[k] for k in "ijk"] == faces.T.tolist() and shown["title"] == "mesh, a.obj"


def test_what_is_not_finite_or_not_a_record_is_skipped(tmp_path, server, follow):
    folder = tmp_path / "run"
    record(folder, {"step": 1, "a": .5, "b": None}, {"step": 2, "a": float("nan"), "b": float("inf")},
           {"step": 3, "a": .25, "val_iou": None, "val_iou_of": {"car": .5}, "picture": "gone.png", "mesh": "gone.obj"})
    with open(folder / "metrics.jsonl", "a") as out:
        out.write('{"step": 4, "a": \n[1]\n{"a": 9}\n{"step": 5, "a": 7}')  # the last line is still being written
    follow(server)
    wait(lambda: server.curves("losses") == {"a": {1: .5, 3: .25}})
    with open(folder / "metrics.jsonl", "a") as out:
        out.write("\n")
    wait(lambda: server.curves("losses") == {"a": {1: .5, 3: .25, 5: 7}})
    assert set(server.windows()) == {"losses"}


def test_a_long_run_is_thinned_and_a_resumed_one_starts_over(tmp_path, server, follow):
    folder = tmp_path / "run"
    record(folder, *({"step": s, "a": s, **({"b": 2 * s} if s % 2 else {})} for s in range(1, 9001)))
    follow(server)
    wait(lambda: server.curves("losses"))
    curves = server.curves("losses")
    assert sum(map(len, curves.values())) == dashboard.POINTS
    assert min(curves["a"]) == 1 and max(curves["a"]) == 9000 and max(curves["b"]) == 8999
    assert all(y == x for x, y in curves["a"].items()) and all(y == 2 * x for x, y in curves["b"].items())
    record(tmp_path / "new", *losses(1, 50))
    os.replace(tmp_path / "new" / "metrics.jsonl", folder / "metrics.jsonl")  # as a resumed run does
    wait(has(server, 50))
    assert list(server.curves("losses")) == ["silhouette"]


# ---- a server in trouble ------------------------------------------------------------------------------

def test_a_server_that_is_absent_killed_and_stopped_loses_no_point(tmp_path, absent, follow, monkeypatch, capfd):
    monkeypatch.setattr(visdom_server, "TIMEOUT", 0.5)
    folder, server, said = tmp_path / "run", absent, []

    def lines():
        said.extend(capfd.readouterr().err.splitlines())
        return len(said)
    record(folder, *losses(1, 10))
    follow(server)
    wait(lambda: lines() == 1)
    server.start()
    wait(has(server, 10))
    wait(lambda: lines() == 2)
    server.kill()
    record(folder, *losses(11, 20))
    wait(lambda: lines() == 3)
    time.sleep(0.5)
    record(folder, *losses(21, 30))
    server.start()  # it has lost everything that was not saved
    wait(has(server, 30))
    wait(lambda: lines() == 4)
    with server.hung():
        record(folder, *losses(31, 40))
        wait(lambda: lines() == 5)
        time.sleep(1.5)
        record(folder, *losses(41, 50))
    wait(has(server, 50))
    wait(lambda: lines() == 6)
    record(folder, *losses(51, 60))
    wait(has(server, 60))
    assert lines() == 6
    assert all(line.startswith("warning: the visdom server") and "does not answer" in line for line in said[::2])
    assert all(line.endswith("is back and up to date") for line in said[1::2])


def test_an_error_of_its_own_is_said_once_and_ends_nothing(tmp_path, server, follow, monkeypatch, capfd):
    def broken(self):
        raise RuntimeError("a bug")
    record(tmp_path / "run", *losses(1, 3))
    with monkeypatch.context() as patched:
        patched.setattr(dashboard.Follower, "_options", broken)
        follower = follow(server)
        time.sleep(0.5)
        assert follower.thread.is_alive()
    wait(has(server, 3))
    follower.stop()
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and "RuntimeError: a bug" in said[0]


# ---- who answers ----------------------------------------------------------------------------------------

@pytest.fixture
def stranger(tmp_path):
    """A function that starts a server of HTTP which answers every request with (status, headers, body) as it is told;
    gives its port, and the paths that it is asked for."""
    started = []

    def start(status, body=b"", **headers):
        class Handler(http.server.BaseHTTPRequestHandler):
            server_version, sys_version = "Stranger/1", ""

            def do_POST(self):
                asked.append((self.path, self.headers.get("Authorization")))
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                wanted = status if isinstance(status, int) else status(self)
                self.send_response(wanted)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body if wanted == 200 else b"")

            def log_message(self, *_):
                pass
        asked = []
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server.server_address[1], asked
    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture
def show(tmp_path, capsys):
    """A function that shows a run of three steps at a port; gives (exit code, its one line of error)."""
    record(tmp_path / "run", *losses(1, 3))

    def shown(port, *more):
        code = call("--mode=dashboard", "--ckpt_dir", tmp_path / "run", "--visdom_env=run", "--visdom_port", port, *more)
        said = capsys.readouterr()
        assert len(said.err.splitlines()) == (code != 0), said.err
        return code, said.err.strip() or said.out.strip()
    return shown


def test_a_server_with_a_login_below_a_path(absent, show, monkeypatch, tmp_path):
    """One server that wants both: each alone is refused in words; a server that began anew is logged in to again."""
    absent.prefix = "/vis"
    secret = tmp_path / "home"  # the server keeps the secret of its cookies in ~/.visdom
    (secret / ".visdom").mkdir(parents=True)
    login = dict(HOME=str(secret), VISDOM_USE_ENV_CREDENTIALS="1", VISDOM_USERNAME="me", VISDOM_PASSWORD="R\xe4der 1",
                 VISDOM_COOKIE="salt")
    absent.start("-base_url", "/vis", "-enable_login", "-force_new_cookie", **login)
    below, me = "--visdom_base_url=/vis", "--visdom_user=me"
    monkeypatch.delenv("VISDOM_PASSWORD", raising=False)
    code, said = show(absent.port, below)
    assert code == 1 and "answers 400" in said and "--visdom_user" in said
    monkeypatch.setenv("VISDOM_PASSWORD", "wrong")
    code, said = show(absent.port, below, me)
    assert code == 1 and "refuses the login of --visdom_user=me" in said and "wrong" not in said
    monkeypatch.setenv("VISDOM_PASSWORD", "R\xe4der 1")
    code, said = show(absent.port, me)
    assert code == 1 and "404" in said and "--visdom_base_url=/" in said
    code, said = show(absent.port, below + "/", me)
    assert code == 0 and said.endswith(f"http://localhost:{absent.port}/vis/env/run")
    where = VisdomServer(port=absent.port, base_url="/vis", user="me")
    follower = dashboard.Follower(tmp_path / "run", tmp_path, "run", where)
    follower.update()
    assert not follower.lost
    kept = follower.client
    follower.client = where.client("run")
    follower.client._handle_post("%s/env/run" % where.url, data="{}")
    absent.kill()
    absent.start("-base_url", "/vis", "-enable_login", "-force_new_cookie", **{**login, "VISDOM_COOKIE": "another"})
    follower.client = kept
    follower.pending = set(dashboard.EVERYTHING)
    follower.update()
    assert follower.lost, "its cookie is of the server before"
    follower.update()
    assert not follower.lost


def test_a_server_below_a_path_is_told_from_one_that_is_not(server, show):
    code, said = show(server.port, "--visdom_base_url=/vis")
    assert code == 1 and "visdom may stand below another path (--visdom_base_url=/vis)" in said


def test_a_program_that_is_no_visdom_is_not_taken_for_one(stranger, show):
    """Each answer is an answer, but not to the question; and it is said by whom."""
    for status, body, headers, told in (
            (501, b"", {}, "answers 501 Not Implemented (Stranger/1)"),
            (200, b"\n<!doctype html>", {}, "answers 200 OK (Stranger/1) with a web page: it is no visdom server"),
            (302, b"", {"Location": "https://login"}, "answers 302 Found (Stranger/1), which leads to https://login"),
            (403, b"", {}, "answers 403 Forbidden (Stranger/1): it seems to want a login (--visdom_user, ")):
        code, said = show(stranger(status, body, **headers)[0])
        assert code == 1 and re.fullmatch(r"error: the visdom server http://localhost:\d+ (.*)", said)[1].startswith(told)


def test_a_web_server_before_visdom_may_ask_for_the_login(stranger, show, monkeypatch):
    def basic(request):
        return 200 if request.headers.get("Authorization") == "Basic bWU6c2VjcmV0" else 401
    port, asked = stranger(basic, b"run", WWW_Authenticate='Basic realm="visdom"')
    monkeypatch.setenv("VISDOM_PASSWORD", "secret")
    assert show(port, "--visdom_user=me")[0] == 0 and len(asked) > 3
    monkeypatch.setenv("VISDOM_PASSWORD", "no")
    code, said = show(port, "--visdom_user=me")
    assert code == 1 and "refuses the login of --visdom_user=me with the password in VISDOM_PASSWORD" in said
    code, said = show(port)
    assert code == 1 and "answers 401 Unauthorized (Stranger/1): it seems to want a login" in said


@pytest.mark.parametrize("host", ["localhost", "http://127.0.0.1", "http://127.1.2.3", "http://0.0.0.0", "http://run.localhost"])
def test_this_machine_is_not_looked_for_through_a_proxy(host, stranger, show, monkeypatch):
    proxy, through = stranger(503)
    port, asked = stranger(200, b"run")
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{proxy}")
    if host == "http://run.localhost":
        assert VisdomServer(host).is_loopback()  # its name is resolved by few systems
        return
    assert show(port, f"--visdom_server={host}")[0] in ((0, 1) if host == "http://127.1.2.3" else (0,))
    assert not through


@pytest.mark.parametrize("host", ["http://visdom.invalid", "http://127.example.com", "http://10.0.0.1"])
def test_another_machine_is_and_the_proxy_is_named(host, stranger, show, monkeypatch):
    port, asked = stranger(503)
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    code, said = show(8097, f"--visdom_server={host}")
    assert code == 1 and asked and asked[0][0].startswith(f"{host}:8097/")
    assert said == (f"error: the visdom server {host}:8097 answers 503 Service Unavailable (Stranger/1), through the proxy "
                    f"http://127.0.0.1:{port}")


# ---- training -----------------------------------------------------------------------------------------

# A program that runs the script and then checks the imported modules.
WITHOUT_VISDOM = """
import runpy, sys
script = sys.argv[0] = sys.argv.pop(1)
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    assert end.code == 0
assert "engine.dashboard" in sys.modules and not {"visdom", "requests", "tornado"} & set(sys.modules)
"""


def train(data, template, folder, *more, run=(SCRIPT,)):
    """Train in a separate process; returns its stderr and the seconds of its steps."""
    command = [*run, "--mode=train", "--data_dir", data, "--ckpt_dir", folder, "--obj_dir", template, "--n_iters=40",
               "--log_step=1", *TINY, *more]
    done = subprocess.run([sys.executable, *map(str, command)], text=True, capture_output=True, env=environment(),
                          timeout=120)
    assert done.returncode == 0, done.stderr
    rows = metrics(folder)
    return done.stderr.splitlines(), rows[-1]["time"] - rows[0]["time"]


def test_training_does_not_wait_for_a_server_that_hangs(data, template, server, tmp_path):
    """The run without a dashboard imports nothing of visdom."""
    _, alone = train(data, template, tmp_path / "alone", run=("-c", WITHOUT_VISDOM, SCRIPT))
    show = ("--visdom_env=run", "--visdom_port", server.port)
    said, _ = train(data, template, tmp_path / "shown", *show)
    assert said == []
    assert server.curves("losses")["silhouette"] == {r["step"]: r["silhouette"] for r in metrics(tmp_path / "shown")}
    assert server.windows()["picture"]["title"] == "samples, 00040.png"
    with server.hung():
        began = time.monotonic()
        said, seconds = train(data, template, tmp_path / "hung", *show)
        whole = time.monotonic() - began
    assert len(said) <= 1 and all(line.startswith("warning: ") for line in said)
    assert seconds < 1.5 * alone + 0.5
    assert whole < seconds + dashboard.PATIENCE + 10  # of which most is the start of Python and torch
    # A run can be resumed with another dashboard, or with none.
    assert call("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "hung", "--obj_dir", template,
                "--n_iters=41", "--resume", *TINY) == 0


def test_following_ends_with_an_interrupt(absent, tmp_path):
    record(tmp_path / "run", *losses(1, 3))
    running = start("--mode=dashboard", "--ckpt_dir", tmp_path / "run", "--visdom_env=run", "--visdom_port", absent.port,
                    "--follow", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a job may ignore it
    try:
        said = running.stderr.readline()
        running.send_signal(signal.SIGINT)
        _, rest = running.communicate(timeout=20)
    finally:
        running.kill()
    assert "does not answer" in said and rest == "" and running.returncode == 0


def test_a_second_interrupt_does_not_wait_for_the_dashboard(absent, tmp_path, monkeypatch):
    waited, stop = [], dashboard.Follower.stop
    monkeypatch.setattr(dashboard.Follower, "stop", lambda self, patience: waited.append(patience) or stop(self))
    where = str(tmp_path), str(tmp_path), "run", VisdomServer(port=absent.port)
    with dashboard.shown(*where):
        pass
    with pytest.raises(KeyboardInterrupt), dashboard.shown(*where):
        raise KeyboardInterrupt
    assert waited == [dashboard.PATIENCE, 0]


# ---- bad input ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["", " ", "a/b", "/", "a\\b", "a\nb", "x" * 201])
def test_names_that_visdom_would_change_are_refused(name, ae, data, refused, tmp_path):
    assert "--visdom_env=" in refused("--mode=dashboard", "--ckpt_dir", ae, f"--visdom_env={name}")
    assert "--visdom_env=" in refused("--mode=train", "--data_dir", data, "--ckpt_dir", tmp_path / "new",
                                      f"--visdom_env={name}", *TINY)


def test_other_bad_input(ae, refused, absent, tmp_path, capsys, monkeypatch):
    assert "--visdom_env" in refused("--mode=dashboard", "--ckpt_dir", ae)
    assert "--ckpt_dir" in refused("--mode=dashboard", "--visdom_env=run")
    assert "metrics.jsonl" in refused("--mode=dashboard", "--ckpt_dir", tmp_path, "--visdom_env=run")
    assert "--visdom_port=65536" in refused("--mode=dashboard", "--ckpt_dir", ae, "--visdom_env=run",
                                            "--visdom_port=65536")
    for given, told in {
            "--visdom_server=http://localhost:8097": "the port goes into --visdom_port",
            "--visdom_server=localhost/vis": "the path goes into --visdom_base_url",
            "--visdom_server=http://me:secret@host": "the name goes into --visdom_user, the password into VISDOM_PASSWORD",
            "--visdom_server=ftp://host": "it begins with ftp:", "--visdom_server=http://": "it names no machine",
            "--visdom_server=http://[1": "Invalid IPv6 URL",
            "--visdom_base_url=vis": "--visdom_base_url=vis is no path like /visdom"}.items():
        said = refused("--mode=dashboard", "--ckpt_dir", ae, "--visdom_env=run", given)
        assert told in said and ":secret" not in said
    monkeypatch.delenv("VISDOM_PASSWORD", raising=False)
    assert "--visdom_user=me needs its password in the environment variable VISDOM_PASSWORD" in refused(
        "--mode=dashboard", "--ckpt_dir", ae, "--visdom_env=run", "--visdom_user=me")
    assert call("--mode=dashboard", "--ckpt_dir", ae, "--visdom_env=run", "--visdom_port", absent.port) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: the visdom server http://localhost:")
    assert "does not answer; start one with python -m visdom.server -bind_local -port" in said[0]
