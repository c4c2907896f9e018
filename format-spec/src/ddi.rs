//! Disk images as systemd reads them (discoverable disk images, DDI): an image in the partitions of a disk.
//!
//! The image is there unchanged. Its protected area is the data partition, all behind it is the verity partition, and a
//! third partition may hold a PKCS#7 signature of the root hash. Types of partitions say what they are, for which
//! processor; their UUIDs say of which root hash. [`Disk`] finds these partitions, and reads image bytes out of them, be
//! they side by side or not.
//!
//! Source: UAPI group, "Discoverable Partitions Specification"; systemd `src/shared/dissect-image.c` and
//! `src/partition/repart.c`.

use std::io;
use std::ops::Range;

use sha2::Digest as _;

use crate::gpt::{self, Copies, Guid, MBR_LEN, NO_AUTO, Partition, READ_ONLY, Table};
use crate::header::{HEADER_LEN, Header};
use crate::verity::as_uuid;
use crate::verity_signature::{self, VeritySignature};
use crate::{Error, Part, Problem, ReadAt, Result, Sha256, hex};

/// Byte offset of the first partition of the disks that are written: that of everybody else's.
pub const DATA_OFFSET: u64 = 1 << 20;

/// What a partition of an image is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The protected area, which is the file system.
    Data,
    /// Tree, parity and trailer.
    Verity,
    /// A signature of the root hash.
    Signature,
}

/// A processor that the root partitions of an image are for.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// As OCI images name it (`GOARCH`).
    pub oci: &'static str,
    /// As systemd names it, in names of partitions too.
    pub systemd: &'static str,
    data: Guid,
    verity: Guid,
    signature: Guid,
}

const fn row(
    oci: &'static str,
    systemd: &'static str,
    data: u128,
    verity: u128,
    signature: u128,
) -> Architecture {
    let (data, verity, signature) = (Guid::new(data), Guid::new(verity), Guid::new(signature));
    Architecture { oci, systemd, data, verity, signature }
}

/// As `systemd-id128 show` lists them: root, root-verity and root-verity-sig.
pub static ARCHITECTURES: [Architecture; 16] = [
    row(
        "arm",
        "arm",
        0x69dad710_2ce4_4e3c_b16c_21a1d49abed3,
        0x7386cdf2_203c_47a9_a498_f2ecce45a2d6,
        0x42b0455f_eb11_491d_98d3_56145ba9d037,
    ),
    row(
        "arm64",
        "arm64",
        0xb921b045_1df0_41c3_af44_4c6f280d3fae,
        0xdf3300ce_d69f_4c92_978c_9bfb0f38d820,
        0x6db69de6_29f4_4758_a7a5_962190f00ce3,
    ),
    row(
        "loong64",
        "loongarch64",
        0x77055800_792c_4f94_b39a_98c91b762bb6,
        0xf3393b22_e9af_4613_a948_9d3bfbd0c535,
        0x5afb67eb_ecc8_4f85_ae8e_ac1e7c50e7d0,
    ),
    row(
        "mips",
        "mips",
        0xe9434544_6e2c_47cc_bae2_12d6deafb44c,
        0x7a430799_f711_4c7e_8e5b_1d685bd48607,
        0xbba210a2_9c5d_45ee_9e87_ff2ccbd002d0,
    ),
    row(
        "mipsle",
        "mips-le",
        0x37c58c8a_d913_4156_a25f_48b1b64e07f0,
        0xd7d150d2_2a04_4a33_8f12_16651205ff7b,
        0xc919cc1f_4456_4eff_918c_f75e94525ca5,
    ),
    row(
        "mips64",
        "mips64",
        0xd113af76_80ef_41b4_bdb6_0cff4d3d4a25,
        0x579536f8_6a33_4055_a95a_df2d5e2c42a8,
        0x43ce94d4_0f3d_4999_8250_b9deafd98e6e,
    ),
    row(
        "mips64le",
        "mips64-le",
        0x700bda43_7a34_4507_b179_eeb93d7a7ca3,
        0x16b417f8_3e06_4f57_8dd2_9b5232f41aa6,
        0x904e58ef_5c65_4a31_9c57_6af5fc7c5de7,
    ),
    row(
        "ppc",
        "ppc",
        0x1de3f1ef_fa98_47b5_8dcd_4a860a654d78,
        0x98cfe649_1588_46dc_b2f0_add147424925,
        0x1b31b5aa_add9_463a_b2ed_bd467fc857e7,
    ),
    row(
        "ppc64",
        "ppc64",
        0x912ade1d_a839_4913_8964_a10eee08fbd2,
        0x9225a9a3_3c19_4d89_b4f6_eeff88f17631,
        0xf5e2c20c_45b2_4ffa_bce9_2a60737e1aaf,
    ),
    row(
        "ppc64le",
        "ppc64-le",
        0xc31c45e6_3f39_412e_80fb_4809c4980599,
        0x906bd944_4589_4aae_a4e4_dd983917446a,
        0xd4a236e7_e873_4c07_bf1d_bf6cf7f1c3c6,
    ),
    row(
        "riscv",
        "riscv32",
        0x60d5a7fe_8e7d_435c_b714_3dd8162144e1,
        0xae0253be_1167_4007_ac68_43926c14c5de,
        0x3a112a75_8729_4380_b4cf_764d79934448,
    ),
    row(
        "riscv64",
        "riscv64",
        0x72ec70a6_cf74_40e6_bd49_4bda08e8f224,
        0xb6ed5582_440b_4209_b8da_5ff7c419ea3d,
        0xefe0f087_ea8d_4469_821a_4c2a96a8386a,
    ),
    row(
        "s390",
        "s390",
        0x08a7acea_624c_4a20_91e8_6e0fa67d23f9,
        0x7ac63b47_b25c_463b_8df8_b4a94e6c90e1,
        0x3482388e_4254_435a_a241_766a065f9960,
    ),
    row(
        "s390x",
        "s390x",
        0x5eead9a9_fe09_4a1e_a1d7_520d00531306,
        0xb325bfbe_c7be_4ab8_8357_139e652d2f6b,
        0xc80187a5_73a3_491a_901a_017c3fa953e9,
    ),
    row(
        "386",
        "x86",
        0x44479540_f297_41b2_9af7_d131d5f0458a,
        0xd13c5d3b_b5d1_422a_b29f_9454fdc89d76,
        0x5996fc05_109c_48de_808b_23fa0830b676,
    ),
    row(
        "amd64",
        "x86-64",
        0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709,
        0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5,
        0x41092b05_9fc8_4523_994f_2def0408b176,
    ),
];

