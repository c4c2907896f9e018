# A writable overlay over dm-verity, with its changes in memory.
mkdir "/tmp/$STEP"
overlay_takes_changes "/tmp/$STEP"
