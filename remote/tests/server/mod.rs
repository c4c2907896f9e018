//! A small HTTP server that counts, and misbehaves as it is told.
#![allow(clippy::unwrap_used, unreachable_pub)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Bytes that tell where they stand.
pub fn pattern(length: usize) -> Vec<u8> {
    (0_u32..).flat_map(|at| at.wrapping_mul(0x9e37_79b9).to_le_bytes()).take(length).collect()
}

/// What a client asks for.
pub struct Request {
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// What the server sends.
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    raw: Option<String>,
    silent: bool,
    endless: bool,
    drip: bool,
    /// Waits at the end instead of going on.
    hang: bool,
}

impl Answer {
    pub fn new(status: u16, body: Vec<u8>) -> Self {
        let headers = vec![("content-length".to_owned(), body.len().to_string())];
        Self { status, headers, body, raw: None, silent: false, endless: false, drip: false, hang: false }
    }

    pub fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    pub fn header(self, name: &str, value: &str) -> Self {
        let mut other = self.without(name);
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(found, _)| found != name);
        self
    }

    /// The head as it is, and no more than so many bytes of the body.
    pub fn cut(mut self, length: usize) -> Self {
        self.body.truncate(length);
        self
    }

    /// A body that is longer than it should be.
    pub fn longer(mut self, length: usize) -> Self {
        self.body.resize(length, 0);
        self.header("content-length", &length.to_string())
    }

    pub fn silent(mut self) -> Self {
        self.silent = true;
        self
    }

    pub fn hang(mut self) -> Self {
        self.hang = true;
        self
    }

    pub fn raw(mut self, text: &str) -> Self {
        self.raw = Some(text.to_owned());
        self
    }

    /// A byte every 50 ms.
    pub fn drip(mut self) -> Self {
        self.drip = true;
        self
    }

    pub fn endless(mut self) -> Self {
        self.endless = true;
        self
    }
}

/// The right answer to a request for a range of a file.
pub fn range(request: &Request, file: &[u8]) -> Answer {
    let (start, last) =
        request.header("range").unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (start, last): (usize, usize) = (start.parse().unwrap(), last.parse().unwrap());
    let end = last.saturating_add(1).min(file.len());
    if start >= end {
        return Answer::new(416, Vec::new()).header("content-range", &format!("bytes */{}", file.len()));
    }
    let range = format!("bytes {start}-{}/{}", end - 1, file.len());
    Answer::new(206, file[start..end].to_vec()).header("content-range", &range).header("etag", "\"one\"")
}

type Handler = dyn Fn(usize, &Request) -> Answer + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    requests: AtomicUsize,
    connections: AtomicUsize,
    sent: AtomicU64,
    ended: AtomicBool,
}

/// A server on a port of its own, until it is dropped.
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    pub fn start(handler: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let server = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if server.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (server, stream) = (Arc::clone(&server), stream.unwrap());
                server.connections.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || server.serve(&stream));
            }
        });
        Self { address, shared }
    }

    pub fn host(&self) -> String {
        self.address.to_string()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// Bytes of bodies.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the one who listens.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Some(request) = read_request(&mut reader) {
            let number = self.requests.fetch_add(1, Ordering::SeqCst);
            if self.answer(stream, (self.handler)(number, &request)).is_none() {
                return;
            }
        }
    }

    /// `None` when the connection ends with it.
    fn answer(&self, mut stream: &TcpStream, answer: Answer) -> Option<()> {
        let length = answer.headers.iter().find(|(name, _)| name == "content-length");
        let whole = length.is_some_and(|(_, value)| *value == answer.body.len().to_string());
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", answer.status);
        answer.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        if answer.endless {
            stream.write_all(head.as_bytes()).ok()?;
            while !self.ended.load(Ordering::SeqCst) {
                stream.write_all(&b"x-more: and more\r\n".repeat(100)).ok()?;
            }
            return None;
        }
        if let Some(raw) = answer.raw {
            stream.write_all(raw.as_bytes()).ok()?;
            return None;
        }
        if !answer.silent {
            head += "\r\n";
            stream.write_all(head.as_bytes()).ok()?;
            for piece in answer.body.chunks(if answer.drip { 1 } else { 4096 }) {
                // Before the other side can see it.
                self.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
                stream.write_all(piece).ok()?;
                if answer.drip {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
        }
        if answer.hang {
            std::thread::sleep(Duration::from_secs(3));
        }
        (whole && !answer.silent && !answer.hang).then_some(())
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    let mut next = || {
        line.clear();
        reader.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned()).filter(|line| !line.is_empty())
    };
    let path = next()?.split(' ').nth(1)?.to_owned();
    let mut headers = Vec::new();
    while let Some(line) = next() {
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some(Request { path, headers })
}
