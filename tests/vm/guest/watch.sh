# A watch is told what changes in a tree and, from Linux 6.6 on, in an overlay; before that it refuses.
wait_for() { # wait_for PART
    for _ in $(seq 200); do
        ! grep -q "$1" said || return 0
        sleep 0.05
    done
    cat said errors
    fail "the watch never said $1"
}

# Watches, changes the victim below DIRECTORY, and ends the watch.
change_is_told() { # change_is_told DIRECTORY ARGUMENT...
    dir=$1
    shift
    mkimg watch "$@" --json >said 2>errors &
    watch=$!
    wait_for '"event":"watching"'
    chmod 4711 "$dir/$VICTIM"
    wait_for "\"event\":\"differs\",\"kind\":\"mode\",\"path\":\"/$VICTIM\""
    kill -TERM "$watch"
    status=0
    wait "$watch" || status=$?
    cat said errors
    same "exit status of mkimg watch $*" 1 "$status"
}

mkimg extract "$IMAGE" tree
change_is_told tree "$IMAGE" tree

mkdir upper work
mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH" --upper upper --work work
if kernel_before 6 6; then
    status=0
    mkimg watch "$POINT" >said 2>errors || status=$?
    cat said errors
    same 'exit status where overlays cannot be watched' 2 "$status"
    contains 'reason' "$(cat errors)" 'Linux 6.6'
else
    change_is_told "$POINT" "$POINT"
fi
mkimg umount "$POINT"
nothing_left
