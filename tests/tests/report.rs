//! `mkimg report` against what `ls` and `inspect` say, and its page in a browser.
#![allow(missing_docs, clippy::unwrap_used)]

use mkimg_tests::command::{self, mkimg};
use mkimg_tests::images::{self, SAMPLE_SECRET};
use mkimg_tests::need::{Need, skipped};
use mkimg_tests::{args, names_in, require, scratch, sha256_of};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn build(dir: &Path, source: &str) -> PathBuf {
    let image = dir.join("image.mkimg");
    let _ = mkimg(args!["build", source, "--compress", "none", "-o", image]).ok();
    image
}

fn everything(dir: &Path) -> PathBuf {
    images::one_of_everything(&dir.join("oci"));
    build(dir, &format!("oci:{}", dir.join("oci").display()))
}

/// Names that would do harm if they were markup, script or style.
const HOSTILE: [&[u8]; 12] = [
    b"<img src=x onerror=boom()>",
    b"<script>boom()<",
    b"--><svg onload=boom()>",
    b"]]><style>*{display:none}<",
    b"\" onmouseover=\"boom()",
    b"' autofocus onfocus='boom()",
    b"&lt;b&gt;&#60;",
    b"<a href=javascript:boom()>",
    b"<title><base href=http:x>",
    b"\xff\xfe<\xc0",
    b"line\nbreak\x1b[31m",
    "\u{202e}gnp.exe\u{2066}".as_bytes(),
];

/// A directory with hostile names of files and directories, and a title to match.
fn hostile(dir: &Path) -> PathBuf {
    let source = dir.join("source");
    for (number, name) in HOSTILE.into_iter().enumerate() {
        let inner = source.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(&inner).unwrap();
        // Every list has them: large, twice the same, set-id, writable by anybody.
        for (file, fill) in [(name, b'a'), (b"second".as_slice(), b'a'), (b"third", b'b')] {
            let file = inner.join(OsStr::from_bytes(file));
            std::fs::write(&file, vec![fill; 10_000 * (number + 1)]).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4777)).unwrap();
        }
    }
    let image = dir.join("hostile.mkimg");
    let title = "</title><script>boom()</script>";
    let _ = mkimg(args!["build", format!("dir:{}", source.display()), "-o", image, "--name", title]).ok();
    image
}

fn page_of(image: &Path) -> PathBuf {
    let page = image.with_extension("html");
    let _ = mkimg(args!["report", image, "--html", page]).ok();
    page
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is not a number"))
}

fn sum<'a>(values: impl IntoIterator<Item = &'a Value>) -> u64 {
    values.into_iter().map(number).sum()
}

fn list<'a>(report: &'a Value, name: &str) -> &'a Vec<Value> {
    report[name].as_array().unwrap_or_else(|| panic!("no list {name}"))
}

/// Length of an area of the image.
fn area(inspection: &Value, name: &str) -> u64 {
    let area = list(inspection, "areas").iter().find(|area| area["name"] == name);
    number(&area.unwrap()["length"])
}

