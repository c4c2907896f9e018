# With POLICY restart or panic the machine ends at a damaged block, and not before. For a machine of its own: the kernel
# says on the console how it ends.
cp "$IMAGE" damaged.mkimg
printf "$DAMAGE_BYTE" | dd of=damaged.mkimg bs=1 seek="$DAMAGE_OFFSET" conv=notrunc 2>/dev/null
mkimg mount damaged.mkimg "$POINT" --on-corruption "$POLICY" --root-hash "$ROOT_HASH"
same 'a file that is whole' "$(cat /disk/small)" "$(cat "$POINT/etc/small")"
same 'status before the damage is read' "$(dmsetup status "$DEVICE-$POLICY" | awk '{ print $4 }')" V
echo 'read the damaged block'
sleep 0.2
cat "$POINT/$VICTIM" >/dev/null || true
fail 'the machine lives on'
