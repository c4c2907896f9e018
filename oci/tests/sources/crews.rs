//! Layers read with helpers: whatever is wrong with one, it is said as without them, and nobody is left waiting.

// A list of one range is what it looks like.
#![allow(clippy::single_range_in_vec_init)]

use std::io::{BufRead, Read};
use std::sync::mpsc;
use std::time::Duration;

use mkimg_oci::{Crew, Digest, Kept, Layer, LayerData, Limits, Room, SourceSpec, Wanted};
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

/// Reads the ranges, which are in order, out of a second pass.
fn parts(mut data: LayerData, ranges: &[std::ops::Range<usize>]) -> Vec<Vec<u8>> {
    let mut at = 0;
    let mut parts = Vec::new();
    for range in ranges {
        assert_eq!(data.skip((range.start - at) as u64).unwrap(), (range.start - at) as u64, "{range:?}");
        let mut part = vec![0; range.len()];
        data.read_exact(&mut part).unwrap_or_else(|error| panic!("{range:?}: {error}"));
        parts.push(part);
        at = range.end;
    }
    parts
}

fn wanted(ranges: &[std::ops::Range<usize>]) -> Wanted {
    let mut wanted = Wanted::default();
    ranges.iter().for_each(|range| wanted.add(range.start as u64..range.end as u64));
    wanted
}

/// What was kept, for these ranges, without helpers.
fn recall(layer: &Layer, kept: &Kept, ranges: &[std::ops::Range<usize>]) -> LayerData {
    layer.recall(kept, &Crew::new(0), wanted(ranges)).unwrap()
}

#[test]
fn parts_of_layers_are_read_again() {
    let data = data();
    let end = data.len();
    let cases: [Vec<std::ops::Range<usize>>; 8] = [
        vec![0..end],
        vec![0..1, 1..2, end - 1..end],
        vec![5..BUFFER, BUFFER..BUFFER + 1, 4 * BUFFER - 1..4 * BUFFER + 1],
        vec![BUFFER..2 * BUFFER, 3 * BUFFER..4 * BUFFER, 5 * BUFFER..end],
        vec![2 * BUFFER + 7..2 * BUFFER + 8],
        vec![0..10],
        vec![end - 10..end],
        vec![],
    ];
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP), (zstd(&data), ZSTD)] {
        let (_dir, layer) = layer_of(&blob, media, &data);
        let (data, cases) = (data.clone(), cases.clone());
        within_a_minute(media, move || {
            for ranges in &cases {
                let expected: Vec<_> = ranges.iter().map(|range| data[range.clone()].to_vec()).collect();
                for (ahead, helpers) in CREWS {
                    let found = with_crew(ahead, helpers, |crew| {
                        parts(layer.reopen_with(crew, wanted(ranges)).unwrap(), ranges)
                    });
                    assert!(found == expected, "{media} {ranges:?} {ahead} {helpers}");
                }
                assert!(parts(layer.reopen().unwrap(), ranges) == expected, "{media} {ranges:?}");
            }
        });
    }
}

/// A part that nobody asked for is an error, not other bytes.
#[test]
fn only_what_is_wanted_is_read_again() {
    let data = data();
    for (blob, media) in [(data.clone(), PLAIN), (gzip(&data), GZIP)] {
        let (_dir, layer) = layer_of(&blob, media, &data);
        let open = || {
            let mut wanted = Wanted::default();
            wanted.add(10..20);
            wanted.add(4 * BUFFER as u64..4 * BUFFER as u64 + 5);
            layer.reopen_with(&Crew::new(0), wanted).unwrap()
        };
        let mut reader = open();
        let error = std::io::copy(&mut reader, &mut std::io::sink()).unwrap_err().to_string();
        assert!(error.contains("layer 1") && error.contains("is wanted"), "{error}");
        let error = open().skip(2 * BUFFER as u64 + 1).unwrap_err().to_string();
        assert!(error.contains("is wanted"), "{error}");
        // Behind the last part, the layer is at its end.
        let mut reader = open();
        assert_eq!(reader.skip(4 * BUFFER as u64).unwrap(), 4 * BUFFER as u64);
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert!(data[4 * BUFFER..].starts_with(&rest) && (5..=BUFFER).contains(&rest.len()), "{media}");
    }
}

