"""Parts of the training loop: turns, the networks that a loss trains, the learning rate, the order of images."""
import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import CAR, TINY, script


@pytest.fixture
def trainer(data):
    """A function that makes a `Trainer` with new weights of seed 0, and a batch for it."""
    from datasets import CVPR18
    from training import Trainer
    cars = CVPR18(data, [CAR], "train", data / ".cache")

    def make(*more):
        torch.manual_seed(0)
        options = script().parse(["--mode=train", *TINY, *more])
        return Trainer(options, torch.device("cpu")), cars.gather([3, 30, 50, 95])
    return make


def gradients(trainer, name):
    return {k: p.grad.clone() for k, p in trainer.modules[name].named_parameters()}


def test_the_discriminators_turn_leaves_encoder_and_decoder_alone(trainer):
    (plain, batch), (full, same) = trainer("--lambda_adv=0"), trainer("--lambda_adv=1")
    before = [p.clone() for p in full.modules["D"].parameters()]
    plain.step(1, batch), full.step(1, same)
    for name in "EG":
        torch.testing.assert_close(gradients(full, name), gradients(plain, name), rtol=1e-5, atol=1e-8)
    assert not any(torch.equal(a, b) for a, b in zip(before, full.modules["D"].parameters()))


def test_the_encoders_turn_leaves_the_discriminator_alone(trainer):
    import losses
    (plain, batch), (full, same) = trainer("--lambda_adv=0"), trainer("--lambda_adv=0.5")
    encoder, judge = plain.modules["E"], full.modules["D"]
    wanted = torch.autograd.grad(0.5 * losses.confusion_loss(judge(encoder(batch.images)), "log2"),
                                 list(encoder.parameters()))
    before = [p.clone() for p in judge.parameters()]
    plain.step(2, batch), full.step(2, same)
    assert all(torch.equal(a, b) and b.grad is None and b.requires_grad
               for a, b in zip(before, judge.parameters()))
    torch.testing.assert_close(gradients(full, "G"), gradients(plain, "G"), rtol=1e-5, atol=1e-8)
    for (name, ours), theirs, extra in zip(gradients(full, "E").items(), gradients(plain, "E").values(), wanted):
        torch.testing.assert_close(ours - theirs, extra, rtol=1e-3, atol=1e-5 * float(ours.abs().max()),
                                   msg=lambda text: f"{name}: {text}")


def test_going_on_does_not_depend_on_the_memory_order_of_what_was_saved(trainer):
    """The fused Adam uses memory order: moments in another order would belong to other weights."""
    (first, batch), weights = trainer(), []
    first.step(1, batch)
    for reordered in (False, True):
        state = copy.deepcopy(first.state())  # a copy, like a file: the trainer does not change it
        if reordered:
            for kept in state["optimizers"]["E"]["state"].values():
                kept |= {k: v.clone(memory_format=torch.contiguous_format) for k, v in kept.items()}
        again, same = trainer()
        again.load(state)
        again.step(2, same)
        weights.append([p.detach().clone() for p in again.modules["E"].parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights))


def test_learning_rate_is_that_of_a_loop_that_multiplies():
    from training import learning_rate
    options, rate = SimpleNamespace(lr_schedule="constant", decay_batch=7, decay_every=3, decay_order=0.5), 0.1
    for done in range(30):
        if done >= 7 and (done - 7) % 3 == 0:
            rate *= 0.5
        assert learning_rate(done + 1, options, 0.1) == pytest.approx(rate, rel=1e-12), done


def test_learning_rates_of_the_original_program():
    """The values are recorded from the original program, with decay_batch 2 and a decay every 2 iterations."""
    from training import learning_rate
    options = SimpleNamespace(lr_schedule="constant", decay_batch=2, decay_every=2, decay_order=0.1)
    rates = [learning_rate(step, options, 1e-4) for step in range(1, 7)]
    assert rates == pytest.approx([1e-4, 1e-4, 1e-5, 1e-5, 1e-6, 1e-6], rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 27])
def test_sampler(batch_size):
    from loop import Sampler
    sampler, steps = Sampler(10, batch_size, seed=5), 120 // batch_size + 1
    batches = [sampler.batch(step) for step in range(1, steps + 1)]
    assert all(len(b) == batch_size for b in batches)
    epochs = np.concatenate(batches)[:steps * batch_size // 10 * 10].reshape(-1, 10)
    assert (np.sort(epochs) == np.arange(10)).all() and len({tuple(e) for e in epochs}) == len(epochs)
    for step in (steps, 1, steps // 2 + 1, 2, 2):  # in any order of calls
        assert (sampler.batch(step) == batches[step - 1]).all()
        assert (Sampler(10, batch_size, seed=5).batch(step) == batches[step - 1]).all()
    assert (Sampler(10, 10, seed=6).batch(1) != Sampler(10, 10, seed=5).batch(1)).any()
