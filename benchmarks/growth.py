"""Measure how the cost grows with meshes, faces, pixels, cells and objects, and the cost of other programs.

    python benchmarks/growth.py [--device=cuda]      writes benchmarks/results/growth_<device>.json

The mesh is a sphere with bumps, seen from random sides. The other programs, if installed, are trimesh's voxeliser,
Open3D's voxeliser and ray casting, and Embree (embreex): the fastest known ways to a voxel grid and to a silhouette on
a CPU. They cast one ray per sample and give no gradient.
"""
import argparse
import tempfile
import time

import numpy as np
import torch

import neural_renderer as nr
from common import keep, make_files, milliseconds
from engine.feed import open_feed
from loop import Sampler
from models import icosphere
from voxelization import voxelize


def meshes(batch, subdivisions, device):
    """(B, V, 3) in [-0.5, 0.5]^3 and (F, 3)."""
    vertices, faces = icosphere(subdivisions)
    g = torch.Generator().manual_seed(0)
    phase, scale = torch.rand(batch, 1, 3, generator=g) * 6, 0.7 + 0.3 * torch.rand(batch, 1, 3, generator=g)
    bumps = 1 + 0.2 * torch.sin(5 * vertices + phase).sum(2, keepdim=True) / 3
    return (0.42 * vertices * scale * bumps).to(device), faces.to(device)


def renderer_of(batch, size, device):
    renderer = nr.Renderer(size, camera_mode="look_at", viewing_angle=15)
    azimuth = torch.arange(batch) * 360.0 / batch
    eye = nr.get_points_from_angles(torch.full_like(azimuth, 2.732), torch.full_like(azimuth, 30.0), azimuth)
    renderer.eye = eye.to(device)
    return renderer


def timed(work, device, repeats):
    def whole():
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    return milliseconds(whole, repeats, 2)["median"]


def silhouettes(batch, subdivisions, size, device, repeats=7):
    vertices, faces = meshes(batch, subdivisions, device)
    renderer = renderer_of(batch, size, device)
    vertices.requires_grad_()
    target = renderer.render_silhouettes(vertices.detach().flip(2), faces)

    def both():
        torch.autograd.grad((renderer.render_silhouettes(vertices, faces) - target).square().sum(), vertices)

    with torch.no_grad():
        forward = timed(lambda: renderer.render_silhouettes(vertices, faces), device, repeats)
    return {"batch": batch, "faces": len(faces), "pixels": size, "forward_ms": forward,
            "forward_backward_ms": timed(both, device, repeats)}


def voxels(batch, subdivisions, size, device, repeats=7):
    vertices, faces = meshes(batch, subdivisions, device)
    corners = nr.vertices_to_faces(vertices * 31 / 32 + 0.5, faces)
    return {"batch": batch, "faces": len(faces), "cells": size,
            "ms": timed(lambda: voxelize(corners, size, dtype=torch.bool), device, repeats)}


def objects(count, batch=128):
    """Times for a CVPR18 class with `count` objects of 24 views: the first opening, another opening, and a batch."""
    with tempfile.TemporaryDirectory() as folder:
        opening, seconds = make_files(folder, count, "train"), []
        for _ in range(2):
            start = time.perf_counter()
            data = opening()
            seconds.append(round(time.perf_counter() - start, 3))
        feed = open_feed(data, Sampler(len(data), batch, 0), torch.device("cpu"), slice(None))
        step = iter(range(1, 1000))
        return {"objects": count, "first_opening_s": seconds[0], "second_opening_s": seconds[1],
                "batch_ms": milliseconds(lambda: feed.batch(next(step)))["median"]}


def peers(size=64, subdivisions=3, repeats=5):
    """Times of this program and of others for one mesh, in ms."""
    try:
        import trimesh
    except ImportError as error:
        return f"not installed: {error}"
    cpu = torch.device("cpu")
    vertices, faces = meshes(1, subdivisions, cpu)
    renderer = renderer_of(1, size, cpu)
    mesh = trimesh.Trimesh(vertices[0].numpy().astype(float), faces.numpy(), process=False)
    with torch.no_grad():
        ours = timed(lambda: renderer.render_silhouettes(vertices, faces), cpu, repeats)
        covered = int(renderer.render_silhouettes(vertices, faces).sum())
    corners = nr.vertices_to_faces(vertices + 0.5, faces)
    result = {"silhouette_samples": (2 * size) ** 2, "covered_pixels": covered, "silhouette_ours": ours,
              "voxels_32_ours": timed(lambda: voxelize(corners, 32), cpu, repeats),
              "voxels_32_trimesh": timed(lambda: mesh.voxelized(1 / 32).fill(), cpu, repeats)}
    # A ray through every sample, from the same eye.
    eye = renderer.eye[0].numpy().astype(np.float64)
    z = -eye / np.linalg.norm(eye)
    x = np.cross([0, 1, 0], z)
    x /= np.linalg.norm(x)
    y, tan, n = np.cross(z, x), np.tan(np.radians(15)), 2 * size
    at = (2 * np.arange(n) + 1 - n) / n * tan
    rays = (z + at[None, :, None] * x - at[:, None, None] * y).reshape(-1, 3)
    origins = np.broadcast_to(eye, rays.shape).copy()
    try:
        from trimesh.ray.ray_pyembree import RayMeshIntersector
        embree = RayMeshIntersector(mesh)
        hit = embree.intersects_any(origins, rays)
        result |= {"silhouette_embree": timed(lambda: embree.intersects_any(origins, rays), cpu, repeats),
                   "silhouette_embree_covered_pixels": int(hit.sum() / 4)}
    except ImportError as error:
        result["silhouette_embree"] = f"not installed: {error}"
    try:
        import open3d
        shape = open3d.geometry.TriangleMesh(open3d.utility.Vector3dVector(mesh.vertices),
                                             open3d.utility.Vector3iVector(mesh.faces))
        tensor = open3d.t.geometry.TriangleMesh.from_legacy(shape)
        lines = open3d.core.Tensor(np.concatenate([origins, rays], 1).astype(np.float32))

        def cast():
            scene = open3d.t.geometry.RaycastingScene()
            scene.add_triangles(tensor)
            return scene.test_occlusions(lines)

        result |= {"silhouette_open3d": timed(cast, cpu, repeats), "voxels_32_open3d_surface_only": timed(
            lambda: open3d.geometry.VoxelGrid.create_from_triangle_mesh(shape, 1 / 32), cpu, repeats)}
    except ImportError as error:
        result["silhouette_open3d"] = f"not installed: {error}"
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    many = 1024 if device.type == "cuda" else 64
    keep(f"growth_{device.type}", {
        "silhouettes": [silhouettes(*sizes, device) for sizes in (
            (1, 3, 64), (8, 3, 64), (128, 3, 64), (many, 3, 64),                  # meshes
            (16, 2, 64), (16, 3, 64), (16, 4, 64), (16, 5, 64),                   # faces
            (16, 3, 32), (16, 3, 128), (16, 3, 256), (16, 4, 256), (16, 5, 256))],  # pixels
        "voxels": [voxels(*sizes, device) for sizes in (
            (1, 3, 32), (128, 3, 32), (many, 3, 32), (16, 2, 32), (16, 4, 32), (16, 5, 32), (16, 3, 64),
            (16, 3, 128))],
        **({"objects": [objects(count) for count in (100, 400, 1600)]} if device.type == "cpu" else {}),
        "peers_one_mesh_ms": peers()})


if __name__ == "__main__":
    main()
