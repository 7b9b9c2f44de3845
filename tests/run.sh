#!/usr/bin/env bash
# Sets up and runs the tests: bash tests/run.sh [pytest arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
cd "$root"
exec "$PYTHON" -m pytest -q -p no:cacheprovider "${@:-tests}"
