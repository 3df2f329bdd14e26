#!/usr/bin/env bash
# Make the emulated machine's system, once: image.sh FOLDER
#
# FOLDER gets system.img, vmlinuz and initrd.img: Debian with its own kernel, file servers on itself, and a start
# program that runs what is on its second disk. As root on Debian; the mirror is the one this machine uses.
set -euo pipefail

folder=$1
release=bookworm
packages=(
    python3 linux-image-amd64 initramfs-tools kmod udev procps
    nfs-kernel-server nfs-common rpcbind samba cifs-utils
    dosfstools xfsprogs btrfs-progs e2fsprogs dmsetup iproute2
)

if [[ -e $folder/system.img ]]; then
    exit
fi
work=$folder/work.$$
trap 'rm -rf --one-file-system "$work"' EXIT
mkdir -p "$work"

mirror=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
echo "making Debian $release; this takes some minutes, once"
# With mounts of its own: none of them may be there when the folder is removed.
unshare --mount debootstrap --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" $release "$work/root" "$mirror" >"$work/log" ||
    { tail -n 20 "$work/log"; exit 1; }
# The first process: whatever ends, it collects, and then the machine is switched off.
cat >"$work/root/start" <<'START'
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o size=80% tmp /tmp
mount -t tmpfs run /run
mkdir /run/job
mount -o ro /dev/vdb /run/job
python3 /run/job/tests/machine/inside.py
echo o >/proc/sysrq-trigger
sleep 60
START
chmod +x "$work/root/start"
cp "$work"/root/boot/vmlinuz-* "$work/vmlinuz"
cp "$work"/root/boot/initrd.img-* "$work/initrd.img"
rm -rf "$work"/root/var/cache/apt "$work"/root/usr/share/doc
mkfs.ext4 -q -d "$work/root" "$work/system.img" 3G
mv "$work/vmlinuz" "$work/initrd.img" "$folder"
mv "$work/system.img" "$folder" # last: where it is, all is
