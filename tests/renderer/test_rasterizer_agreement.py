"""Compiled kernels compared with the NumPy reference, and with themselves for other types, batches and threads."""
import neural_renderer as nr
import pytest
import torch
from neural_renderer import ops

# Images and gradients are compared relative to their largest value. The reference computes in float64, and
# the kernels do so too except for sums of gradients. So they differ by the order of sums and, in float32,
# by the rounding of images and of some hundred summands (measured: 7e-7).
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}


def soup(generator, faces):
    """Random triangles, some partly outside of the image."""
    unit = torch.rand(faces, 3, 3, generator=generator, dtype=torch.float64)
    return unit * torch.tensor([2.6, 2.6, 4.0]) + torch.tensor([-1.3, -1.3, 1.0])


def edge_on(generator):
    """Triangles without width, with very little, and with an edge along the middle row of pixel centres."""
    triangles = soup(generator, 15)
    triangles[:5, :, 0] = triangles[:5, :1, 0]
    triangles[5:10, 2, :2] = triangles[5:10, :2, :2].mean(1) + 1e-7
    triangles[10:, :2, 1], triangles[10:, 2, 1] = 0, 1e-7
    return triangles


def tiny(generator):
    triangles = soup(generator, 40)
    return triangles[:, :1] + (triangles - triangles[:, :1]) * 0.03


def tied(generator):
    """Duplicates, reversed faces, and corners exactly on pixel centres, all at one depth."""
    triangles = soup(generator, 4)
    centres = (torch.randint(0, 9, (6, 3, 3), generator=generator).double() * 2 + 1 - 9) / 9
    both = torch.cat([triangles, triangles, triangles.flip(1), centres, centres.flip(1)])
    both[..., 2] = 2
    return both


def off_screen(generator):
    triangles = soup(generator, 9) * torch.tensor([3.0, 3, 1])
    triangles[:3, :, 0] += 6
    return triangles


def behind_the_camera(generator):
    triangles = soup(generator, 10)
    triangles[..., 2] = torch.randn(10, 3, generator=generator)
    triangles[:2, :, 2] = -triangles[:2, :, 2].abs()
    return triangles


def not_finite(generator):
    triangles = soup(generator, 9)
    triangles[0, 1, 0], triangles[1, 0, 2] = float("nan"), float("inf")
    triangles[2, 2, 1], triangles[3, 0, 2] = -float("inf"), float("nan")
    return triangles


def without_area(generator):
    triangles = soup(generator, 8)
    triangles[0], triangles[1, 1] = triangles[0, :1], triangles[1, 0]
    triangles[2, 2] = 2 * triangles[2, 1] - triangles[2, 0]
    return triangles


SCENES = {"soup": lambda generator: soup(generator, 8), "edge_on": edge_on, "tiny": tiny,
          "tied": tied, "off_screen": off_screen, "behind_the_camera": behind_the_camera,
          "not_finite": not_finite, "without_area": without_area}
OUTPUTS = [("alpha",), ("depth",), ("rgb",), ("rgb", "alpha", "depth")]


def scene(name, dtype=torch.float64, batch=2, T=2, seed=0):
    """Inputs of `ops.rasterize`. The meshes of the batch differ; their faces are shared."""
    generator = torch.Generator().manual_seed(seed)
    triangles = torch.stack([SCENES[name](generator) for _ in range(batch)])
    faces = triangles.shape[1]

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(dtype)

    return {"vertices": triangles.reshape(batch, -1, 3).to(dtype),
            "faces": torch.arange(3 * faces).reshape(-1, 3),
            "textures": random(batch, faces, T, T, T, 3), "light": random(batch, faces, 2, 3),
            "background": random(batch, 3)}


