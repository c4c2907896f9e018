# The lines that `mkimg export --print` has for others, pasted as they are. No udev is here to wait for.
export DM_DISABLE_UDEV=1
name=verity-$(echo "$ROOT_HASH" | cut -c 1-16)
fec_name=verity-$(echo "$FEC_ROOT_HASH" | cut -c 1-16)

# Not that of busybox, which this shell would take.
losetup() {
    /programs/losetup "$@"
}

comment() { # comment WORD: the line of /run/lines that begins with a comment of it
    sed -n "s/^# \($1 .*\)/\1/p" /run/lines
}

lines_work() { # lines_work TOOL IMAGE NAME [WITHOUT]
    mkimg export "$2" --print "$1" | grep -v "${4:-^$}" >/run/lines
    cat /run/lines
    # shellcheck source=/dev/null
    . /run/lines
    eval "$(comment mount | sed "s#/mnt\$#$POINT#")"
    contents_are_as_listed "$POINT"
    dmsetup table "$3" | sed -E 's/ 7:[0-9]+/ device/g' >>"/run/tables"
    umount "$POINT"
}

mkdir 'a directory'
awkward="a directory/it's \$image"
# shellcheck disable=SC2153 # of /disk/facts
cp "$IMAGE" "$awkward"
: >/run/tables
lines_work veritysetup "$awkward" "$name"
eval "$(comment 'veritysetup close')"
nothing_left
lines_work dmsetup "$awkward" "$name"
eval "$(comment 'dmsetup remove')"
nothing_left
# Both, and the mount of mkimg, have told the kernel the same.
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
same 'tables' "$(dmsetup table "$DEVICE" | sed -E 's/ 7:[0-9]+/ device/g')" "$(sort -u /run/tables)"
mkimg umount "$POINT"
nothing_left

# With parity, what is mapped reads through damage. The check, which is not to pass, is left out.
cp /disk/fec.mkimg damaged.mkimg
printf '%b' "$DAMAGE_BYTE" | dd of=damaged.mkimg bs=1 seek="$DAMAGE_OFFSET" conv=notrunc 2>/dev/null
lines_work veritysetup damaged.mkimg "$fec_name" ' verify '
eval "$(comment 'veritysetup close')"
nothing_left
lines_work dmsetup damaged.mkimg "$fec_name"
eval "$(comment 'dmsetup remove')"
nothing_left

# The tree in a file of its own, as systemd maps it.
cp "$IMAGE" web.raw
mkimg export web.raw --sidecar roothash --sidecar verity
veritysetup open web.raw "$name" web.verity --root-hash-file web.roothash
cmp "/dev/mapper/$name" "$IMAGE" -n $((DATA_BLOCKS * 4096))
veritysetup close "$name"
nothing_left

# The log of IMA has the root hash where the lines say. Values of its buffers are in hexadecimal digits there.
mount -t securityfs securityfs /sys/kernel/security
ima=/sys/kernel/security/ima
mkimg export "$IMAGE" --print ima >/run/lines
cat /run/lines >$ima/policy
mkimg export "$IMAGE" --print dmsetup >/run/lines
# shellcheck source=/dev/null
. /run/lines
eval "$(comment 'dmsetup remove')"
wanted=$(printf 'root_digest=%s,' "$ROOT_HASH" | od -An -v -tx1 | tr -d ' \n')
grep -q "$wanted" $ima/ascii_runtime_measurements || fail 'IMA has not measured the root hash'
nothing_left

# The signature, for a kernel that can be given a certificate.
kernel_before 7 0 && return
trap 'modprobe -r dm-verity; modprobe dm-verity' EXIT
modprobe -r dm-verity
modprobe dm-verity keyring_unsealed=1
keyring=0x$(awk '/ \.dm-verity: / { print $1 }' /proc/keys)
keyctl padd asymmetric '' "$keyring" </disk/trusted.der
keyctl restrict_keyring "$keyring"
cp /disk/trusted.mkimg signed.raw
mkimg export signed.raw --sidecar p7s --print veritysetup >/run/lines
cat /run/lines
eval "$(comment 'veritysetup open')"
contains 'table' "$(dmsetup table "$name")" root_hash_sig_key_desc
eval "$(comment 'veritysetup close')"
nothing_left
