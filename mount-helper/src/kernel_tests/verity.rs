//! dm-verity, on kernels that have it.

use super::*;
use mkimg_kernel::dm::OnCorruption;

#[test]
fn root_verity_kernel_never_downgrades() {
    let Some(bench) = Bench::new("root_verity_kernel_never_downgrades") else { return };
    if dm::available().is_ok() {
        println!("skipped: root_verity_kernel_never_downgrades needs a kernel without dm-verity");
        return;
    }
    let (image, target) = (bench.at("image"), bench.at("mnt"));
    let called = Cell::new(false);
    let base = bench.request(&image, &target);
    for (policy, on_corruption) in [
        (VerityPolicy::Kernel, None),
        (VerityPolicy::Kernel, Some(OnCorruption::Eio)),
        (VerityPolicy::Auto, Some(OnCorruption::Eio)),
        (VerityPolicy::Auto, Some(OnCorruption::Restart)),
        (VerityPolicy::Auto, Some(OnCorruption::Panic)),
        (VerityPolicy::Once, Some(OnCorruption::Eio)),
        (VerityPolicy::Off, Some(OnCorruption::Panic)),
    ] {
        let result = mount(&MountRequest { policy, on_corruption, ..base }, &mut |_, _| {
            called.set(true);
            Ok(CHECKED)
        });
        let case = format!("{policy:?}, {on_corruption:?}: {result:?}");
        if matches!(policy, VerityPolicy::Once | VerityPolicy::Off) {
            assert!(matches!(result, Err(Error::Usage { .. })), "{case}");
        } else {
            assert!(matches!(result, Err(Error::System(System::VerityUnavailable(_)))), "{case}");
        }
        assert!(!called.get(), "{case}");
        bench.assert_clean(&case);
    }

    let request = MountRequest { policy: VerityPolicy::Auto, ..base };
    let mounted = mount(&request, &mut accept).unwrap();
    assert_eq!((mounted.policy, mounted.on_corruption), (VerityPolicy::Once, None));
    assert!(mounted.guarantee.contains("not noticed by the kernel"), "{}", mounted.guarantee);
    umount(&target, UmountOptions::default()).unwrap();
    bench.assert_clean("after umount");
}

/// Appends a hash tree with veritysetup; the oracle for what the kernel is handed.
fn seal(image: &Path) -> Option<CheckedImage> {
    let size = fs::metadata(image).unwrap().len().next_multiple_of(4096);
    File::options().write(true).open(image).unwrap().set_len(size).unwrap();
    let made = Command::new("veritysetup")
        .args(["format", "--salt=-", "--data-block-size=4096", "--hash-block-size=4096"])
        .arg(format!("--data-blocks={}", size / 4096))
        .arg(format!("--hash-offset={size}"))
        .args([image, image])
        .output()
        .ok()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = String::from_utf8(made.stdout).unwrap();
    let hex = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();
    let mut root_hash = [0u8; 32];
    for (index, byte) in root_hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap();
    }
    Some(CheckedImage {
        root_hash,
        data_blocks: size / 4096,
        hash_offset: size,
        salt: Salt::NONE,
        signature: None,
        fec: None,
    })
}

