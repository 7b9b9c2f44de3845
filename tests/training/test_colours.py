"""Colours: where they are on a mesh, the light on them, their losses, their figures, where they begin."""
import json

import numpy as np
import pytest
import torch
from command import CAR, TINY, script
from datasets import CVPR18, DATASETS
from losses import colours
from metrics.colours import Nearest, one_colour, psnr, ssim
from models import Lattice, TextureDecoder, icosphere
from neural_renderer.lighting import face_light, vertices_to_faces
from neural_renderer.textures import read_cubes
from readers.light import read_light
from readers.writers import draw_rgba
from training import Trainer

LIGHT = torch.tensor([0.5, 0.5, 0.35, 0.85, -0.4])
PLAIN = torch.tensor([1.0, 0, 0, 0, 0])


# ---- where they are ---------------------------------------------------------------------------------

def test_neighbours_of_faces_share_an_edge():
    vertices, faces = icosphere(1)
    lattice = Lattice(vertices, faces)
    assert lattice.count == len(faces) == 80 and lattice.neighbours.shape == (2, 120)  # as many as edges
    pairs = {frozenset(pair) for pair in lattice.neighbours.T.tolist()}
    edges = [set(face) for face in faces.tolist()]
    assert pairs == {frozenset((i, j)) for i in range(80) for j in range(i) if len(edges[i] & edges[j]) == 2}


@pytest.mark.parametrize("size", [2, 3, 5])
def test_points_of_cubes_are_those_of_a_finer_mesh(size):
    vertices, faces = icosphere(0)
    lattice = Lattice(vertices, faces, size)
    n, (V, E, F) = size - 1, (12, 30, 20)
    assert lattice.count == V + (n - 1) * E + (n - 1) * (n - 2) // 2 * F
    assert lattice.neighbours.shape[1] == 3 * n * n * F // 2  # the edges of F n^2 triangles
    steps = np.array([(i, j, n - i - j) for i in range(size) for j in range(size - i)]) / n
    places = np.einsum("nk,fkc->fnc", steps, vertices.double().numpy()[faces])
    np.testing.assert_allclose(lattice.places[lattice.of_faces], places, atol=1e-12)
    assert len(np.unique(lattice.places.round(6), axis=0)) == lattice.count  # none twice


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_cube_holds_the_colours_of_places(size):
    """Colours that are linear in the place: every texel is that of its place, for what is linear is interpolated as it
    is; the renderer's reader finds the points' own colours again."""
    vertices, faces = icosphere(0)
    decoder, lattice = TextureDecoder(vertices, faces, size, 8), Lattice(vertices, faces, size)
    linear = torch.tensor([[.1, .2, 0], [0, .3, .1], [.2, 0, .1]], dtype=torch.float64)
    at_points = (torch.from_numpy(lattice.places) @ linear + 0.5).float()
    cubes = decoder.cubes(at_points[None])[0].numpy()
    assert cubes.shape == (20, size, size, size, 3)
    if size == 1:
        np.testing.assert_allclose(cubes[:, 0, 0, 0], at_points, atol=1e-6)
        return
    index = np.indices((size,) * 3).reshape(3, -1).T.astype(float)
    index[0] = 1
    weights = index / index.sum(1, keepdims=True)
    places = np.einsum("nk,fkc->fnc", weights, vertices.double().numpy()[faces])
    np.testing.assert_allclose(cubes.reshape(20, -1, 3), places @ linear.numpy() + 0.5, atol=1e-6)
    steps = np.array([(i, j, size - 1 - i - j) for i in range(size) for j in range(size - i)]) / (size - 1)
    np.testing.assert_allclose(read_cubes(cubes, steps), at_points[lattice.of_faces], atol=1e-6)


