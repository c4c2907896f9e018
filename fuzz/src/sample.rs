//! Small layers with a bit of everything, and the images made from them.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::LazyLock;

use mkimg_format::Sha256;
use mkimg_mkfs::{Built, Compression, Dedup, Error, Memory, Options, Silent, build};
use mkimg_oci::SourceSpec;

use crate::scratch::{Folder, MemFile};
use crate::tar::{self, Head};
use crate::{layout, tar::END};

/// A sound image.
pub struct Sample {
    /// The whole file.
    pub bytes: Vec<u8>,
    /// Its root hash.
    pub root_hash: Sha256,
}

/// Images that patches are applied to: a tiny one, one with everything, one without holes, compressed ones.
pub static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let tiny = vec![[&tar::file("a", b"hello")[..], &END].concat()];
    [
        (tiny, (5, 15), Compression::None),
        (layers(), (5, 15), Compression::None),
        (layers(), (5, 4), Compression::None),
        (packed_layers(), (5, 15), Compression::Lz4),
        (packed_layers(), (6, 12), Compression::Deflate(6)),
        (packed_layers(), (6, 12), Compression::Zstd(3)),
        (packed_layers(), (6, 15), Compression::Zstd(3)),
    ]
    .into_iter()
    .map(|(layers, kernel, compression)| {
        let built = image_with(&layers, kernel, NonZeroUsize::MIN, compression);
        let (built, bytes) = built.expect("the samples are sound");
        Sample { bytes, root_hash: built.root_hash }
    })
    .collect()
});

/// Three layers: every kind of inode, shared and own xattrs, a sparse file, deletions, links, a wide directory.
pub fn layers() -> Vec<Vec<u8>> {
    let xattr = |name: &'static [u8], value: &'static [u8]| tar::pax(&[(name, value)]);
    let mut first = vec![
        tar::dir("./"),
        tar::dir("etc/"),
        tar::file("etc/motd", b"line\n"),
        tar::file("etc/big", &[7; 9000]),
        tar::file("etc/copy", &[7; 9000]),
        tar::link(b'2', "etc/link", "motd"),
        tar::link(b'1', "etc/hard", "etc/motd"),
        xattr(b"SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
        tar::file("etc/caps", b"x"),
        xattr(b"SCHILY.xattr.user.note", b"shared"),
        tar::file("etc/note1", b"1"),
        xattr(b"SCHILY.xattr.user.note", b"shared"),
        tar::file("etc/note2", b"2"),
        tar::sparse_1_0("holes", 20_000, &[(0, 512), (12_288, 512)], &[5; 1024]),
        Head::new(b'3', b"null").device(1, 3).block(),
        Head::new(b'4', b"disk").device(8, 0).block(),
        Head::new(b'6', b"pipe").mtime(1_700_000_000).block(),
        tar::file("gone", b"deleted later"),
    ];
    first.extend(
        (0..90)
            .map(|n| tar::file(&format!("wide/a-name-of-fifty-bytes-so-that-few-fill-a-block-{n:03}"), b"")),
    );
    let second = vec![
        tar::file(".wh.gone", b""),
        tar::file("etc/motd", b"replaced\n"),
        tar::member(Head::new(b'0', b"owner").owner(100_000, 70_000).mode(0o4755).mtime(77), b"big ids"),
        tar::gnu_long(b'K', &[b't'; 300]),
        tar::link(b'2', "long", "cut"),
    ];
    let third = vec![tar::dir("etc2/"), tar::file("etc/.wh..wh..opq", b""), tar::file("etc/new", b"new")];
    let layers = [first, second, third];
    layers.into_iter().map(|members| [members.concat(), END.to_vec()].concat()).collect()
}

/// As [`layers`], and files that have pieces of their own: two, and a long one. All others are in the packed inode, or
/// have their tail behind the inode.
fn packed_layers() -> Vec<Vec<u8>> {
    let text: Vec<u8> = (0..70_000_u32).flat_map(|number| number.to_string().into_bytes()).collect();
    let more = vec![
        tar::file("large", &text[..300_000]),
        tar::file("long", &text[..270_000]),
        tar::file("two", &[]),
    ];
    let mut layers = layers();
    layers.push([more.concat(), END.to_vec()].concat());
    layers
}

/// Builds an image of plain layers, or of a single tar as it is.
pub fn image_of(layers: &[Vec<u8>], min_kernel: (u32, u32)) -> Result<(Built, Vec<u8>), Error> {
    image_with(layers, min_kernel, NonZeroUsize::MIN, Compression::None)
}

/// As [`image_of`], on some threads, and compressed.
pub fn image_with(
    layers: &[Vec<u8>],
    min_kernel: (u32, u32),
    threads: NonZeroUsize,
    compression: Compression,
) -> Result<(Built, Vec<u8>), Error> {
    let (file, single) = match layers {
        [layer] => (MemFile::new(layer), true),
        _ => (MemFile::new(&layout::archive(&layout::of_layers(layers))), false),
    };
    let path = file.path().to_owned();
    let source = if single { SourceSpec::Tar { path } } else { SourceSpec::OciArchive { path, tag: None } };
    image_from(&source, min_kernel, threads, compression)
}

/// Builds an image of any source.
pub fn image_from(
    source: &SourceSpec,
    min_kernel: (u32, u32),
    threads: NonZeroUsize,
    compression: Compression,
) -> Result<(Built, Vec<u8>), Error> {
    let folder = Folder::new();
    let target = folder.path().join("image");
    let (platform, name, optimize_for) = (None, None, None);
    let (dedup, memory, scratch) = (Dedup::Files, Memory::MIN, true);
    let epoch = 0;
    let options = Options {
        platform,
        name,
        epoch,
        compression,
        dedup,
        min_kernel,
        optimize_for,
        fec_roots: 0,
        threads,
        memory,
        scratch,
    };
    let built = build(source, &target, &options, &Silent);
    assert_eq!(built.is_ok(), target.exists(), "an image is there when and only when it is complete");
    assert_eq!(files_in(folder.path()), usize::from(built.is_ok()), "a build leaves nothing behind");
    let built = built?;
    let bytes = std::fs::read(&target).expect("the image that was just built");
    Ok((built, bytes))
}

fn files_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).expect("the scratch folder").count()
}