/// Behind the last wanted byte, and where nothing is wanted, the blob is not even there.
#[test]
fn nothing_is_read_behind_the_last_part() {
    let data = data();
    let (dir, layer) = layer_of(&gzip(&data), GZIP, &data);
    let path = dir.path().join(blob_path(&digest(&gzip(&data))));
    for (ranges, left) in [(vec![], 0), (vec![0..BUFFER as u64], 2 * BUFFER as u64)] {
        let mut wanted = Wanted::default();
        ranges.into_iter().for_each(|range| wanted.add(range));
        with_crew(9, 2, |crew| {
            let mut reader = layer.reopen_with(crew, wanted).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_len(left).unwrap();
            std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        });
        std::fs::write(&path, gzip(&data)).unwrap();
    }
}

#[test]
fn layers_are_kept_in_memory_if_there_is_room() {
    let data = data();
    let buffers = data.len().div_ceil(BUFFER);
    for (blob, media, keeps) in
        [(data.clone(), PLAIN, false), (gzip(&data), GZIP, true), (zstd(&data), ZSTD, true)]
    {
        let (dir, layer) = layer_of(&blob, media, &data);
        // How long zstd will be is guessed.
        let plenty = (blob.len() * 3).div_ceil(BUFFER);
        for (room, fits) in [(0, false), (buffers - 1, false), (buffers, media == GZIP), (plenty, true)] {
            let room = Room::new((room * BUFFER) as u64);
            for (ahead, helpers) in CREWS {
                // Again and again: what did not fit, or was read, has left the room.
                let (summary, kept) = with_crew(ahead, helpers, |crew| {
                    let mut reader = layer.open_with(crew).unwrap();
                    reader.keep(&room);
                    std::io::copy(&mut (&mut reader).take(1000), &mut std::io::sink()).unwrap();
                    reader.finish_kept().unwrap()
                });
                assert_eq!(summary, layer.open().unwrap().finish().unwrap());
                assert_eq!(kept.is_some(), keeps && fits, "{media} {room:?}");
                let Some(kept) = kept else { continue };
                // No blob is needed any more, and it can be read as often as one likes.
                std::fs::remove_file(dir.path().join(blob_path(&digest(&blob)))).unwrap();
                for ranges in
                    [vec![5..6, BUFFER - 1..3 * BUFFER, data.len() - 1..data.len()], vec![0..data.len()]]
                {
                    let expected: Vec<_> = ranges.iter().map(|range| data[range.clone()].to_vec()).collect();
                    assert!(parts(recall(&layer, &kept, &ranges), &ranges) == expected, "{media} {ranges:?}");
                }
                std::fs::write(dir.path().join(blob_path(&digest(&blob))), &blob).unwrap();
            }
        }
    }
}

/// What was kept of a layer in a file, and another descriptor of that.
fn kept_in_file(layer: &Layer, crew: &Crew, room: &Room) -> (Option<Kept>, Option<std::fs::File>) {
    let mut other = None;
    let mut reader = layer.open_with(crew).unwrap();
    reader.keep_in(room, || {
        let file = tempfile::tempfile().unwrap();
        other = Some(file.try_clone().unwrap());
        Some(file)
    });
    std::io::copy(&mut (&mut reader).take(1000), &mut std::io::sink()).unwrap();
    let (summary, kept) = reader.finish_kept().unwrap();
    assert_eq!(summary, layer.open().unwrap().finish().unwrap());
    assert!(kept.as_ref().is_none_or(Kept::is_file));
    (kept, other)
}

#[test]
fn layers_are_kept_in_files_if_there_is_room() {
    let data = data();
    let end = data.len();
    let buffers = end.div_ceil(BUFFER);
    for (blob, media, keeps) in
        [(data.clone(), PLAIN, false), (gzip(&data), GZIP, true), (zstd(&data), ZSTD, true)]
    {
        let (dir, layer) = layer_of(&blob, media, &data);
        let path = dir.path().join(blob_path(&digest(&blob)));
        let plenty = (blob.len() * 3).div_ceil(BUFFER);
        for (room, fits) in [(0, false), (buffers - 1, false), (buffers, media == GZIP), (plenty, true)] {
            let room = Room::new((room * BUFFER) as u64);
            for (ahead, helpers) in CREWS {
                let what = format!("{media} {room:?} {ahead} {helpers}");
                let (layer, room, path, blob, data) =
                    (layer.clone(), room.clone(), path.clone(), blob.clone(), data.clone());
                within_a_minute(&what.clone(), move || {
                    let (kept, file) = with_crew(ahead, helpers, |crew| kept_in_file(&layer, crew, &room));
                    assert_eq!((kept.is_some(), file.is_some()), (keeps && fits, keeps && fits), "{what}");
                    let Some(kept) = kept else { return };
                    std::fs::remove_file(&path).unwrap();
                    let cases = [
                        vec![0..end],
                        vec![5..6, BUFFER - 1..3 * BUFFER, end - 1..end],
                        vec![4 * BUFFER - 1..4 * BUFFER + 1],
                        vec![],
                    ];
                    for ranges in cases {
                        let expected: Vec<_> =
                            ranges.iter().map(|range| data[range.clone()].to_vec()).collect();
                        let found = with_crew(ahead, helpers, |crew| {
                            parts(layer.recall(&kept, crew, wanted(&ranges)).unwrap(), &ranges)
                        });
                        assert!(found == expected, "{what} {ranges:?}");
                    }
                    std::fs::write(&path, &blob).unwrap();
                });
            }
        }
    }
}

