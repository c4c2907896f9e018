//! A writer of small OCI layouts: layer by layer, entry by entry, streaming, so that a layer may be larger than memory.
//!
//! It writes ustar headers and PAX records itself. mkimg's own tar code must not be its oracle.

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Attributes of an entry. [`Default`] is a file of root, mode 0644, at a fixed time.
#[derive(Debug, Clone)]
pub struct Attr {
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970, as PAX writes them (`12.5`, `-1`).
    pub mtime: String,
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for Attr {
    fn default() -> Self {
        Self { mode: 0o644, uid: 0, gid: 0, mtime: "1700000000".to_owned(), xattrs: Vec::new() }
    }
}

impl Attr {
    /// The default with another mode.
    pub fn mode(mode: u32) -> Self {
        Self { mode, ..Self::default() }
    }

    /// Adds an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.xattrs.push((name.to_owned(), value.to_vec()));
        self
    }
}

/// A writer that knows what passed through it.
#[derive(Debug)]
struct Digesting<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Digesting<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn finish(self) -> (W, String, u64) {
        (self.inner, format!("sha256:{}", crate::hex(&self.hash.finalize())), self.size)
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

type Blob = Digesting<BufWriter<File>>;

enum Codec {
    Plain(Blob),
    Gzip(Box<GzEncoder<Blob>>),
}

impl Write for Codec {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Codec::Plain(blob) => blob.write(bytes),
            Codec::Gzip(blob) => blob.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Codec::Plain(blob) => blob.flush(),
            Codec::Gzip(blob) => blob.flush(),
        }
    }
}

/// An OCI layout being written.
#[derive(Debug)]
pub struct Layout {
    dir: PathBuf,
    layers: Vec<serde_json::Value>,
    diff_ids: Vec<String>,
}

impl Layout {
    /// Starts a layout in `dir`, which is created.
    pub fn create(dir: &Path) -> Self {
        std::fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        Self { dir: dir.to_path_buf(), layers: Vec::new(), diff_ids: Vec::new() }
    }

    /// Starts the next layer, plain or gzip at `level`.
    pub fn layer(&mut self, level: Option<u32>) -> Layer<'_> {
        let file = File::create(self.dir.join("blobs/sha256/.layer")).unwrap();
        let blob = Digesting::new(BufWriter::with_capacity(1 << 20, file));
        let codec = match level {
            None => Codec::Plain(blob),
            Some(level) => Codec::Gzip(Box::new(GzEncoder::new(blob, Compression::new(level)))),
        };
        Layer { layout: self, out: Digesting::new(codec) }
    }

    /// Writes configuration, manifest and index. The image is `oci:DIR` or `oci:DIR:latest`.
    pub fn finish(self) {
        let history: Vec<_> =
            self.diff_ids.iter().map(|_| serde_json::json!({"created_by": "mkimg tests"})).collect();
        let config = self.blob(&serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids}, "history": history,
        }));
        let manifest = self.blob(&serde_json::json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config), "layers": self.layers,
        }));
        let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "latest"});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [entry]});
        std::fs::write(self.dir.join("index.json"), index.to_string()).unwrap();
        std::fs::write(self.dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    fn blob(&self, value: &serde_json::Value) -> (String, u64) {
        let bytes = value.to_string().into_bytes();
        let digest = crate::hex(&Sha256::digest(&bytes));
        std::fs::write(self.dir.join("blobs/sha256").join(&digest), &bytes).unwrap();
        (format!("sha256:{digest}"), bytes.len() as u64)
    }
}

fn descriptor(media_type: &str, (digest, size): &(String, u64)) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// A layer being written. Names are bytes; a directory needs no trailing slash.
pub struct Layer<'a> {
    layout: &'a mut Layout,
    out: Digesting<Codec>,
}

