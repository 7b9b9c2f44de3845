"""Losses from prior knowledge compared with closed forms, finite differences and plain NumPy."""
from types import SimpleNamespace

import losses
import numpy as np
from losses import priors
import pytest
import torch
from command import CAR, TINY, call, checkpoint, differences, script
from datasets import CVPR18, DATASETS
from errors import InputError
from losses import MeshTopology
from models import icosphere
from solids import box
from training import Trainer


def bent(seed=0):
    """A closed shape without any symmetry, (1, V, 3) float64 and its faces."""
    vertices, faces = icosphere(1)
    v = vertices.double() * torch.tensor([.4, .3, .2])
    v = v + .15 * torch.stack([v[:, 1] ** 2 * 5, v[:, 2] * 2, v[:, 0] * v[:, 1] * 7], 1) + .1
    return v[None], faces


# ---- pressure ---------------------------------------------------------------------------------------


def pressure_by_hand(vertices, faces):
    total = 0.0
    for mesh in vertices:
        for a, b, c in faces:
            normal = np.cross(mesh[b] - mesh[a], mesh[c] - mesh[a])
            total -= np.dot((mesh[a] + mesh[b] + mesh[c]) / 3, normal / np.linalg.norm(normal))
    return total / len(vertices)


def test_pressure_is_the_sum_of_its_formula_and_of_a_cube_known():
    first, faces = bent()
    vertices = torch.cat([first, first * 1.3 + .05])
    assert float(priors.pressure_loss(vertices, faces)) == pytest.approx(
        pressure_by_hand(vertices.numpy(), faces.numpy()), rel=1e-9)
    cube, sides = box((-.5, -.5, -.5), (.5, .5, .5))  # 12 faces, each half a unit from the middle
    value = priors.pressure_loss(torch.tensor(cube, dtype=torch.float64)[None], torch.tensor(sides))
    assert abs(float(value)) == pytest.approx(6)


def test_the_gradient_of_pressure_is_a_constant_force_along_held_normals():
    vertices, faces = bent()
    v = vertices.clone().requires_grad_()
    priors.pressure_loss(v, faces).backward()
    expected = np.zeros(vertices.shape[1:])
    for a, b, c in faces.numpy():
        normal = np.cross(*(vertices[0, k].numpy() - vertices[0, a].numpy() for k in (b, c)))
        for corner in (a, b, c):
            expected[corner] -= normal / np.linalg.norm(normal) / 3
    np.testing.assert_allclose(v.grad[0], expected, atol=1e-9)
    twice = torch.cat([vertices, vertices]).requires_grad_()  # a mean over the batch
    priors.pressure_loss(twice, faces).backward()
    torch.testing.assert_close(twice.grad[1], v.grad[0] / 2)


@pytest.mark.parametrize("inward", [False, True])
def test_a_step_down_the_gradient_grows_the_volume(inward):
    vertices, faces = bent()
    faces = faces.flip(1) if inward else faces
    outward = MeshTopology(faces, vertices[0]).outward
    assert outward == (-1 if inward else 1)
    v = vertices.clone().requires_grad_()
    priors.pressure_loss(v, faces, outward).backward()
    before, after = (outward * float(priors.signed_volume(x, faces)) for x in (vertices, v.detach() - .01 * v.grad))
    assert 0 < before < after


def test_volume_of_a_box():
    vertices, faces = box((.1, .2, .3), (.5, .4, .9))
    volume = priors.signed_volume(torch.tensor(np.array(vertices)).double()[None], torch.tensor(np.array(faces)))
    assert abs(float(volume)) == pytest.approx(.4 * .2 * .6)


def test_pressure_of_a_collapsed_mesh_is_finite_with_its_gradient():
    v = torch.zeros(2, 42, 3, requires_grad=True)
    value = priors.pressure_loss(v, icosphere(1)[1])
    value.backward()
    assert float(value.detach()) == 0 and torch.equal(v.grad, torch.zeros_like(v))


# ---- fronts -----------------------------------------------------------------------------------------


def test_random_rotations_are_rotations_and_spread_evenly():
    turns = priors.random_rotations(4000, torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(turns @ turns.transpose(1, 2), torch.eye(3).double().expand(4000, 3, 3), atol=1e-6,
                               rtol=0)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(4000).double(), atol=1e-6, rtol=0)
    assert turns.mean(0).abs().max() < .03
    torch.testing.assert_close(turns.square().mean(0), torch.full((3, 3), 1 / 3).double(), atol=.02, rtol=0)


