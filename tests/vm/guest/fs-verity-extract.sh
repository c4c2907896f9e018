# The kernel vouches for files that were extracted with fs-verity: an audit does not read them, and sees what is replaced.
mkimg extract "$IMAGE" tree --fs-verity
computed=$(fsverity digest --compact "tree/$VICTIM")
same 'digest of the kernel' "sha256:$computed tree/$VICTIM" "$(fsverity measure "tree/$VICTIM")"
! (echo x >>"tree/$VICTIM") 2>/dev/null || fail 'a protected file takes writes'
(cd tree && find . -exec stat -c '%n %f %u %g %s %h %Y' {} + | LC_ALL=C sort | grep -v ' 4[0-9a-f]* ') >/run/files
grep -v ' 4[0-9a-f]* ' /disk/stat | diff - /run/files || fail 'attributes are not those of the image'

mkimg verify "$IMAGE" tree --root-hash "$ROOT_HASH" --json >/run/said
cat /run/said
contains 'audit' "$(cat /run/said)" '"clean":true'
contains 'audit reads nothing' "$(cat /run/said)" '"bytes":0,'
! grep -q '"measured":0,' /run/said || fail 'nothing was vouched for'

# Other content is found, with the kernel's protection or without.
for protect in no yes; do
    tr 'A-Za-z0-9' 'B-ZAb-za0-9' <"tree/$VICTIM" >other
    printf X | dd of=other bs=1 seek=7 conv=notrunc 2>/dev/null
    cp -p "tree/$VICTIM" keep
    cat other >new
    chown "$(stat -c %u:%g keep)" new
    chmod "$(stat -c %a keep)" new
    touch -r keep new
    [ "$protect" = no ] || fsverity enable new
    mv new "tree/$VICTIM"
    status=0
    mkimg verify "$IMAGE" tree --json --ignore mtime --ignore xattrs >/run/said || status=$?
    cat /run/said
    same "exit status, protected: $protect" 1 "$status"
    same 'findings' 1 "$(grep -c '"kind"' /run/said)"
    contains 'audit' "$(cat /run/said)" "\"kind\":\"content\",\"path\":\"/$VICTIM\""
done
