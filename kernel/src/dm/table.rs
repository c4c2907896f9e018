//! Tables of dm-verity devices that exist: what they check, what they let pass, whether two do the same.

use super::control::Control;
use super::named;
use super::target::OnCorruption;
use crate::error::{Error, Result};

/// Word in front of the name of the key with the signature.
pub(super) const SIGNATURE_OPTION: &str = "root_hash_sig_key_desc";
/// Optional word of the table, followed by the device with the parity.
pub(super) const FEC_DEVICE: &str = "use_fec_from_device";

/// The optional words that kernels know, how many words follow each, and what passes because of it.
///
/// `ignore_zero_blocks` lets nothing pass: a block whose hash is that of zeros reads as zeros, whatever is there.
const OPTIONS: [(&str, usize, Option<&str>); 13] = [
    ("ignore_corruption", 0, Some("damaged blocks are served as they are")),
    ("restart_on_corruption", 0, None),
    ("panic_on_corruption", 0, None),
    ("restart_on_error", 0, None),
    ("panic_on_error", 0, None),
    ("ignore_zero_blocks", 0, None),
    ("check_at_most_once", 0, Some("a block is checked when it is first read, and damage after that passes")),
    ("try_verify_in_tasklet", 0, None),
    (FEC_DEVICE, 1, None),
    ("fec_blocks", 1, None),
    ("fec_start", 1, None),
    ("fec_roots", 1, None),
    (SIGNATURE_OPTION, 1, None),
];

/// What a dm-verity device in use checks against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerityTable {
    /// Number of data blocks.
    pub data_blocks: u64,
    /// Root hash in hexadecimal digits.
    pub root_hash: String,
    /// Whether the device has all of these blocks by this table, so that no other one stands for the rest.
    pub whole: bool,
    /// Optional words, such as `ignore_corruption` or `restart_on_corruption`.
    pub options: Vec<String>,
}

impl VerityTable {
    /// Reads the table of a mapped device by name.
    ///
    /// # Errors
    /// Device-mapper cannot be asked, or the device is none of dm-verity.
    pub fn of(name: &str) -> Result<Self> {
        let (_, target) = Control::open()?.table(name).map_err(named("table", name))?;
        let table = target.verity().and_then(|line| Self::parse(line, target.sectors));
        table.ok_or_else(|| Error::KernelAnswer { what: "dm-verity table", found: target.to_string() })
    }

    /// Whether the kernel has checked a signature of the root hash by its own keyrings.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.has(SIGNATURE_OPTION)
    }

    /// What the kernel does with a block that does not match: the word of an [`OnCorruption`], or `ignore`.
    #[must_use]
    pub fn on_corruption(&self) -> &'static str {
        let has = |policy: &OnCorruption| policy.option().is_some_and(|word| self.has(word));
        if self.has("ignore_corruption") {
            return "ignore";
        }
        [OnCorruption::Restart, OnCorruption::Panic].into_iter().find(has).unwrap_or_default().word()
    }

    /// The options that let damage pass, or may do so because nobody here knows them, each with what it does.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<(&str, &'static str)> {
        let mut found = Vec::new();
        let mut words = self.options.iter();
        while let Some(word) = words.next() {
            match OPTIONS.iter().find(|(known, ..)| known == word) {
                Some((_, values, passes)) => {
                    found.extend(passes.map(|passes| (word.as_str(), passes)));
                    words.by_ref().take(*values).for_each(drop);
                }
                None => found.push((word.as_str(), "an option that mkimg does not know")),
            }
        }
        found
    }

    fn has(&self, word: &str) -> bool {
        self.options.iter().any(|option| option == word)
    }

    /// Words: version, data device, hash device, two block sizes, data blocks, hash start, algorithm, root, salt,
    /// number of options, options (`Documentation/admin-guide/device-mapper/verity.rst`).
    fn parse(line: &str, sectors: u64) -> Option<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let block_size: u64 = words.get(3)?.parse().ok()?;
        let data_blocks: u64 = words.get(5)?.parse().ok()?;
        let whole = data_blocks.checked_mul(block_size / 512) == Some(sectors);
        let root_hash = (*words.get(8)?).to_owned();
        let options = words.get(11..).unwrap_or_default().iter().map(|word| (*word).to_owned()).collect();
        Some(Self { data_blocks, root_hash, whole, options })
    }
}

