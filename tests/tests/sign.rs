//! Signing and asking for signatures, from the outside, with OpenSSL as the other party.
#![allow(missing_docs, clippy::unwrap_used)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use mkimg_tests::command::{Finished, mkimg, tool};
use mkimg_tests::need::Need;
use mkimg_tests::{Seeded, args, images, require, scratch};
use serde_json::Value;

/// A directory with the sample image as `web.img`, and keys.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        let bench = Self(scratch());
        let _ = bench.build("web.img", &["--name", "web", "--epoch", "3"]);
        bench
    }

    fn build(&self, name: &str, options: &[&str]) -> String {
        let line = args!["build", "--json", "--compress", "none", images::sample(), "-o", self.path(name)];
        mkimg(line).args(options).ok().json()["root_hash"].as_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A line of words for OpenSSL, in the directory.
    fn openssl(&self, line: &str) -> &Self {
        let _ = tool("openssl", line.split(' ')).current_dir(self.0.path()).ok();
        self
    }

    /// `NAME.key`, `NAME.pub` and, unless it is of Ed25519, `NAME.crt`.
    fn pair(&self, name: &str, kind: &str) -> &Self {
        self.openssl(&format!("genpkey {kind} -out {name}.key"));
        self.openssl(&format!("pkey -in {name}.key -pubout -out {name}.pub"));
        self.openssl(&format!(
            "req -x509 -new -key {name}.key -subj /O=mkimg/CN={name} -days 30 -out {name}.crt"
        ))
    }

    /// A line of words for mkimg, in the directory.
    fn mkimg(&self, line: &str) -> Finished {
        mkimg(line.split(' ')).current_dir(self.0.path()).output()
    }

    /// What `verify` says against the image: the only finding, exit status 1.
    fn refusal(&self, line: &str) -> String {
        let lines = self.mkimg(&format!("verify --json {line}")).code(1).json_lines();
        let [finding, summary] = &lines[..] else { panic!("{line}: {lines:?}") };
        assert_eq!(finding["region"], "trust", "{line}");
        assert_eq!(summary["clean"], false);
        finding["problem"].as_str().unwrap().to_owned()
    }

    fn accepted(&self, line: &str) -> Value {
        let summary = self.mkimg(&format!("verify --json {line}")).code(0).json();
        assert_eq!(
            (&summary["clean"], &summary["anchored"]),
            (&Value::Bool(true), &Value::Bool(true)),
            "{line}"
        );
        summary
    }

    fn copy(&self, from: &str, to: &str) -> &Self {
        std::fs::copy(self.path(from), self.path(to)).unwrap();
        self
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.path(name), bytes).unwrap();
        self
    }

    fn key_id(&self, name: &str) -> String {
        self.openssl(&format!("pkey -pubin -in {name}.pub -outform DER -out id.der"));
        mkimg_tests::sha256_of(&self.path("id.der"))
    }
}

const ED25519: &str = "-algorithm ED25519";
const RSA: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
const RSA_4096: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:4096";
const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const P384: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";

/// The PKCS#7 signature is over the root hash, and OpenSSL checks it as systemd does.
fn openssl_takes(bench: &Bench, sidecar: &str, root_hash: &str, certificate: &str) {
    bench.write("root-hash", root_hash);
    for command in ["smime", "cms"] {
        bench.openssl(&format!(
            "{command} -verify -binary -inform DER -in {sidecar} -content root-hash -certfile {certificate} -nointern -noverify -out /dev/null"
        ));
    }
}

