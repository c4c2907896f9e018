# A flipped bit in the data is an I/O error for who reads it; with one in the tree or in the signature nothing starts.
trust trusted
flip() { # flip OFFSET: makes damaged.raw
    cp /disk/app.raw damaged.raw
    byte=$(dd if=damaged.raw bs=1 skip="$1" count=1 2>/dev/null | od -An -tu1)
    printf "\\$(printf %03o $((byte ^ 1)))" | dd of=damaged.raw bs=1 seek="$1" conv=notrunc 2>/dev/null
    ! cmp -s damaged.raw /disk/app.raw || fail "nothing is flipped at $1"
}

flip "$DAMAGE_OFFSET"
refuses "$VICTIM': Input/output error" service "$PWD/damaged.raw"
refuses "$VICTIM': Input/output error" nspawn damaged.raw
dissect damaged.raw
! cat "$POINT/tree/$VICTIM" >/dev/null 2>/run/said || fail 'the damaged file can be read'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
DEVICE=$ROOT_HASH-verity
same 'status of the device' C "$(verity_status)"
! mkimg verify "$POINT/tree" --root-hash "$ROOT_HASH" --json >/run/said || fail 'the audit is clean'
for part in '"kind":"verity-corrupted"' "\"kind\":\"unreadable\",\"path\":\"/$VICTIM\"" '"region":"data"'; do
    contains 'audit of the mount' "$(cat /run/said)" "$part"
done
undissect

flip "$TREE_OFFSET"
refuses 'Input/output error' dissect damaged.raw
flip "$SIGNATURE_OFFSET"
refuses 'Failed to' dissect damaged.raw
