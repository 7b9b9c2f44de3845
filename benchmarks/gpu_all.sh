#!/usr/bin/env bash
# Runs everything that needs a GPU, on a bare machine with torch, nvcc, pybind11, pytest and Pillow. The most important
# parts come first, and each part writes its result when it is done:
#
#   bash benchmarks/gpu_all.sh first     builds cuda/ in place with its CUDA kernels, tests them against the CPU's, and
#                                        measures kernels, training steps and evaluation; under 6 minutes
#   bash benchmarks/gpu_all.sh second    builds, measures growth, runs compute-sanitizer; under 6 minutes
#   bash benchmarks/gpu_all.sh           both
#
# PYTHON=python3 is the interpreter; COMMIT is the commit for the records if there is no git. Nothing is downloaded or
# installed. Writes benchmarks/results/gpu.json and growth_cuda.json. If a part fails, the other parts run all the same;
# the exit code is then 1, and the last lines name the failed parts.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/cuda${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 MAX_JOBS="${MAX_JOBS:-$(nproc)}"
export PATH="$PATH:/usr/local/cuda/bin" CUBLAS_WORKSPACE_CONFIG=:4096:8
call=${1:-both}
case $call in first|second) end=$((SECONDS + 350)) ;; both) end=$((SECONDS + 600)) ;;
  *) echo "error: $call is neither first nor second" >&2; exit 2 ;; esac
failed=()

part() {  # name, seconds it may take, command
  local name=$1 limit=$2 start=$SECONDS
  shift 2
  if [ $((end - start)) -lt "$limit" ]; then limit=$((end - start)); fi
  echo "== $name"
  if [ "$limit" -gt 0 ]; then
    timeout -k 5 "$limit" "$@" || failed+=("$name (exit code $?; 124: not within $limit s)")
  else
    failed+=("$name (no time was left for it)")
  fi
  echo "== $name: $((SECONDS - start)) s"
}

# Checks only our kernels: some of torch's kernels have harmless hazards.
sanitizer() {  # tool, its options
  part "compute-sanitizer $1" 90 compute-sanitizer --tool "$@" --kernel-name kns=_ZN2nr --error-exitcode 9 \
    "$python" benchmarks/gpu.py --short
}

"$python" -c '
import PIL, pybind11, pytest, setuptools, sys, torch
sys.exit(0 if torch.cuda.is_available() else "error: this torch sees no GPU")' || exit 1
part "build" 120 bash -c "cd cuda && NR_CUDA=1 '$python' setup.py build_ext --inplace --quiet"
part "python -m neural_renderer" 40 "$python" -m neural_renderer
if [ "$call" != second ]; then
  part "tests" 120 "$python" -m pytest -q -p no:cacheprovider tests/engine/test_gpu.py
  part "benchmarks" 150 "$python" benchmarks/gpu.py
fi
if [ "$call" != first ]; then
  part "benchmarks: growth" 60 "$python" benchmarks/growth.py --device=cuda
  if command -v compute-sanitizer > /dev/null; then
    # Give each tensor its own memory; else an access past its end would hit another tensor and not be found.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 sanitizer memcheck --report-api-errors no
    sanitizer racecheck
  else
    failed+=("compute-sanitizer, which is neither on PATH nor in /usr/local/cuda/bin")
  fi
fi

if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
echo "all passed in $SECONDS s"
