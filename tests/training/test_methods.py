"""The table of losses and the methods in a step, and adding one more of each."""
from types import SimpleNamespace

import losses
import methods
import pytest
import torch
from command import CAR, TINY, script
from datasets import CVPR18
from errors import InputError
from training import Trainer


@pytest.fixture
def cars(data):
    return CVPR18(data, [CAR], "train", data / ".cache")


def trainer_of(cars, *more, mode="train"):
    torch.manual_seed(0)
    return Trainer(script().parse([f"--mode={mode}", *TINY, *more]), torch.device("cpu"), cars)


def gradients(trainer):
    return [p.grad.clone() for name in "EG" for p in trainer.modules[name].parameters()]


@pytest.mark.parametrize("mode, prior", [("train", 1.0), ("trainCVPR19", 0.0)])
def test_the_total_is_the_published_sum_to_the_bit(cars, mode, prior):
    """The sum is written out here, without the table of losses."""
    trainer, batch = trainer_of(cars, "--lambda_Lap=0.1", "--lambda_edge=0.2", mode=mode), cars.gather([3, 30, 50, 95])
    values, _ = trainer.step(1, batch)
    learnt = gradients(trainer)
    same = trainer_of(cars, mode=mode)
    codes = same.model.encoder(batch.images)
    vertices, topology = same.model.decoder(codes), same.topology
    rendered = same.renderer.render_silhouettes(CVPR18.project(vertices, batch.cameras), same.model.faces)
    total = (losses.silhouette_loss(rendered, batch.silhouettes) + 0.001 * losses.smoothness_loss(vertices, topology)
             + prior * losses.gaussian_prior(codes))
    total = total + 0.1 * losses.laplacian_loss(vertices, topology)
    total = total + 0.2 * losses.edge_length_loss(vertices, topology)
    total.backward()
    if mode == "train":  # VPL draws two views in one call; their gradients are added in another order
        assert all(torch.equal(a, b) for a, b in zip(learnt, gradients(same)))
    torch.testing.assert_close(learnt, gradients(same), rtol=1e-4, atol=1e-6)
    assert list(values) == ["silhouette", "smoothness", "prior", "laplacian", "edge", "discriminator"]


@pytest.mark.parametrize("more, taken", [
    ((), ["silhouette", "smoothness", "prior"]),
    (("--lambda_smth=0", "--lambda_Gprior=0"), ["silhouette", "smoothness", "prior"]),  # recorded all the same
    (("--lambda_edge=2",), ["silhouette", "smoothness", "prior", "edge"])])
def test_losses_of_no_weight_are_not_taken(cars, more, taken):
    trainer = trainer_of(cars, "--lambda_adv=0", *more)
    assert isinstance(trainer.method, methods.AutoEncoder) and set(trainer.modules) == {"E", "G"}
    assert list(trainer.step(2, cars.gather([0, 1, 2, 3]))[0]) == taken


def test_one_more_loss_is_one_row(cars, monkeypatch):
    """A loss with `prepare` and `views`."""
    prepared = []

    def prepare(options, data, device):
        prepared.append((options.lambda_edge, len(data), device))
        return torch.tensor(3.0, device=device)

    def views(dataset, cameras, poses):
        return (cameras + 6) % dataset.num_views, (poses + 6) % dataset.num_views

    def function(step):
        view, seen = step.views["far"], step.views["unseen"]
        assert view.rendered.shape == step.rendered.shape == step.silhouettes.shape and seen.rendered is None
        assert torch.equal(view.cameras, (step.cameras + 6) % 24) and torch.equal(view.poses, view.cameras)
        assert torch.equal(view.rendered, step.draw(view.cameras)[0])
        assert step.objects.tolist() == [0, 0, 1, 2]
        return step.prepared["far"] * view.rendered.mean()

    rows = (losses.Loss("far", "lambda_edge", function, prepare=prepare, views=views),
            losses.Loss("unseen", None, lambda step: 0 * step.codes.sum(), views=views, silhouettes=False))
    batch = cars.gather([0, 9, 30, 60])
    plain = trainer_of(cars, "--lambda_adv=0")
    plain.step(1, batch)
    monkeypatch.setattr(losses, "LOSSES", losses.LOSSES[:4] + rows)
    trainer = trainer_of(cars, "--lambda_adv=0", "--lambda_edge=0.5")
    assert prepared == [(0.5, len(cars), torch.device("cpu"))]
    values, _ = trainer.step(1, batch)
    same = trainer_of(cars, "--lambda_adv=0", "--lambda_edge=0.5")
    vertices = same.model.decoder(same.model.encoder(batch.images))
    other = same.renderer.render_silhouettes(CVPR18.project(vertices, (batch.cameras + 6) % 24), same.model.faces)
    (0.5 * 3 * other.mean()).backward()
    assert float(values["far"]) == pytest.approx(3 * float(other.detach().mean()))
    for whole, without, extra in zip(gradients(trainer), gradients(plain), gradients(same)):
        torch.testing.assert_close(whole - without, extra, rtol=1e-3, atol=1e-5)
    trainer_of(cars)  # of weight 0
    assert len(prepared) == 2


def test_views_are_those_that_the_trainer_was_told(cars):
    """For VPL these are other views of the same objects, drawn by the dataset."""
    trainer, batch = trainer_of(cars, mode="trainCVPR19"), cars.gather([0, 9, 30, 60])
    torch.manual_seed(5)
    *_, cameras, poses = trainer.inputs(batch)
    torch.manual_seed(5)
    assert all(torch.equal(a, b) for a, b in zip((cameras, poses), CVPR18.other_views(batch.cameras, batch.poses)))
    assert not (cameras == batch.cameras).any()


def test_an_incomplete_method_cannot_be_made():
    class Half(methods.Method):
        def encoder_losses(self, step):
            return {}
    with pytest.raises(TypeError, match="discriminator_losses"):
        Half(None, 24, 64)


def test_options_of_another_method_are_named():
    options = SimpleNamespace(mode="trainCVPR19")
    assert methods.refused(options, "confusion") == "--confusion belongs to --mode=train: VPL has no such option"
    assert methods.refused(options, "lr") is None
    assert methods.refused(SimpleNamespace(mode="train"), "confusion") is None


def test_a_method_can_refuse_options_that_do_not_fit_the_files(cars):
    with pytest.raises(InputError, match="--channels=7.*the 24 views of CVPR18, 25 in all"):
        trainer_of(cars, "--channels=7", mode="trainCVPR19")
