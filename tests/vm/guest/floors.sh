# Images of every feature set that mkimg makes. A kernel from the floor on reads all of it; one below refuses the mount,
# because of the features. docs/kernels.md shows both, in a column for each kernel.

# Parts are read first, while nothing is cached; then equal files by one reader each, at the same time: from 6.1 on these
# share compressed blocks, and small ones are parts of one packed inode.
reads_back() { # reads_back FILE
    for part in /disk/sets/part-*; do
        dd if="$POINT/large/mixed" iflag=skip_bytes,count_bytes skip="${part##*-}" count=9000 2>/dev/null |
            cmp - "$part" || fail "$1: bytes in the middle of a file"
    done
    readers=
    for file in "$POINT"/twins/*; do
        [ -e "$file" ] || continue
        cat "$file" >/dev/null &
        readers="$readers $!"
    done
    for reader in $readers; do wait "$reader" || fail "$1: equal files read at the same time"; done
    tree_is_as_listed "$POINT" "/disk/sets/${1%/*}"
}

refused_for_features() { # refused_for_features FILE
    case $(dmesg -c) in
        *erofs*unidentified\ incompatible\ feature* | *erofs*unidentified\ algorithms* | *erofs*unsupported\ algorithms*) ;;
        *) fail "$1: refused, but the kernel does not say because of which feature" ;;
    esac
}

read=0 refused=0
dmesg -c >/dev/null
while read -r major minor file; do
    if mount -t erofs -o ro,loop "/disk/sets/$file" "$POINT" 2>/run/said; then
        kernel_before "$major" "$minor" && fail "$file: mounted by a kernel before $major.$minor"
        reads_back "$file"
        mkimg verify "$POINT" >/dev/null
        umount "$POINT"
        read=$((read + 1))
    else
        kernel_before "$major" "$minor" || fail "$file: $(cat /run/said)"
        refused_for_features "$file"
        refused=$((refused + 1))
    fi
done </disk/sets/list
echo "$read read, $refused refused"
nothing_left
