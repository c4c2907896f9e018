//! What a dm-verity device is to be: the parameters, and the table line made of them.

use mkimg_format::hex;
use std::fmt;
use std::str::FromStr;

use super::DevNumber;
use super::control::TargetVersion;
use super::table::{FEC_DEVICE, SIGNATURE_OPTION};
use crate::error::{Error, Result};

/// What the kernel does when a block does not match and cannot be mended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnCorruption {
    /// The read fails with `EIO`.
    #[default]
    Eio,
    /// The machine restarts (`restart_on_corruption`).
    Restart,
    /// The kernel panics (`panic_on_corruption`, Linux 5.9).
    Panic,
}

impl OnCorruption {
    /// The word that users write and read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Eio => "eio",
            Self::Restart => "restart",
            Self::Panic => "panic",
        }
    }

    /// The optional word of a table.
    pub(super) const fn option(self) -> Option<&'static str> {
        match self {
            Self::Eio => None,
            Self::Restart => Some("restart_on_corruption"),
            Self::Panic => Some("panic_on_corruption"),
        }
    }

    /// Refuses what a verity target of this version does not know; all of them know the others.
    pub(super) fn known_to(self, found: TargetVersion) -> Result<()> {
        const NEED: TargetVersion = TargetVersion { major: 1, minor: 7 };
        if self == Self::Panic && found < NEED {
            return Err(Error::VerityVersion {
                option: "panic_on_corruption",
                found: found.to_string(),
                need: "1.7 (Linux 5.9)",
            });
        }
        Ok(())
    }
}

impl fmt::Display for OnCorruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for OnCorruption {
    type Err = &'static str;

    fn from_str(word: &str) -> std::result::Result<Self, Self::Err> {
        [Self::Eio, Self::Restart, Self::Panic]
            .into_iter()
            .find(|policy| policy.word() == word)
            .ok_or("need eio, restart or panic")
    }
}

/// What the UUID of a verity device begins with.
const UUID_KIND: &str = "CRYPT-VERITY-";

/// Whether a UUID is one that [`VerityTarget::uuid`] makes for a device of this name.
pub(super) fn is_uuid_of(uuid: &str, name: &str) -> bool {
    let rest = uuid.strip_prefix(UUID_KIND).and_then(|rest| rest.strip_suffix(name));
    let digits = rest.and_then(|rest| rest.strip_suffix('-'));
    digits.is_some_and(|digits| name.strip_prefix("mkimg-").is_some_and(|hash| hash.starts_with(digits)))
}

/// Reed-Solomon parity on a device, which the kernel mends blocks with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fec {
    /// Device with the parity.
    pub dev: DevNumber,
    /// Blocks that are protected: data, then tree.
    pub blocks: u64,
    /// First block of the parity.
    pub start: u64,
    /// Parity bytes of a codeword, 2 to 24.
    pub roots: u32,
}

/// Parameters of one dm-verity device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityTarget {
    /// Device with the data.
    pub data_dev: DevNumber,
    /// Device with the hash tree, the same one for an appended tree.
    pub hash_dev: DevNumber,
    /// Bytes in a data block: a power of two, 512 to 65536.
    pub data_block_size: u32,
    /// Bytes in a hash block: a power of two, 512 to 65536.
    pub hash_block_size: u32,
    /// Number of data blocks, at least 1.
    pub data_blocks: u64,
    /// First block of the tree (behind the superblock), in hash blocks.
    pub hash_start_block: u64,
    /// Digest, the kernel's name in lower case.
    pub algorithm: String,
    /// Root hash.
    pub root_hash: Vec<u8>,
    /// Salt, empty for none, at most 256 bytes.
    pub salt: Vec<u8>,
    /// Reaction to a mismatch.
    pub on_corruption: OnCorruption,
    /// Parity; takes equal block sizes.
    pub fec: Option<Fec>,
    /// PKCS#7 signature of the root hash, which the kernel has to accept by its own keyrings (Linux 5.4).
    pub signature: Option<Vec<u8>>,
}

impl VerityTarget {
    /// Length of the device in 512-byte sectors.
    pub fn sectors(&self) -> Result<u64> {
        self.validate()?;
        self.data_blocks.checked_mul(u64::from(self.data_block_size / 512)).ok_or_else(|| {
            Error::VerityParameter {
                field: "data blocks",
                value: self.data_blocks.to_string(),
                need: "a device below 2^64 sectors",
            }
        })
    }

