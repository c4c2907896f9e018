//! Servers that behave, and servers that do not: bytes come as they are, or not at all and with a reason.
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

mod server;

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use mkimg_format::ReadAt;
use mkimg_remote::{Error, Limits, Place, Remote};
use server::{Answer, Request, Server, pattern, range};

/// For servers that answer at once.
const LIMITS: Limits = Limits {
    wait: Duration::from_secs(20),
    request: Duration::from_secs(60),
    retries: 2,
    pause: Duration::from_millis(1),
};

/// For servers that do not.
const SHORT: Limits =
    Limits { wait: Duration::from_secs(1), request: Duration::from_secs(2), retries: 0, ..LIMITS };

fn open(url: &str) -> Result<Remote, Error> {
    open_within(url, LIMITS)
}

fn open_within(url: &str, limits: Limits) -> Result<Remote, Error> {
    Remote::open(&url.parse::<Place>().unwrap(), limits)
}

/// A server with a file of so many bytes, which answers as `answer` wants it: that gets the number of the request, and the answer
/// that would be right.
fn serve(
    length: usize,
    answer: impl Fn(usize, &Request, Answer) -> Answer + Send + Sync + 'static,
) -> Server {
    let file = pattern(length);
    Server::start(move |number, request| answer(number, request, range(request, &file)))
}

