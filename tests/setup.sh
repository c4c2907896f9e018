#!/usr/bin/env bash
# Prepares a Debian 12 machine for the tests: tests/setup.sh
#
# Installs the packages below with apt (as root, or through sudo) and unpacks a current erofs-utils below
# $MKIMG_TOOLS (default: target/tools), because the one of Debian 12 (1.5) is too old to judge an image.
# Safe to repeat; when nothing is missing it takes a second and needs no network.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export MKIMG_TOOLS=${MKIMG_TOOLS:-$here/../target/tools}
mkdir -p "$MKIMG_TOOLS"
MKIMG_TOOLS=$(cd "$MKIMG_TOOLS" && pwd)
# shellcheck source=tests/apt-suite.sh
. "$here/apt-suite.sh"
export DEBIAN_FRONTEND=noninteractive

packages=(
    ca-certificates gcc g++ libc6-dev openssl                           # cargo, the C parts of crates, libFuzzer
    umoci skopeo buildah mmdebstrap busybox-static                      # real images
    cryptsetup-bin b3sum fsverity mtree-netbsd                          # veritysetup, digests, mtree
    systemd-container fdisk gdisk                                       # disks: systemd-dissect, sfdisk, sgdisk
    attr acl libcap2-bin e2fsprogs util-linux mount uidmap              # attributes and mounts
    aide time squashfs-tools squashfs-tools-ng                          # peers and stopwatch of the benchmarks
    kmod dmsetup fsverity keyutils                                      # other kernels in a virtual machine
    chromium-headless-shell                                             # a browser for report --html: 100 MB, 20 seconds
    tar gzip libarchive-tools xz-utils zstd python3                     # archives, case suite, sample image
)
erofs_suite=trixie # erofs-utils 1.8.6; bookworm has 1.5 and its backports have none

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo --preserve-env=DEBIAN_FRONTEND "$@"; fi
}

missing=()
for package in "${packages[@]}"; do
    state=$(dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "setup: installing ${missing[*]}"
    as_root apt-get -q update
    as_root apt-get -q install --yes --no-install-recommends "${missing[@]}"
fi

# The newer erofs-utils runs on its own C library out of its own folder; the system's stays as it is.
erofs=$MKIMG_TOOLS/erofs-utils
if [ ! -e "$erofs/.complete" ]; then
    echo "setup: unpacking erofs-utils of $erofs_suite"
    rm -rf "$erofs"
    mkdir -p "$erofs"
    unpack_tree "$erofs_suite" "$erofs" erofs-utils
    for tool in fsck.erofs mkfs.erofs dump.erofs; do wrap_program erofs-utils "$tool"; done
    "$MKIMG_TOOLS/bin/fsck.erofs" --version >/dev/null
    touch "$erofs/.complete"
fi

# The program of a registry alone, 5 MB: its package would start a service.
if [ ! -x "$MKIMG_TOOLS/bin/docker-registry" ]; then
    echo "setup: unpacking docker-registry"
    mkdir -p "$MKIMG_TOOLS/bin" "$MKIMG_TOOLS/registry"
    (
        cd "$MKIMG_TOOLS/registry"
        download=(apt-get -q -o APT::Sandbox::User="$(id -un)" download docker-registry)
        "${download[@]}" || { as_root apt-get -q update && "${download[@]}"; }
        dpkg-deb --fsys-tarfile docker-registry_*.deb | tar -x --no-same-owner ./usr/bin/docker-registry
        mv usr/bin/docker-registry "$MKIMG_TOOLS/bin/"
    )
    rm -rf "$MKIMG_TOOLS/registry"
fi

command -v cargo >/dev/null || echo "setup: cargo is missing; the tests need Rust 1.89 or newer" >&2

version() { # one line each: NAME and what it says about itself
    printf '%-12s %s\n' "$1" "$("${@:2}" 2>&1 | sed -n 1p || true)"
}
version kernel uname -r
version cargo cargo --version
version fsck.erofs "$MKIMG_TOOLS/bin/fsck.erofs" --version
version veritysetup /usr/sbin/veritysetup --version
version umoci umoci --version
version skopeo skopeo --version
version buildah buildah --version
version mmdebstrap mmdebstrap --version
version python3 python3 --version
version tar tar --version
version zstd zstd --version
version browser chromium-headless-shell --version
version mount mount --version
