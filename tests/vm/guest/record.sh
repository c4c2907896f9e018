# What is read of a mounted image is recorded, whoever reads it: through dm-verity, a loop device or the file alone, and
# below an overlay from Linux 6.5 on; before that it is refused.
wait_for_mount() {
    for _ in $(seq 200); do
        ! grep -q " $POINT " /proc/mounts || return 0
        sleep 0.05
    done
    cat said errors
    fail 'it was never mounted'
}

reads_are_recorded() { # reads_are_recorded OPTION...
    mkimg mount "$IMAGE" "$POINT" --record trace "$@" >said 2>errors &
    recorder=$!
    wait_for_mount
    cat "$POINT/etc/small" >/dev/null
    ls -lR "$POINT" >/dev/null
    unshare -m cat "$POINT/bin/tool" >/dev/null
    cat "$POINT/etc/block" "$POINT/etc/small" >/dev/null
    mkimg umount "$POINT"
    status=0
    wait "$recorder" || status=$?
    cat said errors
    same 'exit status of the recording' 0 "$status"
    grep '^/' trace >paths
    same "files that were recorded with $*" '/etc/small /bin/tool /etc/block' "$(echo $(cat paths))"
    nothing_left
}

reads_are_recorded --verity kernel --root-hash "$ROOT_HASH"
reads_are_recorded --verity once --via loop
if ! kernel_before 6 12; then
    reads_are_recorded --verity once --via file
fi
if kernel_before 6 5; then
    refused mkimg mount "$IMAGE" "$POINT" --record trace --upper upper --work work
    contains 'reason' "$(cat /run/said)" 'Linux 6.5'
else
    reads_are_recorded --verity once --upper upper --work work
fi
nothing_left
