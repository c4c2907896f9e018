//! Writes the seal.

use std::io;

use mkimg_format::Sha256;
use mkimg_format::seal::{Content, DeletedRecord, InodeRecord, LayerRecord, Section};
use zerocopy::IntoBytes as _;

use crate::flatten::Flat;
use crate::image_writer::ImageWriter;
use crate::plan::{Documents, Plan};

/// Writes the table and all sections.
///
/// # Errors
/// What the writer reports.
pub(crate) fn write_seal(
    flat: &Flat,
    plan: &Plan<'_>,
    documents: &Documents<'_>,
    fsverity: &[Sha256],
    out: &mut ImageWriter<'_>,
) -> io::Result<()> {
    use io::Write as _;
    out.write_all(&plan.seal.to_block()[..])?;
    for section in Section::ALL {
        match section {
            Section::Statement => out.write_all(documents.statement)?,
            Section::Manifest => out.write_all(documents.manifest)?,
            Section::Config => out.write_all(documents.config)?,
            Section::Contents => {
                for (content, digest) in plan.contents().iter().zip(fsverity) {
                    let record = Content {
                        blake3: flat.file(content.layer, content.file).map_or([0; 32], |file| file.blake3),
                        fsverity: *digest,
                        size: content.size.into(),
                        reserved: 0.into(),
                    };
                    out.write_all(record.as_bytes())?;
                }
            }
            Section::Inodes => {
                for placed in &plan.inodes {
                    let record = InodeRecord {
                        nid: u64::from(placed.nid).into(),
                        layer: flat.tree.inode(placed.id).layer.into(),
                        content: placed.content.into(),
                    };
                    out.write_all(record.as_bytes())?;
                }
            }
            Section::Layers => {
                for layer in &flat.waste.layers {
                    let visible = layer.visible();
                    let record = LayerRecord {
                        shipped: layer.shipped.bytes.into(),
                        visible: visible.bytes.into(),
                        shadowed: layer.shadowed.bytes.into(),
                        deleted: layer.deleted.bytes.into(),
                        shipped_files: layer.shipped.files.into(),
                        visible_files: visible.files.into(),
                        shadowed_files: layer.shadowed.files.into(),
                        deleted_files: layer.deleted.files.into(),
                    };
                    out.write_all(record.as_bytes())?;
                }
            }
            Section::Deleted => {
                let mut offset = 0;
                for deleted in &flat.waste.deleted {
                    let record = DeletedRecord {
                        size: deleted.size.into(),
                        path_offset: offset.into(),
                        path_len: u32::try_from(deleted.path.len()).map_err(io::Error::other)?.into(),
                        layer: deleted.layer.into(),
                        deleted_by: deleted.deleted_by.into(),
                        reserved: 0.into(),
                    };
                    offset += deleted.path.len() as u64;
                    out.write_all(record.as_bytes())?;
                }
            }
            Section::Paths => {
                flat.waste.deleted.iter().try_for_each(|deleted| out.write_all(&deleted.path))?;
            }
        }
        out.pad()?;
    }
    Ok(())
}