@pytest.mark.parametrize("size, axis", [(1, 0), (1, 2), (3, 1)])
def test_mirror_images_share_their_colours(size, axis):
    vertices, faces = icosphere(1)
    torch.manual_seed(0)
    decoder = TextureDecoder(vertices, faces, size, 8)
    decoder.begin([.2, .4, .6], LIGHT, axis)
    torch.nn.init.normal_(decoder.colour_layer.weight, std=0.1)
    found = decoder(torch.randn(2, 8))
    places = decoder.lattice.places
    mirrored = places * np.where(np.arange(3) == axis, -1, 1)
    other = np.linalg.norm(places[:, None] - mirrored, axis=2).argmin(1)
    assert torch.equal(found, found[:, other]) and len(found[0].unique(dim=0)) > decoder.lattice.count / 3
    assert torch.equal(decoder.light, LIGHT)


def test_a_template_without_mirror_images_is_refused():
    vertices, faces = icosphere(0)
    with pytest.raises(ValueError, match="not symmetric in z"):
        TextureDecoder(vertices + torch.tensor([0, 0, .01]), faces).begin([.5] * 3, mirror=2)


def test_colours_begin_as_one_and_come_from_their_code():
    vertices, faces = icosphere(0)
    decoder = TextureDecoder(vertices, faces, latent_dim=6, features=10)
    decoder.begin([.2, .4, 1.5])
    images, features = torch.rand(3, 4, 16, 16), torch.rand(3, 10)
    code = decoder.code(images, torch.rand(3, 5), features)
    assert code.shape == (3, 6) and torch.allclose(decoder(code), torch.tensor([.2, .4, .98]))
    small = images.view(3, 4, 8, 2, 8, 2).mean((3, 5)).flatten(1)
    assert torch.allclose(code, decoder.codeLayer(torch.cat([features, small], 1)))
    shared = TextureDecoder(vertices, faces, latent_dim=5)
    codes = torch.rand(3, 5)
    assert shared.code(images, codes, features) is codes


# ---- light ------------------------------------------------------------------------------------------

def test_light_is_that_of_the_renderer():
    vertices, faces = icosphere(1)
    generator = torch.Generator().manual_seed(0)
    shapes = vertices + .1 * torch.randn(3, *vertices.shape, generator=generator)
    corners = vertices_to_faces(shapes, faces)
    for mirrors, sign in ((True, 1), (False, -1)):
        expected = face_light(corners, .5, .5, direction=tuple(sign * LIGHT[2:]))
        assert torch.allclose(colours.light_on(shapes, faces, LIGHT, mirrors), expected, atol=1e-6)
    flat = colours.light_on(torch.zeros(1, 3, 3), torch.tensor([[0, 1, 2]]), LIGHT)
    assert torch.equal(flat, torch.full((1, 1, 2, 3), .5))


@pytest.mark.parametrize("name", ["CVPR18", "R2N2"])
def test_shapes_are_painted_as_the_datasets_pictures_are(name, tmp_path):
    """A lopsided shape in colours of its faces, drawn for a dataset and by `paint` in the light that is read of it:
    people's winding there, the predictions' here, cameras that mirror and such that do not."""
    dataset = DATASETS[name]
    vertices, faces = icosphere(1)
    vertices = .4 * vertices * (1 + .3 * vertices[:, :1])
    tints = torch.rand(len(faces), 3, generator=torch.Generator().manual_seed(0))
    cameras = dataset.turntable(3)
    placed = dataset.place(vertices)
    given = draw_rgba(dataset, placed, faces, tints, cameras, 32)
    light = told_light(dataset, tmp_path)
    painted = colours.paint(dataset, placed.expand(3, -1, -1), dataset.people_faces(faces),
                            tints[None, :, None, None, None].expand(3, -1, -1, -1, -1, -1), cameras, 32, light)
    assert torch.allclose(painted, given[:, :3], atol=1e-5) and given[:, :3].std() > .05


def told_light(dataset, folder):
    """The light of the pictures that a dataset's writers draw now, by its description."""
    from making.scenery import FIXED, described
    (folder / "dataset.json").write_text(json.dumps({"light": described(FIXED, dataset.light_frame)}))
    return torch.tensor(read_light(folder, dataset))


def test_older_sets_of_cameras_that_do_not_mirror_were_lit_from_the_other_side(tmp_path):
    (tmp_path / "dataset.json").write_text('{"made_by": "meshes"}')
    assert read_light(tmp_path, DATASETS["R2N2"]) == (.5, .5, -.35, -.85, .4)


