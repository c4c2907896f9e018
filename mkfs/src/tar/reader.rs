//! Members in order: extended headers are gathered, resolved against the plain header, and become an entry.

use std::io::{self, Read};

use super::fault::{Error, Fault, SparseFault};
use super::header::{BLOCK, Dialect, Header};
use super::pax::{self, Records};
use super::sparse::{self, Form, Lines, Map};
use super::stream::Stream;
use super::{Entry, Kind, Limits, Segment, Time};

/// Reads the members of an uncompressed tar archive from a stream.
///
/// The reader buffers: [`Reader::into_inner`] returns an inner reader that may be up to a few hundred KiB
/// ahead of [`Reader::offset`]. Who needs every byte of the stream, for a digest say, takes them on the way in.
pub struct Reader<R: Read> {
    stream: Stream<R>,
    limits: Limits,
    state: State,
    /// Reused for extended headers.
    body: Vec<u8>,
}

enum State {
    /// At a header.
    Header,
    /// Inside the data of a file.
    Data(Data),
    /// Behind the end of the archive.
    End,
    /// Something was wrong; what follows cannot be trusted.
    Failed,
}

struct Data {
    /// Bytes of data that are left.
    left: u64,
    /// Bytes of padding behind them.
    padding: u64,
    offset: u64,
    path: Vec<u8>,
}

