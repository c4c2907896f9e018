# Images of every compression that this kernel is to read, by the kernels that people run: each byte, and files with the
# same content read at the same time, which share compressed blocks from 6.1 on. So do small files, which are parts of one
# packed inode then.
mkimg extract "$IMAGE" tree >/dev/null
for number in 1 2 3 4; do
    yes "all of these are equal, $number times or not" 2>/dev/null | head -c 700000 >"run-$number" || true
done
mkdir twins
for name in a b c d e f; do cat run-1 run-2 run-3 run-4 >"twins/$name"; done
wanted=$(sha256sum <twins/a)
mkdir small
for number in $(seq 1 36); do
    yes "small file $number" 2>/dev/null | head -c $((number * 331 + 20000 * (number % 7))) >"small/$number" || true
    cat run-1 | tail -c $((number * 97)) >>"small/$number"
done
(cd small && sha256sum ./*) >/run/small.sums

for options in 'lz4' 'lz4hc:3' 'lz4 --min-kernel 6.1' 'deflate:1' 'zstd' 'zstd --min-kernel 6.15'; do
    case $options in
    deflate* | zstd) kernel_before 6 12 && continue ;;
    *6.15) kernel_before 6 15 && continue ;;
    esac
    # Options are words.
    # shellcheck disable=SC2086
    mkimg build dir:tree -o tree.mkimg --compress $options >/dev/null
    if ! mount -t erofs -o ro,loop tree.mkimg "$POINT" 2>/run/said; then
        # Debian builds its kernels with LZ4; the rest is its choice.
        case $options in lz4*) cat /run/said && fail "a mount with $options" ;; esac
        echo "this kernel was built without $options"
        continue
    fi
    tree_is_as_listed "$POINT"
    umount "$POINT"
    # shellcheck disable=SC2086
    mkimg build dir:twins -o twins.mkimg --compress $options >/dev/null
    mount -t erofs -o ro,loop twins.mkimg "$POINT"
    for name in a b c d e f; do sha256sum <"$POINT/$name" >"/run/sum-$name" & done
    wait
    for name in a b c d e f; do same "twin $name with $options" "$wanted" "$(cat "/run/sum-$name")"; done
    umount "$POINT"
    # shellcheck disable=SC2086
    mkimg build dir:small -o small.mkimg --compress $options >/dev/null
    mkimg verify small.mkimg >/dev/null
    mount -t erofs -o ro,loop small.mkimg "$POINT"
    readers=
    for reader in 1 2 3; do
        (cd "$POINT" && sha256sum -c /run/small.sums >/dev/null) &
        readers="$readers $!"
    done
    for reader in $readers; do wait "$reader" || fail "small files with $options"; done
    umount "$POINT"
    echo "read: $options"
done
nothing_left
