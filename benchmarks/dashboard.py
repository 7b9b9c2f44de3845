"""The cost of the dashboard to training: processor time of its thread, and the time of the steps.

    python benchmarks/dashboard.py      writes benchmarks/results/dashboard.json

First it times single updates of a run with full windows, against a real server and one that hangs (SIGSTOP), and
gives the share of one core at an update every 5 s. Then it times whole trainings on one thread (without a dashboard,
with one, with a server that hangs) and takes the quickest of several rounds. Wall-clock time needs a quiet machine;
processor time does not. Both include the one-time cost of imports and of sending the history.
"""
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import torch

import common
import synthetic
from engine import dashboard
from engine.visdom_server import VisdomServer
from modes.train import run as train_run
from training_step import options

SERVER = "from visdom.server.run_server import main; main()"  # without fetching what only a browser needs


class Measured(dashboard.Follower):
    """A follower that tells the processor time of its thread when it ends."""
    seconds = None

    def follow(self):
        super().follow()
        Measured.seconds = time.thread_time()


@contextlib.contextmanager
def server(folder):
    """(process, port) of a visdom server on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = subprocess.Popen([sys.executable, "-c", SERVER, "-port", str(port), "-env_path", folder, "-bind_local",
                                "-logging_level", "ERROR"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.1)
        yield running, port
    finally:
        running.kill()
        running.wait()


def train(folder, data, port=None, iterations=60):
    """Seconds of the steps of one training, and the processor time of its dashboard."""
    Measured.seconds = None
    run = options(data_dir=data, cache_dir=data + "/cache", class_ids=["02958343"], ckpt_dir=folder,
                  sample_dir=folder + "/samples", n_iters=iterations, batch_size=16, log_step=1, ckpt_step=20,
                  sample_step=20, device="cpu", visdom_env=port and "benchmark", visdom_port=port or 8097)
    with contextlib.redirect_stdout(sys.stderr):
        train_run(run, torch.device("cpu"))
    while port and Measured.seconds is None:  # a server that hangs is not waited for; its thread's time is
        time.sleep(0.1)
    with open(folder + "/metrics.jsonl") as lines:
        times = [json.loads(line)["time"] for line in lines]
    result = {"steps_s": round(times[-1] - times[0], 2)}
    if port:
        result["dashboard_cpu_s"] = round(Measured.seconds, 3)
        result["dashboard_cpu_percent"] = round(100 * Measured.seconds / times[-1], 3)
    return result


def updates(run, folder, process, port, repeats=10):
    """{kind of update: processor time in ms} for a run of 20 000 iterations with the samples of `run`."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("*.pt", "*.jsonl"))
    with open(run + "/metrics.jsonl") as lines:
        last = json.loads(lines.readlines()[-1])
    plain = {k: v for k, v in last.items() if k not in ("picture", "mesh", "val_iou", "val_mmd", "val_iou_of")}
    follower = dashboard.Follower(folder, folder + "/samples", "updates", VisdomServer(port=port))

    def timed(records):
        with open(folder + "/metrics.jsonl", "a") as out:
            out.writelines(json.dumps(record) + "\n" for record in records)
        start = time.thread_time()
        follower.update()
        return 1e3 * (time.thread_time() - start)
    result = {"first_of_2000_records": timed({**plain, "step": 10 * i} for i in range(1, 2001)),
              "5_records": statistics.median(timed([{**plain, "step": 20000 + 10 * i}] * 5) for i in range(repeats)),
              "checkpoint_and_samples": statistics.median(timed([last]) for _ in range(repeats))}
    process.send_signal(signal.SIGSTOP)
    result["hung_server"] = statistics.median(timed([last]) for _ in range(3))
    process.send_signal(signal.SIGCONT)
    return {kind: round(ms, 2) for kind, ms in result.items()}


def main(rounds=2):
    torch.set_num_threads(1)
    dashboard.Follower = Measured
    with tempfile.TemporaryDirectory() as folder:
        data = os.path.join(folder, "data")
        synthetic.make_synthetic(data, ["02958343"], n_train=20, n_val=2, n_test=1)
        with server(folder) as (process, port):
            runs = {"without": [], "with": [], "hung_server": []}
            for i in range(rounds):
                runs["without"].append(train(f"{folder}/without{i}", data))
                runs["with"].append(train(f"{folder}/with{i}", data, port))
                process.send_signal(signal.SIGSTOP)
                runs["hung_server"].append(train(f"{folder}/hung{i}", data, port))
                process.send_signal(signal.SIGCONT)
            costs = updates(f"{folder}/with0", f"{folder}/long", process, port)
    every = 1e3 * dashboard.Follower("", "", "x", VisdomServer()).every
    common.keep("dashboard", {
        "load": [round(x, 1) for x in os.getloadavg()], "update_cpu_ms": costs,
        "percent_of_a_core": {kind: round(100 * ms / every, 3) for kind, ms in costs.items() if "first" not in kind},
        "training": {kind: min(results, key=lambda r: r["steps_s"]) for kind, results in runs.items()}})


if __name__ == "__main__":
    main()