impl Layer<'_> {
    /// A directory.
    pub fn dir(&mut self, name: &str, attr: &Attr) {
        self.header(format!("{name}/").as_bytes(), b'5', attr, 0, b"", (0, 0));
    }

    /// A regular file.
    pub fn file(&mut self, name: &str, attr: &Attr, content: &[u8]) {
        self.header(name.as_bytes(), b'0', attr, content.len() as u64, b"", (0, 0));
        self.out.write_all(content).unwrap();
        self.pad(content.len() as u64);
    }

    /// A regular file of `size` bytes, made of the repeated `pieces`.
    pub fn big_file(&mut self, name: &str, attr: &Attr, size: u64, mut piece: impl FnMut() -> Vec<u8>) {
        self.header(name.as_bytes(), b'0', attr, size, b"", (0, 0));
        let mut left = size;
        while left > 0 {
            let bytes = piece();
            let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            self.out.write_all(&bytes[..n]).unwrap();
            left -= n as u64;
        }
        self.pad(size);
    }

    /// A symlink.
    pub fn symlink(&mut self, name: &str, target: &str) {
        self.header(name.as_bytes(), b'2', &Attr::mode(0o777), 0, target.as_bytes(), (0, 0));
    }

    /// A hard link to `target`, a path of the image.
    pub fn hardlink(&mut self, name: &str, target: &str) {
        self.header(name.as_bytes(), b'1', &Attr::default(), 0, target.as_bytes(), (0, 0));
    }

    /// A character (`b'3'`) or block (`b'4'`) device.
    pub fn device(&mut self, name: &str, kind: u8, attr: &Attr, major: u32, minor: u32) {
        self.header(name.as_bytes(), kind, attr, 0, b"", (major, minor));
    }

    /// A fifo.
    pub fn fifo(&mut self, name: &str, attr: &Attr) {
        self.header(name.as_bytes(), b'6', attr, 0, b"", (0, 0));
    }

    /// A sparse file in GNU PAX 1.0 form: `size` bytes with `data` at each offset, multiples of 512 but for the end.
    pub fn sparse(&mut self, name: &str, attr: &Attr, size: u64, pieces: &[(u64, &[u8])]) {
        let mut map = format!("{}\n", pieces.len());
        for (offset, data) in pieces {
            map.push_str(&format!("{offset}\n{}\n", data.len()));
        }
        let mut body = map.into_bytes();
        body.resize(body.len().next_multiple_of(512), 0);
        for (_, data) in pieces {
            body.extend_from_slice(data);
        }
        let mut records = xattr_records(attr);
        record(&mut records, "GNU.sparse.major", b"1");
        record(&mut records, "GNU.sparse.minor", b"0");
        record(&mut records, "GNU.sparse.name", name.as_bytes());
        record(&mut records, "GNU.sparse.realsize", size.to_string().as_bytes());
        self.pax(&records);
        self.plain_header(b"GNUSparseFile.0/file", b'0', attr, body.len() as u64, b"", (0, 0));
        self.out.write_all(&body).unwrap();
        self.pad(body.len() as u64);
    }

    /// A whiteout for `name`.
    pub fn whiteout(&mut self, name: &str) {
        let (dir, base) =
            name.rsplit_once('/').map_or((String::new(), name), |(dir, base)| (format!("{dir}/"), base));
        self.file(&format!("{dir}.wh.{base}"), &Attr::default(), b"");
    }

    /// An opaque marker in the directory `name`.
    pub fn opaque(&mut self, name: &str) {
        self.file(&format!("{name}/.wh..wh..opq"), &Attr::default(), b"");
    }

    /// Ends the layer.
    pub fn finish(mut self) {
        self.out.write_all(&[0; 1024]).unwrap();
        let (codec, diff_id, _) = self.out.finish();
        let (blob, media_type) = match codec {
            Codec::Plain(blob) => (blob, "application/vnd.oci.image.layer.v1.tar"),
            Codec::Gzip(encoder) => {
                (encoder.finish().unwrap(), "application/vnd.oci.image.layer.v1.tar+gzip")
            }
        };
        let (mut file, digest, size) = blob.finish();
        file.flush().unwrap();
        let blobs = self.layout.dir.join("blobs/sha256");
        std::fs::rename(blobs.join(".layer"), blobs.join(digest.trim_start_matches("sha256:"))).unwrap();
        self.layout.layers.push(descriptor(media_type, &(digest, size)));
        self.layout.diff_ids.push(diff_id);
    }

    fn header(&mut self, name: &[u8], kind: u8, attr: &Attr, size: u64, link: &[u8], device: (u32, u32)) {
        let mut records = xattr_records(attr);
        if name.len() > 100 {
            record(&mut records, "path", name);
        }
        if link.len() > 100 {
            record(&mut records, "linkpath", link);
        }
        if attr.mtime.parse::<u32>().is_err() {
            record(&mut records, "mtime", attr.mtime.as_bytes());
        }
        if attr.uid > 0o7_777_777 {
            record(&mut records, "uid", attr.uid.to_string().as_bytes());
        }
        self.pax(&records);
        self.plain_header(name, kind, attr, size, link, device);
    }

    fn pax(&mut self, records: &[u8]) {
        if !records.is_empty() {
            let size = records.len() as u64;
            self.plain_header(b"PaxHeaders/x", b'x', &Attr::default(), size, b"", (0, 0));
            self.out.write_all(records).unwrap();
            self.pad(size);
        }
    }

    fn plain_header(
        &mut self,
        name: &[u8],
        kind: u8,
        attr: &Attr,
        size: u64,
        link: &[u8],
        device: (u32, u32),
    ) {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8], width: usize| {
            let n = bytes.len().min(width);
            block[at..at + n].copy_from_slice(&bytes[..n]);
        };
        put(0, name, 100);
        put(100, format!("{:07o}", attr.mode).as_bytes(), 8);
        put(108, format!("{:07o}", attr.uid.min(0o7_777_777)).as_bytes(), 8);
        put(116, format!("{:07o}", attr.gid.min(0o7_777_777)).as_bytes(), 8);
        assert!(size < 1 << 33, "larger than an octal size field");
        put(124, format!("{size:011o}").as_bytes(), 12);
        put(136, format!("{:011o}", attr.mtime.parse::<u32>().unwrap_or(0)).as_bytes(), 12);
        put(148, b"        ", 8);
        put(156, &[kind], 1);
        put(157, link, 100);
        put(257, b"ustar\x0000", 8);
        put(329, format!("{:07o}", device.0).as_bytes(), 8);
        put(337, format!("{:07o}", device.1).as_bytes(), 8);
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.out.write_all(&block).unwrap();
    }

    fn pad(&mut self, size: u64) {
        let zeros = usize::try_from(size.next_multiple_of(512) - size).expect("below 512");
        self.out.write_all(&[0; 512][..zeros]).unwrap();
    }
}