/// Compares what a report says with what the listing and the inspection say.
fn assert_agrees(image: &Path) {
    let report = mkimg(args!["report", "--json", "--top", "1000", image]).ok().json();
    let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
    let listed = mkimg(args!["ls", "--json", image]).ok().json_lines();
    assert_eq!(report["root_hash"], inspection["verity"]["root_hash"]);
    assert_eq!(number(&report["names"]), listed.len() as u64);

    let mut files: BTreeMap<u64, &Value> = BTreeMap::new();
    let mut by_dir: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for line in listed.iter().filter(|line| line["type"] == "file") {
        if files.contains_key(&number(&line["ino"])) {
            continue;
        }
        files.insert(number(&line["ino"]), line);
        let path = line["path"].as_str().unwrap();
        for (at, _) in path.match_indices('/').skip(1) {
            let dir = by_dir.entry(path[..at].to_owned()).or_default();
            *dir = (dir.0 + number(&line["size"]), dir.1 + 1);
        }
    }
    assert_eq!(number(&report["files"]), files.len() as u64);
    let bytes = sum(files.values().map(|line| &line["size"]));
    assert_eq!(number(&report["bytes"]), bytes);
    assert_eq!(sum(list(&report, "kinds").iter().map(|kind| &kind["bytes"])), bytes);
    assert_eq!(sum(list(&report, "kinds").iter().map(|kind| &kind["files"])), files.len() as u64);
    for key in ["distinct_bytes", "stored_bytes"] {
        let sum = sum(list(&report, "kinds").iter().map(|kind| &kind[key]));
        assert_eq!(sum, number(&report[key]), "{key}");
    }
    assert_eq!(number(&report["distinct_bytes"]), bytes - number(&report["duplicates"]["saved_bytes"]));
    assert_eq!(number(&report["stored_bytes"]), area(&inspection, "data"));

    // Directories and files, largest first.
    let mut largest = u64::MAX;
    for dir in list(&report, "largest_directories") {
        let path = dir["path"].as_str().unwrap();
        assert_eq!((number(&dir["bytes"]), number(&dir["files"])), by_dir[path], "{path}");
        assert!(number(&dir["bytes"]) <= largest, "{path}");
        largest = number(&dir["bytes"]);
    }
    let mut sizes: Vec<u64> = files.values().map(|line| number(&line["size"])).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.truncate(1000);
    let reported: Vec<u64> =
        list(&report, "largest_files").iter().map(|file| number(&file["bytes"])).collect();
    assert_eq!(reported, sizes);

    // Duplicates, by digests that were computed now.
    let mut copies: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for line in files.values().filter(|line| number(&line["size"]) > 0) {
        copies.entry(line["sha256"].as_str().unwrap()).or_insert((number(&line["size"]), 0)).1 += 1;
    }
    copies.retain(|_, (_, copies)| *copies > 1);
    let duplicates = &report["duplicates"];
    assert_eq!(number(&duplicates["contents"]), copies.len() as u64);
    assert_eq!(
        number(&duplicates["saved_bytes"]),
        copies.values().map(|(size, copies)| size * (copies - 1)).sum::<u64>()
    );
    let path_digests: BTreeMap<&str, &str> =
        listed.iter().filter_map(|line| Some((line["path"].as_str()?, line["sha256"].as_str()?))).collect();
    for duplicate in list(duplicates, "list") {
        let digests: BTreeSet<&str> = duplicate["paths"]
            .as_array()
            .unwrap()
            .iter()
            .map(|path| path_digests[path.as_str().unwrap()])
            .collect();
        assert_eq!(digests.len(), 1, "{duplicate}");
        let digest = digests.into_iter().next().unwrap();
        assert_eq!((number(&duplicate["bytes"]), number(&duplicate["copies"])), copies[digest]);
    }

    // Layers and deleted files.
    for (layer, inspected) in list(&report, "layers").iter().zip(list(&inspection, "layers")) {
        for key in ["digest", "shipped_bytes", "visible_bytes", "shadowed_bytes", "deleted_files"] {
            assert_eq!(layer[key], inspected[key], "{key}");
        }
    }
    let deleted = mkimg(args!["inspect", "--deleted", "--json", image]).ok().json_lines();
    assert_eq!(number(&report["deleted"]["files"]), deleted.len() as u64);
    assert_eq!(number(&report["deleted"]["bytes"]), sum(deleted.iter().map(|line| &line["size"])));
    let names: BTreeSet<_> = deleted.iter().map(|line| line["path"].as_str().unwrap()).collect();
    for file in list(&report["deleted"], "list") {
        assert!(names.contains(file["path"].as_str().unwrap()), "{file}");
    }

    // Security, of inodes.
    let bits = |line: &Value, mask: u64| number(&line["mode"]) & mask != 0;
    let mut wanted: BTreeMap<&str, BTreeSet<u64>> = BTreeMap::new();
    for line in &listed {
        let (kind, ino) = (line["type"].as_str().unwrap(), number(&line["ino"]));
        let is_device = matches!(kind, "char" | "block");
        for (what, applies) in [
            ("set-id", kind == "file" && bits(line, 0o6000)),
            ("capabilities", kind == "file" && line["xattrs"]["security.capability"].is_string()),
            ("device", is_device),
            (
                "world-writable",
                bits(line, 0o002)
                    && !is_device
                    && kind != "symlink"
                    && !(kind == "dir" && bits(line, 0o1000)),
            ),
        ] {
            let inodes = wanted.entry(what).or_default();
            if applies {
                inodes.insert(ino);
            }
        }
    }
    for part in list(&report, "security") {
        let what = part["what"].as_str().unwrap();
        assert_eq!(number(&part["count"]), wanted.remove(what).unwrap().len() as u64, "{what}");
    }
    assert!(wanted.is_empty());
}

