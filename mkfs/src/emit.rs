//! Writes a planned image: data, metadata, seal, tree, parity and trailer, front to back.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt as _;

use mkimg_format::erofs::SuperblockFields;
use mkimg_format::trailer::Trailer;
use mkimg_format::verity::{Superblock as VeritySuperblock, as_uuid};
use mkimg_format::{BLOCK_LEN, Sha256};
use mkimg_oci::Layer;

use crate::compression::{Abilities, Compression};
use crate::contents::{Content, Contents, Data};
use crate::copy::{self, CopyError, copy_content};
use crate::entry::{Place, text_at};
use crate::error::{Error, Result, origin};
use crate::flatten::Flat;
use crate::fsverity::FsVerity;
use crate::host_dir::HostDir;
use crate::image_writer::ImageWriter;
use crate::metadata::write_metadata;
use crate::output::Output;
use crate::packer::Packer;
use crate::parity::write_parity;
use crate::plan::{Documents, Plan};
use crate::progress::{Progress, Stage};
use crate::sections::write_seal;
use crate::source::Opened;

/// Everything that writing needs.
pub(crate) struct Emitter<'a, 'c> {
    pub opened: &'a Opened,
    pub flat: &'a Flat,
    pub contents: &'c Contents,
    pub compression: Compression,
    /// What the oldest kernel can do with compressed data.
    pub abilities: Abilities,
    pub documents: &'a Documents<'a>,
    /// Parity bytes of a codeword, or 0.
    pub fec_roots: u32,
    pub name: Option<&'a str>,
    pub output: &'a Output,
    pub threads: NonZeroUsize,
    pub progress: &'a dyn Progress,
}

/// Where file data goes. Contents arrive in layout order.
trait DataSink: io::Write {
    /// The end of a content.
    fn end_content(&mut self) -> io::Result<()>;
}

impl DataSink for ImageWriter<'_> {
    fn end_content(&mut self) -> io::Result<()> {
        self.pad()
    }
}

impl DataSink for Packer<'_, '_> {
    fn end_content(&mut self) -> io::Result<()> {
        Packer::end_content(self)
    }
}

