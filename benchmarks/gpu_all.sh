#!/usr/bin/env bash
# Everything that needs a GPU, in under 8 minutes on a bare machine with torch, nvcc, pybind11, pytest and Pillow:
# builds cuda/ in place with its CUDA kernels, tests them against the CPU's, runs compute-sanitizer over them, measures.
#
#   bash benchmarks/gpu_all.sh            PYTHON=python3 names the interpreter; nothing is downloaded or installed
#
# Leaves benchmarks/results/gpu.json and growth_cuda.json. Exit code 1 if any part failed, and which did; the others are run all the same.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/cuda${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}"
failed=()

part() {  # name, seconds it may take, command
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  echo "== $name"
  timeout "$limit" "$@" || failed+=("$name (exit code $?)")
  echo "== $name: $((SECONDS - start)) s"
}

"$python" -c 'import PIL, pybind11, pytest, setuptools, torch, sys; sys.exit(0 if torch.cuda.is_available() else "error: this torch sees no GPU")' || exit 1
part "build" 120 bash -c "cd cuda && NR_CUDA=1 '$python' setup.py build_ext --inplace --quiet"
part "python -m neural_renderer" 20 "$python" -m neural_renderer
part "tests" 110 "$python" -m pytest -q -p no:cacheprovider tests/test_gpu.py
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck; do
    part "compute-sanitizer $tool" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 \
      "$python" benchmarks/gpu.py --short
  done
else
  failed+=("compute-sanitizer, which is not on PATH")
fi
part "benchmarks" 100 "$python" benchmarks/gpu.py
part "benchmarks: growth" 35 "$python" benchmarks/growth.py --device=cuda

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed in $SECONDS s"
