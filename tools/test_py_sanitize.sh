#!/usr/bin/env bash
# The Python suite on a core that gcc's sanitizers watch, and in the full form valgrind:
# tools/test_py_sanitize.sh BIN [address] [thread] [valgrind]
#
# CPython itself is not instrumented, and keeps much until its end: so leaks are not looked for here, but in the C tests.
set -euo pipefail
cd "$(dirname "$0")/.."

target=test-py-sanitize
bin=$1
shift
parts=("$@")
for part in "${parts[@]}"; do
    if [[ ! $part =~ ^(address|thread|valgrind)$ ]]; then
        echo "there is no part $part, but address, thread and valgrind" >&2
        exit 2
    fi
done
full=${HOLDFAST_FULL:-0}
out=$PWD/build/sanitize
gcc=${CC:-gcc}
evidence=("$bin/python" tools/evidence.py)

# The parts of the suite that go deepest into the core.
core=(tests/test_exclusion.py tests/test_softlock.py tests/test_jsonl.py tests/test_atomic.py tests/test_rwlock.py
    tests/test_threads_and_fork.py tests/test_metrics.py)
threads=(tests/test_threads_and_fork.py tests/test_exclusion.py tests/test_metrics.py)

chosen() { # NAME: whether this part is to be run; all are, unless the command line names some
    [[ ${#parts[@]} -eq 0 || " ${parts[*]} " == *" $1 "* ]]
}

runtime() { # NAME...: the sanitizers' libraries, and that of C++, whose exceptions they must know from the start
    local name
    for name in "$@" stdc++; do
        "$gcc" -print-file-name="lib$name.so"
    done | xargs
}

# build NAME SANITIZERS: the package with its core instrumented, in a folder of its own.
build() {
    local folder=$out/$1/source
    rm -rf "${out:?}/$1"
    mkdir -p "$folder"
    cp -r csrc src pyproject.toml setup.py README.md LICENSE MANIFEST.in "$folder"
    rm -rf "$folder"/src/*.egg-info "$folder"/src/holdfast/_native.*so
    CC=$gcc CFLAGS="-O1 -g -fno-omit-frame-pointer -fsanitize=$2 -fno-sanitize-recover=undefined" \
        LDSHARED="$gcc -shared -fsanitize=$2" \
        "$bin/python" -m pip install --quiet --no-deps --target "$out/$1/package" "$folder"
}

# check NAME WHAT PRELOADED TEST...: a row of the tests on what was built as NAME. A report of a sanitizer fails it, also
# one of a process that a test has started.
check() {
    local name=$1 what=$2 preloaded=$3 reports status=0 note="the whole suite"
    reports=$out/$name/reports
    shift 3
    [[ $full == 1 ]] || note="$# files of tests; FULL=1 runs all"
    mkdir -p "$reports"
    local options="log_path=$reports/report:exitcode=99"
    env PYTHONPATH="$out/$name/package" LD_PRELOAD="$preloaded" \
        ASAN_OPTIONS="$options:detect_leaks=0:detect_stack_use_after_return=1" \
        UBSAN_OPTIONS="$options:print_stacktrace=1" TSAN_OPTIONS="$options:die_after_fork=0:suppressions=$PWD/tools/tsan.supp" \
        setarch -R "$bin/python" -m pytest -q --no-header --override-ini=timeout=600 -p no:cacheprovider \
        --junitxml="$out/$name/report.xml" "$@" || status=$?
    "${evidence[@]}" pytest "$target" "$what" "$out/$name/report.xml" "$status" --note "$note"
    if [[ -n $(ls "$reports") ]]; then
        head -60 "$reports"/*
        "${evidence[@]}" row "$target" "$what: reports" --failed "$(find "$reports" -type f | wc -l)"
    fi
}

# A sanitizer that is not there finds nothing: the package must be the one that was built, and call the sanitizer.
require() { # NAME SYMBOL PRELOADED
    local module
    module=$(env PYTHONPATH="$out/$1/package" LD_PRELOAD="$3" ASAN_OPTIONS=detect_leaks=0 setarch -R "$bin/python" -c \
        'import holdfast._native as module; print(module.__file__)')
    if [[ $module != "$out/$1/package"/* || $(nm -D "$module") != *"U $2"* ]]; then
        "${evidence[@]}" row "$target" "$1: the core" --failed 1 --note "$module does not call $2"
        return 1
    fi
}

under_valgrind() {
    local log=$out/valgrind.log failed=0
    mkdir -p "$out"
    env PYTHONMALLOC=malloc valgrind --quiet --error-exitcode=9 --suppressions=tools/valgrind-python.supp \
        --trace-children=no "$bin/python" tests/smoke.py >"$log" 2>&1 || failed=1
    tail -40 "$log"
    "${evidence[@]}" row "$target" "valgrind: tests/smoke.py" --passed $((1 - failed)) --failed "$failed" --note "memcheck"
}

check_addresses() {
    local preloaded
    preloaded=$(runtime asan ubsan)
    build address address,undefined
    require address __asan_init "$preloaded"
    check address "AddressSanitizer and UBSan" "$preloaded" "${core[@]}"
}

check_threads() {
    local preloaded
    preloaded=$(runtime tsan)
    build thread thread
    require thread __tsan_init "$preloaded"
    check thread "ThreadSanitizer" "$preloaded" "${threads[@]}"
}

"${evidence[@]}" begin "$target" "${parts[@]}"
if [[ $full == 1 ]]; then
    core=(tests)
    threads=(tests)
fi
if chosen address; then
    check_addresses
fi
if chosen thread; then
    check_threads
fi
if chosen valgrind && [[ $full == 1 ]]; then
    bash tools/need.sh valgrind=valgrind,libc6-dbg
    under_valgrind
elif chosen valgrind; then
    echo "SKIPPED valgrind: only in the full form"
    "${evidence[@]}" row "$target" valgrind --skipped 1 --note "only in the full form"
fi
"${evidence[@]}" end "$target"
