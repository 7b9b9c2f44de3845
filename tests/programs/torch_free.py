"""Load the compiled modules without torch, and compare them with the NumPy references.

    python tests/programs/torch_free.py [folder of the packages]     default: where they are installed
"""
import importlib.util
import sys
import sysconfig
from pathlib import Path

import numpy as np

sys.modules["torch"] = None  # makes `import torch` fail even if it is installed


def load(package, file):
    """Load a module of a package without the package's __init__, which needs torch."""
    path = root / package / file
    spec = importlib.util.spec_from_file_location(f"{package}.{path.name.split('.')[0]}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = ("_kernels" + sysconfig.get_config_var("EXT_SUFFIX"), "reference.py")
installed = sys.argv[1] if len(sys.argv) > 1 else Path(importlib.util.find_spec("neural_renderer").origin).parents[1]
root = Path(installed)
random = np.random.default_rng(0)

kernels, reference = (load("neural_renderer", file) for file in FILES)
vertices = random.uniform(-1, 1, (1, 12, 3)) + [0, 0, 2]
faces = np.arange(12, dtype=np.int32).reshape(1, 4, 3)
alpha, face_index = np.empty((1, 9, 9)), np.empty((1, 9, 9), np.int32)
settings = {"near": 0.1, "far": 100.0, "eps": 1e-3, "fill_back": True, "perspective": True}
kernels.forward_float64(dict(
    settings, B=1, V=12, F=4, H=9, W=9, S=1, T=0, threads=2, faces_stride=0, textures_stride=0, colours_stride=0,
    **dict.fromkeys(("textures", "colours", "light", "background", "rgb", "rgb_samples", "depth")),
    **{name: array.ctypes.data for name, array in (("vertices", vertices), ("faces", faces), ("alpha", alpha),
                                                    ("face_index", face_index))}))
expected = reference.rasterize_forward(vertices, faces, None, None, None, None, height=9, width=9, samples=1, rgb=False,
                                       alpha=True, depth=False, **settings)
assert alpha.any() and np.array_equal(alpha, expected["alpha"])
assert np.array_equal(face_index, expected["face_index"])

kernels, reference = (load("voxelization", file) for file in FILES)
corners = random.random((1, 20, 3, 3))
voxels = np.empty((1, 8, 8, 8), bool)
kernels.voxelize_float64(corners.ctypes.data, voxels.ctypes.data, 1, 20, 8, 0, 2)
assert voxels.any() and np.array_equal(voxels[0], reference.published(corners[0], 8))
print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}: the compiled modules agree with their references")
