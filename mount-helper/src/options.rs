//! What mount(8) hands to its helper `mount.mkimg`.
//!
//! `mount.mkimg SOURCE TARGET [-sfnv] [-N NAMESPACE] [-o OPTIONS] [-t TYPE]`. Options are separated by
//! commas; a value that holds a comma is put in double quotes, or the comma is written `\,`. The later
//! of two options wins.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use mkimg_kernel::dm::OnCorruption;
use mkimg_sign::Trust;
use mkimg_sign::files::FileError;

use crate::error::{Error, Result};
use crate::mount::MountAttrs;
use crate::policy::{MountRequest, VerityPolicy, Via};

/// Exit status of mount(8): wrong usage.
pub const EXIT_USAGE: u8 = 1;
/// Exit status of mount(8): the mount failed.
pub const EXIT_FAILURE: u8 = 32;

/// Options that concern mount(8) itself, or that a read-only image fulfils anyway.
const IGNORED: &[&str] = &[
    "defaults",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "_netdev",
    "nofail",
    "async",
    "sync",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "silent",
    "loud",
    "nomand",
];

/// Options with a value that concern mount(8) itself.
const IGNORED_WITH_VALUE: &[&str] = &["comment", "user", "uhelper", "helper"];

/// The options of a mount.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MountOptions {
    /// `verity=auto|kernel|once|off`.
    pub policy: VerityPolicy,
    /// `roothash=HEX`: the root hash that the image must have.
    pub root_hash: Option<[u8; 32]>,
    /// `key=FILE`, of several one must have signed.
    pub keys: Vec<PathBuf>,
    /// `cert=FILE`, likewise.
    pub certificates: Vec<PathBuf>,
    /// `minepoch=N`: older releases are refused.
    pub min_epoch: Option<u64>,
    /// `epochstate=FILE`: and those that are older than what was seen.
    pub epoch_state: Option<PathBuf>,
    /// `kernelsignature`: the kernel checks the signature, too.
    pub kernel_signature: bool,
    /// `on_corruption=eio|restart|panic`: what the kernel does when a block does not match.
    pub on_corruption: Option<OnCorruption>,
    /// `upperdir=DIR`.
    pub upper: Option<PathBuf>,
    /// `workdir=DIR`.
    pub work: Option<PathBuf>,
    /// `via=auto|file|loop`; plain `loop` is `via=loop`.
    pub via: Via,
    /// `ro`, `nodev`, `nosuid`, `noexec` and their opposites.
    pub attrs: MountAttrs,
}

/// The helper's whole command line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HelperArgs {
    /// The image.
    pub source: PathBuf,
    /// The mount point.
    pub target: PathBuf,
    /// `-f`: do everything but the mount.
    pub fake: bool,
    /// `-s`: unknown options are ignored.
    pub sloppy: bool,
    /// `-v`: say more.
    pub verbose: bool,
    /// The options.
    pub options: MountOptions,
}