#[test]
fn a_report_agrees_with_the_listing() {
    let dir = scratch();
    assert_agrees(&everything(dir.path()));
    assert_agrees(&build(dir.path(), &images::sample()));
}

#[test]
fn a_report_of_a_real_image_agrees_with_its_listing() {
    let real = match images::real_one("python") {
        Ok(real) => real,
        Err(reason) => return skipped(&reason),
    };
    let dir = scratch();
    let image = build(dir.path(), &real.source);
    assert_agrees(&image);
    let text = mkimg(args!["report", image]).ok().out();
    assert!(text.lines().count() < 60, "more than a screen:\n{text}");
    let page = std::fs::metadata(page_of(&image)).unwrap().len();
    assert!(page < 2 << 20, "{page} bytes");
}

#[test]
fn the_text_says_what_matters() {
    let dir = scratch();
    let image = build(dir.path(), &images::sample());
    let text = mkimg(args!["report", image]).ok().out();
    for wanted in [
        "  all    14.1 KiB    11.0 KiB       125 B     3.0 KiB  22.2 % wasted by the source\n",
        "     10.7 KiB  97.4 %        5  /srv/www\n".trim_start(),
        "      5.5 KiB       1     text  /srv/www/notes.txt\n".trim_start(),
        "deleted, but still shipped by the source: 3 files, 3.0 KiB\n",
        "set-id files                1  /usr/bin/login\n",
        "files with capabilities     1  /usr/bin/httpd (net_bind_service)\n",
        "device nodes                2  /dev/null (char 1:3), /dev/zero (char 1:5)\n",
    ] {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
    // The secret comes first, although the others are larger.
    let (_, deleted) = text.split_once("deleted, but still shipped").unwrap();
    let first = deleted.lines().nth(1).unwrap();
    assert_eq!(first.trim(), format!("70 B       1        2  {SAMPLE_SECRET}  [name of a secret]"));

    let report = mkimg(args!["report", "--json", "--top", "1", image]).ok().json();
    assert_eq!((number(&report["deleted"]["files"]), number(&report["deleted"]["secrets"])), (3, 1));
    assert_eq!(list(&report["deleted"], "list").len(), 1);
    assert_eq!(report["deleted"]["list"][0]["path"], SAMPLE_SECRET);
    assert_eq!(report["layers"][1]["command"], "application");
}

/// A directory with some of each: small and large, copies, what shrinks and what does not, equal blocks, tails.
fn mixed(dir: &Path) -> String {
    let source = dir.join("mixed");
    std::fs::create_dir_all(&source).unwrap();
    let text =
        |bytes: usize| b"all work and no play\n".iter().copied().cycle().take(bytes).collect::<Vec<u8>>();
    // Numbers by xorshift: no algorithm makes them smaller.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    let noise: Vec<u8> = (0..8 * 4096).map(|_| noise()).collect();
    for (name, content) in [
        ("blocks.a", [&noise[..], &[b'x'; 100]].concat()),
        ("blocks.png", noise),
        ("copy.sh", text(300)),
        ("copy.txt", text(700_000)),
        ("long.txt", text(700_000)),
        ("page.txt", text(4096 + 100)),
        ("short.sh", text(300)),
        ("empty.c", Vec::new()),
    ] {
        std::fs::write(source.join(name), content).unwrap();
    }
    format!("dir:{}", source.display())
}

/// Builds `source` with more options.
fn build_with(dir: &Path, source: &str, options: &str) -> PathBuf {
    let image = dir.join("with.mkimg");
    let _ = mkimg(args!["build", source, "-o", image]).args(options.split_whitespace()).ok();
    image
}

#[test]
fn stored_bytes_are_what_the_image_grows_by() {
    let dir = scratch();
    let source = mixed(dir.path());
    // Padding behind all contents, where they do not stand in blocks; tails, which stand with the metadata.
    for (options, padding, tails) in [
        ("--compress none", 0, 0),
        ("--dedup blocks", 0, 0),
        ("--compress lz4 --min-kernel 5.15", 0, 100),
        ("--compress lz4 --min-kernel 6.1", 0, 0),
        ("--compress zstd:1", 0, 0),
        ("--compress zstd:1 --min-kernel 6.15", 4095, 0),
    ] {
        let image = build_with(dir.path(), &source, options);
        let report = mkimg(args!["report", "--json", image]).ok().json();
        let inspection = mkimg(args!["inspect", "--json", image]).ok().json();
        let (stored, data) = (number(&report["stored_bytes"]), area(&inspection, "data") + tails);
        assert!(stored <= data && stored + padding >= data, "{options}: {stored} of {data}");
        let kinds = list(&report, "kinds");
        assert_eq!(sum(kinds.iter().map(|kind| &kind["stored_bytes"])), stored, "{options}");
        for line in kinds.iter().chain([&report]) {
            let [distinct, stored] = ["distinct_bytes", "stored_bytes"].map(|key| number(&line[key]) as f64);
            match line["ratio"].as_f64() {
                Some(ratio) => assert!((ratio - distinct / stored).abs() < 0.006, "{options}: {line}"),
                None => assert_eq!(stored, 0.0, "{options}: {line}"),
            }
        }
        let of =
            |name: &str, key: &str| number(&kinds.iter().find(|line| line["kind"] == name).unwrap()[key]);
        assert_eq!(of("text", "distinct_bytes"), 700_000 + 4196, "{options}");
        assert_eq!(of("script", "distinct_bytes"), 300, "{options}");
        if options == "--compress none" {
            assert_eq!(of("text", "stored_bytes"), (171 + 2) * 4096);
            assert_eq!(of("script", "stored_bytes"), 4096);
            assert_eq!((of("archive", "stored_bytes"), of("media", "stored_bytes")), (9 * 4096, 8 * 4096));
        } else if options.starts_with("--dedup") {
            // Shared blocks count with the first file that the walk comes to.
            assert_eq!((of("archive", "stored_bytes"), of("media", "stored_bytes")), (9 * 4096, 0));
        } else if tails > 0 {
            // Before 6.1 what several files have is not compressed.
            assert_eq!(of("text", "stored_bytes"), (171 + 1) * 4096, "{options}");
        } else {
            let noise = of("archive", "stored_bytes") + of("media", "stored_bytes");
            assert!(noise > 7 * 4096, "{options}: noise takes {noise}");
            assert!(of("text", "stored_bytes") < 700_000 / 4, "{options}: text did not get smaller");
        }
    }
}

#[test]
fn the_text_has_ratios_where_there_are_some() {
    let dir = scratch();
    let source = mixed(dir.path());
    let plain = mkimg(args!["report", build_with(dir.path(), &source, "")]).ok().out();
    let heading = "       size  of all    files      stored  type\n";
    assert!(plain.contains(heading), "{heading:?} is not in\n{plain}");
    assert!(plain.contains("\n      600 B   0.0 %        2     4.0 KiB  scripts\n"), "{plain}");
    let image = build_with(dir.path(), &source, "--compress zstd:1 --min-kernel 6.15");
    let packed = mkimg(args!["report", image]).ok().out();
    let heading = "       size  of all    files      stored  ratio  type\n";
    assert!(packed.contains(heading), "{heading:?} is not in\n{packed}");
    let report = mkimg(args!["report", "--json", image]).ok().json();
    let all = packed.lines().find(|line| line.ends_with("  all")).unwrap();
    assert!(all.contains(&format!(" {:.2}  all", report["ratio"].as_f64().unwrap())), "{all}");
}

#[test]
fn hostile_names_stay_on_their_lines() {
    let dir = scratch();
    let text = mkimg(args!["report", "--top", "1000", hostile(dir.path())]).ok().out();
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text}");
    assert!(!text.contains('\u{202e}'), "text is turned around: {text}");
    // Each name is there, in one form.
    for name in [r"/line\nbreak\u{1b}[31m/", r"/\xff\xfe<\xc0/", r"/\u{202e}gnp.exe\u{2066}/"] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
}

