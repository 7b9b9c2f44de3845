"""The dashboard in a real browser: a tiny training, a visdom server, a headless Chromium, a screenshot.

    python tests/programs/browser_dashboard.py [SCREENSHOT.png]

Not part of the suite: visdom's page needs third-party JavaScript. This program fetches it from the npm registry (with
`npm pack`) into a temporary copy of the visdom package. The exit code is 0 if every window is drawn.
"""
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))
import conftest  # noqa: E402, F401  (finds cuda/ where it is not installed)

import visdom  # noqa: E402
from browser import Browser, find  # noqa: E402
from command import CAR, environment, process  # noqa: E402

# {file under visdom/static: (npm package, file in it)}, as visdom 0.2.4 names them in server/build.py, without its fonts
# and MathJax.
ASSETS = {
    "js/jquery.min.js": ("jquery@3.1.1", "dist/jquery.min.js"),
    "js/bootstrap.min.js": ("bootstrap@3.3.7", "dist/js/bootstrap.min.js"),
    "css/bootstrap.min.css": ("bootstrap@3.3.7", "dist/css/bootstrap.min.css"),
    "js/react-react.min.js": ("react@16.2.0", "umd/react.production.min.js"),
    "js/react-dom.min.js": ("react-dom@16.2.0", "umd/react-dom.production.min.js"),
    "js/react-modal.min.js": ("react-modal@3.1.10", "dist/react-modal.min.js"),
    "js/plotly-plotly.min.js": ("plotly.js-dist-min@2.11.1", "plotly.min.js"),
    "js/sjcl.js": ("sjcl@1.0.7", "sjcl.js"),
    "js/layout_bin_packer.js": ("layout-bin-packer@1.4.0", "dist/layout-bin-packer.js"),
    "js/d3.v3.min.js": ("d3@3.5.17", "d3.min.js"),
    "js/d3-selection-multi.v1.js": ("d3-selection-multi@1.0.1", "build/d3-selection-multi.js"),
    "js/saveSvgAsPng.js": ("save-svg-as-png@1.4.17", "lib/saveSvgAsPng.js"),
    "css/react-resizable-styles.css": ("react-resizable@1.4.6", "css/styles.css"),
    "css/react-grid-layout-styles.css": ("react-grid-layout@0.16.3", "css/styles.css")}
SERVER = "from visdom.server.run_server import main; main()"  # starts the server without fetching JavaScript
WINDOWS = ["options", "losses", "validation", "learning rate", "images/s", "samples", "mesh"]


def copy_with_assets(folder):
    """A copy of the visdom package whose page finds its JavaScript."""
    static = os.path.join(folder, "visdom", "static")
    shutil.copytree(os.path.dirname(visdom.__file__), os.path.join(folder, "visdom"))
    packages = sorted({package for package, _ in ASSETS.values()})
    subprocess.run(["npm", "pack", "--silent", *packages], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    for file, (package, member) in ASSETS.items():
        target = os.path.join(static, file)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with tarfile.open(os.path.join(folder, package.replace("@", "-") + ".tgz")) as archive:
            with archive.extractfile(f"package/{member}") as source, open(target, "wb") as out:
                shutil.copyfileobj(source, out)


def serve(folder):
    """Start a server from this copy on loopback; returns (process, port)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = subprocess.Popen(
        [sys.executable, "-c", SERVER, "-port", str(port), "-env_path", folder, "-bind_local",
         "-logging_level", "ERROR"], env={**os.environ, "PYTHONPATH": folder}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while socket.socket().connect_ex(("127.0.0.1", port)):
        if running.poll() is not None or time.monotonic() > end:
            sys.exit("the visdom server did not start")
        time.sleep(0.1)
    return running, port


def train(folder, port):
    done = process("--mode=train", "--data_dir", f"{folder}/data", "--ckpt_dir", f"{folder}/run", "--n_iters=40",
                   "--ckpt_step=10", "--sample_step=20", "--log_step=1", "--batch_size=8", "--enc_width=8",
                   "--latent_dim=32", "--lr=1e-3", "--device=cpu", "--visdom_env=browser", "--visdom_port", port)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


def main(screenshot=None):
    program = find()
    for what, there in (("Chromium", program), ("npm", shutil.which("npm"))):
        if not there:
            sys.exit(f"{what} is needed and not installed")
    with tempfile.TemporaryDirectory() as folder:
        made = process("--mode=make_dataset", "--data_dir", f"{folder}/data", "--class_ids", CAR, "--n_train=8",
                       "--n_val=3", "--n_test=1")
        assert made.returncode == 0, made.stderr
        copy_with_assets(folder)
        server, port = serve(folder)
        browser = Browser(program, 1500, 1250)
        try:
            train(folder, port)
            browser.open(f"http://127.0.0.1:{port}/env/browser")
            titles = "[...document.querySelectorAll('.bar')].map(b => b.textContent)"
            browser.until(f"{titles}.length === {len(WINDOWS)}")
            browser.until("document.querySelectorAll('.js-plotly-plot').length === 5")
            time.sleep(2)  # plots are drawn one by one
            shown = browser.run(titles)
            missing = [name for name in WINDOWS if not any(name in title for title in shown)]
            curves = browser.run("[...document.querySelectorAll('.scatterlayer .js-line')].length")
            mesh = browser.run("[...document.querySelectorAll('.js-plotly-plot')].some("
                               "p => p.data[0].type === 'mesh3d' && p.data[0].i.length === 1280)")
            table = browser.run("document.body.innerText.includes('lambda_adv')")
            picture = browser.run("[...document.images].some(i => i.naturalWidth > 200)")
            browser.screenshot(screenshot)
        finally:
            browser.close()
            server.kill()
            server.wait()
    print(f"{len(shown) - len(missing)} of {len(WINDOWS)} windows; {curves} curves; mesh {mesh}, options {table}, picture {picture}")
    return 0 if not missing and curves >= 7 and mesh and table and picture else 1


if __name__ == "__main__":
    os.environ.update(environment())
    sys.exit(main(*sys.argv[1:]))
