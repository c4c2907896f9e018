# A system extension is merged over dm-verity into this very system, and taken out again.
mkdir -p /run/extensions
cp /disk/ext.raw /run/extensions/ext.raw
trust trusted
systemd-sysext merge
same 'file of the extension' hello "$(cat /usr/share/ext/hello)"
DEVICE=$EXT_ROOT_HASH-verity
same 'devices' "$DEVICE" "$(mapped_devices)"
same 'status of the device' V "$(verity_status)"
systemd-sysext unmerge
nothing_left

# The exit status may be that of somebody content: nothing was merged that could not be.
cp /disk/ext.stranger.raw /run/extensions/ext.raw
unable systemd-sysext merge || true
contains 'merge of a stranger' "$(cat /run/said)" 'Failed to'
[ ! -e /usr/share/ext ] || fail 'an extension of a stranger is merged'
systemd-sysext unmerge
nothing_left
rm /run/extensions/ext.raw
