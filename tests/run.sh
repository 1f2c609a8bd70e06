#!/usr/bin/env bash
# Installs what is missing, builds, runs every test; the last line says `N passed, N failed`.
#   --fast     leave out the sanitizer builds and the fuzz targets
#   --e2e      only the end-to-end tests (after the build)
#   --unit     only the unit tests (after the build)
# A stage that leaves no evidence of having run (a report per program, file or fuzz target) counts as a failed test. After
# $SHOAL_TEST_SECONDS (4200) no stage begins; those left over count as failed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

want_unit=true want_e2e=true want_sanitizers=true want_fuzz=true
for argument in "$@"; do
  case "$argument" in
    --fast) want_sanitizers=false want_fuzz=false ;;
    --e2e) want_unit=false want_sanitizers=false want_fuzz=false ;;
    --unit) want_e2e=false want_sanitizers=false want_fuzz=false ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown argument '$argument'; see --help" >&2; exit 2 ;;
  esac
done

started=$SECONDS
begin_until=${SHOAL_TEST_SECONDS:-4200}  # No stage begins later, and none goes on for more than 10 minutes after that.
fuzz_seconds=${SHOAL_FUZZ_SECONDS:-30}
quick="-O1 -g1"  # Optimisation of the sanitizer builds.
# A compiler takes up to 2 GiB.
jobs=$(awk -v cpus="$(nproc)" '/^MemAvailable:/ { n = int($2 / 2097152); print n < 1 ? 1 : n < cpus ? n : cpus }' /proc/meminfo)
# With more bits of randomness than the sanitizers of gcc 12 and clang 14 know, their programs do not even start.
fixed_layout=()
if setarch -R true 2> /dev/null; then fixed_layout=(setarch -R); fi

unset "${!GTEST_@}"  # A filter of the caller's would leave tests out.
unset grpc_proxy
export no_grpc_proxy=127.0.0.1,localhost
export CCACHE_DIR=${CCACHE_DIR:-${HOME:-}/.cache/ccache}
if ! { mkdir -p "$CCACHE_DIR" && [[ -w $CCACHE_DIR ]]; } 2> /dev/null; then
  export CCACHE_DIR=$PWD/build/.ccache
  mkdir -p "$CCACHE_DIR"
fi
# Without these, ccache keeps nothing that uses a precompiled header.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
# Another checkout of the same sources finds them compiled already.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}

# Where each build leaves its results. Those of an earlier run go.
build_dirs=(build)
if $want_sanitizers; then build_dirs+=(build-asan build-tsan); fi
if $want_fuzz; then build_dirs+=(build-fuzz); fi
for dir in "${build_dirs[@]}"; do
  rm -rf "$dir/test-results"
  mkdir -p "$dir/test-results/unit" "$dir/test-results/e2e"
done

# note passed|failed DIR NAME: the verdict of a check that writes no report.
note() {
  echo "$1 $3" >> "$2/test-results/checks.result"
  [[ $1 == passed ]] || echo "$3"
}

# begin DIR NAME: says what begins, and when; false, with a failed check, where the run's time is up.
begin() {
  printf '\n== [%3d s] %s\n' $((SECONDS - started)) "$2"
  [[ $((SECONDS - started)) -lt $begin_until ]] || { note failed "$1" "$2: not begun, the $begin_until s are used up"; return 1; }
}

# What is left of the run's time, in seconds.
seconds_left() { echo $((started + begin_until + 600 - SECONDS)); }

# bounded COMMAND...: runs it, for no longer than the run's time.
bounded() { timeout --kill-after=10 "$(seconds_left)" "$@"; }