@pytest.mark.parametrize("name", list(DATASETS))
def test_fronts_lie_before_backs_from_everywhere_unless_inside_out(name):
    """For a convex shape. If it is inside out, the nearest face of every pixel shows its back."""
    dataset, (vertices, faces) = DATASETS[name], bent()
    turned = vertices.float().expand(6, -1, -1) @ priors.random_rotations(6, torch.Generator().manual_seed(1))
    screens = dataset.for_pictures(turned, dataset.turntable(6))
    assert float(priors.front_loss(*priors.fronts_and_backs(screens, faces, 32, dataset.mirrors))) == 0
    inside_out = priors.fronts_and_backs(screens, faces, 32, not dataset.mirrors)
    fronts, backs = inside_out
    both = (fronts < 100) & (backs < 100)
    expected = np.where(both, np.maximum(0, (fronts - backs).numpy()), 0).mean()
    assert float(priors.front_loss(*inside_out)) == pytest.approx(float(expected)) and expected > .001


def test_the_gradient_of_fronts_pulls_an_inside_out_shape_together():
    vertices, faces = icosphere(1)
    v = (.5 * vertices)[None].clone().requires_grad_()
    depths = priors.fronts_and_backs(CVPR18.for_pictures(v, torch.tensor([3])), faces, 32, False)
    priors.front_loss(*depths).backward()
    moved = v.detach() - v.grad / v.grad.norm() * .01
    again = priors.fronts_and_backs(CVPR18.for_pictures(moved, torch.tensor([3])), faces, 32, False)
    assert priors.front_loss(*again) < priors.front_loss(*depths).detach()


@pytest.fixture
def cars(data):
    return CVPR18(data, [CAR], "train", data / ".cache", trainViews=7, seed=3)


# ---- what no camera faces ---------------------------------------------------------------------------

ABOVE = CVPR18.turntable(24)  # all of CVPR18's cameras, 30 degrees above the horizon


def sides_of(cameras):
    """`Sides` by hand."""
    towards = priors.directions(CVPR18, cameras)
    return priors.Sides(towards, -towards.mean(0) / towards.mean(0).norm())


def flat_by_hand(vertices, faces, towards, away):
    total = 0.0
    for mesh in vertices:
        for a, b, c in faces:
            normal = np.cross(mesh[b] - mesh[a], mesh[c] - mesh[a])
            area = np.linalg.norm(normal) / 2
            if all(np.dot(normal, t) <= 0 for t in towards):
                total += area * (1 - np.dot(normal / np.linalg.norm(normal), away))
    return total / len(vertices)


@pytest.mark.parametrize("name", list(DATASETS))
def test_directions_lead_to_the_cameras(name):
    """A point that moves that way comes nearer, and stays in the middle of the picture."""
    dataset, cameras = DATASETS[name], DATASETS[name].turntable(7)
    towards = priors.directions(dataset, cameras)
    torch.testing.assert_close(towards.norm(dim=1), torch.ones(7))
    x, y, depth = dataset.project(torch.stack([-.1 * towards, 0 * towards, .1 * towards], 1), cameras).unbind(2)
    assert max(x.abs().max(), y.abs().max()) < 1e-6 and (depth.diff(dim=1) < -1e-3).all()


@pytest.mark.parametrize("clockwise", [False, True])
def test_flat_is_the_sum_of_its_formula(clockwise):
    first, faces = bent()
    vertices, sides = torch.cat([first, first * 1.3 + .05]), sides_of(ABOVE)
    sides = priors.Sides(sides.cameras.double(), sides.away.double())
    expected = flat_by_hand(vertices.numpy(), faces.numpy(), sides.cameras.numpy(), sides.away.numpy())
    got = priors.flat_loss(vertices, faces.flip(1) if clockwise else faces, sides, -1 if clockwise else 1)
    assert float(got) == pytest.approx(expected, rel=1e-6) and expected > .001
    v = vertices.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: priors.flat_loss(v, faces, sides), v)


