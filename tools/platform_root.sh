#!/usr/bin/env bash
# What `make test-platforms` runs on and this machine does not have: tools/platform_root.sh NAME
#
#   bookworm-ARCHITECTURE   Debian's stable Python for another processor, with its C library
#   sid                     newer CPythons, PyPy, and a compiler for it
#   free_threaded           CPython 3.14 without the GIL
#   musl                    CPython on the other C library of Linux
#
# Each is a folder of the cache, made once; its path is the last line printed. Packages are unpacked and not set up:
# that needs no emulation and takes seconds. The status is 3 for what is not to be had here, or not now.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# The release may be past its date where the mirror is some days behind. Signatures are checked.
debian() { # SUITE ARCHITECTURE PACKAGE...
    local suite=$1 architecture=$2 mirror
    shift 2
    mirror=$(mirror)
    # With mounts of its own: none of them may be there when the scratch folder is removed.
    unshare --mount mmdebstrap --quiet --mode=root --variant=extract --architectures="$architecture" \
        --include="$(IFS=, && echo "$*")" --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
        --aptopt='Acquire::Check-Valid-Until "false"' "$suite" root "$mirror"
    echo "root:x:0:0:root:/root:/bin/sh" >root/etc/passwd
    echo "root:x:0:" >root/etc/group
    mkdir -p root/proc root/dev root/tmp root/root
}

mirror() {
    # shellcheck disable=SC2016 # apt-get itself puts the address there
    apt-get indextargets --format '$(REPO_URI)' | grep -m1 -oP '.*/debian(?=/?$)' ||
        { echo "apt knows no mirror of Debian" >&2 && exit 3; }
}

bookworm() { # ARCHITECTURE
    debian bookworm "$1" python3 libc-bin coreutils dash mount util-linux
}

sid() {
    debian sid amd64 python3.13 python3.14 python3.15 pypy3 pypy3-dev gcc libc6-dev libc-bin dash coreutils mount util-linux
}

# Of all that is on the package index, only a framework for games has this interpreter: linked into the program that
# starts the games, with the compiled half of the standard library beside it. The other half is that of sid.
free_threaded() {
    local sid headers library=root/lib/python3.14t
    sid=$(bash "$tools/platform_root.sh" sid | tail -1)
    headers=$(bash "$tools/headers.sh" 3.14 | tail -1)
    "${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary :all: --platform manylinux2014_x86_64 \
        --python-version 3.14 --implementation cp --abi cp314t panda3d==1.10.16
    "${PYTHON:-python3}" -m zipfile -e panda3d-*.whl unpacked
    mkdir -p root/bin root/lib
    cp -r "$sid/usr/lib/python3.14" "$library"
    rm -rf "$library/lib-dynload"
    mkdir "$library/lib-dynload"
    cp unpacked/deploy_libs/*.cpython-314t-*.so unpacked/deploy_libs/lib*.so.* "$library/lib-dynload"
    rm "$library"/lib-dynload/{_ssl,_hashlib}.* # they want a newer OpenSSL than Debian's stable one
    cp unpacked/deploy_libs/_sysconfigdata_*.py "$library"
    install unpacked/panda3d_tools/deploy-stub root/bin/python3.14t.bin
    cp -r "$headers" include
    cp "$tools/pyconfig.h" include
    cc -O1 -shared -fPIC -DPy_GIL_DISABLED=1 -I include -o root/lib/free_threaded.so "$tools/free_threaded.c"
    cat >root/bin/python3.14t <<'SCRIPT'
#!/bin/bash
export FREE_THREADED_PROGRAM=$(readlink -f "$0")
root=${FREE_THREADED_PROGRAM%/bin/*}
export FREE_THREADED_HOME=$root FREE_THREADED_PRELOAD=$LD_PRELOAD LD_LIBRARY_PATH=$root/lib/python3.14t/lib-dynload
export LD_PRELOAD=$root/lib/free_threaded.so${LD_PRELOAD:+:$LD_PRELOAD}
exec -a "$FREE_THREADED_PROGRAM" "$root/bin/python3.14t.bin" "$@"
SCRIPT
    chmod +x root/bin/python3.14t
}

# Minutes of compiling: only the full form does it, and then the short form has it, too.
musl() {
    [[ ${HOLDFAST_FULL:-0} == 1 ]] || { echo "the full form builds CPython with it" >&2 && exit 3; }
    source_of p/python3.13/python3.13_3.13.5.orig.tar.xz \
        93e583f243454e6e9e4588ca2c2662206ad961659863277afcdb96801647d640
    source_of "z/zlib/zlib_1.3.dfsg+really1.3.1.orig.tar.gz" \
        60dd315c07f616887caa029408308a018ace66e3d142726a97db164b3b8f69fb
    # CPython asks the compiler which library it is for, and musl-gcc answers with gcc's own.
    cat >cc <<'SCRIPT'
#!/bin/sh
[ "$1" = --print-multiarch ] && echo x86_64-linux-musl && exit
exec musl-gcc "$@"
SCRIPT
    chmod +x cc
    local compiler=$PWD/cc destination=$PWD/root
    cd zlib-*
    CC=$compiler CFLAGS="-O1 -fPIC" ./configure --static --prefix="$destination"
    make --silent install
    cd ../Python-*
    OPT="-O1 -DNDEBUG" PKG_CONFIG=false ZLIB_CFLAGS="-I$destination/include" ZLIB_LIBS="-L$destination/lib -lz" \
        CC=$compiler ./configure --quiet --disable-test-modules --without-ensurepip --prefix="$destination"
    make --silent --keep-going -j"$(nproc)"
    make --silent install
}

source_of() { # PATH SHA256
    local archive=${1##*/}
    curl --silent --show-error --fail --location --remote-name "$(mirror)/pool/main/$1"
    echo "$2 $archive" | sha256sum --check --quiet
    tar --extract --file "$archive"
}

name=$1
function=${name%%-*}
[[ $(type -t "$function") == function ]] || { echo "no such platform: $name" >&2 && exit 2; }
cache=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}/platforms
# Another way to make it makes another folder.
recipe=$(declare -f debian "$function" && { [[ $function != free_threaded ]] || cat free_threaded.c; })
folder=$cache/$name-$(sha256sum <<<"$recipe" | cut -c1-12)

if [[ ! -d $folder ]]; then
    mkdir -p "$cache"
    exec 9>"$cache/$name.lock"
    flock 9 # another run may be making it
fi
if [[ ! -d $folder ]]; then
    tools=$PWD
    scratch=$(mktemp -d "$cache/.$name.XXXXXX")
    trap 'rm -rf --one-file-system "$scratch"' EXIT
    cd "$scratch"
    "$function" "${name#*-}" >&2
    mv "$scratch/root" "$folder" # which makes it whole at once
fi
echo "$folder"
