# Over dm-verity the kernel shows what `mkimg ls` lists, and no more is left after the unmount than was there before.
said=$(mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH")
contains 'mount' "$said" "$ROOT_HASH"
tree_is_as_listed "$POINT"
table=$(dmsetup table "$DEVICE")
contains 'table of the device' "$table" " sha256 $ROOT_HASH -"
same 'status of the device' V "$(verity_status)"
listed=$(mkimg mounts --json)
for part in "\"target\":\"$POINT\"" "\"image\":\"$IMAGE\"" "\"device\":\"$DEVICE\"" '"read_only":true'; do
    contains 'mounts' "$listed" "$part"
done
! touch "$POINT/new" || fail 'the mount takes writes'
# Nothing below takes writes either.
before=$(sha256sum <"$IMAGE")
for device in /sys/block/dm-* /sys/block/loop*; do
    # Loop devices are there before they are used.
    [ -d "$device/loop" ] || [ -d "$device/dm" ] || continue
    same "read-only: $device" 1 "$(cat "$device/ro")"
    ! dd if=/dev/zero of="/dev/${device##*/}" bs=4096 count=1 conv=notrunc 2>/dev/null || fail "$device takes writes"
done
sync
same 'image after the writes' "$before" "$(sha256sum <"$IMAGE")"
mkimg umount "$POINT"
same 'mounts after the unmount' '' "$(mkimg mounts --json)"
nothing_left
