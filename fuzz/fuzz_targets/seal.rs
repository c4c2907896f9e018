//! Header, trailer, statement, seal and detached seal, each out of any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mkimg_format::detached::{self, Sealed};
use mkimg_format::header::{HEADER_LEN, Header};
use mkimg_format::seal::{DOCUMENT_MAX, Seal, Section, Statement, Table};
use mkimg_format::trailer::Trailer;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Error, ReadAt};
use mkimg_fuzz::{assert_one_line, flags, image, patch};

/// The flags: a mode in the lowest bits, and whether to mend checksums.
const MEND: u8 = 0x80;

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    let mend = flags & MEND != 0;
    match flags & 7 {
        0 => header(input, mend),
        1 => trailer(input, mend),
        2 => statement(input),
        3 => head(input, mend),
        4 => lengths(input),
        _ => patched(input, mend),
    }
});

fn block_of(input: &[u8]) -> [u8; BLOCK_LEN] {
    let mut block = [0; BLOCK_LEN];
    for (to, from) in block.iter_mut().zip(input) {
        *to = *from;
    }
    block
}

/// Whatever is accepted has one form only, and adds up.
fn header(input: &[u8], mend: bool) {
    let mut bytes = [0; HEADER_LEN];
    bytes.copy_from_slice(&block_of(input)[..HEADER_LEN]);
    if mend {
        image::mend_crc(&mut bytes, HEADER_LEN);
    }
    match Header::from_bytes(&bytes) {
        Ok(header) => {
            assert_eq!(header.to_bytes(), bytes, "a header in two forms");
            assert!(1 <= header.meta_block && header.meta_block < header.seal_block);
            assert!(header.seal_block < header.data_blocks);
            assert_eq!(header.hash_offset(), header.data_blocks * BLOCK_SIZE);
            assert_eq!(header.image_size(), header.trailer_offset() + BLOCK_SIZE);
        }
        Err(error) => assert_one_line(&error),
    }
}

fn trailer(input: &[u8], mend: bool) {
    let mut block = block_of(input);
    if mend {
        image::mend_crc(&mut block, BLOCK_LEN);
    }
    match Trailer::from_block(&block, 4096) {
        Ok(trailer) => assert!(*trailer.to_block() == block, "a trailer in two forms"),
        Err(error) => assert_one_line(&error),
    }
    assert_eq!(Trailer::read(&block[..]).is_ok(), Trailer::from_block(&block, 0).is_ok());
}