# build DIR TARGETS... -- CMAKE_ARGUMENTS...: configures and builds; a failure counts as a failed test.
build() {
  local dir=$1 targets=()
  shift
  while [[ $# -gt 0 && $1 != -- ]]; do targets+=("$1"); shift; done
  shift
  local log=$dir/build.log
  # Halts at no error: one broken folder must not hide the results of the others.
  if cmake "$@" > "$log" 2>&1 && bounded cmake --build "$dir" -j "$jobs" --target "${targets[@]}" -- -k 0 >> "$log" 2>&1; then
    note passed "$dir" "build"
  else
    grep -E 'error|FAILED|CMake Error' "$log" | head -n 30
    note failed "$dir" "build (all of it is in $log)"
    return 1
  fi
}

# unit DIR FOLDERS... -- CTEST_ARGUMENTS...: runs the unit tests of a build, among them those of tests/FOLDERS.
unit() {
  local dir=$1 folders=() status
  shift
  while [[ $# -gt 0 && $1 != -- ]]; do folders+=("$1"); shift; done
  shift
  local junit=$PWD/$dir/test-results/unit.ctest
  bounded "${fixed_layout[@]}" ctest --test-dir "$dir" -j "$jobs" --output-on-failure --no-tests=error --output-junit "$junit" "$@"
  status=$?
  # 8: some failed; the reports say which.
  [[ $status -eq 0 || $status -eq 8 ]] || note failed "$dir" "ctest ended with status $status"
  [[ -s $junit ]] || note failed "$dir" "ctest left no report"
  for folder in "${folders[@]}"; do
    compgen -G "$dir/test-results/unit/${folder}_tests*.xml" > /dev/null || note failed "$dir" "${folder}_tests left no report"
  done
}

# The folders that unit tests are for.
unit_folders() { find tests -mindepth 2 -maxdepth 2 -name '*_test.cc' -printf '%h\n' | xargs -n 1 basename | sort -u; }

echo "== packages"
if ! timeout --foreground --kill-after=10 1200 deploy/install_deps.sh --for-tests; then
  echo "0 passed, 1 failed"
  exit 1
fi

begin build "release build" && build build all -- --preset release -DSHOAL_WITH_TESTS=ON
if $want_unit && begin build "unit tests"; then
  # shellcheck disable=SC2046  # One word per folder.
  unit build $(unit_folders) --
fi
if $want_e2e && begin build "end-to-end tests"; then
  /usr/bin/python3 tests/e2e/run_e2e.py --build build --results build/test-results/e2e --seconds "$(seconds_left)" \
    || echo "run_e2e.py ended with status $?"  # Its reports say what failed.
  for file in tests/e2e/*_test.py; do
    name=$(basename "$file" _test.py)
    [[ -s build/test-results/e2e/$name.xml ]] || note failed build "$file left no report"
  done
fi

if $want_sanitizers && begin build-asan "ASan + UBSan: unit tests"; then
  read -ra folders <<< "$(unit_folders | tr '\n' ' ')"
  build build-asan "${folders[@]/%/_tests}" -- --preset asan -DCMAKE_CXX_FLAGS_RELEASE="$quick"
  # Perplexity is a measurement, int4 weights are made anew for every plan, and a whole model's kernels are emulated thread by
  # thread: minutes under a sanitizer, over code that the other tests run as well.
  ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
    GTEST_FILTER='-QualityTest.*:*PlanIndependenceTest*/int4:DecoderParityTest.*BitsOf*' unit build-asan "${folders[@]}" -- -R '_tests(_[0-9]+)?$'
fi
if $want_sanitizers && begin build-tsan "TSan: base, parallel, engine and server tests, CUDA kernels"; then
  folders=(base kernels parallel engine server)
  build build-tsan "${folders[@]/%/_tests}" -- --preset tsan -DCMAKE_CXX_FLAGS_RELEASE="$quick"
  # Debian's gRPC and Abseil are not instrumented: what happens inside them only is not ours to judge. The longest history: a
  # report whose older stack is lost matches no suppression.
  TSAN_OPTIONS="halt_on_error=1 history_size=7 ignore_noninstrumented_modules=1 suppressions=$PWD/tests/support/tsan.supp" \
    unit build-tsan "${folders[@]}" -- -R '^(base|kernels|parallel|engine|server)_tests$'
fi

if $want_fuzz && begin build-fuzz "fuzz targets, $fuzz_seconds s each"; then
  build build-fuzz fuzz_targets -- --preset fuzz -DCMAKE_CXX_FLAGS_RELEASE="$quick"
  bounded "${fixed_layout[@]}" tests/support/fuzz_smoke.sh build-fuzz "$fuzz_seconds" "$jobs"
  for file in tests/fuzz/*_fuzz.cc; do
    name=$(basename "$file" .cc)
    grep -qs " fuzz $name\b" build-fuzz/test-results/fuzz.result || note failed build-fuzz "fuzz $name has no verdict"
  done
fi

printf '\n== [%3d s] summary\n' $((SECONDS - started))
/usr/bin/python3 tests/support/summarize.py "${build_dirs[@]/%//test-results}"
