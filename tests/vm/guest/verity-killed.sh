# Mounts that are killed at any moment are in nobody's way, and the next mount or unmount takes away what they left.
killed() { # killed DIRECTORY MICROSECONDS
    mkimg mount "$IMAGE" "$1" --verity kernel --root-hash "$ROOT_HASH" >/dev/null 2>&1 &
    mount=$!
    usleep "$2"
    kill -9 "$mount" 2>/dev/null || true
    # The shell tells of the kill.
    wait "$mount" 2>/dev/null || true
}

now() { # in microseconds
    awk '{ print int($1 * 1000000) }' /proc/uptime
}
# How long a mount takes here.
began=$(now)
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH" >/dev/null
time=$(($(now) - began))
mkimg umount "$POINT"
nothing_left

# Five processes at once, each killed at eight moments that are spread over that time, others in each, beside four that
# mount and unmount undisturbed.
for i in $(seq 5); do
    mkdir "$POINT/$i"
    (
        for round in $(seq 8); do
            killed "$POINT/$i" $((time * 3 * (round * 5 + i) / 45))
            ! grep -q " $POINT/$i " /proc/mounts || umount "$POINT/$i"
        done
        echo done >"$i"
    ) 2>&1 &
done
for i in 6 7 8; do
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
same 'processes that came through' 8 "$(ls | wc -l)"
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH" >/dev/null
mkimg umount "$POINT"
nothing_left

# What a kill between two commands leaves: a device without a table, or with one that is not in force. The next mount of
# the same image takes it away, and so does one of another image, and an unmount.
uuid() { # uuid NAME
    echo "CRYPT-VERITY-$(echo "$1" | cut -c 7-38)-$1"
}
half_made() { # half_made NAME
    dmsetup create --noudevsync --notable --uuid "$(uuid "$1")" "$1"
}
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
table=$(dmsetup table "$DEVICE")
other=mkimg-$(printf '5%.0s' $(seq 64))
half_made "$other"
mkimg umount "$POINT"
nothing_left
loop=$(losetup -f)
losetup -r "$loop" "$IMAGE"
number=$(cat "/sys/block/${loop##*/}/dev")
half_made "$DEVICE"
dmsetup load --readonly --table "$(echo "$table" | sed -E "s/ 7:[0-9]+ 7:[0-9]+ / $number $number /")" "$DEVICE"
half_made "$other-panic"
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
losetup -d "$loop"
same 'mapped devices' "$DEVICE" "$(dmsetup ls | cut -f 1)"
tree_is_as_listed "$POINT"
mkimg umount "$POINT"
nothing_left

# A device with such a name that is not by mkimg is left alone.
dmsetup create --noudevsync --notable foreign
dmsetup create --noudevsync --notable "$other"
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
mkimg umount "$POINT"
for device in foreign "$other"; do
    dmsetup info "$device" >/dev/null
    dmsetup remove --noudevsync "$device"
done
nothing_left
