//! Any layers through the whole builder: what it makes must satisfy the verifier, the linter and the reader.
#![no_main]

use std::num::NonZeroUsize;

use libfuzzer_sys::fuzz_target;
use mkimg_format::header::Header;
use mkimg_fuzz::sample::{image_from, image_with};
use mkimg_fuzz::scratch::MemFile;
use mkimg_fuzz::{assert_one_line, flags, layout, ops, tar, tree};
use mkimg_mkfs::Compression;
use mkimg_mkfs::tar::{Limits, Reader};
use mkimg_oci::SourceSpec;
use mkimg_verify::{Options, verify_image};

/// The flags.
const OPS: u8 = 0x80;
const MEND: u8 = 0x40;
/// The result must not depend on the number of threads.
const THREADS: u8 = 0x20;
/// Without sparse files, as for kernels before 5.15.
const OLD: u8 = 0x10;
/// Which compression; without one and `OLD`.
const COMPRESSION: u8 = 0x03;
/// With encoded extents, if there is one.
const NEW: u8 = 0x04;

/// Bytes of content, holes included, that are worth the time.
const CONTENT_MAX: u64 = 8 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((input, flags)) = flags(input) else { return };
    let layers: Vec<Vec<u8>> = if flags & OPS != 0 {
        ops::layers(input)
    } else {
        let mut layers: Vec<Vec<u8>> = layout::split(input, 4).into_iter().map(<[u8]>::to_vec).collect();
        if flags & MEND != 0 {
            layers.iter_mut().for_each(|layer| tar::mend(layer));
        }
        layers
    };
    if layers.iter().map(|layer| content(layer)).sum::<u64>() > CONTENT_MAX {
        return;
    }
    let compression = match flags & COMPRESSION {
        0 => Compression::None,
        1 => Compression::Lz4,
        2 => Compression::Deflate(1),
        _ => Compression::Zstd(1),
    };
    let old = flags & OLD != 0 && compression == Compression::None;
    let kernel = match flags & NEW {
        _ if old => (5, 4),
        0 => compression.min_kernel(),
        _ => (6, 15),
    };
    let (built, bytes) = match image_with(&layers, kernel, NonZeroUsize::MIN, compression) {
        Ok(built) => built,
        Err(error) => return assert_one_line(&error),
    };
    assert_eq!(built.image_size, bytes.len() as u64);
    assert!(built.min_kernel <= kernel, "needs kernel {:?}", built.min_kernel);
    assert_eq!(built.layers, layers.len());
    assert!(built.visible_bytes + built.deleted_bytes <= built.shipped_bytes);

    let options = Options { root_hash: Some(built.root_hash), threads: NonZeroUsize::MIN, progress: None };
    let report = verify_image(&bytes, &options).expect("an image that was just built");
    assert!(report.is_clean() && report.anchored, "the verifier refuses what the builder made: {report:#?}");
    assert_eq!(report.data_blocks, built.data_blocks);

    let seen = tree::examine(&bytes).expect("an image that was just built");
    assert_eq!(seen.errors, 0, "the reader refuses what the builder made");
    assert!(seen.names as u64 >= built.inodes, "{} names of {} inodes", seen.names, built.inodes);
    let header = Header::read(&bytes).expect("an image that was just built");
    tree::check_lint(&bytes, &header, Some(&seen));

    if flags & THREADS != 0 {
        let three = NonZeroUsize::MIN.saturating_add(2);
        let (again, other) = image_with(&layers, kernel, three, compression).expect("was built before");
        assert!(again == built && other == bytes, "the result depends on the number of threads");
        // A tree that is a tar, and the same tar alone in a layout, have the same files.
        if let [layer] = &layers[..] {
            let archive = MemFile::new(&layout::archive(&layout::of_layers(std::slice::from_ref(layer))));
            let spec = SourceSpec::OciArchive { path: archive.path().to_owned(), tag: None };
            match image_from(&spec, kernel, NonZeroUsize::MIN, compression) {
                Ok((_, bytes)) => assert_eq!(tree::examine(&bytes), Some(seen)),
                // A layout says that its layer is plain; for a tar one looks.
                Err(error) => assert!(!layer.starts_with(b"\0") && compressed(layer), "{error}"),
            }
        }
    }
});

fn compressed(layer: &[u8]) -> bool {
    layer.starts_with(&[0x1f, 0x8b])
        || layer.get(1..4) == Some(&[0xb5, 0x2f, 0xfd])
        || layer.get(1..4) == Some(&[0x2a, 0x4d, 0x18])
}

/// Bytes of content in a layer, as far as it can be read. Bombs of compressed bytes belong to `oci_layout`.
fn content(layer: &[u8]) -> u64 {
    if compressed(layer) {
        return CONTENT_MAX + 1;
    }
    let mut reader = Reader::new(layer, Limits::default());
    let mut sum = 0_u64;
    while let Ok(Some(entry)) = reader.next_entry() {
        sum = sum.saturating_add(entry.size);
    }
    sum
}
