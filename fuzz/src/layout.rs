//! OCI layouts as archives, with digests and sizes filled in.

use mkimg_oci::Digest;

use crate::tar;

/// Stands between the layers of one input.
pub const SEPARATOR: &[u8] = b"--layer-";

/// Names and contents of the files of a layout.
pub type Files = Vec<(String, Vec<u8>)>;

/// Splits an input at every [`SEPARATOR`], into at most `most` parts.
pub fn split(input: &[u8], most: usize) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = input;
    while parts.len() + 1 < most
        && let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR)
    {
        parts.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

/// Name of a blob in a layout.
pub fn blob_name(blob: &[u8]) -> String {
    format!("blobs/sha256/{}", Digest::of(blob).hex())
}

/// The layout of an image of plain layers, lowest first.
pub fn of_layers(layers: &[Vec<u8>]) -> Files {
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    let config = format!(
        r#"{{"os":"linux","architecture":"amd64","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let descriptor = |blob: &[u8], kind: &str| {
        let media = format!("application/vnd.oci.image.{kind}");
        format!(r#"{{"mediaType":"{media}","digest":"{}","size":{}}}"#, Digest::of(blob), blob.len())
    };
    let listed: Vec<String> = layers.iter().map(|layer| descriptor(layer, "layer.v1.tar")).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{},"layers":[{}]}}"#,
        descriptor(config.as_bytes(), "config.v1+json"),
        listed.join(",")
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{}]}}"#,
        descriptor(manifest.as_bytes(), "manifest.v1+json")
    );
    let mut files = vec![
        ("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ("index.json".to_owned(), index.into_bytes()),
    ];
    for blob in [manifest.into_bytes(), config.into_bytes()].into_iter().chain(layers.iter().cloned()) {
        files.push((blob_name(&blob), blob));
    }
    files
}

/// Fills digests and sizes into documents made by a fuzzer: index, manifest, config, and then layers.
///
/// `$M` and `$m` are digest and size of the manifest, `$C` and `$c` of the config, `$0` to `$9` and `$a` to `$j`
/// of the layers (`a` to `j` the sizes), `$D` the digest of the first layer once it is unpacked.
pub fn of_documents(parts: &[&[u8]], unpacked: Option<Digest>) -> Files {
    let part = |index: usize| parts.get(index).copied().unwrap_or_default();
    let mut values: Vec<(u8, String)> = Vec::new();
    let mut files = Vec::new();
    for (number, layer) in (0_u8..10).zip(parts.iter().skip(3)) {
        values.push((b'0' + number, Digest::of(layer).to_string()));
        values.push((b'a' + number, layer.len().to_string()));
        files.push((blob_name(layer), layer.to_vec()));
    }
    if let Some(digest) = unpacked {
        values.push((b'D', digest.to_string()));
    }
    let config = fill(part(2), &values);
    values.extend([(b'C', Digest::of(&config).to_string()), (b'c', config.len().to_string())]);
    let manifest = fill(part(1), &values);
    values.extend([(b'M', Digest::of(&manifest).to_string()), (b'm', manifest.len().to_string())]);
    let index = fill(part(0), &values);
    files.push((blob_name(&config), config));
    files.push((blob_name(&manifest), manifest));
    files.push(("index.json".to_owned(), index.clone()));
    files.push(("manifest.json".to_owned(), index));
    files
}

fn fill(text: &[u8], values: &[(u8, String)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let value = after.first().filter(|_| *byte == b'$');
        match value.and_then(|key| values.iter().rev().find(|(known, _)| known == key)) {
            Some((_, value)) => {
                out.extend_from_slice(value.as_bytes());
                rest = &after[1..];
            }
            None => out.push(*byte),
        }
    }
    out
}

/// The files as one tar.
pub fn archive(files: &Files) -> Vec<u8> {
    let mut bytes: Vec<u8> = files.iter().flat_map(|(name, content)| tar::file(name, content)).collect();
    bytes.extend_from_slice(&tar::END);
    bytes
}
