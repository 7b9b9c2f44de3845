"""Measure the parts of one training step of the published networks, for featGAN and VPL.

    python benchmarks/training_step.py                writes benchmarks/results/training_step.json
    python benchmarks/training_step.py --colours      measures the step with --texture alone, anew, in that record

"Networks" is the same step with a linear loss on vertices and code instead of the mesh losses, and with the targets
instead of rendered images: all networks forward and backward, and the optimisers. The other parts are data, rendering
(camera and rasteriser, forward and backward), losses (of silhouettes, mesh and code, forward and backward; those of
the discriminator count as networks) and the rest: gradient norms, the check for values that are not finite, running
statistics. The program times the parts in turn with the whole step and takes the quickest of several repeats, since the
machine may have other work. Steps with colours take turns with those without and are measured by the time of the
processor.
"""
import json
import os
import statistics
import sys
import tempfile
import time

import torch

import common
import synthetic
from datasets import CVPR18
from loop import Sampler
from training import Trainer


def options(mode="train", **changed):
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("gan", f"{common.ROOT}/3D-GAN.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    parsed = script.parse([f"--mode={mode}"])
    for name, value in changed.items():
        setattr(parsed, name, value)
    return parsed


class Stopwatch:
    """Milliseconds spent on each part."""

    def __init__(self):
        self.spent, self.last = {}, time.perf_counter()

    def start(self):
        self.last = time.perf_counter()

    def spent_on(self, what):
        self.spent[what] = 1e3 * (time.perf_counter() - self.last)
        self.last = time.perf_counter()


def network_alone(trainer, batch, step, watch):
    """A step of the trainer without camera, rasteriser, mesh losses and image losses."""
    inputs, encoders_turn = trainer.inputs(batch), trainer.encoders_turn(step)
    watch.start()
    learning = common.networks_learn(trainer, inputs, encoders_turn)
    watch.spent_on("networks")
    common.networks_step(trainer, learning)
    watch.spent_on("optimisers")


def pictures_alone(trainer, batch, watch):
    """The other part of Trainer.step: rendering the predictions, and their losses."""
    inputs = trainer.inputs(batch)
    with torch.no_grad():
        codes, vertices, *_ = trainer.predicted(inputs[0])
    vertices.requires_grad_(), codes.requires_grad_()
    watch.start()
    step = trainer.seen(inputs, codes, vertices)
    watch.spent_on("render")
    drawn = [step.rendered, *(view.rendered for view in step.views.values())]
    step.rendered = step.rendered.detach().requires_grad_()
    _, total = trainer.total(step)
    pulls, *_ = torch.autograd.grad(total, (step.rendered, vertices, codes), allow_unused=True)
    watch.spent_on("losses")
    pulls = [pulls] * len(drawn)  # a discriminator's would be as dense
    forward = watch.spent["render"]
    watch.start()
    torch.autograd.grad(drawn, vertices, pulls)
    watch.spent_on("render")
    watch.spent["render"] += forward


PARTS = ("networks", "optimisers", "data", "render", "losses")


def measure(mode, folder, steps, warmup=2):
    """Mean over both turns, the encoder's and the discriminator's, of the quickest step of each, in ms."""
    data = CVPR18(folder, ["02958343"], "train", folder + "/cache")
    trainer = Trainer(options(mode), torch.device("cpu"))
    sampler = Sampler(len(data), trainer.options.batch_size, 0)
    turns = range(trainer.options.G_every)
    quickest = {turn: {} for turn in turns}
    for step in range(1, steps + warmup + 1):
        watch = Stopwatch()
        batch = data.gather(sampler.batch(step), step)
        watch.spent_on("data")
        trainer.step(step, batch)
        watch.spent_on("whole_step")
        network_alone(trainer, batch, step, watch)
        pictures_alone(trainer, batch, watch)
        watch.spent["whole_step"] += watch.spent["data"]
        watch.spent["network_alone"] = watch.spent["networks"] + watch.spent["optimisers"]
        if step > warmup:
            kept = quickest[step % len(turns)]
            kept.update({what: min(ms, kept.get(what, ms)) for what, ms in watch.spent.items()})
    mean = {what: sum(quickest[turn][what] for turn in turns) / len(turns) for what in quickest[0]}
    rest = mean["whole_step"] - mean["network_alone"]
    parts = {what: round(mean[what], 1) for what in PARTS}
    parts["the_rest"] = round(mean["whole_step"] - sum(mean[what] for what in PARTS), 1)
    return {"batch_size": trainer.options.batch_size, "enc_width": trainer.options.enc_width,
            "whole_step_ms": round(mean["whole_step"], 1), "network_alone_ms": round(mean["network_alone"], 1),
            "everything_else_ms": round(rest, 1),
            "everything_else_percent_of_network": round(100 * rest / mean["network_alone"], 1),
            "parts_ms": parts}


def in_colours(folder, steps, warmup=2):
    """Seconds of the processor that featGAN's steps take, in turn without colours and with each kind, medians over both
    of its turns; and in steps without."""
    data = CVPR18.open({"data_dir": folder, "class_ids": ["02958343"]}, "train")
    kinds = {"none": {}, "faces": {"texture": "faces"}, "faces, to the shape": {
        "texture": "faces", "texture_to_shape": True}, "cubes": {"texture": "cubes", "texture_size": 2}}
    trainers = {name: Trainer(options(**more), torch.device("cpu"), data) for name, more in kinds.items()}
    sampler, spent = Sampler(len(data), trainers["none"].options.batch_size, 0), {name: [] for name in kinds}
    for step in range(1, steps + warmup + 1):
        batch = data.gather(sampler.batch(step), step)
        for name, trainer in trainers.items():
            start = time.process_time()
            trainer.step(step, batch)
            if step > warmup:
                spent[name].append(time.process_time() - start)
    medians = {name: statistics.median(times) for name, times in spent.items()}
    return {"cpu_s": {name: round(median, 3) for name, median in medians.items()},
            "in_steps_without": {name: round(median / medians["none"], 3) for name, median in medians.items()}}


def only_colours(steps):
    """Measure `in_colours` and put it into the record that is there."""
    path = os.path.join(common.HERE, "results", "training_step.json")
    with open(path) as file:
        record = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        synthetic.make_synthetic(folder, ["02958343"], n_train=40, n_val=1, n_test=1)
        record["colours"] = {"where": common.where(), **in_colours(folder, steps),
                             "load": [round(x, 1) for x in os.getloadavg()]}
    with open(path, "w") as out:
        out.write(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record["colours"], indent=2))


def main(steps=20):
    if "--colours" in sys.argv[1:]:
        return only_colours(steps)
    with tempfile.TemporaryDirectory() as folder:
        synthetic.make_synthetic(folder, ["02958343"], n_train=40, n_val=1, n_test=1)
        results = {name: measure(mode, folder, steps)
                   for name, mode in (("featGAN", "train"), ("VPL", "trainCVPR19"))}
        colours = in_colours(folder, steps)
    ratio = results["VPL"]["whole_step_ms"] / results["featGAN"]["whole_step_ms"]
    common.keep("training_step", {**results, "VPL_step_in_featGAN_steps": round(ratio, 2), "colours": colours,
                                  "load": [round(x, 1) for x in os.getloadavg()]})


if __name__ == "__main__":
    main()
