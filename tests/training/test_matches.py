"""Training images of other views that probably show similar objects, compared with plain loops and with the truth."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, minimize
from command import CAR, TINY, script
from datasets import CVPR18, DATASETS
from errors import InputError
from inference import Model
from losses import matches
from models import icosphere
import neural_renderer as nr
from readers.base import Batch

CPU = torch.device("cpu")


@pytest.fixture
def cars(data):
    return CVPR18(data, [CAR], "train", data / ".cache")


def options(*more):
    return script().parse(["--mode=train", *TINY, "--lambda_near=.5", *more])


def fit_by_hand(mine, real):
    shared = (mine * real).sum()
    return shared / (mine.sum() + real.sum() - shared)


def plan_by_hand(scores):
    """The plan that `matches.transport` computes, by scipy's solver of the dual problem: the potentials f of rows and g of
    columns for which exp(score + f + g) has the marginals asked for."""
    rows, columns = scores.shape

    def dual(x):
        joint = np.exp(scores + x[:rows, None] + x[rows:])
        return (joint.sum() - x[:rows].mean() - x[rows:].mean(),
                np.concatenate([joint.sum(1) - 1 / rows, joint.sum(0) - 1 / columns]))
    start = np.concatenate([-scores.max(1) - np.log(rows * columns), np.zeros(columns)])
    x = minimize(dual, start, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 5000}).x
    return np.exp(scores + x[:rows, None] + x[rows:]) * rows


@pytest.mark.parametrize("rows, columns", [(6, 6), (5, 9), (8, 3), (1, 4), (4, 1)])
def test_transport_is_the_solution_of_its_dual(rows, columns):
    scores = np.random.default_rng(rows).normal(size=(rows, columns)) * 2
    got = matches.transport(torch.from_numpy(scores), 300).numpy()
    np.testing.assert_allclose(got, plan_by_hand(scores), atol=1e-6)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-9)
    np.testing.assert_allclose(got.sum(0), rows / columns, atol=1e-6)
    assert torch.equal(matches.transport(torch.from_numpy(scores + 1e3), 300).argmax(1), torch.from_numpy(got.argmax(1)))


def test_transport_of_sharp_scores_is_the_best_assignment():
    """The smaller the temperature, the nearer the plan is to the best assignment."""
    scores = np.random.default_rng(3).random((40, 40))
    best = linear_sum_assignment(-scores)[1]
    assert (scores.argmax(1) != best).mean() > .3, "the best of each row alone is another"
    assert (matches.transport(torch.from_numpy(scores / .002), 3000).argmax(1).numpy() == best).all()


def test_the_bank_has_every_silhouette(cars, monkeypatch):
    monkeypatch.setattr(matches, "AT_ONCE", 5)
    bank, batch, poses = matches.Bank.of(cars, CPU), cars.gather(range(len(cars))), cars.all_poses()
    torch.testing.assert_close(bank.whole / 255, batch.silhouettes)
    assert torch.equal(bank.cameras, batch.cameras)
    small = batch.silhouettes.view(-1, 32, 2, 32, 2).mean((2, 4)).flatten(1)
    assert (bank.halves / 255 - small).abs().max() < .003
    assert [images.tolist() for images in bank.bins] == [np.flatnonzero(poses == k).tolist() for k in range(24)]


class Known:
    """A training split of 9 ellipsoids in 24 views whose images tell the object, and a model that knows their shapes
    up to some noise, which is another one for each image."""

    name, num_views, num_poses, augments = "CVPR18", 24, 24, False
    dataset, device, mirror_planes = CVPR18, CPU, CVPR18.mirror_planes

    def __init__(self, noise=.004):
        g = torch.Generator().manual_seed(2)
        sphere, self.faces = icosphere(2)
        noise = noise * torch.randn(9 * 24, len(sphere), 3, generator=g)
        objects, self.views = torch.arange(9).repeat_interleave(24), torch.arange(24).repeat(9)
        shapes = (sphere * (.15 + .3 * torch.rand(9, 1, 3, generator=g)))[objects]
        seen = CVPR18.renderer(64).render_silhouettes(CVPR18.project(shapes, self.views), self.faces)
        self.images = seen[:, None].expand(-1, 4, -1, -1).mul(255).byte().clone()
        self.images[:, 0, 0, 0] = torch.arange(9 * 24).byte()
        self.shapes = shapes + noise

    def __len__(self):
        return len(self.images)

    def all_poses(self):
        return self.views

    def read(self, numbers):
        n = torch.as_tensor(numbers)
        return Batch(self.images[n], None, self.views[n], self.views[n], n // 24)

    def gather(self, numbers):
        return self.read(numbers).as_numbers()

    def encode(self, images):
        return (images[:, 0, 0, 0] * 255).round()[:, None]

    def decode(self, codes):
        return self.shapes[codes[:, 0].long()]


@pytest.mark.parametrize("at_once", [1024, 3])
def test_matches_are_those_of_a_plain_search(monkeypatch, at_once):
    """Shapes are drawn one by one, and fits and scores are computed with loops."""
    monkeypatch.setattr(matches, "AT_ONCE", at_once)
    monkeypatch.setattr(matches, "COUNT", 2)
    monkeypatch.setattr(matches, "TEMPERATURE", .2)  # at .02, rounding to bytes changes weights by a tenth
    known = Known(noise=.05)
    found = matches.open_matches(options(), known, CPU)
    assert not found.known and found.state() == {}
    found.refresh(known, 1)
    bins, poses, small = found.bank.bins, known.views, found.bank.halves.numpy() / 255
    renderer = nr.Renderer(32, camera_mode="none", anti_aliasing=False)

    def drawn(i, view):
        screens = CVPR18.project(known.shapes[i:i + 1], torch.tensor([view]))
        return renderer.render_silhouettes(screens, known.faces)[0].flatten().numpy()
    assert torch.allclose(found.weights.sum(1), torch.ones(len(known)))
    others = poses[found.numbers]
    assert (others == others[:, :1]).all() and (others[:, 0] != poses).all()
    assert sorted(others[:, 0].unique().tolist()) == list(range(24)), "each bin is compared with another"
    for view in (0, 7, 13):
        images, other = bins[view], int(others[bins[view][0], 0])
        candidates = bins[other]
        there = np.array([[fit_by_hand(drawn(i, other), small[j]) for j in candidates] for i in images])
        here = np.array([[fit_by_hand(small[i], drawn(j, view)) for j in candidates] for i in images])
        for i, row in zip(images.tolist(), plan_by_hand((there + here) / matches.TEMPERATURE)):
            taken = row[[candidates.tolist().index(j) for j in found.numbers[i].tolist()]]
            assert np.allclose(taken, np.sort(row)[::-1][:2], atol=.02)
            assert np.allclose(found.weights[i], taken / taken.sum(), atol=.02)


def test_objects_that_look_alike_are_found():
    """The ellipsoids differ, so the best match of an image is the same object. In seven of eight cases: from some
    directions two of them look the same."""
    known = Known()
    found = matches.Matches(matches.Bank.of(known, CPU), known, SimpleNamespace(near_from=0, near_every=1, seed=0))
    hits = []
    for step in range(1, 6):
        found.refresh(known, step)
        hits.append(found.numbers[:, 0] // 24 == torch.arange(len(known)) // 24)
    assert torch.stack(hits).float().mean() > 7 / 8
    target, cameras = found.of(torch.tensor([4, 100]))
    assert torch.equal(cameras, known.views[found.numbers[[4, 100], 0]])
    expected = [sum(w * known.images[j, 3] / 255 for w, j in zip(found.weights[i].tolist(), found.numbers[i].tolist()))
                for i in (4, 100)]
    torch.testing.assert_close(target, torch.stack(expected))


def test_candidates_of_a_large_bin_are_drawn_at_random(monkeypatch):
    monkeypatch.setattr(matches, "CANDIDATES", 3)
    known = Known()
    found = matches.Matches(matches.Bank.of(known, CPU), known, SimpleNamespace(near_from=0, near_every=1, seed=0))
    seen = set()
    for step in range(1, 9):
        found.refresh(known, step)
        for images in found.bank.bins:
            there = set((found.numbers[images] // 24).flatten().tolist())
            assert len(there) <= 3 and found.numbers.shape == (len(known), matches.COUNT)
            assert torch.allclose(found.weights[images, :3].sum(1), torch.ones(9)), "those that come again weigh nothing"
            seen |= there
    assert seen == set(range(9))


def test_they_are_found_anew_from_an_iteration_on_and_every_so_many():
    known, times = Known(), []
    found = matches.Matches(matches.Bank.of(known, CPU), known, SimpleNamespace(near_from=5, near_every=3, seed=0))
    found.find = lambda model, rng: times.append(float(rng.random()))
    refreshed = []
    for step in range(1, 13):
        found.refresh(known, step)
        if len(times) > len(refreshed):
            refreshed.append(step)
    assert refreshed == [5, 8, 11] and len(set(times)) == 3
    resumed = matches.Matches(found.bank, known, SimpleNamespace(near_from=5, near_every=3, seed=0))
    resumed.find = found.find
    resumed.load(found.state())
    resumed.refresh(known, 12)
    assert resumed.known and len(times) == 3, "what a checkpoint has is not looked for again"
    for number, state in enumerate([{}, found.numbers], 4):  # of checkpoints without matches, or without weights
        older = matches.Matches(found.bank, known, SimpleNamespace(near_from=5, near_every=3, seed=0))
        older.find = found.find
        older.load(state)
        older.refresh(known, 12)
        assert len(times) == number


@pytest.mark.parametrize("name", ["Pascal3D", "NIPS17"])
def test_images_with_cameras_of_their_own_have_one_match(name):
    dataset = DATASETS[name]
    cameras = dataset.turntable(6)
    g = torch.Generator().manual_seed(0)
    bank = matches.Bank((torch.rand(6, 8, 8, generator=g) * 255).byte(), None, cameras, [])
    data = SimpleNamespace(num_views=dataset.num_views, augments=dataset.augments, mirrored=dataset.mirrored,
                           mirror_planes=dataset.mirror_planes)
    found = matches.Matches(bank, data, SimpleNamespace(near_from=0, near_every=1, seed=0))
    assert found.numbers.shape == (6, 1)
    found.numbers[:, 0] = torch.tensor([5, 4, 3, 2, 1, 0])
    found.weights[:] = 1
    target, seen = found.of(torch.tensor([1, 3]))
    torch.testing.assert_close(target, bank.whole[[4, 2]] / 255)
    assert torch.equal(seen, cameras[[4, 2]])
    if dataset.augments:  # a mirrored image has the mirrored target from the mirrored camera
        target, seen = found.of(torch.tensor([1, -1 - 3]))
        torch.testing.assert_close(target, torch.stack([bank.whole[4], bank.whole[2].flip(-1)]) / 255)
        assert torch.equal(seen, torch.stack([cameras[4], dataset.mirrored(cameras[2:3], 0)[0]]))


def test_bins_without_images_are_told_once(cars, capsys):
    few = CVPR18.__new__(CVPR18)
    few.__dict__.update(cars.__dict__, rows=cars.rows[cars.rows["view"] > 3])
    found = matches.open_matches(options(), few, CPU)
    assert capsys.readouterr().out == "--lambda_near leaves out 4 of 24 pose bins, which have no training images\n"
    found.refresh(Model(vars(options())), 1)
    assert sorted(few.all_poses()[found.numbers[:, 0]].unique().tolist()) == list(range(4, 24))


def test_one_bin_is_refused(cars):
    one = CVPR18.__new__(CVPR18)
    one.__dict__.update(cars.__dict__, rows=cars.rows[cars.rows["view"] == 3])
    with pytest.raises(InputError, match="--lambda_near=0.5 looks for silhouettes in other pose bins than an image's "
                                         "own, but the images of this training set of CVPR18 are in 1 pose bin"):
        matches.open_matches(options(), one, CPU)


def test_a_bank_that_does_not_fit_stays_on_the_host(cars, capsys, monkeypatch):
    whole = matches.Bank.of

    def full(data, device):
        if device.type != "cpu":
            raise torch.OutOfMemoryError("out of memory")
        return whole(data, device)
    monkeypatch.setattr(matches.Bank, "of", full)
    found = matches.open_matches(options(), cars, torch.device("cuda"))
    assert found.numbers.device.type == "cpu" and "stay in the memory of the host" in capsys.readouterr().out
