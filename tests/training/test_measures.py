"""The metrics for shapes that are inside out, new views and the pose probe, on examples with known values."""
from metrics import measures
from losses import priors
import pytest
import torch
from datasets import CVPR18, DATASETS
from models import icosphere
from readers.base import Batch
from scoring import _random_views


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", list(DATASETS))
@pytest.mark.parametrize("inward", [False, True])
def test_inside_out_of_spheres(name, inward):
    """0 for a sphere, 1 for a sphere inside out, for both orientations of the template's faces."""
    dataset, (vertices, faces) = DATASETS[name], icosphere(1)
    faces = faces.flip(1) if inward else faces
    outward = priors.orientation(vertices, faces)
    shapes = torch.stack([.4 * vertices, -.4 * vertices, .2 * vertices])  # negated: inside out
    found = measures.inside_out(dataset, shapes, faces, dataset.turntable(3), 32, outward,
                                priors.random_rotations(3, seeded()))
    assert found[0, 0] == 0 and found[2, 0] == 0 and found[1, 0] == found[1, 1] > 100
    assert found[0, 1] > 3 * found[2, 1] > 0


def test_inside_out_of_a_part():
    """Two spheres side by side, one of them inside out: about half of the drawn pixels show backs."""
    vertices, faces = icosphere(1)
    two = torch.cat([.25 * vertices + torch.tensor([.3, 0, 0]), -.25 * vertices - torch.tensor([.3, 0, 0])])
    both = torch.cat([faces, faces + len(vertices)])
    found = measures.inside_out(CVPR18, two.expand(64, -1, -1), both, torch.zeros(64, dtype=torch.int64), 64, 1,
                                priors.random_rotations(64, seeded()))
    assert float(found[:, 0].sum() / found[:, 1].sum()) == pytest.approx(.5, abs=.05)


def test_own_and_new_views():
    """Two objects with three views each; for one image of the second object, the first object is predicted."""
    vertices, faces = icosphere(2)
    flat = .4 * vertices * torch.tensor([1, .3, .6])
    other = .3 * vertices
    cameras = torch.tensor([0, 5, 10, 2, 7, 12])
    renderer = CVPR18.renderer(64)
    truth = torch.cat([flat.expand(3, -1, -1), other.expand(3, -1, -1)])
    real = renderer.render_silhouettes(CVPR18.project(truth, cameras), faces)
    batch = Batch(None, real, cameras, cameras, None)
    found = measures.seen_views(CVPR18, renderer, truth, faces, batch, measures.other_images(2, 3, seeded()))
    assert found.min() == 1
    guess = truth.clone()
    guess[4] = flat
    found = measures.seen_views(CVPR18, renderer, guess, faces, batch, measures.other_images(2, 3, seeded(3)))
    assert sorted((found[:, 0] < .9).nonzero().flatten().tolist()) == [4] and (found[:, 1] < .9).nonzero().tolist() == [[4]]
    shift = int(torch.randint(1, 3, (2, 1), generator=seeded(3))[1])
    k = 3 + (1 + shift) % 3
    drawn = renderer.render_silhouettes(CVPR18.project(guess[4:5], cameras[k:k + 1]), faces)[0].numpy()
    both = (drawn > .5) & (real[k].numpy() > .5), (drawn > .5) | (real[k].numpy() > .5)
    assert float(found[4, 1]) == pytest.approx(both[0].sum() / both[1].sum())
    alone = measures.seen_views(CVPR18, renderer, truth, faces, batch, measures.other_images(6, 1))
    assert alone[:, 0].min() == 1 and alone[:, 1].isnan().all()


def codes_of(tells, objects=40, seed=0):
    generator = seeded(seed)
    poses = torch.arange(24).repeat(objects)
    names = torch.arange(objects).repeat_interleave(24)
    codes = torch.randn(len(poses), 16, generator=generator)
    turn = poses * torch.pi / 12
    for k in range(4):
        codes[:, 2 * k:2 * k + 2] += tells * torch.stack([((k + 1) * turn).cos(), ((k + 1) * turn).sin()], 1)
    return codes, poses, names


