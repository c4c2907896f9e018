//! Platforms: `OS/ARCH[/VARIANT]` in the words of Go's `GOOS` and `GOARCH`.
//!
//! Source: OCI image specification 1.1, `image-index.md`, "Platform Variants".

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, quote};

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// As `GOOS`: `linux`.
    pub os: String,
    /// As `GOARCH`: `amd64`, `arm64`.
    pub arch: String,
    /// CPU variant: `v7` of `arm`.
    pub variant: Option<String>,
}

impl Platform {
    /// That of this machine, without a variant.
    pub fn host() -> Platform {
        let little = cfg!(target_endian = "little");
        let arch = match std::env::consts::ARCH {
            "x86" => "386",
            "powerpc64" if little => "ppc64le",
            "powerpc64" => "ppc64",
            "mips64" if little => "mips64le",
            "loongarch64" => "loong64",
            other => go_arch(other),
        };
        Platform { os: std::env::consts::OS.to_owned(), arch: arch.to_owned(), variant: None }
    }

    /// Whether an image for `image` is one that was asked for by `self`: without a variant any variant will do.
    pub fn accepts(&self, image: &Platform) -> bool {
        self.os == image.os
            && self.arch == image.arch
            && (self.variant.is_none() || self.full_variant() == image.full_variant())
    }

    /// The variant, with the one that its absence stands for.
    fn full_variant(&self) -> Option<&str> {
        match (self.arch.as_str(), self.variant.as_deref()) {
            ("arm64", None) => Some("v8"),
            ("arm", None) => Some("v7"),
            (_, variant) => variant,
        }
    }

    /// Attestations are listed among images under this platform.
    pub(crate) fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.arch == "unknown"
    }
}

fn go_arch(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.arch)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = Error;

    /// `x86_64` and `aarch64` are accepted for `amd64` and `arm64`.
    fn from_str(text: &str) -> Result<Platform, Error> {
        let fine = |part: &&str| {
            !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-".contains(&c))
        };
        let parts: Vec<&str> = text.split('/').collect();
        let (os, arch, variant) = match parts.as_slice() {
            [os, arch] => (os, arch, None),
            [os, arch, variant] => (os, arch, Some(variant)),
            _ => return Err(Error::BadPlatform(quote(text))),
        };
        if !parts.iter().all(fine) {
            return Err(Error::BadPlatform(quote(text)));
        }
        Ok(Platform {
            os: (*os).to_owned(),
            arch: go_arch(arch).to_owned(),
            variant: variant.map(|variant| (*variant).to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parse_and_show() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), shown);
        }
        for bad in
            ["", "linux", "linux/", "/amd64", "linux/arm/", "linux/arm/v7/x", "linux/a b", "li\nnux/amd64"]
        {
            assert!(matches!(bad.parse::<Platform>(), Err(Error::BadPlatform(_))), "{bad:?}");
        }
    }

    #[test]
    fn acceptance() {
        for (wanted, image, fits) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v3", true),
            ("linux/amd64/v3", "linux/amd64", false),
            ("linux/amd64/v3", "linux/amd64/v2", false),
            ("linux/arm", "linux/arm/v6", true),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm/v6", "linux/arm", false),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "linux/arm64", false),
        ] {
            let (wanted, image): (Platform, Platform) = (wanted.parse().unwrap(), image.parse().unwrap());
            assert_eq!(wanted.accepts(&image), fits, "{wanted} {image}");
        }
    }

    #[test]
    fn host_is_like_uname() {
        let uname = rustix::system::uname();
        let machine = uname.machine().to_str().unwrap();
        if let "x86_64" | "aarch64" | "s390x" | "riscv64" = machine {
            assert_eq!(Platform::host(), format!("linux/{machine}").parse().unwrap());
        }
    }
}