#[test]
fn every_kind_of_key_signs_and_verifies() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    let unsigned = bench.read("web.img");
    let root = bench.mkimg("inspect --json web.img").code(0).json()["verity"]["root_hash"].clone();
    let root = root.as_str().unwrap();
    bench.pair("stranger", ED25519);
    for (name, kind) in [("ed", ED25519), ("rsa", RSA), ("rsa4096", RSA_4096), ("p256", P256), ("p384", P384)]
    {
        bench.pair(name, kind).copy("web.img", "one.img");
        let id = bench.key_id(name);
        // An Ed25519 key has no PKCS#7 form; the others get both signatures.
        let with = if kind == ED25519 { String::new() } else { format!(" --cert {name}.crt") };
        let said =
            bench.mkimg(&format!("sign one.img --key {name}.key{with} --sidecar --json")).code(0).json();
        assert_eq!(
            (&said["key_id"], &said["name"], &said["epoch"]),
            (&id.as_str().into(), &"web".into(), &3.into())
        );
        assert_eq!(said["attached"].as_array().unwrap().len(), if with.is_empty() { 1 } else { 2 });

        let summary = bench.accepted(&format!("one.img --key {name}.pub"));
        assert_eq!((&summary["anchored_by"], &summary["key_id"]), (&"signature".into(), &id.as_str().into()));
        let text = bench.mkimg(&format!("verify one.img --key stranger.pub --key {name}.pub")).code(0).out();
        assert!(text.starts_with("one.img: checked against the signature of "), "{text}");
        assert!(text.contains(&id), "{text}");
        let summary = bench.accepted(&format!("one.img --cert {name}.crt --root-hash {root}"));
        let signer = format!("CN={name},O=mkimg");
        assert_eq!(
            (&summary["anchored_by"], &summary["signer"]),
            (&"signature".into(), &signer.as_str().into())
        );

        // Only the last block has changed, and the image is as clean as before for those who have no key.
        let signed = bench.read("one.img");
        assert_eq!(signed.len(), unsigned.len());
        assert!(signed[..signed.len() - 4096] == unsigned[..signed.len() - 4096]);
        let summary = bench.mkimg("verify --json one.img").code(0).json();
        assert_eq!((&summary["anchored"], summary.get("anchored_by")), (&false.into(), None));

        let inspected = bench.mkimg("inspect --json one.img").code(0).json();
        assert_eq!(inspected["signatures"][0]["key_id"], id.as_str());
        if !with.is_empty() {
            openssl_takes(&bench, "one.img.p7s", root, &format!("{name}.crt"));
            // The PKCS#7 signature alone, from the image and from a file.
            bench.copy("web.img", "two.img");
            let line = format!("sign two.img --attach-signature one.img.p7s --cert {name}.crt");
            let _ = bench.mkimg(&line).code(0);
            let summary = bench.accepted(&format!("two.img --cert {name}.crt"));
            assert_eq!(
                (&summary["anchored_by"], &summary["signer"]),
                (&"pkcs7".into(), &signer.as_str().into())
            );
            let _ = bench.accepted(&format!("web.img --cert {name}.crt --signature one.img.p7s"));
        }
        let _ = bench.accepted(&format!("web.img --key {name}.pub --signature one.img.sig"));

        let other = bench.refusal("one.img --key stranger.pub");
        assert_eq!(other, format!("no signature holds: there is none of key {}", bench.key_id("stranger")));
        assert_eq!(bench.refusal("web.img --key stranger.pub"), "is not signed");
    }
}

/// The reader that was written from SPEC.md alone reads a signed image, and finds the same message in it.
#[test]
fn the_specification_says_what_is_signed() {
    require!(Need::Tool("openssl"), Need::Tool("python3"));
    let bench = Bench::new();
    bench.pair("ed", ED25519).pair("rsa", RSA);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec_reader.py");
    let read = |image: &str| {
        let _ = tool("python3", args![script, "--message", bench.path("theirs"), bench.path(image)]).ok();
        bench.read("theirs")
    };
    let _ = bench.build("bare.img", &["--name", "web", "--epoch", "3"]);
    for image in ["bare.img", "web.img"] {
        let _ = bench.mkimg(&format!("sign {image} --key ed.key")).code(0);
        let _ = bench.mkimg(&format!("sign {image} --key rsa.key --cert rsa.crt --sidecar")).code(0);
        let _ = bench.mkimg(&format!("sign {image} --detached-digest ours")).code(0);
        assert_eq!(read(image), bench.read("ours"), "{image}");
        bench.openssl(&format!("dgst -sha256 -verify rsa.pub -signature {image}.sig theirs"));
    }
    // Records in the wrong order, under a right checksum.
    let mut bytes = bench.read("web.img");
    let trailer = bytes.len() - 4096;
    let records = &mut bytes[trailer + 0x80..];
    let first = usize::from(u16::from_le_bytes([records[2], records[3]])) + 4;
    let second = usize::from(u16::from_le_bytes([records[first + 2], records[first + 3]])) + 4;
    records[..first + second].rotate_left(first);
    mend(&mut bytes[trailer..]);
    bench.write("order.img", bytes);
    let said = tool("python3", args![script, bench.path("order.img")]).output().code(1).err();
    assert!(said.contains("order of the records"), "{said}");
    let lines = bench.mkimg("verify --json order.img").code(1).json_lines();
    assert_eq!(lines[0]["region"], "trailer", "{lines:?}");
}

