#!/usr/bin/env bash
# Tests and measures the CUDA back end on this machine's GPU: one line per stage at the end, whatever fails.
#   (nothing)          builds first, in build/
#   --package DIR      only builds, and packs programs, libraries and the demo model into DIR, for machines on which
#                      nothing can be built; --without-model leaves the model out (the sources' is used then)
#   --from DIR         runs what --package has packed
#   --out DIR          logs and numbers (default: $OUT, else build/gpu-results)
#   --seconds N        no stage begins later (default 500), and all end within a minute after that
#   --only A,B         these stages only: facts primitives dp4a sm75 sm80 parity threads processes nccl bench memcheck
#                      racecheck
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

package='' from='' out=${OUT:-} only='' begin_until=500 with_model=true
while [[ $# -gt 0 ]]; do
  case "$1" in
    --package) package=$2; shift ;;
    --from) from=$2; shift ;;
    --out) out=$2; shift ;;
    --seconds) begin_until=$2; shift ;;
    --only) only=$2; shift ;;
    --without-model) with_model=false ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
  shift
done

programs=(gpu_device_tests shoal-cuda-driver)
# Where CMake has found NCCL.
optional_programs=(nccl_tests)

build() {
  cd "$here/../.." || exit 1
  export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
  if cmake --preset release -DSHOAL_WITH_TESTS=ON -DSHOAL_WITH_SERVER=OFF -DSHOAL_WITH_CUDA=ON > build.gpu.log 2>&1 \
    && cmake --build build -j "$(nproc)" --target "${programs[@]}" >> build.gpu.log 2>&1; then
    for program in "${optional_programs[@]}"; do cmake --build build --target "$program" > /dev/null 2>&1; done
    rm build.gpu.log
    return
  fi
  tail -n 20 build.gpu.log >&2
  echo "run.sh: the build failed; on a machine without its packages use --package elsewhere and --from here" >&2
  exit 1
}

# Libraries of a program, but for those of the C library, the driver and NCCL, which belong to the machine.
libraries() {
  ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u \
    | grep -Ev '/(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|cuda|nccl|nvidia[^/]*))\.so[^/]*$'
}

