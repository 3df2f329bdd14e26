#!/usr/bin/env bash
# What others plant beside our files and write into them: tools/test_hostile.sh BIN
# Whoever plants something is another user, which takes root.
set -euo pipefail
cd "$(dirname "$0")/.."

target=test-hostile
bin=$1
reports=build/evidence/$target
evidence=("$bin/python" tools/evidence.py)

# check WHAT NOTE FILE...: a row with what pytest counts.
check() {
    local what=$1 note=$2 report status=0
    report=$reports/${what//[^a-z]/-}.xml
    shift 2
    "$bin/python" -m pytest -q --no-header --basetemp="$scratch/tests" --junitxml="$report" "$@" || status=$?
    "${evidence[@]}" pytest "$target" "$what" "$report" "$status" --note "$note"
}

# Not where other runs of pytest clean up, and close to all but their own user.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -rf "$reports"
mkdir -p "$reports"
"${evidence[@]}" begin "$target"
# Linux has protections of its own. What they keep away is not what is tested here, so it is said how they are set.
protection=$(cd /proc/sys/fs 2>/dev/null && for each in protected_*; do echo "$each=$(cat "$each")"; done | xargs || true)
check "planted beside our files" "${protection:-this system protects nothing by itself}" tests/hostile/planted.py
check "files, links and records, one by one" "in the normal suite, too" tests/test_planted.py
check "names, records, logs and states" "" tests/hostile/contents.py
check "on a terminal" "in the normal suite, too" tests/test_cli_terminal.py
"${evidence[@]}" end "$target"
