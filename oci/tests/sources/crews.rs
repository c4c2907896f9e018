//! Layers read with helpers: whatever is wrong with one, it is said as without them, and nobody is left waiting.

use std::io::{BufRead, Read};
use std::sync::mpsc;
use std::time::Duration;

use mkimg_oci::{Crew, Digest, Layer, Limits, SourceSpec};
use tempfile::TempDir;

use crate::support::{GZIP, PLAIN, ZSTD, blob_path, digest, gzip, image_of, noise, open_dir, zstd};

/// Of the chunks that a stream is cut into.
const BUFFER: usize = 256 << 10;

/// Distance of the works and number of helpers; the first is what [`Layer::open`] does.
const CREWS: [(usize, usize); 6] = [(0, 0), (0, 2), (1, 0), (1, 1), (4, 1), (2, 5)];

/// Ends the test when `work` hangs.
fn within_a_minute<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, done) = mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    done.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// Calls `work` while `helpers` help, and waits for them.
fn with_crew<T>(ahead: usize, helpers: usize, work: impl FnOnce(&Crew) -> T) -> T {
    let crew = Crew::new(ahead);
    std::thread::scope(|scope| {
        for _ in 0..helpers {
            scope.spawn(|| crew.help());
        }
        let result = work(&crew);
        crew.dismiss();
        result
    })
}

/// What reading says, then what the end says.
fn outcome(layer: &Layer, crew: &Crew) -> (String, String) {
    let mut reader = match layer.open_with(crew) {
        Ok(reader) => reader,
        Err(error) => return (error.to_string(), String::new()),
    };
    let mut data = Vec::new();
    let read = match reader.read_to_end(&mut data) {
        Ok(_) => format!("{} bytes, {}", data.len(), digest(&data)),
        Err(error) => format!("{} bytes, {}, then {error}", data.len(), digest(&data)),
    };
    (read, reader.finish().map_or_else(|error| error.to_string(), |summary| format!("{summary:?}")))
}

/// The outcome, which is the same with every crew.
fn agreed(what: &str, layer: &Layer) -> (String, String) {
    let (what, layer) = (what.to_owned(), layer.clone());
    within_a_minute(&what.clone(), move || {
        let [first, rest @ ..] =
            CREWS.map(|(ahead, helpers)| with_crew(ahead, helpers, |crew| outcome(&layer, crew)));
        for (other, crew) in rest.iter().zip(&CREWS[1..]) {
            assert_eq!(*other, first, "{what} {crew:?}");
        }
        first
    })
}

/// A layout whose layer has a blob that is what its descriptor says.
fn layer_of(blob: &[u8], media: &str, data: &[u8]) -> (TempDir, Layer) {
    let dir = image_of(&[(blob.to_vec(), media, data.to_vec())]).write();
    let layer = open_dir(dir.path(), None, None).unwrap().layers[0].clone();
    (dir, layer)
}

/// Not quite whole buffers, half of it compressible.
fn data() -> Vec<u8> {
    let mut data = noise(5 * BUFFER + 1000);
    for piece in data.chunks_mut(2 * 4096) {
        let half = piece.len() / 2;
        piece[half..].fill(b'.');
    }
    data
}

#[test]
fn whole_layers() {
    let data = data();
    let empty_members = [&gzip(b"").repeat(40_000)[..], &gzip(&data), &[0; 3 * BUFFER]].concat();
    for (blob, media) in
        [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD), (empty_members, GZIP)]
    {
        let (_dir, layer) = layer_of(&blob, media, &data);
        let (read, end) = agreed(media, &layer);
        assert_eq!(read, format!("{} bytes, {}", data.len(), digest(&data)));
        for part in [digest(&blob), digest(&data), format!("tar_size: {}", data.len())] {
            assert!(end.contains(&part), "{end}");
        }
    }
}

