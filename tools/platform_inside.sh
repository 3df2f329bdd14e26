#!/usr/bin/env bash
# Run a command as if ROOT were the whole machine: tools/platform_inside.sh ROOT FOLDER COMMAND...
#
# It has processes and mounts of its own. They end with it, however it ends, and so does what it wrote: there is nothing
# to clean up, and nothing here removes anything. Of the machine it sees the project and the cache, which it can only
# read, and FOLDER, in which it may leave something. With `/` as ROOT it sees the machine as it is.
set -euo pipefail

if [[ $1 != --inside ]]; then
    exec unshare --mount --propagation private --pid --fork --kill-child bash "${BASH_SOURCE[0]}" --inside "$@"
fi
root=$2
folder=$3
shift 3
project=$PWD
cache=${HOLDFAST_CACHE:-$HOME/.cache/holdfast}

if [[ $root == / ]]; then
    mount -t proc proc /proc
    "$@"
    exit
fi

# In memory, on a folder that is there anyhow and seen by nobody else in this form.
mount -t tmpfs layer /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o "lowerdir=$root,upperdir=/mnt/upper,workdir=/mnt/work" root /mnt/root
mount -t proc proc /mnt/root/proc
mount -t tmpfs tmp /mnt/root/tmp
mount -t tmpfs dev /mnt/root/dev
mkdir /mnt/root/dev/shm /mnt/root/dev/pts
mount -t tmpfs shm /mnt/root/dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /mnt/root/dev/pts
for device in null zero full random urandom tty; do
    touch "/mnt/root/dev/$device"
    mount --bind "/dev/$device" "/mnt/root/dev/$device"
done
ln -s pts/ptmx /mnt/root/dev/ptmx
ln -s /proc/self/fd /mnt/root/dev/fd
for readable in "$project" "$cache"; do
    mkdir -p "/mnt/root$readable"
    mount --bind "$readable" "/mnt/root$readable"
    mount -o remount,bind,ro "/mnt/root$readable"
done
mount --bind "$folder" "/mnt/root$folder"
export LC_ALL=C.UTF-8 # which both have, this machine perhaps with another locale
unshare --root=/mnt/root --wd="$project" "$@"
exit # the command is not this shell itself: someone has to see the end of those whose parents are gone
