#!/usr/bin/env bash
# From a fresh Debian 12 to an answer: installs what is missing, builds, serves the demo model on 2 ranks, asks it one
# question and stops again.
#   --serve          stay up after the answer, until Ctrl-C
#   --config FILE    another deployment than configs/demo_tp2.textproto
#   --ranks N        the number of ranks it takes (default 2)
#   --prompt TEXT    another question
set -euo pipefail
caller_dir=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

serve=false
config=configs/demo_tp2.textproto
ranks=2
prompt="Tell me a story about a fox."

# A path that the caller gave counts from where the caller is.
from_caller() { if [[ $1 == /* ]]; then echo "$1"; else echo "$caller_dir/$1"; fi; }

while [[ $# -gt 0 ]]; do
  case "$1" in
    --serve) serve=true; shift ;;
    --config | --ranks | --prompt)
      [[ $# -ge 2 ]] || { echo "quickstart.sh: $1 needs a value" >&2; exit 2; }
      case "$1" in --config) config=$(from_caller "$2") ;; --ranks) ranks=$2 ;; --prompt) prompt=$2 ;; esac
      shift 2 ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "quickstart.sh: unknown argument '$1'; see --help" >&2; exit 2 ;;
  esac
done

work=$(mktemp -d)
server_pid=""

# True while mpirun runs.
running() { [[ -n $server_pid ]] && kill -0 "$server_pid" 2> /dev/null; }

# Asks the server to finish; after 10 seconds stops it the hard way. Leaves nothing behind.
stop_server() {
  if running; then
    build/bin/shoal drain --server "$address" > "$work/drain.log" 2>&1 || kill -TERM "$server_pid" 2> /dev/null || true
    for _ in $(seq 100); do running || break; sleep 0.1; done
  fi
  if running; then
    kill -TERM "$server_pid" 2> /dev/null || true
    for _ in $(seq 50); do running || break; sleep 0.1; done
  fi
  if running; then
    # shellcheck disable=SC2046 # A list of pids: the ranks.
    kill -KILL $(cat "/proc/$server_pid/task/$server_pid/children" 2> /dev/null) "$server_pid" 2> /dev/null || true
  fi
  local status=0
  [[ -z $server_pid ]] || wait "$server_pid" || status=$?
  server_pid=""
  return "$status"
}

on_exit() {
  local status=$?
  trap - EXIT INT TERM
  stop_server > /dev/null 2>&1 || true
  rm -rf "$work"
  exit "$status"
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

deploy/install_deps.sh

# Shared with tests/run.sh and other checkouts.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
# Where there is no home folder to write to, the cache lies beside the build.
[[ -n ${CCACHE_DIR:-} || -w ${HOME:-/} ]] || export CCACHE_DIR=$PWD/build/ccache
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-1}
build_log=$work/build.log
echo "Building Shoal (the first time takes a few minutes) ..."
if ! { cmake --preset release -DSHOAL_WITH_TESTS="${SHOAL_WITH_TESTS:-OFF}" && cmake --build build --target shoal-server shoal; } > "$build_log" 2>&1; then
  grep -E 'error|Error' "$build_log" | head -n 10 >&2 || true
  tail -n 15 "$build_log" >&2
  echo "quickstart.sh: the build failed; its last lines are above" >&2
  exit 1
fi

source deploy/mpirun_env.sh

# A port on loopback where nobody answers.
free_port() {
  local port
  for _ in $(seq 50); do
    port=$((20000 + RANDOM % 12000))
    (exec 3<> "/dev/tcp/127.0.0.1/$port") 2> /dev/null || { echo "$port"; return; }
  done
  echo "quickstart.sh: no free port found on 127.0.0.1 between 20000 and 32000" >&2
  return 1
}
address=127.0.0.1:$(free_port)

echo
echo "The plan:"
build/bin/shoal plan --config "$config" --ranks "$ranks" | sed 's/^/  /'

server_log=$work/server.log
# Its own process group: Ctrl-C reaches this script alone, which then drains.
set -m
mpirun -n "$ranks" build/bin/shoal-server --config "$config" --listen "$address" > "$server_log" 2>&1 < /dev/null &
server_pid=$!
set +m
# A large model loads for minutes: it may, as long as the server lives. Its lines about that are shown.
ready_minutes_max=30
shown=0
show_loading() {
  local total
  total=$(wc -l < "$server_log")
  ((total > shown)) || return 0
  sed -n "$((shown + 1)),${total}p" "$server_log" | grep 'loading ' || true
  shown=$total
}
ready_until=$((SECONDS + ready_minutes_max * 60))
until grep -q "ready:" "$server_log"; do
  if ! running; then
    cat "$server_log" >&2
    echo "quickstart.sh: the server ended before it was ready; its output is above" >&2
    exit 1
  fi
  if ((SECONDS >= ready_until)); then
    cat "$server_log" >&2
    echo "quickstart.sh: the server was not ready after $ready_minutes_max minutes; its output is above" >&2
    exit 1
  fi
  show_loading
  sleep 0.1
done

echo
echo "You:   $prompt"
printf 'Shoal: '
build/bin/shoal generate --server "$address" --chat --prompt "$prompt" --max-tokens 200 --temperature 0 --stats 2>&1

if $serve; then
  cat << TEXT

Serving on $address. In another terminal:
  build/bin/shoal chat --server $address
  build/bin/shoal generate --server $address --chat --prompt "What is 17 plus 25?"
  build/bin/shoal drain --server $address
Ctrl-C stops it.
TEXT
  trap 'echo; echo "Stopping ..."; stop_server; exit 0' INT TERM
  while running; do sleep 0.2; done
  wait "$server_pid" && status=0 || status=$?
  server_pid=""
  [[ $status -eq 0 ]] || cat "$server_log" >&2
  exit "$status"
fi

if ! stop_server; then
  cat "$server_log" >&2
  echo "quickstart.sh: the server did not stop cleanly; its output is above" >&2
  exit 1
fi
echo
echo "Stopped cleanly. 'deploy/quickstart.sh --serve' keeps it up; 'tests/run.sh' runs every test."