/// Keys that are elsewhere: mkimg says what to sign, OpenSSL signs, mkimg checks and puts it in.
#[test]
fn signatures_made_elsewhere() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    bench.pair("ed", ED25519).pair("rsa", RSA).pair("p256", P256).pair("other", RSA);
    let _ = bench.mkimg("sign web.img --detached-digest message").code(0);
    let _ = bench.mkimg("sign web.img --detached-digest root --cert rsa.crt").code(0);
    assert_eq!(bench.read("root").len(), 64, "no line end");
    assert!(bench.read("message").starts_with(b"mkimg signature\0"));
    for (name, digest) in [("ed", ""), ("rsa", " -digest sha256"), ("p256", " -digest sha256")] {
        bench.copy("web.img", "one.img");
        bench.openssl(&format!("pkeyutl -sign -rawin{digest} -inkey {name}.key -in message -out raw"));
        let wrong = bench.mkimg("sign one.img --attach-signature raw --key other.pub").code(1).error_line();
        assert!(wrong.contains("raw: is no signature of RSA key"), "{wrong}");
        assert_eq!(bench.read("one.img"), bench.read("web.img"));
        let _ = bench.mkimg(&format!("sign one.img --attach-signature raw --key {name}.pub")).code(0);
        let _ = bench.accepted(&format!("one.img --key {name}.pub"));
        // Over another message.
        bench.openssl(&format!("pkeyutl -sign -rawin{digest} -inkey {name}.key -in root -out raw"));
        let _ = bench.mkimg(&format!("sign one.img --attach-signature raw --key {name}.pub")).code(1);
    }
    let sign = "smime -sign -noattr -binary -md sha256 -in root -signer rsa.crt -inkey rsa.key";
    for form in ["-nocerts -outform DER", "-outform DER", "-outform PEM", "-nocerts -outform PEM"] {
        bench.copy("web.img", "one.img").openssl(&format!("{sign} {form} -out p7"));
        let _ = bench.mkimg("sign one.img --attach-signature p7 --cert rsa.crt").code(0);
        assert_eq!(bench.accepted("one.img --cert rsa.crt")["anchored_by"], "pkcs7");
        let wrong = bench.mkimg("sign one.img --attach-signature p7 --cert other.crt").code(1).error_line();
        assert!(wrong.contains("p7: names another signer than CN=other,O=mkimg"), "{wrong}");
        let wrong = bench.mkimg("sign one.img --attach-signature p7 --key rsa.pub").code(1).error_line();
        assert!(wrong.contains("p7: a PKCS#7 signature is checked with --cert"), "{wrong}");
    }
    // With no certificate inside it is the very form that mkimg makes.
    bench.openssl(&format!("{sign} -nocerts -outform DER -out p7"));
    let _ = bench.mkimg("sign web.img --key rsa.key --cert rsa.crt --sidecar").code(0);
    assert_eq!(bench.read("p7"), bench.read("web.img.p7s"));
}

