"""The CUDA kernels, run on the CPU by tests/helpers/cuda_on_cpu.h, compared with the CPU kernels. No GPU is
needed. After every barrier the threads run in a new order."""
import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pybind11
import pytest
import torch
from engine.devices import failures_told
from errors import DeviceError
from neural_renderer.ops import add_shares

CSRC = Path(__file__).resolve().parents[2] / "cuda" / "csrc"
EMULATOR = Path(__file__).resolve().parents[1] / "helpers" / "cuda_on_cpu.h"


def built(folder, sources):
    """Build the extension from these sources, with its CUDA part compiled as C++."""
    target = folder / f"_kernels{sysconfig.get_config_var('EXT_SUFFIX')}"
    run = subprocess.run(
        ["g++", "-O1", "-std=c++17", "-fPIC", "-shared", "-ffp-contract=off", "-DNR_NO_CLONES", "-w",
         '-DNR_WITH_CUDA="emulated"', f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}",
         "-include", str(EMULATOR), "-x", "c++", *(str(CSRC / s) for s in sources), "-o", str(target), "-lpthread"],
        capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    spec = importlib.util.spec_from_file_location(f"{folder.name}._kernels", target)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def rasterizer(tmp_path_factory):
    return built(tmp_path_factory.mktemp("rasterizer"), [
        "renderer_module.cpp", "rasterize_forward_cpu.cpp", "rasterize_backward_cpu.cpp", "rasterize_cuda.cu",
        "smoothness_cpu.cpp", "smoothness_cuda.cu"])


@pytest.fixture(scope="session")
def voxelizer(tmp_path_factory):
    return built(tmp_path_factory.mktemp("voxelizer"), ["voxel_module.cpp", "voxelize_cpu.cpp", "voxelize_cuda.cu"])


class Scene:
    """Random meshes and their arrays; `draw` and `pull_back` run one of the two implementations."""

    def __init__(self, module, dtype, seed=0, B=3, V=40, F=60, H=13, W=18, samples=2, T=3, spread=0.8,
                 shared=False, coloured=False, near=0.1, depths=(0.5, 1.5)):
        g = torch.Generator().manual_seed(seed)
        self.module, self.dtype, self.suffix = module, dtype, str(dtype)[6:]
        self.sizes = dict(B=B, V=V, F=F, H=H, W=W, S=samples, T=0 if coloured else T, near=near, far=100.0, eps=1e-3,
                          fill_back=True, perspective=True, threads=1)
        self.coloured = coloured
        screen = (torch.rand(B, V, 2, generator=g) - 0.5) * 2 * spread
        depth = depths[0] + (depths[1] - depths[0]) * torch.rand(B, V, 1, generator=g)
        self.vertices = torch.cat([screen, depth], 2).to(dtype)
        self.faces = torch.randint(0, V, (1 if shared else B, F, 3), generator=g, dtype=torch.int32)
        self.textures = torch.rand(B, F, T, T, T, 3, generator=g).to(dtype)
        self.colours = torch.rand(B, V, 3, generator=g).to(dtype)
        self.light = torch.rand(B, F, 2, 3, generator=g).to(dtype)
        self.background = torch.rand(B, 3, generator=g).to(dtype)
        self.generator = g

    def arguments(self, **tensors):
        inputs = dict(vertices=self.vertices, faces=self.faces, light=self.light, background=self.background)
        inputs["colours" if self.coloured else "textures"] = self.colours if self.coloured else self.textures
        absent = dict.fromkeys({"colours", "textures"} - set(inputs))
        shared = len(self.faces) == 1 < self.sizes["B"]
        return dict(self.sizes, faces_stride=0 if shared else self.sizes["F"] * 3,
                    textures_stride=self.textures[:1].numel(), colours_stride=self.colours[:1].numel(), **absent,
                    **{k: t.data_ptr() if t is not None else None for k, t in {**inputs, **tensors}.items()})

    def call(self, name, cuda, args, **more):
        if cuda:
            bytes_needed = getattr(self.module, f"{name}_workspace")(**{k: args[k] for k in "BFHWS"})
            workspace = torch.full((bytes_needed,), 0x55, dtype=torch.uint8)
            args = dict(args, device=0, stream=0, workspace=workspace.data_ptr(), **more)
        getattr(self.module, f"{name}{'_cuda' if cuda else ''}_{self.suffix}")(args)

    def draw(self, cuda, wanted=("rgb", "alpha", "depth")):
        B, H, W, S = (self.sizes[k] for k in "BHWS")
        images = dict.fromkeys(("rgb", "rgb_samples", "alpha", "depth")) | {"face_index": torch.full((B, S * H, S * W), -7, dtype=torch.int32)}
        if "rgb" in wanted:
            images |= {"rgb": torch.full((B, 3, H, W), -7, dtype=self.dtype),
                       "rgb_samples": torch.full((B, S * H, S * W, 3), -7, dtype=self.dtype)}
        images |= {k: torch.full((B, H, W), -7, dtype=self.dtype) for k in ("alpha", "depth") if k in wanted}
        self.call("forward", cuda, self.arguments(**images))
        return {k: image for k, image in images.items() if image is not None}

    def cotangents(self, images, wanted):
        return {f"grad_{k}": torch.randn(images[k].shape, generator=self.generator).to(self.dtype) for k in wanted}

    def pull_back(self, cuda, images, cotangents, shares=False):
        grads = {"grad_vertices": torch.zeros_like(self.vertices)}
        if "grad_rgb" in cotangents:
            name = "colours" if self.coloured else "textures"
            grads |= {f"grad_{name}": torch.zeros_like(getattr(self, name)), "grad_light": torch.zeros_like(self.light)}
        kept = {k: images.get(k) for k in ("face_index", "rgb_samples")}
        kept |= {f"grad_{k}": None for k in ("rgb", "alpha", "depth", "textures", "colours", "vertices", "light")}
        corners = (self.sizes["B"], self.sizes["F"], 3)
        shared = {"edge_shares": torch.zeros(*corners, 2, 2, dtype=self.dtype),
                  "sample_shares": torch.zeros(*corners, 3, dtype=self.dtype),
                  "colour_shares": torch.zeros(*corners, 3, dtype=self.dtype)} if shares else {}
        names = ("edge_shares", "sample_shares", "colour_shares") if cuda else ()
        self.call("backward", cuda, self.arguments(**{**kept, **cotangents, **grads}),
                  **{k: shared[k].data_ptr() if shared else None for k in names})
        return {**grads, **shared}