def run(inputs, outputs, size=(9, 9), anti_aliasing=False, fill_back=False, part=slice(None)):
    """{name: image or gradient} for a random incoming gradient, for a `part` of the batch."""
    generator = torch.Generator().manual_seed(7)
    batch = len(inputs["vertices"])
    own = {k: v[part] if len(v) == batch and k != "faces" else v for k, v in inputs.items()}
    if "rgb" not in outputs:
        own.update(textures=None, light=None, background=None)
    leaves = {k: own[k].clone().requires_grad_() for k in ("vertices", "textures", "light")
              if own[k] is not None}
    images = ops.rasterize(**{**own, **leaves}, image_size=size, anti_aliasing=anti_aliasing,
                           near=0.1, far=100, eps=1e-3 if "rgb" in outputs else 1e-4,
                           fill_back=fill_back, **{name: True for name in outputs})
    results = {name: image for name, image in zip(("rgb", "alpha", "depth"), images)
               if image is not None}
    cotangents = [torch.randn((batch, *image.shape[1:]), generator=generator).to(image)[part]
                  for image in results.values()]
    torch.autograd.backward(list(results.values()), cotangents)
    results.update({f"gradient of {k}": leaf.grad for k, leaf in leaves.items()})
    return {name: result.detach() for name, result in results.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("anti_aliasing", [False, True])
@pytest.mark.parametrize("fill_back", [False, True])
def test_compiled_agrees_with_reference(name, dtype, anti_aliasing, fill_back, backend):
    # 9 x 9: the corners that `tied` puts on pixel centres lie there.
    size = (9, 9) if not anti_aliasing else (7, 11)
    for T, outputs in zip((1, 2, 1, 3), OUTPUTS):
        inputs = scene(name, dtype, T=T)
        results = []
        for kernels in ("compiled", "reference"):
            backend(kernels)
            results.append(run(inputs, outputs, size, anti_aliasing, fill_back))
        for key, value in results[0].items():
            expected = results[1][key]
            assert bool(torch.isfinite(value).all()), key
            scale = expected.abs().max().item()
            assert (value - expected).abs().max().item() <= TOLERANCE[dtype] * scale, key
        if "alpha" in outputs:
            assert torch.equal(results[0]["alpha"], results[1]["alpha"])


def test_the_scenes_draw_something(backend):
    """If they did not, the test above could not fail."""
    for name in SCENES:
        for outputs in OUTPUTS:
            result = run(scene(name), outputs, fill_back=True)
            assert all(bool((value != 0).any()) for value in result.values()), name


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (64, 3), (37, 50)])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_image_sizes(size, outputs, backend):
    results = []
    for kernels in ("compiled", "reference"):
        backend(kernels)
        results.append(run(scene("soup", batch=1), outputs, size, True, True))
    for key, expected in results[1].items():
        torch.testing.assert_close(results[0][key], expected, rtol=1e-10, atol=1e-10)


def wide(kind, generator, W=70, H=33):
    """(1, 90, 3): thirty triangles that span many columns of an image."""
    v = torch.rand(30, 3, 3, generator=generator, dtype=torch.float64) * 2.6 - 1.3
    nearly = torch.tensor([0, 1e-16, -1e-16, 1e-12, -1e-9, 1e-4], dtype=torch.float64)
    off = nearly[torch.randint(6, (30, 3, 2), generator=generator)]
    if kind == "slivers":  # the third corner beside the edge of the other two
        along = torch.rand(30, 1, generator=generator, dtype=torch.float64)
        v[:, 2, :2] = v[:, 0, :2] + along * (v[:, 1, :2] - v[:, 0, :2]) + off[:, 2]
        v[15:, 2, :2] += 0.02  # a sample wide
    if kind in ("upright", "on centres"):  # corners on columns of pixel centres, or beside them; rows as well
        v[..., 0] = (2 * torch.randint(-W, 2 * W, (30, 3), generator=generator) + 1 - W) / W + off[..., 0]
        v[10:20, 1, 0] = v[10:20, 0, 0] + off[10:20, 1, 0]
    if kind == "on centres":
        v[..., 1] = (2 * torch.randint(-H, 2 * H, (30, 3), generator=generator) + 1 - H) / H + off[..., 1]
    if kind == "far out":
        v[..., :2] *= 10 ** (18 * torch.rand(30, 3, 1, generator=generator, dtype=torch.float64))
    v[..., 2] = torch.rand(30, 3, generator=generator, dtype=torch.float64) * 3 + 0.05
    return v.reshape(1, 90, 3)