/// Each way in which a signature is not one, with its reason.
#[test]
fn refusals() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    bench.pair("rsa", RSA).pair("other", RSA).pair("ed", ED25519);
    let root = bench.mkimg("inspect --json web.img").code(0).json()["verity"]["root_hash"].clone();
    let root = root.as_str().unwrap();
    bench.write("root", root).write("upper", root.to_uppercase()).write("line", format!("{root}\n"));
    let digits: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&root[2 * at..2 * at + 2], 16).unwrap()).collect();
    bench.write("binary", digits).write("foreign", "0".repeat(64));
    let p7 = |options: &str, content: &str| {
        bench.openssl(&format!(
            "smime -sign -binary -md sha256 -in {content} -signer rsa.crt -inkey rsa.key -outform DER -out p7 {options}"
        ));
        bench.refusal("web.img --cert rsa.crt --signature p7")
    };
    let bare = "-noattr -nocerts";
    let names = "the PKCS#7 signature of CN=rsa,O=mkimg is";
    let none = "; there is none of CN=rsa,O=mkimg";
    for (options, content, expected) in [
        (bare, "foreign", format!("{names} not over this root hash")),
        (
            bare,
            "upper",
            format!("{names} over the root hash in upper case, not over its 64 lower-case digits"),
        ),
        (
            bare,
            "line",
            format!(
                "{names} over the root hash with a line end behind it, not over its 64 lower-case digits"
            ),
        ),
        (
            bare,
            "binary",
            format!("{names} over the 32 bytes of the root hash, not over its 64 lower-case digits"),
        ),
        (
            "-nocerts",
            "root",
            format!(
                "PKCS#7 signature has signed attributes, so it is not over the root hash itself; sign with -noattr{none}"
            ),
        ),
        (
            "-noattr -nodetach",
            "root",
            format!("PKCS#7 signature is not detached: it has content inside{none}"),
        ),
        (
            "-noattr -nocerts -signer other.crt -inkey other.key",
            "root",
            format!("PKCS#7 signature has 2 signers, must have one{none}"),
        ),
        (
            "-noattr -nocerts -md sha1",
            "root",
            format!("PKCS#7 signature uses digest 1.3.14.3.2.26, not SHA-256, SHA-384 or SHA-512{none}"),
        ),
    ] {
        // The last of two digests counts.
        assert_eq!(p7(options, content), format!("no signature holds: {expected}"), "{options} {content}");
    }
    bench.openssl("smime -sign -binary -md sha256 -noattr -nocerts -in root -signer rsa.crt -inkey rsa.key -outform DER -out good");
    let _ = bench.accepted("web.img --cert rsa.crt --signature good");
    let good = bench.read("good");
    bench.write("p7", &good[..good.len() - 1]);
    let cut = bench.refusal("web.img --cert rsa.crt --signature p7");
    assert_eq!(cut, format!("no signature holds: PKCS#7 signature is truncated{none}"));
    bench.write("p7", [&good[..], b"\0"].concat());
    let long = bench.refusal("web.img --cert rsa.crt --signature p7");
    assert_eq!(long, format!("no signature holds: PKCS#7 signature has bytes behind its end{none}"));
    let other = bench.refusal("web.img --cert other.crt --signature good");
    assert_eq!(other, "no signature holds: there is none of CN=other,O=mkimg");
    let raw = bench.write("raw", [7; 64]).refusal("web.img --key ed.pub --signature raw");
    assert!(
        raw.starts_with("no signature holds: the signature in a file is of no key that was given"),
        "{raw}"
    );

    // Outside of its period.
    bench.openssl("req -new -key rsa.key -subj /CN=old -out csr");
    bench.openssl("x509 -req -in csr -signkey rsa.key -days -1 -out old.crt");
    let _ = bench.copy("web.img", "old.img").mkimg("sign old.img --key rsa.key --cert old.crt").code(0);
    let old = bench.refusal("old.img --cert old.crt");
    assert!(old.starts_with("no signature holds: certificate of CN=old has expired at 20"), "{old}");
    let _ = bench.accepted("old.img --key rsa.pub");

    // The signature of one image in another.
    let _ = bench.mkimg("sign web.img --key ed.key --sidecar").code(0);
    let _ = bench.build("next.img", &["--name", "web", "--epoch", "4"]);
    let wrong = bench.refusal("next.img --key ed.pub --signature web.img.sig");
    assert!(wrong.contains("the signature in a file is of no key that was given"), "{wrong}");
    let (signed, mut next) = (bench.read("web.img"), bench.read("next.img"));
    let (from, to) = (signed.len() - 4096, next.len() - 4096);
    // Its record under a root hash that it is not about.
    next[to + 0x0c..to + 0x10].copy_from_slice(&signed[from + 0x0c..from + 0x10]);
    next[to + 0x80..to + 0xffc].copy_from_slice(&signed[from + 0x80..from + 0xffc]);
    mend(&mut next[to..]);
    let wrong = bench.write("forged.img", &next).refusal("forged.img --key ed.pub");
    assert_eq!(
        wrong,
        format!("no signature holds: the signature of key {} is not over this image", bench.key_id("ed"))
    );
    // The whole trailer of the signed one: its root hash is not that of the blocks.
    next[to..].copy_from_slice(&signed[from..]);
    let lines =
        bench.write("forged.img", &next).mkimg("verify --json forged.img --key ed.pub").code(1).json_lines();
    assert!(lines.iter().any(|line| line["region"] == "trust"), "{lines:?}");

    let usage = bench.mkimg("verify web.img --min-epoch 1").code(2).err();
    assert!(usage.contains("--root-hash"), "{usage}");
    for line in ["sign web.img", "sign web.img --key ed.key --detached-digest x"] {
        let _ = bench.mkimg(line).code(2);
    }
    for (line, expected) in [
        ("sign web.img --key ed.pub", "is no single private key in PEM or DER"),
        ("sign web.img --key rsa.key --cert other.crt", "rsa.key: the certificate is not of this key"),
        ("sign web.img --key ed.key --cert ed.crt", "Ed25519 in PKCS#7"),
    ] {
        let said = bench.mkimg(line).code(1).error_line();
        assert!(said.contains(expected), "{line}: {said}");
    }
    let said = bench.mkimg("verify web.img --key missing.pub").code(2).error_line();
    assert!(said.contains("missing.pub"), "{said}");
}