def test_a_flat_bottom_costs_nothing_and_a_pointed_one_its_excess_area():
    """A square pyramid upside down, 2 x 2 wide and .5 deep: slanting by less than 30 degrees, no camera faces its sides."""
    corners = torch.tensor([[-1., 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1], [0, -.5, 0]], dtype=torch.float64)
    bottom = torch.tensor([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    lid = torch.tensor([[0, 2, 1], [0, 3, 2]])
    faces, sides = torch.cat([bottom, lid]), sides_of(ABOVE)
    sides = priors.Sides(sides.cameras.double(), sides.away.double())
    v = corners[None].clone().requires_grad_()
    value = priors.flat_loss(v, faces, sides)
    value.backward()
    assert float(value.detach()) == pytest.approx(4 * np.sqrt(1 + .5 ** 2) - 4)
    assert v.grad[0, 4, 1] < -.5 and v.grad[0, 4, ::2].abs().max() < 1e-12, "downhill the point moves up"
    flat = corners.clone()
    flat[4, 1] = 0
    v = flat[None].requires_grad_()
    value = priors.flat_loss(v, faces, sides)
    value.backward()
    assert abs(float(value.detach())) < 1e-7 and v.grad.abs().max() < 1e-6
    steep = corners.clone()
    steep[4, 1] = -2  # by more than 60 degrees: cameras face it
    assert float(priors.flat_loss(steep[None], faces, sides)) == 0


def test_flat_of_a_collapsed_mesh_is_finite_with_its_gradient():
    v = torch.zeros(2, 42, 3, requires_grad=True)
    value = priors.flat_loss(v, icosphere(1)[1], sides_of(ABOVE))
    value.backward()
    assert float(value.detach()) == 0 and torch.equal(v.grad, torch.zeros_like(v))


def test_sides_of_a_split(cars, capsys):
    sides = priors.open_sides(None, cars, torch.device("cpu"))
    expected = priors.directions(CVPR18, cars.all_poses().unique())
    assert len(sides.cameras) == len(expected) and torch.cdist(sides.cameras, expected).amin(1).max() < 1e-6
    assert capsys.readouterr().out == ""
    assert len(priors.find_cameras(cars, most=5)) == 5 and len(priors.find_cameras(cars, images=1)) == 1


def test_spread_out_is_farthest_point_sampling():
    points = torch.rand(60, 3, generator=torch.Generator().manual_seed(1))
    chosen = [points[0].numpy()]
    for _ in range(9):
        distances = [min(np.linalg.norm(p - c) for c in chosen) for p in points.numpy()]
        chosen.append(points[int(np.argmax(distances))].numpy())
    np.testing.assert_array_equal(priors.spread_out(points, 10), np.stack(chosen))
    assert len(priors.spread_out(points[[3, 4, 3, 4, 4]], 10)) == 2, "none twice"


def test_cameras_on_all_sides_leave_nothing_to_flatten(cars, capsys, monkeypatch):
    axes = torch.cat([torch.eye(3), -torch.eye(3)])
    monkeypatch.setattr(priors, "directions", lambda dataset, cameras: axes)
    sides = priors.open_sides(None, cars, torch.device("cpu"))
    assert capsys.readouterr().out == ("--lambda_flat does nothing here: the cameras of the training images look from all "
                                       "sides\n")
    vertices, faces = bent()
    assert float(priors.flat_loss(vertices.float(), faces, sides)) == 0


def test_flat_in_a_step_is_its_formula(cars):
    trainer = trainer_of(cars, "--lambda_flat=.5")
    batch = cars.gather([3, 5, 9])
    values, total = trainer.total(trainer.seen(trainer.inputs(batch), *trainer.predicted(batch.images)))
    vertices = trainer.predicted(batch.images)[1]
    sides = trainer.prepared["flat"]
    expected = flat_by_hand(vertices.detach().double().numpy(), trainer.model.faces.numpy(), sides.cameras.double().numpy(),
                            sides.away.double().numpy())
    assert float(values["flat"].detach()) == pytest.approx(expected, rel=1e-4)
    assert float(total.detach()) == pytest.approx(sum(float(values[k].detach()) * w for k, w in (
        ("silhouette", 1), ("smoothness", .001), ("prior", 1), ("flat", .5))), rel=1e-5)


# ---- symmetry ---------------------------------------------------------------------------------------


def symmetric_shape(axis):
    """A closed shape that is symmetric in the plane where a coordinate is 0, and in no other."""
    vertices, faces = icosphere(2)
    v = .4 * vertices.clone()
    a, b = (k for k in range(3) if k != axis)
    v[:, a] = v[:, a] + .25 * v[:, b] + .8 * v[:, b] ** 2 + .5 * v[:, axis] ** 2
    v[:, b] = v[:, b] + .6 * v[:, axis] ** 2 - .5 * v[:, a] ** 2
    return v[None], faces


@pytest.mark.parametrize("name, axis, plane", [("CVPR18", 0, 0), ("NIPS17", 2, 180), ("Pascal3D", 2, 0), ("R2N2", 2, 0)])
def test_mirrored_cameras_see_a_symmetric_shape_flipped(name, axis, plane):
    dataset, (vertices, faces) = DATASETS[name], symmetric_shape(axis)
    renderer, cameras = dataset.renderer(64), dataset.turntable(24)
    if name == "CVPR18":
        cameras = cameras.long()
    shape = vertices.expand(24, -1, -1)
    seen = renderer.render_silhouettes(dataset.project(shape, cameras), faces)
    fits = {}
    for p in dataset.mirror_planes():
        other = renderer.render_silhouettes(dataset.project(shape, dataset.mirrored(cameras, p)), faces)
        fits[p] = float((other - seen.flip(-1)).abs().mean())
    assert min(fits, key=fits.get) == plane and fits[plane] < 1e-4
    assert sorted(fits.values())[1] > 1e-3 if len(fits) > 1 else True


@pytest.mark.parametrize("views", [None, 7])
def test_the_plane_is_found_from_silhouettes(data, views):
    few = CVPR18(data, [CAR], "train", data / ".cache", trainViews=views)
    plane, fit = priors.find_mirror(few, at_once=7)
    assert fit > .5 and (views or (plane == 0 and fit > priors.MIRROR_FIT))
    two = np.flatnonzero(few.all_objects().numpy() < 2)
    _, of_two = priors.find_mirror(few, numbers=two)
    assert (of_two != fit or not views) and priors.find_mirror(few, numbers=two[::-1].copy())[1] == pytest.approx(of_two)


def test_without_a_plane_mirror_is_refused(cars, monkeypatch):
    monkeypatch.setattr(priors, "find_mirror", lambda data: (3, .71))
    with pytest.raises(InputError, match="--lambda_mirror=0.5: the training objects are not symmetric in any plane; "
                                         "the best similarity of silhouettes and mirrored ones is 0.710"):
        priors.open_mirror(SimpleNamespace(lambda_mirror=.5), cars, torch.device("cpu"))


# ---- in a step --------------------------------------------------------------------------------------


def trainer_of(cars, *more):
    torch.manual_seed(0)
    return Trainer(script().parse(["--mode=train", *TINY, "--lambda_adv=0", *more]), torch.device("cpu"), cars)


def test_near_and_mirror_in_a_step_are_their_formulas(data):
    cars = CVPR18(data, [CAR], "train", data / ".cache")
    trainer = trainer_of(cars, "--lambda_near=.5", "--lambda_mirror=.25", "--lambda_pressure=1e-4")
    batch = cars.gather([3, 30, 50, 95])
    near = trainer.prepared["near"]
    near.numbers.copy_(torch.randint(len(cars), near.numbers.shape, generator=torch.Generator().manual_seed(4)) // 24 * 24
                       + torch.arange(len(cars))[:, None] % 7)  # the matches of an image have one view
    near.weights.copy_(torch.rand(near.weights.shape, generator=torch.Generator().manual_seed(5)))
    near.weights.div_(near.weights.sum(1, keepdim=True))
    step = trainer.seen(trainer.inputs(batch), *trainer.predicted(batch.images))
    values, total = trainer.total(step)
    matched = near.numbers[[3, 30, 50, 95]]
    drawn = step.draw(matched[:, 0] % 24)[0].detach()
    target = cars.gather(matched.flatten()).silhouettes.view(4, -1, 64, 64)
    target = (target * near.weights[[3, 30, 50, 95], :, None, None]).sum(1)
    assert float(values["near"].detach()) == pytest.approx(float(losses.silhouette_loss(drawn, target)), rel=1e-5)
    mirrored = step.draw((trainer.prepared["mirror"] - batch.cameras) % 24)[0]
    assert float(values["mirror"].detach()) == pytest.approx(
        float(losses.silhouette_loss(mirrored, batch.silhouettes.flip(-1)).detach()), rel=1e-5)
    parts = {k: float(v.detach()) for k, v in values.items()}
    assert float(total) == pytest.approx(
        parts["silhouette"] + .001 * parts["smoothness"] + parts["prior"] + 1e-4 * parts["pressure"] + .5 * parts["near"]
        + .25 * parts["mirror"], rel=1e-5)


def test_near_counts_from_its_iteration_on(cars):
    plain, later = trainer_of(cars), trainer_of(cars, "--lambda_near=.5", "--near_from=2")
    batch = cars.gather([0, 5, 10, 15])
    for step in (1, 2):
        for trainer in (plain, later):
            torch.manual_seed(step)
            trainer.step(step, batch)
        same = [torch.allclose(a, b, atol=1e-7) for a, b in zip(plain.model.decoder.parameters(),
                                                                 later.model.decoder.parameters())]
        assert all(same) == (step == 1)


def test_clipped_gradients_keep_their_direction(cars):
    """The encoder's gradient becomes as long as asked for; shorter ones stay. Adam's first moment is a tenth of it."""
    batch, moments = cars.gather([0, 5, 10, 15]), []
    for more in ((), ("--clip_norm=.01",), ("--clip_norm=1e6",)):
        trainer = trainer_of(cars, *more)
        norms = trainer.step(1, batch)[1]
        moments.append({name: torch.cat([optimizer.state[p]["exp_avg"].flatten() for p in trainer.modules[name].parameters()])
                        for name, optimizer in trainer.optimizers.items()})
    plain, clipped, long = moments
    for name, norm in norms.items():  # those before they are clipped
        assert float(norm) > .01 and torch.equal(plain[name], long[name])
        torch.testing.assert_close(clipped[name], plain[name] * (.01 / float(norm)), rtol=1e-4, atol=1e-9)


def test_pairs_learn_from_both_silhouettes(cars):
    trainer = trainer_of(cars, "--pairs=2")
    batch = cars.gather([0, 3, 8, 9])
    values, _ = trainer.step(1, batch)
    same = trainer_of(cars)
    vertices = same.model.decoder(same.model.encoder(batch.images))
    from_each = [losses.silhouette_loss(same.renderer.render_silhouettes(
        CVPR18.project(vertices[i:i + 1], batch.cameras[j:j + 1]), same.model.faces), batch.silhouettes[j:j + 1])
        for i in range(4) for j in (i, i ^ 1)]
    assert float(values["silhouette"]) == pytest.approx(float(sum(from_each).detach()) / 8, rel=1e-5)


ALL = ("--lambda_pressure=1e-4", "--lambda_front=10", "--lambda_flat=1", "--lambda_near=.5", "--near_from=1", "--near_every=2",
       "--lambda_mirror=.5", "--clip_norm=2",
       "--lambda_edge=.01", "--replay=2", "--D_always", "--lr_schedule=cosine", "--pairs=2", "--standardize_code")


def test_a_run_with_everything_resumes_to_the_bit(data, template, tmp_path):
    common = ("--mode=train", f"--data_dir={data}", "--class_ids", CAR, f"--obj_dir={template}", *TINY, *ALL,
              "--log_step=1", "--ckpt_step=2", "--sample_step=9", "--n_iters=4")
    assert call(*common, f"--ckpt_dir={tmp_path}/whole") == 0
    assert call(*common, f"--ckpt_dir={tmp_path}/parts") == 0
    parts = tmp_path / "parts"
    (parts / "last.pt").unlink()
    (parts / "last.prev.pt").rename(parts / "last.pt")  # step 2
    assert checkpoint(parts)["step"] == 2
    assert call(*common, f"--ckpt_dir={parts}", "--resume") == 0
    a, b = (checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert not differences({k: a[k] for k in ("models", "optimizers", "prepared", "step", "rng")},
                           {k: b[k] for k in ("models", "optimizers", "prepared", "step", "rng")})
    assert {len(found) for found in a["prepared"]["near"].values()} == {96}
    assert a["models"]["D"]["replayed"].tolist() == [1, 1]


@pytest.mark.parametrize("more, says", [
    (("--lambda_pressure=-1",), "is not a finite number from 0"), (("--lambda_near=nan",), "is not a finite number"),
    (("--lambda_front=inf",), "is not a finite number"), (("--disc_width=8",), "--disc_width belongs to --mode=trainCVPR19")])
def test_weights_that_are_none_are_refused(refused, more, says):
    assert says in refused("--mode=train", "--ckpt_dir=x", *more, usage=True)


def test_pairs_of_one_view_are_refused(data, refused, tmp_path):
    line = refused("--mode=train", f"--data_dir={data}", f"--ckpt_dir={tmp_path}/x", *TINY, "--pairs=2",
                   "--trainViews=1")
    assert "--pairs=2 needs two images of every object, but 4 of 4 training objects have one" in line
    assert "--batch_size=3 with --pairs=2" in refused(
        "--mode=train", f"--data_dir={data}", f"--ckpt_dir={tmp_path}/x", "--pairs=2", "--batch_size=3")
