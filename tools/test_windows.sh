#!/usr/bin/env bash
# The C tests and the tests of the package for Windows, under Wine: `make test-windows`. Arguments choose Pythons.
# What Wine cannot do is said in tests/conftest.py; tests for other systems skip themselves.
set -euo pipefail
cd "$(dirname "$0")/.."

target=test-windows
python=.venv/bin/python
work=build/windows

# Every start of an interpreter takes a second under Wine. So the short form leaves out the files whose tests mostly start
# programs, or say the same on every system; and on all versions but the first it runs only the heart of it: processes
# that share a lock or a log, some of which are killed, and files that are replaced. In the full form three versions run
# everything, and two more what is the short form of the first.
small="tests/test_lock_all.py tests/test_segments.py"
core="$small tests/test_rwlock.py tests/test_waiting.py tests/test_jsonl_many.py tests/test_jsonl_reading.py"
versions=(3.14 3.11 3.14t)
declare -A tests=([3.14]=$core [3.11]=$small [3.14t]=$small)
limit=1400 # seconds, for what hangs

if [[ ${HOLDFAST_FULL:-0} == 1 ]]; then
    versions+=(3.13 3.10)
    tests=([3.14]=tests [3.11]=tests [3.14t]=tests [3.13]=$core [3.10]=$core)
    limit=14400
fi
(($# == 0)) || versions=("$@")
for version in "${versions[@]}"; do
    [[ -v tests[$version] ]] || { echo "no Python $version here, but ${!tests[*]}" >&2 && exit 2; }
done

evidence() { "$python" tools/evidence.py "$@"; }

# Print the path of the wheel for a version. `make wheels` may just have built it.
wheel_for() { # VERSION
    local name=win_amd64 tag=cp310-abi3 wheel source=(-name '*.py' -o -name '*.[ch]' -o -name '*.toml')
    if [[ $1 == *t ]]; then
        name=cp314t-win_amd64 tag=cp314-cp314t
    fi
    wheel=$(compgen -G "build/wheels/*-$tag-win_amd64.whl") || wheel=
    if [[ -z $wheel || $(find csrc src setup.py pyproject.toml -newer "$wheel" \( "${source[@]}" \)) ]]; then
        "$python" tools/wheels.py "$name" >&2 || return
    fi
    compgen -G "build/wheels/*-$tag-win_amd64.whl"
}

# An interpreter of the run's own, with the package as pip would unpack it.
lay_out() { # VERSION
    local made wheel
    made=$("$python" tools/windows_python.py "$1") || return
    wheel=$(wheel_for "$1") || return 1
    rm -rf "${work:?}/$1" && cp -a "$made" "$work/$1" &&
        "$python" -m zipfile -e "$wheel" "$work/$1/Lib/site-packages"
}

# As many at a time as there are processors.
declare -A running=()
start() { # NAME COMMAND...
    local name=$1
    shift
    while (($(jobs -rp | wc -l) >= $(nproc))); do
        wait -n || true
    done
    echo "started: $name"
    rm -f "$work/$name.status"
    {
        timeout --kill-after=30 "$limit" "$@" >"$work/$name.log" 2>&1 </dev/null &
        trap 'kill %1' TERM
        status=0
        wait %1 || status=$?
        echo "$status" >"$work/$name.status"
    } &
    running[$name]=$!
}
trap 'kill "${running[@]}" 2>/dev/null || true' EXIT

start_tests() { # VERSION
    local chosen
    read -ra chosen <<<"${tests[$1]}"
    rm -f "$work/$1.xml"
    start "$1" bash tools/wine.sh "$work/wine-$1" "$work/$1/python.exe" -m pytest \
        -p no:cacheprovider --timeout=600 --junitxml="$work/$1.xml" "${chosen[@]}"
}

note_c_core() {
    local counts=(0 1 0)
    cat "$work/C.log"
    if grep -qE '^[0-9]+ passed, ' "$work/C.log"; then
        read -ra counts < <(grep -E '^[0-9]+ passed, ' "$work/C.log" | tr -cd '0-9 \n')
    fi
    evidence row "$target" "C core" --passed "${counts[0]}" --failed "${counts[1]}" --skipped "${counts[2]}"
}

note_tests() { # VERSION
    local part="the whole suite"
    [[ ${tests[$1]} == tests ]] || part="$(wc -w <<<"${tests[$1]}") files of tests"
    cat "$work/$1.log"
    if [[ -n ${running[$1]:-} ]]; then
        evidence pytest "$target" "CPython $1" "$work/$1.xml" "$(cat "$work/$1.status")" --note "$part"
    else
        evidence row "$target" "CPython $1" "--${absent[$1]}" 1 --note "$(tail -n 1 "$work/$1.log")"
    fi
}

mkdir -p "$work"
evidence begin "$target" "$@"
start C env PYTHON="$python" bash csrc/tests/run.sh windows
declare -A absent=()
for version in "${versions[@]}"; do
    status=0
    lay_out "$version" 2>"$work/$version.log" || status=$?
    case $status in
    0) start_tests "$version" ;;
    3) absent[$version]=skipped ;;
    *) absent[$version]=failed ;;
    esac
done
wait
note_c_core
for version in "${versions[@]}"; do
    note_tests "$version"
done
evidence end "$target"
