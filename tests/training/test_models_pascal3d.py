"""Pascal3D's networks: torchvision's ResNet-18, and meshes symmetric in z."""
import pytest
import torch
from models import ResNetEncoder, SymmetricMeshDecoder, icosphere, make_encoder


def resnet18(state, images):
    """torchvision's ResNet-18 in evaluation, from its parameter names."""
    def bn(x, name):
        mean, var, weight, bias = (state[f"{name}.{k}"][:, None, None] for k in
                                   ("running_mean", "running_var", "weight", "bias"))
        return (x - mean) / torch.sqrt(var + 1e-5) * weight + bias

    def conv(x, name, stride=1, padding=1):
        return torch.nn.functional.conv2d(x, state[f"{name}.weight"], stride=stride, padding=padding)

    mean, std = torch.tensor([[.485, .456, .406], [.229, .224, .225]])[..., None, None]
    x = (images - mean) / std
    x = torch.nn.functional.max_pool2d(bn(conv(x, "conv1", 2, 3), "bn1").relu(), 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            y = bn(conv(x, f"{name}.conv1", stride), f"{name}.bn1").relu()
            y = bn(conv(y, f"{name}.conv2"), f"{name}.bn2")
            if stride == 2:
                x = bn(conv(x, f"{name}.downsample.0", 2, 0), f"{name}.downsample.1")
            x = (x + y).relu()
    return x.mean((2, 3))


def test_resnet_has_torchvisions_names_and_function():
    encoder = ResNetEncoder()
    state = encoder.state_dict()
    assert len(state) == 120 and sum(p.numel() for p in encoder.parameters()) == 11_176_512  # without fc
    shapes = {"conv1.weight": (64, 3, 7, 7), "layer1.1.bn2.running_var": (64,),
              "layer2.0.downsample.0.weight": (128, 64, 1, 1),
              "layer4.1.conv2.weight": (512, 512, 3, 3), "layer3.0.bn1.num_batches_tracked": ()}
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert not any("downsample" in name for name in state if name.startswith("layer1"))
    small = ResNetEncoder(8)
    for name, value in small.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, .1)
        elif name.endswith("running_var"):
            value.uniform_(.5, 2)
    images = torch.rand(2, 3, 224, 224)
    torch.testing.assert_close(small.eval()(images), resnet18(small.state_dict(), images), atol=1e-4, rtol=1e-4)
    assert encoder.eval()(images[:1]).shape == (1, 512)


def test_torchvisions_weights_load_and_others_are_refused():
    torch.manual_seed(1)
    state = ResNetEncoder(4).state_dict()
    old = {k: v for k, v in state.items() if "num_batches" not in k}  # the older of its two files lacks them
    for file in ({**state, "fc.weight": torch.zeros(1000, 32), "fc.bias": torch.zeros(1000)}, old):
        encoder = ResNetEncoder(4)
        encoder.load_torchvision(file)
        assert all(torch.equal(v, state[k]) for k, v in encoder.state_dict().items())
    without = {k: v for k, v in old.items() if k != "layer1.0.bn1.bias"}
    for file, name in ((without, "layer1.0.bn1.bias is missing"),
                       ({**old, "layer5.0": torch.zeros(1)}, "layer5.0 is not a parameter"),
                       ({**old, "conv1.weight": torch.zeros(4, 3, 3, 3)},
                        r"conv1.weight must have shape \(4, 3, 7, 7\)"),
                       ({**old, "bn1.bias": 3}, "bn1.bias must have shape .* got int")):
        with pytest.raises(ValueError, match=name):
            ResNetEncoder(4).load_torchvision(file)


def test_the_encoder_that_goes_with_a_size():
    assert isinstance(make_encoder(224, 3, 32, 4), ResNetEncoder)
    assert len(make_encoder(128, 3, 16, 4).convBlocks) == 8 and len(make_encoder(64, 4, 16, 4).convBlocks) == 6
    for wrong in ((224, 4, 32, 4), (224, 3, 16, 4), (100, 3, 16, 4)):
        with pytest.raises(ValueError):
            make_encoder(*wrong)


def test_symmetric_decoder():
    """979 numbers: (x, y) of the 32 vertices with z = 0, then (x, y, z) of the 305 vertices with z > 0."""
    template, _ = icosphere(3)
    decoder = SymmetricMeshDecoder(template, 16)
    assert decoder.bias_layer.out_features == 979 == 2 * 32 + 3 * 305
    with torch.no_grad():
        decoder.bias_layer.weight.zero_()
        decoder.bias_layer.bias.copy_(torch.arange(979.) / 979)
    shape = decoder(torch.rand(2, 16))
    assert shape.shape == (2, 642, 3) and torch.equal(shape[0], shape[1])
    offsets = (2 * shape[0] - template).double()
    plane, beyond = (template[:, 2] == 0).nonzero()[:, 0], (template[:, 2] > 0).nonzero()[:, 0]
    numbers = torch.arange(979, dtype=torch.float64) / 979
    torch.testing.assert_close(offsets[plane, :2], numbers[:64].view(32, 2), atol=1e-6, rtol=0)
    assert torch.equal(shape[0, plane, 2], torch.zeros(32)), "fixed"
    torch.testing.assert_close(offsets[beyond], numbers[64:].view(305, 3), atol=1e-6, rtol=0)
    points = shape[0].detach().double()
    assert float(torch.cdist(points * torch.tensor([1., 1, -1]), points).min(1).values.max()) < 1e-5
    moved = torch.rand(2, 16, requires_grad=True)
    SymmetricMeshDecoder(template, 16)(moved).square().sum().backward()
    assert moved.grad.abs().sum() > 0


def test_symmetric_decoder_takes_any_symmetric_template():
    half = torch.rand(9, 3) + torch.tensor([0, 0, .1])
    flat = torch.rand(4, 3) * torch.tensor([1., 1, 0])
    whole = torch.cat([half, flat, half * torch.tensor([1., 1, -1])])[torch.randperm(22)]
    assert SymmetricMeshDecoder(whole, 8).bias_layer.out_features == 2 * 4 + 3 * 9
    assert SymmetricMeshDecoder(flat, 8)(torch.rand(1, 8)).shape == (1, 4, 3)
    for wrong in (whole[whole[:, 2] != whole[:, 2].max()], torch.cat([half, half]),
                  torch.cat([half, half * torch.tensor([1., 1.01, -1])]),
                  torch.cat([half, half * torch.tensor([-1., 1, -1])])):
        with pytest.raises(ValueError, match="symmetric in z"):
            SymmetricMeshDecoder(wrong, 8)