/// A scratch file is no better than its disk: one that cannot be written is none, and one that was cut is an error.
#[test]
fn files_that_do_not_keep() {
    let data = data();
    let (_dir, layer) = layer_of(&gzip(&data), GZIP, &data);
    let room = Room::new(64 << 20);
    for (ahead, helpers) in CREWS {
        for (unwritable, write) in [("/dev/full", true), ("/proc/self/status", false)] {
            with_crew(ahead, helpers, |crew| {
                let mut reader = layer.open_with(crew).unwrap();
                reader.keep_in(&room, || {
                    std::fs::File::options().read(true).write(write).open(unwritable).ok()
                });
                let (_, kept) = reader.finish_kept().unwrap();
                assert!(kept.is_none(), "{unwritable}");
            });
        }
        let (kept, file) = with_crew(ahead, helpers, |crew| kept_in_file(&layer, crew, &room));
        file.unwrap().set_len(data.len() as u64 - 1).unwrap();
        let error = layer.recall(&kept.unwrap(), &Crew::new(0), Wanted::everything()).err().unwrap();
        assert!(error.to_string().contains("layer 1"), "{error}");
    }
}

/// Nothing in it compresses, so that the blob is the longer one.
#[test]
fn layers_of_noise_are_kept() {
    let noise = noise(3 * BUFFER);
    let blob = gzip(&noise);
    assert!(blob.len() > noise.len());
    let (_dir, layer) = layer_of(&blob, GZIP, &noise);
    let mut reader = layer.open().unwrap();
    reader.keep(&Room::new(noise.len() as u64));
    assert!(reader.finish_kept().unwrap().1.is_some());
}

/// A layer that turns out longer than it looked is not kept, and leaves the room to others.
#[test]
fn layers_longer_than_they_look_are_not_kept() {
    let long = vec![0; 5 * BUFFER];
    // The last member of the gzip file says that it is short.
    let members = [gzip(&long), gzip(b"more")].concat();
    let tar = [&long[..], b"more"].concat();
    for (blob, media, tar) in [(zstd(&long), ZSTD, &long), (members, GZIP, &tar)] {
        let (_dir, layer) = layer_of(&blob, media, tar);
        let room = Room::new(4 * BUFFER as u64);
        let mut reader = layer.open().unwrap();
        reader.keep(&room);
        assert!(reader.finish_kept().unwrap().1.is_none(), "{media}");
        assert!(kept_in_file(&layer, &Crew::new(1), &room).0.is_none(), "{media}");
        let small = vec![0; 4 * BUFFER];
        let (_dir, layer) = layer_of(&gzip(&small), GZIP, &small);
        let mut reader = layer.open().unwrap();
        reader.keep(&room);
        assert!(reader.finish_kept().unwrap().1.is_some(), "{media}");
    }
}

/// What is damaged is not kept.
#[test]
fn damaged_layers_are_not_kept() {
    let data = data();
    let mut blob = gzip(&data);
    let middle = blob.len() / 2;
    blob[middle] ^= 1;
    let (_dir, layer) = layer_of(&blob, GZIP, &data);
    let room = Room::new(64 << 20);
    let mut reader = layer.open().unwrap();
    reader.keep(&room);
    reader.finish_kept().unwrap_err();
    let mut reader = layer.open().unwrap();
    reader.keep_in(&room, || tempfile::tempfile().ok());
    reader.finish_kept().unwrap_err();
}
