"""Cameras compared with plain NumPy, and their handedness."""
import math

import neural_renderer as nr
import numpy as np
import pytest
import torch


def points(batch=2, count=5):
    return torch.rand(batch, count, 3, generator=torch.Generator().manual_seed(0),
                      dtype=torch.float64) * 2 - 1


def unit(v):
    return v / np.linalg.norm(v)


def look_by_hand(vertices, eye, direction, up):
    z = unit(np.asarray(direction, float))
    x = unit(np.cross(up, z))
    y = unit(np.cross(z, x))
    return (vertices - np.asarray(eye)) @ np.stack([x, y, z]).T


def close(got, expected, tolerance=1e-12):
    np.testing.assert_allclose(np.asarray(got), expected, rtol=tolerance, atol=tolerance)


# ---- get_points_from_angles -----------------------------------------------------------------------


@pytest.mark.parametrize("angles, expected", [((2, 0, 0), (0, 0, -2)), ((2, 0, 90), (2, 0, 0)),
                                              ((2, 0, 180), (0, 0, 2)), ((2, 0, -90), (-2, 0, 0)),
                                              ((2, 90, 0), (0, 2, 0)), ((3, -90, 0), (0, -3, 0))])
def test_points_on_the_axes(angles, expected):
    got = nr.get_points_from_angles(*angles)
    assert isinstance(got, tuple) and all(isinstance(v, float) for v in got)
    close(got, expected)
    radians = nr.get_points_from_angles(angles[0], *map(math.radians, angles[1:]), degrees=False)
    close(radians, expected)


def test_points_from_tensors():
    distance, elevation, azimuth = torch.rand(3, 7, dtype=torch.float64) * 90
    got = nr.get_points_from_angles(distance, elevation, azimuth)
    assert got.shape == (7, 3) and got.dtype == torch.float64
    d, e, a = distance.numpy(), *np.radians([elevation.numpy(), azimuth.numpy()])
    close(got, np.stack([d * np.cos(e) * np.sin(a), d * np.sin(e), -d * np.cos(e) * np.cos(a)], 1))
    close(got[3], nr.get_points_from_angles(*(v[3].item() for v in (distance, elevation, azimuth))))
    close(got, nr.get_points_from_angles(distance, torch.deg2rad(elevation), torch.deg2rad(azimuth),
                                         degrees=False))
    close(nr.get_points_from_angles(2.0, 0.0, azimuth),
          nr.get_points_from_angles(torch.full_like(azimuth, 2), torch.zeros_like(azimuth), azimuth))


# ---- look_at and look -----------------------------------------------------------------------------

EYES = [[0.4, 1.0, -3.0], [-2.0, 0.3, 1.5]]


@pytest.mark.parametrize("at, up", [((0, 0, 0), (0, 1, 0)), ((0.3, -0.2, 0.5), (0.2, 1, -0.4))])
def test_look_at(at, up):
    vertices = points()
    got = nr.look_at(vertices, EYES, at, up)
    for b in range(2):
        expected = look_by_hand(vertices[b].numpy(), EYES[b], np.subtract(at, EYES[b]), up)
        close(got[b], expected)
        close(nr.look_at(vertices, EYES[b], at, up)[b], expected)
        close(nr.look_at(vertices, tuple(EYES[b]), list(at), torch.tensor(up))[b], expected, 1e-7)


def test_look():
    vertices, directions, up = points(), [[0.1, -0.3, 1.0], [1.0, 0.2, 0.4]], (0.1, 0.9, 0.2)
    got, by_y = nr.look(vertices, EYES, directions, up), nr.look(vertices, EYES, directions)
    for b in range(2):
        close(got[b], look_by_hand(vertices[b].numpy(), EYES[b], directions[b], up))
        close(by_y[b], look_by_hand(vertices[b].numpy(), EYES[b], directions[b], (0, 1, 0)))
    eye = torch.tensor(EYES, dtype=torch.float64)
    close(nr.look(vertices, eye, -eye), nr.look_at(vertices, eye))


def test_cameras_are_differentiable_in_the_eye():
    eye = torch.tensor(EYES, dtype=torch.float64, requires_grad=True)
    at = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    vertices = points().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, e, a: nr.look_at(v, e, a), (vertices, eye, at))


def test_what_a_camera_sees_where():
    """At azimuth 0 the eye is on -z: +y is up in the picture, +x is right, and points further away are deeper."""
    eye = nr.get_points_from_angles(3, 0, 0)
    seen = nr.look_at(torch.eye(3)[None], eye)[0]
    close(seen, [[1, 0, 3], [0, 1, 3], [0, 0, 4]], 1e-6)
    # From azimuth 90, on +x, z grows to the right of the picture.
    side = nr.look_at(torch.eye(3)[None], nr.get_points_from_angles(3, 0, 90))[0]
    close(side, [[0, 0, 2], [0, 1, 3], [1, 0, 3]], 1e-6)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_straight_above_is_the_limit_of_azimuth_zero(sign, dtype):
    """There up x z is zero; without special care the picture would be empty."""
    vertices = points().to(dtype)
    for azimuth in (0.0, 70.0):
        pole = nr.look_at(vertices, nr.get_points_from_angles(3, 90 * sign, azimuth))
        close(pole, nr.look_at(vertices, nr.get_points_from_angles(3, 89.99 * sign, 0)), 1e-3)
    eye = torch.tensor([0, 3.0 * sign, 0], dtype=dtype, requires_grad=True)
    nr.look_at(vertices, eye).square().sum().backward()
    assert eye.grad.isfinite().all()
    tilted = nr.look(vertices, (0, 0, 0), (2, 0, 0), up=(0.5, 0, 0))  # parallel whatever their lengths
    assert torch.linalg.matrix_rank(tilted[0].double(), rtol=1e-5) == 3