/// Extended headers that wait for their entry.
#[derive(Default)]
struct Pending {
    first: Option<u64>,
    pax: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: Read> Reader<R> {
    /// A reader at the start of an archive.
    pub fn new(inner: R, limits: Limits) -> Self {
        Self { stream: Stream::new(inner), limits, state: State::Header, body: Vec::new() }
    }

    /// Bytes of the uncompressed archive consumed so far.
    pub fn offset(&self) -> u64 {
        self.stream.offset()
    }

    /// The inner reader, somewhere behind [`Reader::offset`].
    pub fn into_inner(self) -> R {
        self.stream.into_inner()
    }

    /// The next member, or `None` at the end of the archive. Data of the previous one that was not read is
    /// skipped, and must be there.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] when the inner reader fails, [`Error::Malformed`] for everything in the archive that breaks a
    /// rule. After an error every further call is one.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Header => {}
            State::Data(data) => self.leave(&data)?,
            State::End => {
                self.state = State::End;
                return Ok(None);
            }
            State::Failed => return Err(Fault::AfterError.at(self.offset(), None)),
        }
        let Some((entry, padding)) = self.member()? else {
            self.state = State::End;
            return Ok(None);
        };
        let (offset, path) = (entry.header_offset, entry.path.clone());
        self.state = State::Data(Data { left: entry.stored, padding, offset, path });
        Ok(Some(entry))
    }

    /// Stored bytes of the current entry, of a sparse file the segments one after the other. Fills at least one
    /// byte of a `buf` that is not empty; 0 at the end of the data and when there is no current entry.
    ///
    /// # Errors
    ///
    /// As [`Reader::next_entry`].
    pub fn read_data(&mut self, buf: &mut [u8]) -> Result<usize, Error> {
        let data = match &mut self.state {
            State::Data(data) => data,
            State::Header | State::End => return Ok(0),
            State::Failed => return Err(Fault::AfterError.at(self.offset(), None)),
        };
        let most = usize::try_from(data.left).unwrap_or(usize::MAX).min(buf.len());
        if most == 0 {
            return Ok(0);
        }
        let error = match self.stream.read(&mut buf[..most]) {
            Ok(0) => truncated("data", self.stream.offset(), data.left).at(data.offset, Some(&data.path)),
            Ok(count) => {
                data.left = data.left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX));
                return Ok(count);
            }
            Err(source) => Error::Io { offset: self.stream.offset(), source },
        };
        self.state = State::Failed;
        Err(error)
    }

    /// Skips what is left of an entry. Its data must be complete; the padding behind the last data of an archive
    /// may be missing, which happens to writers that are not closed and loses nothing.
    fn leave(&mut self, data: &Data) -> Result<(), Error> {
        let skipped = self.io(|stream| stream.skip(data.left))?;
        if skipped < data.left {
            let fault = truncated("data", self.stream.offset(), data.left - skipped);
            return Err(fault.at(data.offset, Some(&data.path)));
        }
        self.io(|stream| stream.skip(data.padding))?;
        Ok(())
    }

    fn io<T>(&mut self, work: impl FnOnce(&mut Stream<R>) -> io::Result<T>) -> Result<T, Error> {
        work(&mut self.stream).map_err(|source| Error::Io { offset: self.stream.offset(), source })
    }

    /// One block, or none at the end of the stream.
    fn block(&mut self, block: &mut [u8; BLOCK], what: &'static str) -> Result<Result<bool, Fault>, Error> {
        Ok(match self.io(|stream| stream.read_full(block))? {
            0 => Ok(false),
            BLOCK => Ok(true),
            count => Err(truncated(what, self.stream.offset(), wide(BLOCK - count))),
        })
    }

    /// Reads headers up to and with that of an entry; returns it with the padding behind its data.
    fn member(&mut self) -> Result<Option<(Entry, u64)>, Error> {
        let mut block = [0; BLOCK];
        let mut pending = Pending::default();
        loop {
            let at = self.stream.offset();
            let first = pending.first.unwrap_or(at);
            let there = self.block(&mut block, "header")?.map_err(|fault| fault.at(first, None))?;
            if !there || block == [0; BLOCK] {
                if pending.first.is_some() {
                    return Err(Fault::Orphan.at(first, None));
                }
                if there {
                    self.end_marker(at)?;
                }
                return Ok(None);
            }
            let header = Header(&block);
            let place = |fault: Fault| fault.at(first, Some(&header.name()));
            header.check().map_err(place)?;
            match header.typeflag() {
                b'x' | b'X' => {
                    self.extended(&header, first)?;
                    let records = Records::parse(&self.body, &self.limits).map_err(place)?;
                    pending.first = Some(first);
                    pending.pax = Some(records);
                }
                b'g' => {
                    self.extended(&header, first)?;
                    pax::split(&self.body).try_for_each(|record| record.map(drop)).map_err(place)?;
                }
                b'L' => {
                    self.extended(&header, first)?;
                    pending.first = Some(first);
                    pending.long_name = Some(without_nuls(&self.body));
                }
                b'K' => {
                    self.extended(&header, first)?;
                    pending.first = Some(first);
                    pending.long_link = Some(without_nuls(&self.body));
                }
                _ => return self.entry(&header, pending, first).map(Some),
            }
        }
    }

    /// Behind a block of zeros at `at`: another one, or the end of the stream.
    fn end_marker(&mut self, at: u64) -> Result<(), Error> {
        let mut block = [0; BLOCK];
        let there = self.block(&mut block, "end marker")?.map_err(|fault| fault.at(at, None))?;
        if there && block != [0; BLOCK] {
            let path = Header(&block).name();
            return Err(Fault::LoneZeroBlock.at(at, Some(&path)));
        }
        Ok(())
    }

    /// Reads the data of an extended header into `body`.
    fn extended(&mut self, header: &Header<'_>, first: u64) -> Result<(), Error> {
        let place = |fault: Fault| fault.at(first, Some(&header.name()));
        let size = header.size().map_err(place)?;
        let limit = self.limits.pax_bytes;
        let Some(len) = usize::try_from(size).ok().filter(|&len| len <= limit) else {
            return Err(place(Fault::TooLong { what: "extended header", len: size, limit: wide(limit) }));
        };
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.resize(len, 0);
        let count = self.io(|stream| stream.read_full(&mut body))?;
        if count < len {
            let fault = truncated("extended header", self.stream.offset(), wide(len - count));
            return Err(place(fault));
        }
        self.body = body;
        // Where this padding is cut short the archive ends, and the missing entry is what gets reported.
        self.io(|stream| stream.skip(padding(size)))?;
        Ok(())
    }

    /// Resolves one entry and reads the parts of its sparse map that precede the data.
    fn entry(&mut self, header: &Header<'_>, pending: Pending, first: u64) -> Result<(Entry, u64), Error> {
        let pax = pending.pax.unwrap_or_default();
        // The table of precedence: GNU.sparse.name, PAX, GNU long names, the plain field.
        let path = (pax.sparse.name.clone().or_else(|| pax.path.clone()))
            .or(pending.long_name)
            .unwrap_or_else(|| header.name());
        let place = |fault: Fault| fault.at(first, Some(&path));
        check_path(&path, &self.limits).map_err(place)?;

        let size = pax.size.map_or_else(|| header.size(), Ok).map_err(place)?;
        let kind = kind(header, &path, size, pax.sparse.is_empty()).map_err(place)?;
        let link = match kind {
            Kind::Hardlink | Kind::Symlink => {
                let link = pax.linkpath.or(pending.long_link).unwrap_or_else(|| header.linkname().to_vec());
                check_link(&link, kind, &self.limits).map_err(place)?;
                link
            }
            _ => Vec::new(),
        };
        let xattrs = merged(pax.schily, pax.libarchive, &self.limits).map_err(place)?;
        let mode = header.mode().map_err(place)?;
        let uid = pax.uid.map_or_else(|| header.uid(), Ok).map_err(place)?;
        let gid = pax.gid.map_or_else(|| header.gid(), Ok).map_err(place)?;
        let plain_time = || Ok(Time { sec: header.mtime()?, nsec: 0 });
        let mtime = pax.mtime.map_or_else(plain_time, Ok).map_err(place)?;
        let rdev = match kind {
            Kind::Char | Kind::Block => header.device().map_err(place)?,
            _ => (0, 0),
        };

        let mut content = Content { size: 0, stored: 0, sparse: None };
        let mut padding_behind = 0;
        if kind == Kind::File {
            content = if header.typeflag() == b'S' {
                self.old_gnu(header, size)?.map_err(place)?
            } else if !pax.sparse.is_empty() {
                self.pax_sparse(pax.sparse, size)?.map_err(place)?
            } else if size > self.limits.file_size {
                return Err(place(Fault::TooLong { what: "file", len: size, limit: self.limits.file_size }));
            } else {
                Content { size, stored: size, sparse: None }
            };
            padding_behind = padding(size);
        }
        let entry = Entry {
            kind,
            link,
            mode,
            uid,
            gid,
            mtime,
            rdev,
            size: content.size,
            stored: content.stored,
            sparse: content.sparse,
            xattrs,
            header_offset: first,
            data_offset: self.stream.offset(),
            path,
        };
        Ok((entry, padding_behind))
    }

    /// Old GNU form: four entries in the header, more in the blocks behind it.
    fn old_gnu(&mut self, header: &Header<'_>, stored: u64) -> Result<Result<Content, Fault>, Error> {
        let start = || -> Result<(u64, Map), Fault> {
            let size = header.sparse_realsize()?;
            let mut map = Map::new(size, &self.limits)?;
            map.push_block(header.sparse_entries(), header.sparse_is_extended())?;
            Ok((size, map))
        };
        let (size, mut map) = match start() {
            Ok(started) => started,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut block = [0; BLOCK];
        let mut extended = header.sparse_is_extended();
        while extended {
            if let Err(fault) = self.whole_block(&mut block)? {
                return Ok(Err(fault));
            }
            let (entries, more) = sparse::extension(&block);
            if let Err(fault) = map.push_block(entries, more) {
                return Ok(Err(fault));
            }
            extended = more;
        }
        Ok(map.finish(stored).map(|segments| Content { size, stored, sparse: Some(segments) }))
    }

    /// PAX forms: the map is in the records, or in the first blocks of the data.
    fn pax_sparse(&mut self, records: sparse::Records, area: u64) -> Result<Result<Content, Fault>, Error> {
        let start = || -> Result<(u64, Form, Map), Fault> {
            let (size, form) = records.form()?;
            let map = Map::new(size, &self.limits)?;
            Ok((size, form, map))
        };
        let (size, form, mut map) = match start() {
            Ok(started) => started,
            Err(fault) => return Ok(Err(fault)),
        };
        let mut stored = area;
        match form {
            Form::Listed(pairs) => {
                for pair in pairs.chunks_exact(2) {
                    if let Err(fault) = map.push(pair[0], pair[1]) {
                        return Ok(Err(fault));
                    }
                }
            }
            Form::InData => {
                let mut lines = Lines::new();
                let mut block = [0; BLOCK];
                loop {
                    let Some(rest) = stored.checked_sub(wide(BLOCK)) else {
                        return Ok(Err(SparseFault::Form("the data ends inside the map").into()));
                    };
                    stored = rest;
                    if let Err(fault) = self.whole_block(&mut block)? {
                        return Ok(Err(fault));
                    }
                    match lines.push_block(&block, &mut map) {
                        Ok(true) => break,
                        Ok(false) => {}
                        Err(fault) => return Ok(Err(fault)),
                    }
                }
            }
        }
        Ok(map.finish(stored).map(|segments| Content { size, stored, sparse: Some(segments) }))
    }

    fn whole_block(&mut self, block: &mut [u8; BLOCK]) -> Result<Result<(), Fault>, Error> {
        Ok(match self.block(block, "sparse map")? {
            Ok(true) => Ok(()),
            Ok(false) => Err(truncated("sparse map", self.stream.offset(), wide(BLOCK))),
            Err(fault) => Err(fault),
        })
    }
}

