"""Tests that need a GPU: kernels compared with the CPU's, streams, CUDA graphs, and that a step does not wait."""
import os

import neural_renderer as nr
import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("there is no GPU here: torch.cuda.is_available() is False", allow_module_level=True)
if nr.backend._kernels is None or nr.backend._kernels.cuda_architectures is None:
    pytest.skip("the kernels here were built without nvcc", allow_module_level=True)

from command import CAR, TINY, call, checkpoint, differences, script  # noqa: E402
from readers.base import Batch  # noqa: E402
from losses import MeshTopology, smoothness_loss  # noqa: E402
from models import icosphere  # noqa: E402
from voxelization import overlap, voxelize, voxelize_solid  # noqa: E402

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # some versions of torch read it once

pytestmark = pytest.mark.gpu
GPU = torch.device("cuda", 0)
DEVICES = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def meshes(batch=6, subdivisions=3, dtype=torch.float32, seed=0, noise=0.03):
    """Bumpy spheres on the screen, (B, V, 3), and faces (F, 3), on the CPU."""
    g = torch.Generator().manual_seed(seed)
    vertices, faces = icosphere(subdivisions)
    scale = 0.3 + 0.5 * torch.rand(batch, 1, 3, generator=g)
    vertices = vertices * scale + noise * torch.randn(batch, len(vertices), 3, generator=g)
    return (vertices + torch.tensor([0.05, -0.1, 2.0])).to(dtype), faces


def renderer(size=64):
    return nr.Renderer(size, camera_mode="none")


def silhouettes(vertices, faces, cotangent, size=64):
    """Images and gradient."""
    vertices = vertices.detach().requires_grad_()
    images = renderer(size).render_silhouettes(vertices, faces)
    gradient, = torch.autograd.grad(images, vertices, cotangent)
    return images.detach(), gradient


def close(a, b, tolerance):
    """Compare relative to the largest value, because a GPU adds in another order."""
    assert (a.cpu().double() - b.cpu().double()).abs().max() <= tolerance * b.abs().max().cpu() and b.abs().max() > 0


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=str)
@pytest.mark.parametrize("size", [64, (37, 50), 256])
def test_silhouettes_are_those_of_the_cpu(device, dtype, tolerance, size):
    vertices, faces = meshes(dtype=dtype)
    height, width = size if isinstance(size, tuple) else (size, size)
    cotangent = torch.randn(len(vertices), height, width, dtype=dtype, generator=torch.Generator().manual_seed(1))
    images, gradient = silhouettes(vertices, faces, cotangent, size)
    found, its_gradient = silhouettes(vertices.to(device), faces.to(device), cotangent.to(device), size)
    assert found.device == device and torch.equal(found.cpu(), images) and 0.05 < images.mean() < 0.95
    close(its_gradient, gradient, tolerance)


def drawn(device, dtype):
    """rgb, depth and alpha of textured meshes, and their gradients to vertices and textures."""
    vertices, faces = meshes(batch=3, subdivisions=2, dtype=dtype)
    g = torch.Generator().manual_seed(2)
    textures = torch.rand(3, len(faces), 2, 2, 2, 3, generator=g).to(dtype)
    cotangents = [torch.randn(shape, generator=g).to(dtype) for shape in ((3, 3, 64, 64), (3, 64, 64), (3, 64, 64))]
    inputs = [t.to(device).requires_grad_() for t in (vertices, textures)]
    images = renderer().render(inputs[0], faces.to(device), inputs[1])
    return images, torch.autograd.grad(images, inputs, [c.to(device) for c in cotangents])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-4), (torch.float64, 1e-10)], ids=str)
def test_colours_and_depths_are_those_of_the_cpu(dtype, tolerance):
    (images, gradients), (found, its_gradients) = drawn("cpu", dtype), drawn(GPU, dtype)
    assert torch.equal(found[2].cpu(), images[2])  # coverage
    for a, b in zip(found[:2], images[:2]):
        torch.testing.assert_close(a.cpu(), b, rtol=1e-5, atol=1e-6)
    for a, b in zip(its_gradients, gradients):
        close(a, b, tolerance)


