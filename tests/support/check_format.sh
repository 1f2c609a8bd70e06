#!/usr/bin/env bash
# Usage: check_format.sh CLANG_FORMAT ROOT. Fails if a C++ file that git knows, or would take, is not laid out as .clang-format says.
set -euo pipefail
cd "$2"
if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
  files=$(git -c safe.directory='*' ls-files --cached --others --exclude-standard -- '*.h' '*.cc' '*.cu' '*.cuh')
else
  files=$(find base kernels parallel model engine server tools tests -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh')
fi
bad=0
while IFS= read -r file; do
  [[ -f $file ]] || continue
  if ! "$1" --dry-run -Werror "$file" 2> /dev/null; then
    echo "$file: not formatted; run: clang-format-14 -i $file"
    bad=$((bad + 1))
  fi
done <<< "$files"
echo "$(wc -l <<< "$files") files, $bad not formatted"
[[ $bad -eq 0 ]]
