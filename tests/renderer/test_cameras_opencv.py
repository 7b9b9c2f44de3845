"""The projection camera compared with OpenCV, and gradients to the parameters of every camera."""
import neural_renderer as nr
import numpy as np
import pytest
import torch

HEIGHT, WIDTH = 48, 64


def camera(seed=0, count=5):
    """A camera as cv2.calibrateCamera returns it: matrix (3, 3), rvec (3, 1), tvec (3, 1), distortion (1, count)."""
    random = np.random.default_rng(seed)
    K = np.array([[55.0, 0, 30.2], [0, 57.0, 25.1], [0, 0, 1]])
    distortion = random.normal(size=(1, count)) * [[0.8, 0.4, 0.08, 0.08, 0.2][:count]]
    return K, random.normal(size=(3, 1)), random.normal(size=(3, 1)) * 0.3 + [[0], [0], [4.0]], distortion


def points(count=40):
    return np.random.default_rng(1).uniform(-1, 1, (count, 3))


def cv2_pixels(cv2, vertices, K, rvec, tvec, distortion):
    """Pixels (N, 2), counted from the centre of the first one."""
    return cv2.projectPoints(vertices, rvec, tvec, K, distortion)[0][:, 0]


# ---- OpenCV ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 4, 5])
def test_from_opencv_puts_points_where_opencv_does(count):
    cv2 = pytest.importorskip("cv2")
    K, rvec, tvec, distortion = camera(count=count)
    given = distortion if count else None
    vertices = torch.tensor(points())[None]
    ndc = nr.projection(vertices, **nr.from_opencv(K, rvec, tvec, given, (HEIGHT, WIDTH)))[0].numpy()
    got = np.stack([(ndc[:, 0] + 1) * WIDTH / 2, (1 - ndc[:, 1]) * HEIGHT / 2], 1) - 0.5
    expected = cv2_pixels(cv2, points(), K, rvec, tvec, given)
    np.testing.assert_allclose(got, expected, atol=1e-6)  # eps 1e-9 on z
    if count:  # distortion is not too small to be seen
        assert np.abs(cv2_pixels(cv2, points(), K, rvec, tvec, None) - expected).max() > 0.5


def test_projection_takes_opencvs_numbers_for_a_square_image():
    cv2 = pytest.importorskip("cv2")
    K, rvec, tvec, distortion = camera(3)
    R = cv2.Rodrigues(rvec)[0]
    got = nr.projection(torch.tensor(points())[None], K, R, tvec.T, distortion, 64)[0].numpy()
    u, v = cv2_pixels(cv2, points(), K, rvec, tvec, distortion).T
    np.testing.assert_allclose(got, np.stack([u / 32 - 1, 1 - v / 32, points() @ R[2] + tvec[2]], 1), atol=1e-7)


def test_a_picture_shows_a_triangle_where_opencv_does():
    """Compare every pixel of a non-square image with the triangle between cv2's pixels."""
    cv2 = pytest.importorskip("cv2")
    K, rvec, tvec, _ = camera(2)
    triangle = np.array([[-0.9, -0.6, 0.3], [1.1, -0.4, -0.5], [0.1, 0.8, 0.4]])
    renderer = nr.Renderer((HEIGHT, WIDTH), False, **nr.from_opencv(K, rvec, tvec, None, (HEIGHT, WIDTH)))
    image = renderer(torch.tensor(triangle)[None], torch.tensor([[0, 1, 2]]), mode="silhouettes")[0].numpy()
    corners = cv2_pixels(cv2, triangle, K, rvec, tvec, None)
    y, x = np.indices((HEIGHT, WIDTH))
    edges = corners - corners[[2, 0, 1]]
    sides = np.array([edges[k, 0] * (y - corners[k, 1]) - edges[k, 1] * (x - corners[k, 0]) for k in range(3)])
    inside = (sides >= 0).all(0) | (sides <= 0).all(0)
    assert inside.sum() > 100 and np.array_equal(image > 0, inside)
    assert not np.array_equal(inside, inside[:, ::-1])


def test_shapes_that_opencv_gives():
    K, rvec, tvec, distortion = camera()
    one = nr.from_opencv(K, rvec, tvec, distortion, (HEIGHT, WIDTH))
    assert {k: tuple(v.shape) for k, v in one.items() if k != "orig_size"} == {
        "K": (1, 3, 3), "R": (1, 3, 3), "t": (1, 1, 3), "dist_coeffs": (1, 5)}
    assert one["K"].dtype == torch.float64 and one["orig_size"] == (HEIGHT, WIDTH)
    lists = nr.from_opencv(K.tolist(), (rvec[:, 0],) * 2, [tvec, tvec], distortion.T, [HEIGHT, WIDTH])
    matrix = nr.from_opencv(K, one["R"][0].numpy(), tvec.T, distortion[0], (HEIGHT, WIDTH))
    tensors = nr.from_opencv(K, torch.tensor(rvec[:, 0]).float(), tvec, distortion, (HEIGHT, WIDTH))
    assert lists["R"].shape == (2, 3, 3) and tensors["K"].dtype == torch.float32
    for other in (lists, matrix, tensors):
        for name in ("K", "R", "t", "dist_coeffs"):
            np.testing.assert_allclose(other[name], one[name].expand_as(other[name]), atol=1e-5)
    assert torch.equal(nr.from_opencv(K, np.zeros(3), tvec, None, (4, 4))["R"][0], torch.eye(3).double())


