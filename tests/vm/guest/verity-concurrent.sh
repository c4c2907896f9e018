# Twenty processes mount and unmount one image at once and again: each gets its mounts, also when the device of the last
# round is just going away, and nothing is left.
for i in $(seq 20); do
    mkdir "$POINT/$i"
    (
        for _ in 1 2 3; do
            mkimg mount "$IMAGE" "$POINT/$i" --verity kernel --root-hash "$ROOT_HASH" >/dev/null
            cmp "$POINT/$i/etc/small" /disk/small
            mkimg umount "$POINT/$i"
        done
        echo done >"$i"
    ) 2>&1 &
done
wait
same 'processes that came through' 20 "$(ls | wc -l)"
nothing_left
