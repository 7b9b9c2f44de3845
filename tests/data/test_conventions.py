"""Cameras and voxel axes of the CVPR18 layout, compared with formulas in this file and tested with a chiral object."""
import itertools
import math

import numpy as np
import pytest
import torch
import voxelization
from datasets import CVPR18
from readers import writers
from solids import box

DISTANCE, ELEVATION, HALF_ANGLE = 2.732, math.radians(30), math.radians(15)


def look_through(points, eye, right, up, forward):
    """NDC x and y of points (N, 3) in a pinhole camera with half the field of view 15 degrees."""
    relative = points - eye
    depth = relative @ forward * math.tan(HALF_ANGLE)
    return np.stack([relative @ right / depth, relative @ up / depth], 1)


def renderer_camera(view):
    """The published, mirroring camera: x = up x z, for vertices in the renderer's frame."""
    azimuth = math.radians(-15 * view)
    eye = DISTANCE * np.array([math.cos(ELEVATION) * math.sin(azimuth), math.sin(ELEVATION),
                               -math.cos(ELEVATION) * math.cos(azimuth)])
    z = -eye / np.linalg.norm(eye)
    x = np.cross((0, 1, 0), z)
    x /= np.linalg.norm(x)
    return eye, x, np.cross(z, x), z


def people_camera(view):
    """A right-handed viewer: right = forward x up, around an object whose front is +z."""
    turn = math.radians(15 * view)
    eye = DISTANCE * np.array([-math.cos(ELEVATION) * math.sin(turn), math.sin(ELEVATION),
                               math.cos(ELEVATION) * math.cos(turn)])
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, (0, 1, 0))
    right /= np.linalg.norm(right)
    return eye, right, np.cross(right, forward), forward


def pixels(ndc, size=64):
    """(rows, columns), row 0 at the top."""
    return (np.floor((1 - ndc[:, 1]) / 2 * size).astype(int), np.floor((1 + ndc[:, 0]) / 2 * size).astype(int))


def mask_of(ndc):
    mask = np.zeros((64, 64), bool)
    rows, columns = pixels(ndc)
    seen = (rows >= 0) & (rows < 64) & (columns >= 0) & (columns < 64)
    mask[rows[seen], columns[seen]] = True
    return mask


def overlap(a, b):
    return (a & b).sum() / (a | b).sum()


# ---- cameras ----------------------------------------------------------------------------------------


def test_project_is_the_published_camera():
    points = np.random.default_rng(0).uniform(-.5, .5, (24, 40, 3))
    result = CVPR18.project(torch.tensor(points), torch.arange(24)).numpy()
    for view in range(24):
        eye, *axes = renderer_camera(view)
        np.testing.assert_allclose(result[view, :, :2], look_through(points[view], eye, *axes), atol=1e-6)
        np.testing.assert_allclose(result[view, :, 2], (points[view] - eye) @ axes[2], atol=1e-6)
    # Controls: the opposite sense of rotation, and a camera that does not mirror.
    eye, *axes = renderer_camera(-5)
    assert np.abs(look_through(points[5], eye, *axes) - result[5, :, :2]).max() > .1
    assert np.abs(look_through(points[5], *people_camera(5)) - result[5, :, :2]).max() > .1


def test_views_between_two_views():
    points = torch.rand(2, 7, 3, dtype=torch.float64) - .5
    result = CVPR18.project(points, torch.tensor([2.5, 23.75])).numpy()
    for k, view in enumerate((2.5, 23.75)):
        np.testing.assert_allclose(result[k, :, :2], look_through(points[k].numpy(), *renderer_camera(view)),
                                   atol=1e-6)
    turn = CVPR18.turntable(48)
    assert turn.shape == (48,) and turn[0] == 0 and float(turn[1] - turn[0]) == .5 and float(turn[-1]) == 23.5