impl Architecture {
    /// The architecture that an OCI configuration names.
    #[must_use]
    pub fn by_oci_name(name: &str) -> Option<&'static Self> {
        ARCHITECTURES.iter().find(|architecture| architecture.oci == name)
    }

    fn role(&self, kind: Guid) -> Option<Role> {
        let kinds = [(self.data, Role::Data), (self.verity, Role::Verity), (self.signature, Role::Signature)];
        kinds.into_iter().find_map(|(own, role)| (own == kind).then_some(role))
    }

    const fn kind(&self, role: Role) -> Guid {
        match role {
            Role::Data => self.data,
            Role::Verity => self.verity,
            Role::Signature => self.signature,
        }
    }

    /// The name that partitions get: systemd has no other use for it than to choose the newest of several.
    fn partition_name(&self, role: Role) -> String {
        let suffix = match role {
            Role::Data => "",
            Role::Verity => "-verity",
            Role::Signature => "-verity-sig",
        };
        format!("root-{}{suffix}", self.systemd)
    }
}

/// The UUID that a partition of a root hash must have; the one of a signature partition is anybody's choice.
fn id_of(root_hash: &Sha256, role: Role) -> Option<Guid> {
    let half = match role {
        Role::Data => root_hash.first_chunk(),
        Role::Verity => root_hash.last_chunk(),
        Role::Signature => None,
    };
    half.copied().map(Guid::from_bytes)
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
            let id = id_of(root_hash, role)
                .unwrap_or_else(|| derived("mkimg signature partition", signature.unwrap_or_default()));
            let name = architecture.partition_name(role);
            let (kind, bytes) = (architecture.kind(role), start..end);
            partitions.push(Partition { number, kind, id, bytes, attributes: READ_ONLY, name });
        }
        start = end;
    }
    Table::new(derived("mkimg disk", root_hash), partitions)
}

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
        let [data, verity, signature] =
            [Role::Data, Role::Verity, Role::Signature].map(|role| find(&table, role));
        let array = table.array;
        let (architecture, data) =
            data?.ok_or_else(|| disagree(array, "has no root partition of any architecture".to_owned()))?;
        let (other, verity) = verity?.ok_or_else(|| {
            disagree(array, format!("has a root partition, {}, and no verity partition", data.number))
        })?;
        let signature = signature?;
        for (other, number) in std::iter::once((other, verity.number))
            .chain(signature.iter().map(|(other, partition)| (*other, partition.number)))
        {
            if other != architecture {
                let what = format!(
                    "partition {number} is for {}, partition {} for {}",
                    other.systemd, data.number, architecture.systemd
                );
                return Err(disagree(table.entry(number), what));
            }
        }
        let mut head = [0; HEADER_LEN];
        io.read_exact_at(&mut head, data.bytes.start).map_err(|source| Error::Io {
            part: Part::Header,
            offset: data.bytes.start,
            source,
        })?;
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
        let file_size =
            io.size().map_err(|source| Error::Io { part: Part::PartitionTable, offset: 0, source })?;
        let signature = signature.map(|(_, partition)| partition);
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
        VeritySignature::from_partition(&bytes, offset).map(Some)
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
        gpt::check_protective_mbr(&mbr, self.table.sectors())
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
        let array = |copy: &Table| copy.array..copy.array.saturating_add(copy.array_len());
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