def around_the_eye(device, dtype, coloured):
    """All images of triangles of which most reach behind the eye, and their gradients."""
    g = torch.Generator().manual_seed(5)
    vertices = ((torch.rand(4, 60, 3, generator=g) - 0.5) * torch.tensor([8.0, 8, 6])).to(dtype)
    faces = torch.arange(60).reshape(20, 3)
    textures = torch.rand((4, 60, 3) if coloured else (4, 20, 2, 2, 2, 3), generator=g).to(dtype)
    cotangents = [torch.randn(shape, generator=g).to(dtype) for shape in ((4, 3, 48, 48), (4, 48, 48), (4, 48, 48))]
    inputs = [t.to(device).requires_grad_() for t in (vertices, textures)]
    images = renderer(48).render(nr.perspective(inputs[0]), faces.to(device), inputs[1])
    return images, torch.autograd.grad(images, inputs, [c.to(device) for c in cotangents])


@pytest.mark.parametrize("coloured", [False, True], ids=["textures", "colours of vertices"])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-3), (torch.float64, 1e-9)], ids=str)
def test_clipped_faces_are_those_of_the_cpu(dtype, tolerance, coloured):
    (images, gradients), (found, its_gradients) = (around_the_eye(d, dtype, coloured) for d in ("cpu", GPU))
    assert 0.05 < images[2].mean()
    different = [(a.cpu() - b).abs() > 1e-4 * (1 + b.abs()) for a, b in zip(found, images)]
    # Division on a GPU may round x / z otherwise, which moves an edge over a sample in float32.
    assert all(d.float().mean() < (1e-3 if dtype == torch.float32 else 1e-9) for d in different)
    if not any(d.any() for d in different):
        for a, b in zip(its_gradients, gradients):
            close(a, b, tolerance)


@pytest.mark.parametrize("coloured", [False, True], ids=["textures", "colours of vertices"])
def test_deterministic_gradients_of_clipped_faces(deterministic, coloured):
    _, first = around_the_eye(GPU, torch.float64, coloured)
    _, known = around_the_eye("cpu", torch.float64, coloured)
    for a, b in zip(first, known):
        close(a, b, 1e-9)
    assert all(torch.equal(a, b) for _ in range(3) for a, b in zip(around_the_eye(GPU, torch.float64, coloured)[1], first))


def test_colours_of_vertices_are_those_of_the_cpu():
    results = []
    for device in ("cpu", GPU):
        vertices, faces = meshes(batch=3, dtype=torch.float64)
        inputs = [t.to(device).requires_grad_() for t in (vertices, vertices.sin().abs())]
        rgb = renderer().render_rgb(inputs[0], faces.to(device), inputs[1])
        weight = torch.linspace(-1, 1, 64, dtype=torch.float64, device=device)
        results.append((rgb, torch.autograd.grad((rgb * weight).sum(), inputs)))
    (rgb, gradients), (found, its_gradients) = results
    torch.testing.assert_close(found.cpu(), rgb, rtol=1e-9, atol=1e-9)
    for a, b in zip(its_gradients, gradients):
        close(a, b, 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_face_indices_are_those_of_the_cpu(dtype):
    vertices, faces = meshes(dtype=dtype)
    index, weights = renderer().render_face_index(vertices, faces, return_weights=True)
    found, its_weights = renderer().render_face_index(vertices.to(GPU), faces.to(GPU), return_weights=True)
    assert torch.equal(found.cpu(), index) and (index >= 0).any() and (index < 0).any()
    torch.testing.assert_close(its_weights.cpu(), weights, rtol=1e-4, atol=1e-5)


def test_vmap_on_a_gpu():
    vertices, faces = (t.to(GPU) for t in meshes(batch=4))
    one = torch.func.vmap(lambda v: renderer().render_silhouettes(v[None], faces)[0])(vertices)
    assert torch.equal(one, renderer().render_silhouettes(vertices, faces))


def test_clipping_in_a_cuda_graph_waits_for_nothing():
    """Only the kernels decide whether a face reaches behind the eye; nothing is allocated or read back."""
    g = torch.Generator().manual_seed(1)
    behind = (torch.rand(2, 30, 3, generator=g) - 0.5).to(GPU) * 4
    front = behind + torch.tensor([0, 0, 4.0], device=GPU)
    faces, static = torch.arange(30, device=GPU).reshape(10, 3), front.clone()
    cotangent = torch.randn(2, 32, 32, device=GPU)

    def step():
        leaf = static.detach().requires_grad_()
        images = renderer(32).render_silhouettes(nr.perspective(leaf), faces)
        return images.detach(), torch.autograd.grad(images, leaf, cotangent)[0]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        images, gradient = step()
    for vertices in (behind, front):
        static.copy_(vertices)
        graph.replay()
        known, its_gradient = step()
        assert torch.equal(images, known) and images.any()
        close(gradient, its_gradient, 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [5, 32, 64])
def test_voxels_are_those_of_the_cpu(dtype, size):
    vertices, faces = meshes(batch=9, dtype=dtype, noise=0.01)
    corners = nr.vertices_to_faces((vertices - torch.tensor([0.05, -0.1, 2.0]).to(dtype)) * 0.5 + 0.5, faces)
    for rule in (voxelize, voxelize_solid):
        found, known = rule(corners.to(GPU), size, dtype=torch.bool), rule(corners, size, dtype=torch.bool)
        assert torch.equal(found.cpu(), known) and 0 < known.float().mean() < 1, rule
    for other in (known.roll(1, 0), known[:1]):
        counts = overlap(found, other.to(GPU))
        assert all(torch.equal(c.cpu(), k) for c, k in zip(counts, overlap(known, other), strict=True))
    with pytest.raises(ValueError, match="mesh 4 of the batch has a NaN"):
        corners[4, 7, 1, 2] = float("nan")
        voxelize(corners.to(GPU), size)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=str)
