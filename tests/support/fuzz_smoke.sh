#!/usr/bin/env bash
# Usage: fuzz_smoke.sh BUILD_DIR SECONDS JOBS. Runs every fuzz target for SECONDS, JOBS of them at a time, from the seed
# inputs in tests/fuzz/seeds/TARGET and the files of the tree that it reads anyway; verdicts go to BUILD_DIR/test-results.
set -uo pipefail
build_dir=$1 seconds=$2 jobs=$3
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export build_dir seconds root
export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1

# Copies the real files that target $1 reads to folder $2, as first inputs.
seed() {
  local target=$1 corpus=$2
  case "$target" in
    tokenizer_json_fuzz) cp "$root"/deploy/demo_model/tokenizer.json "$corpus/demo" ;;
    safetensors_fuzz)
      for file in "$root"/tests/golden/tiny-*/*.safetensors; do
        head -c 4096 "$file" > "$corpus/$(basename "$(dirname "$file")")-$(basename "$file")"
      done ;;
    model_config_fuzz)
      for file in "$root"/tests/golden/tiny-*/config.json "$root"/deploy/demo_model/config.json; do
        cp "$file" "$corpus/$(basename "$(dirname "$file")")"
      done ;;
    config_fuzz | server_config_fuzz) cp "$root"/configs/*.textproto "$corpus/" ;;
  esac 2> /dev/null
  [[ ! -d $root/tests/fuzz/seeds/$target ]] || cp "$root/tests/fuzz/seeds/$target"/* "$corpus/"
}
export -f seed

# Runs one target and writes its verdict.
fuzz_one() {
  local program=$1 target corpus log
  target=$(basename "$program")
  corpus=$(mktemp -d)
  log=$build_dir/test-results/$target.log
  seed "$target" "$corpus"
  if timeout --kill-after=10 $((seconds + 120)) "$program" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -print_final_stats=1 \
      -artifact_prefix="$build_dir/test-results/$target-" "$corpus" > "$log" 2>&1; then
    echo "passed fuzz $target" >> "$build_dir/test-results/fuzz.result"
    echo "$target: $(grep -oE 'stat::number_of_executed_units: *[0-9]+' "$log" | grep -oE '[0-9]+') inputs, no finding"
  else
    echo "failed fuzz $target (see $log)" >> "$build_dir/test-results/fuzz.result"
    grep -E 'ERROR|SUMMARY|runtime error' "$log" | head -n 5
    echo "$target: finding; see $log"
  fi
  rm -rf "$corpus"
}
export -f fuzz_one

find "$build_dir/bin" -name '*_fuzz' -type f -print0 | sort -z | xargs -0 -r -n 1 -P "$jobs" bash -c 'fuzz_one "$1"' _