    /// Parameter text of the table (`Documentation/admin-guide/device-mapper/verity.rst`).
    pub fn table_line(&self) -> Result<String> {
        self.validate()?;
        let salt = if self.salt.is_empty() { "-".to_owned() } else { hex(&self.salt) };
        let mut line = format!(
            "1 {} {} {} {} {} {} {} {} {salt}",
            self.data_dev,
            self.hash_dev,
            self.data_block_size,
            self.hash_block_size,
            self.data_blocks,
            self.hash_start_block,
            self.algorithm,
            hex(&self.root_hash),
        );
        let mut options: Vec<String> = self.on_corruption.option().map(str::to_owned).into_iter().collect();
        // In the order in which the kernel shows them.
        if let Some(Fec { dev, blocks, start, roots }) = self.fec {
            let words = format!("{FEC_DEVICE} {dev} fec_blocks {blocks} fec_start {start} fec_roots {roots}");
            options.extend(words.split(' ').map(str::to_owned));
        }
        if self.signature.is_some() {
            options.extend([SIGNATURE_OPTION.to_owned(), self.name()]);
        }
        if !options.is_empty() {
            line.push_str(&format!(" {} {}", options.len(), options.join(" ")));
        }
        Ok(line)
    }

    /// Name of the mapped device: `mkimg-`, the root hash, and what happens at damage if that is no I/O error.
    #[must_use]
    pub fn name(&self) -> String {
        // 128 bytes with the NUL: a longer digest than 32 bytes is cut, the table comparison decides.
        let hash = hex(&self.root_hash);
        let hash = hash.get(..64).unwrap_or(&hash);
        match self.on_corruption {
            OnCorruption::Eio => format!("mkimg-{hash}"),
            other => format!("mkimg-{hash}-{other}"),
        }
    }

    /// UUID in the form of cryptsetup, which tells other tools what the device is.
    #[must_use]
    pub fn uuid(&self) -> String {
        let hash = hex(&self.root_hash);
        format!("{UUID_KIND}{}-{}", hash.get(..32).unwrap_or(&hash), self.name())
    }

