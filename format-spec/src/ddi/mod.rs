//! Disk images as systemd reads them (discoverable disk images, DDI): an image in the partitions of a disk.
//!
//! The image is there unchanged. Its protected area is the data partition, all behind it is the verity partition, and a
//! third partition may hold a PKCS#7 signature of the root hash. Types of partitions say what they are, for which
//! processor; their UUIDs say of which root hash. [`Disk`] finds these partitions, and reads image bytes out of them, be
//! they side by side or not.
//!
//! Source: UAPI group, "Discoverable Partitions Specification"; systemd `src/shared/dissect-image.c` and
//! `src/partition/repart.c`.

mod architecture;
mod plan;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Range;

pub use architecture::{ARCHITECTURES, Architecture, Role};
pub use plan::{DATA_OFFSET, table};
use plan::{id_of, id_of_signature};

use crate::gpt::mbr::{MBR_LEN, check_protective_mbr};
use crate::gpt::{Copies, NO_AUTO, Partition, Table};
use crate::header::{HEADER_LEN, Header};
use crate::verity_signature::{self, VeritySignature};
use crate::{Error, Part, Problem, ReadAt, Result, Sha256, hex};

/// A disk with an image in its partitions.
#[derive(Debug)]
pub struct Disk {
    copies: Copies,
    table: Table,
    file_size: u64,
    architecture: &'static Architecture,
    data: Partition,
    verity: Partition,
    signature: Option<Partition>,
    /// Bytes of the image in the data partition.
    data_len: u64,
    /// Bytes of it in the verity partition.
    tail_len: u64,
}

fn disagree(offset: u64, what: String) -> Error {
    Error::corrupt(Part::PartitionTable, offset, Problem::Disagree(what))
}

impl Disk {
    /// Looks for a partition table, and for the partitions of one image in it; `None` if there is no sign of a table.
    ///
    /// # Errors
    /// [`Error::Io`], or why it cannot be said which bytes are the image: no copy of the table that holds, or not exactly
    /// one data and one verity partition of one architecture. Anything else is what [`Self::problems`] is for.
    pub fn open(io: &(impl ReadAt + ?Sized)) -> Result<Option<Self>> {
        let Some(copies) = Copies::read(io)? else { return Ok(None) };
        let table = match (&copies.primary, &copies.backup) {
            (Ok(table), _) | (Err(_), Ok(table)) => table.clone(),
            (Err(_), Err(_)) => return copies.primary.map(|_| None),
        };
        let Found { architecture, data, verity, signature } = Found::on(&table)?;
        let mut head = [0; HEADER_LEN];
        let (part, offset) = (Part::Header, data.bytes.start);
        io.read_exact_at(&mut head, offset).map_err(|source| Error::Io { part, offset, source })?;
        if head.starts_with(b"verity\0\0") {
            let what = format!(
                "partition {} is of the type of data and begins as a verity partition: types are swapped",
                data.number
            );
            return Err(disagree(table.entry(data.number), what));
        }
        // The header knows both lengths. One that is damaged is for an audit: partitions without padding fit.
        let lengths = Header::from_bytes(&head)
            .ok()
            .map(|header| (header.hash_offset(), header.image_size().saturating_sub(header.hash_offset())));
        let fit = |(of_data, of_tail): &(u64, u64)| *of_data <= data.length() && *of_tail <= verity.length();
        let (data_len, tail_len) = lengths.filter(fit).unwrap_or((data.length(), verity.length()));
        let part = Part::PartitionTable;
        let file_size = io.size().map_err(|source| Error::Io { part, offset: 0, source })?;
        Ok(Some(Self { copies, table, file_size, architecture, data, verity, signature, data_len, tail_len }))
    }

    /// Length of the image in bytes.
    #[must_use]
    pub const fn image_size(&self) -> u64 {
        self.data_len.saturating_add(self.tail_len)
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.table.size
    }

    /// The partition table that was taken.
    #[must_use]
    pub const fn table(&self) -> &Table {
        &self.table
    }

