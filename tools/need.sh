#!/usr/bin/env bash
# Make sure that commands, or files, exist: tools/need.sh COMMAND=PACKAGE[,PACKAGE]... /PATH=PACKAGE...
# Debian's packages are installed where that needs no questions; elsewhere this says what to install.
set -euo pipefail

packages=()
PATH=$PATH:/usr/sbin:/sbin
for need in "$@"; do
    if ! [[ $need == /* && -e ${need%%=*} ]] && ! command -v "${need%%=*}" >/dev/null; then
        IFS=, read -ra names <<<"${need#*=}"
        packages+=("${names[@]}")
    fi
done
if [[ ${#packages[@]} -eq 0 ]]; then
    exit
fi
if [[ $(id -u) -ne 0 ]] || ! command -v apt-get >/dev/null; then
    echo "needed, and not found; on Debian install: ${packages[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# apt itself waits for one who installs, but not for one who looks for what there is.
exec 9>/run/lock/holdfast-need
flock 9
options=(-qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0)
apt-get "${options[@]}" update
apt-get "${options[@]}" install -y --no-install-recommends "${packages[@]}" >/dev/null
