"""Build the two extension modules: `pip install ./cuda`.

The build needs a C++17 compiler (GCC or Clang) and pybind11. It needs neither torch nor nvcc: the modules take raw
pointers and do not link torch, so they keep working when torch is upgraded. With nvcc they also contain CUDA kernels:

    NR_CUDA=auto|0|1     auto (default) builds CUDA kernels if nvcc is found, 0 never, 1 fails without nvcc
    NR_CUDA_ARCHS=80;90  compute capabilities (default: those of the GPUs here, else all current ones, and PTX)
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

CURRENT = ["75", "80", "90", "100", "120"]  # code for 80 also runs on 86 and 89, and so on

# -ffp-contract=off forbids FMA, because the covered pixels must not depend on the processor.
# -fopenmp-simd enables the `omp simd` hints only; it links no OpenMP runtime.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd",
         "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unknown-pragmas",
         "-fno-wrapv"]  # Python's flags contain -fwrapv, which makes the voxeliser 4 % slower
LIBRARIES = ["-pthread", "-ldl"] if sys.platform == "linux" else []  # glibc before 2.34 needs these libraries


def find_nvcc():
    """Path of the CUDA compiler, or None. It may be on PATH, under CUDA_HOME, or in NVIDIA's pip packages."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    packaged = [str(found) for entry in sys.path for found in Path(entry or ".").glob("nvidia/*/bin/nvcc")]
    places = [shutil.which("nvcc"), *(os.path.join(home, "bin", "nvcc") for home in homes if home), *packaged]
    return next((nvcc for nvcc in places if nvcc and os.access(nvcc, os.X_OK)), None)


def output_of(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def architectures(nvcc):
    """Compute capabilities to compile for, such as ['80', '90']."""
    wanted = os.environ.get("NR_CUDA_ARCHS")
    if wanted:
        chosen = [a.strip().replace(".", "") for a in re.split("[;, ]+", wanted.strip())]
        if not all(re.fullmatch(r"\d+", a) for a in chosen):
            sys.exit(f"NR_CUDA_ARCHS={wanted} is not a list of compute capabilities like 80;90")
        return chosen
    here = output_of("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    known = set(re.findall(r"compute_(\d+)", output_of(nvcc, "--list-gpu-arch")))
    found = sorted({c.replace(".", "") for c in re.findall(r"\d+\.\d+", here)} & known, key=int)
    return found or [a for a in CURRENT if a in known]


class Build(build_ext):
    """Compiles the .cu sources with nvcc, if it is found, and links the CUDA runtime statically."""

    def build_extensions(self):
        wanted = os.environ.get("NR_CUDA", "auto")
        if wanted not in ("auto", "0", "1"):
            sys.exit(f"NR_CUDA={wanted} is not one of auto, 0, 1")
        nvcc = None if wanted == "0" else find_nvcc()
        if wanted == "1" and nvcc is None:
            sys.exit("NR_CUDA=1, but there is no nvcc on PATH, under CUDA_HOME or in NVIDIA's pip packages")
        self.force = True  # file dates do not show whether the last build had CUDA
        if nvcc:
            try:
                self.add_cuda(nvcc)
            except subprocess.CalledProcessError as error:
                if wanted == "1":
                    raise
                print(f"warning: nvcc failed, so the build has kernels for the CPU only (NR_CUDA=1 makes this an "
                      f"error): {shlex.join(error.cmd)}", file=sys.stderr)
        super().build_extensions()

    def add_cuda(self, nvcc):
        archs = architectures(nvcc)
        code = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
        code.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")  # PTX, for later GPUs
        folder = Path(self.build_temp).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        commands = {}
        for extension in self.extensions:
            for source in extension.cuda_sources:
                commands[folder / f"{Path(source).stem}.o"] = (extension, source)
        running = [(target, subprocess.Popen(
            command := [nvcc, "-c", "-O3", "-std=c++17", "--fmad=false", "-Xcompiler=-fPIC,-fvisibility=hidden",
                        *code, source, "-o", str(target)]), command)
            for target, (_, source) in commands.items()]
        for _, process, command in running:
            if process.wait():
                raise subprocess.CalledProcessError(process.returncode, command)
        # A dry run prints the folders in which nvcc looks for its runtime.
        dry = subprocess.run([nvcc, "--dryrun", "-o", "x", "x.o"], capture_output=True, text=True).stderr
        places = list(dict.fromkeys(re.findall(r'"-L([^"]+)"', dry)))
        places.append(str(Path(nvcc).resolve().parent.parent / "lib"))
        for target, (extension, _) in commands.items():
            extension.extra_objects.append(str(target))
            extension.define_macros.append(("NR_WITH_CUDA", '"' + ";".join(archs) + '"'))
            extension.library_dirs += places
            extension.extra_link_args += ["-Wl,-Bstatic", "-lcudart_static", "-Wl,-Bdynamic", "-ldl", "-lrt",
                                          "-lpthread"]


def extension(name, sources, cuda_sources):
    made = Pybind11Extension(name, [f"csrc/{s}" for s in sources], cxx_std=17, extra_compile_args=FLAGS,
                             extra_link_args=[*LIBRARIES], depends=[str(h) for h in Path("csrc").glob("*.h")])
    made.cuda_sources = [f"csrc/{s}" for s in cuda_sources]
    return made


ParallelCompile("MAX_JOBS", default=2).install()
setup(
    ext_modules=[
        extension("neural_renderer._kernels", ["renderer_module.cpp", "rasterize_forward_cpu.cpp",
                                               "rasterize_backward_cpu.cpp", "smoothness_cpu.cpp"],
                  ["rasterize_cuda.cu", "smoothness_cuda.cu"]),
        extension("voxelization._kernels", ["voxel_module.cpp", "voxelize_cpu.cpp"], ["voxelize_cuda.cu"]),
    ],
    cmdclass={"build_ext": Build},
)