    /// What its partitions are for.
    #[must_use]
    pub const fn architecture(&self) -> &'static Architecture {
        self.architecture
    }

    /// The partition of a role; data and verity are always there.
    #[must_use]
    pub const fn partition(&self, role: Role) -> Option<&Partition> {
        match role {
            Role::Data => Some(&self.data),
            Role::Verity => Some(&self.verity),
            Role::Signature => self.signature.as_ref(),
        }
    }

    /// Fills `buf` with bytes of the image from byte `offset` of it on.
    ///
    /// # Errors
    /// As [`ReadAt::read_exact_at`].
    pub fn read_image(&self, io: &(impl ReadAt + ?Sized), buf: &mut [u8], offset: u64) -> io::Result<()> {
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if offset.saturating_add(length) > self.image_size() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let in_data = self.data_len.saturating_sub(offset).min(length);
        let (data, tail) = buf.split_at_mut(usize::try_from(in_data).unwrap_or_default());
        if !data.is_empty() {
            io.read_exact_at(data, self.data.bytes.start.saturating_add(offset))?;
        }
        if !tail.is_empty() {
            let skipped = offset.saturating_sub(self.data_len);
            io.read_exact_at(tail, self.verity.bytes.start.saturating_add(skipped))?;
        }
        Ok(())
    }

    /// The signature in the signature partition; `None` without one.
    ///
    /// # Errors
    /// [`Error::Io`], or why it is none.
    pub fn signature(&self, io: &(impl ReadAt + ?Sized)) -> Result<Option<VeritySignature>> {
        let Some(partition) = &self.signature else { return Ok(None) };
        let (part, offset, found) = (Part::SignaturePartition, partition.bytes.start, partition.length());
        if found > verity_signature::LENGTH_MAX {
            return Err(Error::field(part, offset, "length of the partition", found, "at most 4 MiB"));
        }
        let mut bytes = vec![0; usize::try_from(found).unwrap_or_default()];
        io.read_exact_at(&mut bytes, offset).map_err(|source| Error::Io { part, offset, source })?;
        let signature = VeritySignature::from_partition(&bytes, offset)?;
        // Others choose UUIDs as they like.
        let derived = id_of_signature(&bytes);
        if partition.id.is_derived() && partition.id != derived {
            let what = format!(
                "UUID of partition {} is {}, what is in it makes it {derived}",
                partition.number, partition.id
            );
            return Err(Error::corrupt(part, offset, Problem::Disagree(what)));
        }
        Ok(Some(signature))
    }

    /// What is wrong around the image, if it is that of `root_hash`. Offsets are those of the disk.
    #[must_use]
    pub fn problems(&self, io: &(impl ReadAt + ?Sized), root_hash: &Sha256) -> Vec<Error> {
        let mut found: Vec<Error> = Vec::new();
        found.extend(self.check_mbr(io).err());
        found.extend(self.check_copies(io).err());
        for (role, partition) in [(Role::Data, &self.data), (Role::Verity, &self.verity)] {
            let at = self.table.entry(partition.number).saturating_add(16);
            if let Some(id) = id_of(root_hash, role).filter(|id| *id != partition.id) {
                let half = if role == Role::Data { "first" } else { "last" };
                found.push(disagree(
                    at,
                    format!(
                        "UUID of partition {} is {}, the {half} half of the root hash is {id}",
                        partition.number, partition.id
                    ),
                ));
            }
        }
        for partition in &self.table.partitions {
            let at = self.table.entry(partition.number);
            if ![Some(&self.data), Some(&self.verity), self.signature.as_ref()].contains(&Some(partition)) {
                found.push(disagree(
                    at,
                    format!(
                        "partition {} of type {} is none of the image, and nothing protects it",
                        partition.number, partition.kind
                    ),
                ));
            } else if partition.attributes & NO_AUTO != 0 {
                let at = at.saturating_add(48);
                found.push(disagree(at, format!("systemd does not look at partition {}", partition.number)));
            }
        }
        match self.signature(io) {
            Ok(Some(signature)) if signature.root_hash != *root_hash => {
                let what = format!(
                    "is of root hash {}, the image has {}",
                    hex(&signature.root_hash),
                    hex(root_hash)
                );
                let offset = self.signature.as_ref().map_or(0, |partition| partition.bytes.start);
                found.push(Error::corrupt(Part::SignaturePartition, offset, Problem::Disagree(what)));
            }
            Ok(_) => {}
            Err(error) => found.push(error),
        }
        found
    }

    fn check_mbr(&self, io: &(impl ReadAt + ?Sized)) -> Result<()> {
        let mut mbr = [0; MBR_LEN];
        let part = Part::ProtectiveMbr;
        io.read_exact_at(&mut mbr, 0).map_err(|source| Error::Io { part, offset: 0, source })?;
        check_protective_mbr(&mbr, self.table.sectors())
    }

    /// A table that is there once, or twice and not the same.
    fn check_copies(&self, io: &(impl ReadAt + ?Sized)) -> Result<()> {
        // Read again for the reason, which is not kept.
        let Some(Copies { primary, backup, .. }) = Copies::read(io)? else { return Ok(()) };
        let (primary, backup) = (primary?, backup?);
        if primary != (Table { array: primary.array, ..backup }) {
            let what = "says other things than the one at the end of the disk";
            return Err(disagree(self.table.sector.bytes(), what.to_owned()));
        }
        Ok(())
    }

    /// Bytes of the disk that belong to nothing, ascending: they must be zero.
    ///
    /// What a broken copy of the table takes is not among them, nor what is in partitions of somebody else.
    #[must_use]
    pub fn gaps(&self) -> Vec<Range<u64>> {
        let table = &self.table;
        let mut used: Vec<Range<u64>> =
            table.partitions.iter().map(|partition| partition.bytes.clone()).collect();
        for (partition, length) in [(&self.data, self.data_len), (&self.verity, self.tail_len)] {
            let bytes = partition.bytes.start..partition.bytes.start.saturating_add(length);
            used.retain(|used| *used != partition.bytes);
            used.push(bytes);
        }
        let header = |at: u64| at..at.saturating_add(table.sector.bytes());
        // Behind the entries, in their last sector, no checksum reaches.
        let array = |copy: &Table| copy.array..copy.array.saturating_add(copy.entries_len());
        used.push(0..u64::try_from(MBR_LEN).unwrap_or_default());
        match &self.copies.primary {
            Ok(primary) => used.extend([header(table.sector.bytes()), array(primary)]),
            Err(_) => used.push(0..table.usable.start),
        }
        match &self.copies.backup {
            Ok(backup) => {
                used.extend([header(table.size.saturating_sub(table.sector.bytes())), array(backup)])
            }
            Err(_) => used.push(table.usable.end..table.size),
        }
        used.sort_by_key(|range| range.start);
        let mut gaps = Vec::new();
        let mut end = 0;
        for range in used.into_iter().chain(std::iter::once(table.size..table.size)) {
            if range.start > end {
                gaps.push(end..range.start);
            }
            end = end.max(range.end);
        }
        gaps
    }

    /// Bytes of the file behind the end of the disk.
    #[must_use]
    pub const fn trailing(&self) -> Range<u64> {
        self.table.size..self.file_size
    }
}

