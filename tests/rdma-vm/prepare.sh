#!/bin/bash
# prepare.sh DEBS OUT: makes OUT/{vmlinux,initrd,lib/modules,sysroot} of the packages below
# DEBS/{kernel,busybox,user}. Runs on the host, as any user; installs nothing.
set -euo pipefail
debs=$1 out=$2 here=$(cd "$(dirname "$0")" && pwd)
work=$out.new
rm -rf "$work" "$out"
mkdir -p "$work"/{k,b,u,sysroot,i}
dpkg-deb -x "$debs"/kernel/*.deb "$work/k"
dpkg-deb -x "$debs"/busybox/*.deb "$work/b"
for deb in "$debs"/user/*.deb; do dpkg-deb -x "$deb" "$work/u"; done
busybox=$(find "$work/b" -path '*/bin/busybox' -type f -print -quit)

# A /lib that is a directory would hide the host's link of that name in the overlay.
for top in lib sbin bin; do
    [ -d "$work/u/$top" ] || continue
    mkdir -p "$work/u/usr/$top"
    cp -a "$work/u/$top/." "$work/u/usr/$top/"
    rm -r "${work:?}/u/$top"
done
mv "$work/u/usr" "$work/sysroot/"
[ ! -d "$work/u/etc" ] || mv "$work/u/etc" "$work/sysroot/"

# The uncompressed kernel, booted by its PVH entry: under emulation the bzImage's own decompressor
# takes seconds. Offset and length of the payload are fields of the boot protocol.
image=$(find "$work/k/boot" -name 'vmlinuz*' -print -quit)
field() { od -An -tu4 -j "$1" -N 4 "$image" | tr -d ' '; }
sectors=$(od -An -tu1 -j 497 -N 1 "$image" | tr -d ' ')
start=$(((${sectors:-4} + 1) * 512 + $(field 584) + 1))
tail -c "+$start" "$image" > "$work/k/tail"
head -c "$(field 588)" "$work/k/tail" > "$work/k/payload"
case $(od -An -tx1 -N 4 "$work/k/payload" | tr -d ' ') in
    fd377a58) xz -dc --single-stream < "$work/k/payload" > "$work/vmlinux" ;;
    28b52ffd) head -c -4 "$work/k/payload" | zstd -dcq > "$work/vmlinux" ;;
    *) echo "prepare.sh: unknown compression of $image" >&2; exit 1 ;;
esac
[ "$(od -An -c -j 1 -N 3 "$work/vmlinux" | tr -d ' ')" = ELF ]

modules=$(find "$work/k" -path '*/lib/modules/*' -type d -print -quit)
version=${modules##*/}
mkdir -p "$work/lib/modules/$version"
find "$modules" -name '*.ko.xz' -exec xz -d {} +
cp -a "$modules"/modules.builtin* "$modules/modules.order" "$work/lib/modules/$version/"
# Only what the devices and the network need: the rest is 350 MB.
for part in drivers/infiniband drivers/net/veth.ko drivers/net/dummy.ko drivers/virtio \
    drivers/char/virtio_console.ko fs/9p fs/configfs fs/overlayfs fs/netfs fs/fscache net lib crypto arch; do
    [ -e "$modules/kernel/$part" ] || continue
    mkdir -p "$work/lib/modules/$version/kernel/$(dirname "$part")"
    cp -a "$modules/kernel/$part" "$work/lib/modules/$version/kernel/$part"
done
"$busybox" depmod -b "$work" "$version"

# The initramfs: busybox, what mounts the host's files, and init.
i=$work/i
mkdir -p "$i"/{bin,dev,proc,sys,host,ov,new,ctl,"lib/modules/$version"}
cp "$busybox" "$i/bin/busybox"
(cd "$work/lib/modules/$version" &&
    for m in virtio_pci virtio_console 9pnet_virtio 9p overlay; do
        sed -n "s|:| |; \|/$m\.ko |p" modules.dep
    done | tr ' ' '\n' | sed '/^$/d' | sort -u | xargs cp --parents -t "$i/lib/modules/$version")
"$busybox" depmod -b "$i" "$version" 2>/dev/null
cp "$here/init" "$i/init"
chmod +x "$i/init"
(cd "$i" && find . | "$busybox" cpio -o -H newc) > "$work/initrd"
rm -rf "$work"/{i,k,b,u}
mv "$work" "$out"
