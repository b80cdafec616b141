#!/usr/bin/env bash
# All that needs a CUDA GPU, in under 10 minutes, offline, with the machine's own Python packages:
#   benchmarks/run_gpu.sh [build] [tests] [numbers] [llama] [sweep] [micro] [compiled] [profile] [sanitize]     all without arguments
#   benchmarks/run_gpu.sh estimate       predicted and measured memory of 128 configurations, some minutes more
# Logs, JSON and summary.json go to benchmarks/results/<gpu>/, or to $OUT where it is set. Without a GPU it is a dry run:
# it builds, the tests skip, a few cases are timed on the CPU, and what it writes goes to a temporary folder.
set -uo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
python=${PYTHON:-python3}
probe='import torch; has = torch.cuda.is_available()
print(torch.cuda.get_device_name().replace(" ", "_") if has else "none", "%d.%d" % torch.cuda.get_device_capability() if has else "9.0")'
read -r gpu capability < <("$python" -c "$probe")
if [ -n "${OUT:-}" ]; then out=$OUT; elif [ "$gpu" = none ]; then out=$(mktemp -d); else out=benchmarks/results/$gpu; fi
mkdir -p "$out"
test=("$python" -m pytest -p no:cacheprovider)

# Seconds at most, without estimate: 80 + 100 + 100 + 90 + 90 + 40 + 25 + 25 + 20 = 570.
build() {
  CLM_KERNELS_CPU=1 CLM_KERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST=$capability timeout 80 "$python" setup.py build_ext --inplace
}
tests() {
  timeout 100 "${test[@]}" -m gpu -rs --maxfail=20 tests/test_cuda.py tests/test_ops*.py tests/test_patch.py
}
numbers() { # what README's table for GPUs asks
  timeout 100 "$python" -m benchmarks.gpu --output "$out"
}
llama() { # the same for a 7B model
  "$python" -c "import peft" || { echo "skipped: no peft"; return 77; }
  timeout 90 "$python" -m benchmarks.llama --output "$out"
}
estimate() {
  [ "$gpu" != none ] || { echo "skipped: no GPU"; return 77; }
  timeout 400 "$python" -m benchmarks.estimate --device cuda --output "$out"
}
sweep() { # what `python -m benchmarks.rule` makes the rule for `auto` from
  local quick=()
  [ "$gpu" != none ] || quick=(--quick)
  timeout 90 "$python" -m benchmarks.sweep --output "$out/sweep.json" "${quick[@]}"
}
micro() {
  local which=(-k "BERT-base or (Llama and (adamw_step_ or weight_grad))")
  [ "$gpu" != none ] || which=(-k "MiniLM and float32 and gather")
  CLM_KERNELS_COMPILE=0 timeout 40 "${test[@]}" benchmarks --benchmark-only --benchmark-json="$out/micro.json" "${which[@]}"
}
compiled() { # a few of them against torch.compile, which takes its time
  [ "$gpu" != none ] || { echo "skipped: no GPU"; return 77; }
  CLM_KERNELS_COMPILE=1 timeout 25 "${test[@]}" benchmarks --benchmark-only --benchmark-json="$out/compiled.json" \
    -k "BERT-base and bfloat16 and rows and (adamw_step_ or weight_grad)"
}
profile() {
  local size="num_labels=77" batch=(--batch-size 32 --length 128 --dtype bfloat16)
  if [ "$gpu" = none ]; then size="vocab_size=99, hidden_size=64, num_hidden_layers=2, num_attention_heads=4" batch=(--batch-size 2 --length 8); fi
  "$python" -c "import transformers; transformers.BertConfig($size).save_pretrained('$out/profile/bert')" &&
    timeout 25 "$python" -c "from clm_kernels.cli import main; main()" profile --model "$out/profile/bert" --density 0.03 \
      "${batch[@]}" --output "$out/profile"
}
sanitize() {
  command -v compute-sanitizer > /dev/null || { echo "skipped: no compute-sanitizer"; return 77; }
  [ "$gpu" != none ] || { echo "skipped: no GPU"; return 77; }
  timeout 20 compute-sanitizer --error-exitcode 9 --target-processes all "${test[@]}" -x -m gpu tests/test_cuda.py -k "odd or even"
}

parts=("$@")
all=(build tests numbers llama sweep micro compiled profile sanitize)
[ $# -gt 0 ] || parts=("${all[@]}")
all+=(estimate)
results=()
for part in "${parts[@]}"; do
  case " ${all[*]} " in *" $part "*) ;; *) echo "run_gpu.sh: parts are ${all[*]}, got $part" >&2; exit 2 ;; esac
  start=$SECONDS
  "$part" > "$out/$part.log" 2>&1
  code=$?
  outcome=failed
  [ $code != 0 ] || outcome=done
  [ $code != 77 ] || outcome=skipped
  results+=("\"$part\": {\"outcome\": \"$outcome\", \"exit\": $code, \"seconds\": $((SECONDS - start))}")
  echo "$part: $outcome, exit $code, $((SECONDS - start)) s"
  [ $outcome = done ] || tail -n 30 "$out/$part.log"
done
joined=$(IFS=,; echo "${results[*]}")
commit=$(git describe --always --dirty 2> /dev/null || echo unknown)
versions=$("$python" -c 'import json, platform, torch, triton, transformers as t
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "cuda": torch.version.cuda,
                  "triton": triton.__version__, "transformers": t.__version__}))')
echo "{\"gpu\": \"$gpu\", \"commit\": \"$commit\", \"versions\": $versions, \"parts\": {$joined}}" | "$python" -m json.tool | tee "$out/summary.json"
! grep -q '"outcome": "failed"' "$out/summary.json"
