# Read by each step before it begins. A step runs with errexit and nounset, in its own empty directory on the ext4 disk;
# /mnt/STEP is an empty directory to mount on. The files that the test has put on the disk:
#   /disk/image.mkimg           the image
#   /disk/fec.mkimg             the same with parity of 2 bytes a codeword; its root hash is FEC_ROOT_HASH
#   /disk/stat, /disk/sha256    what must be found in it, see `tree_is_as_listed`
#   /disk/facts                 variables: ROOT_HASH of the image; VICTIM, a file in it, with DAMAGE_OFFSET, a place in
#                               the image where data of that file alone lies, and DAMAGE_BYTE, which differs from it;
#                               DATA_BLOCKS of the image
#   /disk/{trusted,stranger,elliptic}.mkimg, .der, .pem, .pub
#                               the image signed by three people, their certificates and public keys: RSA, RSA, ECDSA
#   /disk/foreign.erofs         an image of mkfs.erofs with a tree of veritysetup, and foreign.sha256, what must be found in it;
#                               facts of it begin with FOREIGN_
#   /disk/other.p7s             a PKCS#7 signature of the first over another root hash
#   /disk/sets/list             images of every feature set, in lines `MAJOR MINOR FILE`: the first kernel that mounts
#                               /disk/sets/FILE, beside which `stat` and `sha256` say what must be found in it
#   /disk/sets/part-OFFSET      what is in the file large/mixed of each at this byte
# shellcheck shell=sh
# shellcheck source=/dev/null
. /disk/facts
IMAGE=/disk/image.mkimg
POINT=/mnt/$STEP
DEVICE=mkimg-$ROOT_HASH

fail() {
    echo "$STEP: $*"
    exit 1
}

# This kernel cannot do what the step tests.
skip() {
    echo "$*" >/run/reason
    exit 77
}

same() { # same WHAT WANTED FOUND
    [ "$2" = "$3" ] || fail "$1: wanted '$2', found '$3'"
}

contains() { # contains WHAT TEXT PART
    case $2 in *"$3"*) ;; *) fail "$1: no '$3' in '$2'" ;; esac
}

# The command fails as mkimg does: exit status 1 and one line.
refused() {
    status=0
    "$@" >/run/said 2>&1 || status=$?
    cat /run/said
    same "exit status of $*" 1 "$status"
    same "lines of the error" 1 "$(wc -l </run/said)"
}

kernel_before() { # kernel_before MAJOR MINOR
    [ "$(uname -r | awk -F '[.-]' '{ print $1 * 1000 + $2 }')" -lt $(($1 * 1000 + $2)) ]
}

# The same names, types, modes, owners, sizes, link counts and times, and the same content, as `mkimg ls` lists. The lists
# are those of the image, or in another directory.
tree_is_as_listed() { # tree_is_as_listed DIRECTORY [LISTS]
    attributes "$1" | diff "${2:-/disk}/stat" - || fail "$1 differs from the listing of the image"
    contents_are_as_listed "$@"
}

attributes() {
    (cd "$1" && find . -exec stat -c '%n %f %u %g %s %h %Y' {} + | LC_ALL=C sort)
}

contents_are_as_listed() { # contents_are_as_listed DIRECTORY [LISTS]
    (cd "$1" && sha256sum -c "${2:-/disk}/sha256" >/run/sums) || {
        grep -v ': OK$' /run/sums
        fail "contents in $1 differ from the listing of the image"
    }
}

# One word of the verity device: V while all that was read was good, C after a block that was not.
verity_status() {
    dmsetup status "$DEVICE" | awk '{ print $4 }'
}

# One line for each device in use, but those of the system itself.
mapped_devices() {
    cat /sys/block/dm-*/dm/name 2>/dev/null | grep -vxFf /run/kept || true
}
device_nodes() {
    ls -d /sys/block/dm-* 2>/dev/null | grep -vxFf /run/kept || true
}
loop_devices() {
    cat /sys/block/loop*/loop/backing_file 2>/dev/null | grep -vxFf /run/kept || true
}

# No mount of this step, no mapped device and no loop device is left. The kernel may need a moment for the last close.
nothing_left() {
    for _ in $(seq 100); do
        # A device that is being removed has no name any more.
        left="$(grep " $POINT" /proc/mounts || true)$(device_nodes)$(loop_devices)"
        [ -n "$left" ] || return 0
        sleep 0.05
    done
    fail "left behind: $left"
}

# An overlay over dm-verity whose changes go below DIRECTORY.
overlay_takes_changes() { # overlay_takes_changes DIRECTORY
    mkdir "$1/upper" "$1/work"
    mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH" --upper "$1/upper" --work "$1/work"
    # The upper directory, which is the root of the overlay, was empty and took the attributes of the image's root.
    sed '1s/ [0-9]* \([0-9]*\) \([-0-9]*\)$/ \2/' /disk/stat >/run/wanted
    attributes "$POINT" | sed '1s/ [0-9]* \([0-9]*\) \([-0-9]*\)$/ \2/' | diff /run/wanted - ||
        fail 'the overlay differs from the listing of the image'
    contents_are_as_listed "$POINT"
    listed=$(mkimg mounts --json)
    contains 'mounts' "$listed" "\"device\":\"$DEVICE\""
    contains 'mounts' "$listed" "\"upper\":\"$1/upper\""
    echo added >"$POINT/etc/added"
    echo changed >"$POINT/etc/small"
    chmod 4711 "$POINT/bin/server"
    rm "$POINT/etc/block"
    rm -r "$POINT/var/many"
    mkimg umount "$POINT"
    nothing_left

    # The changes are there again over the same image.
    mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH" --upper "$1/upper" --work "$1/work"
    same 'new file' added "$(cat "$POINT/etc/added")"
    same 'changed file' changed "$(cat "$POINT/etc/small")"
    same 'changed mode' 4711 "$(stat -c %a "$POINT/bin/server")"
    [ ! -e "$POINT/etc/block" ] || fail 'a removed file is back'
    [ ! -e "$POINT/var/many" ] || fail 'a removed directory is back'
    same 'status of the device' V "$(verity_status)"
    mkimg umount "$POINT"
    nothing_left
    mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
    tree_is_as_listed "$POINT"
    mkimg umount "$POINT"
    nothing_left
}
