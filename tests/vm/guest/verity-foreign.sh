# A device that somebody else has activated with the same parameters is used, and outlives the mount: an unmount takes
# away nothing by its name.
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
table=$(dmsetup table "$DEVICE")
mkimg umount "$POINT"
nothing_left
loop=$(losetup -f)
losetup -r "$loop" "$IMAGE"
number=$(cat "/sys/block/${loop##*/}/dev")
dmsetup create "$DEVICE" --noudevsync --readonly --table "$(echo "$table" | sed -E "s/ 7:[0-9]+ 7:[0-9]+ / $number $number /")"
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
tree_is_as_listed "$POINT"
same 'loop devices' "$IMAGE" "$(loop_devices)"
mkimg umount "$POINT"
same 'status after the unmount' V "$(verity_status)"
dmsetup remove --noudevsync "$DEVICE"
losetup -d "$loop"
nothing_left
