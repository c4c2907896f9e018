//! Audits of live mounts.
//!
//! [`audit_mount`] looks at a mounted image from both sides: at what processes read through the mount now, and at the
//! bytes of the backing file below the page cache, which they will read later. Either can differ without the other: a
//! page that was read before the file was changed stays as it was, one that was not shows the change without any error.
//! What the kernel itself knows (mounts on top, a replaced backing file, the state of dm-verity) comes third.
//!
//! The mount is looked at first: reading it later could only bring damage into its cache that was not there.
//!
//! | module | question |
//! |---|---|
//! | `place` | what is mounted there, and what is the image behind it? |
//! | `backing` | is the file behind it still the one that was mounted? |
//! | `upper` | which directory of an overlay made a difference, and how? |

mod backing;
mod error;
mod place;
mod report;
mod upper;

use std::fs::File;
use std::path::Path;

use mkimg_format::detached::{Sealed, WithoutData};
use mkimg_format::header::Header;
use mkimg_format::volume::{Joined, Place as TreePlace, Volume, is_of_others};
use mkimg_kernel::dm::{self, VerityTable};
use mkimg_kernel::mounts::Backing;

pub use error::Error;
pub use report::{LiveReport, Problem, ProblemKind};

use self::backing::Stamp;
use self::place::Place;
use self::upper::Upper;
use crate::tree::scope::of_report;
use crate::tree::{Scope, TreeOptions, TreeReport, audit_scope};
use crate::{Finding, Options, Region, Report, verify_image, verify_volume};

/// How to audit a live mount.
#[derive(Clone, Copy, Default)]
pub struct LiveOptions<'a> {
    /// How to audit the tree that processes see.
    pub tree: TreeOptions<'a>,
    /// How to audit the bytes of the backing file; also says which root hash they must have.
    pub image: Options<'a>,
}

/// Audits the image behind the mount at `target`, and what is seen of it there.
///
/// # Errors
/// Nothing could be audited: no mount of an image is there, or it is only a part of one.
pub fn audit_mount(target: &Path, options: &LiveOptions<'_>) -> Result<LiveReport, Error> {
    let place = Place::find(target)?;
    let mut report = LiveReport::new(&place);
    report.problems.extend(place.covers.iter().cloned());
    let backing = backing::open(&place, &mut report);
    if let Some(file) = &backing {
        let before = Stamp::of(file);
        report.tree = tree_of(&place, file, options, &mut report)?;
        report.backing = image_of(file, &options.image, &mut report);
        if Stamp::of(file) != before {
            report.problem(
                ProblemKind::BackingChanging,
                "the backing file changed during the audit".to_owned(),
            );
        }
    } else {
        report.unseen.push(format!("what processes see: there are no records to compare it with; {HINT}"));
    }
    verity_of(&place, &mut report);
    Ok(report)
}

/// Whether there is an overlay between `target` and the image.
///
/// # Errors
/// As [`audit_mount`].
pub(crate) fn is_overlay(target: &Path) -> Result<bool, Error> {
    Ok(Place::find(target)?.overlay.is_some())
}

/// The file whose bytes are below the mount at `target`, if it can be had.
///
/// # Errors
/// As [`audit_mount`].
pub fn backing_file(target: &Path) -> Result<Option<File>, Error> {
    let place = Place::find(target)?;
    Ok(backing::open(&place, &mut LiveReport::new(&place)))
}

/// Audits what processes see at some paths of the mount at `target`; `None` when there are no records to compare with.
/// They are taken as they are: after an audit of everything, and until the backing file changes.
///
/// # Errors
/// As [`audit_mount`].
pub(crate) fn audit_scope_of_mount(
    target: &Path,
    scope: &Scope,
    options: &TreeOptions<'_>,
) -> Result<Option<TreeReport>, Error> {
    let place = Place::find(target)?;
    let mut report = LiveReport::new(&place);
    let Some(file) = backing::open(&place, &mut report).filter(|_| place.covers.is_empty()) else {
        return Ok(None);
    };
    let mut tree = seen(&place, &file, scope, options, &mut report)?;
    tree.unseen.append(&mut report.unseen);
    Ok(Some(tree))
}

/// Compares what is seen at some paths of a mount, and finds out which directories of an overlay made the differences.
fn seen(
    place: &Place,
    file: &File,
    scope: &Scope,
    options: &TreeOptions<'_>,
    report: &mut LiveReport,
) -> Result<TreeReport, Error> {
    let Some(overlay) = &place.overlay else {
        return Ok(audit_scope(file, &place.view(), scope, options)?);
    };
    let upper = Upper::open(overlay, place, options.cross_mounts, report)?;
    if scope.is_everything() {
        upper.settle();
    }
    let mut tree = audit_scope(file, &place.view(), scope, options)?;
    upper.explain(file, options, &mut tree)?;
    // The marks of all upper directories were looked at.
    tree.findings.retain(|found| scope.contains(of_report(&found.path)));
    Ok(tree)
}

/// What to do when the backing file is no help.
const HINT: &str = "compare it with a copy of the image or its seal: mkimg verify --seal SEAL DIR";

