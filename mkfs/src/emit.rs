//! Writes a planned image: data, metadata, seal, tree, parity and trailer, front to back.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use mkimg_format::erofs::SuperblockFields;
use mkimg_format::trailer::Trailer;
use mkimg_format::verity::{Superblock as VeritySuperblock, as_uuid};
use mkimg_format::{BLOCK_LEN, Sha256};

use crate::compression::{Abilities, Compression};
use crate::contents::{Contents, Data};
use crate::copy::Copier;
use crate::dedup::{self, Dedup, Deduper};
use crate::error::{Error, Result};
use crate::fsverity::FsVerity;
use crate::image_writer::{self, ImageWriter};
use crate::metadata::write_metadata;
use crate::packer::{self, Packer};
use crate::parity::write_parity;
use crate::plan::{Documents, Plan};
use crate::progress::Stage;
use crate::sections::write_seal;

/// Everything that writing needs.
pub(crate) struct Emitter<'a, 'c> {
    /// Brings the contents, and knows where from and where to.
    pub copier: Copier<'a>,
    pub contents: &'c Contents,
    pub compression: Compression,
    pub dedup: Dedup,
    /// What the oldest kernel can do with compressed data.
    pub abilities: Abilities,
    pub documents: &'a Documents<'a>,
    /// Parity bytes of a codeword, or 0.
    pub fec_roots: u32,
    pub name: Option<&'a str>,
}

/// Where file data goes. Contents arrive in layout order.
pub(crate) trait DataSink: io::Write {
    /// The end of a content.
    fn end_content(&mut self) -> io::Result<()>;
}

impl DataSink for ImageWriter<'_> {
    fn end_content(&mut self) -> io::Result<()> {
        self.pad()
    }
}

/// Where contents get a place that is not known before.
trait PlacingSink: DataSink {
    /// The end of all contents: where each is, and their fs-verity digests.
    fn finish(self) -> io::Result<(Data, Vec<Sha256>)>;
}

impl DataSink for Packer<'_, '_> {
    fn end_content(&mut self) -> io::Result<()> {
        Packer::end_content(self)
    }
}

impl PlacingSink for Packer<'_, '_> {
    fn finish(self) -> io::Result<(Data, Vec<Sha256>)> {
        Packer::finish(self)
    }
}

impl DataSink for Deduper<'_, '_> {
    fn end_content(&mut self) -> io::Result<()> {
        Deduper::end_content(self);
        Ok(())
    }
}

impl PlacingSink for Deduper<'_, '_> {
    fn finish(self) -> io::Result<(Data, Vec<Sha256>)> {
        Deduper::finish(self)
    }
}

