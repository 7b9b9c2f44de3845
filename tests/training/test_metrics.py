"""Voxel IoU, mean shape and MMD compared with loops from their definitions."""
import math

import metrics
import numpy as np
import pytest
import torch


def grids(count, n=6, seed=0, density=.4):
    return np.random.default_rng(seed).random((count, n, n, n)) < density


def iou_by_hand(a, b):
    union = sum(bool(x or y) for x, y in zip(a.ravel(), b.ravel()))
    return sum(bool(x and y) for x, y in zip(a.ravel(), b.ravel())) / union if union else 1.0


# ---- voxel IoU --------------------------------------------------------------------------------------


def test_voxel_iou_pair_by_pair():
    a, b = grids(4), grids(4, seed=1)
    a[2], b[2] = False, False
    b[3] = False
    expected = [iou_by_hand(x, y) for x, y in zip(a, b)]
    assert expected[2:] == [1.0, 0.0] and 0 < expected[0] < 1
    np.testing.assert_allclose(metrics.voxel_iou(torch.tensor(a), torch.tensor(b)), expected, rtol=1e-6)
    one_with_all = metrics.voxel_iou(torch.tensor(a), torch.tensor(b[0]))
    np.testing.assert_allclose(one_with_all, [iou_by_hand(x, b[0]) for x in a], rtol=1e-6)


def test_pairwise_iou_has_a_row_for_each_of_a():
    a, b = grids(3), grids(5, seed=1, density=.7)
    a[1], b[4] = False, False
    expected = [[iou_by_hand(x, y) for y in b] for x in a]
    result = metrics.pairwise_iou(torch.tensor(a), torch.tensor(b))
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert result[1, 4] == 1 and result[1, 0] == 0


def test_iou_of_full_grids_of_the_real_size_is_exact():
    full = torch.ones(2, 32, 32, 32, dtype=torch.bool)
    less = full.clone()
    less[:, 0, 0, 0] = False
    for iou in (metrics.voxel_iou(full, less), metrics.pairwise_iou(full, less)):
        np.testing.assert_allclose(iou, (32 ** 3 - 1) / 32 ** 3, rtol=1e-7)


# ---- mean shape -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_mean_shape_has_the_threshold_of_the_best_mean_iou(seed):
    rng = np.random.default_rng(seed)
    likely = rng.random((6, 6, 6)) ** 3
    objects = rng.random((7, 6, 6, 6)) < likely
    grid, threshold = metrics.mean_shape(torch.tensor(objects))
    score = {t: np.mean([iou_by_hand(objects.mean(0) > t, o) for o in objects])
             for t in np.arange(.05, .96, .05)}
    best = max(score.values())
    assert len({round(s, 6) for s in score.values()}) > 3, "the threshold matters here"
    assert np.mean([iou_by_hand(grid.numpy(), o) for o in objects]) == pytest.approx(best)
    assert np.array_equal(grid, objects.mean(0) > threshold)


def test_mean_shape_of_more_objects_than_are_taken_at_once():
    rng = np.random.default_rng(9)
    density = np.linspace(.1, .9, 1100)[:, None] * rng.random(64)
    objects = rng.random((1100, 64)) < density
    grid, threshold = metrics.mean_shape(torch.tensor(objects.reshape(-1, 4, 4, 4)))
    score = {}
    for t in np.arange(.05, .96, .05):
        mean = objects.mean(0) > t
        score[t] = np.mean((mean & objects).sum(1) / (mean | objects).sum(1).clip(1))
    assert threshold == pytest.approx(max(score, key=score.get))
    assert np.array_equal(grid.reshape(-1), objects.mean(0) > threshold)


def test_mean_shape_of_one_object_is_that_object():
    one = torch.tensor(grids(1))
    assert torch.equal(metrics.mean_shape(one)[0], one[0])
    assert metrics.mean_shape(one)[0].dtype == torch.bool


# ---- MMD --------------------------------------------------------------------------------------------


def codes(*sizes, dim=8, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(rng.normal(0, .7, dim), 1, (n, dim)).astype(np.float32) for n in sizes]


def mmd_by_hand(x, y, h_of=lambda total, n: total / (n * n - n)):
    """The biased estimate, one pair of codes at a time, in double precision."""
    x, y = x.astype(float), y.astype(float)

    def distance(a, b):
        return sum((p - q) ** 2 for p, q in zip(a, b))

    both = [*x, *y]
    base = h_of(sum(distance(a, b) for a in both for b in both), len(both))

    def kernel(a, b):
        return sum(math.exp(-distance(a, b) / (base * 2 ** i)) for i in range(-2, 3))

    def mean(first, second):
        return np.mean([kernel(a, b) for a in first for b in second])

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (2, 7, 4), (2, 2)])
def test_mmd_matrix_is_the_definition(sizes):
    groups = codes(*sizes)
    result = metrics.mmd_matrix([torch.tensor(g) for g in groups]).numpy()
    expected = [[mmd_by_hand(x, y) if x is not y else 0 for y in groups] for x in groups]
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-6)
    assert np.array_equal(result, result.T) and (np.diag(result) == 0).all()


