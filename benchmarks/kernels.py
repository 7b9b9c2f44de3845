"""Measure rasteriser and voxeliser on noisy predicted meshes, trimesh's voxeliser in the same run, a textured
teapot, and the import.

    python benchmarks/kernels.py            writes benchmarks/results/kernels.json
"""
import os
import runpy
import subprocess
import sys

import torch
import trimesh

import neural_renderer as nr
from common import ROOT, keep, milliseconds, noisy_predictions
from datasets import CVPR18
from losses import silhouette_loss
from models import icosphere
from neural_renderer import vertices_to_faces
from voxelization import voxelize, voxelize_solid


def textured_teapot(batch=4, size=256):
    """rgb of a teapot of 2464 faces from four sides; the loss is the squared difference to another one."""
    vertices, faces = runpy.run_path(os.path.join(ROOT, "cuda", "examples", "common.py"))["teapot"]()
    renderer = nr.Renderer(size, camera_mode="look_at")
    renderer.eye = nr.get_points_from_angles(torch.full((batch,), 2.732), torch.full((batch,), 30.0),
                                             torch.arange(batch) * 360.0 / batch)
    generator = torch.Generator().manual_seed(0)
    textures = torch.rand(batch, len(faces), 4, 4, 4, 3, generator=generator).requires_grad_()
    vertices = vertices.expand(batch, -1, -1).clone().requires_grad_()

    def forward():
        return renderer.render_rgb(vertices, faces, textures)

    with torch.no_grad():
        moved = vertices + 0.02 * torch.randn(vertices.shape, generator=generator)
        target = renderer.render_rgb(moved, faces, torch.rand(textures.shape, generator=generator))
    images = forward()
    cotangent, = torch.autograd.grad((images - target).square().mean(), images)
    return {"batch": batch, "forward_ms": milliseconds(forward), "forward_backward_ms": milliseconds(
        lambda: torch.autograd.grad(forward(), (vertices, textures), cotangent))}


def import_over_torch(repeats=9):
    """Milliseconds that `import neural_renderer` adds to `import torch`."""
    program = ("import time, torch; start = time.perf_counter(); import neural_renderer; "
               "print(1e3 * (time.perf_counter() - start))")
    return sorted(float(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True,
                                       check=True).stdout) for _ in range(repeats))[repeats // 2]


def silhouettes(vertices, faces, views, targets):
    """Anti-aliased silhouettes of 64 px, with the gradient of the silhouette loss."""
    renderer = CVPR18.renderer(64)
    screen = CVPR18.project(vertices, views).requires_grad_()

    def forward():
        return renderer.render_silhouettes(screen, faces)

    images = forward()
    loss = silhouette_loss(images, targets)
    cotangent, = torch.autograd.grad(loss, images)
    return {"batch": len(vertices), "iou_loss": round(float(loss.detach()), 3), "forward_ms": milliseconds(forward),
            "forward_backward_ms": milliseconds(lambda: torch.autograd.grad(forward(), screen, cotangent))}


def main(batch=128):
    vertices, faces, views, targets = noisy_predictions(batch)
    sphere = 0.3 * icosphere(3)[0].expand(batch, -1, -1)
    first = sphere + 0.002 * torch.randn(sphere.shape, generator=torch.Generator().manual_seed(0))
    corners = vertices_to_faces(vertices * 31 / 32 + 0.5, faces)
    cores = torch.get_num_threads()

    def per_mesh(work):
        timed = milliseconds(work)
        return {k: round(v * cores / batch, 4) for k, v in timed.items()}

    one = trimesh.Trimesh(vertices[0].numpy() + 0.5, faces.numpy(), process=False)
    keep("kernels", {
        "silhouettes_64px_anti_aliased_1280_faces": silhouettes(vertices, faces, views, targets),
        "the_same_of_spheres_as_training_begins": silhouettes(first, faces, views, targets),
        "rgb_256px_anti_aliased_2464_faces_4_texels": textured_teapot(),
        "import_over_torch_ms": round(import_over_torch(), 1),
        "voxels_32_1280_faces_ms_per_mesh_and_core": {
            "published_rule": per_mesh(lambda: voxelize(corners, 32, dtype=torch.bool)),
            "solid_rule": per_mesh(lambda: voxelize_solid(corners, 32, dtype=torch.bool)),
            "trimesh_voxelized_fill": milliseconds(lambda: one.voxelized(1 / 32).fill(), 5, 1)}})


if __name__ == "__main__":
    main()
