"""Rotations of Pascal3D's cameras, and the pose bins of these."""
import warnings

import numpy as np
import torch

MARGIN = 0.15  # of an object's box, on each side: what an image shows around it
FLIP_X, MIRROR_Z = torch.diag(torch.tensor([-1.0, 1, 1])), torch.diag(torch.tensor([1.0, 1, -1]))


def mirrored(rotations):
    """Rotations (B, 3, 3) that see the objects' mirror images (z negated) as the mirror images of what the
    given ones see."""
    return FLIP_X.to(rotations) @ rotations @ MIRROR_Z.to(rotations)


def euler_bins(rotations):
    """(B,) int64 in [0, 512): 64 b0 + 8 b1 + b2, b = floor((angle + 180) / 45) of scipy's extrinsic Euler
    angles y, z, x; +-180 degrees count as +-179.9."""
    from scipy.spatial.transform import Rotation
    if not len(rotations):
        return torch.empty(0, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # gimbal lock: any of the equivalent angles will do
        angles = Rotation.from_matrix(rotations.double().numpy()).as_euler("yzx", degrees=True)
    bins = np.floor((angles.clip(-179.9, 179.9) + 180) / 45).astype(np.int64)
    return torch.from_numpy(bins @ np.array([64, 8, 1]))


def turntable_rotations(azimuth, elevation):
    """Rotations (B, 3, 3) of a right-handed viewer who stands at these angles (degrees) around +z, y up, and
    looks at the origin; the camera's x is reversed, as in the files."""
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    zero = torch.zeros_like(a)
    forward = -torch.stack([torch.cos(e) * torch.sin(a), torch.sin(e), torch.cos(e) * torch.cos(a)], 1)
    right = torch.stack([torch.cos(a), zero, -torch.sin(a)], 1)
    return torch.stack([-right, torch.linalg.cross(right, forward), forward], 1)
