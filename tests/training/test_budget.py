"""Learning rate schedules, pairs of images, and the discriminator's replay."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from command import CAR, TINY, call
from loop import Sampler, learning_rate
from models import PoseDiscriminator, ViewDiscriminator


def test_half_a_cosine():
    options = SimpleNamespace(lr_schedule="cosine", n_iters=100)
    rates = [learning_rate(step, options, 2e-3) for step in range(1, 101)]
    assert rates[0] == 2e-3 and rates[50] == pytest.approx(1e-3) and 0 < rates[-1] < 1e-6
    assert rates[25] == pytest.approx(1e-3 * (1 + math.cos(math.pi / 4))) and rates == sorted(rates, reverse=True)


def test_a_cosine_ends_where_it_was_to_end(data, template, tmp_path, capsys):
    common = ("--mode=train", f"--data_dir={data}", f"--ckpt_dir={tmp_path}/x", f"--obj_dir={template}", "--class_ids",
              CAR, "--lambda_adv=0", "--lr_schedule=cosine", *TINY)
    assert call(*common, "--n_iters=2") == 0
    assert call(*common, "--n_iters=3", "--resume") == 2
    assert "was trained with --n_iters=2, now --n_iters=3" in capsys.readouterr().err


@pytest.mark.parametrize("sizes", [(4, 4, 4), (2, 3, 7)])
def test_pairs_are_of_one_object_and_every_image_comes(sizes):
    objects = np.repeat(np.arange(len(sizes)), sizes)
    numbers = np.random.default_rng(0).permutation(len(objects))
    objects = objects[numbers]  # in any order
    sampler = Sampler(len(objects), 4, 7, objects)
    count = sum(n + n % 2 for n in sizes)
    assert sampler.count == count
    seen = np.concatenate([sampler.batch(step) for step in range(1, count + 1)])
    pairs = seen.reshape(-1, 2)
    assert (objects[pairs[:, 0]] == objects[pairs[:, 1]]).all() and (pairs[:, 0] != pairs[:, 1]).all()
    epoch = seen[:count]
    assert set(epoch) == set(range(len(objects)))
    assert len(set(map(frozenset, pairs.tolist()))) > count / 2  # mixed anew in each epoch
    again = Sampler(len(objects), 4, 7, objects)
    assert (again.batch(3) == seen[8:12]).all()


def plain_loss(network, batches):
    """Mean over batches of the mean negative log-likelihood; each batch is standardised separately."""
    return sum(torch.nn.functional.nll_loss(network(codes), poses) for codes, poses in batches) / len(batches)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_discriminator_learns_from_its_last_batches(standardize):
    torch.manual_seed(0)
    network = PoseDiscriminator(5, 8, standardize, replay=(3, 6))
    plain = PoseDiscriminator(5, 8, standardize)
    plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("replayed")})
    batches = [(torch.randn(6, 8) * 3 + k, torch.randint(5, (6,))) for k in range(6)]
    for k, batch in enumerate(batches):
        expected = plain_loss(plain, batches[max(0, k - 3):k + 1])
        network.zero_grad(), plain.zero_grad()
        value = network.loss(*batch)
        value.backward()
        expected.backward()
        assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
        for a, b in zip(network.parameters(), plain.parameters()):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6)
    assert not set(plain.state_dict()) & {"replayed_codes", "replayed_poses", "replayed"}


def test_width_of_the_view_discriminator():
    published, narrow = ViewDiscriminator(24), ViewDiscriminator(24, width=16)
    assert [m.out_channels for m in narrow.convBlocks if isinstance(m, torch.nn.Conv2d)] == [16, 32, 64, 128]
    assert [m.out_channels for m in published.convBlocks if isinstance(m, torch.nn.Conv2d)] == [128, 256, 512, 1024]
    assert narrow(torch.rand(2, 64, 64), torch.tensor([1, 5])).shape == (2,)
