#!/usr/bin/env bash
# Builds the real root file systems that the tests use: tests/images.sh [OUTDIR]     (default: target/images)
#
#   debian       OCI layout, gzip: Debian minbase, then packages, then deletions and replacements (buildah), then
#                attributes that buildah cannot carry (umoci). Whiteouts, opaque directory, hard links across layers,
#                set-id files, capabilities, ACLs, devices, sparse file, odd names.
#   python       OCI layout, gzip: Debian with the Python and Perl libraries, many small files, layers by umoci insert
#                (opaque and plain whiteouts). That command of umoci 0.4 ends its tars right behind the last file's
#                data, without padding or end marker: GNU tar refuses them, every container engine takes them.
#   tiny         OCI layout, zstd: hand-picked packages of the next Debian release, one layer each, no package manager.
#   tiny-gzip    the same image with gzip layers, for peers that read no zstd.
#   tiny.tar     the same image as a docker-archive (plain layers).
#
# Needs root or sudo (device nodes, owners), the packages of setup.sh, and the machine's Debian mirror.
# An image that is already there is kept, so a second run costs nothing. Contents follow the mirror: they are
# realistic, not reproducible; the tests compare tools on the same input and expect no particular bytes.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export MKIMG_TOOLS=${MKIMG_TOOLS:-$here/../target/tools}
out=${1:-${MKIMG_IMAGES:-$here/../target/images}}
if [ "$(id -u)" != 0 ]; then
    exec sudo MKIMG_TOOLS="$MKIMG_TOOLS" "$here/images.sh" "$out"
