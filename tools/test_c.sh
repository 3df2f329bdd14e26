#!/usr/bin/env bash
# The C tests, built in one of the ways of csrc/tests/run.sh, with a row for each run of them: tools/test_c.sh BIN TARGET WAY
set -euo pipefail
cd "$(dirname "$0")/.."

target=$2
way=$3
log=$PWD/build/$target.log
evidence=("$1/python" tools/evidence.py)

"${evidence[@]}" begin "$target"
mkdir -p build
status=0
bash csrc/tests/run.sh "$way" 2>&1 | tee "$log" || status=$?
while read -r passed failed skipped what; do
    "${evidence[@]}" row "$target" "$what" --passed "$passed" --failed "$failed" --skipped "$skipped"
done < <(awk '/^== / { what = substr($0, 4) } /^[0-9]+ passed, / { print $1, $3, $5, what }' "$log")
if [[ $status -ne 0 ]]; then
    "${evidence[@]}" row "$target" "$way" --failed 1 --note "it ended with $status"
fi
"${evidence[@]}" end "$target"
