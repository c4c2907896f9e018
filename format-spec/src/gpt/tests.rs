use super::mbr::{MBR_LEN, check_protective_mbr, protective_mbr};
use super::*;
use crate::{Error, ReadAt};

const ROOT: Guid = Guid::new(0x4f68bce3_e8cd_4db1_96e7_fbcaf984b709);
const VERITY: Guid = Guid::new(0x2c7357ed_ebd2_46d9_aec1_23d437ec2bf5);
const DISK: Guid = Guid::new(0x00112233_4455_6677_8899_aabbccddeeff);

fn table() -> Table {
    let partition = |number, kind, digit, bytes, name: &str| Partition {
        number,
        kind,
        id: Guid::from_bytes([digit; 16]),
        bytes,
        attributes: READ_ONLY,
        name: name.to_owned(),
    };
    let partitions = vec![
        partition(1, ROOT, 0xab, 0x10_0000..0x10_3000, "root-x86-64"),
        partition(2, VERITY, 0xcd, 0x10_3000..0x10_5000, "root-x86-64-verity"),
    ];
    Table::new(DISK, partitions)
}

/// The disk of a table, without anything in its partitions.
fn disk(table: &Table) -> Vec<u8> {
    let mut bytes = table.primary();
    bytes.resize(usize::try_from(table.backup_bytes().start).unwrap(), 0);
    bytes.extend(table.backup());
    bytes
}

fn read(bytes: &[u8]) -> Copies {
    Copies::read(bytes).unwrap().unwrap()
}

/// Bytes of a hexdump, `*` for zeros up to the next multiple of 128.
fn dump(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        match word {
            "*" => bytes.resize(bytes.len().next_multiple_of(128), 0),
            digits => {
                let pairs = digits.as_bytes().chunks_exact(2);
                bytes.extend(
                    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()),
                );
            }
        }
    }
    bytes
}

/// What sfdisk of util-linux 2.38 writes into 1089536 bytes for this script:
///
/// ```text
/// label: gpt
/// label-id: 00112233-4455-6677-8899-AABBCCDDEEFF
/// first-lba: 34
/// 1 : start=2048, size=24, type=4f68bce3-e8cd-4db1-96e7-fbcaf984b709,
///     uuid=ABABABAB-ABAB-ABAB-ABAB-ABABABABABAB, name="root-x86-64", attrs="GUID:60"
/// 2 : start=2072, size=16, type=2c7357ed-ebd2-46d9-aec1-23d437ec2bf5,
///     uuid=CDCDCDCD-CDCD-CDCD-CDCD-CDCDCDCDCDCD, name="root-x86-64-verity", attrs="GUID:60"
/// ```
#[test]
fn bytes_are_those_of_sfdisk() {
    let bytes = disk(&table());
    assert_eq!(bytes.len(), 1_089_536);
    let mbr = dump("0000 0200 eeff ffff 0100 0000 4f08 0000");
    assert_eq!(bytes[446..462], mbr);
    assert_eq!(bytes[510..512], [0x55, 0xaa]);
    let primary = dump(
        "4546 4920 5041 5254 0000 0100 5c00 0000
         6123 1cc1 0000 0000 0100 0000 0000 0000
         4f08 0000 0000 0000 2200 0000 0000 0000
         2e08 0000 0000 0000 3322 1100 5544 7766
         8899 aabb ccdd eeff 0200 0000 0000 0000
         8000 0000 8000 0000 d303 4e56 0000 0000 *",
    );
    assert_eq!(bytes[512..640], primary);
    let array = dump(
        "e3bc 684f cde8 b14d 96e7 fbca f984 b709
         abab abab abab abab abab abab abab abab
         0008 0000 0000 0000 1708 0000 0000 0000
         0000 0000 0000 0010 7200 6f00 6f00 7400
         2d00 7800 3800 3600 2d00 3600 3400 0000 *
         ed57 732c d2eb d946 aec1 23d4 37ec 2bf5
         cdcd cdcd cdcd cdcd cdcd cdcd cdcd cdcd
         1808 0000 0000 0000 2708 0000 0000 0000
         0000 0000 0000 0010 7200 6f00 6f00 7400
         2d00 7800 3800 3600 2d00 3600 3400 2d00
         7600 6500 7200 6900 7400 7900 0000 0000 *",
    );
    assert_eq!(bytes[1024..1280], array);
    assert_eq!(bytes[bytes.len() - 33 * 512..][..256], array);
    let backup = dump(
        "4546 4920 5041 5254 0000 0100 5c00 0000
         3798 c54f 0000 0000 4f08 0000 0000 0000
         0100 0000 0000 0000 2200 0000 0000 0000
         2e08 0000 0000 0000 3322 1100 5544 7766
         8899 aabb ccdd eeff 2f08 0000 0000 0000
         8000 0000 8000 0000 d303 4e56 0000 0000 *",
    );
    assert_eq!(bytes[bytes.len() - 512..][..128], backup);
    assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), {
        let nonzero = |bytes: &[u8]| bytes.iter().filter(|byte| **byte != 0).count();
        nonzero(&mbr) + 2 + nonzero(&primary) + nonzero(&backup) + 2 * nonzero(&array)
    });
}

