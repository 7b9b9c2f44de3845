"""Rasteriser and voxeliser on noisy predicted meshes, with trimesh's voxeliser in the same run.

    python benchmarks/kernels.py            writes benchmarks/results/kernels.json
"""
import torch
import trimesh

from common import keep, milliseconds, noisy_predictions
from datasets import CVPR18
from losses import silhouette_loss
from neural_renderer import vertices_to_faces
from voxelization import voxelize, voxelize_solid


def main(batch=128):
    vertices, faces, views, targets = noisy_predictions(batch)
    renderer = CVPR18.renderer()
    screen = CVPR18.project(vertices, views).requires_grad_()

    def forward():
        return renderer.render_silhouettes(screen, faces)

    images = forward()
    cotangent, = torch.autograd.grad(silhouette_loss(images, targets), images)

    def both():
        torch.autograd.grad(forward(), screen, cotangent)

    corners = vertices_to_faces(vertices * 31 / 32 + 0.5, faces)
    cores = torch.get_num_threads()

    def per_mesh(work):
        timed = milliseconds(work)
        return {k: round(v * cores / batch, 4) for k, v in timed.items()}

    one = trimesh.Trimesh(vertices[0].numpy() + 0.5, faces.numpy(), process=False)
    keep("kernels", {
        "silhouettes_64px_anti_aliased_1280_faces": {
            "batch": batch, "iou_loss": round(float(silhouette_loss(images.detach(), targets)), 3),
            "forward_ms": milliseconds(forward), "forward_backward_ms": milliseconds(both)},
        "voxels_32_1280_faces_ms_per_mesh_and_core": {
            "published_rule": per_mesh(lambda: voxelize(corners, 32, dtype=torch.bool)),
            "solid_rule": per_mesh(lambda: voxelize_solid(corners, 32, dtype=torch.bool)),
            "trimesh_voxelized_fill": milliseconds(lambda: one.voxelized(1 / 32).fill(), 5, 1)}})


if __name__ == "__main__":
    main()