/// Puts the checksum of a trailer right.
fn mend(trailer: &mut [u8]) {
    let mut crc = flate2::Crc::new();
    crc.update(&trailer[..4092]);
    trailer[4092..4096].copy_from_slice(&crc.sum().to_le_bytes());
}

#[test]
fn keys_stand_side_by_side_until_there_is_no_room() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    bench.pair("a", ED25519).pair("b", ED25519).pair("big", RSA_4096);
    for name in ["a", "b", "a"] {
        let _ = bench.mkimg(&format!("sign web.img --key {name}.key")).code(0);
    }
    let _ = bench.accepted("web.img --key a.pub");
    let _ = bench.accepted("web.img --key b.pub");
    let signatures = bench.mkimg("inspect --json web.img").code(0).json()["signatures"].clone();
    assert_eq!(signatures.as_array().unwrap().len(), 2);
    // Ed25519 signs the same bytes each time, so signing again changes nothing.
    let before = bench.read("web.img");
    let _ = bench.mkimg("sign web.img --key b.key").code(0);
    assert!(before == bench.read("web.img"));
    // Six large ones fill the area; what has no room is in a file, and says so.
    let mut told = String::new();
    for number in 0..8 {
        bench.pair(&format!("r{number}"), RSA_4096);
        let done = bench.mkimg(&format!("sign web.img --key r{number}.key --cert r{number}.crt")).code(0);
        told = done.out();
        assert_eq!(bench.mkimg("verify web.img").code(0).err(), "");
    }
    assert!(told.contains("web.img.sig: written: for this the image itself has no room"), "{told}");
    assert!(told.contains("web.img.p7s: written: for this the image itself has no room"), "{told}");
    let _ = bench.accepted("web.img --key r7.pub --signature web.img.sig");
    let _ = bench.accepted("web.img --cert r7.crt --signature web.img.p7s");
    let _ = bench.accepted("web.img --key a.pub");
}

