# Without a signature, the root hash has to be given. What systemd does when it is not is no proof of anything, and is
# looked at because docs/interchange.md says it.
trust nobody
app_said 'with the root hash' "$(service /disk/app.unsigned.raw -p RootHash="$ROOT_HASH")"
app_said 'with the root hash' "$(nspawn /disk/app.unsigned.raw --root-hash="$ROOT_HASH")"
wrong=$(echo "$ROOT_HASH" | tr 0123456789abcdef 123456789abcdef0)
refuses "$NO_ROOT" service /disk/app.unsigned.raw -p RootHash="$wrong"
refuses 'No root partition for specified root hash' dissect /disk/app.raw --root-hash="$wrong"

dissect /disk/app.unsigned.raw
same 'devices when nobody has asked for any' '' "$(mapped_devices)"
undissect
! mkimg verify /disk/app.unsigned.raw --cert /disk/trusted.pem || fail 'mkimg sees a signature'
systemd_before 254 || {
    # Dm-verity where there is something to check against: nothing is.
    dissect /disk/app.unsigned.raw --image-policy=root=verity
    same 'devices by a policy of verity' '' "$(mapped_devices)"
    undissect
    trust trusted
    refuses 'does not match image policy' dissect /disk/app.unsigned.raw --image-policy=root=signed
    app_said 'by a policy of signatures' "$(nspawn /disk/app.raw --image-policy=root=signed)"
}
