#!/usr/bin/env bash
# Run all checks: format, lint, types, tests. `bash scripts/test.sh -k tokenizer` passes -k to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/venv.sh"
install "[dev]"
export OMP_NUM_THREADS=1 # one torch thread per worker, because two workers fill two cores

say "ruff check, ruff format --check"
ruff check .
ruff format --check .
say "mypy"
mypy
say "pytest -n 2 $*"
pytest -n 2 --dist worksteal "$@"
