#!/bin/sh
# Runs a compiler (keep_ptxas_report.sh COMMAND...) and moves what ptxas -v says from its standard error to OBJECT.ptxas,
# OBJECT being the argument of -o. Everything else stays what it was: output, order and exit status.
previous='' object=''
for argument; do
  if [ "$previous" = -o ]; then object=$argument; fi
  previous=$argument
done
[ -n "$object" ] || exec "$@"

messages=$(mktemp) || exit 1
trap 'rm -f "$messages"' EXIT
"$@" 2> "$messages"
status=$?
info='^ptxas info|^ *[0-9]+ bytes stack frame'
grep -E "$info" "$messages" > "$object.ptxas"
grep -Ev "$info" "$messages" >&2
exit $status
