# An audit of a mount over dm-verity is clean, names what an overlay changes, and notices a device that does not check.
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
said=$(mkimg verify "$POINT" --root-hash "$ROOT_HASH")
contains 'audit of a healthy mount' "$said" clean
contains 'audit of a healthy mount' "$said" "dm-verity device $DEVICE"
table=$(dmsetup table "$DEVICE")

# The same blocks through devices of other tools. Those that let damage pass are named with how they do it: the kernel
# would serve it without a word. All others are clean.
case $table in *' 0') table=${table% 0} ;; esac
mkdir other
audit_with() { # audit_with OPTIONS WEAKNESSES ON-CORRUPTION
    dmsetup create other --noudevsync --readonly --table "$table $(echo "$1" | wc -w) $1"
    mount -t erofs -o ro "/dev/dm-$(dmsetup info -c --noheadings -o minor other)" other
    status=0
    mkimg verify other --json >/run/said || status=$?
    cat /run/said
    same "exit status for $1" $(($2 > 0)) "$status"
    same "weaknesses of $1" "$2" "$(grep -c '"kind":"verity-options"' /run/said)"
    contains "audit with $1" "$(cat /run/said)" "\"on_corruption\":\"$3\""
    umount other
    dmsetup remove --noudevsync other
}
audit_with ignore_corruption 1 ignore
contains 'audit' "$(cat /run/said)" 'ignore_corruption: damaged blocks are served as they are'
audit_with check_at_most_once 1 eio
contains 'audit' "$(cat /run/said)" 'check_at_most_once: a block is checked when it is first read, and damage after that passes'
audit_with 'ignore_corruption check_at_most_once' 2 ignore
audit_with restart_on_corruption 0 restart
audit_with panic_on_corruption 0 panic
audit_with ignore_zero_blocks 0 eio
audit_with try_verify_in_tasklet 0 eio
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