/// A flipped bit in the records is found without any key, and with one it is no matter of trust alone.
#[test]
fn flips_of_a_signed_trailer() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    bench.pair("rsa", RSA);
    let _ = bench.mkimg("sign web.img --key rsa.key --cert rsa.crt").code(0);
    let good = bench.read("web.img");
    let trailer = good.len() as u64 - 4096;
    let file = std::fs::OpenOptions::new().write(true).open(bench.path("web.img")).unwrap();
    let mut random = Seeded::new(0x7369_676e);
    let mut places: Vec<u64> = (0..40).map(|_| random.below(4096)).collect();
    places.extend([0, 0x0c, 0x7f, 0x80, 0x84, 0x88, 0xff, 0xffb, 0xffc, 0xfff]);
    for place in places {
        let original = good[usize::try_from(trailer + place).unwrap()];
        file.write_all_at(&[original ^ 1 << random.below(8)], trailer + place).unwrap();
        let lines = bench.mkimg("verify --json web.img").code(1).json_lines();
        assert_eq!(lines[0]["region"], "trailer", "byte {place}: {lines:?}");
        let lines = bench.mkimg("verify --json web.img --key rsa.pub").code(1).json_lines();
        assert!(lines.iter().any(|line| line["region"] == "trust"), "byte {place}: {lines:?}");
        file.write_all_at(&[original], trailer + place).unwrap();
    }
    // A torn trailer is all that is wrong: signing again makes it whole.
    file.write_all_at(&[0xff; 512], trailer).unwrap();
    let _ = bench.mkimg("verify web.img").code(1);
    let _ = bench.mkimg("sign web.img --key rsa.key --cert rsa.crt").code(0);
    assert!(good == bench.read("web.img"), "RSA signs the same bytes each time");
    // What is damaged elsewhere is not signed.
    file.write_all_at(&[0xff], 5000).unwrap();
    let said = bench.mkimg("sign web.img --key rsa.key").code(1).error_line();
    assert!(said.contains("is not signed, for it is damaged"), "{said}");
}

#[test]
fn trees_and_extraction_ask_the_same() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    bench.pair("ed", ED25519).pair("other", ED25519);
    let _ = bench.mkimg("sign web.img --key ed.key").code(0);
    let told = bench.mkimg("extract web.img tree --key ed.pub").code(0).out();
    assert!(told.starts_with("web.img: checked against the signature of Ed25519 key "), "{told}");
    let refused = bench.mkimg("extract web.img none --key other.pub").code(1).error_line();
    assert!(refused.contains("web.img: no signature holds: there is none of key"), "{refused}");
    assert!(!bench.path("none").exists(), "nothing is written");
    let _ = bench.mkimg("seal web.img -o web.seal").code(0);
    for line in ["web.img tree", "--seal web.seal tree"] {
        let summary = bench.mkimg(&format!("verify --json {line} --key ed.pub")).code(0).json();
        assert_eq!(
            (&summary["anchored"], &summary["anchored_by"]),
            (&true.into(), &"signature".into()),
            "{line}"
        );
        let refused = bench.mkimg(&format!("verify {line} --key other.pub")).code(2).error_line();
        assert!(refused.contains("no signature holds"), "{refused}");
    }
    // A seal proves itself by the same signature.
    assert_eq!(bench.accepted("web.seal --key ed.pub")["detached_seal"], true);
    let said = bench.mkimg("sign web.seal --key ed.key").code(1).error_line();
    assert!(said.contains("web.seal: is a detached seal; sign the image"), "{said}");
    // Records of another image under the signed trailer do not get as far as the first file.
    let mut forged = bench.read("web.img");
    let offset = bench.mkimg("inspect --json web.img").code(0).json()["areas"][3]["offset"].as_u64().unwrap();
    forged[usize::try_from(offset).unwrap() + 4096 + 10] ^= 1;
    bench.write("forged.img", forged);
    let refused = bench.mkimg("extract forged.img none --key ed.pub").code(1).error_line();
    assert!(refused.contains("does not lead to root hash"), "{refused}");
    assert!(!bench.path("none").exists());
}

