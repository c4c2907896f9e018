# Files that share single blocks, by the kernels that people run: each byte, read at the same time and at random places.
mkimg extract "$IMAGE" tree >/dev/null
mkdir disks
head -c 3000000 /dev/urandom >disks/a
# The same with other blocks between, with holes, in another order, a slice of it, and with a tail of its own.
cp disks/a disks/b
for at in 5 6 70 300; do dd if=/dev/urandom of=disks/b bs=4096 count=1 seek=$at conv=notrunc 2>/dev/null; done
{ dd if=disks/a bs=4096 count=20; dd if=/dev/zero bs=4096 count=50; dd if=disks/a bs=4096 skip=100; } >disks/c 2>/dev/null
{ dd if=disks/a bs=4096 skip=400 count=100; dd if=disks/a bs=4096 count=400; } >disks/d 2>/dev/null
dd if=disks/a of=disks/e bs=4096 skip=9 count=300 2>/dev/null
{ cat disks/e; echo and a tail; } >disks/f
head -c 1000000 /dev/zero >disks/g

mkimg build dir:tree -o tree.mkimg --dedup blocks >/dev/null
mount -t erofs -o ro,loop tree.mkimg "$POINT"
tree_is_as_listed "$POINT"
umount "$POINT"

mkimg build dir:disks -o disks.mkimg --dedup blocks >/dev/null
[ "$(stat -c %s disks.mkimg)" -lt 3300000 ] || fail "blocks are not shared: $(stat -c %s disks.mkimg) bytes"
mkimg verify disks.mkimg
mount -t erofs -o ro,loop disks.mkimg "$POINT"
for name in a b c d e f g; do cmp "disks/$name" "$POINT/$name" & done
wait
for name in a b c d e f g; do
    same "file $name" "$(sha256sum <"disks/$name")" "$(sha256sum <"$POINT/$name")"
    for at in 0 4095 81920 286719 399999; do
        same "file $name from $at" "$(tail -c "+$at" "disks/$name" | head -c 9000 | sha256sum)" \
            "$(tail -c "+$at" "$POINT/$name" | head -c 9000 | sha256sum)"
    done
done
mkimg verify "$POINT"
umount "$POINT"
nothing_left
