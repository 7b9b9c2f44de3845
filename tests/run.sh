#!/usr/bin/env bash
# Sets up, checks the style with ruff, and runs the tests: bash tests/run.sh [pytest arguments]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../setup.sh"
cd "$root"
"$PYTHON" -m ruff check --quiet --no-cache .
exec "$PYTHON" -m pytest -q -p no:cacheprovider "$@"
