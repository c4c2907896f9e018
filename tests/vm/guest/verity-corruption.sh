# A flipped bit in the data of one file is an I/O error for that file alone, and the device remembers it.
cp "$IMAGE" damaged.mkimg
printf "$DAMAGE_BYTE" | dd of=damaged.mkimg bs=1 seek="$DAMAGE_OFFSET" conv=notrunc 2>/dev/null
refused mkimg mount damaged.mkimg "$POINT" --verity once --root-hash "$ROOT_HASH"
mkimg mount damaged.mkimg "$POINT" --verity kernel --root-hash "$ROOT_HASH"
same 'status before the damage is read' V "$(verity_status)"
! cat "$POINT/$VICTIM" >/dev/null 2>/run/said || fail 'the damaged file can be read'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
same 'status after the damage was read' C "$(verity_status)"
! (cd "$POINT" && sha256sum -c /disk/sha256 >/run/sums 2>/dev/null) || fail 'all contents are as listed'
same 'files that cannot be read' "$VICTIM: FAILED" "$(grep -v ': OK$' /run/sums)"

# An audit of the mount says all of it: the kernel's state, the file that cannot be read, and the damage in the image.
status=0
mkimg verify "$POINT" --root-hash "$ROOT_HASH" --json >/run/said || status=$?
cat /run/said
same 'exit status of the audit, which could not read everything' 2 "$status"
for part in '"kind":"verity-corrupted"' "\"kind\":\"unreadable\",\"path\":\"/$VICTIM\"" '"region":"data"'; do
    contains 'audit of the mount' "$(cat /run/said)" "$part"
done
same 'findings' 3 "$(grep -c '"view"' /run/said)"
mkimg umount "$POINT"
nothing_left

# Damage that comes while the image is mounted is met at the next read from the disk.
cp "$IMAGE" later.mkimg
mkimg mount later.mkimg "$POINT" --verity kernel --root-hash "$ROOT_HASH"
tree_is_as_listed "$POINT"
printf "$DAMAGE_BYTE" | dd of=later.mkimg bs=1 seek="$DAMAGE_OFFSET" conv=notrunc 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
! cat "$POINT/$VICTIM" >/dev/null 2>/run/said || fail 'a file that was damaged later can be read'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
mkimg umount "$POINT"
nothing_left

# Without the right hash tree nothing can be read, and so not mounted.
cp "$IMAGE" tree.mkimg
printf '\377' | dd of=tree.mkimg bs=1 seek=$(((DATA_BLOCKS + 1) * 4096)) conv=notrunc 2>/dev/null
! cmp -s tree.mkimg "$IMAGE" || fail 'the tree was not damaged'
refused mkimg mount tree.mkimg "$POINT" --verity kernel --root-hash "$ROOT_HASH"
contains 'refusal of a damaged tree' "$(cat /run/said)" 'Input/output error'
nothing_left
loop=$(losetup -f)
losetup -r "$loop" "$IMAGE"
wrong=$(printf '7%.0s' $(seq 64))
dmsetup create wrong --noudevsync --readonly --table \
    "0 $((DATA_BLOCKS * 8)) verity 1 $loop $loop 4096 4096 $DATA_BLOCKS $((DATA_BLOCKS + 1)) sha256 $wrong -"
! dd if="/dev/dm-$(dmsetup info -c --noheadings -o minor wrong)" of=/dev/null bs=4096 count=1 2>/run/said ||
    fail 'a block can be read by another root hash'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
dmsetup remove --noudevsync wrong
losetup -d "$loop"
nothing_left
