#!/bin/sh
# The main job on one image: build, inspect, mount, damage a copy, find the damage, unmount.
#
#   ./demo.sh           on the small sample image that ships with the project
#   ./demo.sh SOURCE    on your own: an OCI layout, an OCI or docker archive, a tar, a directory
#
# Builds mkimg first. Needs cargo and a C compiler (installed with apt-get if missing and root). Mounting needs root.
set -eu
source_arg=${1:-}
case $source_arg in
'' | *://* | /*) ;;
*:*) case $source_arg in *:/*) ;; *) source_arg=${source_arg%%:*}:$(pwd)/${source_arg#*:} ;; esac ;;
*) source_arg=$(pwd)/$source_arg ;;
esac
cd "$(dirname "$0")"
if ! command -v cc >/dev/null; then
    if [ "$(id -u)" != 0 ]; then
        echo 'a C compiler is needed: install the package gcc and libc6-dev, then run this again' >&2
        exit 1
    fi
    apt-get update -qq && apt-get install -y -qq gcc libc6-dev >/dev/null
fi
cargo build --release --locked --package mkimg --package mkimg-mount
target=${CARGO_TARGET_DIR:-target}
mkimg=$(cd "$target" && pwd)/release/mkimg
image_source=${source_arg:-oci:$(pwd)/tests/sample/image}
work=$(mktemp -d)
mounted=
clean() {
    [ -z "$mounted" ] || "$mkimg" umount "$work/mnt" || true
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 1' INT TERM
show() {
    printf '\n$'
    printf ' %s' "$@"
    printf '\n'
    shift
    "$mkimg" "$@"
}

show mkimg build "$image_source" -o "$work/demo.img"
show mkimg inspect "$work/demo.img"
root_hash=$("$mkimg" inspect --json "$work/demo.img" | sed 's/.*"root_hash":"\([0-9a-f]*\)".*/\1/')
show mkimg verify "$work/demo.img" --root-hash "$root_hash"

if [ "$(id -u)" = 0 ]; then
    mkdir "$work/mnt"
    show mkimg mount "$work/demo.img" "$work/mnt" --root-hash "$root_hash"
    mounted=1
    show mkimg mounts
    printf '\n$ ls %s\n' "$work/mnt"
    ls "$work/mnt"
    show mkimg umount "$work/mnt"
    mounted=
else
    printf '\nnot root: the mount is skipped\n'
fi

# The first data block of the image is the first block of some file.
cp "$work/demo.img" "$work/damaged.img"
printf 'X' | dd of="$work/damaged.img" bs=1 seek=5000 conv=notrunc status=none
printf '\nOne byte of a copy is changed:\n'
status=0
show mkimg verify "$work/damaged.img" --root-hash "$root_hash" || status=$?
if [ "$status" != 1 ]; then
    echo "verify should have exited with 1, not $status" >&2
    exit 1
fi
printf '\nThe damage was found. All is well.\n'