def test_the_probe_reads_what_is_there_and_no_more():
    plain = measures.pose_probe(*codes_of(0), CVPR18.pose_angle)
    assert plain["accuracy"] < .09 and plain["chance"] == pytest.approx(1 / 24)
    assert plain["chance_degrees"] == pytest.approx(90) and plain["degrees"] == pytest.approx(90, abs=6)
    told = measures.pose_probe(*codes_of(30), CVPR18.pose_angle)
    assert told["accuracy"] > .8 and told["degrees"] < 5
    some = measures.pose_probe(*codes_of(1), CVPR18.pose_angle)
    assert plain["accuracy"] < some["accuracy"] < told["accuracy"] and 10 < some["degrees"] < 70


def test_the_probe_is_seeded_and_leaves_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = measures.pose_probe(*codes_of(1), CVPR18.pose_angle, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert measures.pose_probe(*codes_of(1), CVPR18.pose_angle, seed=5) == first
    assert measures.pose_probe(*codes_of(1), CVPR18.pose_angle, seed=6) != first


def test_the_probe_asks_objects_that_it_has_not_seen():
    """Random codes for every object and pose have no common rule, so the probe cannot generalise to other objects."""
    generator = seeded()
    poses, names = torch.arange(24).repeat(40), torch.arange(40).repeat_interleave(24)
    found = measures.pose_probe(torch.randn(960, 300, generator=generator), poses, names, CVPR18.pose_angle)
    assert found["accuracy"] < .09


def test_nothing_to_read():
    for poses, objects in ((torch.zeros(4).long(), torch.arange(4)), (torch.arange(4), torch.zeros(4).long())):
        assert all(v != v for v in measures.pose_probe(torch.rand(4, 3), poses, objects).values())
    assert measures.pose_probe(*codes_of(1))["degrees"] != measures.pose_probe(*codes_of(1))["degrees"]  # NaN


def test_angles_between_poses():
    angle = CVPR18.pose_angle(torch.tensor([0, 1, 23, 6]), torch.tensor([0, 0, 1, 18]))
    assert angle.tolist() == [0, 15, 30, 180]


def test_spread_of_codes():
    codes = torch.randn(500, 8, generator=seeded())
    assert measures.code_spread(codes) == pytest.approx(1, abs=.02)
    assert measures.code_spread(torch.ones(5, 8)) == 0 and measures.code_spread(torch.zeros(5, 8)) == 0
    assert measures.code_spread(1 + 1e-5 * codes) < measures.COLLAPSED < measures.code_spread(1 + .1 * codes)


def test_red_is_where_the_inside_shows():
    from pictures import draw, draw_backs
    vertices, faces = icosphere(1)
    shapes, cameras = torch.stack([.4 * vertices, -.4 * vertices]), torch.zeros(2, dtype=torch.int64)
    plain, shown = draw(CVPR18, shapes, faces, cameras, 32), draw_backs(CVPR18, shapes, faces, cameras, 32)
    assert torch.equal(plain[0], shown[0])
    drawn = (plain[1] < 1).any(0)
    inner = torch.nn.functional.avg_pool2d(drawn.float()[None], 3, 1, 1)[0] > .999  # not the rim
    assert inner.sum() > 50 and (shown[1, 0][inner] > 2 * shown[1, 1][inner]).all()
    assert torch.equal(draw_backs(CVPR18, shapes, faces, cameras, 32, -1)[1], plain[1])


def test_random_views_of_an_object_do_not_depend_on_the_batch():
    rotations, others = _random_views(range(3, 8), 4, 2, seed=1)
    assert rotations.shape == (10, 3, 3) and sorted(set((others // 4).tolist())) == [0, 1, 2, 3, 4]
    assert (others != torch.arange(20)).all()
    for place, number in enumerate(range(3, 8)):
        alone, other = _random_views([number], 4, 2, seed=1)
        assert torch.equal(alone, rotations[2 * place:2 * place + 2])
        assert torch.equal(other, others[4 * place:4 * place + 4] - 4 * place)
    assert _random_views(range(2), 1, 1, seed=0)[1] is None
    assert not torch.equal(rotations, _random_views(range(3, 8), 4, 2, seed=2)[0])
