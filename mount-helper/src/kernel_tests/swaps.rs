//! Images that are exchanged or written while they are being mounted.

use super::*;

#[test]
fn root_swapped_image_is_not_mounted() {
    let Some(bench) = Bench::new("root_swapped_image_is_not_mounted") else { return };
    if !file_backed(&bench, "root_swapped_image_is_not_mounted") {
        return;
    }
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let evil = bench.make_image("evil", "evil");
    let keep = bench.at("keep");
    for via in [Via::Auto, Via::File] {
        for moment in [Step::BeforeCreate, Step::AfterCreate] {
            let result = mount_with(
                &MountRequest { via, ..bench.request(&image, &target) },
                &mut accept,
                &mut |step| {
                    if step == moment {
                        fs::rename(&image, &keep).unwrap();
                        fs::rename(&evil, &image).unwrap();
                    }
                },
            );
            assert!(matches!(result, Err(Error::Changed { what: "file", .. })), "{result:?}");
            bench.assert_clean("after the swap");
            fs::rename(&image, &evil).unwrap();
            fs::rename(&keep, &image).unwrap();
        }
    }
    // Swapped and swapped back: a rename changes ctime.
    let result = mount_with(&bench.request(&image, &target), &mut accept, &mut |step| match step {
        Step::BeforeCreate => {
            // Above the clock tick that ctime is taken from.
            std::thread::sleep(Duration::from_millis(20));
            fs::rename(&image, &keep).unwrap();
            fs::rename(&evil, &image).unwrap();
        }
        Step::AfterCreate => {
            fs::rename(&image, &evil).unwrap();
            fs::rename(&keep, &image).unwrap();
        }
    });
    assert!(matches!(result, Err(Error::Changed { what: "ctime", .. })), "{result:?}");
    bench.assert_clean("after the swap and back");
    // Gone altogether.
    let result = mount_with(&bench.request(&image, &target), &mut accept, &mut |step| {
        if step == Step::BeforeCreate {
            fs::rename(&image, &keep).unwrap();
        }
    });
    assert!(matches!(result, Err(Error::Changed { what: "file", .. })), "{result:?}");
    bench.assert_clean("after the removal");
}

/// The swap that no attribute of the file shows: a directory above it, there and back.
#[test]
fn root_swapped_directory_does_not_win() {
    let Some(bench) = Bench::new("root_swapped_directory_does_not_win") else { return };
    if !file_backed(&bench, "root_swapped_directory_does_not_win") {
        return;
    }
    let target = bench.at("mnt");
    let (dir, other, keep) = (bench.at("dir"), bench.at("other"), bench.at("keep"));
    fs::create_dir_all(dir.join("a")).unwrap();
    fs::create_dir_all(other.join("a")).unwrap();
    let image = dir.join("a/image");
    fs::rename(bench.at("image"), &image).unwrap();
    fs::rename(bench.make_image("evil", "evil"), other.join("a/image")).unwrap();
    let mut swap = |step| match step {
        Step::BeforeCreate => {
            fs::rename(&dir, &keep).unwrap();
            fs::rename(&other, &dir).unwrap();
        }
        Step::AfterCreate => {
            fs::rename(&dir, &other).unwrap();
            fs::rename(&keep, &dir).unwrap();
        }
    };
    mount_with(&MountRequest { via: Via::File, ..bench.request(&image, &target) }, &mut accept, &mut swap)
        .unwrap();
    assert_eq!(content(&target), "good");
    assert_eq!(Path::new(&bench.mounted()[0].source), image);
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");

    // The same without the pinned path wins: this is the race that the pin closes.
    let file = open_image(&image).unwrap();
    let identity = Identity::of(&file).unwrap();
    let source = Source::File { fd: file.as_fd(), path: &image, identity: &identity };
    let mounted = detached_with(source, MountAttrs::default(), Pin::Never, &mut swap).unwrap();
    Target::open(&target).unwrap().attach(mounted).unwrap();
    assert_eq!(content(&target), "evil");
}

#[test]
fn root_image_written_during_the_check_is_not_mounted() {
    let Some(bench) = Bench::new("root_image_written_during_the_check_is_not_mounted") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    for via in [Via::Auto, Via::File, Via::Loop] {
        let result = mount(&MountRequest { via, ..bench.request(&image, &target) }, &mut |_, _| {
            std::thread::sleep(Duration::from_millis(20));
            File::options().write(true).open(&image).unwrap().write_all_at(b"x", 600).unwrap();
            Ok(CHECKED)
        });
        assert!(matches!(result, Err(Error::Changed { what: "mtime", .. })), "{via:?}: {result:?}");
        bench.assert_clean("after the write");
    }
}