def test_smoothness_is_that_of_the_cpu(dtype, tolerance):
    vertices, faces = meshes(dtype=dtype)

    def smooth(device):
        v = vertices.to(device).requires_grad_()
        value = smoothness_loss(v, MeshTopology(faces).to(device))
        return value, torch.autograd.grad(value, v)[0]
    for a, b in zip(smooth(GPU), smooth("cpu")):
        close(a.detach(), b.detach(), tolerance)


def test_a_stream_of_the_callers():
    """Drawing on a stream waits for the earlier work on it, here a long computation of the vertices."""
    vertices, faces = meshes(batch=16)
    known = renderer().render_silhouettes(vertices, faces)
    shown, faces = vertices.to(GPU), faces.to(GPU)
    renderer().render_silhouettes(shown, faces)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = torch.zeros_like(shown)
        torch.cuda._sleep(200_000_000)
        late.copy_(shown)
        images = renderer().render_silhouettes(late, faces)
    stream.synchronize()
    assert torch.equal(images.cpu(), known)


def test_the_renderer_in_a_cuda_graph():
    vertices, faces = meshes()
    static, faces = vertices.to(GPU), faces.to(GPU)
    cotangent = torch.randn(len(vertices), 64, 64, device=GPU)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        silhouettes(static, faces, cotangent)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        images, gradient = silhouettes(static, faces, cotangent)
    for seed in (1, 2):
        other = meshes(seed=seed)[0].to(GPU)
        static.copy_(other)
        graph.replay()
        known, its_gradient = silhouettes(other, faces, cotangent)
        assert torch.equal(images, known)
        close(gradient, its_gradient, 1e-4)


def test_deterministic_gradients_repeat_to_the_bit(deterministic):
    vertices, faces = (t.to(GPU) for t in meshes(batch=32))
    cotangent = torch.randn(32, 64, 64, device=GPU, generator=torch.Generator(GPU).manual_seed(0))
    first = silhouettes(vertices, faces, cotangent)[1]
    assert all(torch.equal(silhouettes(vertices, faces, cotangent)[1], first) for _ in range(5))


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-4), (torch.float64, 1e-10)], ids=str)
def test_deterministic_gradients_of_colours_and_depths(deterministic, dtype, tolerance):
    (_, known), (_, first) = drawn("cpu", dtype), drawn(GPU, dtype)
    for a, b in zip(first, known):
        close(a, b, tolerance)
    assert all(torch.equal(a, b) for _ in range(5) for a, b in zip(drawn(GPU, dtype)[1], first))


# ---- training -------------------------------------------------------------------------------------------

def trainer_of(*arguments, device=GPU):
    from engine import runs
    from training import Trainer
    options = script().parse([*arguments, "--batch_size=8", "--enc_width=8"])
    runs.seed_everything(0)
    return Trainer(options, device)


class Images:
    """A split of random images with only the methods that make batches."""

    augments = False

    def __init__(self, count=40):
        g = torch.Generator().manual_seed(0)
        self.whole = Batch((torch.rand(count, 4, 64, 64, generator=g) * 255).byte(), None, torch.arange(count) % 24,
                           torch.arange(count) % 24, torch.arange(count))

    def __len__(self):
        return len(self.whole.images)

    def read(self, indices, step=None, part=slice(None)):
        return self.whole.map(lambda t: t[torch.as_tensor(list(indices))[part]])