fi
mkdir -p "$MKIMG_TOOLS" "$out"
MKIMG_TOOLS=$(cd "$MKIMG_TOOLS" && pwd)
out=$(cd "$out" && pwd)
# shellcheck source=tests/apt-suite.sh
. "$here/apt-suite.sh"
export DEBIAN_FRONTEND=noninteractive SOURCE_DATE_EPOCH=1700000000
umask 022
suite=bookworm
mirror=$(debian_mirror)
work=$out/.work.$$
mkdir "$work"
driver=overlay
if [ "$(findmnt -no FSTYPE -T "$out")" = overlay ]; then driver=vfs; fi # an overlay cannot lie on an overlay
storage=(--root "$work/storage" --runroot "$work/run" --storage-driver "$driver")
cleanup() {
    buildah "${storage[@]}" umount --all >/dev/null 2>&1 || true
    for _ in 1 2 3; do # buildah may leave its storage and binds of the chroot mounted
        awk -v top="$work/" 'index($5, top) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
            while read -r point; do umount -l "$point" 2>/dev/null || true; done
    done
    umount "$work/storage/overlay" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT

finish() { # the image appears under its name only when it is complete
    rm -rf "${out:?}/$1"
    mv "$work/$1" "$out/$1"
    echo "images: $1 ready after $SECONDS s"
}

# ------------------------------------------------------------------------------------------------ debian
if [ ! -e "$out/debian" ]; then
    mmdebstrap --quiet --mode=root --variant=minbase --include=iputils-ping,perl-base,libcap2-bin,acl,attr \
        "$suite" "$work/base.tar" "$mirror"
    b() { buildah "${storage[@]}" "$@"; }

    base=$(b from scratch)
    b add --quiet "$base" "$work/base.tar" / >/dev/null
    b commit --quiet "$base" localhost/debian:1 >/dev/null

    packages=$(b from localhost/debian:1)
    b run --isolation chroot "$packages" -- sh -euc '
        apt-get -qq update
        apt-get -qq install --yes --no-install-recommends nginx-light python3-minimal >/dev/null 2>&1
        apt-get clean
        echo "ship me not" >/etc/deploy.key && chmod 600 /etc/deploy.key
        mkdir -p /srv/cache/a/b && echo 1 >/srv/cache/a/one && echo 2 >/srv/cache/a/b/two'
    b commit --quiet "$packages" localhost/debian:2 >/dev/null

    changes=$(b from localhost/debian:2)
    b run --isolation chroot "$changes" -- sh -euc '
        rm -rf /var/lib/apt/lists/* /usr/share/doc /usr/share/man /etc/deploy.key /var/cache/debconf/*-old
        rm -rf /srv/cache && mkdir /srv/cache && echo fresh >/srv/cache/new         # opaque
        rm /etc/nginx/nginx.conf && mkdir /etc/nginx/nginx.conf && echo x >/etc/nginx/nginx.conf/part   # file to directory
        rm -rf /usr/share/nginx && ln -s /srv /usr/share/nginx                       # directory to symlink
        mkdir -p /opt/app/bin && ln /usr/bin/perl /opt/app/bin/perl                  # hard links across layers
        ln /usr/bin/gpgv /opt/app/bin/gpgv && ln -P /usr/bin/awk /opt/app/bin/awk    # the last one links a symlink
        cp /usr/bin/id /opt/app/bin/asroot && chmod 6755 /opt/app/bin/asroot
        cp /usr/bin/id /opt/app/bin/bind && setcap cap_net_bind_service=ep /opt/app/bin/bind
        chown 4000000000:65534 /opt/app && chmod 1777 /opt/app
        touch -d "1969-12-31 23:59:58.25 UTC" /opt/app/before-1970
        touch -d "2200-01-01 UTC" /opt/app/far-future   # umoci unpacks nothing later than 2262 correctly'
    b commit --quiet "$changes" localhost/debian:3 >/dev/null
    b push --quiet localhost/debian:3 "oci:$work/debian:latest" >/dev/null

    # umoci carries every xattr, so this layer holds what buildah would drop.
    umoci unpack --image "$work/debian:latest" "$work/bundle" >/dev/null
    root=$work/bundle/rootfs
    mkdir -p "$root/opt/attributes/private" "$root/opt/attributes/many"
    cd "$root/opt/attributes"
    echo acl >acl && setfacl -m u:1000:rw,g:33:r,m::rw acl
    setfacl -d -m u:1000:rwx,g::rx private && chmod 2750 private
    echo xattrs >xattrs
    setfattr -n user.empty xattrs
    setfattr -n user.binary -v 0x00ff0a0d7f80 xattrs
    setfattr -n user.long -v "$(printf 'x%.0s' $(seq 2000))" xattrs
    setfattr -n trusted.note -v hidden xattrs
    for i in $(seq 300); do echo "$i" >"many/$i" && setfattr -n user.shared -v "the same value everywhere" "many/$i"; done
    mknod null c 1 3 && mknod blk b 259 1048575 && chmod 640 blk && mkfifo fifo
    truncate -s 3M sparse && printf 'end' | dd of=sparse bs=1 seek=2000000 conv=notrunc status=none
    : >empty
    echo q >$'odd \x01\n"name"' && echo l >$'latin-\xe9' && ln -s $'../\xff target' dangling
    touch -d '2023-01-02 03:04:05.123456789 UTC' xattrs
    ln -s "$(printf 'd/%.0s' $(seq 1500))" long-target
    echo 'more' >>"$root/etc/passwd"
    chmod 700 "$root/srv"                       # metadata of a directory alone
    rm "$root/usr/bin/ping6" "$root/bin/ping6" 2>/dev/null || true
    rm "$root/etc/issue"
    cd "$work"
    umoci repack --image "$work/debian:latest" "$work/bundle" >/dev/null
    umoci gc --layout "$work/debian" >/dev/null
    rm -rf "$work/bundle" "$work/base.tar"
    finish debian
fi

# ------------------------------------------------------------------------------------------------ python
if [ ! -e "$out/python" ]; then
    mmdebstrap --quiet --mode=root --variant=essential \
        --include=python3,perl,perl-modules-5.36,tzdata,python3-yaml,python3-jinja2,python3-pip-whl,netbase,media-types \
        --dpkgopt='path-exclude=/usr/share/man/*' "$suite" "$work/root" "$mirror"
    umoci init --layout "$work/python" >/dev/null
    umoci new --image "$work/python:latest" >/dev/null
    umoci insert --image "$work/python:latest" "$work/root" / >/dev/null
    rm -rf "$work/root"

    mkdir -p "$work/app/pkg" # a program of its own, and byte-compiled copies of the standard library
    for i in $(seq 400); do printf 'VALUE = %d\n' "$i" >"$work/app/pkg/module_$i.py"; done
    ln "$work/app/pkg/module_1.py" "$work/app/pkg/alias.py"
    chown -R 1001:1001 "$work/app"
    umoci insert --image "$work/python:latest" "$work/app" /srv/app >/dev/null
    python3 -m compileall -q -o 1 "$work/app/pkg" >/dev/null
    umoci insert --image "$work/python:latest" --opaque "$work/app/pkg" /srv/app/pkg >/dev/null
    umoci insert --image "$work/python:latest" --whiteout /usr/share/doc >/dev/null
    umoci insert --image "$work/python:latest" --whiteout /usr/share/zoneinfo/right >/dev/null
    umoci insert --image "$work/python:latest" --whiteout /etc/shadow- >/dev/null
    umoci gc --layout "$work/python" >/dev/null
    finish python
fi

# ------------------------------------------------------------------------------------------------ tiny
if [ ! -e "$out/tiny" ] || [ ! -e "$out/tiny-gzip" ] || [ ! -e "$out/tiny.tar" ]; then
    download_only trixie "$work/debs" busybox-static base-files musl ncurses-term netbase dash >/dev/null
    umoci init --layout "$work/tiny-gzip" >/dev/null
    umoci new --image "$work/tiny-gzip:latest" >/dev/null
    for deb in "$work"/debs/*.deb; do
        rm -rf "$work/tree" && mkdir "$work/tree"
        dpkg-deb -x "$deb" "$work/tree"
        umoci insert --image "$work/tiny-gzip:latest" "$work/tree" / >/dev/null
    done
    rm -rf "$work/tree" && mkdir -p "$work/tree/usr/bin" # the applets: one binary, many names
    cp "$(command -v busybox)" "$work/tree/usr/bin/box"
    for applet in $(busybox --list); do ln "$work/tree/usr/bin/box" "$work/tree/usr/bin/$applet" 2>/dev/null || true; done
    chmod 4755 "$work/tree/usr/bin/box"
    umoci insert --image "$work/tiny-gzip:latest" "$work/tree/usr/bin" /usr/libexec/box >/dev/null
    umoci insert --image "$work/tiny-gzip:latest" --whiteout /usr/share/terminfo/s >/dev/null
    umoci gc --layout "$work/tiny-gzip" >/dev/null
    # A relative path: buildah makes an image name of it, and not every path is one.
    (cd "$work" && buildah "${storage[@]}" pull --quiet oci:tiny-gzip:latest) >"$work/id"
    buildah "${storage[@]}" push --quiet --compression-format zstd "$(cat "$work/id")" "oci:$work/tiny:latest" >/dev/null
    skopeo copy --quiet "oci:$work/tiny-gzip:latest" "docker-archive:$work/tiny.tar:tiny:latest"
    finish tiny
    finish tiny-gzip
    finish tiny.tar
fi

for image in debian python tiny tiny-gzip; do
    python3 - "$out/$image" <<'SUMMARY'
import json, pathlib, sys
layout = pathlib.Path(sys.argv[1])
blob = lambda digest: layout / "blobs" / digest.replace(":", "/")
manifest = json.loads(blob(json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]).read_text())
kinds = sorted({layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]})
print("images: %-10s %d layers, %s, %.1f MiB" % (layout.name, len(manifest["layers"]), " ".join(kinds),
      sum(layer["size"] for layer in manifest["layers"]) / 2**20))
SUMMARY
done
