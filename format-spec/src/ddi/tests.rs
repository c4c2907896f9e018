use super::*;
use crate::gpt::{Guid, READ_ONLY};

const ROOT_HASH: Sha256 = {
    let mut hash = [0xab; 32];
    hash[31] = 0xcd;
    hash
};

const HEADER: Header = Header { data_blocks: 6, meta_block: 4, seal_block: 5, fec_blocks: 0, fec_roots: 0 };

/// A UUID of version 4, as others choose them.
const RANDOM: Guid = Guid::new(0x2d1e0b54_5b1c_4f60_8e8a_0123456789ab);

fn architecture() -> &'static Architecture {
    Architecture::by_oci_name("amd64").unwrap()
}

fn signature() -> VeritySignature {
    VeritySignature { root_hash: ROOT_HASH, pkcs7: vec![7; 300], fingerprint: None }
}

/// Something that has a header and a verity superblock where an image has them; each other block is of its number.
fn image() -> Vec<u8> {
    let mut image = vec![0; usize::try_from(HEADER.image_size()).unwrap()];
    for (block, bytes) in image.chunks_mut(4096).enumerate() {
        bytes.fill(u8::try_from(block).unwrap());
    }
    image[..HEADER_LEN].copy_from_slice(&HEADER.to_bytes());
    image[6 * 4096..][..8].copy_from_slice(b"verity\0\0");
    image
}

/// The disk of a table: partitions hold what their types say, as far as it goes.
fn disk(table: &Table) -> Vec<u8> {
    let mut bytes = table.primary();
    bytes.resize(usize::try_from(table.size).unwrap(), 0);
    let (image, signature) = (image(), signature().to_partition());
    for partition in &table.partitions {
        let content = match ARCHITECTURES.iter().find_map(|row| row.role(partition.kind)) {
            Some(Role::Data) => &image[..6 * 4096],
            Some(Role::Verity) => &image[6 * 4096..],
            Some(Role::Signature) => &signature,
            None => b"other",
        };
        let at = usize::try_from(partition.bytes.start).unwrap();
        bytes[at..at + content.len()].copy_from_slice(content);
    }
    let backup = table.backup();
    let at = bytes.len() - backup.len();
    bytes[at..].copy_from_slice(&backup);
    bytes
}

fn planned() -> Table {
    table(architecture(), &HEADER, &ROOT_HASH, Some(&signature().to_partition()))
}

/// The planned table with changes.
fn changed(change: impl FnOnce(&mut Vec<Partition>)) -> Table {
    let Table { disk, mut partitions, .. } = planned();
    change(&mut partitions);
    Table::new(disk, partitions)
}

fn open(bytes: &[u8]) -> Disk {
    Disk::open(bytes).unwrap().unwrap()
}

fn problems(bytes: &[u8]) -> Vec<String> {
    open(bytes).problems(bytes, &ROOT_HASH).iter().map(ToString::to_string).collect()
}

