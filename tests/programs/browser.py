"""A headless Chromium, controlled through a pipe by the DevTools protocol. It needs no port and no package."""
import base64
import fcntl
import io
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def _high_pipe():
    """A pipe whose two file descriptors are 10 or higher."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high


class Browser:
    """One page. `events` are its reports: dialogs, errors, console messages and requests."""

    def __init__(self, program, width=1000, height=800):
        self.profile = tempfile.mkdtemp()
        # Chromium reads commands from file descriptor 3 and answers on 4, so these must be free.
        to_read, out, come, to_write = *_high_pipe(), *_high_pipe()
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}', program, "--headless=new", "--no-sandbox",
             "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking",
             "--force-device-scale-factor=1", "--remote-debugging-pipe", f"--user-data-dir={self.profile}",
             f"--window-size={width},{height}", "about:blank"],
            pass_fds=(to_read, to_write), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self.out, self.come, self.buffer, self.count, self.events = out, come, b"", 0, []
        self.session = None
        page = next(t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def __call__(self, method, **parameters):
        """The result of one command of the protocol."""
        number = self._send(method, parameters)
        while True:
            reply = self._next()
            if reply.get("id") == number:
                assert "error" not in reply, (method, reply["error"])
                return reply["result"]

    def _send(self, method, parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        return self.count

    def _next(self, seconds=60):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.come], [], [], seconds)
            part = os.read(self.come, 1 << 20) if ready else b""
            assert part, "the browser does not answer"
            self.buffer += part
        message, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(message)
        if "method" in message:
            self.events.append(message)
            if message["method"] == "Page.javascriptDialogOpening":  # it would wait forever
                self._send("Page.handleJavaScriptDialog", {"accept": True})
        return message

    def open(self, url):
        self.events.clear()
        self("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script):
        """The value of a JavaScript expression, which may be a promise."""
        result = self("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, condition, seconds=30):
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def frame(self):
        """Wait until the page has drawn its current state."""
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")

    def screenshot(self, path=None, **clip):
        """A screenshot, (H, W, 3) uint8; also written to `path` if given."""
        more = {"clip": {**clip, "scale": 1}} if clip else {}
        data = base64.b64decode(self("Page.captureScreenshot", format="png", **more)["data"])
        if path:
            with open(path, "wb") as out:
                out.write(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def mouse(self, kind, x, y, **more):
        self("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, x, y, dx, dy):
        held = {"button": "left", "buttons": 1}
        self.mouse("mousePressed", x, y, clickCount=1, **held)
        for i in (1, 2, 3):
            self.mouse("mouseMoved", x + dx * i / 3, y + dy * i / 3, **held)
        self.mouse("mouseReleased", x + dx, y + dy, button="left", clickCount=1)
        self.frame()

    def key(self, name, text=""):
        self("Input.dispatchKeyEvent", type="keyDown", key=name, text=text)
        self("Input.dispatchKeyEvent", type="keyUp", key=name)
        self.frame()

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.come)
        shutil.rmtree(self.profile, ignore_errors=True)


def find():
    """Path of a Chromium that starts, or None."""
    for name in NAMES:
        program = shutil.which(name)
        if program:
            told = subprocess.run([program, "--version"], text=True, capture_output=True)
            if told.returncode == 0 and re.search(r"\d+\.\d+", told.stdout):
                return program
    return None