impl<'c> Emitter<'_, 'c> {
    /// An error of the output file.
    fn failed(&self, source: io::Error) -> Error {
        self.output.error("cannot write", source)
    }

    /// Writes the image; returns the root hash and what was placed where.
    pub(crate) fn emit(&self) -> Result<(Sha256, Plan<'c>)> {
        let (root_hash, plan) = match self.compression {
            Compression::None => self.emit_plain()?,
            _ => self.emit_compressed()?,
        };
        let header = &plan.header;
        let place = |block: &[u8; BLOCK_LEN], offset| {
            self.output.file().write_all_at(block, offset).map_err(|source| self.failed(source))
        };
        place(&VeritySuperblock::new(header.data_blocks, &root_hash).to_block(), header.hash_offset())?;
        write_parity(self.output, header, self.threads, self.progress)?;
        place(&Trailer::new(header, root_hash).to_block(), header.trailer_offset())?;
        Ok((root_hash, plan))
    }

    /// Plans everything, and then writes it front to back.
    fn emit_plain(&self) -> Result<(Sha256, Plan<'c>)> {
        let failed = |source| self.failed(source);
        let plan = self.plan(self.contents.plain()?)?;
        let header = &plan.header;
        self.output.reserve(header.image_size())?;
        self.progress.begin(Stage::Copy, header.image_size());
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
            let mut image = ImageWriter::start(scope, self.output.file(), Some(header), self.threads, leaves)
                .map_err(|source| Error::Thread { source })?;
            image.write_all(&block0[..]).map_err(failed)?;
            self.copy_contents(&mut image)?;
            expect_position(&image, header.meta_block, "metadata")?;
            write_metadata(self.flat, &plan, &mut image).map_err(failed)?;
            image.drain().map_err(failed)?;
            // The seal's own leaves pass while it is written, so the digests are taken out first.
            let digests = fsverity.borrow_mut().take_digests();
            self.finish_seal(&plan, &digests, &mut image)?;
            image.finish().map_err(failed)
        })?;
        Ok((root_hash, plan))
    }

    /// Writes the contents, plans the rest behind them, and writes that, block 0 last.
    fn emit_compressed(&self) -> Result<(Sha256, Plan<'c>)> {
        let failed = |source| self.failed(source);
        self.progress.begin(Stage::Copy, self.contents.list.iter().map(|content| content.size).sum());
        std::thread::scope(|scope| {
            let thread = |source| Error::Thread { source };
            let file = self.output.file();
            let mut image =
                ImageWriter::start(scope, file, None, self.threads, |_: &Sha256| {}).map_err(thread)?;
            image.write_all(&[0; BLOCK_LEN]).map_err(failed)?;
            let contents = &self.contents.list;
            let mut packer =
                Packer::start(scope, &mut image, contents, self.compression, self.abilities, self.threads)
                    .map_err(thread)?;
            self.copy_contents(&mut packer)?;
            let (data, digests) = packer.finish().map_err(failed)?;
            let plan = self.plan(data)?;
            self.output.reserve(plan.header.image_size())?;
            expect_position(&image, plan.header.meta_block, "metadata")?;
            write_metadata(self.flat, &plan, &mut image).map_err(failed)?;
            self.finish_seal(&plan, &digests, &mut image)?;
            let block0 = self.first_block(&plan).map_err(failed)?;
            image.place(&plan.header, &block0).map_err(failed)?;
            Ok((image.finish().map_err(failed)?, plan))
        })
    }

    /// Plans what stands behind the contents.
    fn plan(&self, data: Data) -> Result<Plan<'c>> {
        let mut plan =
            Plan::new(self.flat, self.documents, self.contents, data, self.compression.algorithm())?;
        plan.header = plan.header.with_fec(self.fec_roots);
        Ok(plan)
    }

    /// Writes the seal, which ends the protected area.
    fn finish_seal(&self, plan: &Plan<'_>, digests: &[Sha256], image: &mut ImageWriter<'_>) -> Result<()> {
        expect_position(image, plan.header.seal_block, "seal")?;
        write_seal(self.flat, plan, self.documents, digests, image).map_err(|source| self.failed(source))?;
        expect_position(image, plan.header.data_blocks, "verity superblock")
    }

    /// Block 0: header and superblock.
    fn first_block(&self, plan: &Plan<'_>) -> io::Result<Box<[u8; BLOCK_LEN]>> {
        let mut block = Box::new([0; BLOCK_LEN]);
        block[..512].copy_from_slice(&plan.header.to_bytes());
        let narrow = |value: u64| u32::try_from(value).map_err(io::Error::other);
        let root = plan.inodes.first().map_or(0, |root| root.nid);
        let seconds = u64::try_from(plan.epoch.sec);
        SuperblockFields {
            root: u16::try_from(root).map_err(io::Error::other)?,
            inodes: plan.inodes.len() as u64,
            epoch: seconds.unwrap_or(0),
            fixed_nsec: if seconds.is_ok() { plan.epoch.nsec } else { 0 },
            blocks: narrow(plan.header.data_blocks)?,
            meta_block: narrow(plan.header.meta_block)?,
            xattr_block: plan.xattr_block,
            uuid: self.uuid(plan)?,
            volume_name: label(self.name.unwrap_or_default()),
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
            hasher.update(&self.flat.file(content.layer, content.file).map_or([0; 32], |file| file.blake3));
        }
        write_metadata(self.flat, plan, &mut hasher)?;
        let mut uuid = [0; 16];
        hasher.finalize_xof().fill(&mut uuid);
        Ok(as_uuid(uuid))
    }

    /// Copies all contents in layout order.
    fn copy_contents(&self, image: &mut impl DataSink) -> Result<()> {
        let mut buffer = vec![0; copy::BUFFER];
        for contents in self.contents.list.chunk_by(|a, b| a.layer == b.layer) {
            let index = contents.first().map_or(0, |first| first.layer as usize);
            match self.opened {
                Opened::Image(source) => match source.layers.get(index) {
                    Some(layer) => self.copy_from_layer(layer, contents, image, &mut buffer)?,
                    None => continue,
                },
                Opened::Dir(dir) => self.copy_from_dir(dir, index, contents, image, &mut buffer)?,
            }
        }
        Ok(())
    }

    /// Copies contents of one layer, which stand in it in this order.
    fn copy_from_layer(
        &self,
        layer: &Layer,
        contents: &[Content],
        image: &mut impl DataSink,
        buffer: &mut [u8],
    ) -> Result<()> {
        let mut reader = layer.reopen()?;
        let mut at = 0;
        for content in contents.iter().filter(|content| content.size > 0) {
            let Some(data) = self.flat.file(content.layer, content.file) else { continue };
            let Place::Tar(offset) = data.place else { continue };
            let changed = || Error::Changed {
                origin: origin(layer.number),
                path: self.flat.path_of_file(content.layer, content.file),
            };
            let unreadable = |source| Error::Tar {
                layer: layer.number,
                source: Box::new(crate::tar::Error::Io { offset, source }),
            };
            let gap = offset.checked_sub(at).ok_or_else(changed)?;
            if reader.skip(gap).map_err(unreadable)? < gap {
                return Err(changed());
            }
            let copied = copy_content(content, data, &mut reader, image, buffer);
            copied.map_err(|error| self.copy_error(error, unreadable, changed))?;
            image.end_content().map_err(|source| self.failed(source))?;
            at = offset + data.stored();
            self.progress.advance(content.size);
        }
        Ok(())
    }

    /// Copies contents of files in a source directory.
    fn copy_from_dir(
        &self,
        dir: &HostDir,
        index: usize,
        contents: &[Content],
        image: &mut impl DataSink,
        buffer: &mut [u8],
    ) -> Result<()> {
        let text = self.flat.layers.get(index).map_or(&[][..], |files| &files.text);
        for content in contents.iter().filter(|content| content.size > 0) {
            let Some(data) = self.flat.file(content.layer, content.file) else { continue };
            let Place::Host(span) = data.place else { continue };
            let path = || text_at(text, span).to_vec();
            let changed = || Error::Changed { origin: origin(0), path: path() };
            let unreadable = |source| Error::Host { path: path(), source };
            let mut file = dir.open_file(text_at(text, span)).map_err(unreadable)?;
            let copied = copy_content(content, data, &mut file, image, buffer);
            copied.map_err(|error| self.copy_error(error, unreadable, changed))?;
            image.end_content().map_err(|source| self.failed(source))?;
            self.progress.advance(content.size);
        }
        Ok(())
    }

    fn copy_error(
        &self,
        error: CopyError,
        unreadable: impl Fn(io::Error) -> Error,
        changed: impl Fn() -> Error,
    ) -> Error {
        match error {
            CopyError::Source(source) => unreadable(source),
            CopyError::Changed => changed(),
            CopyError::Image(source) => self.failed(source),
        }
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
