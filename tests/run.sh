#!/usr/bin/env bash
# Sets up, checks the style with ruff, and runs the tests in two processes: bash tests/run.sh [pytest arguments]
# (-n 0: in this process).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
cd "$root"
"$PYTHON" -m ruff check --quiet --no-cache .
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec "$PYTHON" -m pytest -q -p no:cacheprovider -n 2 --dist loadfile "$@"