def feed_of(kind, device=GPU):
    from engine import feed
    from loop import Sampler
    return getattr(feed, kind)(Images(), Sampler(40, 8, 0), device, slice(None))


METHODS = pytest.mark.parametrize("mode", [("--mode=train",), ("--mode=trainCVPR19",), ("--mode=train", "--amp")],
                                  ids=["featGAN", "VPL", "featGAN in bfloat16"])


@METHODS
def test_recorded_steps_are_those_that_are_not_to_the_bit(mode, deterministic, capsys):
    told = []
    for graphs in ("off", "on"):
        trainer, feed = trainer_of(*mode, f"--cuda_graph={graphs}", "--decay_batch=9", "--decay_every=2"), \
            feed_of("Resident")
        told.append([trainer.step(step, feed.batch(step)) for step in range(1, 15)])
        told[-1].append(trainer.state()["models"])
    assert "continuing without CUDA graphs" not in capsys.readouterr().out
    assert all(turn.graph is not None for turn in trainer._turns.values())
    (*eager, weights), (*recorded, its_weights) = told
    for step, (a, b) in enumerate(zip(eager, recorded), 1):
        assert [{k: float(v) for k, v in part.items()} for part in a] == \
            [{k: float(v) for k, v in part.items()} for part in b], step
    assert all(torch.equal(w, its_weights[name][key]) for name in weights for key, w in weights[name].items())