fn statement(input: &[u8]) {
    match Statement::from_json(input) {
        Ok(statement) => {
            assert_eq!(statement.to_json(), input, "a statement in two forms");
            assert_eq!(Statement::from_json(&statement.to_json()).as_ref(), Ok(&statement));
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// A detached seal answers for its image or not at all.
fn head(input: &[u8], mend: bool) {
    let mut bytes = input.to_vec();
    if mend {
        image::mend_crc(&mut bytes, BLOCK_LEN);
        if let Some(image) = bytes.get_mut(BLOCK_LEN..) {
            image::mend_crc(image, HEADER_LEN);
        }
    }
    match Sealed::open(&bytes[..]) {
        Ok(sealed) => answers(&sealed, &bytes),
        Err(error) => assert_one_line(&error),
    }
}

fn answers(sealed: &Sealed<&[u8]>, file: &[u8]) {
    if sealed.disk().is_some() {
        // That is for the target `disk`.
        return;
    }
    if !sealed.is_detached() {
        assert!(!file.starts_with(&detached::MAGIC));
        assert_eq!(sealed.size().expect("bytes in memory"), file.len() as u64);
        return;
    }
    let header = Header::read(sealed).expect("a detached seal has a header");
    assert!(*detached::head(&header) == block_of(file), "a head in two forms");
    let cut = BLOCK_SIZE..header.meta_block * BLOCK_SIZE;
    let size = sealed.size().expect("bytes in memory");
    assert_eq!(size, file.len() as u64 - BLOCK_SIZE + (cut.end - cut.start));
    let mut byte = [0];
    for offset in [0, 4095, 4096, cut.end.saturating_sub(1), cut.end, size.saturating_sub(1), size, u64::MAX]
    {
        let read = sealed.read_exact_at(&mut byte, offset);
        let stored = if offset < cut.start { offset } else { offset.wrapping_sub(cut.end - cut.start) };
        // What is cut off inside block 0 or the tail is missing as well.
        let held = stored.checked_add(BLOCK_SIZE).is_some_and(|at| at < file.len() as u64);
        let there = !cut.contains(&offset) && held;
        assert_eq!(read.is_ok(), there, "byte {offset} of {size}, cut {cut:?}");
        if there {
            assert_eq!(byte[0], file[usize::try_from(stored + BLOCK_SIZE).expect("64 bits")]);
        }
    }
    // Across the cut nothing can be read.
    assert!(cut.is_empty() || sealed.read_exact_at(&mut [0; 2], cut.start - 1).is_err());
}

/// A seal of any section lengths over any bytes: 2 bytes of length for each of the sections, then content.
fn lengths(input: &[u8]) {
    let Some((lengths, content)) = input.split_first_chunk::<16>() else { return };
    let length = |section: Section| {
        let at = (section as usize - 1) * 2;
        u64::from(u16::from_le_bytes([lengths[at], lengths[at + 1]])) * section.record_len().min(17)
    };
    let table = Table::plan(2, length);
    let header =
        Header { data_blocks: table.end_block(), meta_block: 1, seal_block: 2, fec_blocks: 0, fec_roots: 0 };
    let mut bytes = vec![0; 2 * BLOCK_LEN];
    bytes.extend_from_slice(&table.to_block()[..]);
    bytes.extend_from_slice(content);
    // Sometimes too short for what it says.
    if content.len() % 3 != 0 {
        bytes.resize(usize::try_from(header.hash_offset()).expect("64 bits"), 0xa5);
    }
    let whole = Section::ALL.iter().all(|section| length(*section).is_multiple_of(section.record_len()));
    match Table::read(&bytes, &header) {
        Ok(read) => {
            assert!(whole && read == table, "a table in two forms");
            records(&bytes, &header);
        }
        Err(error) => assert!(!whole, "{error}"),
    }
}

/// A sound image with changes in its seal.
fn patched(input: &[u8], mend: bool) {
    let (sample, mut bytes) = patch::apply(input);
    let sound = bytes == sample.bytes;
    if mend {
        image::mend_block0(&mut bytes);
    }
    match Header::read(&bytes) {
        Ok(header) => records(&bytes, &header),
        Err(error) => assert!(!sound, "{error}"),
    }
}

/// Every way into the records, and that the ways agree.
fn records(bytes: &[u8], header: &Header) {
    let seal = match Seal::open(bytes, header) {
        Ok(seal) => seal,
        Err(error) => return assert_one_line(&error),
    };
    let mut next = header.seal_block * BLOCK_SIZE + BLOCK_SIZE;
    for place in seal.table().places() {
        assert_eq!(place.offset, next, "sections are not side by side");
        assert_eq!(place.records() * place.section.record_len(), place.length);
        next += place.length.next_multiple_of(BLOCK_SIZE);
    }
    assert_eq!(next, header.hash_offset(), "the seal does not end the protected area");

    macro_rules! check {
        ($records:expr) => {{
            let len = $records.len();
            assert_eq!($records.is_empty(), len == 0);
            let mut count = 0;
            for (index, record) in (0_u64..).zip($records) {
                count += 1;
                match record {
                    Ok(record) => assert_eq!($records.get(index).expect("was read before"), Some(record)),
                    Err(error) => short(&error),
                }
            }
            assert!(count <= len, "{count} of {len} records");
            assert!(matches!($records.get(len), Ok(None)) && matches!($records.get(u64::MAX), Ok(None)));
        }};
    }
    check!(seal.contents());
    check!(seal.inodes());
    check!(seal.layers());
    check!(seal.deleted());

    for section in Section::ALL {
        match seal.document(section) {
            Ok(None) => assert_eq!(seal.table().place(section).length, 0),
            Ok(Some(document)) => {
                assert_eq!(document.len() as u64, seal.table().place(section).length);
                assert!(document.len() as u64 <= DOCUMENT_MAX);
            }
            Err(error) => assert_one_line(&error),
        }
    }
    match seal.statement() {
        Ok(statement) => {
            assert_eq!(Some(statement.to_json()), seal.document(Section::Statement).ok().flatten());
        }
        Err(error) => assert_one_line(&error),
    }
    for record in seal.deleted().flatten() {
        match seal.deleted_path(&record) {
            Ok(path) => assert_eq!(path.len() as u64, u64::from(record.path_len.get())),
            Err(error) => assert_one_line(&error),
        }
    }
    let numbers: Vec<u64> = seal.inodes().flatten().map(|record| record.nid.get()).collect();
    let sorted = numbers.is_sorted_by(|a, b| a < b);
    for nid in numbers.iter().copied().take(300).chain([0, u64::MAX]) {
        match seal.inode_record(nid) {
            Ok(Some(record)) => assert_eq!(record.nid.get(), nid),
            Ok(None) => assert!(!sorted || !numbers.contains(&nid), "record of inode {nid} is not found"),
            Err(error) => short(&error),
        }
    }
}

/// The only way in which bytes in memory cannot be read.
fn short(error: &Error) {
    assert_one_line(error);
    let Error::Io { source, .. } = error else { panic!("records have no form to break: {error}") };
    assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof);
}
