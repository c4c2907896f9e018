//! `mkimg mount`, `mkimg umount`, `mkimg mounts`

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use mkimg_format::volume::Place;
use mkimg_kernel::dm::{self, VerityTable};
use mkimg_kernel::mounts::{Backing, mounts};
use mkimg_mount::{
    MountAttrs, MountRequest, UmountOptions, VerityPolicy, Via as MountVia, check_trusted, check_volume,
};
use serde::Serialize;

use super::record::Recording;
use crate::args::{MountArgs, MountsArgs, OnCorruption, UmountArgs, Verity, Via};
use crate::output::{json_line, show, stdout};
use crate::progress::Bar;
use crate::trust::Anchored;

#[derive(Serialize)]
struct Outcome<'a> {
    image: String,
    target: String,
    verity: &'static str,
    how: &'a str,
    guarantee: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_corruption: Option<&'static str>,
    #[serde(flatten)]
    anchored: Anchored,
}

pub(crate) fn run(args: &MountArgs) -> Result<ExitCode> {
    let kernel_only =
        [("--kernel-signature", args.kernel_signature), ("--on-corruption", args.on_corruption.is_some())];
    let kernel_only = kernel_only.into_iter().find(|(_, given)| *given);
    let request = MountRequest {
        image: &args.image,
        target: &args.target,
        upper: args.upper.as_deref(),
        work: args.work.as_deref(),
        policy: match (args.verity, kernel_only) {
            (Verity::Once | Verity::Off, Some((option, _))) => bail!("{option} needs --verity kernel"),
            (Verity::Kernel, _) | (Verity::Auto, Some(_)) => VerityPolicy::Kernel,
            (Verity::Auto, None) => VerityPolicy::Auto,
            (Verity::Once, None) => VerityPolicy::Once,
            (Verity::Off, None) => VerityPolicy::Off,
        },
        on_corruption: args.on_corruption.map(|policy| match policy {
            OnCorruption::Eio => dm::OnCorruption::Eio,
            OnCorruption::Restart => dm::OnCorruption::Restart,
            OnCorruption::Panic => dm::OnCorruption::Panic,
        }),
        via: match args.via {
            Via::Auto => MountVia::Auto,
            Via::File => MountVia::File,
            Via::Loop => MountVia::Loop,
        },
        attrs: MountAttrs::default(),
    };
    let threads = super::threads(None);
    let bar = Bar::new();
    let advance = |done, total| bar.show("check", done, total);
    let trust = args.trust.trust()?;
    let mut by = None;
    let mut check = |file: &File, policy| {
        let (signature, progress) = (args.kernel_signature, Some(&advance as _));
        let (checked, anchor) = match args.hash_offset {
            None => check_trusted(file, policy, &trust, signature, threads, progress)?,
            Some(at) => check_volume(file, Place::At(at), policy, &trust, signature, threads, progress)?,
        };
        by = anchor.map(|anchor| anchor.by);
        Ok(checked)
    };
    let recording = args.record.as_deref().map(Recording::prepare).transpose()?;
    let mounted = match &recording {
        None => mkimg_mount::mount(&request, &mut check).map(|mounted| (mounted, None)),
        Some(_) => mkimg_mount::mount_and_record(&request, &mut check)
            .map(|(mounted, recorder)| (mounted, Some(recorder))),
    };
    bar.clear();
    let (mounted, recorder) = mounted?;
    let mut out = stdout();
    if args.json {
        let outcome = Outcome {
            image: lossy(&args.image),
            target: lossy(&mounted.target),
            verity: match mounted.policy {
                VerityPolicy::Kernel => "kernel",
                VerityPolicy::Once => "once",
                _ => "off",
            },
            how: &mounted.how,
            guarantee: &mounted.guarantee,
            on_corruption: mounted.on_corruption.map(dm::OnCorruption::word),
            anchored: Anchored::new(by.is_some(), by.as_ref()),
        };
        json_line(&mut out, &outcome)?;
    } else {
        writeln!(out, "{}: {}", show(&mounted.target), mounted.how)?;
        if let Some(by) = by {
            writeln!(out, "{}: vouched for by {}", show(&args.image), by)?;
        }
        writeln!(out, "{}", mounted.guarantee)?;
    }
    out.flush()?;
    match recording.zip(recorder) {
        Some((recording, recorder)) => recording.run(recorder, args.json),
        None => Ok(ExitCode::SUCCESS),
    }
}

pub(crate) fn umount(args: &UmountArgs) -> Result<ExitCode> {
    mkimg_mount::umount(&args.target, UmountOptions { lazy: args.lazy, force: false })?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Line {
    target: String,
    image: String,
    device: String,
    upper: Option<String>,
    read_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_signature: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    on_corruption: Option<&'static str>,
}

pub(crate) fn list(args: &MountsArgs) -> Result<ExitCode> {
    let mut out = stdout();
    for mount in mounts()? {
        // Only root may ask device-mapper.
        let table = match &mount.backing {
            Backing::Dm { name, .. } => VerityTable::of(name).ok(),
            _ => None,
        };
        let line = Line {
            target: lossy(&mount.target),
            image: lossy(&mount.image),
            device: match &mount.backing {
                Backing::File => "file".to_owned(),
                Backing::Loop(number) => format!("loop{number}"),
                Backing::Dm { name, .. } => name.clone(),
                _ => "device".to_owned(),
            },
            upper: mount.upper.as_deref().map(lossy),
            read_only: mount.read_only,
            kernel_signature: table.as_ref().map(VerityTable::is_signed),
            on_corruption: table.as_ref().map(VerityTable::on_corruption),
        };
        if args.json {
            json_line(&mut out, &line)?;
        } else {
            let mode = if line.read_only { "ro" } else { "rw" };
            let (image, target) = (show(&mount.image), show(&mount.target));
            write!(out, "{image} on {target} ({}, {mode}", line.device)?;
            if let Some(upper) = &mount.upper {
                write!(out, ", upper {}", show(upper))?;
            }
            if line.kernel_signature == Some(true) {
                write!(out, ", signature accepted by the kernel")?;
            }
            if let Some(policy) = line.on_corruption {
                write!(out, ", on corruption {policy}")?;
            }
            writeln!(out, ")")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn lossy(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
