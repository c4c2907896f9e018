# An image with another root hash than the one asked for is not mounted, whatever checks it.
wrong=$(printf '0%.0s' $(seq 64))
for policy in auto kernel once off; do
    refused mkimg mount "$IMAGE" "$POINT" --verity "$policy" --root-hash "$wrong"
    nothing_left
done