/// A detached seal has no data, so kinds may differ; nothing else does.
#[test]
fn a_detached_seal_gives_the_same_report() {
    let dir = scratch();
    let image = everything(dir.path());
    let seal = dir.path().join("image.seal");
    let _ = mkimg(args!["seal", image, "-o", seal]).ok();
    let mut reports = [&image, &seal].map(|file| mkimg(args!["report", "--json", file]).ok().json());
    assert_eq!([&reports[0]["detached"], &reports[1]["detached"]], [false, true]);
    for report in &mut reports {
        let report = report.as_object_mut().unwrap();
        report.remove("detached");
        report.remove("kinds");
        for file in report["largest_files"].as_array_mut().unwrap() {
            file.as_object_mut().unwrap().remove("kind");
        }
    }
    assert_eq!(reports[0], reports[1]);
    assert!(std::fs::read_to_string(page_of(&seal)).unwrap().contains("a detached seal holds no data"));
}

#[test]
fn a_page_appears_whole_or_not_at_all() {
    let dir = scratch();
    let image = everything(dir.path());
    let page = page_of(&image);
    let before = (names_in(dir.path()), sha256_of(&image), sha256_of(&page));
    let new = dir.path().join("new.html");
    for (arguments, code, wanted) in [
        (args!["report", image, "--html", image].to_vec(), 1, "is the input itself"),
        (args!["report", image, "--html", dir.path()].to_vec(), 1, "not a regular file"),
        (args!["report", image, "--html", dir.path().join("no/where")].to_vec(), 1, "cannot create"),
        (args!["report", page, "--html", new].to_vec(), 1, "image.html"),
    ] {
        let done = mkimg(&arguments).output().code(code);
        assert!(done.error_line().contains(wanted), "{arguments:?}: {}", done.err());
        let after = (names_in(dir.path()), sha256_of(&image), sha256_of(&page));
        assert_eq!(after, before, "{arguments:?}");
    }
    // The same page each time.
    assert_eq!(sha256_of(&page_of(&image)), before.2);
}

