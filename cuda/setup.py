"""Builds the two extension modules: `pip install ./cuda`.

Needs a C++17 compiler and pybind11. Neither torch nor nvcc is needed: the modules take raw
pointers and link nothing of torch, so they outlive its upgrades.
"""
import sys

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

if sys.platform == "win32":
    flags = ["/O2", "/fp:precise", "/openmp:experimental"]
else:
    # No contraction to FMA: which pixel is covered must not depend on the processor.
    # -fopenmp-simd only reads the `omp simd` hints; no OpenMP runtime is linked.
    flags = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd",
             "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]

HEADERS = ["csrc/portable.h", "csrc/parallel.h"]


def extension(name, sources, headers):
    return Pybind11Extension(name, [f"csrc/{s}" for s in sources], cxx_std=17,
                             extra_compile_args=flags,
                             depends=HEADERS + [f"csrc/{h}" for h in headers])


ParallelCompile("MAX_JOBS", default=2).install()
setup(
    ext_modules=[
        extension("neural_renderer._kernels", ["renderer_module.cpp", "rasterize_forward_cpu.cpp",
                                              "rasterize_backward_cpu.cpp"],
                  ["rasterize.h", "raster_math.h", "raster_samples.h"]),
        extension("voxelization._kernels", ["voxel_module.cpp", "voxelize_cpu.cpp"],
                  ["voxelize.h", "voxel_math.h"]),
    ],
    cmdclass={"build_ext": build_ext},
)