@METHODS
@pytest.mark.parametrize("kind", ["Resident", "Ahead"])
@pytest.mark.parametrize("graphs", ["off", "on"])
def test_a_step_waits_for_nothing(mode, kind, graphs):
    trainer, feed = trainer_of(*mode, f"--cuda_graph={graphs}"), feed_of(kind)
    for step in range(1, 11):
        trainer.step(step, feed.batch(step))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(11, 17):
            trainer.step(step, feed.batch(step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
        feed.close()


def test_what_is_not_finite_changes_nothing_in_a_recorded_step_either():
    trainer, feed = trainer_of("--mode=train", "--cuda_graph=on"), feed_of("Resident")
    for step in range(1, 11):
        trainer.step(step, feed.batch(step))
    before = [p.clone() for m in trainer.modules.values() for p in m.parameters()]
    batch = feed.batch(11)
    batch.images[0, 0, 0, 0] = float("nan")
    values, _ = trainer.step(11, batch)
    assert not torch.isfinite(values["silhouette"] + values["prior"])
    assert all(torch.equal(a, b) for a, b in zip(before, (
        p for m in trainer.modules.values() for p in m.parameters())))
    assert torch.isfinite(trainer.step(12, feed.batch(12))[0]["silhouette"])


def test_the_first_losses_are_those_of_the_cpu():
    """Only for one step of each network, since rounding errors grow. Weights are made on the CPU with the same seed."""
    told = [[{k: float(v) for k, v in trainer.step(step, feed.batch(step))[0].items()} for step in (1, 2)]
            for device in (GPU, torch.device("cpu"))
            for trainer, feed in [(trainer_of("--mode=train", "--lr=1e-6", device=device), feed_of("FromFiles", device))]]
    for found, known in zip(*told):
        assert found == pytest.approx(known, rel=1e-3)


@pytest.fixture
def tf32():
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = False


def test_mmd_and_the_pose_probe_are_those_of_the_cpu(tf32):
    """Also where --tf32 multiplies with 10 bits: MMD takes differences of dot products."""
    from metrics import measures, pose_mmd
    g = torch.Generator().manual_seed(0)
    poses, objects = torch.arange(24).repeat(40), torch.arange(40).repeat_interleave(24)
    codes = torch.randn(960, 64, generator=g) + .3 * torch.randn(24, 64, generator=g)[poses]
    found = [(*pose_mmd(codes.to(device), poses, range(24)), measures.pose_probe(codes.to(device), poses, objects))
             for device in (GPU, torch.device("cpu"))]
    (matrix, mean, probe), (known_matrix, known_mean, known_probe) = found
    assert mean == pytest.approx(known_mean, rel=1e-5) and mean > .1
    torch.testing.assert_close(matrix, known_matrix, rtol=1e-5, atol=1e-6)
    assert probe["accuracy"] == pytest.approx(known_probe["accuracy"], abs=.03) and probe["accuracy"] > .2
    assert probe["chance"] == known_probe["chance"]


def test_matches_are_those_of_the_cpu(data):
    """Their targets: among objects that fit equally well, rounding decides which comes first."""
    import numpy as np
    from datasets import CVPR18
    from inference import Model
    from losses.matches import open_matches
    options = script().parse(["--mode=train", *TINY, "--lambda_near=.5"])
    cars = CVPR18(data, [CAR], "train", data / ".cache")
    found = []
    for device in (GPU, torch.device("cpu")):
        torch.manual_seed(0)
        model, matches = Model(vars(options)).to(device), open_matches(options, cars, device)
        matches.find(model, np.random.default_rng(0))
        assert matches.numbers.device.type == matches.weights.device.type == device.type
        found.append([part.cpu() for part in matches.of(torch.arange(len(cars), device=device))])
    (targets, cameras), (expected, same) = found
    torch.testing.assert_close(targets, expected, atol=.01, rtol=0)
    assert torch.equal(cameras, same) and len(expected.unique(dim=0)) > 20


@pytest.mark.parametrize("there, here", [(GPU, torch.device("cpu")), (torch.device("cpu"), GPU)], ids=str)
def test_a_run_goes_on_on_another_device(there, here):
    one, other = trainer_of("--mode=train", device=there), trainer_of("--mode=train", device=here)
    for step in (1, 2, 3):
        one.step(step, feed_of("FromFiles", there).batch(step))
    other.load(one.state())
    values, _ = other.step(4, feed_of("FromFiles", here).batch(4))
    assert {k: float(v) for k, v in values.items()} == pytest.approx(
        {k: float(v) for k, v in one.step(4, feed_of("FromFiles", there).batch(4))[0].items()}, rel=1e-2)
    assert all(type(group["lr"]) is float for s in other.state()["optimizers"].values() for group in s["param_groups"])


def test_more_memory_than_there_is_ends_in_a_sentence():
    from engine import devices
    from errors import InputError
    options = script().parse(["--mode=train"])
    with pytest.raises(InputError, match=r"asked the GPU for [\d.]+ GiB, more than is free \([\d.]+ \w+ of"), \
            devices.failures_told(options):
        torch.empty(1 << 42, device=GPU)


def test_a_checkpoint_on_its_way_to_the_disk_stays_what_it_was():
    """The checkpoint is copied to pinned memory, which every checkpoint reuses, while the weights keep changing."""
    from engine.scribe import Scribe
    trainer, feed, seen = trainer_of("--mode=train"), feed_of("Resident"), []
    writer = Scribe(GPU)
    for step in range(1, 9):
        trainer.step(step, feed.batch(step))
        if step % 4 == 0:
            was = {k: v.cpu().clone() for k, v in trainer.model.encoder.state_dict().items()}
            copy = writer.copied(trainer.state())
            places = {k: v.data_ptr() for k, v in copy["models"]["E"].items()}
            seen.append((copy, was, places))
            trainer.step(step, feed.batch(step))
            torch.cuda.synchronize()
            assert all(torch.equal(copy["models"]["E"][k], v) and copy["models"]["E"][k].is_pinned()
                       for k, v in was.items())
    writer.close()
    assert seen[0][2] == seen[1][2]


@pytest.mark.parametrize("more", [(), ("--cuda_graph=off", "--data_on=host")], ids=["recorded", "from the host"])
def test_resume_with_deterministic_is_exact(data, tmp_path, more):
    steps = ("--mode=train", "--data_dir", data, "--class_ids", CAR, *TINY, "--lambda_adv=1", "--ckpt_step=4",
             "--log_step=1", "--device=cuda", "--deterministic", *more)
    assert call(*steps, "--n_iters=12", "--ckpt_dir", tmp_path / "whole") == 0
    assert call(*steps, "--n_iters=8", "--ckpt_dir", tmp_path / "cut") == 0
    assert call(*steps, "--n_iters=12", "--ckpt_dir", tmp_path / "cut", "--resume") == 0
    one, other = (checkpoint(tmp_path / name) for name in ("whole", "cut"))
    assert not [d for d in differences(one["models"], other["models"])] and one["best"] == other["best"]
    torch.use_deterministic_algorithms(False)
