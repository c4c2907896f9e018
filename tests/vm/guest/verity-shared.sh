# Mounts of one image share one device, also when they are of two copies; it goes with the last of them.
mkdir "$POINT/1" "$POINT/2" "$POINT/3"
cp "$IMAGE" copy.mkimg
mkimg mount "$IMAGE" "$POINT/1" --verity kernel
mkimg mount "$IMAGE" "$POINT/2" --verity kernel
mkimg mount copy.mkimg "$POINT/3" --verity kernel
same 'mapped devices' "$DEVICE" "$(mapped_devices)"
same 'loop devices' "$IMAGE" "$(loop_devices)"
same 'mounts' 3 "$(mkimg mounts --json | grep -c "\"device\":\"$DEVICE\"")"
mkimg umount "$POINT/1"
tree_is_as_listed "$POINT/2"
mkimg umount "$POINT/3"
tree_is_as_listed "$POINT/2"
mkimg umount "$POINT/2"
nothing_left