SCENES = {"small": {}, "one sample, shared faces": dict(samples=1, shared=True, seed=1),
          "large faces": dict(F=5, V=9, H=40, W=30, spread=1.5, seed=2), "no texture detail": dict(T=1, seed=3),
          "many small faces": dict(F=300, V=400, H=64, W=64, spread=0.9, seed=4, B=2),
          "colours of vertices": dict(coloured=True, seed=6), "shared colours": dict(coloured=True, shared=True, seed=7),
          "behind the eye": dict(depths=(-1.0, 1.0), F=20, seed=8),
          "behind the eye in colour": dict(depths=(-0.5, 1.0), F=20, coloured=True, near=0.0, seed=9),
          "all around the eye": dict(depths=(-1.0, 1.0), F=300, V=400, H=30, W=30, seed=10, B=2, near=0.2),
          "many faces to a block": dict(B=130, F=300, T=1, shared=True, seed=5)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SCENES)
def test_images_are_those_of_the_cpu_to_the_bit(rasterizer, name, dtype):
    scene = Scene(rasterizer, dtype, **SCENES[name])
    here, there = scene.draw(False), scene.draw(True)
    assert (here["face_index"] >= 0).any() and (here["face_index"] < 0).any()
    for image in here:
        assert torch.equal(here[image], there[image]), image


@pytest.mark.parametrize("wanted", [("alpha",), ("rgb",), ("rgb", "alpha", "depth"), ("depth",)])
@pytest.mark.parametrize("name", SCENES)
def test_gradients_are_those_of_the_cpu(rasterizer, name, wanted):
    scene = Scene(rasterizer, torch.float64, **SCENES[name])
    images = scene.draw(False, wanted)
    cotangents = scene.cotangents(images, wanted)
    here, there = (scene.pull_back(cuda, images, cotangents) for cuda in (False, True))
    for k in here:  # sums in another order
        assert torch.allclose(here[k], there[k], rtol=1e-9, atol=1e-9), k
    assert here["grad_vertices"].abs().max() > 0


def test_float32_gradients_differ_by_rounding_alone(rasterizer):
    scene = Scene(rasterizer, torch.float32, **SCENES["many small faces"])
    images = scene.draw(False, ("alpha",))
    cotangents = scene.cotangents(images, ("alpha",))
    here, there = (scene.pull_back(cuda, images, cotangents)["grad_vertices"] for cuda in (False, True))
    assert (here - there).abs().max() < 2e-5 * here.abs().max()


