//! Loop devices: life, window, races.

use super::*;

#[test]
fn root_loop_mount_clears_itself() {
    let Some(bench) = Bench::new("root_loop_mount_clears_itself") else { return };
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let request =
        MountRequest { via: Via::Loop, policy: VerityPolicy::Off, ..bench.request(&image, &target) };
    let mounted = mount(&request, &mut accept).unwrap();
    assert!(mounted.how.starts_with("EROFS on loop"), "{}", mounted.how);
    assert!(mounted.guarantee.starts_with("not checked"), "{}", mounted.guarantee);
    assert_eq!(content(&target), "good");
    let loops = bench.loops();
    assert_eq!(loops.len(), 1);
    let (number, backing) = &loops[0];
    assert_eq!(backing, &image);
    assert_eq!(LoopDevice::backing(*number).as_ref(), Some(&image));
    let sys = |name: &str| fs::read_to_string(format!("/sys/block/loop{number}/{name}")).unwrap();
    assert_eq!(sys("ro").trim(), "1");
    assert_eq!(sys("loop/autoclear").trim(), "1");
    assert_eq!(mounted.how.contains("direct I/O"), sys("loop/dio").trim() == "1");
    assert_eq!(bench.ours().len(), 1);
    assert_eq!(bench.ours()[0].backing, Backing::Loop(*number));
    assert_eq!(bench.ours()[0].image, image);

    // The header is read from the device: a deleted file is still recognised.
    fs::remove_file(&image).unwrap();
    assert_eq!(bench.ours().len(), 1);
    assert_eq!(bench.ours()[0].image, image);

    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

#[test]
fn root_loop_device_lives_as_long_as_its_users() {
    let Some(bench) = Bench::new("root_loop_device_lives_as_long_as_its_users") else { return };
    let image = open_image(&bench.at("image")).unwrap();
    for direct_io in [true, false] {
        let name = bench.at("image");
        let options = LoopOptions { direct_io, name: Some(&name), ..LoopOptions::default() };
        let device = LoopDevice::attach(image.as_fd(), &options).unwrap();
        assert_eq!(bench.loops(), [(device.number(), name.clone())]);
        assert!(direct_io || !device.direct_io());
        // Read-only even for root.
        let writer = rustix::fs::open(device.path(), OFlags::RDWR, rustix::fs::Mode::empty());
        let denied = writer.and_then(|fd| rustix::io::pwrite(fd, b"x", 0));
        assert!(matches!(denied, Err(Errno::ACCESS | Errno::ROFS | Errno::PERM)), "{denied:?}");
        let path = device.path();
        let mounted = detached_with(
            Source::BlockDevice { fd: device.as_fd(), path: &path },
            MountAttrs::default(),
            Pin::Try,
            &mut |_| {},
        )
        .unwrap();
        drop(device);
        assert_eq!(bench.loops().len(), 1);
        drop(mounted);
        bench.assert_clean("after the detached mount was dropped");
    }
}

#[test]
fn root_loop_offset_and_limit() {
    let Some(bench) = Bench::new("root_loop_offset_and_limit") else { return };
    let path = bench.at("bytes");
    let bytes: Vec<u8> = (0u32..8192).map(|i| u8::try_from(i / 512).unwrap()).collect();
    fs::write(&path, &bytes).unwrap();
    let options = LoopOptions { offset: 1024, size_limit: 2048, block_size: 512, ..LoopOptions::default() };
    let device = LoopDevice::attach(open_image(&path).unwrap().as_fd(), &options).unwrap();
    assert_eq!(fs::read(device.path()).unwrap(), bytes[1024..3072]);
    drop(device);
    bench.assert_clean("after drop");
}

#[test]
fn root_loop_race_for_a_free_device_is_retried() {
    let Some(bench) = Bench::new("root_loop_race_for_a_free_device_is_retried") else { return };
    let image = open_image(&bench.at("image")).unwrap();
    let options = LoopOptions::default();
    // Binds devices until the given one is taken, by us or by anybody else on this machine.
    let steal = |number: u32, thieves: &mut Vec<LoopDevice>| {
        while LoopDevice::backing(number).is_none() {
            thieves.push(LoopDevice::attach(image.as_fd(), &options).unwrap());
        }
    };
    let (mut thieves, mut tries) = (Vec::new(), 0);
    let device = LoopDevice::attach_with(image.as_fd(), &options, &mut |number| {
        tries += 1;
        if tries <= 3 {
            steal(number, &mut thieves);
        }
    })
    .unwrap();
    assert!(tries >= 4, "{tries}");
    assert!(thieves.iter().all(|thief| thief.number() != device.number()));
    drop(thieves);

    // Without end it is given up, and nothing is left.
    let mut thieves = Vec::new();
    let failed = LoopDevice::attach_with(image.as_fd(), &options, &mut |number| steal(number, &mut thieves));
    assert!(matches!(failed, Err(System::NoLoop { .. })), "{failed:?}");
    drop(thieves);
    drop(device);
    bench.assert_clean("after the race");
}
