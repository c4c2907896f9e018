//! Lines that somebody pastes into a shell, a unit or a policy.
//!
//! Everything that is no line itself is a comment, so what is printed for a shell can also be piped into one.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::shell::quote;
use crate::{Error, Image, Parameters, Result, Sidecar};

/// Whom the lines are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// `veritysetup verify` and `open`, in a shell.
    Veritysetup,
    /// `dmsetup create`, in a shell.
    Dmsetup,
    /// Settings of a unit.
    Systemd,
    /// A policy for Integrity Policy Enforcement.
    Ipe,
    /// Rules for the Integrity Measurement Architecture.
    Ima,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Veritysetup, Self::Dmsetup, Self::Systemd, Self::Ipe, Self::Ima];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Veritysetup => "veritysetup",
            Self::Dmsetup => "dmsetup",
            Self::Systemd => "systemd",
            Self::Ipe => "ipe",
            Self::Ima => "ima",
        }
    }

    /// The lines for the image that is at `path`. They name it by its absolute path, and hold wherever they are pasted.
    ///
    /// # Errors
    /// The path cannot stand in a line.
    pub fn lines(self, path: &Path, image: &Image) -> Result<String> {
        let lines = Lines { path, image, parameters: image.parameters() };
        match self {
            Self::Veritysetup => lines.veritysetup(),
            Self::Dmsetup => lines.dmsetup(),
            Self::Systemd => lines.systemd(),
            Self::Ipe => Ok(lines.ipe()),
            Self::Ima => Ok(lines.ima()),
        }
    }
}

struct Lines<'a> {
    path: &'a Path,
    image: &'a Image,
    parameters: Parameters,
}

impl Lines<'_> {
    fn veritysetup(&self) -> Result<String> {
        let image = quote(&text(self.path)?);
        let Parameters { root_hash, hash_offset, fec, .. } = &self.parameters;
        let name = self.name();
        let offset = format!("--hash-offset={hash_offset}");
        let mut open = format!("veritysetup open {image} {name} {image} {root_hash} {offset}");
        if let Some(fec) = fec {
            open += &format!(" --fec-device={image} --fec-offset={} --fec-roots={}", fec.offset, fec.roots);
        }
        // With parity named, `verify` would call damage that can be mended a success.
        let mut lines = format!("veritysetup verify {image} {image} {root_hash} {offset}\n{open}\n");
        if self.image.pkcs7.is_some() {
            let signature = quote(&text(&Sidecar::Pkcs7.path(self.path))?);
            lines += &format!(
                "# or, if the kernel has the certificate, by its signature:\n\
                 # mkimg export {image} --sidecar p7s\n\
                 # {open} --root-hash-signature={signature}\n"
            );
        }
        lines += &format!("# mount -t erofs -o ro /dev/mapper/{name} /mnt\n# veritysetup close {name}\n");
        Ok(lines)
    }

    fn dmsetup(&self) -> Result<String> {
        let image = quote(&text(self.path)?);
        let name = self.name();
        // A device is one already.
        let is_device = self.image.file.metadata().is_ok_and(|found| found.file_type().is_block_device());
        let (device, failed, undo) = if is_device {
            (format!("device={image}"), "", "")
        } else {
            let attached = format!("device=$(losetup --find --show --read-only {image})");
            (attached, " ||\n{ losetup --detach \"$device\"; false; }", "; losetup --detach \"$device\"")
        };
        Ok(format!(
            "{device} &&\ndmsetup create {name} --readonly --table \"{}\"{failed}\n\
             # mount -t erofs -o ro /dev/mapper/{name} /mnt\n# dmsetup remove {name}{undo}\n",
            self.parameters.table("$device")
        ))
    }

    fn systemd(&self) -> Result<String> {
        let image = quote(&text(self.path)?);
        let root_hash = &self.parameters.root_hash;
        let root_image = unit(self.path)?;
        let tree = unit(&Sidecar::Verity.path(self.path))?;
        let mut sidecars = "--sidecar verity".to_owned();
        let mut settings =
            format!("[Service]\nRootImage={root_image}\nRootHash={root_hash}\nRootVerity={tree}\n");
        if self.image.pkcs7.is_some() {
            sidecars += " --sidecar p7s";
            settings += &format!("RootHashSignature={}\n", unit(&Sidecar::Pkcs7.path(self.path))?);
        }
        Ok(format!(
            "# with the files by: mkimg export {image} {sidecars}\n\
             # a disk image with partitions (DDI) takes RootImage= and RootHash= alone\n{settings}"
        ))
    }

    fn ipe(&self) -> String {
        let Parameters { algorithm, root_hash, .. } = &self.parameters;
        let signed = if self.image.pkcs7.is_some() {
            "# instead of the last line, for every image with a signature that the kernel accepts:\n\
             # op=EXECUTE dmverity_signature=TRUE action=ALLOW\n"
        } else {
            ""
        };
        // The header comes first: the kernel reads it from the first line that is neither empty nor a comment.
        format!(
            "# programs run from the initramfs and from this image, and from nowhere else (Linux 6.12)\n\
             policy_name={} policy_version=0.0.0\n\
             DEFAULT action=ALLOW\n\
             DEFAULT op=EXECUTE action=DENY\n\
             op=EXECUTE boot_verified=TRUE action=ALLOW\n\
             op=EXECUTE dmverity_roothash={algorithm}:{root_hash} action=ALLOW\n{signed}",
            self.name(),
        )
    }

    fn ima(&self) -> String {
        let Parameters { algorithm, root_hash, .. } = &self.parameters;
        format!(
            "# the log names each mapped device with root_digest={root_hash},verity_algorithm={algorithm} among its\n\
             # attributes; dm-verity itself refuses what is not of that digest\n\
             measure func=CRITICAL_DATA label=device-mapper template=ima-buf\n"
        )
    }

    /// For the mapped device and the policy. Another than that of `mkimg mount`, so that neither gets in the way.
    fn name(&self) -> String {
        format!("verity-{}", self.parameters.root_hash.get(..16).unwrap_or_default())
    }
}

/// An absolute path as text that can stand on a line.
fn text(path: &Path) -> Result<String> {
    let refused = |path: &Path| Error::Path { path: path.to_owned() };
    let absolute: PathBuf = std::path::absolute(path).map_err(|_| refused(path))?;
    match absolute.to_str() {
        Some(text) if !text.contains(char::is_control) => Ok(text.to_owned()),
        _ => Err(refused(path)),
    }
}

/// The same for a unit, where `%` begins a specifier, a backslash at the end continues the line, and there are no quotes.
fn unit(path: &Path) -> Result<String> {
    let text = text(path)?;
    if text.ends_with(|c: char| c == '\\' || c.is_whitespace()) {
        return Err(Error::Path { path: path.to_owned() });
    }
    Ok(text.replace('%', "%%"))
}
