
# For the steps in a Debian with systemd. What else is on the disk; NAME.raw are partitioned images (DDI):
#   /disk/app.raw               signed by the one in trusted.pem; /usr/bin/app in it says what its root lies on, and reads
#                               the file VICTIM; app.service in it does the same
#   /disk/ext.raw               likewise, a system extension with the file /usr/share/ext/hello; EXT_ROOT_HASH
#   /disk/app.stranger.raw, /disk/ext.stranger.raw
#                               the same, signed by the one in stranger.pem
#   /disk/app.unsigned.raw      without a signature
#   /disk/plain.raw             without partitions: the image itself, with its .roothash, .verity and .roothash.p7s
#   /disk/other.json            for the signature partition: ROOT_HASH with the signature of the other image
#   /disk/facts                 also bytes of app.raw: where its signature partition begins, SIGNATURE_START, and a place
#                               in its data, tree and signature each: DAMAGE_OFFSET, TREE_OFFSET, SIGNATURE_OFFSET

# The certificate that systemd takes signatures of: trusted, stranger, or nobody's.
trust() {
    rm -rf /etc/verity.d
    mkdir /etc/verity.d
    [ "$1" = nobody ] || cp "/disk/$1.pem" "/etc/verity.d/$1.crt"
}

systemd_before() { # systemd_before VERSION
    [ "$(systemctl --version | awk 'NR == 1 { print $2 }')" -lt "$1" ]
}

# All that runs /usr/bin/app of an image.
nspawn() { # nspawn IMAGE [OPTION...]
    image=$1
    shift
    systemd-nspawn --quiet --image="$image" --read-only --register=no --keep-unit --pipe "$@" /usr/bin/app
}
# shellcheck disable=SC2034
NO_ROOT='exit status 226' # of a service whose file systems could not be set up (EXIT_NAMESPACE)
service() { # service IMAGE [OPTION...]
    image=$1
    shift
    systemd-run --quiet --wait --pipe -p RootImage="$image" -p MountAPIVFS=yes "$@" /usr/bin/app
}
app_said() { # app_said WHAT TEXT
    same "$1" "root on $ROOT_HASH-verity
$VICTIM: OK" "$2"
}

dissect() { # dissect IMAGE [OPTION...]
    image=$1
    shift
    systemd-dissect "$@" --mount --mkdir "$image" "$POINT/tree"
}
undissect() {
    umount "$POINT/tree"
    nothing_left
}

# The command fails, and what it says has PART in it.
refuses() { # refuses PART COMMAND...
    part=$1
    shift
    ! unable "$@" || fail "$* was taken"
    contains "refusal of $*" "$(cat /run/said)" "$part"
    nothing_left
}

# Runs a command that may ask for a passphrase, as newer ones do when no key and no certificate helps. The answer is that
# nobody has one. What the command says is in /run/said, with its exit status behind.
unable() { # unable COMMAND...
    while sleep 0.2; do
        for question in /run/systemd/ask-password/ask.*; do
            [ ! -e "$question" ] ||
                /usr/lib/systemd/systemd-reply-password 0 "$(sed -n 's/^Socket=//p' "$question")" </dev/null || true
        done
    done &
    answers=$!
    status=0
    "$@" </dev/null >/run/said 2>&1 || status=$?
    kill "$answers"
    echo "exit status $status" >>/run/said
    cat /run/said
    return "$status"
}