struct Content {
    size: u64,
    stored: u64,
    sparse: Option<Vec<Segment>>,
}

/// The kind of an entry. Writers from before POSIX mark a directory by a slash behind its name alone.
fn kind(header: &Header<'_>, path: &[u8], size: u64, plain: bool) -> Result<Kind, Fault> {
    let slash = path.ends_with(b"/");
    let kind = match header.typeflag() {
        b'0' | 0 | b'7' if slash && size == 0 && plain => Kind::Dir,
        b'0' | 0 | b'7' | b'S' if slash => return Err(Fault::FileWithSlash { size }),
        b'0' | 0 | b'7' => Kind::File,
        b'S' if header.dialect() != Dialect::Gnu => return Err(Fault::SparseDialect),
        b'S' if !plain => return Err(SparseFault::Form("one in the header and one in pax records").into()),
        b'S' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Dir,
        b'6' => Kind::Fifo,
        other => return Err(Fault::Type(other)),
    };
    if !plain && kind != Kind::File {
        return Err(SparseFault::Form("for an entry that is no regular file").into());
    }
    Ok(kind)
}

fn check_path(path: &[u8], limits: &Limits) -> Result<(), Fault> {
    if path.contains(&0) {
        return Err(Fault::Nul("path"));
    }
    check_len("path", path, limits.path)?;
    path.split(|&byte| byte == b'/').try_for_each(|name| check_len("path component", name, limits.name))
}