def test_kept_cameras_are_those_worked_out_anew_to_the_bit():
    """The cache is filled without gradients, as in evaluation, and then used with gradients."""
    CVPR18._whole_views.cache_clear()
    views = torch.randint(24, (37,))
    with torch.inference_mode():
        CVPR18.project(torch.rand(37, 5, 3), views)
    results = []
    points, weights = torch.rand(37, 5, 3) - 0.5, torch.randn(37, 5, 3)
    for cameras in (views, views.float()):
        leaf = points.clone().requires_grad_()
        seen = CVPR18.project(leaf, cameras)
        results.append((seen, *torch.autograd.grad(seen, leaf, weights)))
    assert all(torch.equal(kept, anew) for kept, anew in zip(*results))


def test_known_eyes():
    assert np.allclose(renderer_camera(0)[0], (0, 1.366, -2.366), atol=1e-3)
    assert np.allclose(people_camera(0)[0], (0, 1.366, 2.366), atol=1e-3)
    for view in range(24):
        assert np.allclose(people_camera(view)[0], renderer_camera(view)[0] * (1, 1, -1))


def test_flip_handedness_negates_z_and_is_its_own_inverse():
    points = torch.rand(2, 5, 3)
    assert torch.equal(CVPR18.flip_handedness(points), points * torch.tensor([1., 1., -1.]))
    assert torch.equal(CVPR18.flip_handedness(CVPR18.flip_handedness(points)), points)


# ---- voxel axes ---------------------------------------------------------------------------------------


CELLS = [(3, 10, 20), (29, 4, 7), (0, 31, 16), (31, 0, 0), (12, 12, 30)]  # of the voxeliser: x, y, z


def small_cubes(cells):
    """A cube around the middle of each cell, in the renderer's frame."""
    vertices, faces = [], []
    for k, cell in enumerate(cells):
        corners, sides = box(np.array(cell) + .3, np.array(cell) + .7)
        vertices.append((corners / 32 - .5) * 32 / 31)
        faces.append(sides + 8 * k)
    return torch.tensor(np.concatenate(vertices)), torch.tensor(np.concatenate(faces))


def test_voxelize_swaps_the_first_axes_and_reverses_the_last():
    vertices, faces = small_cubes(CELLS)
    moved, _ = small_cubes([((x + 1) % 32, y, z) for x, y, z in CELLS])
    grids = CVPR18.voxelize(torch.stack([vertices, moved]).float(), faces)
    assert grids.shape == (2, 32, 32, 32) and grids.dtype == torch.bool
    first, second = (sorted(map(tuple, grid.nonzero().tolist())) for grid in grids)
    assert first == sorted((y, x, 31 - z) for x, y, z in CELLS)
    assert second == sorted((y, (x + 1) % 32, 31 - z) for x, y, z in CELLS)


def test_the_grid_of_peoples_meshes_is_indexed_by_y_x_z():
    place = np.array([.31, -.2, .12])
    vertices, faces = box(place - .003, place + .003)
    cell = np.floor((place * 31 / 32 + .5) * 32).astype(int)
    grid = writers.voxel_grid(CVPR18, torch.tensor(vertices).float(), torch.tensor(faces))
    assert np.argwhere(grid).tolist() == [[cell[1], cell[0], cell[2]]]


def random_grid(density=.2):
    grid = torch.tensor(np.random.default_rng(0).random((32, 32, 32)) < density)
    grid[:16] &= torch.tensor(np.random.default_rng(1).random((16, 32, 32)) < .5)
    return grid


def test_voxel_mesh_of_one_cell_is_its_cube():
    for x, y, z in CELLS:
        grid = torch.zeros(32, 32, 32, dtype=torch.bool)
        grid[y, x, 31 - z] = True
        vertices, faces = CVPR18.voxel_mesh(grid)
        cube = (vertices[0].double().numpy() * 31 / 32 + .5) * 32
        expected = {tuple(np.array((x, y, z)) + offset) for offset in itertools.product((0, 1), repeat=3)}
        assert {tuple(v) for v in cube.round(3)} == expected and len(faces) == 12
        a, b, c = cube[faces.numpy()].swapaxes(0, 1)
        assert (np.cross(b - a, c - a) * ((a + b + c) / 3 - (x + .5, y + .5, z + .5))).sum(1).min() > 0, "outward"
        shrunk = vertices.mean(1) + .4 * (vertices - vertices.mean(1))
        assert CVPR18.voxelize(shrunk, faces)[0].nonzero().tolist() == [[y, x, 31 - z]]


