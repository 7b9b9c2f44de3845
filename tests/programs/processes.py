"""Training steps in double precision. test_distributed.py runs this program in two processes and compares the result
with one process; in double precision the order of sums does not hide differences.

    python tests/programs/processes.py DATA TEMPLATE RESULT
"""
import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import conftest  # noqa: E402,F401  (finds the modules)
from engine import distributed  # noqa: E402
from engine.divergence import any_bad  # noqa: E402

BATCH = 4
# Low learning rates: with the published rate, rounding errors would grow tenfold from step to step, because the meshes
# unfold in the first steps.
CASES = {"featGAN": (20, "train", "--lr=1e-6"), "VPL": (2, "trainCVPR19"),
         "standardized": (6, "train", "--standardize_code", "--confusion=ce", "--lr=1e-6", "--lr_D=1e-3"),
         "colours": (6, "train", "--texture=faces", "--texture_to_shape", "--lr=1e-6")}


def trainer_of(data, template, mode, *more):
    from engine import runs
    from command import CAR, TINY, script
    from datasets import CVPR18
    from training import Trainer
    options = script().parse([f"--mode={mode}", "--dataset=CVPR18", "--obj_dir", str(template), *TINY, *more])
    options.batch_size = BATCH
    runs.seed_everything(0)
    cars = CVPR18.open({"data_dir": str(data), "class_ids": [CAR]}, "train")
    trainer = Trainer(options, torch.device("cpu"), cars)
    for module in trainer.modules.values():
        module.double()
    return trainer, cars


def batch_of(cars, step, part=None):
    batch = cars.gather([(37 * step + 11 * i) % len(cars) for i in range(BATCH)], step, part or distributed.part(BATCH))
    batch.images, batch.silhouettes = batch.images.double(), batch.silhouettes.double()
    return batch


def steps(data, template):
    """{case: [losses and norms of gradients of each step]}."""
    told = {}
    for case, (count, mode, *more) in CASES.items():
        trainer, cars = trainer_of(data, template, mode, *more)
        views, seen = [], trainer.seen

        def watched(*arguments):
            step = seen(*arguments)
            other = step.views.get("VPL")
            views.append(other and distributed.gathered(other.poses).tolist())
            return step
        trainer.seen = watched
        told[case] = [{name: float(value) for name, value in {**values, **norms}.items()}
                      for values, norms in (trainer.step(step, batch_of(cars, step)) for step in range(1, count + 1))]
        told[case + " views"] = views
    return told


def bad_step(data, template):
    """Only process 1 gets a picture that is not finite. Returns [flag, whether the weights did not change]."""
    trainer, cars = trainer_of(data, template, *CASES["standardized"][1:])
    trainer.step(1, batch_of(cars, 1))
    before = [p.clone() for m in trainer.modules.values() for p in m.parameters()]
    batch = batch_of(cars, 2)
    if not distributed.main():
        batch.images[0, 0, 0, 0] = float("nan")
    flag = float(any_bad(*trainer.step(2, batch)))
    return [flag, all(torch.equal(a, b) for a, b in zip(before, (
        p for m in trainer.modules.values() for p in m.parameters())))]


def main(data, template, result):
    torch.set_num_threads(1)
    with distributed.joined("train", ["train"]):
        told = steps(Path(data), template)
        statistics = torch.nn.BatchNorm1d(2)
        statistics.running_mean += 1 + distributed.rank()
        distributed.average_statistics([statistics])
        told["mean of statistics"] = statistics.running_mean.tolist()
        bad = bad_step(Path(data), template)
        # What process 1 has seen, told by process 0.
        told["bad step"] = [bad[0], distributed.highest(int(bad[0])), bool(bad[1]),
                            distributed.highest(int(not bad[1])) == 0]
        if distributed.main():
            Path(result).write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
    distributed.leave(0)
