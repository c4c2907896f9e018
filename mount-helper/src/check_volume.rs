//! The look at an image of another writer that comes before its mount.

use std::fs::File;
use std::num::NonZeroUsize;
use std::time::SystemTime;

use mkimg_format::erofs::{FileSystem, escape};
use mkimg_format::sound;
use mkimg_format::volume::{Joined, Place, Volume, is_of_others};
use mkimg_format::{BLOCK_SIZE, Error, Problem, ReadAt, hex};
use mkimg_sign::{Anchor, Trust};
use mkimg_verify::{Options, verify_volume};

use crate::check::clean;
use crate::policy::{CheckedImage, VerityPolicy};

const NO_SIGNATURE: &str = "there is no PKCS#7 signature for the kernel; give one with --signature";

/// Does for an image of another writer what [`check_trusted`](crate::check_trusted) does for one of mkimg; its tree is in
/// the same file.
///
/// Structure has to be sound, and of forms that mkimg reads throughout: what it does not know it could not check before the
/// kernel parses it.
///
/// # Errors
/// Why the image must not be mounted, for the user to read.
pub fn check_volume(
    image: &File,
    place: Place,
    policy: VerityPolicy,
    trust: &Trust,
    kernel_signature: bool,
    threads: NonZeroUsize,
    progress: Option<&(dyn Fn(u64, u64) + Sync)>,
) -> Result<(CheckedImage, Option<Anchor>), String> {
    let fail = |error: Error| error.to_string();
    if !is_of_others(image).map_err(fail)? {
        return Err(
            "is no EROFS image of another writer; one of mkimg says itself where its tree is".to_owned()
        );
    }
    let joined = Joined::new(image, None::<&File>);
    let volume = Volume::open(&joined, place).map_err(|error| no_tree(error, place))?;
    let claimed = volume.claimed_root(&joined).map_err(fail)?;
    let anchor = trust.anchor_root(claimed, SystemTime::now()).map_err(|refusal| refusal.to_string())?;
    let root_hash = anchor.as_ref().map(|anchor| anchor.root_hash);
    if let Some(wanted) = root_hash.filter(|wanted| *wanted != claimed) {
        return Err(format!("root hash is {}, wanted is {}", hex(&claimed), hex(&wanted)));
    }
    if policy == VerityPolicy::Once {
        let report = verify_volume(&joined, &volume, &Options { root_hash, threads, progress });
        clean(&report.map_err(|error| error.to_string())?)?;
    }
    let stated = volume.parameters.data_blocks;
    if stated != volume.data_blocks {
        return Err(format!(
            "data_blocks of the verity superblock is {stated}, the image has {}; see mkimg verify",
            volume.data_blocks
        ));
    }
    if let Some(length) = volume.file_system.filter(|length| *length > volume.data_end()) {
        return Err(format!("the file system has {length} bytes, the tree covers {}", volume.data_end()));
    }
    check_structure(&joined)?.map_or(Ok(()), |unknown| Err(by_hand(&unknown, &volume, &hex(&claimed))))?;
    let signature = kernel_signature.then(|| trust.sidecar_pkcs7().ok_or(NO_SIGNATURE)).transpose()?;
    let checked = CheckedImage {
        root_hash: claimed,
        salt: volume.parameters.salt.clone(),
        data_blocks: volume.data_blocks,
        hash_offset: volume.tree_offset().saturating_sub(BLOCK_SIZE),
        signature: signature.map(|pkcs7| pkcs7.as_der().to_vec()),
        fec: None,
    };
    Ok((checked, anchor))
}

/// Why there is no tree to check with.
fn no_tree(error: Error, place: Place) -> String {
    match (&error, place) {
        (Error::Corrupt { problem: Problem::Magic | Problem::OutOfBounds { .. }, .. }, Place::At(offset)) => {
            format!("there is no dm-verity superblock at byte {offset}")
        }
        (Error::Corrupt { problem: Problem::Magic | Problem::OutOfBounds { .. }, .. }, Place::Usual) => {
            "mkimg has not written this image, and there is no dm-verity superblock behind its file system; it has to be in the same file, and --hash-offset says where else".to_owned()
        }
        _ => error.to_string(),
    }
}

/// What the reader does not know of a file system that is sound otherwise.
fn check_structure(image: &impl ReadAt) -> Result<Option<String>, String> {
    let fs = match FileSystem::open(image) {
        Ok(fs) => fs,
        Err(error @ Error::Unsupported { .. }) => return Ok(Some(error.to_string())),
        Err(error) => return Err(error.to_string()),
    };
    let mut first: Option<(Vec<u8>, Error)> = None;
    let unread = sound::check(&fs, &mut |path, error| {
        first.get_or_insert((path, error));
    });
    let unread = unread.map_err(|error| error.to_string())?;
    match first {
        Some((path, error)) => Err(format!("{}: {error}", escape(&path))),
        None => Ok(unread.first),
    }
}

/// What mounts an image whose structure cannot be checked, at its owner's risk.
fn by_hand(reason: &str, volume: &Volume, root_hash: &str) -> String {
    let offset = volume.hash_offset;
    format!(
        "its structure cannot be checked before the kernel parses it: {reason}; without that check: veritysetup open IMAGE NAME IMAGE {root_hash} --hash-offset={offset}, and mount /dev/mapper/NAME"
    )
}