fn xattr_records(attr: &Attr) -> Vec<u8> {
    let mut records = Vec::new();
    for (name, value) in &attr.xattrs {
        record(&mut records, &format!("SCHILY.xattr.{name}"), value);
    }
    records
}

/// Appends `LENGTH KEY=VALUE\n`, the length counting its own digits.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;
    use crate::need::Need;

    /// GNU tar and Python read what this module writes.
    #[test]
    fn other_readers_agree() {
        crate::require!(Need::Tool("tar"), Need::Tool("python3"));
        let dir = crate::scratch();
        let mut layout = Layout::create(&dir.path().join("image"));
        let mut layer = layout.layer(None);
        let long = format!("etc/{}", "n".repeat(200));
        layer.dir("etc", &Attr::mode(0o755));
        layer.file(
            &long,
            &Attr { uid: 4_000_000_000, mtime: "-1.5".to_owned(), ..Attr::default() },
            b"content",
        );
        layer.file("cap", &Attr::default().xattr("user.note", &[b'v'; 989]), b"");
        layer.sparse("sparse", &Attr::default(), 1_000_000, &[(0, &[b'a'; 512]), (999_990, b"0123456789")]);
        layer.device("null", b'3', &Attr::default(), 1, 3);
        layer.finish();
        let digest = layout.layers[0]["digest"].as_str().unwrap().replace(':', "/");
        layout.finish();
        let blob = dir.path().join("image/blobs").join(digest);
        let listed = command::tool("tar", crate::args!["--numeric-owner", "-tvf", blob]).ok().out();
        assert!(listed.contains(" 4000000000/0 ") && listed.contains(&long), "{listed}");
        assert!(listed.contains(" 1000000 ") && listed.contains("1,3"), "{listed}");
        let program = "import sys, tarfile; t = tarfile.open(sys.argv[1]); m = t.getmember('sparse')\n\
                       data = t.extractfile(m).read(); assert len(data) == 1000000 and data[:512] == b'a' * 512\n\
                       assert data[-10:] == b'0123456789' and not any(data[512:-10])\n\
                       assert t.getmember('cap').pax_headers['SCHILY.xattr.user.note'] == 'v' * 989\n\
                       assert t.getmembers()[1].mtime == -1.5";
        let _ = command::tool("python3", crate::args!["-c", program, blob]).ok();
    }
}
