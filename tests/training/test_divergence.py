"""Losses and gradients that are not finite: the run stops and names step and part, or skips the step completely."""
import math

import pytest
import torch
from command import TINY, call, checkpoint, differences, metrics
from engine.divergence import SKIPS_IN_A_ROW, Watch, any_bad, gradient_norms
from errors import Divergence


def command(data, template, folder, *more):
    return ("--mode=train", "--data_dir", data, "--ckpt_dir", folder, "--obj_dir", template, *TINY,
            "--log_step=1", "--ckpt_step=2", "--sample_step=100", *more)


class Poison(torch.autograd.Function):
    """The identity; its gradient is NaN."""

    @staticmethod
    def forward(_, value):
        return value.clone()

    @staticmethod
    def backward(_, gradient):
        return gradient * float("nan")


@pytest.fixture
def poisoned(monkeypatch):
    """A function that makes a part of some steps NaN: {step: part}; parts are names of losses, or 'gradient'."""
    import losses
    from training import Trainer
    step, ill = Trainer.step, {}

    def spoil(name, function):
        def spoilt(*arguments, **more):
            value = function(*arguments, **more)
            part = ill.get(now[0])
            if part == name:
                return value * math.inf
            return Poison.apply(value) if part == "gradient " + name else value
        monkeypatch.setattr(losses, function.__name__, spoilt)

    now = [0]
    for name, function in (("smoothness", losses.smoothness_loss), ("discriminator", losses.discriminator_loss),
                           ("confusion", losses.confusion_loss)):
        spoil(name, function)

    def counted(self, number, batch):
        now[0] = number
        return step(self, number, batch)
    monkeypatch.setattr(Trainer, "step", counted)
    return ill.update


@pytest.mark.parametrize("part, told", [
    ("smoothness", "step 3: the smoothness loss is inf (silhouette loss 0."),
    ("discriminator", "step 3: the discriminator loss is inf"),
    ("gradient smoothness", "step 3: the gradient of the encoder is nan (silhouette loss 0."),
    ("gradient discriminator", "step 3: the gradient of the discriminator is nan")])
def test_it_stops_and_says_where(part, told, poisoned, data, template, tmp_path, capsys):
    poisoned({3: part})
    assert call(*command(data, template, tmp_path / "run", "--n_iters=5")) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {told}") and line.endswith(f"checkpoint stays in {tmp_path / 'run'}"), line
    assert checkpoint(tmp_path / "run")["step"] == 2
    assert [r["step"] for r in metrics(tmp_path / "run")] == [1, 2]


@pytest.mark.parametrize("mode", ["train", "trainCVPR19"])
@pytest.mark.parametrize("part", ["smoothness", "gradient smoothness"])
def test_a_step_is_skipped_without_a_trace(mode, part, poisoned, data, template, tmp_path):
    """Networks, optimisers and statistics of batch normalisation equal those of a trainer that did not take the
    step."""
    from engine import runs
    from command import script
    from datasets import CVPR18
    from training import Trainer
    options = script().parse([str(a) for a in command(
        data, template, tmp_path, "--on_nan=skip", f"--mode={mode}")])
    cars = CVPR18(data, ["02958343"], "train", data / ".cache")
    runs.seed_everything(0)
    trainer = Trainer(options, torch.device("cpu"))
    for step in (1, 2):
        trainer.step(step, cars.gather([3, 30, 50, 95]))
    kept = {k: {n: v.clone() for n, v in m.state_dict().items()} for k, m in trainer.modules.items()}
    moments = [[v.clone() for p in o.state.values() for v in p.values()] for o in trainer.optimizers.values()]
    for step in (3, 4):
        poisoned({step: part})
        values, norms = trainer.step(step, cars.gather([7, 8, 9, 10]))
        assert any_bad(values, norms) == 1
        assert not differences(kept, {k: m.state_dict() for k, m in trainer.modules.items()})
        assert not differences(moments, [[v for p in o.state.values() for v in p.values()]
                                         for o in trainer.optimizers.values()])
    assert any_bad(*trainer.step(5, cars.gather([7, 8, 9, 10]))) == 0
    assert len(differences(kept, {k: m.state_dict() for k, m in trainer.modules.items()})) > 20, "it learns again"


