# An image of mkfs.erofs with the tree of `veritysetup format`, which has a salt: /disk/foreign.erofs. The kernel gets the
# parameters that veritysetup gives it, and checks as it does.
DEVICE=mkimg-$FOREIGN_ROOT_HASH
foreign() { # foreign IMAGE
    mkimg mount "$1" "$POINT" --verity kernel --root-hash "$FOREIGN_ROOT_HASH"
}

said=$(foreign /disk/foreign.erofs)
contains 'guarantee' "$said" "the kernel checks every block it reads against root hash $FOREIGN_ROOT_HASH"
(cd "$POINT" && sha256sum -c /disk/foreign.sha256) || fail 'contents differ from the tree that was packed'
ours=$(dmsetup table "$DEVICE" | awk '{ print $3, $4, $7, $8, $9, $10, $11, $12, $13 }')
contains 'table' "$ours" "$FOREIGN_SALT"
mkimg umount "$POINT"
nothing_left

# Not kept by the name of an image: closed before the loop devices are counted.
veritysetup open /disk/foreign.erofs theirs /disk/foreign.erofs "$FOREIGN_ROOT_HASH" --hash-offset="$FOREIGN_HASH_OFFSET"
same 'table' "$(dmsetup table theirs | awk '{ print $3, $4, $7, $8, $9, $10, $11, $12, $13 }')" "$ours"
veritysetup close theirs
nothing_left

# Damage is an I/O error for its file, and an audit of the image names it.
cp /disk/foreign.erofs damaged.erofs
printf "$FOREIGN_DAMAGE_BYTE" | dd of=damaged.erofs bs=1 seek="$FOREIGN_DAMAGE_OFFSET" conv=notrunc 2>/dev/null
foreign damaged.erofs
! cat "$POINT/$FOREIGN_VICTIM" >/dev/null 2>/run/said || fail 'the damaged file can be read'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
same 'status after the damage was read' C "$(verity_status)"
mkimg umount "$POINT"
nothing_left
status=0
mkimg verify damaged.erofs --root-hash "$FOREIGN_ROOT_HASH" >/run/said || status=$?
cat /run/said
same 'exit status of the audit' 1 "$status"
contains 'audit' "$(cat /run/said)" "does not match its hash in the tree  /$FOREIGN_VICTIM"

# Another root hash, and a number of blocks that the root hash does not bind.
other=$(echo "$FOREIGN_ROOT_HASH" | tr 0-9a-f 1-9a-f0)
refused mkimg mount /disk/foreign.erofs "$POINT" --verity kernel --root-hash "$other"
contains 'another root hash' "$(cat /run/said)" "wanted is $other"
cp /disk/foreign.erofs fewer.erofs
printf '\001' | dd of=fewer.erofs bs=1 seek=$((FOREIGN_HASH_OFFSET + 72)) conv=notrunc 2>/dev/null
refused mkimg mount fewer.erofs "$POINT" --verity kernel --root-hash "$FOREIGN_ROOT_HASH"
contains 'fewer blocks' "$(cat /run/said)" 'data_blocks of the verity superblock is 1, the image has'
nothing_left