@pytest.mark.parametrize("kind", ["soup", "slivers", "upright", "on centres", "far out"])
def test_wide_faces_cover_what_the_reference_says(kind, backend):
    """The kernel limits their columns to the rows between edges, and must not lose a sample."""
    faces, seen = torch.arange(90).reshape(1, 30, 3), set()
    for seed in range(12):
        vertices = wide(kind, torch.Generator().manual_seed(seed))
        for scaled in (vertices, vertices.float()):
            shown = []
            for kernels in ("compiled", "reference"):
                backend(kernels)
                shown.append(torch.ops.neural_renderer.rasterize(
                    scaled, faces, None, None, None, None, 33, 70, 1, 0.1, 100.0, 1e-4, True, True, False, ops.ALPHA)[3])
            assert torch.equal(*shown), seed
            seen.update(shown[0].unique().tolist())
    assert len(seen) > 10


def shown_faces(vertices, size=16):
    faces = torch.arange(vertices.shape[1]).reshape(-1, 3)[None].expand(len(vertices), -1, -1)
    return torch.ops.neural_renderer.rasterize(vertices, faces, None, None, None, None, size, size, 1, 0.1,
                                               100.0, 1e-4, True, True, False, ops.ALPHA)[3]


def arbitrary_float32(kind, generator):
    """(50, 24, 3): eight triangles in each of fifty meshes."""
    shape = (50, 24, 3)
    if kind == "bit patterns":  # every magnitude, NaN, infinities, subnormal numbers
        return torch.randint(-2 ** 31, 2 ** 31, shape, generator=generator).int().view(torch.float32)
    vertices = torch.randn(shape, generator=generator)
    vertices[..., 2] = vertices[..., 2].abs() + 0.2
    if kind == "on pixel centres":
        vertices[..., :2] = (vertices[..., :2] * 8).round() / 8 + 1 / 16
    if kind == "nearly edge-on":  # slivers along a row of pixel centres
        vertices[..., 1] = 1 / 16 + (vertices[..., 1] * 2).round() * 1e-8
    if kind == "nearly coplanar":
        vertices[..., 2] = 3 + vertices[..., 2] * 1e-7
    return vertices


@pytest.mark.parametrize("kind", ["generic", "on pixel centres", "nearly edge-on", "nearly coplanar",
                                  "bit patterns"])
def test_float32_covers_what_float64_covers(kind, backend):
    vertices = arbitrary_float32(kind, torch.Generator().manual_seed(11))
    shown = shown_faces(vertices)
    assert torch.equal(shown, shown_faces(vertices.double()))
    backend("reference")
    assert torch.equal(shown, shown_faces(vertices.double()))
    assert bool((shown >= 0).any())


@pytest.mark.parametrize("name", ["soup", "tied", "not_finite"])
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_a_batch_is_its_members_bit_for_bit(name, outputs, each_backend):
    inputs = scene(name, torch.float32, batch=3)
    whole = run(inputs, outputs, (8, 11), True, True)
    single = [run(inputs, outputs, (8, 11), True, True, slice(b, b + 1)) for b in range(3)]
    assert_same(whole, {key: torch.cat([s[key] for s in single]) for key in whole})
    assert not torch.equal(single[0][outputs[0]], single[1][outputs[0]])


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_results_repeat_whatever_the_number_of_threads(outputs, backend):
    inputs = scene("soup", torch.float32, batch=7)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 2, 5):
            torch.set_num_threads(threads)
            results.append(run(inputs, outputs, (33, 21), True, True))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert_same(results[0], other)


