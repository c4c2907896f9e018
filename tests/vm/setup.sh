#!/usr/bin/env bash
# Gets what the tests need to run in a virtual machine: tests/vm/setup.sh
#
# A QEMU and the kernels of four Debian suites, below $MKIMG_TOOLS (default: target/tools). The system's own packages
# and apt sources stay as they are. Safe to repeat; what is there is kept, so a second run costs nothing. What cannot be
# had is named here and left out, and the tests that need it count themselves as skipped.
#
#   qemu/                    QEMU and its libraries; the wrapper is bin/qemu-system-x86_64
#   vm/KERNEL/vmlinuz        the kernel; its version is in the file release
#   vm/KERNEL/modules.cpio   its modules as far as the tests need them, to be unpacked into the first root file system
#   systemd/VERSION.tar      a small Debian with that systemd, its containers, udev and D-Bus
#
# To get newer ones, remove the folders vm and systemd.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export MKIMG_TOOLS=${MKIMG_TOOLS:-$here/../../target/tools}
mkdir -p "$MKIMG_TOOLS/vm"
MKIMG_TOOLS=$(cd "$MKIMG_TOOLS" && pwd)
# shellcheck source=tests/apt-suite.sh
. "$here/../apt-suite.sh"

# Debian 12 has QEMU 7.2, whose software emulation corrupts registers of newer kernels; trixie has 10.0.
qemu_suite=trixie
# The oldest kernel with all that the tests look for, the one with file-backed mounts and all compressors, the newest;
# and one from before compressed and sparse images, for what it has to refuse.
kernels=(6.1:bookworm 6.12:bookworm-backports newest:trixie-backports 5.10:bullseye)
# That of Debian 12, and one with image policies.
systemds=(252:bookworm 257:trixie)
# Built into some kernels and a module of others. The second list is not in all of them.
needed=(virtio_pci virtio_blk ext4 loop dm-verity erofs overlay)
wanted=(crc32c_generic crc32c-intel libcrc32c fuse nbd ublk_drv)

get_qemu() {
    local tree=$MKIMG_TOOLS/qemu
    [ ! -e "$tree/.complete" ] || return 0
    echo "vm: unpacking QEMU of $qemu_suite"
    rm -rf "$tree"
    mkdir -p "$tree"
    unpack_tree "$qemu_suite" "$tree" qemu-system-x86 >/dev/null
    # shellcheck disable=SC2016
    wrap_program qemu qemu-system-x86_64 '-L "$root/usr/share/qemu" -L "$root/usr/share/seabios"'
    "$MKIMG_TOOLS/bin/qemu-system-x86_64" --version >/dev/null
    touch "$tree/.complete"
}

# pack_modules TREE: the modules in the lists with all they depend on, unpacked, as a cpio archive on standard output.
pack_modules() {
    local tree=$1 version small module file
    version=$(ls "$tree/lib/modules")
    depmod -b "$tree" "$version"
    small=$tree/small
    mkdir -p "$small/lib/modules/$version"
    cp "$tree/lib/modules/$version/modules."{builtin,builtin.modinfo,order} "$small/lib/modules/$version"
    for module in "${needed[@]}" "${wanted[@]}"; do
        # A line is "FILE: FILE...", with all that the first one depends on, however indirectly.
        awk -F '[: ]+' -v name="$module" '
            { stem = $1; sub(/.*\//, "", stem); sub(/\.ko.*/, "", stem); gsub(/_/, "-", stem) }
            BEGIN { gsub(/_/, "-", name) }
            stem == name { for (i = 1; i <= NF; i++) if ($i != "") print $i }' "$tree/lib/modules/$version/modules.dep" >"$tree/files"
        if [ ! -s "$tree/files" ] && [[ " ${needed[*]} " = *" $module "* ]] &&
            ! grep -qE "/${module//[-_]/[-_]}\.ko" "$tree/lib/modules/$version/modules.builtin"; then
            echo "vm: $version has no $module" >&2
            return 1
        fi
        while read -r file; do
            mkdir -p "$small/lib/modules/$version/${file%/*}"
            case $file in
                *.xz) xz -dc "$tree/lib/modules/$version/$file" >"$small/lib/modules/$version/${file%.xz}" ;;
                *) cp "$tree/lib/modules/$version/$file" "$small/lib/modules/$version/$file" ;;
            esac
        done <"$tree/files"
    done
    depmod -b "$small" "$version"
    (cd "$small" && find . | busybox cpio -o -H newc)
}

