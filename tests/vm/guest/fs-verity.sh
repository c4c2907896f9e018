# The disk takes fs-verity, and its digest is the one that a program computes from the same bytes.
cp "$IMAGE" sealed
fsverity enable sealed
computed=$(fsverity digest --compact sealed)
same 'digest of the kernel' "sha256:$computed sealed" "$(fsverity measure sealed)"
! (echo x >>sealed) 2>/dev/null || fail 'a sealed file takes writes'

# A byte that changes on the disk below the file system is an I/O error in the block that it belongs to.
sync
block=$(debugfs -R "bmap $STEP/sealed 2" /dev/vda 2>/dev/null)
same 'the block on the disk' "$(dd if=sealed bs=4096 skip=2 count=1 2>/dev/null | sha256sum)" \
    "$(dd if=/dev/vda bs=4096 skip="$block" count=1 2>/dev/null | sha256sum)"
dd if="$IMAGE" bs=4096 skip=2 count=1 2>/dev/null | tr '\000-\377' '\001-\377\000' |
    dd of=/dev/vda bs=4096 seek="$block" conv=notrunc 2>/dev/null
sync
echo 3 >/proc/sys/vm/drop_caches
! dd if=sealed of=/dev/null bs=4096 skip=2 count=1 2>/run/said || fail 'a damaged block can be read'
contains 'error of the read' "$(cat /run/said)" 'Input/output error'
same 'another block' "$(head -c 4096 "$IMAGE" | sha256sum)" "$(head -c 4096 sealed | sha256sum)"
