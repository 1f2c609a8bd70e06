#!/usr/bin/env bash
# Usage: mpirun_test.sh RANKS PROGRAM [ARGUMENT...]. Runs a test program on RANKS ranks of this host.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../deploy/mpirun_env.sh"
ranks=$1
shift
exec mpirun -n "$ranks" "$@" < /dev/null
