#!/usr/bin/env bash
# The C tests, built and run in one of four ways, or only built:
#
#   csrc/tests/run.sh native      with the system's compiler; and the core compiled for macOS, if zig is at hand
#   csrc/tests/run.sh sanitize    with the address, undefined-behaviour and leak sanitizers, then with the thread sanitizer
#   csrc/tests/run.sh valgrind    under memcheck
#   csrc/tests/run.sh windows     cross-compiled with mingw-w64 and run under Wine; and for other processors, with zig
#   csrc/tests/run.sh build TARGET   build/ctests/build/TARGET for another processor or C library, by zig's name for it
#
# Everything is built in build/ctests/MODE. CC and PYTHON name other tools than the usual ones. Zig is looked for as the
# package `ziglang` of PYTHON; without it the checks that only compile are skipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

mode=${1:-}
out=build/ctests/$mode
python=${PYTHON:-python3}
core=(csrc/*.c)
posix=(csrc/posix/*.c)
win32=(csrc/win32/*.c)
tests=(csrc/tests/*.c)
strict=(-std=c11 -Wall -Wextra -Werror -Wshadow)
linux=("${strict[@]}" -Wconversion -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -pthread)
windows=("${strict[@]}" -D_WIN32_WINNT=0x0a00 -DUNICODE)

need() {
    command -v "$1" >/dev/null || { echo "run.sh: $1 is missing ($2)" >&2; exit 2; }
}

say() {
    printf '== %s\n' "$*"
}

build() { # COMPILER NAME FLAG...
    local compiler=$1 name=$2
    shift 2
    "$compiler" "$@" -o "$out/$name" "${core[@]}" "${posix[@]}" "${tests[@]}" -lrt
}

# Compile the core for a target that cannot be run here.
compile_only() { # TARGET FOLDER FLAG...
    local target=$1 folder=$2 object=$out/$1.o source
    shift 2
    if ! "$python" -c 'import ziglang' 2>/dev/null; then
        echo "SKIPPED compiling the core for $target: $python has no package ziglang"
        return
    fi
    say "compiling the core for $target"
    for source in "${core[@]}" "csrc/$folder"/*.c; do
        "$python" -m ziglang cc -target "$target" -O2 "$@" -c -o "$object" "$source"
    done
}

native() {
    need "${CC:-gcc}" "a C compiler"
    build "${CC:-gcc}" ctests -O2 "${linux[@]}"
    timeout -k 5 600 "$out/ctests"
    compile_only aarch64-macos.11.0 posix "${strict[@]}" -D_GNU_SOURCE
}

sanitize() {
    need "${CC:-gcc}" "a C compiler with its sanitizers"
    local checks=-fsanitize=address,undefined
    say "AddressSanitizer, UBSan, leaks"
    build "${CC:-gcc}" asan -O1 -g "${linux[@]}" "$checks" -fno-sanitize-recover=all -fno-omit-frame-pointer
    ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=1 UBSAN_OPTIONS=print_stacktrace=1 timeout -k 5 600 "$out/asan"
    say "ThreadSanitizer"
    build "${CC:-gcc}" tsan -O1 -g "${linux[@]}" -fsanitize=thread
    # Where memory is laid out more randomly than the sanitizer can stand, it must not be.
    local steady=()
    if command -v setarch >/dev/null && setarch -R true 2>/dev/null; then
        steady=(setarch -R)
    fi
    echo "SKIPPED groups files, fork, meters, system, injection under the thread sanitizer: they have one thread, or fork"
    TSAN_OPTIONS=halt_on_error=1 timeout -k 5 600 "${steady[@]}" "$out/tsan" locks threads waits markers logs
}

memcheck() {
    need "${CC:-gcc}" "a C compiler"
    need valgrind "valgrind"
    say "memcheck"
    build "${CC:-gcc}" ctests -O1 -g "${linux[@]}"
    timeout -k 5 600 valgrind --quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect,possible \
        --errors-for-leak-kinds=definite,indirect,possible --trace-children=yes --fair-sched=yes \
        "$out/ctests" -slow
}

build_for() { # TARGET
    "$python" -m ziglang cc -target "$1" -O2 "${linux[@]}" -o "$out/$1" "${core[@]}" "${posix[@]}" "${tests[@]}" -lrt
}

under_wine() {
    local gcc=x86_64-w64-mingw32-gcc target
    need "$gcc" "mingw-w64"
    "$gcc" -O2 -static "${windows[@]}" -o "$out/ctests.exe" "${core[@]}" "${win32[@]}" "${tests[@]}" -ladvapi32
    for target in x86_64-windows-gnu aarch64-windows-gnu x86-windows-gnu; do
        compile_only "$target" win32 "${windows[@]}"
    done
    timeout -k 5 600 bash tools/wine.sh "$out/wine" "$out/ctests.exe"
}

case $mode in
native | sanitize | valgrind | windows | build) mkdir -p "$out" ;;
*)
    echo "usage: csrc/tests/run.sh native|sanitize|valgrind|windows|build TARGET" >&2
    exit 2
    ;;
esac
case $mode in
valgrind) memcheck ;;
windows) under_wine ;;
build) build_for "$2" ;;
*) "$mode" ;;
esac
say "$mode: all is well"
