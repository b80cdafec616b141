#!/usr/bin/env bash
# The short suite with the oldest versions that pyproject.toml allows: ops, patch, optimizer, delta, a recipe of each kind.
#   constraints/oldest.sh           runs it with the versions of constraints/oldest.txt
#   constraints/oldest.sh --write   lets pip fill in again what those versions depend on
set -euo pipefail
cd "$(dirname "$0")/.."
source constraints/environment.sh
CLM_KERNELS_CPU=${CLM_KERNELS_CPU:-1} CLM_KERNELS_CUDA=0 pip install --quiet --no-compile -e ".[test]" -c constraints/oldest.txt
python -c "import clm_kernels._cpu" # or its tests would skip
python -m pytest -n 2 -k "not at_every_run and not the_demo and not ctrl_c and not seen_enough and not search_for_misuses" tests/ops/test_{ops,adamw_step,op_errors,fisher,memory_safety,memory_safety_backward}.py tests/patching/test_patch*.py tests/optim tests/test_delta.py \
  tests/test_guarantees.py tests/models/test_attention_errors.py tests/models/test_pooling.py tests/selecting/test_pipeline.py tests/models/test_recomputing.py \
  tests/finetune/test_recipe.py tests/finetune/test_lora.py tests/cli/test_cli.py
[ "${1:-}" != --write ] || pins oldest