pack() {
  staging=$(mktemp -d)
  trap 'rm -rf "$staging"' EXIT
  mkdir -p "$staging/bin" "$staging/lib" "$package" || exit 1
  for program in "${programs[@]}" "${optional_programs[@]}"; do
    [[ ! -x build/bin/$program ]] || strip -o "$staging/bin/$program" "build/bin/$program"
  done
  libraries "$staging"/bin/* | xargs -r cp -Lt "$staging/lib"
  tar -C "$staging" -c bin lib | xz -9 > "$package/programs.tar.xz" || exit 1
  cp "$here/run.sh" "$package/"
  if $with_model; then
    mkdir -p "$package/demo_model"
    cp deploy/demo_model/{config.json,generation_config.json,model.safetensors,tokenizer.json,tokenizer_config.json} "$package/demo_model/"
  fi
  local kilobytes
  kilobytes=$(du -sk "$package" | cut -f 1)
  echo "$package: $kilobytes KiB; there: $package/run.sh --from $package"
  [[ $kilobytes -le 61440 ]] || { echo "run.sh: the package has more than 60 MiB" >&2; exit 1; }
}

if [[ -n $package ]]; then
  package=$(realpath -m "$package")
  build
  pack
  exit 0
fi

if [[ -n $from ]]; then
  from=$(realpath "$from")
  unpacked=$(mktemp -d)
  trap 'rm -rf "$unpacked"' EXIT
  tar -C "$unpacked" -xJf "$from/programs.tar.xz" 2> /dev/null \
    || python3 -c 'import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])' "$from/programs.tar.xz" "$unpacked" || exit 1
  bin=$unpacked/bin
  export LD_LIBRARY_PATH=$unpacked/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  if [[ -d $from/demo_model ]]; then
    export SHOAL_DEMO_MODEL=$from/demo_model
  else
    export SHOAL_DEMO_MODEL=$here/../../deploy/demo_model
  fi
  out=${out:-$from/results}
else
  build
  bin=$PWD/build/bin
  out=${out:-build/gpu-results}
fi
mkdir -p "$out" || exit 1
out=$(realpath "$out")
logs=$(mktemp -d)
unset "${!GTEST_@}"

names=() verdicts=() details=() failed=0
# verdict STAGE passed|failed|skipped SECONDS DETAIL
verdict() {
  names+=("$1") verdicts+=("$2") details+=("$(printf '%4d s  %s' "$3" "$4")")
  [[ $2 != failed ]] || failed=$((failed + 1))
  printf -- '-- %-11s %-7s %4d s  %s\n' "$1" "$2" "$3" "$4"
}

# How a log of Google Test ends: "12 passed, 0 failed, 1 skipped".
counts() {
  local passed failed_tests skipped
  passed=$(grep -ch '^\[       OK \]' "$@" | awk '{ n += $1 } END { print n + 0 }')
  failed_tests=$(grep -ch '^\[  FAILED  \].* ms)$' "$@" | awk '{ n += $1 } END { print n + 0 }')
  skipped=$(grep -ch '^\[  SKIPPED \].* ms)$' "$@" | awk '{ n += $1 } END { print n + 0 }')
  echo "$passed passed, $failed_tests failed, $skipped skipped"
}

# stage NAME LIMIT COMMAND...: runs it, and says how it went by its exit status and its log.
stage() {
  local name=$1 limit=$2 log=$logs/$1.log began=$SECONDS status detail
  shift 2
  [[ -z $only || ,$only, == *,$name,* ]] || return 0
  if [[ $SECONDS -ge $begin_until ]]; then verdict "$name" skipped 0 "not begun: the $begin_until s are used up"; return; fi
  if [[ $limit -gt $((begin_until + 60 - SECONDS)) ]]; then limit=$((begin_until + 60 - SECONDS)); fi
  timeout --kill-after=5 "$limit" "$@" > "$log" 2>&1
  status=$?
  if grep -q '^\[==========\]' "$log"; then detail=$(counts "$log"); else detail=$(tail -n 1 "$log" | cut -c 1-90); fi
  if [[ $status -eq 124 || $status -eq 137 ]]; then
    verdict "$name" failed $((SECONDS - began)) "stopped after $limit s: $detail"
  elif [[ $status -eq 77 ]]; then
    verdict "$name" skipped $((SECONDS - began)) "$detail"
  elif [[ $status -ne 0 ]]; then
    verdict "$name" failed $((SECONDS - began)) "status $status: $detail"
    grep -E 'Failure|differ|status|error|CHECK' "$log" | head -n 6
  elif [[ $detail == "0 passed, 0 failed"* ]]; then
    verdict "$name" skipped $((SECONDS - began)) "$(grep -m 1 'no usable GPU' "$log" || echo "no test ran")"
  else
    verdict "$name" passed $((SECONDS - began)) "$detail"
  fi
}

# gtest NAME LIMIT FILTER
gtest() { stage "$1" "$2" "$bin/gpu_device_tests" --gtest_filter="$3"; }

# The functions from here to in_shell are called by a shell of their own, which timeout can end.
# shellcheck disable=SC2317
# Copies of one test in so many processes, all at the same time: they share the GPU without knowing of one another.
side_by_side() {
  local copies=$1 pids=() status=0 pid
  shift
  for ((i = 0; i < copies; ++i)); do
    "$@" & pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || status=1; done
  return "$status"
}

# shellcheck disable=SC2317
processes() {
  for copies in 2 4; do
    echo "$copies processes"
    side_by_side "$copies" "$bin/gpu_device_tests" --gtest_filter='DecoderParityTest.TheDemoModel*' || return 1
  done
}

# shellcheck disable=SC2317
nccl() {
  if [[ ! -x $bin/nccl_tests ]]; then echo "this build has no NCCL"; return 77; fi
  local library
  if ldd "$bin/nccl_tests" | grep -q 'libnccl.*not found'; then
    library=$(timeout 20 find /usr /opt /lib -name 'libnccl.so.2' 2> /dev/null | head -n 1)
    if [[ -z $library ]]; then echo "no libnccl.so.2 on this machine"; return 77; fi
    export LD_LIBRARY_PATH=${library%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  fi
  ldd "$bin/nccl_tests" | grep libnccl
  "$bin/nccl_tests"
}

# sanitizer TOOL FILTER
# shellcheck disable=SC2317
sanitizer() {
  local tool
  tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2> /dev/null)
  if [[ -z $tool ]]; then echo "no compute-sanitizer on this machine"; return 77; fi
  # FILTER leaves out the tests that make an error on purpose.
  "$tool" --tool "$1" --error-exitcode 9 "$bin/gpu_device_tests" --gtest_filter="$2"
}

# shellcheck disable=SC2317
facts() {
  if ! command -v nvidia-smi > /dev/null; then echo "no nvidia-smi on this machine"; return 77; fi
  nvidia-smi --query-gpu=index,name,compute_cap,driver_version,memory.total,memory.used,clocks.max.sm,clocks.max.mem,pcie.link.gen.max,pcie.link.width.max,power.limit --format=csv
  nvidia-smi topo -m
  nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader
}

export -f processes side_by_side nccl sanitizer facts
export bin
in_shell() { local name=$1 limit=$2; shift 2; stage "$name" "$limit" bash -c "$*"; }

in_shell facts 30 facts
gtest primitives 60 'PrimitivesTest.*'
for path in dp4a sm75 sm80; do gtest $path 120 "*/cuda_$path*"; done
gtest parity 120 'DecoderParityTest.*:-*RanksThatShare*'
# Eager: ranks that share a context must not load a kernel, which may wait for the GPU, while another's waits for them.
CUDA_MODULE_LOADING=EAGER gtest threads 120 'DecoderParityTest.RanksThatShare*:*TransportsTest*'
in_shell processes 120 processes
in_shell nccl 120 nccl
stage bench 300 "$bin/shoal-cuda-driver" --json "$out/bench.json" --seconds 60
in_shell memcheck 150 "sanitizer memcheck 'PrimitivesTest.*:*Conformance*/cuda_sm80:*Conformance*/cuda_dp4a:-*FirstFault*'"
in_shell racecheck 150 "sanitizer racecheck 'PrimitivesTest.*:*Conformance*/cuda_sm80:-*FirstFault*:*Handshake*:*KernelAndHost*'"

{
  grep -hE '^\[  TIMES   \]' "$logs"/*.log
  if [[ -s $logs/bench.log ]]; then awk 'found; /^$/ { found = 1 }' "$logs/bench.log"; echo; fi
  for i in "${!names[@]}"; do printf '%-11s %-7s %s\n' "${names[i]}" "${verdicts[i]}" "${details[i]}"; done
} | tee "$out/summary.txt"
for log in "$logs"/*.log; do printf '\n==== %s\n' "$(basename "$log" .log)"; tail -c 400000 "$log"; done > "$out/logs.txt"
rm -rf "$logs"
echo "logs and numbers: $out"
[[ $failed -eq 0 ]] || exit 1
[[ " ${verdicts[*]} " == *" passed "* ]] || exit 77  # Nothing has been tested.
