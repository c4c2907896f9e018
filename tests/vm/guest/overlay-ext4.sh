# A writable overlay over dm-verity, with its changes on ext4.
overlay_takes_changes "$PWD"
