//! PEM (RFC 7468): DER in base64 between two lines that name it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Largest file with keys, certificates or a signature, in bytes.
pub(crate) const FILE_MAX: usize = 1 << 20;

/// One named block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    /// `CERTIFICATE`, `PRIVATE KEY`, ...
    pub(crate) label: &'a str,
    /// What it holds.
    pub(crate) der: Vec<u8>,
}

/// The blocks of a file; what stands around them is ignored, as OpenSSL prints text there.
///
/// `None` when there is no block, or a block that has no end or no base64 in it.
pub(crate) fn blocks(file: &[u8]) -> Option<Vec<Block<'_>>> {
    let mut rest = std::str::from_utf8(file.get(..FILE_MAX).unwrap_or(file)).ok()?;
    let mut blocks = Vec::new();
    while let Some((_, behind)) = rest.split_once("-----BEGIN ") {
        let (label, behind) = behind.split_once("-----")?;
        let (text, behind) = behind.split_once(&format!("-----END {label}-----"))?;
        let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        blocks.push(Block { label, der: STANDARD.decode(text).ok()? });
        rest = behind;
    }
    (!blocks.is_empty()).then_some(blocks)
}

/// The DER in a file: of its only block of one of these labels, or the file itself when it has no blocks.
pub(crate) fn der(file: &[u8], labels: &[&str]) -> Option<Vec<u8>> {
    let Some(blocks) = blocks(file) else { return Some(file.to_vec()) };
    let mut wanted = blocks.into_iter().filter(|block| labels.contains(&block.label));
    let block = wanted.next()?;
    wanted.next().is_none().then_some(block.der)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_between_text() {
        let text = "subject=x\n-----BEGIN A-----\nAQ\nID\n-----END A-----\n-----BEGIN B C-----\r\nBA==\r\n-----END B C-----\n";
        let found = blocks(text.as_bytes()).unwrap();
        assert_eq!(found, [Block { label: "A", der: vec![1, 2, 3] }, Block { label: "B C", der: vec![4] }]);
        assert_eq!(der(text.as_bytes(), &["B C", "D"]), Some(vec![4]));
        assert_eq!(der(text.as_bytes(), &["D"]), None);
        assert_eq!(der(text.as_bytes(), &["A", "B C"]), None, "two of them");
        assert_eq!(der(b"0\x82", &["A"]), Some(b"0\x82".to_vec()));
        for broken in ["", "text", "-----BEGIN A-----\nAQID\n", "-----BEGIN A-----\n!\n-----END A-----"] {
            assert_eq!(blocks(broken.as_bytes()), None, "{broken}");
        }
    }
}
