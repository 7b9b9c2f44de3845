"""Rotations of Pascal3D's cameras and their pose bins."""
import warnings

import numpy as np
import torch

MARGIN = 0.15  # an image shows this fraction of the object's box around it on each side
FLIP_X, MIRROR_Z = torch.diag(torch.tensor([-1.0, 1, 1])), torch.diag(torch.tensor([1.0, 1, -1]))


def mirrored(rotations):
    """Mirror rotations (B, 3, 3): the result sees an object's mirror image (z negated) as the flipped image that the
    given rotation sees of the object."""
    return FLIP_X.to(rotations) @ rotations @ MIRROR_Z.to(rotations)


def euler_bins(rotations):
    """(B,) int64 in [0, 512): 64 b0 + 8 b1 + b2, where b = floor((angle + 180) / 45) for scipy's extrinsic Euler
    angles y, z, x; +-180 degrees are replaced by +-179.9."""
    from scipy.spatial.transform import Rotation
    if not len(rotations):
        return torch.empty(0, dtype=torch.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # gimbal lock: all equivalent angles are right
        angles = Rotation.from_matrix(rotations.double().numpy()).as_euler("yzx", degrees=True)
    bins = np.floor((angles.clip(-179.9, 179.9) + 180) / 45).astype(np.int64)
    return torch.from_numpy(bins @ np.array([64, 8, 1]))


def turntable_rotations(azimuth, elevation):
    """Rotations (B, 3, 3) of cameras at these angles in degrees, azimuth 0 on +z, y up, that look at the origin. The
    frame is right-handed; the camera's x is reversed, as in the files."""
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    zero = torch.zeros_like(a)
    forward = -torch.stack([torch.cos(e) * torch.sin(a), torch.sin(e), torch.cos(e) * torch.cos(a)], 1)
    right = torch.stack([torch.cos(a), zero, -torch.sin(a)], 1)
    return torch.stack([-right, torch.linalg.cross(right, forward), forward], 1)