const BROWSER: &str = "chromium-headless-shell";

/// Runs the browser without a network and without a trace of earlier runs. Returns standard output and error.
fn browse(dir: &Path, width: u32, arguments: &[&str], url: &str) -> (String, String) {
    let profile = tempfile::tempdir_in(dir).unwrap();
    let done = command::tool(
        BROWSER,
        args![
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            "--enable-logging=stderr",
            format!("--user-data-dir={}", profile.path().display()),
            format!("--window-size={width},1000"),
        ],
    )
    .args(arguments)
    .args([url])
    .ok();
    (done.out(), done.err())
}

fn url(page: &Path) -> String {
    format!("file://{}", page.display())
}

/// The page as the browser understands it, and what it complains about.
fn dom(dir: &Path, page: &Path, fragment: &str, width: u32) -> String {
    let (dom, errors) = browse(dir, width, &["--dump-dom"], &format!("{}{fragment}", url(page)));
    let complaints: Vec<&str> = errors.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    dom
}

/// Names of all elements and attributes in the browser's view, which it writes out in one form.
fn vocabulary(dom: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut elements, mut attributes) = (BTreeSet::new(), BTreeSet::new());
    let mut rest = dom;
    while let Some((_, tag)) = rest.split_once('<') {
        let name = tag.split(|c: char| c.is_whitespace() || c == '>').next().unwrap();
        elements.insert(name.trim_start_matches('/').to_owned());
        rest = &tag[name.len()..];
        // Values are in double quotes, whatever stands in them.
        while let Some((name, after)) = rest.split_once(['=', '>']) {
            if rest.as_bytes()[name.len()] == b'>' {
                rest = after;
                break;
            }
            attributes.insert(name.trim().to_owned());
            rest = after.strip_prefix('"').unwrap().split_once('"').unwrap().1;
        }
    }
    (elements, attributes)
}