@pytest.mark.parametrize("place, name, value", [
    (0, "camera_matrix", np.eye(4)), (0, "camera_matrix", "K"), (1, "rotation", np.zeros(4)),
    (1, "rotation", np.zeros((2, 4, 3))), (2, "translation", np.zeros((3, 2))), (2, "translation", None),
    (3, "dist_coeffs", np.zeros(8)), (3, "dist_coeffs", np.zeros((3, 1, 5))), (4, "image_size", None),
    (4, "image_size", 64), (4, "image_size", (64, 64, 3)), (4, "image_size", (0, 64))])
def test_wrong_cameras_are_named(place, name, value):
    arguments = [*camera(), (HEIGHT, WIDTH)]
    arguments[place] = value
    with pytest.raises(ValueError, match=name if name != "image_size" else "size"):
        nr.from_opencv(*arguments)


@pytest.mark.parametrize("size", [0, -5, float("nan"), "large", (4, 0), (4, 4, 4), None])
def test_wrong_original_sizes_are_named(size):
    K = torch.eye(3)[None]
    with pytest.raises(ValueError, match="orig_size must be"):
        nr.projection(torch.ones(1, 4, 3), K, K, torch.zeros(1, 3), torch.zeros(1, 5), size)


# ---- gradients to cameras, by finite differences --------------------------------------------------


def leaf(value):
    return torch.tensor(np.asarray(value)).double().requires_grad_()


def test_gradients_to_every_parameter_of_a_projection():
    inputs = [leaf(v) for v in camera()]
    vertices = torch.tensor(points(4))[None]

    def ndc(K, rvec, tvec, distortion):
        return nr.projection(vertices, **nr.from_opencv(K, rvec, tvec, distortion, (HEIGHT, WIDTH)))

    assert torch.autograd.gradcheck(ndc, inputs)
    zero = leaf(np.zeros(3))  # where a rotation vector's angle has no direction
    K, _, tvec, distortion = (v.detach() for v in inputs)
    assert torch.autograd.gradcheck(lambda rvec: ndc(K, rvec, tvec, distortion), zero)


SHEET = torch.tensor([[[-30.0, -25, 1], [30, -25, -1], [0, 35, 0.5]]], dtype=torch.float64)  # fills the picture


def depth_of_a_sheet(renderer, **camera):
    image = renderer(SHEET, torch.tensor([[0, 1, 2]]), mode="depth", **camera)
    assert bool((image < renderer.far).all())
    return image


def test_depth_sends_gradients_to_a_projection():
    K, rvec, tvec, distortion = camera(1)
    inputs = [leaf(K), leaf(0.1 * rvec), leaf(tvec), leaf(0 * distortion)]

    def depth(K, rvec, tvec, distortion):
        camera = nr.from_opencv(K, rvec, tvec, distortion, (HEIGHT, WIDTH))
        return depth_of_a_sheet(nr.Renderer((5, 4)), **camera)

    assert torch.autograd.gradcheck(depth, inputs[:3] + [inputs[3].detach()], atol=1e-5)


@pytest.mark.parametrize("mode", ["look_at", "look"])
@pytest.mark.parametrize("perspective", [True, False])
def test_depth_sends_gradients_to_eye_and_direction(mode, perspective):
    def depth(eye, direction):
        renderer = nr.Renderer((5, 4), camera_mode=mode, perspective=perspective, camera_direction=direction)
        renderer.eye = eye
        return depth_of_a_sheet(renderer)

    eye = leaf([[0.3, 0.2, -4.0]])
    direction = leaf([0.05, -0.1, 1.0]) if mode == "look" else torch.zeros(3)
    assert torch.autograd.gradcheck(depth, (eye, direction), atol=1e-5)
    assert depth(eye, direction).std() > 0.01


def test_an_eye_made_of_three_tensors_keeps_its_gradient():
    angle = leaf(2.0)
    renderer = nr.Renderer((5, 4), camera_mode="look_at")
    renderer.eye = [torch.sin(angle / 57), 0.5, -4 * torch.cos(angle / 57)]
    depth_of_a_sheet(renderer).sum().backward()
    assert angle.grad.abs() > 1e-3


def test_silhouettes_move_a_camera():
    """The gradient of a silhouette loss moves the eye back, although it is not an exact derivative."""
    vertices = torch.tensor([[[-0.5, -0.5, 0], [0.5, -0.3, 0.2], [0.1, 0.6, 0]]])
    faces = torch.tensor([[0, 1, 2]])
    renderer = nr.Renderer(image_size=32, camera_mode="look_at")
    wanted = renderer(vertices, faces, mode="silhouettes")
    eye = torch.tensor([1.2, 0.4, -2.3], requires_grad=True)
    optimizer, losses = torch.optim.Adam([eye], lr=0.05), []
    for _ in range(60):
        renderer.eye = eye
        loss = (renderer(vertices, faces, mode="silhouettes") - wanted).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3 and losses[-1] < 0.3 * losses[0]
