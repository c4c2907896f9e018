# The kernel reads through damage that parity can mend, and reports what is more than that.
ROOT_HASH=$FEC_ROOT_HASH
DEVICE=mkimg-$ROOT_HASH
damage_block() { # damage_block FILE BLOCK
    tr '\0' '\377' </dev/zero | dd of="$1" bs=4096 seek="$2" count=1 conv=notrunc iflag=fullblock 2>/dev/null
}
cp /disk/fec.mkimg damaged.mkimg
damage_block damaged.mkimg $((DAMAGE_OFFSET / 4096))
damage_block damaged.mkimg 1
said=$(mkimg mount damaged.mkimg "$POINT" --verity kernel --root-hash "$ROOT_HASH")
contains 'what the mount promises' "$said" 'mended from parity'
contains 'table of the device' "$(dmsetup table "$DEVICE")" use_fec_from_device
tree_is_as_listed "$POINT"
same 'status after damage was mended' V "$(verity_status)"

# A second mount shares the device.
mkdir again
mkimg mount damaged.mkimg again --verity kernel --root-hash "$ROOT_HASH" >/run/said
contains 'second mount' "$(cat /run/said)" shared
mkimg umount again

# An audit says that the file is damaged, and how many blocks were mended where the kernel counts them.
mended=$(dmsetup status "$DEVICE" | awk '{ print $5 }')
status=0
mkimg verify "$POINT" --root-hash "$ROOT_HASH" --json >/run/said || status=$?
cat /run/said
same 'exit status of the audit' 1 "$status"
contains 'audit of the mount' "$(cat /run/said)" '"region":"data"'
case $mended in
    [0-9]*)
        [ "$mended" -ge 2 ] || fail "the kernel has mended $mended blocks"
        contains 'audit of the mount' "$(cat /run/said)" '"kind":"verity-corrected"'
        ;;
    *) same 'count of mended blocks of an old kernel' '' "$mended" ;;
esac
mkimg umount "$POINT"
nothing_left

# The file itself is mended into another one.
mkimg repair damaged.mkimg -o mended.mkimg --root-hash "$ROOT_HASH"
cmp mended.mkimg /disk/fec.mkimg || fail 'the mended image differs'

# One block more than parity can mend.
damage_block damaged.mkimg 2
mkimg mount damaged.mkimg "$POINT" --verity kernel --root-hash "$ROOT_HASH"
! cat "$POINT/$VICTIM" >/dev/null 2>/run/said || fail 'the damaged file can be read'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
same 'status after too much damage' C "$(verity_status)"
mkimg umount "$POINT"
nothing_left