#[test]
fn names_in_a_page_are_inert() {
    require!(Need::Tool(BROWSER));
    let dir = scratch();
    // The same page without a hostile name has all that a page is made of.
    let plain = dir.path().join("plain");
    for name in ["a", "b"] {
        std::fs::create_dir_all(plain.join(name)).unwrap();
        for file in ["c", "d"] {
            std::fs::write(plain.join(name).join(file), vec![b'x'; 20_000]).unwrap();
            let mode = std::fs::Permissions::from_mode(0o4777);
            std::fs::set_permissions(plain.join(name).join(file), mode).unwrap();
        }
    }
    for number in 0..3000 {
        std::fs::write(plain.join(format!("small-{number}")), [b'y'; 40]).unwrap();
    }
    let image = build(dir.path(), &format!("dir:{}", plain.display()));
    let (elements, attributes) = vocabulary(&dom(dir.path(), &page_of(&image), "", 1200));
    assert!(elements.contains("svg") && !elements.contains("script") && !elements.contains("img"));

    let page = page_of(&hostile(dir.path()));
    let seen = dom(dir.path(), &page, "", 1200);
    let (found, with) = vocabulary(&seen);
    assert!(found.is_subset(&elements), "{:?}", found.difference(&elements));
    assert!(with.is_subset(&attributes), "{:?}", with.difference(&attributes));
    assert!(with.iter().all(|name| !name.starts_with("on") && name != "src"), "{with:?}");
    assert!(seen.contains("&lt;img src=x onerror=boom()&gt;"), "the name is not there as text");
    assert!(seen.contains("<title>&lt;/title&gt;&lt;script&gt;boom()&lt;/script&gt;"), "no title");
    assert!(seen.contains(r"\xff\xfe&lt;\xc0") && seen.contains(r"line\nbreak\u{1b}[31m"));
    assert!(!seen.contains('\u{202e}') && !seen.contains('\u{2066}'), "text is turned around");
}

/// With a script of the test's own in the page, which reports what is to be seen.
fn measured(dir: &Path, page: &Path, fragment: &str, width: u32) -> Value {
    const POLICY: &str = "<meta http-equiv=\"Content-Security-Policy\"";
    const PROBE: &str = "<script>onload = () => document.documentElement.dataset.seen = JSON.stringify({
        maps: [...document.querySelectorAll('.map')].filter(map => getComputedStyle(map).display != 'none').map(map => map.id),
        wide: document.documentElement.scrollWidth, window: innerWidth,
        links: document.querySelectorAll('.map:target a, #m0 a').length,
        dead: [...document.querySelectorAll('a')].filter(a => !document.querySelector(a.getAttribute('href'))).length,
        unnamed: [...document.querySelectorAll('svg a')].filter(a => !a.querySelector('title').textContent).length,
        levels: [...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName).join(''),
        types: [...document.querySelectorAll('[aria-label=types] tr')].map(row => [...row.cells].map(cell => cell.innerText)),
        text: getComputedStyle(document.querySelector('svg text')).fontSize,
    })</script>";
    let text = std::fs::read_to_string(page).unwrap();
    assert!(text.contains(POLICY) && text.contains("default-src 'none'"));
    let probed = page.with_extension("probe.html");
    let text =
        text.replace(POLICY, "<meta name=\"no-policy\"").replace("</body>", &format!("{PROBE}</body>"));
    std::fs::write(&probed, text).unwrap();
    let dom = dom(dir, &probed, fragment, width);
    let (_, seen) = dom.split_once("data-seen=\"").unwrap();
    let (seen, _) = seen.split_once('"').unwrap();
    serde_json::from_str(&seen.replace("&quot;", "\"")).unwrap()
}

