"""Measure kernels, training steps and evaluation on a GPU.

    python benchmarks/gpu.py            writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --only kernels "trainCVPR19, bf16"    only parts whose names contain one of these; the
                                        other parts of the file stay, and each says of which commit it is
    python benchmarks/gpu.py --short    every kernel once, small, for compute-sanitizer; writes nothing

Needs torch with CUDA, nvcc and kernels built with it, nothing else that is not in requirements.txt.
"""
import argparse
import ctypes
import itertools
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import torch

import common
import neural_renderer as nr
from datasets import CVPR18
from engine.devices import resolve
from engine.feed import open_feed
from scoring import mean_shapes, score
from loop import Sampler
from losses import MeshTopology, silhouette_loss, smoothness_loss
from training import Trainer
from voxelization import overlap, voxelize

GPU = torch.device("cuda", 0)


def microseconds(work, repeats=200, rounds=5):
    """The time of one call by the GPU's clock: the median over rounds of many calls without a pause."""
    work()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            work()
        end.record()
        end.synchronize()
        times.append(1e3 * start.elapsed_time(end) / repeats)
    return round(sorted(times)[rounds // 2], 2)


def recorded(work):
    """The same work as a CUDA graph, to measure the kernels without the time of launching them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def both_ways(work, **more):
    return {"as_it_is_us": microseconds(work, **more), "as_a_graph_us": microseconds(recorded(work), **more)}


def kernels(batch=128, meshes=1024):
    vertices, faces, views, targets = (t.to(GPU) for t in common.noisy_predictions(batch))
    renderer = CVPR18.renderer(64)
    screen = CVPR18.project(vertices, views)
    with torch.no_grad():
        images = renderer.render_silhouettes(screen, faces)
    images.requires_grad_()
    cotangent, = torch.autograd.grad(silhouette_loss(images, targets), images)
    topology = MeshTopology(faces).to(GPU)

    def forward():
        with torch.no_grad():
            return renderer.render_silhouettes(screen, faces)

    def there_and_back():  # a new leaf: a leaf from another stream could not be recorded
        moved = screen.detach().requires_grad_()
        return torch.autograd.grad(renderer.render_silhouettes(moved, faces), moved, cotangent)

    def smooth():
        moved = vertices.detach().requires_grad_()
        return torch.autograd.grad(smoothness_loss(moved, topology), moved)
    torch.use_deterministic_algorithms(True)
    deterministic = both_ways(there_and_back)
    torch.use_deterministic_algorithms(False)
    corners = nr.vertices_to_faces(vertices * 31 / 32 + 0.5, faces).repeat(meshes // batch, 1, 1, 1)
    voxels = microseconds(lambda: voxelize(corners, 32, dtype=torch.bool), repeats=20)
    grids = voxelize(corners, 32, dtype=torch.bool)
    return {
        "silhouettes_64px_anti_aliased_1280_faces": {
            "batch": batch, "forward": both_ways(forward), "forward_backward": both_ways(there_and_back),
            "forward_backward_deterministic": deterministic},
        "smoothness_forward_backward": both_ways(smooth),
        "voxels_32_1280_faces_us_a_mesh": {
            "batch": meshes, "with_the_check": round(voxels / meshes, 4), "as_a_graph": round(
            microseconds(recorded(lambda: voxelize(corners, 32, dtype=torch.bool)), repeats=20) / meshes, 4)},
        "cells_counted_us_a_mesh": {"batch": meshes, "as_it_is": round(
            microseconds(lambda: overlap(grids, grids[:1]), repeats=20) / meshes, 4)}}


def every_face(folder, batch=128, size=64):
    """Compare our silhouettes with a kernel that tests every sample with every face (every_face.cu), forward only."""
    source, library = os.path.join(common.HERE, "every_face.cu"), os.path.join(folder, "every_face.so")
    subprocess.run([find_nvcc(), "-shared", "-Xcompiler", "-fPIC", "-O3", "--fmad=false", "-arch=native", source, "-o",
                    library], check=True)
    kernels = ctypes.CDLL(library)
    vertices, faces, views, _ = (t.to(GPU) for t in common.noisy_predictions(batch))
    screen, renderer, samples = CVPR18.project(vertices, views), CVPR18.renderer(size), 2 * size
    both_sides = torch.cat([faces, faces.flip(1)])

    def published(dtype):
        """Make the images (B, size, size) and face indices (B, samples, samples), -1 where nothing is drawn."""
        scale = torch.tensor([samples / 2, samples / 2, 1], dtype=torch.float64, device=GPU)
        shift = torch.tensor([(samples - 1) / 2, (samples - 1) / 2, 0], dtype=torch.float64, device=GPU)
        corners = nr.vertices_to_faces((screen.double() * scale + shift).to(dtype), both_sides).contiguous()
        index = torch.empty(batch, samples, samples, dtype=torch.int32, device=GPU)
        kernel = kernels.every_face_float if dtype == torch.float32 else kernels.every_face_double

        def draw():
            failed = kernel(ctypes.c_void_p(corners.data_ptr()), ctypes.c_void_p(index.data_ptr()),
                            ctypes.c_int64(batch), len(both_sides), samples, ctypes.c_double(renderer.near),
                            ctypes.c_double(renderer.far),
                            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream))
            if failed:
                raise RuntimeError(f"every_face.cu could not be started: CUDA error {failed}")
            return torch.nn.functional.avg_pool2d((index >= 0).float()[:, None], 2)[:, 0]
        return draw

    def ours():
        with torch.no_grad():
            return renderer.render_silhouettes(screen, faces)
    known, in_floats = ours(), published(torch.float32)
    figures = {"batch": batch, "faces_tested": len(both_sides), "samples": samples ** 2,
               "every_face_us": microseconds(in_floats, repeats=5), "ours_us": microseconds(recorded(ours)),
               "differing_pixels_in_float32": int((in_floats() != known).sum()),
               "differing_pixels_in_float64": int((published(torch.float64)() != known).sum())}
    return {**figures, "times_as_fast": round(figures["every_face_us"] / figures["ours_us"], 1)}


def find_nvcc():
    return shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"


def options(*arguments):
    return runpy.run_path(os.path.join(common.ROOT, "3D-GAN.py"), run_name="gan")["parse"](list(arguments))


def network_alone(trainer, batch):
    """One turn of each kind, without camera, rasteriser, mesh losses and image losses."""
    inputs = trainer.inputs(batch)

    def pair():
        for encoders_turn in (True, False):
            common.networks_step(trainer, common.networks_learn(trainer, inputs, encoders_turn))
    return pair


PRECISIONS = {"float32": [], "tf32": ["--tf32"], "bf16": ["--amp"], "float32, deterministic": ["--deterministic"]}


def steps(data, mode, precision, graph, count=200):
    """Milliseconds of a step in a loop as in training, and of only the networks."""
    chosen = options(f"--mode={mode}", "--device=cuda:0", f"--cuda_graph={graph}", *PRECISIONS[precision])
    resolve(chosen)
    torch.manual_seed(0)
    trainer = Trainer(chosen, GPU)
    feed = open_feed(data, Sampler(len(data), 128, 0), GPU, slice(None))
    for step in range(1, 21):
        trainer.step(step, feed.batch(step))
    if graph == "on" and not all(turn.graph for turn in trainer._turns.values()):
        raise RuntimeError("a step could not be recorded; the reason is in the note above")
    torch.cuda.synchronize()
    start = time.perf_counter()
    for step in range(21, 21 + count):
        trainer.step(step, feed.batch(step))
    torch.cuda.synchronize()
    figures = {"step_ms": round(1e3 * (time.perf_counter() - start) / count, 3)}
    if mode == "train" and graph == "on":
        work = network_alone(trainer, feed.batch(1))
        figures["network_alone_as_a_graph_ms"] = round(microseconds(recorded(work), repeats=50) / 2e3, 3)
        figures["seconds_of_20000_steps"] = round(20 * figures["step_ms"], 1)
    return figures


def evaluation(folder, train, objects=800):
    resolve(options("--mode=train", "--device=cuda:0"))
    trainer, data = Trainer(options("--mode=train"), GPU), common.make_files(folder, objects, "test")()
    grids, seconds = mean_shapes(train), []
    for _ in range(2):  # the first time, libraries load their kernels
        torch.cuda.synchronize()
        start = time.perf_counter()
        score(trainer.model, data, full=True, mean_grids=grids)
        seconds.append(round(time.perf_counter() - start, 2))
    return {"objects": objects, "views": 24, "seconds": seconds[0], "seconds_of_the_second_time": seconds[1]}


def short():
    """Every kernel, forward and backward, in both precisions."""
    from models import icosphere
    vertices, faces = icosphere(1)
    faces, topology = faces.to(GPU), MeshTopology(faces).to(GPU)
    for dtype in (torch.float32, torch.float64):
        shown = (0.6 * vertices + torch.tensor([0.1, 0, 2])).to(GPU, dtype).expand(3, -1, -1).clone().requires_grad_()
        textures = torch.rand(3, len(faces), 2, 2, 2, 3, device=GPU, dtype=dtype, requires_grad=True)
        renderer = nr.Renderer(24, camera_mode="none")
        for deterministic in (False, True):
            torch.use_deterministic_algorithms(deterministic)
            images = renderer.render(shown, faces, textures)
            torch.autograd.grad([i.sum() for i in images], (shown, textures))
        torch.use_deterministic_algorithms(False)
        torch.autograd.grad(renderer.render_silhouettes(shown, faces).square().sum(), shown)
        torch.autograd.grad(smoothness_loss(shown, topology), shown)
        place = torch.tensor([0.4, 0.5, -0.5], device=GPU)
        for size in (32, 5, 64):  # with and without words of eight cells; 64 needs global memory
            grids = voxelize(nr.vertices_to_faces(shown.detach() * 0.5 + place, faces), size, dtype=torch.bool)
            overlap(grids, grids[:1])
    torch.cuda.synchronize()
    print("every kernel ran")


def driver():
    try:
        found = subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], text=True,
                               capture_output=True).stdout.split()
    except OSError:
        found = []
    return found[0] if found else "unknown"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("error: there is no GPU here: torch.cuda.is_available() is False")
    if args.short:
        return short()
    record = {**(common.read("gpu") if args.only else {}), "gpu": torch.cuda.get_device_name(GPU), "driver": driver(),
              "cuda": torch.version.cuda}
    commits, failed = record.setdefault("commits", {}), []

    def measure(place, name, work, *arguments):
        """Measure one part and write the result before the next part begins. An error does not end the other parts."""
        if args.only and not any(wanted in name for wanted in args.only):
            return
        try:
            place[name] = work(*arguments)
        except Exception as error:
            traceback.print_exc()
            place[name] = {"failed": f"{type(error).__name__}: {error}"}
            failed.append(name)
        commits[name] = common.where()["commit"]
        common.write("gpu", record)
    with tempfile.TemporaryDirectory() as folder:
        data = common.make_files(folder, 500, "train")()
        measure(record, "kernels", kernels)
        measure(record, "every_face", every_face, folder)
        measure(record, "evaluation", evaluation, folder, data)
        figures = record.setdefault("training_step_batch_128", {})
        for case in itertools.product(("train", "trainCVPR19"), PRECISIONS, ("on", "off")):
            measure(figures, "{}, {}, graph {}".format(*case), steps, data, *case)
    common.keep("gpu", record)
    if failed:
        sys.exit("error: failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
