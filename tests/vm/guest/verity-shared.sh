# Mounts of one image share one device, also when they are of two copies; it goes with the last of them.
mkdir "$POINT/1" "$POINT/2" "$POINT/3"
cp "$IMAGE" copy.mkimg
mkimg mount "$IMAGE" "$POINT/1" --verity kernel
mkimg mount "$IMAGE" "$POINT/2" --verity kernel
mkimg mount copy.mkimg "$POINT/3" --verity kernel
same 'mapped devices' 1 "$(ls /sys/block | grep -c '^dm-')"
same 'loop devices' 1 "$(cat /sys/block/loop*/loop/backing_file 2>/dev/null | wc -l)"
same 'mounts' 3 "$(mkimg mounts --json | grep -c "\"device\":\"$DEVICE\"")"
mkimg umount "$POINT/1"
tree_is_as_listed "$POINT/2"
mkimg umount "$POINT/3"
tree_is_as_listed "$POINT/2"
mkimg umount "$POINT/2"
nothing_left
