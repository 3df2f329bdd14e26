#!/usr/bin/env bash
# The headers of a CPython that this machine may not have, from Debian's unstable release: tools/headers.sh 3.14
# Prints the folder they are in. Nothing is installed.
set -euo pipefail

version=$1
folder=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}/headers/$version
if [[ ! -d $folder ]]; then
    command -v apt-get >/dev/null || { echo "the headers of CPython $version come through apt-get" >&2 && exit 1; }
    mirror=$(apt-get indextargets --format '$(REPO_URI)' | grep -m1 -E '/debian/?$') ||
        { echo "apt knows no mirror of Debian to get the headers of CPython $version from" >&2 && exit 1; }
    mkdir -p "$(dirname "$folder")"
    scratch=$(mktemp -d "$folder.XXXXXX") # beside the folder, so that a rename makes it whole at once
    trap 'rm -rf "$scratch"' EXIT
    cd "$scratch"
    mkdir -p state/lists/partial cache/archives/partial
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    echo "deb [signed-by=$keyring] $mirror unstable main" >sources.list
    # Signatures are checked. That a mirror may be days behind does not matter.
    options=(-qq -o APT::Sandbox::User=root -o Acquire::Check-Valid-Until=false -o Acquire::Languages=none
        -o Dir::Etc::SourceList="$scratch/sources.list" -o Dir::Etc::SourceParts=-
        -o Dir::State="$scratch/state" -o Dir::Cache="$scratch/cache")
    apt-get "${options[@]}" update
    apt-get "${options[@]}" download "libpython$version-dev"
    dpkg-deb --extract libpython"$version"-dev_*.deb package
    mv -T "package/usr/include/python$version" "$folder" 2>/dev/null || [[ -d $folder ]] # or another run was faster
fi
echo "$folder"
