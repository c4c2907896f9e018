//! A key in the calling thread's own keyring: how data is handed to a kernel interface that takes only a name for it.
//!
//! dm-verity looks up the signature of a root hash by `request_key` as a key of type `user`, in the keyrings of whoever
//! loads the table. The thread's own is seen by nobody else and ends with the thread.

use linux_keyutils::{Key, KeyRing, KeyRingIdentifier};

use crate::error::{Error, Result};

/// A key that is taken back when this is dropped.
#[derive(Debug)]
pub(crate) struct ThreadKey(Key);

impl ThreadKey {
    /// Adds a key of type `user`.
    pub(crate) fn add(name: &str, payload: &[u8]) -> Result<Self> {
        let failed = |error: linux_keyutils::KeyError| Error::Keyring {
            name: name.to_owned(),
            reason: error.to_string(),
        };
        let keyring = KeyRing::from_special_id(KeyRingIdentifier::Thread, true).map_err(failed)?;
        keyring.add_key(name, payload).map(Self).map_err(failed)
    }
}

impl Drop for ThreadKey {
    fn drop(&mut self) {
        // Whatever is left of it ends with the thread.
        let _ = self.0.invalidate();
    }
}