@pytest.mark.parametrize("outputs", OUTPUTS)
def test_faces_may_be_shared_expanded_or_repeated(outputs, each_backend):
    inputs = scene("soup", torch.float32, batch=3)
    faces = inputs["faces"]
    expected = run(inputs, outputs)
    for same in (faces[None].expand(3, -1, -1), faces[None].repeat(3, 1, 1), faces.int(),
                 faces.int()[None].expand(3, -1, -1), faces.int()[None].repeat(3, 1, 1),
                 faces.short(), faces.t().contiguous().t(),
                 torch.stack([faces, faces * 0], -1)[..., 0]):
        assert_same(run({**inputs, "faces": same}, outputs), expected)


def test_every_mesh_may_have_its_own_faces(each_backend):
    inputs = scene("soup", torch.float32, batch=3)
    each = torch.stack([inputs["faces"], inputs["faces"].flip(1), inputs["faces"].roll(3, 0)])
    whole = run({**inputs, "faces": each}, ("alpha",))
    for b in range(3):
        alone = run({**inputs, "faces": each[b]}, ("alpha",), part=slice(b, b + 1))
        assert_same({key: value[b:b + 1] for key, value in whole.items()}, alone)


def test_vertices_that_faces_share_collect_their_gradients(each_backend):
    """An indexed mesh and its separate triangles have the same image; the gradients of shared vertices add up."""
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(6, 3, generator=generator, dtype=torch.float64) * 2 - torch.tensor([1, 1, -1])
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 4, 5], [0, 5, 2]])
    weight = torch.randn(10, 10, generator=generator, dtype=torch.float64)
    options = {"image_size": 10, "anti_aliasing": True, "near": 0.1, "far": 100, "eps": 1e-4,
               "fill_back": True, "alpha": True}
    shared, loose = points[None].clone().requires_grad_(), points[faces].reshape(1, -1, 3)
    loose.requires_grad_()
    one = ops.rasterize(shared, faces, **options)[1]
    other = ops.rasterize(loose, torch.arange(12).reshape(4, 3), **options)[1]
    assert torch.equal(one, other)
    (one * weight).sum().backward()
    (other * weight).sum().backward()
    expected = torch.zeros(6, 3, dtype=torch.float64).index_add(0, faces.flatten(), loose.grad[0])
    torch.testing.assert_close(shared.grad[0], expected, rtol=1e-10, atol=1e-10)
    assert expected.abs().max() > 0


def test_tensors_need_not_be_contiguous(each_backend):
    inputs = scene("soup", torch.float32)
    scattered = {key: torch.stack([value, value + 1], -1)[..., 0] for key, value in inputs.items()}
    assert not any(value.is_contiguous() for value in scattered.values())
    assert_same(run(scattered, OUTPUTS[3]), run(inputs, OUTPUTS[3]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precisions_are_raised_to_float32(dtype, each_backend):
    inputs = scene("soup", torch.float32)
    inputs = {k: v.to(dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    raised = {k: v.float() if v.is_floating_point() else v for k, v in inputs.items()}
    got, expected = run(inputs, OUTPUTS[3]), run(raised, OUTPUTS[3])
    for key, value in got.items():
        if key.startswith("gradient"):
            assert value.dtype == dtype and torch.equal(value, expected[key].to(dtype))
        else:
            assert value.dtype == torch.float32 and torch.equal(value, expected[key])


def test_backends_can_be_chosen(backend, monkeypatch):
    backend("reference")
    assert nr.get_backend() == "reference"
    backend(None)
    monkeypatch.setenv("NR_BACKEND", "reference")
    assert nr.get_backend() == "reference"
    backend(None)
    monkeypatch.delenv("NR_BACKEND")
    assert nr.get_backend() == "compiled"
    with pytest.raises(ValueError, match="backend"):
        backend("cuda9")
