# A flipped bit in the data of one file is an I/O error for that file alone, and the device remembers it.
cp "$IMAGE" damaged.mkimg
printf "$DAMAGE_BYTE" | dd of=damaged.mkimg bs=1 seek="$DAMAGE_OFFSET" conv=notrunc 2>/dev/null
refused mkimg mount damaged.mkimg "$POINT" --verity once --root-hash "$ROOT_HASH"
mkimg mount damaged.mkimg "$POINT" --verity kernel --root-hash "$ROOT_HASH"
same 'status before the damage is read' V "$(verity_status)"
! cat "$POINT/$VICTIM" >/dev/null 2>/run/said || fail 'the damaged file can be read'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
same 'status after the damage was read' C "$(verity_status)"
! (cd "$POINT" && sha256sum -c /disk/sha256 >/run/sums 2>/dev/null) || fail 'all contents are as listed'
same 'files that cannot be read' "$VICTIM: FAILED" "$(grep -v ': OK$' /run/sums)"

# An audit of the mount says all of it: the kernel's state, the file that cannot be read, and the damage in the image.
status=0
mkimg verify "$POINT" --root-hash "$ROOT_HASH" --json >/run/said || status=$?
cat /run/said
same 'exit status of the audit, which could not read everything' 2 "$status"
for part in '"kind":"verity-corrupted"' "\"kind\":\"unreadable\",\"path\":\"/$VICTIM\"" '"region":"data"'; do
    contains 'audit of the mount' "$(cat /run/said)" "$part"
done
same 'findings' 3 "$(grep -c '"view"' /run/said)"
mkimg umount "$POINT"
nothing_left
