# Twenty processes mount and unmount one image at once: each gets its mount, and nothing is left.
for i in $(seq 20); do
    mkdir "$POINT/$i"
    (
        mkimg mount "$IMAGE" "$POINT/$i" --verity kernel --root-hash "$ROOT_HASH" >/dev/null
        cmp "$POINT/$i/etc/small" "/disk/small"
        mkimg umount "$POINT/$i"
        echo done >"$i"
    ) 2>&1 &
done
wait
same 'processes that came through' 20 "$(ls | wc -l)"
nothing_left
