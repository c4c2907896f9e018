# systemd calls the image signed, and mounts it over dm-verity; an audit of its mount is clean.
trust trusted
listed=$(systemd-dissect --json=short /disk/app.raw)
echo "$listed"
first=$(echo "$ROOT_HASH" | sed 's/^\(.\{8\}\)\(....\)\(....\)\(....\)\(.\{12\}\).*/\1-\2-\3-\4-\5/')
contains 'listing' "$listed" "{\"rw\":\"ro\",\"designator\":\"root\",\"partition_uuid\":\"$first\""
contains 'listing' "$listed" '"fstype":"erofs","architecture":"x86-64","verity":"signed","growfs":false'
contains 'listing' "$listed" '"designator":"root-verity",'
contains 'listing' "$listed" '"designator":"root-verity-sig",'

dissect /disk/app.raw
same 'devices' "$ROOT_HASH-verity" "$(mapped_devices)"
tree_is_as_listed "$POINT/tree"
DEVICE=$ROOT_HASH-verity
same 'status of the device' V "$(verity_status)"
said=$(mkimg verify "$POINT/tree" --root-hash "$ROOT_HASH")
contains 'audit of the mount' "$said" clean
contains 'audit of the mount' "$said" "dm-verity device $DEVICE"
undissect