#[test]
fn parts_come_as_they_are_and_no_others() {
    let file = pattern(3_000_001);
    let server = serve(file.len(), |_, _, right| right);
    let remote = open(&server.url("/web.img")).unwrap();
    assert_eq!(remote.size().unwrap(), file.len() as u64);
    for (offset, length, requests, bytes) in [
        // The first block is there from the beginning.
        (0, 4096, 0, 0),
        (1000, 100, 0, 0),
        (8192, 1, 1, 4096),
        (8190, 10, 1, 8192),
        (12_287, 1, 0, 0),
        (20_000, 300_000, 1, 307_200),
        (100_000, 4096, 0, 0),
        // Two requests of a MiB, and the rest; the last block is a short one.
        (500_000, 2_500_001, 3, 2_500_289),
        (2_999_999, 2, 0, 0),
        (3_000_001, 0, 0, 0),
    ] {
        let before = remote.traffic();
        let (old_requests, old_bytes) = (server.requests(), server.sent());
        let mut buffer = vec![0; length];
        remote.read_exact_at(&mut buffer, offset as u64).unwrap();
        assert!(buffer == file[offset..offset + length], "{length} bytes at {offset}");
        let after = remote.traffic();
        assert_eq!(after.requests - before.requests, requests, "{length} bytes at {offset}");
        assert_eq!(after.bytes - before.bytes, bytes, "{length} bytes at {offset}");
        assert_eq!((server.requests() - old_requests) as u64, requests);
        assert_eq!(server.sent() - old_bytes, bytes);
    }
    for (offset, length) in [(3_000_000, 2), (3_000_002, 0), (u64::MAX, 1)] {
        let error = remote.read_exact_at(&mut vec![0; length], offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
    assert!(remote.failure().is_none());
    assert_eq!(server.connections(), 1, "connections are used again");
}

#[test]
fn short_files_are_files() {
    for length in [0, 1, 4095, 4096, 4097] {
        let server = serve(length, |_, _, right| right);
        let remote = open(&server.url("/a")).unwrap();
        let mut buffer = vec![0; length];
        remote.read_exact_at(&mut buffer, 0).unwrap();
        assert!(buffer == pattern(length), "{length} bytes");
    }
}

/// What a server does when it is asked for more than the first block, and what the error says.
type Case = (&'static str, fn(Answer) -> Answer, &'static str);

const CASES: [Case; 26] = [
    ("ignores ranges", |right| right.status(200), "ignores `Range`"),
    ("not there any more", |right| right.status(404), "answers 404"),
    ("not for us", |right| right.status(403), "answers 403"),
    ("out of order", |right| right.status(500), "answers 500"),
    ("too busy", |right| right.status(503), "answers 503"),
    ("nothing there", |right| right.status(416).header("content-range", "bytes */9999999"), "there are none"),
    ("shorter than it was", |right| right.status(416).header("content-range", "bytes */4096"), "has changed"),
    ("no range said", |right| right.without("content-range"), "does not say which"),
    ("another range", |right| right.header("content-range", "bytes 0-4095/100000"), "got bytes 0 to 4095"),
    ("a longer range", |right| right.header("content-range", "bytes 8192-99999/100000"), "got bytes 8192"),
    ("a shorter range", |right| right.header("content-range", "bytes 8192-9000/100000"), "got bytes 8192"),
    ("length unknown", |right| right.header("content-range", "bytes 8192-12287/*"), "does not say which"),
    ("nonsense", |right| right.header("content-range", "bytes x"), "does not say which"),
    ("another length", |right| right.header("content-range", "bytes 8192-12287/100001"), "has changed"),
    ("another tag", |right| right.header("etag", "\"other\""), "entity tag"),
    ("encoded", |right| right.header("content-encoding", "gzip"), "encoded"),
    ("a short body", |right| right.cut(1000), "at most"),
    ("no body", |right| right.cut(0), "at most"),
    ("hangs in the body", |right| right.cut(1000).hang(), "timeout"),
    ("hangs at once", |right| right.silent().hang(), "timeout"),
    ("drips", Answer::drip, "timeout"),
    ("a head without an end", Answer::endless, "header"),
    ("not HTTP", |right| right.raw("SSH-2.0-OpenSSH\r\n\r\n"), ""),
    ("off to TLS", |right| right.status(302).header("location", "https://127.0.0.1:1/a"), ""),
    ("off to nowhere", |right| right.status(302).header("location", "https:///a"), ""),
    ("a circle", |right| right.status(302).header("location", "/web.img"), "redirect"),
];

#[test]
fn what_a_server_does_wrong_is_an_error_that_says_so() {
    for (what, twist, text) in CASES {
        let server = serve(100_000, move |_, request, right| {
            if request.header("range") == Some("bytes=0-4095") { right } else { twist(right) }
        });
        let limits = if text == "timeout" { SHORT } else { LIMITS };
        // A busy machine may be slow to answer at all.
        let open = || open_within(&server.url("/web.img"), limits);
        let remote = (0..9).find_map(|_| open().ok()).unwrap();
        let begun = Instant::now();
        let error = remote.read_exact_at(&mut [0; 4096], 8192).unwrap_err().to_string();
        assert!(begun.elapsed() < Duration::from_secs(10), "{what}: {:?}", begun.elapsed());
        assert!(error.contains(&server.url("/web.img")) && error.lines().count() == 1, "{what}: {error}");
        let fits = if text == "at most" {
            error.contains("bytes") || error.contains("disconnected")
        } else {
            error.to_lowercase().contains(&text.to_lowercase())
        };
        assert!(fits, "{what}: {error}");
        assert_eq!(remote.failure().unwrap().to_string(), error);
        // What failed for good is not asked again; what is there already still is.
        let requests = server.requests();
        assert!(remote.read_exact_at(&mut [0; 4096], 50_000).is_err(), "{what}");
        remote.read_exact_at(&mut [0; 4096], 0).unwrap();
        assert_eq!(server.requests(), requests, "{what}");
        assert!(server.sent() < 1 << 20, "{what}: {} bytes", server.sent());
    }
}

#[test]
fn a_whole_file_is_not_downloaded_by_mistake() {
    let server = Server::start(|_, _| Answer::new(200, pattern(64 << 20)));
    let error = open(&server.url("/web.img")).err().unwrap();
    assert!(matches!(error, Error::NoRanges { .. }), "{error}");
    // What fits into the buffers of a connection.
    assert!(server.sent() < 16 << 20, "{}", server.sent());
}

#[test]
fn more_than_was_asked_for_is_not_read() {
    let server = serve(100_000, |_, _, right| right.longer(32 << 20));
    let remote = open(&server.url("/web.img")).unwrap();
    let mut buffer = [0; 4096];
    remote.read_exact_at(&mut buffer, 8192).unwrap();
    assert!(buffer[..] == pattern(100_000)[8192..12_288]);
    assert_eq!(remote.traffic().bytes, 8192);
}

#[test]
fn what_may_pass_is_tried_again() {
    let twists: [fn(Answer) -> Answer; 4] =
        [|right| right.status(503), |right| right.status(429), |right| right.cut(100), Answer::silent];
    for (case, twist) in twists.into_iter().enumerate() {
        // Twice wrong, then right: for every part.
        let server =
            serve(100_000, move |number, _, right| if number % 3 == 2 { right } else { twist(right) });
        let remote = open(&server.url("/web.img")).unwrap();
        let mut buffer = [0; 4096];
        remote.read_exact_at(&mut buffer, 40_960).unwrap();
        assert!(buffer[..] == pattern(100_000)[40_960..45_056], "case {case}");
        assert_eq!(remote.traffic().requests, 6, "case {case}");
    }
}

#[test]
fn nobody_there_is_an_error() {
    let url = Server::start(|_, _| Answer::new(404, Vec::new())).url("/a");
    // The server is gone by now.
    assert!(matches!(open(&url).err().unwrap(), Error::Transport { .. }));
    let server = Server::start(|_, _| Answer::new(404, Vec::new()));
    assert!(open(&server.url("/a")).err().unwrap().to_string().contains("answers 404"));
    assert_eq!(server.requests(), 1, "a file that is not there will not come");
}

const DIGEST: &str = "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A registry that wants a token, and sends blobs away to another server. Tokens are good for five requests.
fn registry(manifest: &'static str) -> (Server, Server) {
    let storage = serve(100_000, |_, request, right| {
        assert_eq!(request.header("authorization"), None, "the token is for the registry alone");
        right
    });
    let (blob, used) = (storage.url("/storage"), std::sync::atomic::AtomicUsize::new(0));
    let server = Server::start(move |_, request| {
        let turn = used.load(std::sync::atomic::Ordering::SeqCst) / 5;
        let token = format!("Bearer token{turn}");
        if request.path == "/token?service=test%20registry&scope=repository:a/b:pull" {
            let key = if turn.is_multiple_of(2) { "token" } else { "access_token" };
            return Answer::new(200, format!("{{\"{key}\":\"token{turn}\"}}").into_bytes());
        }
        used.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if request.header("authorization") != Some(&token) {
            used.store(turn * 5 + 1, std::sync::atomic::Ordering::SeqCst);
            let realm = format!("http://{}/token", request.header("host").unwrap());
            let challenge = format!("Bearer realm=\"{realm}\",service=\"test registry\",scope=\"x\"");
            return Answer::new(401, Vec::new()).header("www-authenticate", &challenge);
        }
        match request.path.as_str() {
            "/v2/a/b/manifests/v1" => Answer::new(200, manifest.replace("DIGEST", DIGEST).into_bytes()),
            path if path == format!("/v2/a/b/blobs/{DIGEST}") => {
                Answer::new(307, Vec::new()).header("location", &blob)
            }
            _ => Answer::new(404, Vec::new()),
        }
    });
    (server, storage)
}

#[test]
fn a_registry_gives_a_token_and_sends_to_its_storage() {
    let layer = r#"{"layers":[{"mediaType":"application/vnd.example","digest":"DIGEST","size":1}]}"#;
    let (server, storage) = registry(layer);
    for name in ["a/b:v1".to_owned(), format!("a/b@{DIGEST}")] {
        let remote = open(&format!("docker://{}/{name}", server.host())).unwrap();
        let file = pattern(100_000);
        for block in 0..20 {
            let (at, mut buffer) = (block * 4096, [0; 4096]);
            remote.read_exact_at(&mut buffer, at as u64).unwrap();
            assert!(buffer[..] == file[at..at + 4096], "{name}, block {block}");
        }
    }
    assert_eq!(storage.requests(), 40);
}

#[test]
fn what_is_no_image_in_a_registry_is_refused() {
    for (manifest, text) in [
        (r#"{"layers":[]}"#, "0 layers"),
        (r#"{"layers":[{"digest":"DIGEST"},{"digest":"DIGEST"}]}"#, "2 layers"),
        (r#"{"layers":[{"digest":"sha256:../../x"}]}"#, "without a digest"),
        (
            r#"{"layers":[{"digest":"DIGEST","mediaType":"application/vnd.oci.image.layer.v1.tar+gzip"}]}"#,
            "tar+gzip",
        ),
        (r#"{"manifests":[{"digest":"DIGEST"}]}"#, "index of 1"),
        ("{}", "no layers"),
        ("[", "cannot be read"),
    ] {
        let (server, _storage) = registry(manifest);
        let error = open(&format!("docker://{}/a/b:v1", server.host())).err().unwrap();
        assert!(matches!(error, Error::NoImage { .. }) && error.to_string().contains(text), "{error}");
    }
    let (server, _storage) = registry("{}");
    let error = open(&format!("docker://{}/a/b:v2", server.host())).err().unwrap().to_string();
    assert!(error.contains("answers 404"), "{error}");
}

#[test]
fn registries_that_ask_for_something_else_are_refused() {
    for (challenge, text) in [
        ("Basic realm=\"x\"", "none are stored"),
        ("Negotiate", "of a kind"),
        ("", "of a kind"),
        ("Bearer realm=\"ftp://example.org/token\"", "not https"),
        ("Bearer service=\"a\"", "not https"),
        ("Bearer realm=\"http://example.org/token\"", "not https"),
        ("Bearer realm=\"http://127.0.0.1:80@example.org/token\"", "not https"),
    ] {
        let server =
            Server::start(move |_, _| Answer::new(401, Vec::new()).header("www-authenticate", challenge));
        let error = open(&format!("docker://{}/a:v1", server.host())).err().unwrap().to_string();
        assert!(error.contains(text), "{challenge}: {error}");
        assert_eq!(server.requests(), 1, "{challenge}");
    }
    for (token, text) in [
        ("{}", "no token"),
        ("{\"token\":\"\"}", "no token"),
        ("{\"token\":\"a\\r\\nb: c\"}", "no token"),
        ("secret", "no token"),
    ] {
        let server = Server::start(move |_, request| match request.path.starts_with("/token") {
            true => Answer::new(200, token.as_bytes().to_vec()),
            false => {
                let realm = format!("Bearer realm=\"http://{}/token\"", request.header("host").unwrap());
                Answer::new(401, Vec::new()).header("www-authenticate", &realm)
            }
        });
        let error = open(&format!("docker://{}/a:v1", server.host())).err().unwrap().to_string();
        assert!(error.contains(text) && !error.contains("secret"), "{token}: {error}");
    }
    // Documents are bounded as well.
    let server = Server::start(|_, _| Answer::new(200, vec![b' '; 5 << 20]));
    let error = open(&format!("docker://{}/a:v1", server.host())).err().unwrap().to_string();
    assert!(error.contains("longer than"), "{error}");
}
