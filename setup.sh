# train.sh and tests/run.sh source this file. It makes a virtual environment if there is none, installs
# missing packages, builds cuda/, and sets $PYTHON to the interpreter. Later calls only compare a checksum.
# VENV=DIR uses (or makes) another environment; if torch is installed in it, that torch is kept.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$root/.venv}

die() { echo "error: $*" >&2; exit 2; }
recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

if [ ! -x "$venv/bin/python" ]; then
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    recent "$candidate" && break
  done
  recent "$candidate" || die "Python 3.11 or later is needed; found $(python3 --version 2>&1)"
  echo "making a virtual environment in $venv"
  "$candidate" -m venv "$venv" || die "cannot make $venv; on Debian and Ubuntu: apt install python3-venv"
fi
PYTHON=$venv/bin/python
recent "$PYTHON" || die "$PYTHON is older than Python 3.11; remove $venv or give another VENV"

stamp=$venv/.learn3d-$(cd "$root" && { cat requirements.txt cuda/setup.py cuda/pyproject.toml cuda/csrc/* cuda/*/*.py
  echo "${NR_CUDA-} ${NR_CUDA_ARCHS-} $(command -v nvcc)"; } | cksum | tr ' ' -)
if [ ! -e "$stamp" ]; then
  echo "installing packages and building the kernels (once; a few minutes) ..."
  # visdom 0.2.4 needs pkg_resources to build; old and new pip read this from different variables.
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  echo 'setuptools<81' > "$work/build.txt"
  cp "$root/requirements.txt" "$work/requirements.txt"
  "$PYTHON" -c 'import torch; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 6)' \
    2>/dev/null && sed -i.bak '/^torch==/d' "$work/requirements.txt"
  PIP_CONSTRAINT=$work/build.txt PIP_BUILD_CONSTRAINT=$work/build.txt PIP_DISABLE_PIP_VERSION_CHECK=1 \
    "$PYTHON" -m pip install --quiet -r "$work/requirements.txt" || die "pip could not install requirements.txt"
  # Build from a copy, so that the checkout does not change and two builds do not disturb each other.
  cp -r "$root/cuda" "$work/cuda"
  rm -rf "$work/cuda/build" "$work"/cuda/*/_kernels*.so
  "$PYTHON" -m pip uninstall --quiet --yes neural-renderer-kernels 2>/dev/null  # its name before 2.0.0
  PIP_DISABLE_PIP_VERSION_CHECK=1 "$PYTHON" -m pip install --quiet --no-build-isolation --no-deps \
    --force-reinstall "$work/cuda" || die "the kernels in cuda/ did not build; is there a C++17 compiler?"
  rm -rf "$work"
  trap - EXIT
  rm -f "$venv"/.learn3d-*
  touch "$stamp"
fi