#[test]
fn old_releases_are_refused() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    bench.pair("ed", ED25519);
    for epoch in ["1", "2", "3"] {
        let name = format!("web-{epoch}.img");
        let _ = bench.build(&name, &["--name", "web", "--epoch", epoch]);
        let _ = bench.mkimg(&format!("sign {name} --key ed.key")).code(0);
    }
    let _ = bench.accepted("web-2.img --key ed.pub --min-epoch 2");
    assert_eq!(bench.refusal("web-2.img --key ed.pub --min-epoch 3"), "epoch is 2, wanted is at least 3");
    let state = "--key ed.pub --epoch-state seen";
    let _ = bench.accepted(&format!("web-2.img {state}"));
    assert_eq!(bench.read("seen"), b"mkimg epochs 1\n2 web\n");
    let old = bench.refusal(&format!("web-1.img {state}"));
    assert_eq!(old, "rollback: epoch of web is 1, and 2 was seen before (in seen)");
    let refused = bench.mkimg(&format!("extract web-1.img none {state}")).code(1).error_line();
    assert!(refused.contains("rollback: epoch of web is 1"), "{refused}");
    assert!(!bench.path("none").exists());
    let _ = bench.mkimg(&format!("extract web-3.img tree {state}")).code(0);
    assert_eq!(bench.read("seen"), b"mkimg epochs 1\n3 web\n");
    let _ = bench.mkimg(&format!("verify web-2.img tree {state}")).code(2);
    // A refused or damaged image raises nothing.
    let _ = bench.build("web-9.img", &["--name", "web", "--epoch", "9"]);
    assert_eq!(bench.refusal(&format!("web-9.img {state}")), "is not signed");
    let _ = bench.mkimg("sign web-9.img --key ed.key").code(0);
    let mut damaged = bench.read("web-9.img");
    damaged[4096] ^= 1;
    let _ = bench.write("web-9.img", damaged).mkimg(&format!("verify web-9.img {state}")).code(1);
    assert_eq!(bench.read("seen"), b"mkimg epochs 1\n3 web\n");
    // A root hash vouches for the epoch as well, for it covers the statement.
    let root = bench.build("bare.img", &["--name", "web", "--epoch", "4"]);
    let _ = bench.accepted(&format!("bare.img --root-hash {root} --epoch-state seen"));
    assert_eq!(bench.read("seen"), b"mkimg epochs 1\n4 web\n");
    // A statement that was changed is caught before its epoch is believed.
    let mut forged = bench.read("web-1.img");
    let at = forged.windows(10).position(|bytes| bytes == b"\"epoch\":1,").unwrap();
    forged[at + 8] = b'8';
    let said = bench
        .write("forged.img", forged)
        .mkimg("verify --json forged.img --key ed.pub --min-epoch 5")
        .code(1);
    let problem = said.json_lines()[0]["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("does not lead to root hash"), "{problem}");
    // A state that cannot be read is no state at all.
    let broken = bench.write("seen", "4 web\n").refusal(&format!("web-3.img {state}"));
    assert_eq!(broken, "seen: line 1 is not \"mkimg epochs 1\"");
}

/// What a PKCS#7 signature of systemd's tools would be found by.
#[test]
fn certificates_of_verity_d() {
    require!(Need::Tool("openssl"));
    let bench = Bench::new();
    if ["/etc/verity.d", "/run/verity.d", "/usr/local/lib/verity.d", "/usr/lib/verity.d"]
        .iter()
        .any(|path| Path::new(path).exists())
    {
        return mkimg_tests::need::skipped("this machine has certificates in verity.d");
    }
    bench.pair("rsa", RSA);
    let _ = bench.mkimg("sign web.img --key rsa.key --cert rsa.crt").code(0);
    let refused = bench.refusal("web.img --require-signature");
    let hint = "give --key or --cert, or put a certificate into /etc/verity.d";
    assert_eq!(refused, format!("a signature is wanted, and nobody is trusted; {hint}"));
    let _ = bench.accepted("web.img --require-signature --cert rsa.crt");
}