/// Whether a table that was found does what is wanted: all words are the same but the devices (words 2 and 3, and that of
/// the parity), and it may be signed where that is not asked for.
pub(super) fn same_parameters(found: &str, wanted: &str) -> bool {
    let words = |line: &str| -> (Vec<String>, Vec<String>) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let before = |index: usize| index.checked_sub(1).and_then(|index| words.get(index));
        let is_device = |index: usize| matches!(index, 1 | 2) || before(index) == Some(&FEC_DEVICE);
        let (mut fixed, mut options) = (Vec::new(), Vec::new());
        for (index, word) in words.iter().enumerate().filter(|(index, _)| !is_device(*index)) {
            match index {
                0..10 => fixed.push((*word).to_owned()),
                // Some kernels print the count of optional words even when it is zero.
                10 => {}
                _ => options.push((*word).to_owned()),
            }
        }
        (fixed, options)
    };
    let ((found, mut extra), (wanted, asked)) = (words(found), words(wanted));
    if let Some(at) = extra.iter().position(|word| word == SIGNATURE_OPTION)
        && !asked.iter().any(|word| word == SIGNATURE_OPTION)
    {
        extra.drain(at..extra.len().min(at.saturating_add(2)));
    }
    (found, extra) == (wanted, asked)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn same_parameters_ignores_only_the_devices() {
        let wanted = "1 7:3 7:3 4096 4096 1000 1001 sha256 ab -";
        for (found, same) in [
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab -", true),
            ("1 7:9 253:1 4096 4096 1000 1001 sha256 ab -", true),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 0", true),
            ("1 7:3 7:3 4096 4096 999 1001 sha256 ab -", false),
            ("0 7:3 7:3 4096 4096 1000 1001 sha256 ab -", false),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 1 ignore_corruption", false),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 1 check_at_most_once", false),
            ("", false),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 2 root_hash_sig_key_desc k", true),
            ("1 7:3 7:3 4096 4096 1000 1001 sha256 ab - 3 ignore_corruption root_hash_sig_key_desc k", false),
        ] {
            assert_eq!(same_parameters(found, wanted), same, "{found}");
        }
        let signed = format!("{wanted} 2 root_hash_sig_key_desc k");
        assert!(same_parameters(&signed, &signed));
        assert!(!same_parameters(wanted, &signed), "a device that the kernel has not found signed");
        assert!(!same_parameters(&format!("{wanted} 2 root_hash_sig_key_desc l"), &signed));
    }

    #[test]
    fn tables_of_devices_in_use() {
        let plain = "1 7:3 7:3 4096 4096 1000 1001 sha256 ab -";
        let table = VerityTable::parse(&format!("{plain} 2 ignore_corruption x"), 8000).unwrap();
        assert_eq!((table.data_blocks, table.root_hash.as_str()), (1000, "ab"));
        assert_eq!(table.options, ["ignore_corruption", "x"]);
        assert!(VerityTable::parse(plain, 8000).unwrap().options.is_empty());
        for (sectors, whole) in [(8000, true), (7999, false), (8, false)] {
            assert_eq!(VerityTable::parse(plain, sectors).unwrap().whole, whole, "{sectors}");
        }
        for line in ["", "1 7:3 7:3 4096 4096 x 1001 sha256 ab -", "1 7:3 7:3 4096 4096 1000 1001 sha256"] {
            assert_eq!(VerityTable::parse(line, 8000), None, "{line}");
        }
    }

    #[test]
    fn what_options_do() {
        let owned = |words: &[&str]| -> Vec<String> { words.iter().map(|word| (*word).to_owned()).collect() };
        for (options, on_corruption, weaknesses) in [
            (vec![], "eio", vec![]),
            (vec!["restart_on_corruption"], "restart", vec![]),
            (vec!["panic_on_corruption", "try_verify_in_tasklet"], "panic", vec![]),
            (vec!["panic_on_error", "restart_on_error", "ignore_zero_blocks"], "eio", vec![]),
            (vec!["ignore_corruption"], "ignore", vec!["ignore_corruption"]),
            (
                vec!["ignore_corruption", "check_at_most_once"],
                "ignore",
                vec!["ignore_corruption", "check_at_most_once"],
            ),
            (vec!["panic_on_corruption", "check_at_most_once"], "panic", vec!["check_at_most_once"]),
            (vec!["root_hash_sig_key_desc", "ignore_corruption_of_mine"], "eio", vec![]),
            (
                "use_fec_from_device 7:3 fec_blocks 9 fec_start 9 fec_roots 2 new_option"
                    .split(' ')
                    .collect(),
                "eio",
                vec!["new_option"],
            ),
        ] {
            let (root_hash, words) = ("ab".to_owned(), owned(&options));
            let table = VerityTable { data_blocks: 1, root_hash, whole: true, options: words };
            assert_eq!(table.on_corruption(), on_corruption, "{options:?}");
            let found: Vec<&str> = table.weaknesses().into_iter().map(|(word, _)| word).collect();
            assert_eq!(found, weaknesses, "{options:?}");
        }
    }
}
