"""Measure the MMD matrix of the codes of a CVPR18 test split: 24 poses, 800 objects, codes of 512.

    python benchmarks/mmd.py      writes benchmarks/results/mmd.json
"""
import torch

from common import keep, milliseconds
from metrics import mmd_matrix


def main(poses=24, objects=800, length=512):
    generator = torch.Generator().manual_seed(0)
    groups = [torch.randn(objects, length, generator=generator) for _ in range(poses)]
    keep("mmd", {"poses": poses, "objects": objects, "latent_dim": length,
                 "matrix_ms": milliseconds(lambda: mmd_matrix(groups), 3, 1)})


if __name__ == "__main__":
    main()