impl HelperArgs {
    /// Parses the arguments after the program's name.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self> {
        let mut args = args.into_iter();
        let mut places: Vec<PathBuf> = Vec::new();
        let mut texts: Vec<OsString> = Vec::new();
        let (mut fake, mut sloppy, mut verbose) = (false, false, false);
        let mut only_places = false;
        while let Some(arg) = args.next() {
            let Some(letters) = arg.as_bytes().strip_prefix(b"-").filter(|l| !l.is_empty() && !only_places)
            else {
                places.push(PathBuf::from(arg));
                continue;
            };
            if letters == b"-" {
                only_places = true;
                continue;
            }
            let mut rest = letters;
            while let Some((letter, tail)) = rest.split_first() {
                rest = tail;
                match letter {
                    b'f' => fake = true,
                    b's' => sloppy = true,
                    b'v' => verbose = true,
                    b'n' => {}
                    b'o' | b't' => {
                        let value = if tail.is_empty() {
                            args.next().ok_or_else(|| usage(&arg, "needs a value"))?
                        } else {
                            OsStr::from_bytes(tail).to_owned()
                        };
                        if *letter == b'o' {
                            texts.push(value);
                        }
                        break;
                    }
                    b'N' => return Err(usage(&arg, "other mount namespaces are not supported")),
                    _ => return Err(usage(&arg, "not known")),
                }
            }
        }
        let mut places = places.into_iter();
        let (Some(source), Some(target), None) = (places.next(), places.next(), places.next()) else {
            return Err(Error::Usage {
                option: "arguments".to_owned(),
                reason: "need SOURCE TARGET [-sfnv] [-o OPTIONS] [-t TYPE]",
            });
        };
        let mut options = MountOptions::default();
        for text in texts {
            options.apply(&text, sloppy)?;
        }
        if options.upper.is_some() != options.work.is_some() {
            return Err(Error::Usage {
                option: "upperdir, workdir".to_owned(),
                reason: "need both or neither",
            });
        }
        let epochs = options.min_epoch.is_some() || options.epoch_state.is_some();
        let anchored =
            options.root_hash.is_some() || !options.keys.is_empty() || !options.certificates.is_empty();
        if epochs && !anchored {
            return Err(Error::Usage {
                option: "minepoch, epochstate".to_owned(),
                reason: "need roothash, key or cert, or anybody could have written the epoch",
            });
        }
        for (option, given) in [
            ("kernelsignature", options.kernel_signature),
            ("on_corruption", options.on_corruption.is_some()),
        ] {
            if given {
                options.policy = options.policy.kernel_only(option)?;
            }
        }
        Ok(Self { source, target, fake, sloppy, verbose, options })
    }

    /// Whom to trust.
    ///
    /// # Errors
    /// A key or certificate that cannot be read.
    pub fn trust(&self) -> std::result::Result<Trust, FileError> {
        let options = &self.options;
        Ok(Trust {
            root_hash: options.root_hash,
            min_epoch: options.min_epoch,
            epoch_state: options.epoch_state.clone(),
            ..Trust::of_files(&options.keys, &options.certificates)?
        })
    }

    /// The request to hand to [`crate::mount()`].
    #[must_use]
    pub fn request(&self) -> MountRequest<'_> {
        MountRequest {
            image: &self.source,
            target: &self.target,
            upper: self.options.upper.as_deref(),
            work: self.options.work.as_deref(),
            policy: self.options.policy,
            on_corruption: self.options.on_corruption,
            via: self.options.via,
            attrs: self.options.attrs,
        }
    }
}

impl MountOptions {
    /// Applies one option string; with `sloppy`, unknown options are ignored.
    pub fn apply(&mut self, text: &OsStr, sloppy: bool) -> Result<()> {
        for option in split(text)? {
            self.apply_one(&option, sloppy)?;
        }
        Ok(())
    }

    fn apply_one(&mut self, option: &OsStr, sloppy: bool) -> Result<()> {
        let bytes = option.as_bytes();
        let (name, value) = match bytes.iter().position(|b| *b == b'=') {
            Some(at) => {
                let (name, value) = bytes.split_at(at);
                (name, value.strip_prefix(b"="))
            }
            None => (bytes, None),
        };
        let name = std::str::from_utf8(name).map_err(|_| usage(option, "not known"))?;
        let bad = |reason| Err(usage(option, reason));
        match (name, value) {
            ("verity", Some(value)) => {
                self.policy = match value {
                    b"auto" => VerityPolicy::Auto,
                    b"kernel" => VerityPolicy::Kernel,
                    b"once" => VerityPolicy::Once,
                    b"off" => VerityPolicy::Off,
                    _ => return bad("need auto, kernel, once or off"),
                }
            }
            ("via", Some(value)) => {
                self.via = match value {
                    b"auto" => Via::Auto,
                    b"file" => Via::File,
                    b"loop" => Via::Loop,
                    _ => return bad("need auto, file or loop"),
                }
            }
            ("loop", None) => self.via = Via::Loop,
            ("roothash", Some(value)) => {
                match std::str::from_utf8(value).ok().and_then(mkimg_format::parse_sha256) {
                    Some(hash) => self.root_hash = Some(hash),
                    None => return bad("need 64 hexadecimal digits"),
                }
            }
            ("key" | "cert" | "epochstate", Some(value)) => {
                if value.is_empty() {
                    return bad("need a file");
                }
                let file = PathBuf::from(OsStr::from_bytes(value));
                match name {
                    "key" => self.keys.push(file),
                    "cert" => self.certificates.push(file),
                    _ => self.epoch_state = Some(file),
                }
            }
            ("minepoch", Some(value)) => {
                match std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                    Some(epoch) => self.min_epoch = Some(epoch),
                    None => return bad("need a number"),
                }
            }
            ("on_corruption", Some(value)) => match std::str::from_utf8(value).unwrap_or_default().parse() {
                Ok(policy) => self.on_corruption = Some(policy),
                Err(reason) => return bad(reason),
            },
            ("kernelsignature", None) => self.kernel_signature = true,
            ("upperdir" | "workdir", Some(value)) => {
                if value.is_empty() {
                    return bad("need a directory");
                }
                let place = if name == "upperdir" { &mut self.upper } else { &mut self.work };
                *place = Some(PathBuf::from(OsStr::from_bytes(value)));
            }
            ("ro", None) => self.attrs.read_only = true,
            ("rw", None) => self.attrs.read_only = false,
            ("nodev", None) => self.attrs.nodev = true,
            ("dev", None) => self.attrs.nodev = false,
            ("nosuid", None) => self.attrs.nosuid = true,
            ("suid", None) => self.attrs.nosuid = false,
            ("noexec", None) => self.attrs.noexec = true,
            ("exec", None) => self.attrs.noexec = false,
            (
                "verity" | "on_corruption" | "via" | "roothash" | "key" | "cert" | "epochstate" | "minepoch"
                | "upperdir" | "workdir",
                None,
            ) => return bad("needs a value"),
            (_, None) if IGNORED.contains(&name) => {}
            (_, Some(_)) if IGNORED_WITH_VALUE.contains(&name) => {}
            _ if name.starts_with("x-") || name.starts_with("X-") => {}
            _ if sloppy => {}
            _ => return bad("not known"),
        }
        Ok(())
    }
}