    fn validate(&self) -> Result<()> {
        let bad = |field, value: String, need| Err(Error::VerityParameter { field, value, need });
        for (field, size) in
            [("data block size", self.data_block_size), ("hash block size", self.hash_block_size)]
        {
            if !size.is_power_of_two() || !(512..=65536).contains(&size) {
                return bad(field, size.to_string(), "a power of two from 512 to 65536");
            }
        }
        if self.data_blocks == 0 {
            return bad("data blocks", "0".to_owned(), "at least 1");
        }
        if self.root_hash.is_empty() || self.root_hash.len() > 64 {
            return bad("root hash", format!("{} bytes", self.root_hash.len()), "1 to 64 bytes");
        }
        if self.salt.len() > 256 {
            return bad("salt", format!("{} bytes", self.salt.len()), "at most 256 bytes");
        }
        if let Some(fec) = self.fec.filter(|fec| !(2..=24).contains(&fec.roots)) {
            return bad("fec roots", fec.roots.to_string(), "2 to 24");
        }
        // The name goes into a blank-separated line.
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        if self.algorithm.is_empty() || self.algorithm.len() > 32 || !self.algorithm.bytes().all(plain) {
            return bad("algorithm", self.algorithm.clone(), "a lower-case digest name");
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::super::table::same_parameters;
    use super::*;

    pub(in crate::dm) fn target() -> VerityTarget {
        VerityTarget {
            data_dev: DevNumber { major: 7, minor: 3 },
            hash_dev: DevNumber { major: 7, minor: 3 },
            data_block_size: 4096,
            hash_block_size: 4096,
            data_blocks: 1000,
            hash_start_block: 1001,
            algorithm: "sha256".to_owned(),
            root_hash: (0u8..32).collect(),
            salt: Vec::new(),
            on_corruption: OnCorruption::Eio,
            signature: None,
            fec: None,
        }
    }

    const ROOT: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    #[test]
    fn table_line_to_the_byte() {
        let mut t = target();
        assert_eq!(t.table_line().unwrap(), format!("1 7:3 7:3 4096 4096 1000 1001 sha256 {ROOT} -"));
        assert_eq!(t.sectors().unwrap(), 8000);
        t.salt = vec![0xab, 0x01];
        t.hash_dev.minor = 12;
        t.on_corruption = OnCorruption::Restart;
        assert_eq!(
            t.table_line().unwrap(),
            format!("1 7:3 7:12 4096 4096 1000 1001 sha256 {ROOT} ab01 1 restart_on_corruption")
        );
        t.on_corruption = OnCorruption::Panic;
        t.data_block_size = 512;
        assert_eq!(
            t.table_line().unwrap(),
            format!("1 7:3 7:12 512 4096 1000 1001 sha256 {ROOT} ab01 1 panic_on_corruption")
        );
        assert_eq!(t.sectors().unwrap(), 1000);
        let signed = VerityTarget { signature: Some(vec![1]), ..target() };
        assert_eq!(
            signed.table_line().unwrap(),
            format!("1 7:3 7:3 4096 4096 1000 1001 sha256 {ROOT} - 2 root_hash_sig_key_desc mkimg-{ROOT}")
        );
        let both = VerityTarget { on_corruption: OnCorruption::Panic, ..signed };
        assert!(
            both.table_line()
                .unwrap()
                .ends_with(&format!(" - 3 panic_on_corruption root_hash_sig_key_desc mkimg-{ROOT}-panic"))
        );
    }

    #[test]
    fn parity_in_a_table() {
        let mut t = target();
        t.on_corruption = OnCorruption::Panic;
        let words = "use_fec_from_device 7:3 fec_blocks 1009 fec_start 1010 fec_roots 2";
        t.fec = Some(Fec { dev: DevNumber { major: 7, minor: 3 }, blocks: 1009, start: 1010, roots: 2 });
        let line = t.table_line().unwrap();
        assert!(line.ends_with(&format!(" - 9 panic_on_corruption {words}")), "{line}");
        t.on_corruption = OnCorruption::Eio;
        let line = t.table_line().unwrap();
        assert!(line.ends_with(&format!(" - 8 {words}")), "{line}");
        assert!(same_parameters(&line.replace("7:3", "7:9"), &line));
        assert!(!same_parameters(&line.replace("fec_roots 2", "fec_roots 3"), &line));
    }

    #[test]
    fn names() {
        let t = target();
        assert_eq!(t.name(), format!("mkimg-{ROOT}"));
        assert_eq!(t.uuid(), format!("CRYPT-VERITY-000102030405060708090a0b0c0d0e0f-mkimg-{ROOT}"));
        assert!(is_uuid_of(&t.uuid(), &t.name()));
        for (on_corruption, word) in [(OnCorruption::Restart, "restart"), (OnCorruption::Panic, "panic")] {
            let other = VerityTarget { on_corruption, ..target() };
            assert_eq!(other.name(), format!("mkimg-{ROOT}-{word}"));
            assert!(is_uuid_of(&other.uuid(), &other.name()));
            assert!(!is_uuid_of(&other.uuid(), &t.name()));
            assert_eq!(word.parse(), Ok(on_corruption));
            let long = VerityTarget { root_hash: vec![0xff; 64], ..other };
            assert!(long.name().len() < 128 && long.uuid().len() < 129);
        }
        for uuid in ["", "CRYPT-VERITY-", "LVM-mkimg-ab", "CRYPT-VERITY-cd-mkimg-ab", "CRYPT-VERITY-mkimg-ab"]
        {
            assert!(!is_uuid_of(uuid, "mkimg-ab"), "{uuid}");
        }
        assert!(is_uuid_of("CRYPT-VERITY-ab-mkimg-ab", "mkimg-ab"));
    }

    #[test]
    fn what_old_targets_do_not_know() {
        let version = |major, minor| TargetVersion { major, minor };
        for (policy, found, known) in [
            (OnCorruption::Eio, version(1, 0), true),
            (OnCorruption::Restart, version(1, 6), true),
            (OnCorruption::Panic, version(1, 6), false),
            (OnCorruption::Panic, version(1, 7), true),
            (OnCorruption::Panic, version(2, 0), true),
        ] {
            match policy.known_to(found) {
                Ok(()) => assert!(known, "{policy} {found}"),
                Err(error) => {
                    assert!(!known, "{policy} {found}");
                    assert_eq!(
                        error.to_string(),
                        "dm-verity 1.6 of this kernel has no panic_on_corruption, need 1.7 (Linux 5.9)"
                    );
                }
            }
        }
        assert!("ignore".parse::<OnCorruption>().is_err());
    }

    #[test]
    fn parameters_out_of_range() {
        type Change = fn(&mut VerityTarget);
        let cases: [(Change, &str); 11] = [
            (|t| t.data_block_size = 0, "data block size"),
            (|t| t.data_block_size = 4097, "data block size"),
            (|t| t.hash_block_size = 1 << 17, "hash block size"),
            (|t| t.data_blocks = 0, "data blocks"),
            (|t| t.root_hash.clear(), "root hash"),
            (|t| t.root_hash = vec![0; 65], "root hash"),
            (|t| t.salt = vec![0; 257], "salt"),
            (|t| t.algorithm = "sha256 1 ignore_corruption".to_owned(), "algorithm"),
            (|t| t.algorithm.clear(), "algorithm"),
            (|t| t.fec = Some(Fec { dev: t.data_dev, blocks: 9, start: 9, roots: 1 }), "fec roots"),
            (|t| t.fec = Some(Fec { dev: t.data_dev, blocks: 9, start: 9, roots: 25 }), "fec roots"),
        ];
        for (change, expected) in cases {
            let mut t = target();
            change(&mut t);
            match t.table_line().unwrap_err() {
                Error::VerityParameter { field, .. } => assert_eq!(field, expected),
                other => panic!("{other}"),
            }
        }
        let t = VerityTarget { data_blocks: u64::MAX, ..target() };
        assert!(t.sectors().is_err());
    }
}
