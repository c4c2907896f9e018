# Checked once before the mount: from a loop device on every kernel, straight from the file since 6.12.
mkimg mount "$IMAGE" "$POINT" --verity once --root-hash "$ROOT_HASH" --via loop
tree_is_as_listed "$POINT"
contains 'mounts' "$(mkimg mounts --json)" '"device":"loop'
mkimg umount "$POINT"
nothing_left

if kernel_before 6 12; then
    refused mkimg mount "$IMAGE" "$POINT" --verity once --root-hash "$ROOT_HASH" --via file
    wanted='"device":"loop'
else
    mkimg mount "$IMAGE" "$POINT" --verity once --root-hash "$ROOT_HASH" --via file
    tree_is_as_listed "$POINT"
    mkimg umount "$POINT"
    wanted='"device":"file"'
fi
mkimg mount "$IMAGE" "$POINT" --verity once --root-hash "$ROOT_HASH"
tree_is_as_listed "$POINT"
contains 'mounts' "$(mkimg mounts --json)" "$wanted"
mkimg umount "$POINT"
nothing_left
