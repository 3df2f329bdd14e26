#!/usr/bin/env bash
# Run a program for Windows under Wine: tools/wine.sh FOLDER PROGRAM [ARGUMENT]...
# FOLDER holds the Windows 10 that the program sees; it is made when it is missing. What the program leaves running is ended.
set -euo pipefail

export WINEPREFIX=$PWD/$1 WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES="mscoree,mshtml=;winedbg.exe=d"
shift
# Debian keeps wine64 and wineserver off the PATH.
PATH=$PATH:/usr/lib/wine:/usr/lib/x86_64-linux-gnu/wine
wine=$(command -v wine64 || command -v wine || true)
server=$(command -v wineserver64 || command -v wineserver || true)
[[ -n $wine && -n $server ]] || { echo "wine.sh: wine is missing (wine64)" >&2; exit 2; }

trap '"$server" -k || true' EXIT
if [[ ! -e $WINEPREFIX/made ]]; then
    rm -rf "$WINEPREFIX"
    mkdir -p "$WINEPREFIX"
    timeout 300 "$wine" wineboot -i </dev/null >/dev/null 2>&1
    timeout 300 "$wine" winecfg -v win10 </dev/null >/dev/null 2>&1
    touch "$WINEPREFIX/made"
fi
# A console program under Wine wants no terminal, and its output in a pipe.
"$wine" "$@" </dev/null 2>&1 | cat
