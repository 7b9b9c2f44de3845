"""Choosing the kernels: the compiled ones, the reference by name, and the reference if nothing is compiled."""
import os
import subprocess
import sys

import pytest
import torch

import neural_renderer as nr

WITHOUT_KERNELS = """
import sys, warnings
sys.modules["neural_renderer._kernels"] = None   # as where nothing could be built
sys.modules["voxelization._kernels"] = None
import torch, neural_renderer as nr, voxelization
triangle = torch.tensor([[[[-0.5, -0.5, 1.0], [0.5, -0.5, 1.0], [0.0, 0.7, 1.0]]]])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    images = [nr.rasterize_silhouettes(triangle, 8) for _ in range(2)]
    grids = [voxelization.voxelize(triangle * 0.4 + 0.5, 8) for _ in range(2)]
print(nr.get_backend(), float(images[1].sum()), int(grids[1].sum()))
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def run(code, **environment):
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": path, **environment}).stdout.splitlines()


def test_without_compiled_kernels_the_reference_is_used_with_one_warning():
    lines = run(WITHOUT_KERNELS)
    triangle = torch.tensor([[[[-0.5, -0.5, 1.0], [0.5, -0.5, 1.0], [0.0, 0.7, 1.0]]]])
    assert lines[0].split()[0] == "reference"
    assert float(lines[0].split()[1]) == pytest.approx(float(nr.rasterize_silhouettes(triangle, 8).sum()))
    assert len(lines) == 3 and all(line.startswith("RuntimeWarning") for line in lines[1:])
    assert all("pip install ./cuda" in line for line in lines[1:])


def test_a_backend_is_chosen_by_name():
    code = "import neural_renderer as nr; print(nr.get_backend())"
    assert run(code) == ["compiled"]
    assert run(code, NR_BACKEND="reference") == ["reference"]


def test_unknown_backends_are_refused(backend):
    with pytest.raises(ValueError, match="'compiled' or 'reference', got 'fast'"):
        nr.set_backend("fast")


def test_running_the_package_prints_what_was_built_and_what_works():
    run = subprocess.run([sys.executable, "-m", "neural_renderer"], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "compiled kernels: CPU" in run.stdout
    assert "cpu: works" in run.stdout
