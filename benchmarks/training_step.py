"""One training step of the reference networks taken apart: what is the network, what is not; featGAN and VPL.

    python benchmarks/training_step.py      writes benchmarks/results/training_step.json

The network alone is the same step with the mesh replaced by a linear loss on the vertices and the
code, and what is rendered by the targets: all networks forward and backward, the optimisers. The difference
is everything else: data, camera, rasteriser, mesh losses, the watch over what is not finite. Both are timed
alternately, and each figure is the quickest of its repeats: the machine may have other work.
"""
import contextlib
import os
import tempfile
import time

import torch

import common
import synthetic
from datasets import CVPR18
from loop import Sampler
from training import Shown, Trainer, _frozen


def options(mode="train", **changed):
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("gan", f"{common.ROOT}/3D-GAN.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    parsed = script.parse([f"--mode={mode}"])
    for name, value in changed.items():
        setattr(parsed, name, value)
    return parsed


def network_alone(trainer, batch, step):
    """As Trainer.step, without camera, rasteriser and mesh losses."""
    for optimizer in trainer.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    codes = trainer.model.encoder(batch.images)
    seen = batch.silhouettes.clone().requires_grad_()  # as what is rendered, it wants a gradient
    shown = Shown(codes, batch.poses, seen, batch.poses.roll(1), seen)
    total = trainer.model.decoder(codes).mean() + codes.mean()
    encoders_turn = step % trainer.options.G_every == 0
    with _frozen(trainer.modules["D"]) if encoders_turn else contextlib.nullcontext():
        if encoders_turn:
            total = total + trainer.method.adversarial_loss(shown)
        total.backward()
    trainer.optimizers["E"].step()
    trainer.optimizers["G"].step()
    if not encoders_turn:
        trainer.method.discriminator_loss(shown).backward()
        trainer.optimizers["D"].step()


def measure(mode, folder, steps, warmup=2):
    """Mean over both turns, the encoder's and the discriminator's, of the quickest step of each, in ms."""
    data = CVPR18(folder, ["02958343"], "train", folder + "/cache")
    trainer = Trainer(options(mode), torch.device("cpu"))
    sampler = Sampler(len(data), trainer.options.batch_size, 0)
    quickest = {}
    for step in range(1, steps + warmup + 1):
        start = time.perf_counter()
        batch = data.gather(sampler.batch(step), step)
        read = time.perf_counter()
        trainer.step(step, batch)
        stepped = time.perf_counter()
        network_alone(trainer, batch, step)
        end = time.perf_counter()
        if step > warmup:
            for what, seconds in (("whole_step", stepped - start), ("network_alone", end - stepped),
                                  ("of_which_data", read - start)):
                kept = quickest.setdefault(what, [float("inf")] * trainer.options.G_every)
                turn = step % trainer.options.G_every
                kept[turn] = min(kept[turn], 1e3 * seconds)
    result = {what: sum(turns) / len(turns) for what, turns in quickest.items()}
    rest = result["whole_step"] - result["network_alone"]
    return {"batch_size": trainer.options.batch_size, "enc_width": trainer.options.enc_width,
            **{f"{what}_ms": round(ms, 1) for what, ms in result.items()}, "everything_else_ms": round(rest, 1),
            "everything_else_percent_of_network": round(100 * rest / result["network_alone"], 1)}


def main(steps=20):
    with tempfile.TemporaryDirectory() as folder:
        synthetic.make_synthetic(folder, ["02958343"], n_train=40, n_val=1, n_test=1)
        results = {name: measure(mode, folder, steps)
                   for name, mode in (("featGAN", "train"), ("VPL", "trainCVPR19"))}
    ratio = results["VPL"]["whole_step_ms"] / results["featGAN"]["whole_step_ms"]
    common.keep("training_step", {**results, "VPL_step_in_featGAN_steps": round(ratio, 2),
                                  "load": [round(x, 1) for x in os.getloadavg()]})


if __name__ == "__main__":
    main()
