#!/usr/bin/env bash
# What is to be measured on a CUDA machine, in three calls that each stand alone and end within the seconds given, offline:
#   benchmarks/run_gpu.sh contact     300 s: the module loads, tests of the kernels, of every op and of models, sanitizer
#   benchmarks/run_gpu.sh numbers     170 s: what docs/numbers.md's table asks of AdamW and weight_grad, a short sweep
#   benchmarks/run_gpu.sh training    150 s: a captured BERT-base step, the shape of Llama-2-7B
# Each leaves <call>.tar.gz and <call>.json in $OUT, or in build/gpu/out. Without a GPU all is a dry run.
# PYTHON names the interpreter, python3 by default. benchmarks/prebuild_gpu.sh, run before on any machine with nvcc,
# makes build/gpu, which saves building there.
set -euo pipefail
cd "$(dirname "$0")/.."
exec "${PYTHON:-python3}" -m benchmarks.gpu.calls "$@"
