"""Both voxel rules compared with slow implementations, in exact arithmetic where it matters."""
from collections import deque

import numpy as np
import pytest
import torch
import voxelization
from solids import box, icosphere, triangles
from voxelization import reference

# ---- the published rule, from its description, in integers ----------------------------------------


def as_integers(values, size):
    """(value * size * scale as exact integers, scale), where scale is a power of two."""
    ratios = [float(v).as_integer_ratio() for v in values.ravel()]
    scale = max(denominator for _, denominator in ratios)
    integers = [n * (scale // d) * size for n, d in ratios]
    return np.array(integers, object).reshape(values.shape), scale


def lines_within(values, scale, size):
    """Integers 0 ... size-1 between the smallest and the largest value / scale."""
    return range(max(0, -(-min(values) // scale)), min(size - 1, max(values) // scale) + 1)


def surface_by_hand(faces, size):
    grid = np.zeros((size,) * 3, bool)

    def fill(cell):
        if all(0 <= c < size for c in cell):
            grid[tuple(cell)] = True

    for face in faces:
        corners, one = as_integers(face, size)
        for corner in corners:
            fill([abs(c) // one * (1 if c > 0 else -1) for c in corner])
        for axis in range(3):
            p, q = [k for k in range(3) if k != axis]
            a, b, c = ([corner[p], corner[q], corner[axis]] for corner in corners)
            area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
            if area == 0:
                continue
            for i in lines_within((a[0], b[0], c[0]), one, size):
                for j in lines_within((a[1], b[1], c[1]), one, size):
                    x, y = i * one, j * one
                    # Solve (x, y) = a + s (b - a) + t (c - a) with s and t over `area`.
                    s = (x - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (y - a[1])
                    t = (b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1])
                    s, t, whole = (s, t, area) if area > 0 else (-s, -t, -area)
                    if s < 0 or t < 0 or s + t > whole:
                        continue
                    height = (a[2] * whole + s * (b[2] - a[2]) + t * (c[2] - a[2])) // (whole * one)
                    for cell_i in (i - 1, i):
                        for cell_j in (j - 1, j):
                            cell = [height] * 3
                            cell[p], cell[q] = cell_i, cell_j
                            fill(cell)
    return grid


def filled_by_hand(surface):
    """Breadth-first flood from outside of the grid. Cells that it does not reach are solid."""
    room = np.pad(surface, 1)
    outside = np.zeros_like(room)
    outside[0, 0, 0] = True
    queue = deque([(0, 0, 0)])
    while queue:
        cell = queue.popleft()
        for axis in range(3):
            for step in (-1, 1):
                near = list(cell)
                near[axis] += step
                near = tuple(near)
                if 0 <= near[axis] < room.shape[axis] and not outside[near] and not room[near]:
                    outside[near] = True
                    queue.append(near)
    return ~outside[1:-1, 1:-1, 1:-1]


def published_by_hand(faces, size):
    return filled_by_hand(surface_by_hand(faces, size))


def voxelize(faces, size, **options):
    faces = torch.as_tensor(np.ascontiguousarray(faces))[None]
    return voxelization.voxelize(faces, size, dtype=torch.bool, **options)[0].numpy()


def voxelize_solid(faces, size):
    faces = torch.as_tensor(np.ascontiguousarray(faces))[None]
    return voxelization.voxelize_solid(faces, size, dtype=torch.bool)[0].numpy()


def soup(seed, count=25, low=0.0, high=1.0, spread=1.0):
    random = np.random.default_rng(seed)
    centres = random.uniform(low, high, (count, 1, 3))
    return (centres + random.uniform(-spread, spread, (count, 3, 3)) / 2).astype(np.float32)


def lump(seed, radius=0.35):
    """A closed mesh: a sphere, stretched, dented and moved."""
    random = np.random.default_rng(seed)
    vertices, faces = icosphere(2, radius)
    vertices = vertices * random.uniform(0.6, 1.2, 3) * random.uniform(0.8, 1.15, (len(vertices), 1))
    return triangles((vertices + random.uniform(0.45, 0.55, 3), faces)).astype(np.float32)


def on_the_grid(seed, size, count=30):
    """Triangles with corners on grid lines and half-way between them, so that they touch everywhere."""
    random = np.random.default_rng(seed)
    return (random.integers(-2, 2 * size + 3, (count, 3, 3)) / (2 * size)).astype(np.float64)


SIZES = [8, 16, 32, 33, 65]
MESHES = {"soup": soup(0), "small triangles": soup(1, 80, spread=0.1),
          "leaving the grid": soup(2, 20, -0.4, 1.4, 1.5), "far away": soup(3, 10, 3, 5),
          "lump": lump(0), "another lump": lump(1), "large lump": lump(2, 0.6),
          "sphere": triangles(icosphere(2, 0.4, (0.5, 0.5, 0.5))).astype(np.float32),
          "box": triangles(box((0.25, 0.125, 0.375), (0.5, 0.875, 0.75)))}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", MESHES)
def test_published_rule_bit_for_bit(name, size):
    faces = MESHES[name]
    expected = published_by_hand(faces, size)
    assert np.array_equal(voxelize(faces, size), expected)
    if size < 40:
        assert np.array_equal(reference.published(faces, size), expected)
    assert expected.any() == (name != "far away")


@pytest.mark.parametrize("size", [4, 8, 16])  # powers of two: the float coordinates stay exact
@pytest.mark.parametrize("seed", range(3))
def test_published_rule_where_everything_touches(size, seed):
    faces = on_the_grid(seed, size)
    assert np.array_equal(voxelize(faces, size), published_by_hand(faces, size))
    for face in faces[:12, None]:  # single triangles enclose nothing, so only the surface is compared
        expected = published_by_hand(face, size)
        assert np.array_equal(voxelize(face, size), expected)
        assert np.array_equal(reference.published(face, size), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 63, 64, 128])
def test_published_rule_at_other_sizes(size):
    """Sizes around 64, the number of voxels that the flood processes at once."""
    faces = np.concatenate([triangles(box((0.2, 0.2, 0.1), (0.8, 0.7, 0.9))), soup(4, 5)])
    assert np.array_equal(voxelize(faces.astype(np.float32), size),
                          published_by_hand(faces.astype(np.float32), size))


@pytest.mark.parametrize("size", [8, 32, 65])
@pytest.mark.parametrize("large", range(9))
def test_large_triangles_among_small_ones(large, size):
    """The kernel processes eight triangles at once, but large ones separately."""
    random = np.random.default_rng(large)
    faces = soup(large, 16, spread=0.12).reshape(2, 8, 3, 3)
    for block in faces:
        among = random.permutation(8)[:large]
        block[among] = soup(large + 9, large, 0.3, 0.7, 0.9)
        block[among[:2], :, random.integers(3)] = 0.5  # seen along two axes as lines
    faces = faces.reshape(16, 3, 3)
    assert np.array_equal(voxelize(faces, size), published_by_hand(faces, size))


def test_a_winding_corridor_is_outside():
    """The walls leave a thin corridor, a maze in which the flood must turn often."""
    size, walls = 33, []
    for k in range(1, 8):
        gap = (0.0, 0.82) if k % 2 else (0.18, 1.0)
        x = k * 4 / size
        a, b, c, d = [x, gap[0], 0], [x, gap[1], 0], [x, gap[1], 1], [x, gap[0], 1]
        walls += [[a, b, c], [a, c, d]]
    shell = triangles(box((0.02, 0, 0.02), (0.98, 1, 0.98)))[[0, 1, 2, 3, 4, 5, 8, 9, 10, 11]]
    faces = np.concatenate([np.array(walls), shell]).astype(np.float32)
    expected = published_by_hand(faces, size)
    assert 0.1 < expected.mean() < 0.9
    assert np.array_equal(voxelize(faces, size), expected)


@pytest.mark.parametrize("side", [None, *range(6)])
def test_air_comes_in_at_any_end_of_a_long_box(side):
    """Sides 2k and 2k + 1 are the ends along axis k. Along the last axis the flood processes 64 cells per step."""
    axis, size = 2 if side is None else side // 2, 150
    low, high = np.full(3, 0.45), np.full(3, 0.55)
    low[axis], high[axis] = 0.1, 0.9
    faces = triangles(box(low, high))
    if side is not None:
        faces = np.delete(faces, [2 * side, 2 * side + 1], 0)
    core = np.moveaxis(voxelize(faces, size), axis, 0)[20:130, 75, 75]
    assert core.all() if side is None else not core.any()


def test_grid_axis_k_is_coordinate_k():
    """A bar along x and a shorter one along y, so that all axes differ."""
    faces = np.concatenate([triangles(box((0.125, 0.5, 0.25), (0.875, 0.625, 0.375))),
                            triangles(box((0.125, 0.5, 0.25), (0.25, 0.875, 0.375)))])
    # The published rule adds a cell below each low side and the cells that a high side bounds.
    for rule, ends in ((voxelize_solid, [(2, 13), (8, 13), (4, 5)]),
                       (voxelize, [(1, 14), (7, 14), (3, 6)])):
        grid = rule(faces, 16)
        extent = [np.flatnonzero(grid.any(tuple({0, 1, 2} - {k}))) for k in range(3)]
        assert [(e[0], e[-1]) for e in extent] == ends
        # The two bars form an L in the first two coordinates; the cell beside both bars is empty.
        assert grid[12, 8].any() and grid[3, 12].any() and not grid[12, 12].any()


def test_corners_are_truncated_towards_zero():
    def only_corners(x):  # no area along any axis, so that corners alone mark cells
        return np.array([[[x, 0.3, 0.3]] * 3])

    for x, cell in ((-0.9 / 8, 0), (-0.1 / 8, 0), (0.5 / 8, 0), (7.9 / 8, 7)):
        assert np.argwhere(voxelize(only_corners(x), 8)).tolist() == [[cell, 2, 2]]
    for x in (-1 / 8, -2.5 / 8, 1.0, 1.3):
        assert not voxelize(only_corners(x), 8).any()


def test_degenerate_triangles():
    line = np.array([[[0.1, 0.1, 0.1], [0.9, 0.9, 0.9], [0.5, 0.5, 0.5]]])
    assert np.argwhere(voxelize(line, 10)).tolist() == [[1, 1, 1], [5, 5, 5], [9, 9, 9]]
    assert not voxelize_solid(line, 10).any()
    upright = np.array([[[0.31, 0.1, 0.1], [0.31, 0.9, 0.15], [0.31, 0.2, 0.9]]])
    assert np.array_equal(voxelize(upright, 12), published_by_hand(upright, 12))


def test_nothing_at_all():
    assert not voxelize(np.zeros((0, 3, 3)), 8).any()
    assert not voxelize_solid(np.zeros((0, 3, 3)), 8).any()
    assert voxelization.voxelize(torch.zeros(0, 4, 3, 3), 8).shape == (0, 8, 8, 8)


# ---- the solid rule -------------------------------------------------------------------------------


def centres(size):
    axis = (np.arange(size) + 0.5) / size
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def test_solid_sphere_has_its_volume():
    grid = voxelize_solid(triangles(icosphere(4, 0.4, (0.5, 0.5, 0.5))), 64)
    assert grid.sum() / 64 ** 3 == pytest.approx(4 / 3 * np.pi * 0.4 ** 3, rel=0.03)
    thick = voxelize(triangles(icosphere(4, 0.4, (0.5, 0.5, 0.5))), 64)
    assert bool((thick >= grid).all()) and thick.sum() > 1.05 * grid.sum(), "the other rule thickens"


def box_by_hand(low, high, size):
    """Cells whose centre lies in the box; each side owns the centres on it at one end only."""
    return np.logical_and(centres(size) >= low, centres(size) < high).all(-1)


def test_solid_box_between_cells():
    low, high = np.array([2, 3, 1]) / 16, np.array([9, 12, 14]) / 16
    grid = voxelize_solid(triangles(box(low, high)), 16)
    assert np.array_equal(grid, box_by_hand(low, high, 16)) and grid.sum() == 7 * 9 * 13


def test_solid_box_with_sides_through_centres():
    """Exactly one of two opposite sides owns the centres on it, so the result is a box of the right size."""
    low, high = np.array([2.5, 3.5, 1.5]) / 16, np.array([9.5, 12.5, 14.5]) / 16
    for order in ([0, 1, 2], [2, 1, 0]):
        grid = voxelize_solid(triangles(box(low, high))[:, order], 16)
        assert grid.sum() == 7 * 9 * 13
        cells = np.argwhere(grid)
        assert (np.ptp(cells, 0) + 1).tolist() == [7, 9, 13]
        within = np.logical_and(centres(16) > low, centres(16) < high).all(-1)
        assert bool((grid >= within).all())


@pytest.mark.parametrize("side", range(6))
def test_open_box_is_still_solid(side):
    low, high = np.array([2, 3, 1]) / 16, np.array([9, 12, 14]) / 16
    faces = np.delete(triangles(box(low, high)), [2 * side, 2 * side + 1], 0)
    assert np.array_equal(voxelize_solid(faces, 16), box_by_hand(low, high, 16))
    assert voxelize(faces, 16).sum() < voxelize(triangles(box(low, high)), 16).sum()


def test_overlapping_spheres_are_their_union():
    one, other = (triangles(icosphere(2, 0.25, (x, 0.5, 0.45))) for x in (0.4, 0.62))
    both = voxelize_solid(np.concatenate([one, other]), 32)
    union = voxelize_solid(one, 32) | voxelize_solid(other, 32)
    assert np.array_equal(both, union)
    assert union.sum() < voxelize_solid(one, 32).sum() + voxelize_solid(other, 32).sum()


@pytest.mark.parametrize("size", [8, 16, 33])
@pytest.mark.parametrize("name", MESHES)
def test_solid_agrees_with_the_reference(name, size):
    faces = MESHES[name]
    assert np.array_equal(voxelize_solid(faces, size), reference.solid(faces, size))


@pytest.mark.parametrize("seed", range(6))
def test_solid_agrees_with_the_reference_where_everything_touches(seed):
    faces = on_the_grid(seed, 8, 12)
    assert np.array_equal(voxelize_solid(faces, 8), reference.solid(faces, 8))


@pytest.mark.parametrize("seed", range(3))
def test_solid_is_what_a_winding_number_says(seed):
    """Compare with solid angles (van Oosterom & Strackee 1983), which do not depend on axes, lines or edges."""
    faces, size = lump(seed).astype(np.float64), 16
    inside = np.zeros(size ** 3)
    for a, b, c in faces[:, :, None] - centres(size).reshape(1, 1, -1, 3):
        la, lb, lc = (np.linalg.norm(v, axis=-1) for v in (a, b, c))
        volume = (a * np.cross(b, c)).sum(-1)
        inside += 2 * np.arctan2(volume, la * lb * lc + (a * b).sum(-1) * lc
                                 + (b * c).sum(-1) * la + (c * a).sum(-1) * lb)
    winding = (inside / (4 * np.pi)).reshape((size,) * 3)
    assert np.abs(winding - winding.round()).max() < 1e-6
    grid = voxelize_solid(faces, size)
    assert np.array_equal(grid, winding.round() != 0) and 0 < grid.sum() < grid.size


def test_solid_has_the_volume_of_the_mesh():
    vertices, faces = icosphere(3, 0.4)
    vertices = vertices * (1 + 0.2 * np.sin(5 * vertices[:, :1])) * [1, 0.7, 0.9] + 0.5
    volume = np.linalg.det(triangles((vertices, faces))).sum() / 6
    assert voxelize_solid(triangles((vertices, faces)), 64).mean() == pytest.approx(volume, rel=0.01)


# ---- both rules -----------------------------------------------------------------------------------

RULES = [voxelization.voxelize, voxelization.voxelize_solid]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kernels", ["compiled", "reference"])
def test_a_batch_is_its_members(rule, kernels, monkeypatch):
    monkeypatch.setenv("NR_BACKEND", kernels)
    batch = torch.from_numpy(np.stack([lump(0), lump(1), lump(3)]))
    grids = rule(batch, 24)
    assert grids.shape == (3, 24, 24, 24) and grids.dtype == torch.int32
    assert grids.unique().tolist() == [0, 1]
    assert torch.equal(grids, torch.cat([rule(member[None], 24) for member in batch]))
    assert not torch.equal(grids[0], grids[1])


@pytest.mark.parametrize("rule", RULES)
def test_threads_types_and_layout_change_nothing(rule):
    batch = torch.from_numpy(np.stack([lump(seed) for seed in range(5)]))
    expected = rule(batch, 33)
    assert torch.equal(rule(batch.double(), 33), expected)
    assert torch.equal(rule(batch, 33, dtype=torch.bool), expected.bool())
    assert torch.equal(rule(batch.transpose(1, 2).contiguous().transpose(1, 2), 33), expected)
    assert torch.equal(rule(batch.clone().requires_grad_(), 33), expected)
    assert torch.equal(rule(batch.half(), 33), rule(batch.half().float(), 33))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 8):
            torch.set_num_threads(threads)
            assert torch.equal(rule(batch, 33), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(rule, bad):
    batch = torch.rand(3, 4, 3, 3)
    batch[1, 2, 0, 1] = bad
    with pytest.raises(ValueError, match="faces must be finite, but mesh 1 "):
        rule(batch, 8)


WRONG_FACES = [torch.rand(4, 3, 3), torch.rand(1, 4, 3, 2), torch.rand(1, 4, 9), torch.rand(3, 3),
               torch.zeros(1, 4, 3, 3, dtype=torch.int32), np.zeros((1, 4, 3, 3)), None]
WRONG_SIZES = [0, -3, 8.0, "8", None, 4096]


@pytest.mark.parametrize("rule", [*RULES, lambda *a: voxelization.voxelize(*a, normalize=True)])
def test_wrong_arguments_are_named(rule):
    for faces in WRONG_FACES:
        with pytest.raises(ValueError, match="faces"):
            rule(faces, 8)
    for size in WRONG_SIZES:
        with pytest.raises(ValueError, match="size"):
            rule(torch.rand(1, 4, 3, 3), size)


@pytest.mark.parametrize("size", [16, 32])
def test_normalize_fits_the_box_of_the_whole_batch(size):
    corners = [((-3, 0, 1), (5, 2, 2)), ((-1, -2, 0), (1, 1, 2.5))]  # together 8 x 4 x 2.5
    batch = np.stack([triangles(box(*pair)) for pair in corners])
    scale, centre = (size - 1) / size / 8, np.array([1, 0, 1.25])
    by_hand = (batch - centre) * scale + 0.5
    assert by_hand.min() == pytest.approx(0.5 / size) and by_hand.max() == pytest.approx(1 - 0.5 / size)
    got = voxelization.voxelize(torch.from_numpy(batch), size, normalize=True)
    assert torch.equal(got, voxelization.voxelize(torch.from_numpy(by_hand), size))
    for member, expected in zip(got.numpy(), by_hand):
        assert np.array_equal(member, published_by_hand(expected, size))
    alone = voxelization.voxelize(torch.from_numpy(batch[1:]), size, normalize=True)
    assert not torch.equal(alone[0], got[1]), "the scale is that of the batch"


def test_normalize_does_not_depend_on_position_and_size():
    faces = torch.from_numpy(lump(0))[None].double()
    expected = voxelization.voxelize(faces, 32, normalize=True)
    assert torch.equal(voxelization.voxelize(faces * 8 + 4, 32, normalize=True), expected)
    point = torch.full((1, 2, 3, 3), 7.0)
    assert voxelization.voxelize(point, 8, normalize=True).sum() == 1


# ---- overlap -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", ["compiled", "reference"])
@pytest.mark.parametrize("size", [1, 3, 8, 17])
def test_overlap_counts_cells_of_both_and_of_either(size, kernels, monkeypatch):
    monkeypatch.setenv("NR_BACKEND", kernels)
    a, b = np.random.default_rng(size).random((2, 4, size, size, size)) < np.array([.3, .7]).reshape(2, 1, 1, 1, 1)
    for of_b, others in ((torch.tensor(b), b), (torch.tensor(b[:1]), b[[0, 0, 0, 0]])):
        both, either = voxelization.overlap(torch.tensor(a), of_b)
        assert both.tolist() == [int(np.logical_and(x, y).sum()) for x, y in zip(a, others)]
        assert either.tolist() == [int(np.logical_or(x, y).sum()) for x, y in zip(a, others)]
    turned = torch.tensor(a).permute(0, 3, 1, 2)  # in any layout
    assert voxelization.overlap(turned, turned)[0].tolist() == a.sum((1, 2, 3)).tolist()
    nothing = torch.zeros(0, size, size, size, dtype=torch.bool)
    assert [len(counts) for counts in voxelization.overlap(nothing, of_b)] == [0, 0]


@pytest.mark.parametrize("a, b, message", [
    (torch.ones(2, 4, 4, 4), torch.ones(2, 4, 4, 4) > 0, "a must be a bool tensor of shape .* got float32"),
    (torch.ones(2, 4, 4, 4) > 0, torch.ones(4, 4, 4) > 0, r"b must be a bool tensor .* got bool of shape \(4, 4, 4\)"),
    (torch.ones(2, 4, 4, 4) > 0, torch.ones(2, 4, 4, 5) > 0, r"b must have the shape \(2, 4, 4, 4\) of a"),
    (torch.ones(2, 4, 4, 4) > 0, torch.ones(3, 4, 4, 4) > 0, "or hold one grid of that size"),
    (None, torch.ones(3, 4, 4, 4) > 0, "got NoneType")])
def test_grids_of_different_shapes_are_refused(a, b, message):
    with pytest.raises(ValueError, match=message):
        voxelization.overlap(a, b)