get_kernel() { # get_kernel NAME SUITE
    local name=$1 suite=$2 dir=$MKIMG_TOOLS/vm/$1 work=$MKIMG_TOOLS/vm/.$1.part packages deb
    [ ! -d "$dir" ] || return 0
    rm -rf "$work"
    mkdir -p "$work/tree"
    apt_suite "$suite" update >/dev/null
    # The metapackage leads to one package, or to several parts of newer kernels.
    mapfile -t packages < <(apt_suite "$suite" depends --recurse --important linux-image-cloud-amd64 |
        grep -E '^linux-(image|base|binary|modules)-[0-9]')
    [ "${#packages[@]}" -gt 0 ] || { echo "vm: $suite has no kernel" >&2; return 1; }
    echo "vm: unpacking ${packages[0]} of $suite as $name"
    download_only "$suite" "$work/debs" "${packages[@]}" >/dev/null
    for deb in "$work/debs"/*.deb; do dpkg-deb -x "$deb" "$work/tree"; done
    [ -d "$work/tree/lib" ] || ln -s usr/lib "$work/tree/lib"
    ls "$work/tree/lib/modules" >"$work/release"
    pack_modules "$work/tree" >"$work/modules.cpio"
    find "$work/tree" -name 'vmlinuz*' -type f -exec mv {} "$work/vmlinuz" \;
    [ -s "$work/vmlinuz" ] || { echo "vm: no kernel in ${packages[*]}" >&2; return 1; }
    rm -rf "$work/tree" "$work/debs"
    mv "$work" "$dir"
}

# No package manager has a hand in this, and no script of a package is run: systemd alone starts without.
get_systemd() { # get_systemd VERSION SUITE
    local version=$1 suite=$2 dir=$MKIMG_TOOLS/systemd name
    [ ! -e "$dir/$version.tar" ] || return 0
    echo "vm: unpacking systemd $version of $suite"
    rm -rf "$dir/.$version"
    mkdir -p "$dir/.$version/usr"
    for name in bin sbin lib lib64; do
        mkdir "$dir/.$version/usr/$name"
        ln -s "usr/$name" "$dir/.$version/$name"
    done
    unpack_tree "$suite" "$dir/.$version" \
        base-files mawk usr-is-merged systemd systemd-container udev dbus libcryptsetup12 >/dev/null
    [ "$("$dir/.$version"/lib64/ld-linux-x86-64.so.2 --library-path \
        "$dir/.$version/usr/lib/x86_64-linux-gnu:$dir/.$version/usr/lib/x86_64-linux-gnu/systemd" \
        "$dir/.$version/usr/bin/systemctl" --version | awk 'NR == 1 { print $2 }')" = "$version" ] ||
        { echo "vm: $suite has another systemd than $version" >&2; return 1; }
    # The largest parts that the tests have no use for.
    rm -r "$dir/.$version"/usr/lib/{x86_64-linux-gnu/gconv,udev/hwdb.d}
    tar -C "$dir/.$version" --sort=name --owner=0 --group=0 --numeric-owner -cf "$dir/$version.part" .
    mv "$dir/$version.part" "$dir/$version.tar"
    rm -rf "$dir/.$version"
}

# In a subshell of its own with errexit in force, which a plain `get || ...` would switch off.
attempt() { # attempt WHAT COMMAND...
    local what=$1 status=0
    shift
    set +e
    (set -e; "$@")
    status=$?
    set -e
    [ "$status" = 0 ] || echo "vm: NO $what: the tests that need it will be skipped" >&2
}

if [ "$(dpkg --print-architecture)" != amd64 ]; then
    echo "vm: this machine is not amd64: the tests in virtual machines will be skipped" >&2
    exit 0
fi
attempt QEMU get_qemu
for kernel in "${kernels[@]}"; do attempt "kernel ${kernel%:*}" get_kernel "${kernel%:*}" "${kernel#*:}"; done
for systemd in "${systemds[@]}"; do attempt "systemd ${systemd%:*}" get_systemd "${systemd%:*}" "${systemd#*:}"; done

if [ -x "$MKIMG_TOOLS/bin/qemu-system-x86_64" ]; then
    printf '%-12s %s\n' qemu "$("$MKIMG_TOOLS/bin/qemu-system-x86_64" --version | sed -n 1p)"
fi
for dir in "$MKIMG_TOOLS/vm"/*/; do
    [ ! -s "$dir/release" ] || printf '%-12s %s\n' "vm $(basename "$dir")" "$(cat "$dir/release")"
done
