#!/usr/bin/env bash
# The tests of memory safety with C++ kernels that report every access outside of a tensor:
#   tests/sanitized.sh          as .ci/run does, a search through 300 misuses among them
#   tests/sanitized.sh 10000    and a longer search
set -euo pipefail
cd "$(dirname "$0")/.."
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
CLM_KERNELS_SANITIZE=1 CLM_KERNELS_CPU=1 CLM_KERNELS_CUDA=0 python setup.py --quiet build --build-base "$built/base" --build-lib "$built/lib"

export PYTHONPATH="$built/lib" PYTHONMALLOC=malloc OMP_NUM_THREADS=1
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1
export LD_PRELOAD="$(${CC:-gcc} -print-file-name=libasan.so) $(${CXX:-g++} -print-file-name=libstdc++.so)"
python -P -c "
import clm_kernels, pathlib
from clm_kernels import _cpu
assert pathlib.Path(_cpu.__file__).is_relative_to('$built'), _cpu.__file__"
[ $# = 0 ] || python tests/misuse.py --count "$1"
python -P -m pytest -p no:xdist -k "not reference and not matmul and not triton" tests/ops/test_memory_safety*.py # what runs none of these kernels
