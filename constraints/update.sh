#!/usr/bin/env bash
# Takes today's newest releases, runs all tests with them, and writes constraints/newest.txt where they pass:
#   constraints/update.sh                   the newest torch, which brings CUDA's gigabytes along
#   constraints/update.sh torch==2.13.0     a torch of your choice, whose CPU build may be at hand
set -euo pipefail
cd "$(dirname "$0")/.."
source constraints/environment.sh
pip install --quiet --no-compile --upgrade "${1:-torch}"
CLM_KERNELS_CPU=1 pip install --quiet --no-compile --upgrade --upgrade-strategy eager -e ".[test]" "${1:-torch}"
python -m pytest -n 2 --dist loadfile
pins newest
git --no-pager diff --stat constraints/newest.txt
