# An audit of a mount over dm-verity is clean, names what an overlay changes, and notices a device that does not check.
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
said=$(mkimg verify "$POINT" --root-hash "$ROOT_HASH")
contains 'audit of a healthy mount' "$said" clean
contains 'audit of a healthy mount' "$said" "dm-verity device $DEVICE"
table=$(dmsetup table "$DEVICE")

# The same blocks through a device that lets damage pass: the kernel would serve it without a word.
case $table in *' 0') table=${table% 0} ;; esac
dmsetup create weak --readonly --table "$table 1 ignore_corruption"
mkdir weak
mount -t erofs -o ro "/dev/dm-$(dmsetup info -c --noheadings -o minor weak)" weak
status=0
mkimg verify weak --json >/run/said || status=$?
cat /run/said
same 'exit status for a weak device' 1 "$status"
contains 'audit of a weak device' "$(cat /run/said)" '"kind":"verity-options"'
umount weak
dmsetup remove weak
mkimg umount "$POINT"
nothing_left

mkdir upper work
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH" --upper upper --work work
contains 'audit of a fresh overlay' "$(mkimg verify "$POINT" --root-hash "$ROOT_HASH")" clean
chmod 4711 "$POINT/$VICTIM"
status=0
mkimg verify "$POINT" --only security --json >/run/said || status=$?
cat /run/said
same 'exit status for a changed overlay' 1 "$status"
contains 'audit of an overlay' "$(cat /run/said)" "\"path\":\"/$VICTIM\",\"expected\""
contains 'audit of an overlay' "$(cat /run/said)" '"security":"set-id"'
same 'findings' 1 "$(grep -c '"view"' /run/said)"
mkimg umount "$POINT"
nothing_left
