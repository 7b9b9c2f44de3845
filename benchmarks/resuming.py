"""The cost of safety: checkpoints of the published networks, and a run that is interrupted.

    python benchmarks/resuming.py      writes benchmarks/results/resuming.json

It compares the time to write a checkpoint (under all its names, synced to disk) with the time of the 500 steps between
two checkpoints, and takes the quickest of several measurements of each. It runs a small training twice: once without
interruption, and once ended by SIGTERM and resumed 20 times. The cost is the CPU time of the steps with their records,
validation and checkpoints (each interruption adds one), since other work on the machine disturbs wall-clock time.
Start-up (importing torch, opening the data) is reported separately.
"""
import contextlib
import io
import os
import shutil
import signal
import tempfile
import time

import torch

import common
import synthetic
from engine import checkpoints, runs
from loop import Loop, Sampler
from training import Trainer
from training_step import options

CLASS = "02958343"
SMALL = ("--enc_width=8", "--latent_dim=32", "--batch_size=16", "--n_iters=2000", "--device=cpu", "--threads=1")


def spent(work):
    """(seconds, CPU seconds of all threads) of a call."""
    start = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def quickest(pairs):
    return [min(column) for column in zip(*pairs)]


def cost_of_checkpoints(data, folder, repeats=8, every=500):
    """The time of writing a checkpoint that is also the best one, compared with the steps between two checkpoints."""
    trainer = Trainer(options("train"), torch.device("cpu"))
    sampler = Sampler(len(data), trainer.options.batch_size, 0)
    turns = {turn: [] for turn in range(trainer.options.G_every)}
    for step in range(1, repeats * len(turns) + 1):
        took = spent(lambda: trainer.step(step, data.gather(sampler.batch(step), step)))
        if step > len(turns):  # the first ones make the optimisers' state
            turns[step % len(turns)].append(took)
    steps = [every * sum(column) / len(turns) for column in zip(*map(quickest, turns.values()))]
    state = {"step": 1, "options": vars(trainer.options), "rng": runs.rng_state(), **trainer.state()}

    def write():
        checkpoints.write_next(folder, state)
        checkpoints.name_best(folder)
        checkpoints.name_last(folder, 1)
    writing = quickest(spent(write) for _ in range(repeats))
    parameters = sum(p.numel() for m in trainer.modules.values() for p in m.parameters())
    return {"parameters_M": round(parameters / 1e6, 1),
            "checkpoint_MB": round(os.path.getsize(f"{folder}/{checkpoints.LAST}") / 1e6, 1),
            "steps_between": every, "steps_s": round(steps[0], 1), "steps_cpu_s": round(steps[1], 1),
            "writing_s": round(writing[0], 2), "writing_cpu_s": round(writing[1], 2),
            "writing_percent_of_time": round(100 * writing[0] / steps[0], 2),
            "writing_percent_of_cpu_time": round(100 * writing[1] / steps[1], 2)}


class Counted:
    """Counts the CPU seconds in `Loop.run`; `stops` are the steps in which SIGTERM is sent."""

    def __init__(self, stops):
        self.seconds, self.stops = 0.0, stops

    @contextlib.contextmanager
    def counting(self):
        run, step = Loop.run, Trainer.step

        def counted(loop, interruption):
            codes = []
            self.seconds += spent(lambda: codes.append(run(loop, interruption)))[1]
            return codes[0]

        def interrupted(trainer, number, batch):
            if number in self.stops:
                signal.raise_signal(signal.SIGTERM)
            return step(trainer, number, batch)
        Loop.run, Trainer.step = counted, interrupted
        try:
            yield
        finally:
            Loop.run, Trainer.step = run, step


def one_run(script, data_dir, folder, stops=()):
    """Run to the end, resumed as often as necessary; returns (CPU seconds of the steps, of everything)."""
    counted, ended = Counted(set(stops)), []
    arguments = ["--mode=train", f"--data_dir={data_dir}", f"--class_ids={CLASS}", f"--ckpt_dir={folder}",
                 "--resume", *SMALL]

    def everything():
        while not ended or ended[-1] == 75:
            ended.append(script.main(arguments))
    with counted.counting(), contextlib.redirect_stdout(io.StringIO()):
        whole = spent(everything)[1]
    assert ended == [75] * len(stops) + [0], ended
    return counted.seconds, whole


def interruptions(data_dir, folder, times=20, steps=2000, repeats=2):
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("gan", f"{common.ROOT}/3D-GAN.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    stops = [round((i + 1) * steps / (times + 1)) for i in range(times)]
    costs = {"whole": [], "interrupted": []}
    for i in range(repeats):
        for name, at in (("whole", ()), ("interrupted", stops)):
            costs[name].append(one_run(script, data_dir, f"{folder}/{name}{i}", at))
    weights = [checkpoints.load_last(f"{folder}/{name}0")["models"] for name in costs]
    assert all(torch.equal(weights[0][m][k], weights[1][m][k]) for m in weights[0] for k in weights[0][m])
    (whole, whole_all), (cut, cut_all) = (quickest(pairs) for pairs in costs.values())
    return {"steps": steps, "interruptions": times, "whole_cpu_s": round(whole, 2),
            "interrupted_cpu_s": round(cut, 2),
            "more_percent": round(100 * (cut / whole - 1), 2), "weights": "equal to the bit",
            "with_start_up_cpu_s": [round(whole_all, 2), round(cut_all, 2)]}


def main():
    folder = tempfile.mkdtemp()
    try:
        synthetic.make_synthetic(f"{folder}/data", [CLASS], n_train=40, n_val=4, n_test=1)
        from datasets import CVPR18
        os.mkdir(f"{folder}/published")
        data = CVPR18(f"{folder}/data", [CLASS], "train", f"{folder}/cache")
        published = cost_of_checkpoints(data, f"{folder}/published")
        common.keep("resuming", {"published_networks": published,
                                 "interrupted_run": interruptions(f"{folder}/data", folder),
                                 "load": [round(x, 1) for x in os.getloadavg()]})
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