@pytest.mark.parametrize("wanted", [("alpha",), ("rgb",), ("depth",), ("rgb", "alpha", "depth")])
@pytest.mark.parametrize("name", SCENES)
def test_gradients_in_a_fixed_order(rasterizer, name, wanted):
    """Deterministic gradients: the kernels' shares of the corners, summed by neural_renderer."""
    scene = Scene(rasterizer, torch.float64, **SCENES[name])
    images = scene.draw(False, wanted)
    cotangents = scene.cotangents(images, wanted)
    expected = scene.pull_back(False, images, cotangents)
    first, second = (scene.pull_back(True, images, cotangents, shares=True) for _ in range(2))
    assert not first["grad_vertices"].any()
    for k in first:
        assert torch.equal(first[k], second[k]), k
    faces = scene.faces.expand(scene.sizes["B"], -1, -1)
    add_shares(first["grad_vertices"], faces, first["edge_shares"].sum(3))
    add_shares(first["grad_vertices"], faces, first["sample_shares"])
    if scene.coloured and "rgb" in wanted:
        add_shares(first["grad_colours"], faces, first["colour_shares"])
    for k in expected:
        assert torch.allclose(first[k], expected[k], rtol=1e-9, atol=1e-9), k
        assert expected[k].abs().max() > 0


def test_faces_with_indices_out_of_range_are_drawn_as_nothing(rasterizer):
    scene = Scene(rasterizer, torch.float32)
    good = scene.draw(False)
    kept = scene.faces.clone()
    scene.faces = torch.cat([kept, kept[:, :4]], 1)
    scene.faces[:, -4:, 1] = torch.tensor([-1, 40, 2 ** 31 - 1, -2 ** 31], dtype=torch.int32)
    scene.sizes["F"] += 4
    scene.textures = torch.cat([scene.textures, scene.textures[:, :4]], 1)
    scene.light = torch.cat([scene.light, scene.light[:, :4]], 1)
    bad = scene.draw(True)
    for image in ("rgb", "alpha", "depth"):
        assert torch.equal(good[image], bad[image])
    cotangents = scene.cotangents(bad, ("alpha",))
    expected = scene.pull_back(True, bad, cotangents)["grad_vertices"]
    total = torch.zeros_like(expected)
    add_shares(total, scene.faces, scene.pull_back(True, bad, cotangents, shares=True)["edge_shares"].sum(3))
    assert torch.allclose(total, expected, rtol=1e-4, atol=1e-5) and expected.abs().max() > 0.1


def test_cuda_errors_have_the_words_of_torch(rasterizer, voxelizer, monkeypatch):
    scene, grids, counts = Scene(rasterizer, torch.float32), torch.ones(2, 8, dtype=torch.uint8), torch.zeros(2, 2).long()
    monkeypatch.setenv("CUDA_ON_CPU_FAILS", "1")
    for call in (lambda: scene.draw(True), lambda: voxelizer.overlap_cuda(
            0, 0, grids.data_ptr(), grids.data_ptr(), 2, 8, 8, counts.data_ptr())):
        with pytest.raises(DeviceError, match="CUDA error: an illegal memory access, seen while"), \
                failures_told(SimpleNamespace()):
            call()


def test_nothing_to_draw(rasterizer):
    for sizes in (dict(F=0), dict(B=0)):
        scene = Scene(rasterizer, torch.float32, **sizes)
        here, there = scene.draw(False), scene.draw(True)
        assert all(torch.equal(here[k], there[k]) for k in here)
        scene.pull_back(True, there, {"grad_alpha": torch.ones_like(there["alpha"])})


@pytest.mark.parametrize("change, words", [
    ({"grad_vertex": 0}, "unknown kernel argument 'grad_vertex'"), ({"near": "close"}, "'near' has the wrong type"),
    ({"alpha": ...}, "'alpha' is missing"), ({"faces": 1.5}, "'faces' has the wrong type")])
def test_arguments_that_are_unknown_missing_or_wrong_are_errors(rasterizer, change, words):
    scene = Scene(rasterizer, torch.float32)
    B, H, W, S = (scene.sizes[k] for k in "BHWS")
    index = torch.zeros(B, S * H, S * W, dtype=torch.int32)
    arguments = scene.arguments(face_index=index, rgb=None, rgb_samples=None, alpha=None, depth=None) | change
    with pytest.raises(TypeError, match=words):
        rasterizer.forward_float32({k: v for k, v in arguments.items() if v is not ...})
    with pytest.raises(TypeError):
        rasterizer.forward_cuda_float32({**arguments, "device": 0, "stream": 0, "workspace": None, "alpha": ...})