/// The partitions of one image, all for one architecture.
struct Found {
    architecture: &'static Architecture,
    data: Partition,
    verity: Partition,
    signature: Option<Partition>,
}

impl Found {
    fn on(table: &Table) -> Result<Self> {
        let missing = |what: String| disagree(table.array, what);
        let (architecture, data) = find(table, Role::Data)?
            .ok_or_else(|| missing("has no root partition of any architecture".to_owned()))?;
        let of_same = |(other, partition): (&'static Architecture, Partition)| {
            if other == architecture {
                return Ok(partition);
            }
            let what = format!(
                "partition {} is for {}, partition {} for {}",
                partition.number, other.systemd, data.number, architecture.systemd
            );
            Err(disagree(table.entry(partition.number), what))
        };
        let verity = find(table, Role::Verity)?.ok_or_else(|| {
            missing(format!("has a root partition, {}, and no verity partition", data.number))
        })?;
        let verity = of_same(verity)?;
        let signature = find(table, Role::Signature)?.map(of_same).transpose()?;
        Ok(Self { architecture, data, verity, signature })
    }
}

/// The partition of a role with its architecture.
fn find(table: &Table, role: Role) -> Result<Option<(&'static Architecture, Partition)>> {
    let mut found = table.partitions.iter().filter_map(|partition| {
        let is_for = |row: &&Architecture| row.role(partition.kind) == Some(role);
        Some((ARCHITECTURES.iter().find(is_for)?, partition))
    });
    let Some((architecture, partition)) = found.next() else { return Ok(None) };
    if let Some((_, other)) = found.next() {
        let what = format!(
            "partitions {} and {} are both {} partitions, and which of them counts is not said",
            partition.number,
            other.number,
            match role {
                Role::Data => "root",
                Role::Verity => "verity",
                Role::Signature => "signature",
            }
        );
        return Err(disagree(table.entry(other.number), what));
    }
    Ok(Some((architecture, partition.clone())))
}
