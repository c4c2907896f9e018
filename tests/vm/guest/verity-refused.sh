# Where dm-verity cannot be set up, --verity kernel and what needs it fail with one line and leave nothing. Auto fails,
# too, or says that the kernel does not check.
refused_for() { # refused_for REASON: by all that asks for dm-verity
    for options in '--verity kernel' '--on-corruption eio' '--on-corruption restart' '--verity kernel --on-corruption panic'; do
        # shellcheck disable=SC2086
        refused mkimg mount "$IMAGE" "$POINT" --root-hash "$ROOT_HASH" $options
        contains "refusal of $options" "$(cat /run/said)" "$1"
        nothing_left
    done
    refused mkimg mount /disk/trusted.mkimg "$POINT" --root-hash "$ROOT_HASH" --kernel-signature
    contains 'refusal of --kernel-signature' "$(cat /run/said)" "$1"
    nothing_left
}

auto_says_once() {
    mkimg mount "$IMAGE" "$POINT" --root-hash "$ROOT_HASH" >/run/said
    cat /run/said
    contains 'auto' "$(cat /run/said)" 'checked once before the mount against root hash'
    contains 'auto' "$(cat /run/said)" 'later changes of the backing file are not noticed by the kernel'
    mkimg umount "$POINT"
    nothing_left
}

modules=/lib/modules/$(uname -r)
put_back() {
    [ ! -e /dev/mapper/hidden ] || mv -f /dev/mapper/hidden /dev/mapper/control
    [ ! -e "$modules.hidden" ] || mv "$modules.hidden" "$modules"
    modprobe dm-verity
}
trap put_back EXIT

# No control node.
mv /dev/mapper/control /dev/mapper/hidden
refused_for 'no device-mapper: /dev/mapper/control does not exist'
auto_says_once
# A node of nothing.
mknod /dev/mapper/control c 10 255
refused_for 'no device-mapper: /dev/mapper/control: '
auto_says_once
put_back

# No verity target, neither there nor as a module.
rmmod dm_verity
mv "$modules" "$modules.hidden"
refused_for 'device-mapper has no verity target'
auto_says_once
put_back

# Policies and ways without dm-verity.
for option in '--on-corruption eio' '--on-corruption restart' '--on-corruption panic' --kernel-signature; do
    for policy in once off; do
        # shellcheck disable=SC2086
        refused mkimg mount /disk/trusted.mkimg "$POINT" --verity "$policy" $option
        contains "refusal of $option" "$(cat /run/said)" "${option%% *} needs --verity kernel"
        nothing_left
    done
done
for policy in kernel auto; do
    refused mkimg mount "$IMAGE" "$POINT" --verity "$policy" --via file --on-corruption eio
    contains 'refusal of --via file' "$(cat /run/said)" 'dm-verity needs a block device'
    nothing_left
done

# The name is taken: by a device of another kind, by a table that lets damage pass, by one without a table.
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
table=$(dmsetup table "$DEVICE")
mkimg umount "$POINT"
nothing_left
loop=$(losetup -f)
losetup -r "$loop" "$IMAGE"
number=$(cat "/sys/block/${loop##*/}/dev")
table=$(echo "$table" | sed -E "s/ 7:[0-9]+ 7:[0-9]+ / $number $number /; s/ 0$//")
name_is_taken() { # name_is_taken REASON
    for policy in kernel auto; do
        refused mkimg mount "$IMAGE" "$POINT" --verity "$policy" --root-hash "$ROOT_HASH"
        contains "refusal for a name that is taken ($policy)" "$(cat /run/said)" \
            "device-mapper device $DEVICE: exists with another table: $1"
        same 'mapped devices' "$DEVICE" "$(dmsetup ls | cut -f 1)"
        same 'loop devices' "$IMAGE" "$(loop_devices)"
    done
    dmsetup remove --noudevsync "$DEVICE"
}
dmsetup create "$DEVICE" --noudevsync --readonly --table "0 8 linear $loop 0"
name_is_taken '0 8 linear'
dmsetup create "$DEVICE" --noudevsync --readonly --table "$table 1 ignore_corruption"
name_is_taken '0 '
dmsetup create "$DEVICE" --noudevsync --readonly --table "$table 1 check_at_most_once"
name_is_taken '0 '
# The wanted table, but for the first two blocks alone.
dmsetup create "$DEVICE" --noudevsync --readonly --table "0 16 ${table#0 * }"
name_is_taken '0 16 verity'
dmsetup create "$DEVICE" --noudevsync --notable
name_is_taken none
losetup -d "$loop"
nothing_left

# The kernel refuses the table: another file system has the device for itself.
loop=$(losetup -f)
losetup -r "$loop" "$IMAGE"
mkdir first
mount -t erofs -o ro "$loop" first
for policy in kernel auto; do
    refused mkimg mount "$loop" "$POINT" --verity "$policy" --root-hash "$ROOT_HASH"
    contains 'refusal of a device in use' "$(cat /run/said)" "device-mapper load table of $DEVICE"
    same 'mapped devices' '' "$(dmsetup ls | grep mkimg || true)"
done
umount first
losetup -d "$loop"
nothing_left