def test_the_comparison_tells_other_bandwidths_apart():
    x, y = codes(6, 9)
    value = float(metrics.mmd_matrix([torch.tensor(x), torch.tensor(y)])[0, 1])
    for other in (lambda total, n: total / (n * n), lambda total, n: 2 * total / (n * n - n),
                  lambda total, n: total / (n * n - n) / 4):
        assert abs(mmd_by_hand(x, y, other) / value - 1) > .01


def test_mmd_of_identical_groups_is_zero_and_grows_with_the_distance():
    group = torch.tensor(codes(9)[0])
    values = [float(metrics.mmd_matrix([group, group + shift])[0, 1]) for shift in (0, .1, .5, 2)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert values == sorted(values) and values[-1] > .5
    assert metrics.mmd_matrix([group[:1].expand(3, -1)] * 2).tolist() == [[0, 0], [0, 0]]


def test_mmd_does_not_suffer_from_an_offset():
    # Multiples of 1/256 plus 1e4 are exact in single precision, so the true value does not change.
    groups = [np.round(g * 256) / 256 for g in codes(6, 9)]
    expected = mmd_by_hand(*groups)
    for offset in (0, 1e4, -1e4):
        moved = [torch.tensor(g + np.float32(offset)) for g in groups]
        assert np.array_equal(moved[0].numpy() - np.float32(offset), groups[0])
        assert float(metrics.mmd_matrix(moved)[0, 1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_mmd_does_not_depend_on_the_scale(scale):
    groups = codes(6, 9)
    scaled = [torch.tensor(g * np.float32(scale)) for g in groups]
    assert float(metrics.mmd_matrix(scaled)[0, 1]) == pytest.approx(mmd_by_hand(*groups), rel=1e-3)


def test_a_far_third_group_does_not_change_the_mmd_of_two_near_ones():
    groups = [np.round(g * 256) / 256 for g in codes(6, 9, 5)]
    groups[2] += np.float32(1e3)
    result = metrics.mmd_matrix([torch.tensor(g) for g in groups])
    assert float(result[0, 1]) == pytest.approx(mmd_by_hand(*groups[:2]), rel=1e-2)


@pytest.mark.parametrize("bad", [torch.zeros(1, 3), torch.zeros(0, 3), torch.zeros(3)])
def test_mmd_refuses_groups_of_less_than_two(bad):
    with pytest.raises(ValueError, match=r"group 1 .*at least two"):
        metrics.mmd_matrix([torch.zeros(4, 3), bad])


def test_pose_mmd_is_the_mean_over_pairs_of_poses():
    groups = codes(4, 3, 5)
    pairs = [mmd_by_hand(groups[p], groups[q]) for p, q in ((0, 1), (0, 2), (1, 2))]
    order = np.random.default_rng(5).permutation(12)
    everything = torch.tensor(np.concatenate(groups)[order])
    poses = torch.tensor(np.repeat([3, 0, 6], [4, 3, 5])[order])
    matrix, mean = metrics.pose_mmd(everything, poses, [3, 0, 6])
    assert mean == pytest.approx(np.mean(pairs), rel=1e-4)
    assert [float(matrix[i, j]) for i, j in ((0, 1), (0, 2), (1, 2))] == pytest.approx(pairs, rel=1e-4)
    # Poses outside of `bins` do not count.
    lonely = torch.cat([poses, torch.tensor([1])])
    with_lonely = torch.cat([everything, torch.full((1, 8), 50.0)])
    assert metrics.pose_mmd(with_lonely, lonely, [0, 3, 6])[1] == pytest.approx(np.mean(pairs), rel=1e-4)


def test_shuffled_labels_keep_the_sizes_of_the_groups():
    """Codes are two points, one for each pose; permuted labels mix them."""
    everything, poses = torch.eye(2).repeat_interleave(20, 0), torch.arange(2).repeat_interleave(20)
    apart, mixed, again, other = (metrics.pose_mmd(everything, poses, [0, 1], seed)[1] for seed in (None, 0, 0, 1))
    assert mixed == again != other and apart > 1 and mixed < 0.2 * apart


@pytest.mark.parametrize("bins", [[], [2]])
def test_pose_mmd_of_fewer_than_two_poses_is_not_a_number(bins):
    matrix, mean = metrics.pose_mmd(torch.rand(4, 3), torch.tensor([2, 2, 0, 1]), bins, 0)
    assert math.isnan(mean) and matrix.shape == (len(bins), len(bins))
