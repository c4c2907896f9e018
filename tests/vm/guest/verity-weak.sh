# What an audit says of weak devices is what the kernel does: they serve damage as if it were what was shipped.
cp "$IMAGE" damaged.mkimg
loop=$(losetup -f)
losetup -r "$loop" damaged.mkimg
table="0 $((DATA_BLOCKS * 8)) verity 1 $loop $loop 4096 4096 $DATA_BLOCKS $((DATA_BLOCKS + 1)) sha256 $ROOT_HASH - 1"
damage_is_served() { # damage_is_served OPTION
    cp "$IMAGE" whole.mkimg
    dd if=whole.mkimg of=damaged.mkimg bs=4096 conv=notrunc 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    dmsetup create weak --noudevsync --readonly --table "$table $1"
    mount -t erofs -o ro "/dev/dm-$(dmsetup info -c --noheadings -o minor weak)" "$POINT"
    tree_is_as_listed "$POINT"
    printf "$DAMAGE_BYTE" | dd of=damaged.mkimg bs=1 seek="$DAMAGE_OFFSET" conv=notrunc 2>/dev/null
    sync
    echo 3 >/proc/sys/vm/drop_caches
    cat "$POINT/$VICTIM" >served || fail "$1: the damaged file cannot be read"
    status=0
    mkimg verify "$POINT" --root-hash "$ROOT_HASH" --json >/run/said || status=$?
    cat /run/said
    same "$1: exit status" 1 "$status"
    contains "$1: audit" "$(cat /run/said)" '"kind":"verity-options"'
    contains "$1: audit" "$(cat /run/said)" "\"kind\":\"content\",\"path\":\"/$VICTIM\""
    umount "$POINT"
    dmsetup remove --noudevsync weak
}
damage_is_served ignore_corruption
damage_is_served check_at_most_once

# One that checks against another root hash can only be used where it does not matter.
wrong=$(echo "$table" | sed "s/$ROOT_HASH/$(printf '7%.0s' $(seq 64))/")
cp "$IMAGE" whole.mkimg
dd if=whole.mkimg of=damaged.mkimg bs=4096 conv=notrunc 2>/dev/null
dmsetup create weak --noudevsync --readonly --table "$wrong ignore_corruption"
mount -t erofs -o ro "/dev/dm-$(dmsetup info -c --noheadings -o minor weak)" "$POINT"
status=0
mkimg verify "$POINT" --root-hash "$ROOT_HASH" --json >/run/said || status=$?
cat /run/said
same 'another root hash: exit status' 1 "$status"
for kind in verity-root verity-options verity-corrupted; do
    contains 'another root hash: audit' "$(cat /run/said)" "\"kind\":\"$kind\""
done
umount "$POINT"
dmsetup remove --noudevsync weak

# One that checks only a part is named, too. That another table serves the rest is refused by all of these kernels.
part=$((DATA_BLOCKS * 8 - 8))
dmsetup create weak --noudevsync --readonly --table "0 $part ${table#0 * } try_verify_in_tasklet"
mount -t erofs -o ro "/dev/dm-$(dmsetup info -c --noheadings -o minor weak)" "$POINT"
status=0
mkimg verify "$POINT" --root-hash "$ROOT_HASH" >/run/said || status=$?
cat /run/said
[ "$status" != 0 ] || fail 'the audit of a part is clean'
contains 'audit of a part' "$(cat /run/said)" "checks only some of its $DATA_BLOCKS blocks"
umount "$POINT"
dmsetup remove --noudevsync weak
! printf '%s\n' "0 $part ${table#0 * } try_verify_in_tasklet" "$part 8 linear $loop $part" |
    dmsetup create weak --noudevsync --readonly || fail 'the rest can be served unchecked'
losetup -d "$loop"
nothing_left
