#!/usr/bin/env bash
# Fuzz whatever reads a file that somebody else could have written: tools/fuzz.sh BIN
# FUZZ_SECONDS says for how long each coverage-guided fuzzer runs. What reached new code is kept for the next run.
set -euo pipefail
cd "$(dirname "$0")/.."

target=fuzz
bin=$1
full=${HOLDFAST_FULL:-0}
seconds=${FUZZ_SECONDS:-$([[ $full == 1 ]] && echo 600 || echo 2)}
out=$PWD/build/fuzz
corpora=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}/fuzz
memory=$([[ -d /dev/shm ]] && echo /dev/shm || echo "${TMPDIR:-/tmp}") # a disk would only slow it down
TMPDIR=$(mktemp -d "$memory/holdfast-fuzz.XXXXXX")
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT # with whatever readers have left there whose process was ended
evidence=("$bin/python" tools/evidence.py)

# fuzz NAME WHAT COMMAND...: run a fuzzer in a folder of its own, and note how many inputs that were.
fuzz() {
    local name=$1 what=$2 folder failed=0 runs
    shift 2
    mkdir -p "$corpora/$name"
    folder=$(mktemp -d)
    (cd "$folder" && "$@" "$corpora/$name" -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -max_len=8192 \
        -seed=1 -print_final_stats=1 -verbosity=0 -artifact_prefix="$out/$name-") >"$out/$name.log" 2>&1 || failed=1
    rm -rf "$folder"
    runs=$(awk '/stat::number_of_executed_units:/ { print $2 }' "$out/$name.log")
    ((${runs:-0} > 0)) || failed=1
    if [[ $failed -ne 0 ]]; then
        tail -60 "$out/$name.log"
    fi
    "${evidence[@]}" row "$target" "$what" --passed "${runs:-0}" --failed "$failed" --note "inputs in $seconds s"
}

in_c() {
    local source name
    local flags=(-std=c11 -Wall -Wextra -Werror -D_GNU_SOURCE -pthread -O1 -g)
    for source in csrc/tests/fuzz/*.c; do
        name=$(basename "$source" .c)
        clang "${flags[@]}" -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -o "$out/c-$name" \
            csrc/*.c csrc/posix/*.c "$source" -lrt
        fuzz "c-$name" "C, libFuzzer, ASan, UBSan: $name" "$out/c-$name"
    done
}

in_python() {
    local reader readers reason
    local python=$PWD/$bin/python
    if ! reason=$("$python" -c 'import atheris' 2>&1); then
        reason=${reason##*$'\n'}
        "${evidence[@]}" row "$target" "Python, atheris" --skipped 1 --note "$reason"
        echo "SKIPPED Python, atheris: $reason"
        return
    fi
    readers=$("$python" -c 'import sys; sys.path.append("tests/fuzz"); import readers; print(*readers.READERS)')
    for reader in $readers; do
        fuzz "$reader" "Python, atheris: $reader" "$python" "$PWD/tests/fuzz/coverage.py" "$reader"
    done
}

mkdir -p "$out"
"${evidence[@]}" begin "$target"
status=0
rm -f "$out/properties.xml"
"$bin/python" -m pytest -q --no-header --junitxml="$out/properties.xml" tests/fuzz/properties.py || status=$?
examples=$(PYTHONPATH=${PYTHONPATH:-tools}:tests/fuzz "$bin/python" -c 'import properties; print(f"{properties.EXAMPLES:,}")')
"${evidence[@]}" pytest "$target" "Python, hypothesis: each reader" "$out/properties.xml" "$status" "--note=$examples inputs each"
in_c
in_python
"${evidence[@]}" end "$target"
