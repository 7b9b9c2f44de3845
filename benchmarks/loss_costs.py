"""Measure the time that each loss adds to a step of the published featGAN on this CPU.

    python benchmarks/loss_costs.py         writes benchmarks/results/loss_costs.json

Steps with one more loss alternate with steps without, on the same batch. The program compares the quickest encoder's
turn of each, since the machine may have other work; with OMP_NUM_THREADS=1 it compares CPU time, which other work
changes less. Finding the matches for --lambda_near is measured apart, since it comes every --near_every steps.
"""
import os
import tempfile
import time

import numpy as np
import torch

import common
import losses
import synthetic
from datasets import CVPR18
from loop import Sampler
from methods import FeatGAN
from training import Trainer
from training_step import options

WEIGHTS = {"lambda_Lap": 0.001, "lambda_edge": 0.01, "lambda_pressure": 1e-4, "lambda_front": 10.0, "lambda_flat": 1.0,
           "lambda_near": 1.0, "lambda_mirror": 0.5}
MORE = {"D_always and replay=8": {"D_always": True, "replay": 8}, "clip_norm": {"clip_norm": 5.0},
        "preset=best": FeatGAN.best}


def main(rounds=8):
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    cases = {"published": {}}
    for loss in losses.LOSSES:
        if loss.option in WEIGHTS:
            cases[loss.name] = {loss.option: WEIGHTS[loss.option]}
    cases.update(MORE)
    with tempfile.TemporaryDirectory() as folder:
        synthetic.make_synthetic(folder, [common.CLASS], n_train=100, n_val=1, n_test=1)
        data = CVPR18(folder, [common.CLASS], "train", os.path.join(folder, "cache"))
        trainers = {name: Trainer(options(**changed), torch.device("cpu"), data) for name, changed in cases.items()}
        sampler = Sampler(len(data), trainers["published"].options.batch_size, 0)
        times = {name: [] for name in cases}
        for step in range(2, 2 * rounds + 4, 2):  # the encoder's turns
            batch = data.gather(sampler.batch(step), step)
            for name, trainer in trainers.items():
                start = clock()
                trainer.step(step, batch)
                times[name].append(1e3 * (clock() - start))
        near = trainers["near"]
        start = clock()
        near.prepared["near"].find(near.model, np.random.default_rng(0))
        matching = 1e3 * (clock() - start) / len(data)
    quickest = {name: min(kept[1:]) for name, kept in times.items()}
    base = quickest["published"]
    common.keep("loss_costs", {
        "clock": "CPU time" if clock is time.process_time else "wall time", "batch_size": sampler.batch_size,
        "matching_ms_an_image": round(matching, 2),
        "step_ms": {name: round(value, 1) for name, value in quickest.items()},
        "added_percent": {name: round(100 * (quickest[name] / base - 1), 1) for name in cases if name != "published"}})


if __name__ == "__main__":
    main()
