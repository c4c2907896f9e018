//! A remote file as one that can be read at offsets.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mkimg_format::{BLOCK_SIZE, ReadAt};
use ureq::http::HeaderMap;

use crate::Error;
use crate::http::{Client, Failure, Limits, transport};
use crate::place::{Kind, Place};
use crate::range::part;
use crate::registry::{Registry, is_secure};

/// Bytes that one request asks for at most.
const REQUEST_MAX: u64 = 1 << 20;
/// Parts that are kept, 8 MiB: a caller may look at a block more than once.
const KEPT: usize = 8;

/// A file on a web server or in a registry.
///
/// Reads are whole blocks of [`BLOCK_SIZE`], at most 1 MiB a request. After a failure that lasts nothing more is asked for: every read
/// fails at once, and [`Self::failure`] says why.
pub struct Remote {
    place: Place,
    size: u64,
    state: Mutex<State>,
}

/// What came over the network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests for parts of the file, those included that failed.
    pub requests: u64,
    /// Bytes of the file that were received.
    pub bytes: u64,
}

struct State {
    source: Source,
    /// The latest parts, the last one in front: where they begin, and their bytes.
    kept: VecDeque<(u64, Vec<u8>)>,
    failure: Option<Arc<Error>>,
}

/// Where parts come from.
struct Source {
    client: Client,
    url: String,
    registry: Option<Registry>,
    /// Length and entity tag, by the first answer.
    identity: Option<(u64, Option<String>)>,
    traffic: Traffic,
}

impl Remote {
    /// Finds a remote file and reads its first block.
    ///
    /// # Errors
    /// When it is not there, when the server lets nobody in or does not send parts, and when it cannot be reached.
    pub fn open(place: &Place, limits: Limits) -> Result<Self, Error> {
        let (client, url, registry) = match &place.0 {
            Kind::Web(url) => (Client::new(url.starts_with("https:"), limits)?, url.clone(), None),
            Kind::Registry(reference) => {
                let client = Client::new(is_secure(&reference.host), limits)?;
                let mut registry = Registry::new(reference)?;
                let url = registry.blob(&client)?;
                (client, url, Some(registry))
            }
        };
        let mut source = Source { client, url, registry, identity: None, traffic: Traffic::default() };
        let first = source.fetch(0, BLOCK_SIZE)?;
        let size = source.identity.as_ref().map_or(0, |(size, _)| *size);
        let state = State { source, kept: VecDeque::from([(0, first)]), failure: None };
        Ok(Self { place: place.clone(), size, state: Mutex::new(state) })
    }

    /// Where it is.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// What came over the network so far.
    pub fn traffic(&self) -> Traffic {
        self.state().source.traffic
    }

    /// Why it cannot be read any more, if so.
    pub fn failure(&self) -> Option<Arc<Error>> {
        self.state().failure.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for Remote {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let length = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        let end = offset.checked_add(length).filter(|end| *end <= self.size);
        let end = end.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut state = self.state();
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let bytes = state.part(at, end, self.size).map_err(io::Error::other)?;
            let count = bytes.len().min(rest.len());
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(bytes.get(..count).unwrap_or_default());
            at = at.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            rest = tail;
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }
}

impl State {
    /// Bytes from `at` on, which is before `end` and inside the file: at least one.
    fn part(&mut self, at: u64, end: u64, size: u64) -> Result<&[u8], Arc<Error>> {
        let skip = |(start, bytes): &(u64, Vec<u8>)| {
            let skip = usize::try_from(at.checked_sub(*start)?).ok()?;
            (skip < bytes.len()).then_some(skip)
        };
        if self.kept.iter().find_map(skip).is_none() {
            if let Some(failure) = &self.failure {
                return Err(Arc::clone(failure));
            }
            let start = at.saturating_sub(at % BLOCK_SIZE);
            let end = end.div_ceil(BLOCK_SIZE).saturating_mul(BLOCK_SIZE).min(size);
            let length = end.saturating_sub(start).min(REQUEST_MAX);
            let bytes = self.source.fetch(start, length).map_err(|error| {
                let error = Arc::new(error);
                self.failure = Some(Arc::clone(&error));
                error
            })?;
            self.kept.truncate(KEPT.saturating_sub(1));
            self.kept.push_front((start, bytes));
        }
        let found = self.kept.iter().find_map(|part| part.1.get(skip(part)?..));
        Ok(found.unwrap_or_default())
    }
}

impl Source {
    /// `length` bytes from `start` on, or as many as there are.
    fn fetch(&mut self, start: u64, length: u64) -> Result<Vec<u8>, Error> {
        let Self { client, url, registry, identity, traffic } = self;
        let last = start.saturating_add(length).saturating_sub(1);
        let range = format!("bytes={start}-{last}");
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        client.persist(|| {
            let mut authorized = false;
            let answer = loop {
                let mut headers = vec![("range", range.as_str()), ("accept-encoding", "identity")];
                let authorization = registry.as_ref().and_then(Registry::authorization);
                headers.extend(authorization.map(|value| ("authorization", value)));
                traffic.requests = traffic.requests.saturating_add(1);
                let answer = client.get(url, &headers)?;
                let status = answer.status().as_u16();
                match registry {
                    // Tokens are good for some minutes.
                    Some(registry) if status == 401 && !authorized => {
                        registry.authorize(client, answer.headers())?;
                        authorized = true;
                    }
                    Some(registry) if status == 401 || status == 403 => {
                        return Err(registry.refused(url, status));
                    }
                    _ => break answer,
                }
            };
            let part = part(url, answer.status().as_u16(), answer.headers(), start, length)?;
            let tag = entity_tag(answer.headers());
            let (size, first_tag) = identity.get_or_insert_with(|| (part.total, tag.clone()));
            let what = match (&*first_tag, &tag) {
                _ if *size != part.total => Some(format!("it had {size} bytes, and now {}", part.total)),
                (Some(before), Some(now)) if before != now => Some("it has another entity tag".to_owned()),
                _ => None,
            };
            if let Some(what) = what {
                return Err(Failure::Lasting(Error::Changed { url: url.clone(), what }));
            }
            let mut bytes = Vec::with_capacity(part.length);
            let mut body = answer.into_body().into_reader();
            let wanted = u64::try_from(part.length).unwrap_or(u64::MAX);
            let read = body.by_ref().take(wanted).read_to_end(&mut bytes);
            let received = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            traffic.bytes = traffic.bytes.saturating_add(received);
            read.map_err(|error| Failure::Passing(transport(url, &error)))?;
            if bytes.len() < part.length {
                let problem = format!("got {received} of {wanted} bytes");
                return Err(Failure::Passing(transport(url, &problem)));
            }
            // A connection can be used again once its answer has been read to the end. One that goes on is dropped.
            let _ = body.read(&mut [0]);
            Ok(bytes)
        })
    }
}

/// The entity tag of an answer; weak ones say nothing about bytes.
fn entity_tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get("etag")?.to_str().ok()?;
    (!tag.starts_with("W/")).then(|| tag.chars().take(256).collect())
}
