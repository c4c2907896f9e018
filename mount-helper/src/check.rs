//! The look at an image that comes before its mount.

use std::fs::File;
use std::num::NonZeroUsize;
use std::time::SystemTime;

use mkimg_format::detached::Sealed;
use mkimg_format::erofs::escape;
use mkimg_format::fec::Layout;
use mkimg_format::header::Header;
use mkimg_format::lint::{self, lint};
use mkimg_format::salt::Salt;
use mkimg_format::trailer::Trailer;
use mkimg_format::volume::{Place, is_of_others};
use mkimg_format::{Sha256, hex};
use mkimg_sign::{Anchor, Trust};
use mkimg_verify::{Options, Report, verify_image};

use crate::check_volume::check_volume;
use crate::policy::{CheckedImage, VerityPolicy};

/// Asks who vouches for an open image, and then does what [`check_image`] does against the root hash that comes of it.
///
/// An image of another writer, with its tree behind the file system, is checked by [`check_volume`].
///
/// With `kernel_signature` the kernel is going to be given the PKCS#7 signature of the image, or else of a file.
///
/// # Errors
/// Why the image must not be mounted, for the user to read.
pub fn check_trusted(
    image: &File,
    policy: VerityPolicy,
    trust: &Trust,
    kernel_signature: bool,
    threads: NonZeroUsize,
    progress: Option<&(dyn Fn(u64, u64) + Sync)>,
) -> Result<(CheckedImage, Option<Anchor>), String> {
    refuse_other_forms(image)?;
    if is_of_others(image).map_err(|error| error.to_string())? {
        return check_volume(image, Place::Usual, policy, trust, kernel_signature, threads, progress);
    }
    let anchor = trust.anchor(image, SystemTime::now()).map_err(|refusal| refusal.to_string())?;
    let root_hash = anchor.as_ref().map(|anchor| anchor.root_hash);
    let mut checked = check_image(image, policy, root_hash, threads, progress)?;
    if kernel_signature {
        let trailer = Trailer::read(image).map_err(|error| error.to_string())?;
        let pkcs7 = trust.signatures(&trailer).pkcs7.into_iter().next();
        let pkcs7 = pkcs7.ok_or("has no PKCS#7 signature for the kernel; make one with mkimg sign --cert")?;
        checked.signature = Some(pkcs7.as_der().to_vec());
    }
    if let Some(anchor) = &anchor {
        anchor.admit().map_err(|error| error.to_string())?;
    }
    Ok((checked, anchor))
}

/// Refuses what is no image by itself. One in a partition is mounted from there, which is not what any option here is about.
fn refuse_other_forms(image: &File) -> Result<(), String> {
    let reason = match Sealed::open(image) {
        Ok(sealed) if sealed.is_detached() => "is a detached seal; mount the image itself",
        Ok(sealed) if sealed.disk().is_some() => {
            "is a disk with an image in it: mount it with systemd-dissect --mount, or mount the image itself"
        }
        Ok(_) => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    Err(reason.to_owned())
}

/// Audits an open image as far as a policy asks for it: completely for [`VerityPolicy::Once`], otherwise its
/// structure alone, so that the kernel's parser meets nothing that mkimg does not write.
///
/// # Errors
/// Why the image must not be mounted, for the user to read.
pub fn check_image(
    image: &File,
    policy: VerityPolicy,
    root_hash: Option<Sha256>,
    threads: NonZeroUsize,
    progress: Option<&(dyn Fn(u64, u64) + Sync)>,
) -> Result<CheckedImage, String> {
    let fail = |error: mkimg_format::Error| error.to_string();
    if policy == VerityPolicy::Once {
        let report = verify_image(image, &Options { root_hash, threads, progress })
            .map_err(|error| error.to_string())?;
        clean(&report)?;
        // An audit that is clean has read these already; they are small.
    }
    let header = Header::read(image).map_err(fail)?;
    let trailer = Trailer::read(image).map_err(fail)?;
    if !Trailer::new(&header, trailer.root_hash).same_tree(&trailer) {
        return Err("header and trailer do not agree; see mkimg verify".to_owned());
    }
    if let Some(wanted) = root_hash.filter(|wanted| *wanted != trailer.root_hash) {
        return Err(format!("root hash is {}, wanted is {}", hex(&trailer.root_hash), hex(&wanted)));
    }
    if policy != VerityPolicy::Once {
        let mut first: Option<lint::Finding> = None;
        lint(image, &header, &mut |finding| {
            first.get_or_insert(finding);
        })
        .map_err(fail)?;
        if let Some(finding) = first {
            return Err(format!("{} at byte {}: {}", finding.part, finding.offset, finding.problem));
        }
    }
    Ok(CheckedImage {
        root_hash: trailer.root_hash,
        salt: Salt::NONE,
        data_blocks: header.data_blocks,
        hash_offset: header.hash_offset(),
        signature: None,
        fec: Layout::of(&header),
    })
}

/// What the first finding of an audit is, if there is any.
pub(crate) fn clean(report: &Report) -> Result<(), String> {
    if report.is_clean() {
        return Ok(());
    }
    let first = report.findings.first().map_or_else(String::new, |finding| {
        let place = finding.paths.first().map_or_else(String::new, |path| format!(" ({})", escape(path)));
        format!(": {} at byte {}{place}: {}", finding.region, finding.offset, finding.problem)
    });
    let (count, s) = (report.findings.len(), if report.findings.len() == 1 { "" } else { "s" });
    Err(format!("the audit has {count} finding{s}{first}; see mkimg verify"))
}
