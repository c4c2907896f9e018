//! The disk of an image: everything on it follows from the image.

use sha2::Digest as _;

use super::{Architecture, Role};
use crate::Sha256;
use crate::gpt::{Guid, Partition, READ_ONLY, Table};
use crate::header::Header;
use crate::verity::as_uuid;

/// Byte offset of the first partition of the disks that are written: that of everybody else's.
pub const DATA_OFFSET: u64 = 1 << 20;
/// The UUID that a partition of a root hash must have; the one of a signature partition is anybody's choice.
pub(super) fn id_of(root_hash: &Sha256, role: Role) -> Option<Guid> {
    let half = match role {
        Role::Data => root_hash.first_chunk(),
        Role::Verity => root_hash.last_chunk(),
        Role::Signature => None,
    };
    half.copied().map(Guid::from_bytes)
}

/// The UUID of a signature partition with this content.
pub(super) fn id_of_signature(content: &[u8]) -> Guid {
    derived("mkimg signature partition", content)
}

/// A GUID that follows from what it stands for, so that equal images make equal disks.
fn derived(domain: &str, content: &[u8]) -> Guid {
    let digest = sha2::Sha256::new().chain_update(domain).chain_update([0]).chain_update(content).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Guid::from_bytes(as_uuid(bytes))
}

/// The table of a disk with the image of this header and root hash in it, from [`DATA_OFFSET`] on.
///
/// The bytes of the `signature` partition, if there is to be one, follow the image.
#[must_use]
pub fn table(
    architecture: &Architecture,
    header: &Header,
    root_hash: &Sha256,
    signature: Option<&[u8]>,
) -> Table {
    let signature_len = signature.map_or(0, <[u8]>::len);
    let lengths = [
        (Role::Data, header.hash_offset()),
        (Role::Verity, header.image_size().saturating_sub(header.hash_offset())),
        (Role::Signature, u64::try_from(signature_len).unwrap_or(u64::MAX)),
    ];
    let mut start = DATA_OFFSET;
    let mut partitions = Vec::new();
    for (number, (role, length)) in (1..).zip(lengths) {
        let end = start.saturating_add(length);
        if length > 0 {
            let id = id_of(root_hash, role).unwrap_or_else(|| id_of_signature(signature.unwrap_or_default()));
            let name = architecture.partition_name(role);
            let (kind, bytes) = (architecture.kind(role), start..end);
            partitions.push(Partition { number, kind, id, bytes, attributes: READ_ONLY, name });
        }
        start = end;
    }
    Table::new(derived("mkimg disk", root_hash), partitions)
}
