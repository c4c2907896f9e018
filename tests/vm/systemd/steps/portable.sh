# A portable service is attached, runs over dm-verity, and is detached.
mkdir -p /run/portables
cp /disk/app.raw /run/portables/app.raw
trust trusted
portablectl attach --runtime --now app
same 'state of the service' active "$(systemctl is-active app.service)"
journalctl --sync
app_said 'as a portable service' "$(journalctl --cursor-file=seen --unit=app.service --output=cat --identifier=app)"
portablectl detach --runtime --now app
nothing_left

# What is attached need not have been checked: its units are read first. But nothing of it runs.
cp /disk/app.stranger.raw /run/portables/app.raw
unable portablectl attach --runtime app || fail 'checked after all'
refuses 'Job for app.service failed' systemctl start app.service
same 'what it has said' '' "$(journalctl --cursor-file=seen --unit=app.service --output=cat --identifier=app)"
portablectl detach --runtime app
nothing_left
rm -f /run/portables/app.raw