def test_skips_are_counted_and_told_and_a_resumed_run_knows_them(poisoned, data, template, tmp_path, capsys):
    poisoned({2: "smoothness", 5: "gradient smoothness"})
    options = command(data, template, tmp_path / "run", "--on_nan=skip")
    whole = command(data, template, tmp_path / "whole", "--on_nan=skip", "--n_iters=6")
    assert call(*options, "--n_iters=4") == 0 and call(*options, "--n_iters=6", "--resume") == 0
    assert "; 2 steps skipped, not finite;" in capsys.readouterr().out
    rows = metrics(tmp_path / "run")
    assert [r.get("skipped") for r in rows] == [None, 1, 1, 1, 2, 2]
    assert rows[1]["smoothness"] is None and rows[4]["smoothness"] > 0
    assert call(*whole) == 0
    one, other = checkpoint(tmp_path / "run"), checkpoint(tmp_path / "whole")
    assert one["skipped"] == 2
    for key in ("models", "optimizers", "skipped", "best", "rng"):
        assert differences(one[key], other[key]) == [], key


def test_a_run_that_only_skips_ends(data, template, tmp_path, poisoned, monkeypatch, capsys):
    from engine import divergence
    monkeypatch.setattr(divergence, "SKIPS_IN_A_ROW", 3)
    poisoned(dict.fromkeys(range(2, 50), "smoothness"))
    assert call(*command(data, template, tmp_path / "run", "--on_nan=skip", "--n_iters=50")) == 3
    said = capsys.readouterr().err
    assert "step 5: the smoothness loss is inf" in said and "as in the 3 steps" in said


# ---- the watch ---------------------------------------------------------------------------------------

def scalars(**values):
    return {k: torch.tensor(float(v)) for k, v in values.items()}


def test_the_watch_reads_several_steps_at_once():
    watch = Watch("skip", skipped=4)
    for step in range(1, 8):
        watch.add(step, scalars(a=step if step != 3 else math.nan, b=2), scalars(E=1 if step != 5 else math.inf))
    assert watch.read() == {"a": 7.0, "b": 2.0} and watch.skipped == 6 and watch.in_a_row == 0
    watch = Watch("stop")
    for step in range(1, 8):
        watch.add(step, scalars(a=1), scalars(E=1, G=math.nan if step >= 4 else 2))
    with pytest.raises(Divergence, match=r"the gradient of the decoder is nan \(a loss 1, gradient") as told:
        watch.read()
    assert told.value.step == 4


def test_skips_in_a_row_end_only_in_a_row():
    watch = Watch("skip")
    for step in range(1, 3 * SKIPS_IN_A_ROW):
        watch.add(step, scalars(a=math.nan if step % 100 else 1), {})
        watch.read()
    for step in range(SKIPS_IN_A_ROW):
        watch.add(step, scalars(a=math.nan), {})
    with pytest.raises(Divergence, match="as in the 100 steps before"):
        watch.read()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_one_bad_entry_is_enough(value):
    """1e30 is finite, but its square, which Adam keeps, is not."""
    layer = torch.nn.Linear(300, 200)
    for p in layer.parameters():
        p.grad = torch.randn_like(p)
    layer.bias.requires_grad_(False)
    assert any_bad({}, gradient_norms({"E": layer})) == 0
    layer.weight.grad[17, 211] = value
    assert any_bad(scalars(a=1), gradient_norms({"E": layer})) == 1


def test_norms_of_gradients_in_any_memory_order():
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 5), torch.nn.Conv2d(8, 4, 3), torch.nn.Linear(7, 5))
    layers[1].to(memory_format=torch.channels_last)
    for p in layers.parameters():
        p.grad = torch.randn_like(p)
    layers[2].weight.grad = torch.randn(7, 5).T
    layers[2].bias.grad = None
    wanted = torch.cat([p.grad.flatten() for p in layers.parameters() if p.grad is not None]).double().norm()
    got = gradient_norms({"E": layers, "G": layers[0]})
    assert set(got) == {"E", "G"} and got["E"] > got["G"] > 0
    torch.testing.assert_close(got["E"], wanted.float())
