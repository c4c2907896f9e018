# An image without partitions: systemd finds its tree, root hash and signature in the files beside it.
trust trusted
app_said 'in a container' "$(nspawn /disk/plain.raw)"
app_said 'as a service' "$(service /disk/plain.raw)"
nothing_left

# The lines that mkimg has for a unit, pasted as they are.
mkdir -p /run/systemd/system
{
    mkimg export /disk/plain.raw --print systemd
    printf 'Type=oneshot\nMountAPIVFS=yes\nExecStart=/usr/bin/app\n'
} >/run/systemd/system/lines.service
systemctl daemon-reload
systemctl start lines.service
journalctl --sync
app_said 'with the lines' "$(journalctl --unit=lines.service --output=cat --identifier=app)"
nothing_left
trust stranger
refuses 'Job for lines.service failed' systemctl start lines.service