#[test]
fn both_copies_survive_a_round_trip() {
    let small = table();
    let partitions = small.partitions.clone();
    let large = Table {
        sector: Sector::Of4096,
        size: 0x11_0000,
        array: 8192,
        usable: 6 * 4096..0x10_b000,
        entries: 128,
        ..Table::new(DISK, partitions)
    };
    for table in [small, large] {
        let bytes = disk(&table);
        let Copies { sector, primary, backup } = read(&bytes);
        assert_eq!(sector, table.sector);
        assert_eq!(primary.unwrap(), table);
        let backup = backup.unwrap();
        assert_eq!(backup.array, table.backup_bytes().start);
        assert_eq!(Table { array: table.array, ..backup }, table);
        check_protective_mbr(bytes.first_chunk().unwrap(), table.sectors()).unwrap();
    }
    assert_eq!(ROOT.to_string(), "4f68bce3-e8cd-4db1-96e7-fbcaf984b709");
}

#[test]
fn every_changed_byte_is_found() {
    let table = table();
    let mut bytes = disk(&table);
    let (primary, backup) = (table.primary_bytes(), table.backup_bytes());
    // All that says anything, and of the unused entries, which one checksum covers, some.
    let matters = |at: &u64| *at < 1280 || at.is_multiple_of(97) || *at >= backup.end - 512;
    for at in (primary.start..primary.end).chain(backup.start..backup.end).filter(matters) {
        let place = usize::try_from(at).unwrap();
        bytes[place] ^= 0x20;
        let mbr: [u8; MBR_LEN] = *bytes.first_chunk().unwrap();
        let copies = read(&bytes);
        let broken = [
            check_protective_mbr(&mbr, table.sectors()).is_err(),
            copies.primary.is_err(),
            copies.backup.is_err(),
        ];
        let expected = [at < 512, (512..primary.end).contains(&at), at >= backup.start];
        assert_eq!(broken, expected, "byte {at}");
        bytes[place] ^= 0x20;
    }
}

/// Writes bytes at an offset.
type Change<'a> = (usize, &'a [u8]);

