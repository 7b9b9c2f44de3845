"""The solid rule does not depend on the orientation of faces, nor on duplicated faces."""
import numpy as np
import pytest
import torch
from solids import box, icosphere, triangles
from voxelization import reference, voxelize_solid

SPHERE = triangles(icosphere(3, 0.4, (0.5, 0.48, 0.51)))
RING = np.concatenate([triangles(box(*sides)) for sides in (  # a U: lines along x cross it four times
    ((.2, .2, .2), (.35, .8, .7)), ((.65, .2, .2), (.8, .8, .7)))])


def solid(faces, size=32):
    grid = voxelize_solid(torch.as_tensor(np.ascontiguousarray(faces))[None], size, dtype=torch.bool)[0].numpy()
    if size == 8:
        assert np.array_equal(grid, reference.solid(faces, size))
    return grid


def turned(faces, seed):
    faces = faces.copy()
    some = np.random.default_rng(seed).random(len(faces)) < .5
    faces[some] = faces[some][:, ::-1]
    return faces


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("mesh", [SPHERE, RING], ids=["sphere", "two boxes"])
def test_closed_meshes_however_their_faces_are_turned_and_doubled(mesh, size):
    whole = solid(mesh, size)
    assert whole.any()
    double = np.concatenate([mesh, mesh[:, ::-1]])
    rolled = np.concatenate([mesh, np.roll(mesh, 1, 1)[:, ::-1]])  # the same faces from another corner
    for other in (mesh[:, ::-1], double, rolled, np.concatenate([mesh, mesh]), np.random.default_rng(0).permutation(double),
                  np.concatenate([double, mesh]), *(turned(mesh, seed) for seed in range(4)), turned(double, 5)):
        assert np.array_equal(solid(other, size), whole)


def test_a_sphere_keeps_its_volume():
    """With its faces as they are, doubled, and reversed at random."""
    mesh = triangles(icosphere(3, 0.4, (0.5, 0.5, 0.5)))
    count = solid(mesh).sum()
    assert abs(count - 4 / 3 * np.pi * (.4 * 32) ** 3) < .03 * count
    assert solid(np.concatenate([mesh, mesh[:, ::-1]])).sum() == solid(turned(mesh, 1)).sum() == count


def test_a_random_half_of_a_mesh_stands_twice():
    some = np.random.default_rng(3).random(len(SPHERE)) < .5
    assert np.array_equal(solid(np.concatenate([SPHERE, SPHERE[some][:, ::-1]])), solid(SPHERE))


def test_copies_that_differ_by_rounding_or_in_their_triangles_count_once():
    whole = solid(SPHERE)
    a, b, c = SPHERE.swapaxes(0, 1)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    finer = np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca))])
    for copy in (finer, SPHERE.round(6), (SPHERE + 1e-7).astype(np.float32)):
        for mesh in (np.concatenate([SPHERE, copy[:, ::-1]]), turned(np.concatenate([SPHERE, copy]), 7)):
            assert (solid(mesh) ^ whole).sum() <= 0.002 * whole.sum()


def test_thin_shells_and_plates_keep_their_thickness():
    inner = triangles(icosphere(3, 0.37, (0.5, 0.48, 0.51)))
    shell = np.concatenate([SPHERE, inner[:, ::-1]])
    expected = solid(SPHERE, 64) & ~solid(inner, 64)
    assert np.array_equal(solid(shell, 64), expected)
    for seed in range(3):  # parity is exact for every orientation of the faces
        assert np.array_equal(solid(turned(shell, seed), 64), expected)
    plate = triangles(box((.1, .5, .1), (.9, .5, .9)))  # closed, without thickness
    for mesh in (plate, turned(plate, 0), np.concatenate([plate, plate[:, ::-1]])):
        assert not solid(mesh, 16).any()


def test_parts_that_overlap_are_their_union_where_they_are_turned_alike():
    one, other = (triangles(icosphere(3, 0.25, (x, 0.5, 0.45))) for x in (0.4, 0.62))
    union = solid(one) | solid(other)
    for mesh in (np.concatenate([one, other]), np.concatenate([one, other])[:, ::-1]):
        assert np.array_equal(solid(mesh), union)
    opened = np.delete(np.concatenate([one, other]), np.arange(12), 0)  # a hole: other lines still use the winding number
    assert (solid(opened) ^ union).sum() < .02 * union.sum()


def test_half_a_sphere_is_filled_where_lines_of_two_axes_cross_both_its_sides():
    open_half = SPHERE[(SPHERE[:, :, 0] < .5).all(1)]
    assert np.array_equal(solid(open_half)[:14], solid(SPHERE)[:14])
    assert not solid(open_half)[20:].any()