impl<'c> Emitter<'_, 'c> {
    /// An error of the output file.
    fn failed(&self, source: io::Error) -> Error {
        self.copier.output.error("cannot write", source)
    }

    /// Writes the image; returns the root hash and what was placed where.
    pub(crate) fn emit(self) -> Result<(Sha256, Plan<'c>)> {
        let Copier { output, threads, progress, .. } = self.copier;
        let (root_hash, plan) = match self.compression {
            Compression::None if self.dedup == Dedup::Files => self.emit_plain()?,
            _ => self.emit_placed()?,
        };
        let header = &plan.header;
        let place = |block: &[u8; BLOCK_LEN], offset| {
            output.file().write_all_at(block, offset).map_err(|source| self.failed(source))
        };
        place(&VeritySuperblock::new(header.data_blocks, &root_hash).to_block(), header.hash_offset())?;
        write_parity(output, header, threads, progress)?;
        place(&Trailer::new(header, root_hash).to_block(), header.trailer_offset())?;
        Ok((root_hash, plan))
    }

    /// Plans everything, and then writes it front to back.
    fn emit_plain(&self) -> Result<(Sha256, Plan<'c>)> {
        let Copier { flat, output, threads, memory, progress, .. } = self.copier;
        let failed = |source| self.failed(source);
        let plan = self.plan(self.contents.plain()?)?;
        let header = &plan.header;
        self.copier.with_room(|| output.reserve(header.image_size()))?;
        progress.begin(Stage::Copy, header.image_size());
        let block0 = self.first_block(&plan).map_err(failed)?;
        let fsverity = RefCell::new(FsVerity::new(&self.contents.list));
        let root_hash = std::thread::scope(|scope| {
            // Block 0 is no content.
            let mut first = true;
            let fsverity = &fsverity;
            let leaves = move |leaf: &Sha256| {
                if !std::mem::take(&mut first) {
                    fsverity.borrow_mut().push(leaf);
                }
            };
            let pending = memory.queue(threads, 1, image_writer::BUFFER as u64);
            let file = output.file();
            let mut image = ImageWriter::start(scope, file, Some(header), threads, pending, leaves)
                .map_err(|source| Error::Thread { source })?;
            image.write_all(&block0[..]).map_err(failed)?;
            self.copier.copy(self.contents, &mut image)?;
            expect_position(&image, header.meta_block, "metadata")?;
            write_metadata(flat, &plan, &mut image).map_err(failed)?;
            image.drain().map_err(failed)?;
            // The seal's own leaves pass while it is written, so the digests are taken out first.
            let digests = fsverity.borrow_mut().take_digests();
            self.finish_seal(&plan, &digests, &mut image)?;
            image.finish().map_err(failed)
        })?;
        Ok((root_hash, plan))
    }

    /// Writes the contents, plans the rest behind them, and writes that, block 0 last.
    fn emit_placed(&self) -> Result<(Sha256, Plan<'c>)> {
        let Copier { flat, output, threads, memory, progress, .. } = self.copier;
        let failed = |source| self.failed(source);
        self.copier.spare_room(self.contents);
        progress.begin(Stage::Copy, self.contents.list.iter().map(|content| content.size).sum());
        std::thread::scope(|scope| {
            let thread = |source| Error::Thread { source };
            let (file, contents) = (output.file(), &self.contents.list);
            let queue = |size: usize| memory.queue(threads, 2, size as u64);
            let pending = queue(image_writer::BUFFER);
            let mut image =
                ImageWriter::start(scope, file, None, threads, pending, |_: &Sha256| {}).map_err(thread)?;
            image.write_all(&[0; BLOCK_LEN]).map_err(failed)?;
            let (data, digests) = match self.dedup {
                Dedup::Blocks => {
                    let pending = queue(dedup::BATCH);
                    self.copy_placed(Deduper::start(scope, &mut image, contents, threads, pending))?
                }
                Dedup::Files => self.copy_placed(Packer::start(
                    scope,
                    &mut image,
                    contents,
                    self.compression,
                    self.abilities,
                    threads,
                    queue(packer::BATCH_MEMORY),
                ))?,
            };
            let plan = self.plan(data)?;
            output.reserve(plan.header.image_size())?;
            expect_position(&image, plan.header.meta_block, "metadata")?;
            write_metadata(flat, &plan, &mut image).map_err(failed)?;
            self.finish_seal(&plan, &digests, &mut image)?;
            let block0 = self.first_block(&plan).map_err(failed)?;
            image.place(&plan.header, &block0).map_err(failed)?;
            Ok((image.finish().map_err(failed)?, plan))
        })
    }

    /// Copies the contents to where they find a place.
    fn copy_placed(&self, sink: io::Result<impl PlacingSink>) -> Result<(Data, Vec<Sha256>)> {
        let mut sink = sink.map_err(|source| Error::Thread { source })?;
        self.copier.copy(self.contents, &mut sink)?;
        sink.finish().map_err(|source| self.failed(source))
    }

    /// Plans what stands behind the contents.
    fn plan(&self, data: Data) -> Result<Plan<'c>> {
        let mut plan =
            Plan::new(self.copier.flat, self.documents, self.contents, data, self.compression.algorithm())?;
        plan.header = plan.header.with_fec(self.fec_roots);
        Ok(plan)
    }

    /// Writes the seal, which ends the protected area.
    fn finish_seal(&self, plan: &Plan<'_>, digests: &[Sha256], image: &mut ImageWriter<'_>) -> Result<()> {
        expect_position(image, plan.header.seal_block, "seal")?;
        write_seal(self.copier.flat, plan, self.documents, digests, image)
            .map_err(|source| self.failed(source))?;
        expect_position(image, plan.header.data_blocks, "verity superblock")
    }

    /// Block 0: header and superblock.
    fn first_block(&self, plan: &Plan<'_>) -> io::Result<Box<[u8; BLOCK_LEN]>> {
        let mut block = Box::new([0; BLOCK_LEN]);
        block[..512].copy_from_slice(&plan.header.to_bytes());
        let narrow = |value: u64| u32::try_from(value).map_err(io::Error::other);
        let root = plan.inodes.first().map_or(0, |root| root.nid);
        let epoch = plan.superblock_epoch();
        SuperblockFields {
            root: u16::try_from(root).map_err(io::Error::other)?,
            inodes: plan.inodes.len() as u64,
            epoch: epoch.sec.cast_unsigned(),
            fixed_nsec: epoch.nsec,
            blocks: narrow(plan.header.data_blocks)?,
            meta_block: narrow(plan.header.meta_block)?,
            xattr_block: plan.xattr_block,
            uuid: self.uuid(plan)?,
            volume_name: label(self.name.unwrap_or_default()),
            packed: plan.packed.as_ref().map(|(nid, _)| (*nid).into()),
            features: plan.features,
        }
        .write(&mut block);
        Ok(block)
    }

    /// UUID of an image: a hash over everything that decides its bytes.
    fn uuid(&self, plan: &Plan<'_>) -> io::Result<[u8; 16]> {
        let mut hasher = blake3::Hasher::new_derive_key("mkimg 2026-11 uuid of an image");
        hasher.update(self.documents.statement);
        for content in plan.contents() {
            hasher.update(
                &self.copier.flat.file(content.layer, content.file).map_or([0; 32], |file| file.blake3),
            );
        }
        write_metadata(self.copier.flat, plan, &mut hasher)?;
        let mut uuid = [0; 16];
        hasher.finalize_xof().fill(&mut uuid);
        Ok(as_uuid(uuid))
    }
}

/// The plan and what was written must agree to the byte.
fn expect_position(image: &ImageWriter<'_>, block: u64, what: &'static str) -> Result<()> {
    let (found, planned) = (image.position(), block * mkimg_format::BLOCK_SIZE);
    if found == planned { Ok(()) } else { Err(Error::Layout { what, found, planned }) }
}

/// As much of a name as a label holds: 15 bytes, whole characters, and nothing that could not be shown.
fn label(name: &str) -> [u8; 16] {
    let mut label = [0; 16];
    let name = name.split(char::is_control).next().unwrap_or_default();
    let end = (0..=name.len().min(15)).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    label[..end].copy_from_slice(&name.as_bytes()[..end]);
    label
}