@pytest.mark.parametrize("told, light", [
    ('{"light": {"ambient": 0.4, "directional": 0.6, "direction": [0, 1, 0]}}', (.4, .6, 0, 1, 0)),
    ('{"light": {"ambient": 0.4, "directional": 0.6, "direction": [0, 1, 0], "frame": "viewer"}}', None),
    ('{"light": "random", "made_by": "synthetic shapes"}', None), ('{"made_by": "meshes"}', (.5, .5, .35, .85, -.4)),
    ("{}", None), (None, None)])
def test_what_tells_the_light(told, light, tmp_path):
    if told is not None:
        (tmp_path / "dataset.json").write_text(told)
    assert read_light(tmp_path, CVPR18) == light
    assert read_light(tmp_path, DATASETS["Pascal3D"]) is None  # its light stands still for the viewer


@pytest.mark.parametrize("told", ['{"light": 3}', '{"light": {"ambient": 1}}', "[]", '{"light": {"ambient": 0, '
                                  '"directional": 1, "direction": [0, 1, 0]}}'])
def test_what_tells_no_light_is_refused(told, tmp_path):
    from errors import InputError
    (tmp_path / "dataset.json").write_text(told)
    with pytest.raises(InputError, match="dataset.json tells no light like"):
        read_light(tmp_path, CVPR18)


# ---- losses -----------------------------------------------------------------------------------------

def test_colour_loss_by_hand():
    """Colours times coverage, compared where both cover; what one alone covers, and how much, does not matter."""
    generator = torch.Generator().manual_seed(1)
    a, t = (torch.rand(2, 4, 4, generator=generator) * (torch.rand(2, 4, 4, generator=generator) > .3) for _ in range(2))
    c, d = (torch.rand(2, 3, 4, 4, generator=generator) for _ in range(2))
    found = colours.colour_loss(a[:, None] * c, a, t[:, None] * d, t)
    expected = 0.0
    for b in range(2):
        weights = a[b] * t[b]
        expected += (weights * (c[b] - d[b]).abs().mean(0)).sum() / max(float(weights.sum()), 1) / 2
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(colours.colour_loss(a[:, None] * c, a, t[:, None] * c, t)) < 1e-7
    nothing = torch.zeros(1, 4, 4)
    assert float(colours.colour_loss(nothing[:, None].expand(-1, 3, -1, -1), nothing, d[:1], t[:1])) == 0


def test_variation_by_hand():
    found = colours.variation_loss(torch.tensor([[[0., 0, 0], [1, 0, 0], [1, 1, 0]]]), torch.tensor([[0, 1], [1, 2]]))
    assert float(found) == pytest.approx((1 + 1) / 6)


def test_given_colours_leave_out_what_is_around():
    silhouettes = torch.zeros(2, 4, 4)
    silhouettes[:, 1:3, 1:3] = .5
    images = torch.rand(2, 4, 4, 4) + .1
    images[0, :3] *= silhouettes[0]
    found = colours.given_colours(images, silhouettes)
    assert torch.equal(found[0], images[0, :3]) and torch.allclose(found[1], images[1, :3] * silhouettes[1])
    large = torch.full((1, 3, 8, 8), .4)
    assert torch.allclose(colours.given_colours(large, silhouettes[:1])[0, :, 1:3, 1:3], torch.tensor(.2))


# ---- figures ----------------------------------------------------------------------------------------

def test_psnr_and_ssim_are_those_of_scikit_image():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(3, 3, 20, 24, generator=generator).double()
    drawn = (given + .2 * torch.randn(given.shape, generator=generator)).clamp(0, 1)
    inside = torch.rand(3, 20, 24, generator=generator) > .2
    for b in range(3):
        mask = inside[b].numpy()
        one, other = (picture[b].permute(1, 2, 0).numpy() for picture in (given, drawn))
        expected = peak_signal_noise_ratio(one[mask], other[mask], data_range=1)
        assert float(psnr(drawn, given, inside)[b]) == pytest.approx(expected, rel=1e-9)
        _, likeness = structural_similarity(one * mask[..., None], other * mask[..., None], data_range=1, full=True,
                                            channel_axis=2, gaussian_weights=True, use_sample_covariance=False)
        assert float(ssim(drawn, given, inside)[b]) == pytest.approx(likeness[mask].mean(), rel=1e-6)
    assert float(psnr(given, given, inside)[0]) == pytest.approx(100) and float(ssim(given, given, inside)[0]) == 1
    assert psnr(given, given, torch.zeros_like(inside)).isnan().all()


