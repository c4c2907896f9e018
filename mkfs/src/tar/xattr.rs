//! Extended attributes in PAX records, as star (`SCHILY.xattr`) and libarchive (`LIBARCHIVE.xattr`) write them.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, NO_PAD};

use super::fault::Fault;
use super::pax::bad;

/// Checks the name that is part of a record's key.
pub(super) fn name(key: &[u8], value: &[u8], name: Vec<u8>) -> Result<Vec<u8>, Fault> {
    if name.is_empty() {
        return Err(bad(key, value, "xattr without a name"));
    }
    if name.contains(&0) {
        return Err(Fault::Nul("name of an xattr"));
    }
    Ok(name)
}

/// Undoes libarchive's URL encoding. A percent sign without two hex digits stands for itself, as there.
pub(super) fn percent_decoded(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        if let (b'%', [high, low, ..]) = (byte, behind)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            out.push(high * 16 + low);
            rest = &behind[2..];
            continue;
        }
        out.push(byte);
        rest = behind;
    }
    out
}

/// Unused bits of the last digit are not looked at.
const LENIENT: GeneralPurposeConfig = NO_PAD.with_decode_allow_trailing_bits(true);
const UNPADDED: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const PADDED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    LENIENT.with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Base64 in the standard alphabet, padded in full or not at all.
pub(super) fn base64_decoded(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Fault> {
    let engine = if value.ends_with(b"=") { &PADDED } else { &UNPADDED };
    engine.decode(value).map_err(|_| bad(key, value, "not base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_with_and_without_padding() {
        let good: [(&[u8], &[u8]); 12] = [
            (b"", b""),
            (b"MQ==", b"1"),
            (b"MQ", b"1"),
            (b"MTI=", b"12"),
            (b"MTI", b"12"),
            (b"MTIz", b"123"),
            (b"MTIzNA==", b"1234"),
            (b"MTIzNA", b"1234"),
            (b"AP8=", b"\0\xff"),
            (b"dmFsdWU", b"value"),
            (b"+/+/", b"\xfb\xff\xbf"),
            (b"////", b"\xff\xff\xff"),
        ];
        for (text, value) in good {
            assert_eq!(base64_decoded(b"k", text).as_deref(), Ok(value), "{text:?}");
        }
        let bad: [&[u8]; 11] =
            [b"M", b"M===", b"MQ=", b"MQ===", b"MTI==", b"MTIz=", b"=", b"M=Q=", b"MT I", b"MTI\n", b"-_-_"];
        for text in bad {
            assert!(base64_decoded(b"k", text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn percent_signs() {
        let cases: [(&[u8], &[u8]); 6] = [
            (b"user.a", b"user.a"),
            (b"user.per%25cent", b"user.per%cent"),
            (b"%3D%3d", b"=="),
            (b"%", b"%"),
            (b"%2", b"%2"),
            (b"%zz%41", b"%zzA"),
        ];
        for (text, name) in cases {
            assert_eq!(percent_decoded(text), name);
        }
    }
}
