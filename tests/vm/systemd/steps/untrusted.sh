# A signature that none of the certificates has made, or that is over something else, opens nothing, whoever asks.
trust nobody
refuses 'Failed to' dissect /disk/app.raw
refuses 'Failed to' nspawn /disk/app.raw
# Not even for who knows the root hash.
refuses "$NO_ROOT" service /disk/app.raw -p RootHash="$ROOT_HASH"

trust stranger
app_said 'for who trusts the stranger' "$(service /disk/app.stranger.raw)"
trust trusted
refuses "$NO_ROOT" service /disk/app.stranger.raw

# The right root hash with a signature over another one.
cp /disk/app.raw other.raw
dd if=/disk/other.json of=other.raw bs=512 seek=$((SIGNATURE_START / 512)) conv=notrunc 2>/dev/null
refuses "$NO_ROOT" service "$PWD/other.raw"