def test_the_one_colour_gives_the_mean_of_the_picture():
    shade = torch.rand(1, 1, 4, 4) * .5 + .5
    tint = torch.tensor([[.2, .5, .8]])
    covered, seen = torch.ones(1, 4, 4), torch.ones(1, 4, 4)
    white = shade.expand(-1, 3, -1, -1)
    assert torch.allclose(one_colour(white, covered, white * tint[..., None, None], seen), tint)
    nothing = torch.zeros(1, 4, 4)
    apart = one_colour(white * 0, nothing, tint[..., None, None].expand(-1, -1, 4, 4), seen)
    assert torch.allclose(apart, tint)


# ---- in training ------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def cars(data):
    return CVPR18.open({"data_dir": str(data), "class_ids": [CAR]}, "train")


@pytest.fixture
def trainer_of(cars, template):
    """A function that makes a Trainer of options, with a template of 80 faces."""
    def made(*more, data=cars):
        torch.manual_seed(0)
        options = ["--mode=train", *TINY, "--lambda_adv=0", f"--obj_dir={template}", *more]
        return Trainer(script().parse(options), torch.device("cpu"), data)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as `devices.resolve` does
    yield made
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)


def test_the_nearest_image_is_found_in_its_pose_bin(cars):
    nearest = Nearest(cars, cars.images_of_class(0)[24:])
    batch = cars.gather(range(3))
    found = nearest.images(batch.images, batch.poses)
    small = torch.nn.functional.adaptive_avg_pool2d
    for i in range(3):
        candidates = cars.gather([24 + i, 48 + i, 72 + i]).images
        distance = (small(candidates, 16) - small(batch.images[i], 16)).square().sum((1, 2, 3))
        assert torch.equal(found[i], candidates[distance.argmin()])
    assert torch.equal(nearest.images(cars.gather([30]).images, torch.tensor([6])), cars.gather([30]).images)


def test_it_begins_with_the_mean_colour_of_the_surfaces(cars, trainer_of):
    """Painted as the pictures are lit, the template has their mean."""
    trainer = trainer_of("--texture=faces")
    assert torch.allclose(trainer.model.texture.light, torch.tensor(cars.light))
    numbers = list(range(0, len(cars), 2))
    batch = cars.gather(numbers)
    mean = batch.images[:, :3].sum((0, 2, 3)) / batch.silhouettes.sum()
    prediction = trainer.model.predict(batch.images)
    template = (.5 * trainer.model.decoder.template).expand(len(numbers), -1, -1)
    painted = colours.paint(CVPR18, template, prediction.faces, prediction.textures, batch.cameras, 32,
                            trainer.model.texture.light)
    covered = CVPR18.renderer(32).render_silhouettes(CVPR18.project(template, batch.cameras), prediction.faces)
    assert torch.allclose(painted.sum((0, 2, 3)) / covered.sum(), mean, atol=.01)


def test_other_networks_begin_and_learn_as_without_colours(cars, trainer_of):
    """Their weights, and the losses of the first step; with colours of their own code the encoder learns from both."""
    plain, coloured = trainer_of(), trainer_of("--texture=faces")
    for name in "EG":
        for a, b in zip(plain.modules[name].state_dict().values(), coloured.modules[name].state_dict().values()):
            assert torch.equal(a, b)
    batch = cars.gather([0, 30, 50, 95])
    one, other = (trainer.step(1, batch)[0] for trainer in (plain, coloured))
    assert {name: float(value) for name, value in one.items()}.items() <= {
        name: float(value) for name, value in other.items()}.items()
    assert set(other) - set(one) == {"colour", "variation"}


