"""The CUDA sources compile and contain every kernel for every scalar type. Needs nvcc, but no GPU."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import neural_renderer
import pytest
import voxelization

CSRC = Path(__file__).resolve().parents[2] / "cuda" / "csrc"
KERNELS = {"rasterize_cuda.cu": ["draw_faces", "show_pixels", "note_samples", "pull_edges", "give_back_samples"],
           "smoothness_cuda.cu": ["add_edges"], "voxelize_cuda.cu": ["voxelize_meshes"]}

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")


@pytest.mark.parametrize("source", KERNELS)
def test_sources_compile_as_device_code(source, tmp_path):
    compiled = tmp_path / "kernels.o"
    run = subprocess.run(["nvcc", "-c", "-std=c++17", "--fmad=false", "-arch=sm_80", "--no-compress", "-Werror",
                          "all-warnings", str(CSRC / source), "-o", str(compiled)],
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    # A host stub carries a kernel's name too; only device code has its block of constants.
    code = compiled.read_bytes()
    missing = [f"{name} of {scalar}" for name in KERNELS[source] for scalar in ("float", "double")
               if not re.search(rb"\.nv\.constant0\.\S*?%d%sI%s" % (len(name), name.encode(), scalar[:1].encode()), code)]
    assert not missing


@pytest.mark.skipif(os.environ.get("NR_CUDA") == "0", reason="NR_CUDA=0 builds without CUDA")
def test_the_build_took_them_in():
    """If nvcc is found, the installed modules contain device code, and they load without a GPU."""
    for package in (neural_renderer.backend, voxelization):
        archs = package._kernels.cuda_architectures
        assert archs and all(re.fullmatch(r"\d+", arch) for arch in archs.split(";")), package.__name__
        assert b".nv_fatbin" in Path(package._kernels.__file__).read_bytes()
