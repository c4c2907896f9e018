//! Overlays over detached images.

use super::*;

#[test]
fn root_overlay_takes_the_image_with_it() {
    let Some(bench) = Bench::new("root_overlay_takes_the_image_with_it") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    for via in [Via::Auto, Via::Loop] {
        // What breaks option strings: comma, colon, backslash, blank, equals sign.
        let (upper, work) = (bench.at(r"up,p:e\r =1"), bench.at(r"wo,r:k\, x"));
        let request =
            MountRequest { via, upper: Some(&upper), work: Some(&work), ..bench.request(&image, &target) };
        let mounted = mount(&request, &mut accept).unwrap();
        assert!(mounted.how.starts_with("overlay with upper "), "{}", mounted.how);
        assert!(mounted.guarantee.contains("goes to the upper directory"), "{}", mounted.guarantee);
        assert_eq!(content(&target), "good");
        fs::write(target.join("content"), "changed").unwrap();
        fs::write(target.join("new"), "new").unwrap();
        assert_eq!(fs::read_to_string(upper.join("content")).unwrap(), "changed");
        assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new");
        // One visible mount: the image below has no path of its own.
        assert_eq!(bench.mounted().len(), 1);
        let listed = bench.ours();
        assert_eq!(listed.len(), 1);
        assert_eq!((&listed[0].image, &listed[0].target), (&image, &target));
        // Before 6.13 a comma or backslash is not possible in the option, and the name is lost.
        let shown = listed[0].upper.as_ref().unwrap();
        assert!(*shown == upper || shown.starts_with("/proc/self/fd"), "{shown:?}");
        assert!(!listed[0].read_only);
        match via {
            Via::Loop => assert_eq!(listed[0].backing, Backing::Loop(bench.loops()[0].0)),
            _ if bench.loops().is_empty() => assert_eq!(listed[0].backing, Backing::File),
            // This kernel or this disk cannot do without.
            _ => assert!(matches!(listed[0].backing, Backing::Loop(_))),
        }
        let gone = umount(&target, UmountOptions::default()).unwrap();
        assert_eq!(gone.fstype, "overlay");
        bench.assert_clean("after umount of the overlay");
        fs::remove_dir_all(&upper).unwrap();
        fs::remove_dir_all(&work).unwrap();
    }
}

#[test]
fn root_overlay_read_only() {
    let Some(bench) = Bench::new("root_overlay_read_only") else { return };
    let (image, target, upper, work) = (bench.at("image"), bench.at("mnt"), bench.at("u"), bench.at("w"));
    let request = MountRequest {
        upper: Some(&upper),
        work: Some(&work),
        attrs: MountAttrs { read_only: true, ..MountAttrs::default() },
        ..bench.request(&image, &target)
    };
    mount(&request, &mut accept).unwrap();
    let denied = fs::write(target.join("new"), "").unwrap_err();
    assert_eq!(Errno::from_io_error(&denied), Some(Errno::ROFS));
    assert!(bench.ours()[0].read_only);
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_overlay_each_way_of_naming_the_lower_layer() {
    let Some(bench) = Bench::new("root_overlay_each_way_of_naming_the_lower_layer") else { return };
    let image = open_image(&bench.at("image")).unwrap();
    for naming in [Naming::Descriptor, Naming::PrivateMount] {
        for (upper, work) in [("u", "w"), (r"u\,:=", r"w\,:=")] {
            let device = LoopDevice::attach(image.as_fd(), &LoopOptions::default()).unwrap();
            let path = device.path();
            let source = Source::BlockDevice { fd: device.as_fd(), path: &path };
            let lower = detached_with(source, MountAttrs::default(), Pin::Try, &mut |_| {}).unwrap();
            let layers = Layers::open(&bench.at(upper), &bench.at(work)).unwrap();
            let name = OverlaySource { device: format!("loop{}", device.number()), image: bench.at("image") };
            let overlay = match overlay_with(naming, lower.as_fd(), &layers, &name, MountAttrs::default()) {
                Ok(overlay) => overlay,
                Err(e) if naming == Naming::Descriptor => {
                    println!("skipped: {} on this kernel: {e}", naming_text(naming));
                    continue;
                }
                Err(e) => panic!("{naming:?}: {e}"),
            };
            let target = Target::open(&bench.at("mnt")).unwrap();
            target.attach(overlay).unwrap();
            layers.keep();
            drop((lower, device));
            assert_eq!(bench.mounted().len(), 1);
            fs::write(bench.at("mnt").join("new"), naming_text(naming)).unwrap();
            assert_eq!(fs::read_to_string(bench.at(upper).join("new")).unwrap(), naming_text(naming));
            assert_eq!(bench.ours().len(), 1, "{naming:?}");
            umount(&bench.at("mnt"), UmountOptions::default()).unwrap();
            bench.assert_clean(naming_text(naming));
        }
    }
}

fn naming_text(naming: Naming) -> &'static str {
    match naming {
        Naming::Descriptor => "by descriptor",
        Naming::PrivateMount => "by private mount",
    }
}

