# A root hash whose signature the kernel checks by its own keyrings. Nobody can put a certificate into those of a stock
# kernel, but since Linux 7.0 there is one for dm-verity that may be filled before it is sealed.
reload() { # reload PARAMETER...
    modprobe -r dm-verity
    modprobe dm-verity "$@"
}
trap 'reload' EXIT

unknown='no keyring that the kernel asks has the certificate of the signer'
for who in trusted stranger; do
    refused mkimg mount "/disk/$who.mkimg" "$POINT" --kernel-signature
    contains 'refusal without a certificate' "$(cat /run/said)" "$unknown"
    nothing_left
done
refused mkimg mount "$IMAGE" "$POINT" --kernel-signature
contains 'refusal of an unsigned image' "$(cat /run/said)" 'has no PKCS#7 signature for the kernel'
nothing_left
refused mkimg mount "/disk/trusted.mkimg" "$POINT" --kernel-signature --verity once
contains 'refusal of another policy' "$(cat /run/said)" '--kernel-signature needs --verity kernel'

contains 'doctor' "$(mkimg doctor)" 'on demand; certificates: '

# A kernel that wants signatures.
reload require_signatures=1
contains 'doctor' "$(mkimg doctor)" '--verity kernel fails without --kernel-signature'
refused mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
contains 'refusal of a root hash alone' "$(cat /run/said)" 'this kernel maps signed root hashes only'
nothing_left
refused mkimg mount /disk/trusted.mkimg "$POINT" --kernel-signature
contains 'refusal of an unknown signer' "$(cat /run/said)" "$unknown"
nothing_left
# Root with other tools can do no more, nor take the demand back while the module is there.
loop=$(losetup -f)
losetup -r "$loop" "$IMAGE"
table="0 $((DATA_BLOCKS * 8)) verity 1 $loop $loop 4096 4096 $DATA_BLOCKS $((DATA_BLOCKS + 1)) sha256 $ROOT_HASH -"
! dmsetup create unsigned --noudevsync --readonly --table "$table" 2>/run/said || fail 'dmsetup maps an unsigned image'
cat /run/said
contains 'refusal of dmsetup' "$(cat /run/said)" 'Required key not available'
! veritysetup open "$loop" unsigned "$loop" "$ROOT_HASH" --data-blocks "$DATA_BLOCKS" \
    --hash-offset $((DATA_BLOCKS * 4096)) || fail 'veritysetup maps an unsigned image'
! echo N 2>/dev/null >/sys/module/dm_verity/parameters/require_signatures || fail 'the demand can be taken back'
same 'demand of dm-verity' Y "$(cat /sys/module/dm_verity/parameters/require_signatures)"
dmsetup remove --noudevsync unsigned 2>/dev/null || true
losetup -d "$loop"
nothing_left
# The same table is mapped where no signature is asked for.
reload
loop=$(losetup -f)
losetup -r "$loop" "$IMAGE"
dmsetup create unsigned --noudevsync --readonly --table "$table"
dmsetup remove --noudevsync unsigned
losetup -d "$loop"
nothing_left

kernel_before 7 0 && skip 'the keyrings of this kernel take no certificate from outside; refusals were tested'
reload require_signatures=1 keyring_unsealed=1
keyring=0x$(awk '/ \.dm-verity: / { print $1 }' /proc/keys)
keyctl padd asymmetric '' "$keyring" </disk/trusted.der
keyctl padd asymmetric '' "$keyring" </disk/elliptic.der
keyctl restrict_keyring "$keyring"
contains 'doctor' "$(mkimg doctor)" '2 in the keyring of dm-verity'

# What the kernel takes from veritysetup, it takes from mkimg.
loop=$(losetup -f)
losetup -r "$loop" /disk/trusted.mkimg
veritysetup open "$loop" oracle "$loop" "$ROOT_HASH" --data-blocks "$DATA_BLOCKS" \
    --hash-offset $((DATA_BLOCKS * 4096)) --root-hash-signature=/disk/trusted.mkimg.p7s
veritysetup close oracle
losetup -d "$loop"
mkimg mount /disk/trusted.mkimg "$POINT" --kernel-signature --cert /disk/trusted.pem >/run/said
cat /run/said
contains 'mount' "$(cat /run/said)" "against root hash $ROOT_HASH, whose signature it has accepted"
contains 'mount' "$(cat /run/said)" 'vouched for by the signature of CN=trusted,O=mkimg'
tree_is_as_listed "$POINT"
contains 'mounts' "$(mkimg mounts)" 'signature accepted by the kernel'
contains 'mounts' "$(mkimg mounts --json)" '"kernel_signature":true'
said=$(mkimg verify "$POINT" --key /disk/trusted.pub)
contains 'audit' "$said" 'whose signature the kernel has accepted'
contains 'audit' "$said" 'checked against the signature of RSA key'
same 'keys left to the kernel' '' "$(grep " user .*mkimg-" /proc/keys || true)"
# Another mount shares the device, asked for a signature or not.
mkdir second
mkimg mount /disk/trusted.mkimg second --verity kernel
same 'mapped devices' "$DEVICE" "$(mapped_devices)"
mkimg umount second
mkimg umount "$POINT"
nothing_left

# ECDSA by the kernel's own code, too.
mkimg mount /disk/elliptic.mkimg "$POINT" --kernel-signature --cert /disk/elliptic.pem >/run/said
cat /run/said
contains 'mount by ECDSA' "$(cat /run/said)" 'whose signature it has accepted'
tree_is_as_listed "$POINT"
mkimg umount "$POINT"
nothing_left

refused mkimg mount /disk/stranger.mkimg "$POINT" --kernel-signature
contains 'refusal of a stranger' "$(cat /run/said)" "$unknown"
nothing_left
refused mkimg mount "$IMAGE" "$POINT" --kernel-signature --root-hash "$ROOT_HASH" --signature /disk/other.p7s
contains 'refusal of another root hash' "$(cat /run/said)" 'the signature is not over this root hash'
nothing_left
refused mkimg mount "$IMAGE" "$POINT" --verity kernel --root-hash "$ROOT_HASH"
contains 'refusal of a root hash alone' "$(cat /run/said)" 'this kernel maps signed root hashes only'
nothing_left
# From a file it is as good as from the image.
mkimg mount "$IMAGE" "$POINT" --kernel-signature --root-hash "$ROOT_HASH" --signature /disk/trusted.mkimg.p7s
tree_is_as_listed "$POINT"
mkimg umount "$POINT"
nothing_left
