# Signatures that mkimg itself checks before a mount, whatever checks the blocks afterwards.
for policy in kernel once; do
    mkimg mount /disk/trusted.mkimg "$POINT" --verity "$policy" --key /disk/trusted.pub --json >/run/said
    contains "mount ($policy)" "$(cat /run/said)" '"anchored":true,"anchored_by":"signature"'
    tree_is_as_listed "$POINT"
    contains "audit ($policy)" "$(mkimg verify "$POINT" --cert /disk/trusted.pem)" 'the signature of CN=trusted,O=mkimg'
    status=0
    mkimg verify "$POINT" --key /disk/stranger.pub >/run/said 2>&1 || status=$?
    same "audit for a stranger ($policy)" 2 "$status"
    contains "audit for a stranger ($policy)" "$(cat /run/said)" 'there is none of key'
    mkimg umount "$POINT"
    nothing_left
    refused mkimg mount /disk/stranger.mkimg "$POINT" --verity "$policy" --key /disk/trusted.pub
    contains "mount of a stranger ($policy)" "$(cat /run/said)" 'there is none of key'
    refused mkimg mount "$IMAGE" "$POINT" --verity "$policy" --require-signature --cert /disk/trusted.pem
    contains "unsigned mount ($policy)" "$(cat /run/said)" 'is not signed'
    nothing_left
done

# Certificates where systemd has them.
mkdir -p /etc/verity.d
cp /disk/trusted.pem /etc/verity.d/trusted.crt
mkimg verify /disk/trusted.mkimg --require-signature
status=0
mkimg verify /disk/stranger.mkimg --require-signature || status=$?
rm /etc/verity.d/trusted.crt
same 'exit status for a stranger' 1 "$status"

# An old release stays out, and only what was mounted counts as seen.
refused mkimg mount /disk/trusted.mkimg "$POINT" --key /disk/trusted.pub --min-epoch 1
contains 'refusal' "$(cat /run/said)" 'epoch is 0, wanted is at least 1'
mkimg mount /disk/trusted.mkimg "$POINT" --key /disk/trusted.pub --epoch-state "$PWD/seen"
name=$(tail -n 1 seen | cut -d ' ' -f 2-)
mkimg umount "$POINT"
printf 'mkimg epochs 1\n7 %s\n' "$name" >seen
refused mkimg mount /disk/trusted.mkimg "$POINT" --key /disk/trusted.pub --epoch-state "$PWD/seen"
contains 'refusal' "$(cat /run/said)" "rollback: epoch of $name is 0, and 7 was seen before"
nothing_left