/// An upper directory that overlayfs itself refuses: found only when everything else is made.
#[test]
fn root_overlay_refused_by_the_kernel_leaves_nothing() {
    let Some(bench) = Bench::new("root_overlay_refused_by_the_kernel_leaves_nothing") else { return };
    let (image, target, low) = (bench.at("image"), bench.at("mnt"), bench.at("low"));
    fs::create_dir(&low).unwrap();
    mount(&bench.request(&image, &low), &mut accept).unwrap();
    let before = bench.loops();
    // The root of a read-only file system as upper; made read-only, so that no directory is made in it.
    let work = bench.at("w");
    let request = MountRequest {
        via: Via::Loop,
        upper: Some(&low),
        work: Some(&work),
        ..bench.request(&image, &target)
    };
    assert!(matches!(mount(&request, &mut accept), Err(Error::Overlay { what: "work", .. })));
    assert!(!work.exists());
    assert_eq!(bench.mounted().len(), 1);
    assert_eq!(bench.loops(), before);
    umount(&low, UmountOptions::default()).unwrap();

    // Upper and work fit each other, but are an overlay's own mount: the kernel refuses late.
    let (u, w) = (bench.at("u"), bench.at("w"));
    let request = MountRequest { upper: Some(&u), work: Some(&w), ..bench.request(&image, &low) };
    mount(&request, &mut accept).unwrap();
    let (uu, ww) = (low.join("uu"), low.join("ww"));
    let request =
        MountRequest { via: Via::Loop, upper: Some(&uu), work: Some(&ww), ..bench.request(&image, &target) };
    match mount(&request, &mut accept) {
        Err(Error::Kernel { what, .. }) => assert_eq!(what, "mount overlay with upper"),
        other => panic!("{other:?}"),
    }
    assert!(!uu.exists() && !ww.exists());
    umount(&low, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

/// fsconfig takes 255 bytes: an image with a longer path is mounted over a loop device.
#[test]
fn root_long_paths() {
    let Some(bench) = Bench::new("root_long_paths") else { return };
    let deep = bench.at(&"d".repeat(150)).join("e".repeat(150));
    fs::create_dir_all(&deep).unwrap();
    let (image, target) = (deep.join("image"), deep.join("mnt"));
    let (upper, work) = (deep.join("u"), deep.join("w"));
    fs::rename(bench.at("image"), &image).unwrap();
    fs::create_dir(&target).unwrap();
    let request = bench.request(&image, &target);
    mount(&request, &mut accept).unwrap();
    assert_eq!(bench.ours()[0].image, image);
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("long path");
    let refused = mount(&MountRequest { via: Via::File, ..request }, &mut accept);
    assert!(matches!(refused, Err(Error::Kernel { errno: Errno::NAMETOOLONG, .. })), "{refused:?}");
    bench.assert_clean("long path refused");
    mount(&MountRequest { upper: Some(&upper), work: Some(&work), ..request }, &mut accept).unwrap();
    let listed = bench.ours();
    assert_eq!((listed.len(), &listed[0].image), (1, &image));
    fs::write(target.join("new"), "new").unwrap();
    assert_eq!(fs::read_to_string(upper.join("new")).unwrap(), "new");
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("long path, overlay");
}
