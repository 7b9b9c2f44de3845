"""The networks have the published shapes and parameter names; the template is a sphere."""
import math

import numpy as np
import pytest
import torch
from models import Encoder, MeshDecoder, PoseDiscriminator, ViewDiscriminator, icosphere
from solids import icosphere as icosphere_by_hand


def layers(names_and_shapes):
    """{'name.weight': shape, 'name.bias': first of shape}."""
    result = {}
    for name, shape in names_and_shapes.items():
        result[f"{name}.weight"], result[f"{name}.bias"] = shape, shape[:1]
    return result


def shapes_of(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def template():
    return icosphere(3)[0]


# ---- encoder ----------------------------------------------------------------------------------------


def test_published_encoder():
    assert shapes_of(Encoder()) == layers({
        "convBlocks.0": (64, 4, 5, 5), "convBlocks.2": (128, 64, 5, 5), "convBlocks.4": (256, 128, 5, 5),
        "FC.0": (1024, 16384), "FC.2": (1024, 1024), "shapeLayer": (512, 1024)})


def test_published_encoder_of_128_pixels_has_a_fourth_convolution():
    with torch.device("meta"):  # shapes alone
        encoder = Encoder(img_size=128, channels=3)
    assert shapes_of(encoder) == layers({
        "convBlocks.0": (64, 3, 5, 5), "convBlocks.2": (128, 64, 5, 5), "convBlocks.4": (256, 128, 5, 5),
        "convBlocks.6": (512, 256, 5, 5), "FC.0": (1024, 32768), "FC.2": (1024, 1024),
        "shapeLayer": (512, 1024)})
    assert encoder(torch.zeros(2, 3, 128, 128, device="meta")).shape == (2, 512)


def conv_by_hand(image, weight, bias):
    """5x5, stride 2, padding 2: (C, H, W) to (D, H/2, W/2)."""
    padded = np.pad(image, ((0, 0), (2, 2), (2, 2)))
    half = image.shape[1] // 2
    return np.array([[[(padded[:, 2 * r:2 * r + 5, 2 * c:2 * c + 5] * w).sum() + b for c in range(half)]
                      for r in range(half)] for w, b in zip(weight, bias)])


def test_encoder_computes_what_its_layers_say():
    torch.manual_seed(0)
    encoder = Encoder(latent_dim=5, width=1).double()
    images = torch.rand(2, 4, 64, 64, dtype=torch.float64)
    weights = {name: value.numpy() for name, value in encoder.state_dict().items()}
    for image, code in zip(images.numpy(), encoder(images).detach().numpy()):
        x = image
        for k in (0, 2, 4):
            x = np.maximum(conv_by_hand(x, weights[f"convBlocks.{k}.weight"], weights[f"convBlocks.{k}.bias"]), 0)
        x = x.reshape(-1)
        for k in (0, 2):
            x = np.maximum(weights[f"FC.{k}.weight"] @ x + weights[f"FC.{k}.bias"], 0)
        expected = weights["shapeLayer.weight"] @ x + weights["shapeLayer.bias"]
        np.testing.assert_allclose(code, expected, rtol=1e-9)
        assert (expected < 0).any(), "no ReLU at the end"


@pytest.mark.parametrize("width", [8, 16])
def test_width_scales_the_encoder(width):
    shapes = shapes_of(Encoder(latent_dim=32, width=width))
    assert [shapes[f"convBlocks.{k}.weight"][0] for k in (0, 2, 4)] == [width, 2 * width, 4 * width]
    assert shapes["FC.0.weight"] == (16 * width, 256 * width)
    assert shapes["shapeLayer.weight"] == (32, 16 * width)
    assert Encoder(latent_dim=32, width=width)(torch.rand(3, 4, 64, 64)).shape == (3, 32)


@pytest.mark.parametrize("size", [32, 65, 224])
def test_encoder_names_the_sizes_it_has(size):
    with pytest.raises(ValueError, match=f"64 or 128, got {size}"):
        Encoder(img_size=size)


# ---- decoder ----------------------------------------------------------------------------------------


def test_published_decoder(template):
    decoder = MeshDecoder(template)
    assert shapes_of(decoder) == layers({"fclayers.0": (1024, 512), "fclayers.2": (2048, 1024),
                                         "bias_layer": (1926, 2048)}), "the template is not a weight"
    assert decoder(torch.randn(3, 512)).shape == (3, 642, 3)


def test_vertices_are_half_of_template_and_offset(template):
    torch.manual_seed(0)
    decoder, codes = MeshDecoder(template, 8), torch.randn(3, 8)
    weights = {name: value.double().numpy() for name, value in decoder.state_dict().items()}
    x = codes.double().numpy()
    for k in (0, 2):
        x = np.maximum(x @ weights[f"fclayers.{k}.weight"].T + weights[f"fclayers.{k}.bias"], 0)
    offsets = x @ weights["bias_layer.weight"].T + weights["bias_layer.bias"]
    expected = .5 * (template.numpy() + offsets.reshape(3, 642, 3))
    np.testing.assert_allclose(decoder(codes).detach(), expected, atol=1e-6)
    assert np.abs(offsets).max() > .01

    torch.nn.init.zeros_(decoder.bias_layer.weight)
    torch.nn.init.zeros_(decoder.bias_layer.bias)
    assert torch.equal(decoder(codes), .5 * template.expand(3, -1, -1))
    with torch.no_grad():
        decoder.bias_layer.bias[3 * 7 + 1] = 2.0  # y of vertex 7
    moved = decoder(codes)[0].detach() - .5 * template
    assert moved[7].tolist() == pytest.approx([0, 1, 0], abs=1e-6)
    assert float(moved.abs().sum()) == pytest.approx(1, abs=1e-6)


# ---- discriminator ----------------------------------------------------------------------------------


def test_published_discriminator():
    assert shapes_of(PoseDiscriminator(24)) == layers({
        "hidden_layer0": (256, 512), "hidden_layer1": (128, 256), "digit_layer": (24, 128)})
    assert shapes_of(PoseDiscriminator(24, standardize=True)) == shapes_of(PoseDiscriminator(24))


def test_discriminator_gives_log_probabilities():
    torch.manual_seed(0)
    discriminator, codes = PoseDiscriminator(24, 16), torch.randn(5, 16)
    weights = {name: value.double().numpy() for name, value in discriminator.state_dict().items()}
    x = codes.double().numpy()
    for name in ("hidden_layer0", "hidden_layer1"):
        x = np.maximum(x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"], 0)
    scores = x @ weights["digit_layer.weight"].T + weights["digit_layer.bias"]
    result = discriminator(codes).detach()
    np.testing.assert_allclose(result, scores - np.log(np.exp(scores).sum(1, keepdims=True)), atol=1e-5)
    np.testing.assert_allclose(result.exp().sum(1), 1, rtol=1e-5)
    # The result for a code does not depend on the other codes of the batch.
    np.testing.assert_allclose(discriminator(codes[:1]).detach(), result[:1], atol=1e-6)
    large = discriminator(1e4 * codes)
    assert torch.isfinite(large).all() and (large <= 0).all()


def test_standardize_frees_from_scale_and_shift_of_each_component():
    torch.manual_seed(0)
    plain, standard = PoseDiscriminator(24, 16), PoseDiscriminator(24, 16, standardize=True)
    standard.load_state_dict(plain.state_dict())
    codes = torch.randn(40, 16)
    scale, shift = torch.logspace(-1, 2, 16), torch.linspace(-5, 5, 16)
    for moved in (1e-2 * codes, codes * scale + shift):
        torch.testing.assert_close(standard(moved), standard(codes), atol=2e-3, rtol=0)
        assert (plain(moved) - plain(codes)).abs().max() > .1, "the plain one does see it"
    c = codes.numpy().astype(float)
    unit = torch.tensor((c - c.mean(0)) / np.sqrt(((c - c.mean(0)) ** 2).mean(0))).float()
    torch.testing.assert_close(standard(codes), plain(unit), atol=1e-4, rtol=0)


def test_standardize_survives_codes_that_are_all_alike():
    standard = PoseDiscriminator(24, 16, standardize=True)
    codes = torch.ones(4, 16, requires_grad=True)
    result = standard(codes)
    result[:, 0].sum().backward()
    assert torch.isfinite(result).all() and torch.isfinite(codes.grad).all()


def test_view_discriminator_is_the_dcgan_of_view_prior_learning():
    with torch.device("meta"):  # shapes alone
        shapes = shapes_of(ViewDiscriminator(24))
    weights = [shape for name, shape in shapes.items() if name.endswith("weight")]
    assert weights == [(128, 25, 4, 4), (256, 128, 4, 4), (256,), (512, 256, 4, 4), (512,), (1024, 512, 4, 4),
                       (1024,), (1, 16384)], "no batch norm behind the first"


def test_view_discriminator_sees_silhouette_and_view():
    torch.manual_seed(0)
    discriminator = ViewDiscriminator(5, img_size=16).eval()
    silhouettes, views, seen = torch.rand(3, 16, 16), torch.tensor([0, 4, 2]), []
    discriminator.convBlocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = discriminator(silhouettes, views).detach()
    planes = np.zeros((3, 5, 16, 16))
    for k, view in enumerate(views):
        planes[k, view] = 1
    assert torch.equal(seen[0][:, 0], silhouettes) and np.array_equal(seen[0][:, 1:], planes)
    slope, = {m.negative_slope for m in discriminator.modules() if isinstance(m, torch.nn.LeakyReLU)}
    assert slope == .2
    assert (discriminator(silhouettes, (views + 1) % 5) != logits).all()
    torch.nn.init.constant_(discriminator.digit_layer.bias, float(discriminator.digit_layer.bias.detach()) - 5)
    torch.testing.assert_close(discriminator(silhouettes, views).detach(), logits - 5)  # no sigmoid


# ---- template ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", range(4))
def test_icosphere_is_a_closed_outward_unit_sphere(level):
    vertices, faces = icosphere(level)
    assert vertices.dtype == torch.float32 and faces.dtype == torch.int64
    assert vertices.shape == (10 * 4 ** level + 2, 3) and faces.shape == (20 * 4 ** level, 3)
    v, f = vertices.numpy().astype(float), faces.numpy()
    np.testing.assert_allclose(np.linalg.norm(v, axis=1), 1, atol=1e-6)
    assert np.array_equal(np.unique(f), np.arange(len(v))), "no vertex is left over"
    sides = [(face[k], face[(k + 1) % 3]) for face in f.tolist() for k in range(3)]
    assert len(set(sides)) == len(sides) and {(b, a) for a, b in sides} == set(sides)
    a, b, c = v[f].swapaxes(0, 1)
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(1) > 0).all(), "right-hand normals point outwards"
    by_hand = icosphere_by_hand(level)
    assert {tuple(p) for p in v.round(5) + 0.} == {tuple(p) for p in by_hand[0].round(5) + 0.}


def test_template_of_the_published_size():
    vertices, faces = icosphere()
    assert len(vertices) == 642 and len(faces) == 1280
    a, b, c = vertices.numpy().astype(float)[faces.numpy()].swapaxes(0, 1)
    volume = (a * np.cross(b, c)).sum() / 6
    assert .98 * 4 * math.pi / 3 < volume < 4 * math.pi / 3
    lengths = np.linalg.norm(a - b, axis=1)
    assert lengths.max() / lengths.min() < 1.3, "the triangles are alike"


@pytest.mark.parametrize("make", [lambda: Encoder(8, width=8), lambda: ViewDiscriminator(4)])
def test_convolutions_stay_in_the_fast_layout(make):
    """Also after loading weights that were saved in the other layout."""
    network = make()
    network.load_state_dict({k: v.clone(memory_format=torch.contiguous_format) for k, v in make().state_dict().items()})
    weights = [m.weight for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(weights) >= 3
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