def test_voxel_mesh_is_the_inverse_of_voxelize_cell_for_cell():
    grid = random_grid()
    vertices, faces = CVPR18.voxel_mesh(grid)
    assert vertices.shape[0] == 1 and vertices.abs().max() <= 16 / 31 + 1e-6
    corners = vertices[0][faces][None] * 31 / 32 + .5
    solid = voxelization.voxelize_solid(corners.double(), 32)[0].numpy().astype(bool)  # the exact rule
    for x, y, z in np.random.default_rng(2).integers(0, 32, (500, 3)):
        assert solid[x, y, z] == grid[y, x, 31 - z]
    assert solid.sum() == grid.sum()
    # Test cells one by one with the published rule, which thickens everything that touches a grid line.
    cells = grid.nonzero().numpy()[::400]
    cubes, sides = small_cubes([(j, i, 31 - k) for i, j, k in cells])
    assert CVPR18.voxelize(cubes[None].float(), sides)[0].nonzero().tolist() == cells.tolist()


def test_voxel_mesh_of_nothing_is_empty():
    vertices, faces = CVPR18.voxel_mesh(torch.zeros(32, 32, 32, dtype=torch.bool))
    assert vertices.shape == (1, 0, 3) and faces.shape == (0, 3)


# ---- a chiral object through pictures and voxels --------------------------------------------------------


BARS = [((-.44, -.30, -.08), (.44, -.16, .08)),   # along x,
        ((.28, -.30, -.08), (.44, .30, .08)),     # up at its right end,
        ((.28, .14, -.08), (.44, .30, .44)),      # far towards the viewer at the top,
        ((-.44, -.30, -.22), (-.28, -.16, .08))]  # and a little away at the left end


@pytest.fixture(scope="module")
def chiral():
    """(vertices, faces, alphas (24, 64, 64) in [0, 1], grid) of the bars, right-handed."""
    vertices = np.concatenate([box(*bar)[0] for bar in BARS])
    faces = np.concatenate([box(*bar)[1] + 8 * k for k, bar in enumerate(BARS)])
    v, f = torch.tensor(vertices).float(), torch.tensor(faces)
    images = writers.draw_views(CVPR18, v, f, torch.full((len(f), 3), .7), torch.arange(24))
    assert images.shape == (24, 4, 64, 64) and images.dtype == np.uint8
    return vertices, faces, images[:, 3] / 255, writers.voxel_grid(CVPR18, v, f)


def surface_points(vertices, faces, count=60):
    """A lattice of points on every triangle."""
    s, t = np.meshgrid(*[np.linspace(0, 1, count)] * 2)
    s, t = s[s + t <= 1], t[s + t <= 1]
    a, b, c = vertices[faces].swapaxes(0, 1)[..., None, :]
    return (a + s[:, None] * (b - a) + t[:, None] * (c - a)).reshape(-1, 3)


def test_pictures_are_those_of_a_right_handed_viewer(chiral):
    vertices, faces, alphas, _ = chiral
    points = surface_points(vertices, faces)
    for view in range(24):
        seen = mask_of(look_through(points, *people_camera(view)))
        # The object touches every pixel with alpha. Some pixels that it touches have alpha 0, because it
        # covers none of their four samples.
        assert not ((alphas[view] > 0) & ~seen).any()
        assert overlap(seen, alphas[view] > 0) > .85
        for wrong in (seen[:, ::-1], mask_of(look_through(points * (1, 1, -1), *people_camera(view))),
                      mask_of(look_through(points * (-1, 1, 1), *people_camera(view))),
                      mask_of(look_through(points, *people_camera(view + 1)))):
            assert overlap(wrong, alphas[view] > 0) < .8


