#!/usr/bin/env bash
# Installs what is missing, builds, runs every test; the last line says `N passed, N failed`.
#   --fast     leave out the sanitizer builds and the fuzz targets
#   --e2e      only the end-to-end tests (after the build)
#   --unit     only the unit tests (after the build)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

want_unit=true want_e2e=true want_sanitizers=true want_fuzz=true
for argument in "$@"; do
  case "$argument" in
    --fast) want_sanitizers=false want_fuzz=false ;;
    --e2e) want_unit=false want_sanitizers=false want_fuzz=false ;;
    --unit) want_e2e=false want_sanitizers=false want_fuzz=false ;;
    -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "run.sh: unknown argument '$argument'; see --help" >&2; exit 2 ;;
  esac
done

jobs=$(nproc)
fuzz_seconds=${SHOAL_FUZZ_SECONDS:-30}
export CCACHE_DIR=${CCACHE_DIR:-${HOME:-/tmp}/.cache/ccache}
# Without these, ccache keeps nothing that uses a precompiled header.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
# Another checkout of the same sources finds them compiled already.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}
mkdir -p "$CCACHE_DIR"
quick="-O1 -g1"  # Optimisation of the sanitizer builds.
started=$SECONDS
result_dirs=()

# Says what begins, and when.
section() { printf '\n== [%3d s] %s\n' $((SECONDS - started)) "$*"; }

# note passed|failed NAME BUILD_DIR: the verdict of a check that writes no report.
note() { echo "$1 $2" >> "$3/test-results/checks.result"; }

# build DIR TARGETS... -- CMAKE_ARGUMENTS...: configures and builds; a failure counts as a failed test.
build() {
  local dir=$1 targets=()
  shift
  while [[ $# -gt 0 && $1 != -- ]]; do targets+=("$1"); shift; done
  [[ $# -eq 0 ]] || shift
  rm -rf "$dir/test-results"
  mkdir -p "$dir/test-results/unit" "$dir/test-results/e2e"
  result_dirs+=("$dir/test-results")
  local log=$dir/build.log
  # Halts at no error: one broken folder must not hide the results of the others.
  if cmake "$@" > "$log" 2>&1 && cmake --build "$dir" -j "$jobs" --target "${targets[@]}" -- -k 0 >> "$log" 2>&1; then
    note passed "build" "$dir"
  else
    grep -E 'error|FAILED|CMake Error' "$log" | head -n 30
    echo "the build in $dir failed; all of it is in $log"
    note failed "build (see $log)" "$dir"
    return 1
  fi
}

# unit DIR [CTEST_ARGUMENTS...]: runs the unit tests of a build.
unit() {
  local dir=$1
  shift
  ctest --test-dir "$dir" -j "$jobs" --output-on-failure --no-tests=error --output-junit "$PWD/$dir/test-results/unit.ctest" "$@" \
    || true # The summary counts what failed.
}

section "packages"
if ! deploy/install_deps.sh --for-tests; then
  echo "0 passed, 1 failed"
  exit 1
fi

section "release build"
build build all -- --preset release -DSHOAL_WITH_TESTS=ON
if $want_unit; then
  section "unit tests"
  unit build
fi
if $want_e2e; then
  section "end-to-end tests"
  /usr/bin/python3 tests/e2e/run_e2e.py --build build --results build/test-results/e2e
fi

if $want_sanitizers; then
  section "ASan + UBSan: unit tests"
  build build-asan all -- --preset asan -DCMAKE_CXX_FLAGS_RELEASE="$quick" -DSHOAL_WITH_SERVER=OFF
  export ASAN_OPTIONS=detect_leaks=1:abort_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
  # Perplexity is a measurement: minutes under a sanitizer, over code that the other tests run as well.
  GTEST_FILTER='-QualityTest.*' unit build-asan -E '^(layering|clang_format|.*_mpi.*|mpi_.*)$'
  section "TSan: engine and server tests"
  build build-tsan engine_tests server_tests -- --preset tsan -DCMAKE_CXX_FLAGS_RELEASE="$quick"
  # Debian's gRPC and Abseil are not instrumented: what happens inside them only is not ours to judge.
  export TSAN_OPTIONS="halt_on_error=1 ignore_noninstrumented_modules=1 suppressions=$PWD/tests/support/tsan.supp"
  unit build-tsan -R '^(engine_tests|server_tests)$'
fi

if $want_fuzz; then
  section "fuzz targets, $fuzz_seconds s each"
  if build build-fuzz fuzz_targets -- --preset fuzz -DCMAKE_CXX_FLAGS_RELEASE="$quick"; then
    tests/support/fuzz_smoke.sh build-fuzz "$fuzz_seconds" "$jobs"
  fi
fi

section "summary after $((SECONDS - started)) s"
/usr/bin/python3 tests/support/summarize.py "${result_dirs[@]}"