@pytest.mark.parametrize("texture", ["--texture=faces", "--texture=cubes --texture_size=3 --texture_mirror",
                                     "--texture=faces --amp"])
def test_colours_learn(cars, trainer_of, texture, capsys):
    trainer = trainer_of(*texture.split(), "--lr=.003", "--lambda_tv=.01")
    batch, values = cars.gather([0, 30, 50, 95]), []
    for step in range(1, 41):
        values.append(trainer.step(step, batch)[0])
    assert float(values[-1]["colour"]) < .95 * float(values[0]["colour"])
    prediction = trainer.model.predict(batch.images)
    T = trainer.model.texture.size
    assert prediction.textures.shape == (4, 80, T, T, T, 3) and prediction.textures.std(0).max() > .01
    assert ("mirrored in x = 0" in capsys.readouterr().out) == ("mirror" in texture)


def test_colours_reach_the_vertices_where_they_may(cars, trainer_of):
    """By the step's own graph: what the colour loss alone pulls at."""
    for more in ([], ["--texture_to_shape"]):
        trainer = trainer_of("--texture=faces", *more)
        inputs = trainer.inputs(cars.gather([0, 30, 50, 95]))
        step = trainer.seen(inputs, *trainer.predicted(inputs[0]))
        loss = trainer.total(step)[0]["colour"]
        reached = torch.autograd.grad(loss, [step.vertices, step.colours], allow_unused=True)
        assert (reached[0] is not None) == bool(more) and reached[1].abs().max() > 0
        if more:
            assert reached[0].abs().max() > 0


def test_a_step_sums_its_losses(cars, trainer_of):
    trainer = trainer_of("--texture=faces", "--texture_dim=0", "--lambda_colour=2", "--lambda_tv=.3")
    inputs = trainer.inputs(cars.gather([0, 30, 50, 95]))
    step = trainer.seen(inputs, *trainer.predicted(inputs[0]))
    values, total = trainer.total(step)
    parts = {name: float(value.detach()) for name, value in values.items()}
    assert float(total.detach()) == pytest.approx(parts["silhouette"] + .001 * parts["smoothness"] + parts["prior"]
                                         + 2 * parts["colour"] + .3 * parts["variation"], rel=1e-5)


class Altered:
    """A dataset with other pictures or grids."""

    def __init__(self, data, pictures=lambda images: images, light=None, voxels=None):
        self.data, self.pictures, self.light, self.of_voxels = data, pictures, light, voxels

    def __getattr__(self, name):
        return getattr(self.data, name)

    def __len__(self):
        return len(self.data)

    def gather(self, numbers):
        batch = self.data.gather(numbers)
        batch.images = torch.cat([self.pictures(batch.images[:, :3]), batch.images[:, 3:]], 1)
        return batch

    def voxels(self, objects):
        return self.of_voxels(self.data.voxels(objects))


@pytest.mark.parametrize("pictures, word", [(lambda rgb: rgb * 0, "black"), (
    lambda rgb: rgb.mean(1, keepdim=True).expand(-1, 3, -1, -1), "grey"), (lambda rgb: rgb, None)])
def test_pictures_without_colours_are_told(cars, trainer_of, pictures, word):
    trainer, said = trainer_of("--texture=faces"), []
    colours.begin(trainer.model, trainer.options, Altered(cars, pictures), said.append)
    assert len(said) == 1 + (word is not None) and "light of the training pictures is not known" in said[-1]
    if word:
        assert f"the training pictures are {word} inside their masks" in said[0]
    assert torch.equal(trainer.model.texture.light, PLAIN)


def test_a_class_without_a_mirror_plane_is_refused(cars):
    from errors import InputError
    half = Altered(cars, voxels=lambda grids: CVPR18.grid_axes(
        CVPR18.mesh_axes(grids) & (torch.arange(32) < 12)[:, None, None] & (torch.arange(32) < 12)))
    with pytest.raises(InputError, match="--texture_mirror: the training objects have no mirror plane"):
        colours.mirror_axis(half)
    assert colours.mirror_axis(cars, lambda line: None) == 0
    assert DATASETS["Pascal3D"].mirror_axis == DATASETS["R2N2"].mirror_axis == 2