def test_left_and_right_and_front_in_known_views():
    bars = {"red": ((.2, -.1, -.1), (.4, .1, .1)), "green": ((-.4, -.1, -.1), (-.2, .1, .1)),
            "blue": ((-.1, -.1, .2), (.1, .1, .4))}
    vertices = torch.tensor(np.concatenate([box(*bar)[0] for bar in bars.values()])).float()
    faces = torch.tensor(np.concatenate([box(*bar)[1] + 8 * k for k, bar in enumerate(bars.values())]))
    colors = torch.eye(3).repeat_interleave(12, 0)
    images = writers.draw_views(CVPR18, vertices, faces, colors, torch.tensor([0, 6, 12, 18])).astype(float)
    row, column = np.mgrid[:64, :64]

    def middle(view, color):
        return [(images[view, color] * index).sum() / images[view, color].sum() for index in (row, column)]

    front, from_left, back, from_right = ({c: middle(v, k) for k, c in enumerate(bars)} for v in range(4))
    assert front["green"][1] < 25 < 30 < front["blue"][1] < 34 < 39 < front["red"][1]
    assert front["blue"][0] > front["red"][0], "what is near is lower in the picture, seen from above"
    assert back["red"][1] < 25 and back["green"][1] > 39 and back["blue"][0] < back["red"][0]
    assert from_left["blue"][1] > 39 and from_left["green"][0] > from_left["red"][0]
    assert from_right["blue"][1] < 25 and from_right["red"][0] > from_right["green"][0]


def test_light_comes_from_above():
    vertices, faces = box((-.3, -.3, -.3), (.3, .3, .3))
    for view in range(24):
        image = writers.draw_views(CVPR18, torch.tensor(vertices).float(), torch.tensor(faces), torch.ones(12, 3),
                                     torch.tensor([view]))[0]
        eye, *axes = people_camera(view)
        shade = {}
        for axis, sign in ((1, 1), (0, 1), (0, -1), (2, 1), (2, -1)):
            centre = np.zeros(3)
            centre[axis] = .3 * sign
            if (eye - centre)[axis] * sign > .3:  # visible, and not at a grazing angle
                (r,), (c,) = pixels(look_through(centre[None], eye, *axes))
                assert image[3, r, c] == 255
                shade[axis, sign] = int(image[0, r, c])
        assert len(shade) >= 2 and all(shade[1, 1] > other for side, other in shade.items() if side != (1, 1))


def cells_to_people(cells):
    """Eight points in each cell (rows of indices) of a dataset's grid, in the people frame.

    The grid is grid[y, x, z] of the object. The index along z runs opposite to z of the renderer's frame, which is
    opposite to z of the people frame; 31 cells are one unit.
    """
    inside = np.array(list(itertools.product((.25, .75), repeat=3)))
    y, x, z = (((cells[:, None] + inside) / 32 - .5) * 32 / 31).reshape(-1, 3).T
    return np.stack([x, y, z], 1)


def distance_to(mask):
    """The distance of every pixel to the nearest pixel of the mask, in pixels."""
    rows, columns = np.nonzero(mask)
    r, c = np.mgrid[:64, :64]
    return np.sqrt(((r[..., None] - rows) ** 2 + (c[..., None] - columns) ** 2).min(-1))


def agreement(grid, alphas, distances):
    """(smallest overlap over the views, share of the voxels' points within 1.5 pixels of the silhouette)."""
    points, least, near = cells_to_people(np.argwhere(grid)), 1, []
    for view, alpha in enumerate(alphas):
        ndc = look_through(points, *people_camera(view))
        least = min(least, overlap(mask_of(ndc), alpha > 0))
        rows, columns = (np.clip(p, 0, 63) for p in pixels(ndc))
        near.append((distances[view][rows, columns] <= 1.5).mean())
    return least, min(near)


def test_voxels_stand_where_every_picture_shows_the_object(chiral):
    *_, alphas, grid = chiral
    distances = [distance_to(alpha > 0) for alpha in alphas]
    found = {}
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            turned = grid.transpose(order)[tuple(slice(None, None, step) for step in flips)]
            found[order, flips] = agreement(turned, alphas, distances)
    least, near = found.pop(((0, 1, 2), (1, 1, 1)))
    # The published voxel rule makes bars up to two cells, 2.8 pixels, thicker than they are.
    assert least > .75 and near > .99
    assert len(found) == 47 and max(v for v, _ in found.values()) < .5 and max(n for _, n in found.values()) < .8
