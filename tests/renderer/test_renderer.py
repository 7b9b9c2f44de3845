"""The Renderer: its modes and attributes, light, and pictures compared with those of the original program."""
import math

import neural_renderer as nr
import numpy as np
import pytest
import torch
from PIL import Image
from solids import icosphere

# An L: a long stroke along +y, a short foot along +x; no symmetry maps it onto itself.
L_SHAPE = [[0, -0.6, 0], [0.5, -0.6, 0], [0.5, -0.4, 0], [0, -0.4, 0], [0.15, -0.4, 0],
           [0.15, 0.8, 0], [0, 0.8, 0]]
L_FACES = [[0, 1, 2], [0, 2, 3], [3, 4, 5], [3, 5, 6]]


def mesh(vertices=L_SHAPE, faces=L_FACES):
    return torch.tensor(vertices, dtype=torch.float64)[None], torch.tensor(faces)


def box_of(image):
    """(top, bottom, left, right) of the drawn pixels, in NDC."""
    rows, columns = (np.flatnonzero(image.numpy().any(axis)) for axis in (1, 0))
    height, width = image.shape
    return (1 - 2 * rows[0] / height, 1 - 2 * (rows[-1] + 1) / height,
            2 * columns[0] / width - 1, 2 * (columns[-1] + 1) / width - 1)


# ---- cameras and handedness -----------------------------------------------------------------------


def test_pictures_are_upright_and_x_runs_right():
    renderer = nr.Renderer(image_size=80, camera_mode="look_at", perspective=False)
    image = renderer(*mesh(), mode="silhouettes")[0]
    np.testing.assert_allclose(box_of(image), (0.8, -0.6, 0, 0.5), atol=0.03)
    upper, lower = image[:40].sum(0) > 0, image[40:].sum(0) > 0
    assert upper.sum() < lower.sum(), "the foot is at the bottom"
    # From the other side it is mirrored.
    renderer.eye = nr.get_points_from_angles(2.7, 0, 180)
    behind = renderer(*mesh(), mode="silhouettes")[0]
    np.testing.assert_allclose(box_of(behind), (0.8, -0.6, -0.5, 0), atol=0.03)
    assert torch.equal(behind, image.flip(1)) and not torch.equal(behind, image)


def test_the_camera_mirrors_a_right_handed_scene():
    """Seen from -z with y up, a right-handed viewer has +x on the left; here it is on the right."""
    eye, up = np.array([0, 0, -3.0]), np.array([0, 1.0, 0])
    right_for_people = np.cross(-eye, up) / 3
    assert right_for_people[0] == -1
    renderer = nr.Renderer(image_size=20, camera_mode="look_at")
    image = renderer(*mesh(), mode="silhouettes")[0]
    assert image[:, 10:].sum() > 0 and image[:, :10].sum() == 0