/// The error of the primary copy of a disk with changes, whose checksums are then made right but for those in the way.
fn broken(changes: &[Change<'_>], mend: bool) -> String {
    let mut bytes = disk(&table());
    for (at, new) in changes {
        bytes[*at..*at + new.len()].copy_from_slice(new);
    }
    if mend {
        let count = u32::from_le_bytes(*bytes[592..].first_chunk().unwrap());
        let array = &bytes[1024..][..usize::try_from(count).unwrap().min(128) * 128];
        let crc = crc32fast::hash(array);
        bytes[600..604].copy_from_slice(&crc.to_le_bytes());
        bytes[528..532].fill(0);
        let crc = crc32fast::hash(&bytes[512..604]);
        bytes[528..532].copy_from_slice(&crc.to_le_bytes());
    }
    read(&bytes).primary.unwrap_err().to_string()
}

#[test]
fn what_breaks_a_rule_is_refused_with_the_reason() {
    let lba = |lba: u64| lba.to_le_bytes();
    for (changes, expected) in [
        (&[(512, &b"x"[..])][..], "512: wrong magic number"),
        (&[(520, &[1])], "520: revision is 65537, must be 1.0 (65536)"),
        (&[(524, &[93])], "524: header_size is 93, must be 92"),
        (&[(532, &[1])], "532: reserved is 1, must be 0"),
        (&[(536, &[2])], "536: my_lba is 2, must be the sector that it is in"),
        (&[(544, &lba(1))], "544: alternate_lba is 1, must be that of the other header"),
        (&[(544, &lba(2128))], "544: the disk is truncated: it has 1089536 bytes of 1090048"),
        (&[(544, &lba(u64::MAX))], "544: the disk is truncated"),
        (&[(552, &lba(2095))], "552: first_usable_lba is 2095, must be at most last_usable_lba"),
        (&[(560, &lba(2127))], "560: last_usable_lba is 2127, must be below the backup header"),
        (&[(560, &lba(u64::MAX))], "560: last_usable_lba is 18446744073709551615, must be below"),
        (&[(584, &lba(1))], "584: entries_lba is 1, must be such that the array is between"),
        (&[(584, &lba(3))], "584: entries_lba is 3, must be such that the array is between"),
        (&[(584, &lba(u64::MAX))], "584: entries_lba is 18446744073709551615, must be such"),
        (&[(592, &[0; 4])], "592: entry_count is 0, must be from 1 to 1024"),
        (&[(592, &[0xff; 4])], "592: entry_count is 4294967295, must be from 1 to 1024"),
        (&[(592, &[0x81, 0, 0, 0])], "584: entries_lba is 2, must be such that the array is between"),
        (&[(596, &[0, 1])], "596: entry_size is 256, must be 128"),
        (&[(604, &[7])], "604: a byte behind the header is 7, must be 0"),
        (&[(1024, &[0; 16])], "1024: entry 1 has no type, but is not zero"),
        (&[(1040, &[0; 16])], "1040: UUID of partition 1 is zero"),
        (&[(1168, &[0xab; 16])], "1168: partitions 1 and 2 have the same UUID"),
        (&[(1056, &lba(2072))], "1064: last_lba is 2071, must be at least first_lba"),
        (
            &[(1056, &lba(33))],
            "1056: partition 1 is at 16896 .. 1060864, partitions may be at 17408 .. 1072640",
        ),
        (&[(1192, &lba(2095))], "1184: partition 2 is at 1060864 .. 1073152, partitions may be at"),
        (&[(1192, &lba(u64::MAX))], "1184: partition 2 is at 1060864 .. 18446744073709551615, partitions"),
        (&[(1064, &lba(2072))], "1152: partition 2 begins at 1060864, but partition 1 ends at 1061376"),
        (&[(1080, &[0, 0xd8])], "1080: name of partition 1 is no UTF-16 with zeros behind it"),
        (&[(1150, &[b'x', 0])], "1080: name of partition 1 is no UTF-16 with zeros behind it"),
    ] {
        let error = broken(changes, true);
        assert!(error.starts_with(&format!("partition table at byte {expected}")), "{error}: {expected}");
    }
    assert!(broken(&[(1100, &[1])], false).contains("byte 600: checksum is 564e03d3, computed"));
    assert!(broken(&[(570, &[1])], false).contains("byte 528: checksum is c11c2361, computed"));
}

#[test]
fn one_copy_is_enough_to_find_the_other() {
    let good = disk(&table());
    let mut bytes = good.clone();
    bytes[512..1024].fill(0);
    let copies = read(&bytes);
    assert!(copies.primary.is_err() && copies.backup.is_ok());
    // A disk that was made longer.
    bytes.clone_from(&good);
    bytes.resize(good.len() + 10_000, 0);
    let copies = read(&bytes);
    assert_eq!(copies.primary.unwrap().size, 1_089_536);
    assert!(copies.backup.is_ok());
    for bytes in [vec![], vec![0; 511], vec![0; 100_000], good[..515].to_vec()] {
        assert!(Copies::read(&bytes).unwrap().is_none(), "{} bytes", bytes.len());
    }
    let copies = read(&good[..520]);
    assert!(matches!(copies.primary, Err(Error::Io { .. })) && copies.backup.is_err());
}

#[test]
fn an_array_that_is_not_there_takes_no_more_memory_than_entries_can() {
    /// Headers, and nothing between them.
    struct Hollow(Vec<u8>);
    impl ReadAt for Hollow {
        fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> std::io::Result<()> {
            assert!(buf.len() <= 128 << 10, "{} bytes at once", buf.len());
            self.0.read_exact_at(buf, offset)
        }
        fn size(&self) -> std::io::Result<u64> {
            Ok(u64::MAX)
        }
    }
    let mut bytes = disk(&table());
    for (at, value) in [(544, u64::MAX >> 10), (552, u64::MAX >> 12), (560, u64::MAX >> 11)] {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes[592..596].copy_from_slice(&1024_u32.to_le_bytes());
    bytes[528..532].fill(0);
    let crc = crc32fast::hash(&bytes[512..604]);
    bytes[528..532].copy_from_slice(&crc.to_le_bytes());
    let copies = Copies::read(&Hollow(bytes)).unwrap().unwrap();
    assert!(copies.primary.unwrap_err().to_string().contains("checksum"));
}

#[test]
fn a_protective_mbr_protects_and_does_nothing_else() {
    let good = protective_mbr(2128);
    check_protective_mbr(&good, 2128).unwrap();
    for (at, byte, expected) in [
        (510, 0, "510: has no signature 55aa"),
        (450, 0x83, "450: first record is not of type ee, which protects the disk"),
        (446, 0x80, "446: first record is bootable"),
        (448, 1, "448: first record is not from cylinder 0"),
        (454, 2, "454: first record does not begin with sector 1"),
        (458, 9, "458: first record is not as long as the disk"),
        (0, 0xeb, "0: bytes in front of the records are not zero"),
        (466, 0x83, "466: there are more records than the one that protects the disk"),
    ] {
        let mut mbr = good;
        mbr[at] = byte;
        let error = check_protective_mbr(&mbr, 2128).unwrap_err().to_string();
        assert!(error.starts_with(&format!("protective MBR at byte {expected}")), "{error}: {expected}");
    }
    // A disk of 2 TiB and more has no length there.
    assert_eq!(protective_mbr(1 << 33)[458..462], [0xff; 4]);
}
