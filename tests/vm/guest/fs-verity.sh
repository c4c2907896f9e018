# The disk takes fs-verity, and its digest is the one that a program computes from the same bytes.
cp "$IMAGE" sealed
fsverity enable sealed
computed=$(fsverity digest --compact sealed)
same 'digest of the kernel' "sha256:$computed sealed" "$(fsverity measure sealed)"
! (echo x >>sealed) 2>/dev/null || fail 'a sealed file takes writes'