fn check_link(link: &[u8], kind: Kind, limits: &Limits) -> Result<(), Fault> {
    let (what, limit) = match kind {
        Kind::Symlink => ("symlink target", limits.symlink),
        _ => ("hard link target", limits.path),
    };
    if link.is_empty() {
        return Err(Fault::NoTarget(if kind == Kind::Symlink { "symlink" } else { "hard link" }));
    }
    if link.contains(&0) {
        return Err(Fault::Nul(what));
    }
    check_len(what, link, limit)
}

fn check_len(what: &'static str, bytes: &[u8], limit: usize) -> Result<(), Fault> {
    if bytes.len() > limit {
        return Err(Fault::TooLong { what, len: wide(bytes.len()), limit: wide(limit) });
    }
    Ok(())
}

type Xattrs = std::collections::BTreeMap<Vec<u8>, Vec<u8>>;
type XattrList = Vec<(Vec<u8>, Vec<u8>)>;

/// One list from both vendors' records. bsdtar writes every attribute twice; where the two differ, the `SCHILY`
/// one counts, because that is the one that all readers know.
fn merged(schily: Xattrs, mut xattrs: Xattrs, limits: &Limits) -> Result<XattrList, Fault> {
    xattrs.extend(schily);
    for (name, value) in &xattrs {
        let (part, len, limit) = if name.len() > limits.xattr_name {
            ("name", name.len(), limits.xattr_name)
        } else if value.len() > limits.xattr_value {
            ("value", value.len(), limits.xattr_value)
        } else {
            continue;
        };
        return Err(Fault::Xattr { name: name.clone(), part, len: wide(len), limit: wide(limit) });
    }
    Ok(xattrs.into_iter().collect())
}

/// The text of a GNU long name: writers end it with a NUL. Others inside are found when the name is checked.
fn without_nuls(body: &[u8]) -> Vec<u8> {
    let end = body.iter().rposition(|&byte| byte != 0).map_or(0, |at| at + 1);
    body[..end].to_vec()
}

fn truncated(what: &'static str, end: u64, missing: u64) -> Fault {
    Fault::Truncated { what, end, missing }
}

/// Bytes from the end of `size` bytes of data to the next block.
fn padding(size: u64) -> u64 {
    size.next_multiple_of(wide(BLOCK)) - size
}

fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