#[test]
fn a_page_fits_and_zooms() {
    require!(Need::Tool(BROWSER));
    let dir = scratch();
    let image = match images::real_one("python") {
        Ok(real) => build(dir.path(), &real.source),
        Err(reason) => {
            skipped(&reason);
            build(dir.path(), &images::sample())
        }
    };
    let page = page_of(&image);
    for (fragment, maps) in [("", "m0"), ("#m0", "m0"), ("#m1", "m1"), ("#m3", "m3"), ("#layers", "m0")] {
        for width in [1200, 400] {
            let seen = measured(dir.path(), &page, fragment, width);
            assert_eq!(seen["maps"], serde_json::json!([maps]), "{fragment} {width}: {seen}");
            assert_eq!(seen["window"], width, "{seen}");
            assert!(number(&seen["wide"]) <= u64::from(width), "{fragment} {width}: {seen}");
            assert!(number(&seen["links"]) > 0 && number(&seen["dead"]) == 0, "{seen}");
            assert_eq!((number(&seen["unnamed"]), &seen["text"]), (0, &"12px".into()), "{seen}");
            let levels = seen["levels"].as_str().unwrap();
            assert!(levels.starts_with("H1H2H2") && levels.ends_with("H2H3H3H3H3"), "{levels}");
        }
    }
}

#[test]
fn a_page_has_the_ratios_of_the_report() {
    require!(Need::Tool(BROWSER));
    let dir = scratch();
    let source = mixed(dir.path());
    for options in ["", "--compress zstd:1"] {
        let image = build_with(dir.path(), &source, options);
        let report = mkimg(args!["report", "--json", image]).ok().json();
        let wanted: Vec<String> = list(&report, "kinds")
            .iter()
            .chain([&report])
            .map(|line| format!("{:.2}", line["ratio"].as_f64().unwrap()))
            .collect();
        let page = page_of(&image);
        for width in [1200, 400] {
            let seen = measured(dir.path(), &page, "", width);
            assert!(number(&seen["wide"]) <= u64::from(width), "{options} {width}: {seen}");
            let (heads, rows) = list(&seen, "types").split_first().unwrap();
            let column = |name: &str| heads.as_array().unwrap().iter().position(|head| head == name);
            assert_eq!(rows.len(), wanted.len(), "{seen}");
            assert!(column("stored").is_some() && rows.last().unwrap()[0] == "all", "{seen}");
            let found = column("ratio").map(|at| rows.iter().map(|row| row[at].clone()).collect::<Vec<_>>());
            assert_eq!(
                found,
                (!options.is_empty()).then(|| wanted.iter().map(|text| text.as_str().into()).collect())
            );
        }
    }
}

#[test]
fn a_page_loads_nothing() {
    require!(Need::Tool(BROWSER));
    let dir = scratch();
    let page = page_of(&build(dir.path(), &images::sample()));
    let (picture, log) = (dir.path().join("picture.png"), dir.path().join("net.json"));
    let arguments =
        [format!("--screenshot={}", picture.display()), format!("--log-net-log={}", log.display())];
    let _ = browse(dir.path(), 1200, &arguments.each_ref().map(String::as_str), &url(&page));
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(log.contains("\"events\""), "the browser wrote no log");
    for what in ["\"url\":\"http", "\"host\":\""] {
        assert!(!log.contains(what), "{what} in {log}");
    }
}
