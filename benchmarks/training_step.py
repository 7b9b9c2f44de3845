"""One training step of the reference networks taken apart: what is the network, what is not.

    python benchmarks/training_step.py      writes benchmarks/results/training_step.json

The network alone is the same step with the mesh replaced by a linear loss on the vertices and the
code: both networks forward and backward, the discriminator, the optimisers. The difference is
everything else: data, camera, rasteriser, mesh losses. Both are timed alternately.
"""
import statistics
import tempfile
import time

import torch

import common
import synthetic
from datasets import CVPR18
from loop import Sampler
from training import Shown, Trainer


def options(**changed):
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location("gan", f"{common.ROOT}/3D-GAN.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    script.keep_freed_memory()
    parsed = script.parse(["--mode=train"])
    for name, value in changed.items():
        setattr(parsed, name, value)
    return parsed


def network_alone(trainer, batch, step):
    """As Trainer.step, without camera, rasteriser and mesh losses."""
    for optimizer in trainer.optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    codes = trainer.model.encoder(batch.images)
    shown = Shown(codes, batch.poses, None, None, None)
    total = trainer.model.decoder(codes).mean() + codes.mean()
    if step % trainer.options.G_every == 0:
        total = total + trainer.method.adversarial_loss(shown)
    total.backward()
    trainer.optimizers["E"].step()
    trainer.optimizers["G"].step()
    if step % trainer.options.G_every:
        trainer.method.discriminator_loss(shown).backward()
        trainer.optimizers["D"].step()


def main(steps=20):
    with tempfile.TemporaryDirectory() as folder:
        synthetic.make_synthetic(folder, ["02958343"], n_train=40, n_val=1, n_test=1)
        data = CVPR18(folder, ["02958343"], "train", folder + "/cache")
        trainer = Trainer(options(), torch.device("cpu"))
        sampler = Sampler(len(data), trainer.options.batch_size, 0)
        whole, network, reading = [], [], []
        for step in range(1, steps + 4):
            start = time.perf_counter()
            batch = data.gather(sampler.batch(step))
            read = time.perf_counter()
            trainer.step(step, batch)
            stepped = time.perf_counter()
            network_alone(trainer, batch, step)
            end = time.perf_counter()
            if step > 3:
                reading.append(1e3 * (read - start))
                whole.append(1e3 * (stepped - start))
                network.append(1e3 * (end - stepped))
    rest = [w - n for w, n in zip(whole, network)]
    common.keep("training_step", {
        "batch_size": trainer.options.batch_size, "enc_width": trainer.options.enc_width,
        **{f"{name}_ms": round(statistics.median(values), 1) for name, values in (
            ("whole_step", whole), ("network_alone", network), ("everything_else", rest),
            ("of_which_data", reading))}})


if __name__ == "__main__":
    main()
