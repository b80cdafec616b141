#!/usr/bin/env bash
# Builds the CUDA kernels for an H100 or H200 and Python 3.12 into build/gpu, which git ignores: copy that folder along with the
# checkout, and benchmarks/run_gpu.sh need not build on the machine with the GPU. Needs nvcc, but no GPU.
#   PYTHON312=/path/to/python3.12 benchmarks/prebuild_gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."
for python in ${PYTHON312:-python3.12 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12.*/bin/python}; do
  "$python" -c "import sys; sys.exit(sys.version_info[:2] != (3, 12))" 2> /dev/null && break
  python=
done
if [ -z "$python" ]; then
  echo "prebuild_gpu.sh: needs Python 3.12: name one in PYTHON312" >&2
  exit 1
fi
mkdir -p build/gpu
if ! "$python" -c "import pybind11, ninja, setuptools" 2> /dev/null; then
  "$python" -m venv build/prebuild/venv
  python=build/prebuild/venv/bin/python
  "$python" -m pip install --quiet pybind11 ninja "setuptools>=77"
fi
export PATH="$(dirname "$python"):$PATH" CLM_KERNELS_CPU=0 CLM_KERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-9.0}
"$python" setup.py --quiet build_ext --build-lib build/gpu/lib --build-temp build/prebuild/temp
"$python" -m benchmarks.gpu.prebuilt record
ls -l build/gpu/lib/clm_kernels