/// What processes see, compared with the records in the backing file.
fn tree_of(
    place: &Place,
    file: &File,
    options: &LiveOptions<'_>,
    report: &mut LiveReport,
) -> Result<Option<TreeReport>, Error> {
    let cannot = |report: &mut LiveReport, why: String| {
        report.unseen.push(format!("what processes see: {why}; {HINT}"));
        Ok(None)
    };
    if !place.covers.is_empty() {
        return cannot(report, "the image is hidden by another mount".to_owned());
    }
    if is_of_others(file).unwrap_or(false) {
        let why = "mkimg has not written this image, so there are no records to compare a mount with";
        report.unseen.push(format!("what processes see: {why}"));
        return Ok(None);
    }
    let opened = Sealed::open(file).and_then(|image| Ok((Header::read(&image)?, image)));
    let (header, image) = match opened {
        Ok(opened) => opened,
        Err(error) => return cannot(report, format!("the records cannot be found: {error}")),
    };
    // The records come first: a tree that equals forged records proves nothing.
    let records = WithoutData::new(&image, &header);
    match verify_image(&records, &Options { progress: None, ..options.image }) {
        Ok(checked) if are_whole(&checked) => {}
        Ok(_) => return cannot(report, "the records in the backing file cannot be trusted".to_owned()),
        Err(error) => return cannot(report, format!("the records cannot be read: {error}")),
    }
    seen(place, file, &Scope::everything(), &options.tree, report).map(Some)
}

/// Whether the records of an image can be trusted. What stands behind its end changes nothing about them.
fn are_whole(checked: &Report) -> bool {
    let behind = |finding: &Finding| finding.region == Region::Trailing;
    checked.complete && checked.truncated_findings == 0 && checked.findings.iter().all(behind)
}

/// The bytes of the backing file.
fn image_of(file: &File, options: &Options<'_>, report: &mut LiveReport) -> Option<Report> {
    backing::let_go(file);
    let audit = if is_of_others(file).unwrap_or(false) {
        let joined = Joined::new(file, None::<&File>);
        let volume = Volume::open(&joined, TreePlace::Usual)
            .map_err(|error| format!("no dm-verity tree that mkimg can check: {error}"));
        volume.and_then(|volume| verify_volume(&joined, &volume, options).map_err(|error| error.to_string()))
    } else {
        verify_image(file, options).map_err(|error| error.to_string())
    };
    match audit {
        Ok(audit) => Some(audit),
        Err(error) => {
            report.unseen.push(format!("the backing file: {error}"));
            None
        }
    }
}

/// What dm-verity says of what it has read so far, and whether it checks what it should.
fn verity_of(place: &Place, report: &mut LiveReport) {
    let Backing::Dm { name, .. } = &place.image.backing else { return };
    let shown = mkimg_format::erofs::escape(name.as_bytes());
    match dm::status(name) {
        Ok(status) => {
            if status.starts_with('C') {
                let text = format!(
                    "dm-verity device {shown} has met blocks that do not match their hash since it was made"
                );
                report.problem(ProblemKind::VerityCorrupted, text);
            }
            if let Some(blocks) = dm::corrected_blocks(&status).filter(|blocks| *blocks > 0) {
                let text = format!(
                    "dm-verity device {shown} has mended {blocks} damaged blocks from parity since it was made"
                );
                report.problem(ProblemKind::VerityCorrected, text);
            }
        }
        Err(error) => report.unseen.push(format!("the state of dm-verity: {error}")),
    }
    match VerityTable::of(name) {
        Ok(table) => {
            report.on_corruption = Some(table.on_corruption());
            let signed = table.is_signed().then_some("whose signature the kernel has accepted,");
            let at_damage = match table.on_corruption() {
                "restart" => Some("which restarts the machine at a damaged block,"),
                "panic" => Some("which makes the kernel panic at a damaged block,"),
                _ => None,
            };
            let clauses: Vec<&str> = signed.into_iter().chain(at_damage).collect();
            if !clauses.is_empty() {
                report.how.push_str(&format!(", {}", clauses.join(" ")));
            }
            for (word, effect) in table.weaknesses() {
                let word = mkimg_format::erofs::escape(word.as_bytes());
                let text = format!("dm-verity device {shown} was made with {word}: {effect}");
                report.problem(ProblemKind::VerityOptions, text);
            }
            if !table.whole {
                let text =
                    format!("dm-verity device {shown} checks only some of its {} blocks", table.data_blocks);
                report.problem(ProblemKind::VerityOptions, text);
            }
            let own = report.backing.as_ref();
            let own = own.map(|backing| (mkimg_format::hex(&backing.root_hash), backing.data_blocks));
            if own.is_some_and(|own| own != (table.root_hash.clone(), table.data_blocks)) {
                let text = format!(
                    "dm-verity device {shown} checks {} blocks against root hash {}",
                    table.data_blocks, table.root_hash
                );
                report.problem(ProblemKind::VerityRoot, text);
            }
        }
        Err(error) => report.unseen.push(format!("the table of dm-verity: {error}")),
    }
}