/// Exit status that mount(8) expects for an error.
#[must_use]
pub fn exit_code(error: &Error) -> u8 {
    if matches!(error, Error::Usage { .. }) { EXIT_USAGE } else { EXIT_FAILURE }
}

fn usage(option: &OsStr, reason: &'static str) -> Error {
    Error::Usage { option: format!("{:?}", option.to_string_lossy()), reason }
}

/// Splits at commas outside of double quotes; drops the quotes, and the backslash of `\,` and `\\`.
fn split(text: &OsStr) -> Result<Vec<OsString>> {
    let mut options = Vec::new();
    let mut current = Vec::new();
    let mut quoted = false;
    let mut bytes = text.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => match bytes.next_if(|next| matches!(next, b',' | b'\\')) {
                Some(next) => current.push(next),
                None => current.push(byte),
            },
            b',' if !quoted => options.push(std::mem::take(&mut current)),
            _ => current.push(byte),
        }
    }
    if quoted {
        return Err(usage(text, "quote without an end"));
    }
    options.push(current);
    Ok(options.into_iter().filter(|option| !option.is_empty()).map(OsString::from_vec).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::Path;

    fn parse(args: &[&str]) -> Result<HelperArgs> {
        HelperArgs::parse(args.iter().map(OsString::from))
    }

    #[test]
    fn as_mount_8_calls_it() {
        let args = parse(&["/a.img", "/mnt", "-o", "rw"]).unwrap();
        assert_eq!((args.source.as_path(), args.target.as_path()), (Path::new("/a.img"), Path::new("/mnt")));
        assert_eq!(args.options, MountOptions::default());
        assert!(args.options.attrs.nodev && !args.options.attrs.nosuid && !args.options.attrs.noexec);
        assert!(!args.fake && !args.sloppy && !args.verbose);

        let hex = "0123456789abcdefABCDEF".to_owned() + &"0".repeat(42);
        let all = format!(
            "ro,dev,nosuid,noexec,verity=kernel,via=loop,roothash={hex},noauto,x-systemd.automount,comment=a"
        );
        let args = parse(&["-fv", "/a", "-t", "mkimg", "/b", "-n", "-o", &all]).unwrap();
        assert!(args.fake && args.verbose);
        let attrs = MountAttrs { read_only: true, nodev: false, nosuid: true, noexec: true };
        assert_eq!(args.options.attrs, attrs);
        assert_eq!(args.options.policy, VerityPolicy::Kernel);
        assert_eq!(args.options.via, Via::Loop);
        assert_eq!(
            args.options.root_hash.unwrap()[..11],
            [0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xab, 0xcd, 0xef]
        );
        assert_eq!(args.request().target, Path::new("/b"));
    }

    #[test]
    fn whom_to_trust() {
        let args = parse(&["a", "b", "-o", "key=/k,key=/l,cert=/c,minepoch=3,epochstate=/s,kernelsignature"])
            .unwrap();
        let options = &args.options;
        assert_eq!(options.keys, ["/k", "/l"].map(PathBuf::from));
        assert_eq!(options.certificates, [PathBuf::from("/c")]);
        assert_eq!((options.min_epoch, options.epoch_state.as_deref()), (Some(3), Some(Path::new("/s"))));
        assert_eq!(options.policy, VerityPolicy::Kernel);
        assert!(args.trust().unwrap_err().to_string().starts_with("/k: "));
    }

    #[test]
    fn what_happens_at_damage() {
        for (text, policy, on_corruption) in [
            ("ro", VerityPolicy::Auto, None),
            ("on_corruption=eio", VerityPolicy::Kernel, Some(OnCorruption::Eio)),
            ("on_corruption=restart,verity=auto", VerityPolicy::Kernel, Some(OnCorruption::Restart)),
            ("on_corruption=eio,on_corruption=panic", VerityPolicy::Kernel, Some(OnCorruption::Panic)),
        ] {
            let args = parse(&["a", "b", "-o", text]).unwrap();
            assert_eq!(
                (args.options.policy, args.request().on_corruption),
                (policy, on_corruption),
                "{text}"
            );
        }
    }

    #[test]
    fn the_later_option_wins_and_dashes_end_options() {
        let args =
            parse(&["-overity=off,nodev", "-o", "verity=once,dev,loop,via=file", "--", "-s", "-t"]).unwrap();
        assert_eq!(args.source, Path::new("-s"));
        assert_eq!(args.target, Path::new("-t"));
        assert_eq!(args.options.policy, VerityPolicy::Once);
        assert_eq!(args.options.via, Via::File);
        assert!(!args.options.attrs.nodev);
    }

    #[test]
    fn directories_with_commas_colons_backslashes() {
        for (text, upper, work) in [
            (r"upperdir=/u\,p,workdir=/w:k", "/u,p", "/w:k"),
            (r#"upperdir="/u,p",workdir="/w\\k=1""#, "/u,p", r"/w\k=1"),
            (r"upperdir=/u\040p,workdir=/w k", r"/u\040p", "/w k"),
        ] {
            let args = parse(&["a", "b", "-o", text]).unwrap();
            assert_eq!(args.options.upper.unwrap(), Path::new(upper));
            assert_eq!(args.options.work.unwrap(), Path::new(work));
        }
        let args = OsString::from_vec(b"upperdir=/\xff,workdir=/\xfe".to_vec());
        let args = HelperArgs::parse(["a".into(), "b".into(), "-o".into(), args]).unwrap();
        assert_eq!(args.options.upper.unwrap().as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn wrong_usage() {
        for (args, reason) in [
            (&["a"][..], "need SOURCE TARGET [-sfnv] [-o OPTIONS] [-t TYPE]"),
            (&["a", "b", "c"], "need SOURCE TARGET [-sfnv] [-o OPTIONS] [-t TYPE]"),
            (&["a", "b", "-o"], "needs a value"),
            (&["a", "b", "-x"], "not known"),
            (&["a", "b", "-N", "1"], "other mount namespaces are not supported"),
            (&["a", "b", "-o", "verity=yes"], "need auto, kernel, once or off"),
            (&["a", "b", "-o", "verity"], "needs a value"),
            (&["a", "b", "-o", "via=nbd"], "need auto, file or loop"),
            (&["a", "b", "-o", "roothash=00"], "need 64 hexadecimal digits"),
            (&["a", "b", "-o", "key="], "need a file"),
            (&["a", "b", "-o", "cert"], "needs a value"),
            (&["a", "b", "-o", "key=k,minepoch=-1"], "need a number"),
            (
                &["a", "b", "-o", "minepoch=1"],
                "need roothash, key or cert, or anybody could have written the epoch",
            ),
            (
                &["a", "b", "-o", "epochstate=f"],
                "need roothash, key or cert, or anybody could have written the epoch",
            ),
            (&["a", "b", "-o", "kernelsignature,verity=once"], "needs verity=kernel"),
            (&["a", "b", "-o", "on_corruption=eio,verity=once"], "needs verity=kernel"),
            (&["a", "b", "-o", "on_corruption=panic,verity=off"], "needs verity=kernel"),
            (&["a", "b", "-o", "on_corruption=ignore"], "need eio, restart or panic"),
            (&["a", "b", "-o", "on_corruption"], "needs a value"),
            (&["a", "b", "-o", "upperdir=,workdir=x"], "need a directory"),
            (&["a", "b", "-o", "upperdir=x"], "need both or neither"),
            (&["a", "b", "-o", "upperdir=\"x"], "quote without an end"),
            (&["a", "b", "-o", "lowerdir=x"], "not known"),
            (&["a", "b", "-o", "rw=1"], "not known"),
        ] {
            let error = parse(args).unwrap_err();
            assert_eq!(exit_code(&error), EXIT_USAGE);
            match error {
                Error::Usage { reason: found, .. } => assert_eq!(found, reason, "{args:?}"),
                other => panic!("{other}"),
            }
        }
        assert!(parse(&["a", "b", "-s", "-o", "lowerdir=x"]).is_ok());
        let failure = Error::NotMounted { path: PathBuf::from("/x") };
        assert_eq!(exit_code(&failure), EXIT_FAILURE);
    }
}
