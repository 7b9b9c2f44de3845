#!/usr/bin/env bash
# Builds the renderer's package from its source distribution under other Pythons, and checks it with only NumPy:
#   bash tests/programs/interpreters.sh python3.12 python3.13
set -euo pipefail
if [ $# -eq 0 ]; then
  echo "error: name the interpreters to check, such as: bash tests/programs/interpreters.sh python3.12 python3.13" >&2
  exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/../../setup.sh"
for interpreter in "$@"; do
  recent "$interpreter" || die "$interpreter is not a Python 3.11 or later"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/cuda" "$work/cuda"
rm -rf "$work"/cuda/{build,dist,*.egg-info} "$work"/cuda/*/_kernels*.so
(cd "$work/cuda" && "$PYTHON" setup.py -q sdist --dist-dir "$work")
for interpreter in "$@"; do
  rm -rf "$work/venv"
  "$interpreter" -m venv "$work/venv"
  SECONDS=0
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$work"/*.tar.gz
  echo "installed in $SECONDS s"
  (cd "$work" && "$work/venv/bin/python" "$root/tests/programs/torch_free.py")
done
