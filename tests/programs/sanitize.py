#!/usr/bin/env python3
"""Run the kernels under AddressSanitizer and UndefinedBehaviorSanitizer.

    python tests/programs/sanitize.py                  20 000 cases, then the tests of the kernels on a sanitized build
    python tests/programs/sanitize.py --cases 200 --no_tests
    python tests/programs/sanitize.py --sanitizer thread --no_tests

A case draws a random mesh and its gradient, voxelises triangles and computes smoothness, each in float and double.
Coordinates are up to 1e30 and beyond, NaN, infinite, denormal, or on pixel edges; faces are repeated, degenerate or
absent; images are as small as 1 x 1. The exit code is 1 after the first finding, 3 if the compiler lacks the sanitizer.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
CUDA = HERE.parents[1] / "cuda"
# The flags of cuda/setup.py, for one processor level: the code that chooses a level runs before the sanitizers start.
FLAGS = ["-std=c++17", "-g", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd",
         "-DNR_NO_CLONES", "-Wno-unknown-pragmas", "-fno-omit-frame-pointer"]
TESTS = ["renderer/test_rasterizer.py", "renderer/test_rasterizer_agreement.py",
         "renderer/test_rasterizer_gradients.py", "voxels/test_voxelization.py", "renderer/test_smoothness.py"]


def flags_of(sanitizer):
    more = ["-fsanitize=float-cast-overflow", "-fno-sanitize-recover=all"] if "undefined" in sanitizer else []
    return [f"-fsanitize={sanitizer}", *more]


def available(compiler, sanitizer, folder):
    """Whether a program built with this sanitizer runs."""
    (folder / "empty.cpp").write_text("int main() { return 0; }\n")
    built = subprocess.run([compiler, *flags_of(sanitizer), folder / "empty.cpp", "-o", folder / "empty"],
                           capture_output=True)
    return built.returncode == 0 and subprocess.run([folder / "empty"], capture_output=True).returncode == 0


def build(compiler, sanitizer, level, folder):
    """Build the program of sanitize_kernels.cpp; sources are compiled in parallel."""
    sources = [HERE / "sanitize_kernels.cpp", *sorted((CUDA / "csrc").glob("*_cpu*.cpp"))]
    objects = [folder / f"{s.stem}.o" for s in sources]
    command = [compiler, *FLAGS, level, *flags_of(sanitizer), f"-I{CUDA / 'csrc'}"]
    running = [subprocess.Popen([*command, "-c", s, "-o", o])
               for s, o in zip(sources, objects)]
    if any([r.wait() for r in running]):
        sys.exit("the kernels do not compile")
    program = folder / "kernels"
    subprocess.run([compiler, *flags_of(sanitizer), *objects, "-o", program, "-pthread", "-ldl"], check=True)
    return program


def test_kernels(compiler, sanitizer, folder):
    """Run the suite's tests of the kernels with an extension built with the sanitizer."""
    flags = " ".join([*FLAGS, "-O1", *flags_of(sanitizer)])
    copy = folder / "cuda"
    shutil.copytree(CUDA, copy, ignore=shutil.ignore_patterns("build", "*.so", "*.egg-info", "__pycache__"))
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=copy, check=True,
                   env={**os.environ, "CC": compiler, "CXX": compiler, "CFLAGS": flags, "LDFLAGS": flags,
                        "CXXFLAGS": flags, "NR_CUDA": "0"}, stdout=subprocess.DEVNULL)
    runtime = [subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True,
                              check=True).stdout.strip() for name in ("libasan.so", "libubsan.so", "libstdc++.so")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(HERE.parent / t) for t in TESTS)],
        env={**os.environ, "PYTHONPATH": str(copy), "LD_PRELOAD": ":".join(runtime),
             "ASAN_OPTIONS": "detect_leaks=0"}).returncode  # Python does not free all memory at exit


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sanitizer", default="address,undefined")
    parser.add_argument("--no_tests", action="store_true", help="the random cases only")
    options = parser.parse_args(arguments)
    compiler = os.environ.get("CXX", "g++")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if shutil.which(compiler) is None or not available(compiler, options.sanitizer, folder):
            print(f"{compiler} has no sanitizer {options.sanitizer}")
            return 3
        level = "-O1" if options.cases > 2000 else "-O0"  # the faster choice in total
        program = build(compiler, options.sanitizer, level, folder)
        code = subprocess.run([program, str(options.cases), str(options.seed)]).returncode
        if code == 0 and not options.no_tests:
            code = test_kernels(compiler, options.sanitizer, folder)
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main())