/// dm-verity from end to end: good, shared, damaged, wrong root hash.
#[test]
fn root_dm_verity() {
    let Some(bench) = Bench::new("root_dm_verity") else { return };
    if let Err(reason) = dm::available() {
        println!("skipped: root_dm_verity needs dm-verity: {reason}");
        return;
    }
    let text = "sealed ".repeat(4096);
    let image = bench.make_image("sealed", &text);
    let Some(checked) = seal(&image) else {
        println!("skipped: root_dm_verity needs veritysetup");
        return;
    };
    let (target, second) = (bench.at("mnt"), bench.at("mnt2"));
    fs::create_dir(&second).unwrap();
    let name = format!("mkimg-{}", mkimg_format::hex(&checked.root_hash));
    // Deferred removal is done by a kernel thread.
    let gone = |name: &str, context: &str| {
        for _ in 0..100 {
            if dm::status(name).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let status = dm::status(name);
        assert!(
            matches!(status, Err(System::DeviceMapper { errno: Errno::NXIO, .. })),
            "{context}: {status:?}"
        );
        bench.assert_clean(context);
    };
    for policy in [VerityPolicy::Kernel, VerityPolicy::Auto] {
        let request = MountRequest { policy, ..bench.request(&image, &target) };
        let mounted = mount(&request, &mut |_, told| {
            assert_eq!(told, VerityPolicy::Kernel);
            Ok(checked.clone())
        })
        .unwrap();
        assert_eq!(mounted.policy, VerityPolicy::Kernel);
        assert!(
            mounted.how.starts_with(&format!("EROFS on dm-verity device {name}, over loop")),
            "{}",
            mounted.how
        );
        assert_eq!(content(&target), text);
        assert_eq!(dm::status(&name).unwrap().split(' ').next(), Some("V"));
        let listed = bench.ours();
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].image, image);
        match &listed[0].backing {
            Backing::Dm { name: found, loop_number, .. } => {
                assert_eq!((found, *loop_number), (&name, Some(bench.loops()[0].0)));
            }
            other => panic!("{other:?}"),
        }
        // A second mount shares the device and needs no loop device of its own.
        let shared =
            mount(&MountRequest { target: &second, ..request }, &mut |_, _| Ok(checked.clone())).unwrap();
        assert!(shared.how.contains("shared with an earlier mount"), "{}", shared.how);
        assert_eq!(content(&second), text);
        umount(&target, UmountOptions::default()).unwrap();
        assert_eq!(content(&second), text);
        umount(&second, UmountOptions::default()).unwrap();
        gone(&name, "after both were unmounted");
    }

    // An overlay keeps device and loop, and is listed with both.
    let (upper, work) = (bench.at("u"), bench.at("w"));
    let request = MountRequest {
        policy: VerityPolicy::Kernel,
        upper: Some(&upper),
        work: Some(&work),
        ..bench.request(&image, &target)
    };
    mount(&request, &mut |_, _| Ok(checked.clone())).unwrap();
    assert_eq!(content(&target), text);
    assert!(matches!(&bench.ours()[0].backing, Backing::Dm { name: found, .. } if *found == name));
    assert_eq!(bench.ours()[0].image, image);
    umount(&target, UmountOptions::default()).unwrap();
    gone(&name, "after the overlay was unmounted");

    // Another root hash: not even the superblock can be read.
    let request = MountRequest { policy: VerityPolicy::Kernel, ..bench.request(&image, &target) };
    let wrong = CheckedImage { root_hash: [7; 32], ..checked.clone() };
    let error = mount(&request, &mut |_, _| Ok(wrong.clone())).unwrap_err();
    assert!(matches!(error, Error::Kernel { .. }), "{error}");
    gone(&format!("mkimg-{}", "07".repeat(32)), "after the wrong root hash");
    let odd = CheckedImage { hash_offset: checked.hash_offset + 1, ..checked.clone() };
    assert!(matches!(
        mount(&request, &mut |_, _| Ok(odd.clone())),
        Err(Error::System(System::VerityParameter { .. }))
    ));
    let outside = CheckedImage { data_blocks: 1 << 40, ..checked.clone() };
    assert!(matches!(
        mount(&request, &mut |_, _| Ok(outside.clone())),
        Err(Error::System(System::DeviceMapper { .. }))
    ));
    gone(&name, "after parameters that do not fit");

    // One damaged block of data: the rest is readable, it is not, and the status says so.
    let bytes = fs::read(&image).unwrap();
    let at = bytes.windows(14).position(|window| window == b"sealed sealed ").unwrap();
    File::options().write(true).open(&image).unwrap().write_all_at(b"X", u64::try_from(at).unwrap()).unwrap();
    mount(&request, &mut |_, _| Ok(checked.clone())).unwrap();
    let error = fs::read(target.join("content")).unwrap_err();
    assert_eq!(Errno::from_io_error(&error), Some(Errno::IO));
    assert_eq!(dm::status(&name).unwrap().split(' ').next(), Some("C"));
    umount(&target, UmountOptions::default()).unwrap();
    gone(&name, "after the damaged image");
}
