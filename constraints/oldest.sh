#!/usr/bin/env bash
# The short suite with the oldest versions that pyproject.toml allows: ops, patch, optimizer, delta, a recipe of each kind.
#   constraints/oldest.sh           runs it with the versions of constraints/oldest.txt
#   constraints/oldest.sh --write   lets pip fill in again what those versions depend on
set -euo pipefail
cd "$(dirname "$0")/.."
source constraints/environment.sh
CLM_KERNELS_CPU=1 CLM_KERNELS_CUDA=0 pip install --quiet -e ".[test]" -c constraints/oldest.txt
python -m pytest -n 2 tests/test_ops*.py tests/test_cpu_kernels.py tests/test_memory_safety*.py tests/test_patch*.py tests/test_optim*.py tests/test_delta.py \
  tests/test_guarantees.py tests/test_decoder_errors.py tests/test_pooling.py tests/test_choose.py tests/test_checkpointing.py \
  tests/test_finetune_recipe.py tests/test_lora.py tests/test_cli.py
[ "${1:-}" != --write ] || pins oldest
