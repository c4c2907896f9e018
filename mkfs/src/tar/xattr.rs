//! Extended attributes in PAX records, as star (`SCHILY.xattr`) and libarchive (`LIBARCHIVE.xattr`) write them.

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

/// Base64 in the standard alphabet, padded or not.
pub(super) fn base64_decoded(key: &[u8], value: &[u8]) -> Result<Vec<u8>, Fault> {
    let problem = || bad(key, value, "not base64");
    let padding = value.iter().rev().take_while(|&&byte| byte == b'=').count();
    let digits = &value[..value.len() - padding];
    let tail = digits.len() % 4;
    let complete = padding == 0 || (tail != 0 && tail + padding == 4);
    if tail == 1 || !complete {
        return Err(problem());
    }
    let mut out = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for at in 0..4 {
            let digit = group.get(at).map_or(Some(0), |&byte| sextet(byte)).ok_or_else(problem)?;
            bits = bits << 6 | u32::from(digit);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        out.extend_from_slice(&bytes[..group.len() - 1]);
    }
    Ok(out)
}

fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    }
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