def test_modes_agree_and_have_their_shapes():
    vertices, faces = (torch.tensor(v) for v in icosphere(1, 0.6))
    vertices = torch.stack([vertices, vertices * 1.3]).float()
    textures = torch.rand(2, 80, 2, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    renderer = nr.Renderer(image_size=(24, 32), camera_mode="look_at")
    rgb, depth, alpha = renderer(vertices, faces, textures)
    assert rgb.shape == (2, 3, 24, 32) and depth.shape == alpha.shape == (2, 24, 32)
    for a, b in zip((rgb, depth, alpha), renderer.render(vertices, faces, textures)):
        assert torch.equal(a, b)
    for image, mode, method in ((rgb, "rgb", renderer.render_rgb),
                                (alpha, "silhouettes", renderer.render_silhouettes),
                                (depth, "depth", renderer.render_depth)):
        arguments = (vertices, faces) + ((textures,) if mode == "rgb" else ())
        assert torch.equal(renderer(vertices, faces, textures, mode=mode), image)
        assert torch.equal(method(*arguments), image)
    white = renderer(vertices, faces, torch.ones_like(textures), mode="rgb")
    assert torch.equal(renderer(vertices, faces, mode="rgb"), white)


def test_defaults():
    renderer = nr.Renderer(camera_mode="look_at")
    assert renderer.image_size == 256 and renderer.anti_aliasing and renderer.fill_back
    assert (renderer.near, renderer.far, renderer.viewing_angle) == (0.1, 100, 30)
    assert renderer.orig_size == 1024 and renderer.perspective and renderer.rasterizer_eps == 1e-3
    np.testing.assert_allclose(renderer.eye, (0, 0, -(1 / math.tan(math.radians(30)) + 1)))
    assert renderer(*mesh(), mode="silhouettes").shape == (1, 256, 256)
    assert nr.Renderer().camera_mode == "projection"


def test_attributes_may_be_set_later():
    renderer = nr.Renderer(image_size=16, camera_mode="look_at")
    first = renderer(*mesh(), mode="silhouettes")
    renderer.image_size, renderer.anti_aliasing = (20, 12), False
    image = renderer(*mesh(), mode="silhouettes")
    assert image.shape == (1, 20, 12) and set(image.unique().tolist()) == {0, 1}
    renderer.image_size, renderer.anti_aliasing, renderer.viewing_angle = 16, True, 45
    assert renderer(*mesh(), mode="silhouettes").sum() < first.sum()
    renderer.camera_mode = "none"
    in_ndc = mesh()[0] + torch.tensor([0, 0, 1.0])
    alone = nr.rasterize_silhouettes(nr.vertices_to_faces(in_ndc, mesh()[1]), 16)
    assert torch.equal(renderer(in_ndc, mesh()[1], mode="silhouettes"), alone)
    renderer.camera_mode, renderer.camera_direction = "look", [0, 0, 1]
    renderer.viewing_angle = 30
    assert torch.equal(renderer(*mesh(), mode="silhouettes"), first)


@pytest.mark.parametrize("kind", [tuple, list, np.array,
                                  lambda eye: torch.tensor(eye, dtype=torch.float64)])
def test_eye_takes_any_numbers_and_one_for_each_mesh(kind):
    renderer = nr.Renderer(image_size=16, camera_mode="look_at")
    eyes = [nr.get_points_from_angles(2.7, 20, azimuth) for azimuth in (0, 100)]
    alone = []
    for eye in eyes:
        renderer.eye = kind(eye)
        alone.append(renderer(*mesh(), mode="silhouettes"))
    assert not torch.equal(*alone)
    renderer.eye = torch.tensor(eyes, dtype=torch.float64)
    vertices, faces = mesh()
    both = renderer(vertices.expand(2, -1, -1), faces, mode="silhouettes")
    assert torch.equal(both, torch.cat(alone))


@pytest.mark.parametrize("mode", ["rgb", "silhouettes", "depth"])
def test_near_and_far_are_honoured_in_every_mode(mode):
    renderer = nr.Renderer(image_size=16, camera_mode="look_at", background_color=[0.3, 0.3, 0.3])
    distance = -renderer.eye[2]
    for near, far, seen in ((0.1, 100, True), (distance + 0.01, 100, False),
                            (0.1, distance - 0.01, False), (distance - 0.01, distance + 0.01, True)):
        renderer.near, renderer.far = near, far
        image = renderer(*mesh(), mode=mode)
        empty = {"rgb": 0.3, "silhouettes": 0.0, "depth": far}[mode]
        assert bool(((image - empty).abs() > 1e-6).any()) == seen


def test_a_projection_camera_given_at_construction_or_in_the_call():
    K = torch.tensor([[[60.0, 0, 32], [0, 60.0, 32], [0, 0, 1]]], dtype=torch.float64)
    R = torch.diag(torch.tensor([1.0, -1, 1], dtype=torch.float64))[None]  # y up to y down
    t = torch.tensor([[[0.1, 0, 2.0]]], dtype=torch.float64)
    built = nr.Renderer(image_size=32, K=K, R=R, t=t, orig_size=64)
    image = built(*mesh(), mode="silhouettes")
    called = nr.Renderer(image_size=32)(*mesh(), mode="silhouettes", K=K, R=R, t=t, orig_size=64)
    assert torch.equal(image, called) and image.sum() > 0
    np.testing.assert_allclose(box_of(image[0]), (0.75, -0.5625, 0.09375, 0.5625), atol=0.07)
    distortion = torch.tensor([[0.5, 0, 0, 0, 0]], dtype=torch.float64)
    bent = built(*mesh(), mode="silhouettes", dist_coeffs=distortion)
    assert not torch.equal(bent, image)
    built.dist_coeffs = distortion
    assert torch.equal(built(*mesh(), mode="silhouettes"), bent)


def test_fill_back():
    vertices, faces = mesh()
    options = {"image_size": 16, "camera_mode": "look_at"}
    whole = nr.Renderer(**options)(vertices, faces, mode="silhouettes")
    front = nr.Renderer(fill_back=False, **options)
    assert torch.equal(front(vertices, faces, mode="silhouettes"), whole)
    assert front(vertices, faces.flip(1), mode="silhouettes").sum() == 0
    assert torch.equal(nr.Renderer(**options)(vertices, faces.flip(1), mode="silhouettes"), whole)
    # A camera that mirrors sees the backs of a right-handed mesh whose faces point outwards.
    sphere, triangles = (torch.tensor(v) for v in icosphere(2, 0.8))
    depths = [nr.Renderer(fill_back=fill, **options)(sphere[None], triangles, mode="depth")[0, 8, 8]
              for fill in (True, False)]
    centre = 1 + 1 / math.tan(math.radians(30))
    np.testing.assert_allclose(depths, [centre - 0.8, centre + 0.8], atol=0.05)


# ---- light ----------------------------------------------------------------------------------------


def test_lighting_is_as_described_and_not_in_place():
    generator = torch.Generator().manual_seed(0)
    corners = torch.randn(2, 7, 3, 3, generator=generator, dtype=torch.float64)
    textures = torch.rand(2, 7, 2, 2, 2, 3, generator=generator, dtype=torch.float64)
    before, direction = textures.clone(), [0.3, -1.2, 0.4]
    ambient, directional = [1.0, 0.5, 0.25], [[0.9, 0.8, 0.7], [0.1, 0.2, 0.3]]
    got = nr.lighting(corners, textures, 0.4, 0.7, ambient, directional, direction)
    assert torch.equal(textures, before)
    v = corners.numpy()
    normal = np.cross(v[:, :, 0] - v[:, :, 1], v[:, :, 2] - v[:, :, 1])
    cosine = (normal / np.linalg.norm(normal, axis=-1, keepdims=True)) @ np.array(direction)
    light = (0.4 * np.array(ambient)
             + 0.7 * np.maximum(cosine, 0)[..., None] * np.array(directional)[:, None])
    np.testing.assert_allclose(got, textures.numpy() * light[:, :, None, None, None], rtol=1e-12)
    flipped = nr.lighting(corners.flip(2), textures, 0.4, 0.7, ambient, directional, direction)
    assert not torch.allclose(flipped, got), "the light knows the sides of a face"


@pytest.mark.parametrize("light_direction, expected", [((0, 0, -1), 0.8), ((0, 0, 1), 0.3),
                                                       ((0, 0, -2), 1.3), ((0, 1, 0), 0.3)])
def test_each_side_is_lit_by_its_own_normal(light_direction, expected):
    """A plate at z = 0 seen from -z is bright when the light comes from -z, front or back."""
    vertices, faces = mesh()
    renderer = nr.Renderer(image_size=16, camera_mode="look_at", light_intensity_ambient=0.3,
                           light_intensity_directional=0.5, light_direction=light_direction)
    pictures = []
    for winding in (faces, faces.flip(1)):
        rgb, _, alpha = renderer(vertices, winding)
        assert bool((alpha == 1).any())
        torch.testing.assert_close(rgb[0][:, alpha[0] == 1], torch.full_like(
            rgb[0][:, alpha[0] == 1], expected), rtol=1e-9, atol=0)
        pictures.append(rgb)
    assert torch.equal(*pictures)


@pytest.mark.parametrize("camera_mode, lit", [("look_at", "top"), ("look", "top"), ("projection", "bottom")])
def test_where_the_light_of_a_right_handed_mesh_comes_from(camera_mode, lit):
    """Cameras that mirror see its outside as backs, lit from `light_direction`; OpenCV's see it lit from the opposite
    side."""
    vertices, faces = (torch.tensor(v) for v in icosphere(3, 0.8))
    half_turn = torch.diag(torch.tensor([1.0, -1, -1]))  # about x; y points down in OpenCV
    K = torch.tensor([[1, 0, 0.35], [0, 1, 0.35], [0, 0, 1]])
    renderer = nr.Renderer(32, camera_mode=camera_mode, K=K, R=half_turn, t=torch.tensor([0, 0, 3.0]),
                           orig_size=0.7, light_direction=(0, 1, 0))
    rgb, _, alpha = renderer(vertices[None], faces)
    inside = alpha[0] == 1
    top, bottom = (rgb[0].mean(0)[half][inside[half]].mean() for half in (slice(0, 16), slice(16, 32)))
    assert inside[:16].sum() > 50 and inside[16:].sum() > 50
    assert (top > bottom + 0.1) if lit == "top" else (bottom > top + 0.1)


def test_light_colours():
    renderer = nr.Renderer(image_size=8, camera_mode="look_at", light_color_ambient=(1, 0, 0.5),
                           light_color_directional=(0, 1, 0.5), light_direction=(0, 0, -1))
    rgb, _, alpha = renderer(*mesh([[-9, -9, 0], [9, -9, 0], [0, 9, 0]], [[0, 1, 2]]))
    assert bool((alpha == 1).all())
    torch.testing.assert_close(rgb[0, :, 4, 4], rgb.new_tensor([0.5, 0.5, 0.5]))
    renderer.light_intensity_directional = 0
    torch.testing.assert_close(renderer.render_rgb(*mesh([[-9, -9, 0], [9, -9, 0], [0, 9, 0]],
                                                         [[0, 1, 2]]))[0, :, 4, 4],
                               rgb.new_tensor([0.5, 0, 0.25]))


def test_vertices_to_faces():
    vertices = torch.rand(2, 5, 3)
    faces = torch.tensor([[[0, 1, 2], [4, 3, 1]], [[2, 2, 0], [1, 0, 4]]], dtype=torch.int32)
    got = nr.vertices_to_faces(vertices, faces)
    assert got.shape == (2, 2, 3, 3)
    for b in range(2):
        assert torch.equal(got[b], vertices[b][faces[b].long()])
        assert torch.equal(nr.vertices_to_faces(vertices, faces[b])[b], got[b])
    with pytest.raises(ValueError, match="faces"):
        nr.vertices_to_faces(vertices, faces[:1])
    with pytest.raises(ValueError, match="vertices"):
        nr.vertices_to_faces(vertices[0], faces)


# ---- against the original program -----------------------------------------------------------------


def airplane(shared_data, name):
    path = shared_data / "cvpr18" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: real inputs are not shipped with the product")
    return path


def cvpr18_renderer(azimuths):
    renderer = nr.Renderer(image_size=64, camera_mode="look_at", viewing_angle=15)
    azimuths = torch.as_tensor(azimuths, dtype=torch.float32)
    renderer.eye = nr.get_points_from_angles(torch.full_like(azimuths, 2.732),
                                             torch.full_like(azimuths, 30.0), azimuths)
    return renderer


def test_rgb_is_the_original_programs(shared_data):
    vertices, faces = nr.load_obj(airplane(shared_data, "airplane_out.obj"), normalization=False)
    published = np.asarray(Image.open(airplane(shared_data, "airplane_out.png")).convert("RGB"))
    tiles = published.reshape(4, 64, 4, 64, 3).swapaxes(1, 2).reshape(16, 64, 64, 3).astype(float)
    images = cvpr18_renderer(np.arange(16) * 22.5).render_rgb(
        vertices.expand(16, -1, -1), faces, torch.ones(16, len(faces), 2, 2, 2, 3))
    ours = np.floor(images.permute(0, 2, 3, 1).numpy() * 255)
    assert np.abs(ours - tiles).mean() < 0.1
    # Negative controls: mirrored, upside down, the other way around.
    for wrong in (ours[:, :, ::-1], ours[:, ::-1], ours[-np.arange(16)]):
        assert np.abs(wrong - tiles).mean() > 1


def test_silhouette_fits_the_photograph(shared_data):
    vertices, faces = nr.load_obj(airplane(shared_data, "airplane_out.obj"), normalization=False)
    alpha = np.asarray(Image.open(airplane(shared_data, "airplane_in.png")))[..., 3] > 127
    images = cvpr18_renderer(-15.0 * np.arange(24)).render_silhouettes(
        vertices.expand(24, -1, -1), faces).numpy() > 0.5
    overlap = (images & alpha).sum((1, 2)) / (images | alpha).sum((1, 2))
    assert overlap.argmax() == 3 and overlap[3] > 0.7


# ---- depth on edges ---------------------------------------------------------------------------------

def depths_of_a_sphere(edge_depth, **settings):
    """(depth, renderer, vertices) of a sphere of radius 1 around (0.1, 0, 0), seen from (0, 0, -4)."""
    vertices, faces = icosphere(2, 1, (.1, 0, 0))
    vertices = torch.tensor(vertices[None], dtype=torch.float64, requires_grad=True)
    renderer = nr.Renderer(20, camera_mode="look_at", edge_depth=edge_depth, **settings)
    renderer.eye = (0, 0, -4)
    return renderer.render_depth(vertices, torch.tensor(faces)), renderer, vertices


def test_mixed_depth_of_an_edge_is_neither_objects_nor_grounds(each_backend):
    depth, renderer, _ = depths_of_a_sphere("mixed")
    assert bool(((depth > 5) & (depth < renderer.far)).any())


@pytest.mark.parametrize("far", [100, 1e6, 4.5])
def test_covered_depth_of_an_edge_is_the_objects(far, each_backend):
    """The mean of the samples that hit, of twice the resolution; silhouettes and the depth of other pixels stay."""
    depth, renderer, vertices = depths_of_a_sphere("covered", far=far)
    mixed, _, _ = depths_of_a_sphere("mixed", far=far)
    fine = nr.Renderer(40, False, camera_mode="look_at", far=far)
    fine.eye = renderer.eye
    faces = torch.tensor(icosphere(2)[1])
    samples = fine.render_depth(vertices, faces).detach().numpy().reshape(20, 2, 20, 2).swapaxes(1, 2).reshape(20, 20, 4)
    expected = np.array([[s[s < far].mean() if (s < far).any() else far for s in row] for row in samples])
    np.testing.assert_allclose(depth[0].detach().numpy(), expected, rtol=1e-12)
    alpha = renderer.render_silhouettes(vertices, faces)[0]
    assert torch.equal(depth[0] < far, alpha > 0)
    whole = (alpha == 1) | (alpha == 0)
    torch.testing.assert_close(depth[0][whole], mixed[0][whole], rtol=1e-12, atol=0)
    rgb, together, silhouette = renderer.render(vertices, faces)
    assert torch.equal(together, depth) and torch.equal(silhouette[0], alpha) and rgb.shape == (1, 3, 20, 20)


def test_gradient_of_covered_depth(backend):
    """By finite differences along the view, which change no coverage by much: where it stays."""
    backend("compiled")
    depth, renderer, vertices = depths_of_a_sphere("covered")
    weight = torch.linspace(-1, 1, 400, dtype=torch.float64).view(1, 20, 20) * (depth < renderer.far)
    renderer.camera_mode = "none"
    screen = nr.Renderer(camera_mode="look_at").transform(vertices).detach().requires_grad_()
    faces = torch.tensor(icosphere(2)[1])

    def value(moved):
        return (renderer.render_depth(moved, faces) * weight).sum()
    value(screen).backward()
    step = 1e-5 * torch.randn(screen.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    step[..., :2] = 0  # depth alone: the covered samples stay
    slope = (value(screen.detach() + step) - value(screen.detach() - step)) / 2
    assert abs(float(slope)) > 1e-7 and float((screen.grad * step).sum()) == pytest.approx(float(slope), rel=1e-6)


def test_covered_depth_without_anti_aliasing_and_misspelt(each_backend):
    pair = [depths_of_a_sphere(kind, anti_aliasing=False)[0] for kind in ("mixed", "covered")]
    assert torch.equal(*pair)
    with pytest.raises(ValueError, match="edge_depth must be 'mixed' or 'covered', got 'sharp'"):
        depths_of_a_sphere("sharp")
