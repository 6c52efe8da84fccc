#!/usr/bin/env bash
# Sets up .venv and runs the tests; further arguments go to pytest (scripts/test.sh -m slow, scripts/test.sh -k dice).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install test
cd "$repository"
# worksteal leaves the tests of a file together, so that most fixtures of a file are made once.
exec .venv/bin/python -m pytest -n "${UNET_JAX_TEST_PROCESSES:-2}" --dist worksteal "$@"