# ---- perspective and projection -------------------------------------------------------------------


@pytest.mark.parametrize("angle", [15, 30.0, 60.0])
def test_perspective(angle):
    vertices = points() + torch.tensor([0, 0, 3.0])
    x, y, z = vertices.numpy().transpose(2, 0, 1)
    width = np.tan(np.radians(angle))
    close(nr.perspective(vertices, angle), np.stack([x / z / width, y / z / width, z], -1))
    if angle == 30:
        close(nr.perspective(vertices), nr.perspective(vertices, angle))


def opencv(vertices, K, R, t, coefficients, size):
    """The pinhole model with distortion of the OpenCV manual, and NDC with y up."""
    k1, k2, p1, p2, k3 = coefficients
    x, y, z = (vertices @ R.T + t).T
    x, y = x / z, y / z
    r2 = x ** 2 + y ** 2
    radial = 1 + k1 * r2 + k2 * r2 ** 2 + k3 * r2 ** 3
    xd = x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x ** 2)
    yd = y * radial + p1 * (r2 + 2 * y ** 2) + 2 * p2 * x * y
    u = K[0, 0] * xd + K[0, 1] * yd + K[0, 2]
    v = K[1, 1] * yd + K[1, 2]
    return np.stack([2 * u / size - 1, 2 * (size - v) / size - 1, z], -1)


def camera_parameters(seed=0):
    random = np.random.default_rng(seed)
    R, _ = np.linalg.qr(random.normal(size=(3, 3)))
    K = np.array([[400.0, 3.0, 250.0], [0, 380.0, 270.0], [0, 0, 1]]) + random.normal() * np.eye(3)
    K[2, 2] = 1
    return K, R * np.linalg.det(R), np.array([0.1, -0.2, 4.0]), random.normal(size=5) * 0.05


def test_projection():
    vertices, size = points(), 512
    cameras = [camera_parameters(seed) for seed in range(2)]
    K, R, t, distortion = (torch.tensor(np.stack(p)) for p in zip(*cameras))
    got = nr.projection(vertices, K, R, t[:, None], distortion, size)
    for b in range(2):
        expected = opencv(vertices[b].numpy(), *cameras[b], size)
        close(got[b], expected, 1e-8)  # eps 1e-9 on z
        undistorted = opencv(vertices[b].numpy(), *cameras[b][:3], np.zeros(5), size)
        assert np.abs(undistorted - expected).max() > 1e-3
    close(nr.projection(vertices, K, R, t, distortion, size), got)
    one = nr.projection(vertices, K[:1], R[:1], t[:1], distortion[:1], size)
    close(one[0], got[0])


def test_projection_puts_the_first_row_of_pixels_on_top():
    K = torch.tensor([[[100.0, 0, 50], [0, 100.0, 50], [0, 0, 1]]])
    vertices = torch.tensor([[[-0.5, -0.5, 1.0], [0.5, 0.25, 1.0]]])  # OpenCV: y down
    got = nr.projection(vertices, K, torch.eye(3)[None], torch.zeros(1, 1, 3), torch.zeros(1, 5), 100)
    close(got[0], [[-1, 1, 1], [1, -0.5, 1]], 1e-6)


@pytest.mark.parametrize("name, value", [("K", torch.zeros(3, 3, 3)), ("R", torch.zeros(2, 3, 4)),
                                         ("t", torch.zeros(2, 3, 1)),
                                         ("dist_coeffs", torch.zeros(2, 4))])
def test_wrong_projections_are_named(name, value):
    good = {"K": torch.eye(3)[None], "R": torch.eye(3)[None], "t": torch.zeros(1, 1, 3),
            "dist_coeffs": torch.zeros(1, 5), "orig_size": 10}
    nr.projection(points(), **good)
    with pytest.raises(ValueError, match=f"^{name} "):
        nr.projection(points(), **{**good, name: value})


def test_wrong_eyes_and_vertices_are_named():
    with pytest.raises(ValueError, match="eye"):
        nr.look_at(points(), [[0, 0, 1]] * 3)
    with pytest.raises(ValueError, match="direction"):
        nr.look(points(), [0, 0, 1], [0, 1])
    for function in (lambda v: nr.look_at(v, [0, 0, -2]), lambda v: nr.look(v, [0, 0, -2], [0, 0, 1]),
                     nr.perspective):
        with pytest.raises(ValueError, match="vertices"):
            function(torch.zeros(4, 3))