#[test]
fn the_first_check_that_fails_speaks() {
    let data = data();
    let gz = gzip(&data);
    let cut = &gz[..gz.len() - BUFFER];
    let longer = [&gz[..], b"x"].concat();
    let mut crc = gz.clone();
    let at = crc.len() - 8;
    crc[at] ^= 1;
    // The blob in the layout is replaced by the one behind it, if there is one.
    type Case<'a> = (&'a str, &'a [u8], Option<&'a [u8]>, &'a [u8], &'a str);
    let cases: [Case<'_>; 8] = [
        ("wrong diff_id", &gz, None, b"other", "DiffId"),
        ("cut gzip", cut, None, &data, "gzip data ends early"),
        ("cut gzip, wrong diff_id", cut, None, b"other", "gzip data ends early"),
        ("more behind gzip", &longer, None, &data, "no gzip member"),
        ("checksum", &crc, None, &data, "checksum or length"),
        ("digest and checksum", &gz, Some(&crc), &data, "digest"),
        ("digest and diff_id", &gz, Some(&crc), b"other", "digest"),
        ("digest and no gzip", &gz, Some(&data[..gz.len()]), b"other", "digest"),
    ];
    for (what, blob, replaced, tar, expected) in cases {
        let (dir, layer) = layer_of(blob, GZIP, tar);
        if let Some(replaced) = replaced {
            std::fs::write(dir.path().join(blob_path(&digest(blob))), replaced).unwrap();
        }
        let (_, end) = agreed(what, &layer);
        match expected {
            "DiffId" => {
                assert!(end.contains(&digest(&data)) && end.contains(&digest(b"other")), "{what}: {end}")
            }
            "digest" => {
                let found = Digest::of(replaced.unwrap()).to_string();
                assert!(end.contains(&digest(blob)) && end.contains(&found), "{what}: {end}");
            }
            _ => assert!(end.contains(expected), "{what}: {end}"),
        }
    }
}

#[test]
fn decoding_fails_at_every_buffer() {
    let data = data();
    for (blob, media) in [(gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        for at in (0..blob.len()).step_by(BUFFER / 2) {
            let mut damaged = blob.clone();
            let end = damaged.len().min(at + 64);
            damaged[at..end].fill(0xff);
            let (_dir, layer) = layer_of(&damaged, media, &data);
            let (_, end) = agreed(&format!("{media} damaged at {at}"), &layer);
            assert!(end.contains("layer 1") && !end.contains("LayerSummary"), "{media} {at}: {end}");
        }
    }
}

#[test]
fn the_file_ends_at_every_buffer() {
    let data = data();
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        for at in (0..blob.len()).step_by(BUFFER / 2) {
            let (dir, layer) = layer_of(&blob, media, &data);
            let path = dir.path().join(blob_path(&digest(&blob)));
            let whole = blob.clone();
            let ends = within_a_minute(&format!("{media} cut at {at}"), move || {
                CREWS.map(|(ahead, helpers)| {
                    std::fs::write(&path, &whole).unwrap();
                    with_crew(ahead, helpers, |crew| {
                        let reader = layer.open_with(crew).unwrap();
                        std::fs::File::options().write(true).open(&path).unwrap().set_len(at as u64).unwrap();
                        // A helper may have been faster than that.
                        reader.finish().map_or_else(|error| error.to_string(), |_| "all there".to_owned())
                    })
                })
            });
            let cut = format!("size is {at} bytes");
            assert!(ends[0].contains(&cut), "{media} {at}: {}", ends[0]);
            for end in ends {
                assert!(end == "all there" || end.contains("size is"), "{media} {at}: {end}");
            }
        }
    }
}

#[test]
fn the_limit_is_met_at_every_buffer() {
    let data = data();
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        let dir = image_of(&[(blob, media, data.clone())]).write();
        for buffers in 0..6 {
            let limits = Limits { layer_bytes: (buffers * BUFFER) as u64, ..Limits::default() };
            let spec = SourceSpec::OciDir { path: dir.path().to_owned(), tag: None };
            let layer = mkimg_oci::open_with(&spec, None, &limits).unwrap().layers[0].clone();
            let (read, end) = agreed(media, &layer);
            assert!(read.starts_with(&format!("{} bytes", buffers * BUFFER)), "{read}");
            assert!(end.contains(&format!("{}", buffers * BUFFER)), "{end}");
        }
    }
}

#[test]
fn the_reader_leaves_at_every_buffer() {
    let data = data();
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        let (_dir, layer) = layer_of(&blob, media, &data);
        within_a_minute(media, move || {
            for (ahead, helpers) in CREWS {
                for buffers in 0..7 {
                    with_crew(ahead, helpers, |crew| {
                        let mut reader = layer.open_with(crew).unwrap();
                        for _ in 0..buffers {
                            let n = reader.fill_buf().unwrap().len();
                            reader.consume(n);
                        }
                        drop(reader);
                        // The crew is as good as before.
                        layer.open_with(crew).unwrap().finish().unwrap();
                    });
                }
            }
        });
    }
}

#[test]
fn many_layers_share_a_crew() {
    let data = data();
    let (_dir, layer) = layer_of(&gzip(&data), GZIP, &data);
    within_a_minute("many", move || {
        with_crew(1, 2, |crew| {
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| layer.open_with(crew).unwrap().finish().unwrap());
                }
            });
            // One thread, two open layers: each goes on without the other.
            let (first, second) = (layer.open_with(crew).unwrap(), layer.open_with(crew).unwrap());
            assert_eq!(second.finish().unwrap(), first.finish().unwrap());
        });
    });
}
