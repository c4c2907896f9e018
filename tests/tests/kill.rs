//! A build that is killed leaves nothing: no file under the target's name and no temporary file beside it.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::mkimg;
use mkimg_tests::images::{self, Real};
use mkimg_tests::mount::Exclusive;
use mkimg_tests::need::skipped;
use mkimg_tests::{Seeded, args, names_in, scratch, sha256_of};
use std::time::{Duration, Instant};

const POINTS: u64 = 20;

/// A real image where there is one: a build long enough to be hit in every phase.
fn source(dir: &std::path::Path) -> String {
    match images::real_one("debian") {
        Ok(Real { source, .. }) => source,
        Err(reason) => {
            skipped(&format!("{reason}; a small image stands in"));
            images::one_of_everything(&dir.join("oci"));
            format!("oci:{}", dir.join("oci").display())
        }
    }
}

#[test]
fn sigkill_at_any_moment_leaves_nothing() {
    let _undisturbed = Exclusive::take();
    let dir = scratch();
    let source = source(dir.path());
    let whole = dir.path().join("whole.mkimg");
    let took = mkimg(args!["build", source, "-o", whole]).ok().elapsed;
    let wanted = sha256_of(&whole);

    let mut random = Seeded::new(0x6b69_6c6c);
    let mut unfinished = 0;
    for point in 0..POINTS {
        let out = dir.path().join(format!("out-{point}"));
        std::fs::create_dir(&out).unwrap();
        // Spread over the whole build, each point at a random place of its twentieth; the last ones hit the end.
        let slice = took / u32::try_from(POINTS).unwrap();
        let jitter = slice.mul_f64(f64::from(u32::try_from(random.below(1000)).unwrap()) / 1000.0);
        let wait = slice * u32::try_from(point).unwrap() + jitter;
        let started = Instant::now();
        let mut child = mkimg(args!["build", source, "-o", out.join("image.mkimg")]).spawn();
        std::thread::sleep(wait.saturating_sub(started.elapsed()));
        child.kill().unwrap();
        child.wait().unwrap();
        let left = names_in(&out);
        if left == ["image.mkimg"] {
            assert_eq!(
                sha256_of(&out.join("image.mkimg")),
                wanted,
                "killed after {wait:?}: a half-made image"
            );
        } else {
            unfinished += 1;
            assert_eq!(left, Vec::<String>::new(), "killed after {wait:?} of {took:?}");
        }
        std::fs::remove_dir_all(&out).unwrap();
    }
    assert!(unfinished >= POINTS / 4, "only {unfinished} of {POINTS} builds were killed before their end");
}

#[test]
fn a_killed_build_keeps_the_previous_image() {
    let _undisturbed = Exclusive::take();
    let dir = scratch();
    let source = source(dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let image = out.join("image.mkimg");
    for wait in [5, 50, 150] {
        std::fs::write(&image, b"the previous release").unwrap();
        let mut child = mkimg(args!["build", source, "-o", image]).spawn();
        std::thread::sleep(Duration::from_millis(wait));
        let running = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(names_in(&out), ["image.mkimg"], "killed after {wait} ms");
        if running && std::fs::metadata(&image).unwrap().len() < 4096 {
            assert_eq!(std::fs::read(&image).unwrap(), b"the previous release", "killed after {wait} ms");
        }
    }
}
