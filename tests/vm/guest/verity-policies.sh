# What happens at damage is written into the table, each policy has a device of its own, and who looks is told.
for policy in eio restart panic; do
    mkdir "$POINT/$policy"
    mkimg mount "$IMAGE" "$POINT/$policy" --on-corruption "$policy" --root-hash "$ROOT_HASH" --json >/run/said
    cat /run/said
    contains 'mount' "$(cat /run/said)" "\"on_corruption\":\"$policy\""
done
contains 'table' "$(dmsetup table "$DEVICE-restart")" restart_on_corruption
contains 'table' "$(dmsetup table "$DEVICE-panic")" panic_on_corruption
! dmsetup table "$DEVICE" | grep -q on_corruption || fail 'a table that says what happens by default'
listed=$(mkimg mounts)
for part in "/eio ($DEVICE, ro, on corruption eio)" "/restart ($DEVICE-restart, ro, on corruption restart)" \
    "/panic ($DEVICE-panic, ro, on corruption panic)"; do
    contains 'mounts' "$listed" "$part"
done
for policy in eio restart panic; do
    contains 'mounts' "$(mkimg mounts --json | grep "/$policy\"")" "\"on_corruption\":\"$policy\""
    said=$(mkimg verify "$POINT/$policy" --root-hash "$ROOT_HASH" --json)
    contains "audit ($policy)" "$said" '"clean":true'
    contains "audit ($policy)" "$said" "\"on_corruption\":\"$policy\""
    tree_is_as_listed "$POINT/$policy"
done
contains 'audit' "$(mkimg verify "$POINT/restart")" 'which restarts the machine at a damaged block'
contains 'audit' "$(mkimg verify "$POINT/panic")" 'which makes the kernel panic at a damaged block'

# Mounts with the same policy share a device.
mkdir again
mkimg mount "$IMAGE" again --on-corruption panic --root-hash "$ROOT_HASH" >/run/said
contains 'second mount' "$(cat /run/said)" 'shared with an earlier mount'
contains 'second mount' "$(cat /run/said)" 'a block that does not match makes the kernel panic'
mkimg umount again
for policy in eio restart panic; do mkimg umount "$POINT/$policy"; done
nothing_left