@pytest.mark.parametrize("B, E", [(1, 1), (3, 300), (0, 4), (2, 0)])
def test_smoothness_is_that_of_the_cpu(rasterizer, B, E):
    g = torch.Generator().manual_seed(E)
    vertices = torch.randn(B, 50, 3, generator=g, dtype=torch.float64)
    wings = torch.stack([torch.randperm(50, generator=g)[:4] for _ in range(E)] or [torch.zeros(4)], 1)[:, :E].int()
    results = []
    for name, where in (("smoothness_float64", {}), ("smoothness_cuda_float64", dict(device=0, stream=0))):
        loss, gradient = torch.zeros(B, dtype=torch.float64), torch.zeros_like(vertices)
        wings = wings.contiguous()
        getattr(rasterizer, name)(dict(B=B, V=50, E=E, eps=1e-6, threads=1, vertices=vertices.data_ptr(),
                                       wings=wings.data_ptr(), loss=loss.data_ptr(), gradient=gradient.data_ptr(),
                                       **where))
        results.append((loss, gradient))
    for here, there in zip(*results):
        assert torch.allclose(here, there, rtol=1e-9, atol=1e-9)


def test_edges_with_wrong_indices_are_skipped(rasterizer):
    """On a GPU no one checks the indices before; an access out of bounds would end the whole process."""
    g = torch.Generator().manual_seed(3)
    vertices = torch.randn(2, 9, 3, generator=g)
    wings = torch.stack([torch.randperm(9, generator=g)[:4] for _ in range(200)], 1).int()
    wrong = wings.clone()
    wrong[torch.arange(8) % 4, 25 * torch.arange(8)] = torch.tensor([-1, 9, 2 ** 31 - 1, -2 ** 31] * 2).int()
    right = (wrong == wings).all(0)
    results = []
    for edges in (wrong, wings[:, right].contiguous()):
        loss, gradient = torch.zeros(2), torch.zeros_like(vertices)
        rasterizer.smoothness_cuda_float32(dict(
            B=2, V=9, E=edges.shape[1], eps=1e-6, threads=1, device=0, stream=0, vertices=vertices.data_ptr(),
            wings=edges.data_ptr(), loss=loss.data_ptr(), gradient=gradient.data_ptr()))
        results.append((loss, gradient))
    for one, other in zip(*results):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-4)
    assert right.sum() == 192 and results[0][0].min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n, F", [(1, 80), (2, 80), (7, 80), (32, 300), (33, 80), (46, 129), (64, 80), (70, 200)])
def test_voxels_are_those_of_the_cpu_to_the_bit(voxelizer, n, F, dtype):
    """Also with more triangles than a block loads at a time, and with grids too large for shared memory."""
    g = torch.Generator().manual_seed(n)
    B = 3
    centre = torch.rand(B, F, 1, 3, generator=g) * 1.2 - 0.1
    triangles = (centre + (torch.rand(B, F, 3, 3, generator=g) - 0.5) * (40 / F)).to(dtype)
    triangles[0] = (triangles[0] * n).round() / n  # corners and edges on grid lines
    suffix = str(dtype)[6:]
    here, there = (torch.full((B, n, n, n), 7, dtype=torch.uint8) for _ in range(2))
    getattr(voxelizer, f"voxelize_{suffix}")(triangles.data_ptr(), here.data_ptr(), B, F, n, 0, 1)
    workspace = torch.full((max(1, voxelizer.workspace(B, n)),), 0x55, dtype=torch.uint8)
    bad = torch.tensor([B])
    getattr(voxelizer, f"voxelize_cuda_{suffix}")(0, 0, triangles.data_ptr(), there.data_ptr(), B, F, n,
                                                  workspace.data_ptr(), bad.data_ptr())
    assert torch.equal(here, there)
    assert int(bad) == B
    assert n < 7 or 0.01 < here.float().mean() < 0.99


@pytest.mark.parametrize("n, first", [(5, 0), (8, 0), (8, 3), (32, 0)])
def test_cells_are_counted_as_on_the_cpu(voxelizer, n, first):
    """Grids are read eight cells at a time if they are aligned to eight bytes, else cell by cell."""
    cells = n ** 3
    a, b = (torch.randint(2, (3 * cells + first,), dtype=torch.uint8)[first:] for _ in range(2))
    for stride in (cells, 0):
        here, there = (torch.full((3, 2), -1) for _ in range(2))
        voxelizer.overlap(a.data_ptr(), b.data_ptr(), 3, cells, stride, here.data_ptr(), 2)
        voxelizer.overlap_cuda(0, 0, a.data_ptr(), b.data_ptr(), 3, cells, stride, there.data_ptr())
        assert torch.equal(here, there) and here.min() > 0


def test_the_first_mesh_that_is_not_finite_is_named(voxelizer):
    triangles = torch.rand(4, 5, 3, 3)
    triangles[3, 1, 0, 0] = float("nan")
    triangles[2, 4, 2, 1] = float("inf")
    voxels, bad = torch.zeros(4, 8, 8, 8, dtype=torch.uint8), torch.tensor([4])
    voxelizer.voxelize_cuda_float32(0, 0, triangles.data_ptr(), voxels.data_ptr(), 4, 5, 8, 0, bad.data_ptr())
    assert int(bad) == 2