/// Every byte of the image through the disk, in pieces that cross the border of the partitions.
fn assert_reads_the_image(bytes: &[u8]) {
    let (disk, image) = (open(bytes), image());
    assert_eq!(disk.image_size(), HEADER.image_size());
    for length in [1, 4096, 5000, image.len()] {
        for (at, expected) in (0_u64..).step_by(length).zip(image.chunks(length)) {
            let mut found = vec![0; expected.len()];
            disk.read_image(bytes, &mut found, at).unwrap();
            assert!(found == expected, "{length} bytes from {at}");
        }
    }
    let end = disk.read_image(bytes, &mut [0; 2], HEADER.image_size() - 1).unwrap_err();
    assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn the_disk_of_an_image_follows_from_it() {
    let table = planned();
    let found: Vec<_> = table
        .partitions
        .iter()
        .map(|partition| (partition.id.to_string(), partition.bytes.clone(), partition.name.as_str()))
        .collect();
    let half = "abababab-abab-abab-abab-abababababab".to_owned();
    let last = "abababab-abab-abab-abab-ababababab".to_owned() + "cd";
    let verity = 0x10_6000..0x10_9000;
    assert_eq!(found[0], (half, 0x10_0000..0x10_6000, "root-x86-64"));
    assert_eq!(found[1], (last, verity, "root-x86-64-verity"));
    assert_eq!((found[2].1.clone(), found[2].2), (0x10_9000..0x10_a000, "root-x86-64-verity-sig"));
    assert!(table.partitions.iter().all(|partition| partition.attributes == READ_ONLY));
    assert_eq!(table, planned());
    // What is not bound to the root hash is bound to its content.
    let other = VeritySignature { pkcs7: vec![8; 300], ..signature() }.to_partition();
    let other = super::table(architecture(), &HEADER, &ROOT_HASH, Some(&other));
    assert_eq!((other.disk, &other.partitions[..2]), (table.disk, &table.partitions[..2]));
    assert_ne!(other.partitions[2].id, table.partitions[2].id);
    assert_ne!(super::table(architecture(), &HEADER, &[1; 32], None).disk, table.disk);
    assert_eq!(super::table(architecture(), &HEADER, &ROOT_HASH, None).partitions.len(), 2);

    let bytes = disk(&table);
    assert_eq!(problems(&bytes), <[&str; 0]>::default());
    assert_eq!(open(&bytes).gaps(), [0x4400..0x10_0000, 0x10_a000..table.backup_bytes().start]);
    assert!(open(&bytes).trailing().is_empty());
    assert_eq!(open(&bytes).signature(&bytes).unwrap(), Some(signature()));
    assert_reads_the_image(&bytes);
}

#[test]
fn partitions_need_not_be_side_by_side_nor_fit() {
    // As systemd-repart may make them: in another order, longer than the image, with room between them.
    let table = changed(|partitions| {
        partitions[0].bytes = 0x20_0000..0x28_0000;
        partitions[1].bytes = 0x10_8000..0x18_0000;
        partitions[2].bytes = 0x30_0000..0x30_4000;
        partitions[2].id = RANDOM;
    });
    let bytes = disk(&table);
    assert_reads_the_image(&bytes);
    assert_eq!(problems(&bytes), <[&str; 0]>::default());
    let end = table.backup_bytes().start;
    assert_eq!(
        open(&bytes).gaps(),
        [0x4400..0x10_8000, 0x10_b000..0x20_0000, 0x20_6000..0x30_0000, 0x30_4000..end]
    );
    // With a header that is damaged the partitions are what there is.
    let mut damaged = bytes.clone();
    damaged[0x20_0000 + 20] ^= 1;
    assert_eq!(open(&damaged).image_size(), 0x8_0000 + 0x7_8000);
    assert_eq!(open(&damaged).gaps().len(), 4);
}

#[test]
fn architectures_are_told_apart() {
    let kinds = |row: &Architecture| [Role::Data, Role::Verity, Role::Signature].map(|role| row.kind(role));
    let all: std::collections::HashSet<Guid> = ARCHITECTURES.iter().flat_map(kinds).collect();
    assert_eq!(all.len(), 3 * ARCHITECTURES.len());
    for row in &ARCHITECTURES {
        assert_eq!(Architecture::by_oci_name(row.oci), Some(row));
        let table = table(row, &HEADER, &ROOT_HASH, None);
        assert_eq!(open(&disk(&table)).architecture(), row);
    }
    assert_eq!(Architecture::by_oci_name("x86-64"), None);
}

#[test]
fn a_disk_on_which_no_image_is_found_is_refused() {
    let arm = Architecture::by_oci_name("arm64").unwrap();
    type Change<'a> = &'a dyn Fn(&mut Vec<Partition>);
    let cases: [(Change<'_>, &str); 8] = [
        (&|partitions| drop(partitions.remove(0)), "byte 1024: has no root partition of any architecture"),
        (
            &|partitions| drop(partitions.remove(1)),
            "byte 1024: has a root partition, 1, and no verity partition",
        ),
        (
            &|partitions| {
                let (data, verity) = (partitions[0].kind, partitions[1].kind);
                (partitions[0].kind, partitions[1].kind) = (verity, data);
            },
            "byte 1152: partition 2 is of the type of data and begins as a verity partition: types are swapped",
        ),
        (
            &|partitions| partitions[1].kind = arm.kind(Role::Verity),
            "byte 1152: partition 2 is for arm64, partition 1 for x86-64",
        ),
        (
            &|partitions| partitions[2].kind = arm.kind(Role::Signature),
            "byte 1280: partition 3 is for arm64, partition 1 for x86-64",
        ),
        (
            &|partitions| partitions[2].kind = partitions[0].kind,
            "byte 1280: partitions 1 and 3 are both root partitions",
        ),
        (
            &|partitions| partitions[2].kind = partitions[1].kind,
            "byte 1280: partitions 2 and 3 are both verity partitions",
        ),
        (
            &|partitions| partitions[2].kind = arm.kind(Role::Data),
            "byte 1280: partitions 1 and 3 are both root partitions",
        ),
    ];
    for (change, expected) in cases {
        let table = changed(change);
        let mut bytes = disk(&planned());
        bytes[..table.primary().len()].copy_from_slice(&Table { size: planned().size, ..table }.primary());
        let error = Disk::open(&bytes).map(|_| ()).unwrap_err().to_string();
        assert!(error.starts_with("partition table at ") && error.contains(expected), "{error}: {expected}");
    }
    let mut bytes = disk(&planned());
    bytes[600] ^= 1;
    let at = bytes.len() - 512 + 88;
    bytes[at] ^= 1;
    let error = Disk::open(&bytes).map(|_| ()).unwrap_err().to_string();
    assert!(error.starts_with("partition table at byte 528: checksum is "), "{error}");
    assert!(Disk::open(&image()).unwrap().is_none());
}

/// Two entries do not fill their sector, and no checksum reaches behind them.
#[test]
fn what_follows_few_entries_is_a_gap() {
    let mut table = planned();
    table.entries = 3;
    let bytes = disk(&table);
    let gaps = open(&bytes).gaps();
    let behind = 1024 + 3 * 128;
    assert!(gaps.iter().any(|gap| gap.contains(&behind)), "{gaps:?}");
    assert!(gaps.iter().any(|gap| gap.contains(&(table.size - 600))), "{gaps:?}");
}

#[test]
fn what_is_wrong_around_an_image_is_told() {
    let table_of = |change: &dyn Fn(&mut Vec<Partition>)| disk(&changed(change));
    let bytes_of = |at: usize, new: &[u8]| {
        let mut bytes = disk(&planned());
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    let of_other = VeritySignature { root_hash: [1; 32], ..signature() }.to_partition();
    let mut other_signature = table_of(&|partitions| partitions[2].id = RANDOM);
    other_signature[0x10_9000..0x10_a000].copy_from_slice(&of_other);
    let last_header = disk(&planned()).len() - 512;
    let other = changed(|partitions| partitions[0].name.push('x')).primary();
    for (bytes, expected) in [
        (bytes_of(450, &[7]), "protective MBR at byte 450: first record is not of type ee"),
        (bytes_of(512, b"x"), "partition table at byte 512: wrong magic number"),
        (bytes_of(last_header, b"x"), "wrong magic number"),
        (bytes_of(0, &other), "byte 512: says other things than the one at the end of the disk"),
        (
            table_of(&|partitions| partitions[0].id = Guid::new(7)),
            "byte 1040: UUID of partition 1 is 00000000-0000-0000-0000-000000000007, the first half of the root \
             hash is abababab-abab-abab-abab-abababababab",
        ),
        (
            table_of(&|partitions| partitions[1].id = Guid::new(7)),
            "byte 1168: UUID of partition 2 is 00000000-0000-0000-0000-000000000007, the last half of the root \
             hash is abababab-abab-abab-abab-ababababab",
        ),
        (
            table_of(&|partitions| partitions[1].attributes |= NO_AUTO),
            "byte 1200: systemd does not look at partition 2",
        ),
        (
            table_of(&|partitions| partitions[2].kind = Guid::new(7)),
            "byte 1280: partition 3 of type 00000000-0000-0000-0000-000000000007 is none of the image",
        ),
        (other_signature, "signature partition at byte 1085440: is of root hash 0101"),
        (bytes_of(0x10_9000, &of_other), "byte 1085440: UUID of partition 3 is 88584767"),
        (bytes_of(0x10_9ffe, b"x"), "signature partition at byte 1089534: bytes behind the text are not NUL"),
    ] {
        let found = problems(&bytes);
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}: {expected}");
    }
    let large = table_of(&|partitions| partitions[2].bytes.end = partitions[2].bytes.start + (4 << 20) + 512);
    assert!(problems(&large)[0].contains("length of the partition is 4194816, must be at most 4 MiB"));
    let mut trailing = disk(&planned());
    trailing.extend_from_slice(b"abc");
    assert_eq!(problems(&trailing), <[&str; 0]>::default());
    let size = planned().size;
    assert_eq!(open(&trailing).trailing(), size..size + 3);
}
