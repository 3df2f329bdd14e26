#!/usr/bin/env bash
# The C tests and the tests of the package for Windows, under Wine: `make test-windows`.
# What Wine cannot do is said in tests/conftest.py; tests for other systems skip themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

target=test-windows
python=.venv/bin/python
work=build/windows

# Every start of an interpreter takes a second under Wine. So the short form leaves out the files whose tests mostly start
# programs, or say the same on every system; and on all versions but one it runs only what Python's version may change.
core=(tests/test_{timeout,waiting,rwlock,many_locks,lock_all,exclusion}.py
    tests/test_{jsonl,jsonl_reading,jsonl_many,segments}.py
    tests/test_{atomic,state,state_many,documents}.py
    tests/test_{aio_locks,aio_jsonl,aio_state}.py)
small=(tests/test_{many_locks,exclusion,jsonl,jsonl_many,atomic,state,state_many,aio_locks}.py)

full=(3.10 3.11 3.13 3.14 3.14t)
short=(3.14 3.11 3.14t)

evidence() { "$python" tools/evidence.py "$@"; }

# An interpreter of the run's own, with the package as people install it.
lay_out() { # VERSION
    local made wheel
    made=$("$python" tools/windows_python.py "$1") || return
    case $1 in
    *t) wheel=(build/wheels/*-cp314-cp314t-win_amd64.whl) ;;
    *) wheel=(build/wheels/*-cp310-abi3-win_amd64.whl) ;;
    esac
    rm -rf "${work:?}/$1"
    cp -a "$made" "$work/$1"
    "$python" -m zipfile -e "${wheel[0]}" "$work/$1/Lib/site-packages"
}

# start NAME COMMAND...: as many at a time as there are processors.
declare -A running
start() {
    local name=$1
    shift
    while (($(jobs -rp | wc -l) >= $(nproc))); do wait -n || true; done
    echo "=== $name"
    timeout --kill-after=10 "$limit" "$@" >"$work/$name.log" 2>&1 </dev/null &
    running[$name]=$!
}
trap 'kill "${running[@]}" 2>/dev/null || true' EXIT

start_python() { # VERSION TEST...
    local version=$1
    shift
    rm -f "$work/$version.xml"
    start "$version" bash tools/wine.sh "$work/wine-$version" "$work/$version/python.exe" -m pytest \
        -p no:cacheprovider --junitxml="$work/$version.xml" "$@"
}

note_c_core() {
    local counts
    cat "$work/C.log"
    awk '/^    skipped: / { sub(/ *skipped: /, ""); print "SKIPPED [1] C core: " name ": " $0 } { name = $0 }' "$work/C.log"
    read -r -a counts < <(grep -oE '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped' "$work/C.log" | tr -cd '0-9 \n' ||
        echo 0 1 0)
    evidence row "$target" "C core" --passed "${counts[0]}" --failed "${counts[1]}" --skipped "${counts[2]}"
}

evidence begin "$target"
mkdir -p "$work"
if [[ ${HOLDFAST_FULL:-0} == 1 ]]; then
    versions=("${full[@]}") limit=7200
else
    versions=("${short[@]}") limit=500
fi
"$python" tools/wheels.py win_amd64 cp314t-win_amd64
start C env PYTHON="$python" bash csrc/tests/run.sh windows
for version in "${versions[@]}"; do
    if ! lay_out "$version" 2>"$work/$version.log"; then
        cat "$work/$version.log"
    elif [[ ${HOLDFAST_FULL:-0} == 1 ]]; then
        start_python "$version" tests
    elif [[ $version == "${short[0]}" ]]; then
        start_python "$version" "${core[@]}"
    else
        start_python "$version" "${small[@]}"
    fi
done
wait
note_c_core
for version in "${versions[@]}"; do
    if [[ -n ${running[$version]:-} ]]; then
        cat "$work/$version.log"
        evidence pytest "$target" "CPython $version" "$work/$version.xml"
    else
        evidence row "$target" "CPython $version" --skipped 1 --note "$(tail -n 1 "$work/$version.log")"
    fi
done
evidence end "$target"
