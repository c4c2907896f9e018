//! The 512-byte header block: fields, numbers, checksum, dialect.
//!
//! Layout as in POSIX.1-2017 pax, "ustar Interchange Format", and GNU tar's `tar.h`.

use super::fault::Fault;

/// Unit of everything in an archive.
pub(super) const BLOCK: usize = 512;

/// What the magic field says about the fields behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// No magic that we know: only the fields in front of it mean anything.
    V7,
    /// `ustar\0`: device numbers and a name prefix. star's prefix is shorter, but NUL-terminated, so that
    /// it needs no case of its own.
    Ustar,
    /// `ustar `: device numbers, times and a sparse map where the prefix would be.
    Gnu,
}

/// One header block.
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

impl<'a> Header<'a> {
    /// Compares the checksum field with the bytes. Historic writers summed signed bytes; both are accepted,
    /// as in all tar programs.
    pub(super) fn check(&self) -> Result<(), Fault> {
        let field = &self.0[148..156];
        let found = number("chksum", field)?;
        // The field itself counts as spaces.
        let spaces = 8 * i32::from(b' ');
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| i32::from(byte)).sum::<i32>();
        let unsigned = sum(self.0) - sum(field) + spaces;
        if found == i128::from(unsigned) {
            return Ok(());
        }
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| i32::from(byte.cast_signed())).sum::<i32>();
        if found == i128::from(sum(self.0) - sum(field) + spaces) {
            return Ok(());
        }
        Err(Fault::Checksum { found, computed: unsigned.unsigned_abs() })
    }

    pub(super) fn dialect(&self) -> Dialect {
        match &self.0[257..263] {
            b"ustar\0" => Dialect::Ustar,
            b"ustar " => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }

    pub(super) fn typeflag(&self) -> u8 {
        self.0[156]
    }

    /// The name as this block alone spells it.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = if self.dialect() == Dialect::Ustar { text(&self.0[345..500]) } else { &[] };
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    pub(super) fn linkname(&self) -> &'a [u8] {
        text(&self.0[157..257])
    }

    /// Permission and set-id bits; the type bits that some writers add are cut off.
    pub(super) fn mode(&self) -> Result<u32, Fault> {
        let mode = unsigned("mode", &self.0[100..108], u64::MAX)?;
        Ok(u32::try_from(mode & 0o7777).unwrap_or(0))
    }

    pub(super) fn uid(&self) -> Result<u32, Fault> {
        narrow("uid", &self.0[108..116], u32::MAX)
    }

    pub(super) fn gid(&self) -> Result<u32, Fault> {
        narrow("gid", &self.0[116..124], u32::MAX)
    }

    pub(super) fn size(&self) -> Result<u64, Fault> {
        unsigned("size", &self.0[124..136], MAX_SIZE)
    }

    pub(super) fn mtime(&self) -> Result<i64, Fault> {
        let value = number("mtime", &self.0[136..148])?;
        i64::try_from(value).map_err(|_| Fault::OutOfRange {
            field: "mtime",
            value,
            min: i64::MIN.into(),
            max: i64::MAX.into(),
        })
    }

    /// Major and minor number, as wide as Linux has them (12 and 20 bits). A v7 header has none.
    pub(super) fn device(&self) -> Result<(u32, u32), Fault> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let major = narrow("devmajor", &self.0[329..337], 0xfff)?;
        let minor = narrow("devminor", &self.0[337..345], 0xf_ffff)?;
        Ok((major, minor))
    }

    /// The four map entries of an old GNU sparse header.
    pub(super) fn sparse_entries(&self) -> &'a [u8] {
        &self.0[386..482]
    }

    pub(super) fn sparse_is_extended(&self) -> bool {
        self.0[482] != 0
    }

    pub(super) fn sparse_realsize(&self) -> Result<u64, Fault> {
        unsigned("realsize", &self.0[483..495], MAX_SIZE)
    }
}

/// Largest size that is read at all: with it, rounding up to blocks cannot overflow.
pub(super) const MAX_SIZE: u64 = i64::MAX.cast_unsigned();

/// A string field: up to the first NUL, or the whole field.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or(field)
}

/// A numeric field.
///
/// Octal digits, with spaces in front and a NUL or spaces behind; what follows a NUL does not count. A field of
/// NULs and spaces is zero. Otherwise base-256, a first byte of 0x80 for positive and 0xff for negative
/// numbers. Digits behind a leading NUL, which GNU tar and Go read and Python does not, are refused.
pub(super) fn number(name: &'static str, field: &[u8]) -> Result<i128, Fault> {
    let unreadable = || Fault::NotANumber { field: name, value: field.to_vec() };
    match field.split_first() {
        Some((0x80, rest)) if rest.len() < 16 => Ok(base256(0, rest)),
        Some((0xff, rest)) if rest.len() < 16 => Ok(base256(-1, rest)),
        _ => {
            let digits = without_spaces(text(field));
            if digits.is_empty() {
                let blank = field.iter().all(|&byte| byte == 0 || byte == b' ');
                return if blank { Ok(0) } else { Err(unreadable()) };
            }
            let mut value = 0i128;
            for &byte in digits {
                if !(b'0'..=b'7').contains(&byte) {
                    return Err(unreadable());
                }
                value = value * 8 + i128::from(byte - b'0');
            }
            Ok(value)
        }
    }
}

fn without_spaces(mut field: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = field {
        field = rest;
    }
    field
}

/// Two's complement, big endian, behind its sign. Fewer than 16 bytes cannot overflow.
fn base256(sign: i128, bytes: &[u8]) -> i128 {
    bytes.iter().fold(sign, |value, &byte| (value << 8) | i128::from(byte))
}

/// A numeric field that must lie in 0 to `max`.
pub(super) fn unsigned(name: &'static str, field: &[u8], max: u64) -> Result<u64, Fault> {
    let value = number(name, field)?;
    match u64::try_from(value) {
        Ok(value) if value <= max => Ok(value),
        _ => Err(Fault::OutOfRange { field: name, value, min: 0, max: max.into() }),
    }
}

fn narrow(name: &'static str, field: &[u8], max: u32) -> Result<u32, Fault> {
    let value = unsigned(name, field, max.into())?;
    Ok(u32::try_from(value).unwrap_or(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_tar_programs_write_them() {
        let good: [(&[u8], i128); 14] = [
            (b"0000644\0", 0o644),
            (b"000644 \0", 0o644),
            (b"   644 \0", 0o644),
            (b"00000644", 0o644),
            (b"644\0junk", 0o644),
            (b"\0\0\0\0\0\0\0\0", 0),
            (b"        ", 0),
            (b"      \0 ", 0),
            (b"77777777", 0o77_777_777),
            (b"\x80\0\0\0\xff\xff\xff\xff", 0xffff_ffff),
            (b"\x80\x01\0\0\0\0\0\0", 1 << 48),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xae\x80", -86400),
            (b"\xff\0\0\0\0\0\0\0\0\0\0\0", -(1 << 88)),
        ];
        for (field, value) in good {
            assert_eq!(number("mtime", field), Ok(value), "{field:?}");
        }
        let bad: [&[u8]; 10] = [
            b"\t000644\0",
            b"0000648\0",
            b"-000644\0",
            b"+000644\0",
            b"0x00644\0",
            b"12 34  \0",
            b"\x000644\0",
            b"  \x000644\0",
            b"\x81\0\0\0\0\0\0\0",
            b"\xfe\0\0\0\0\0\0\0",
        ];
        for field in bad {
            let fault = Fault::NotANumber { field: "mtime", value: field.to_vec() };
            assert_eq!(number("mtime", field), Err(fault), "{field:?}");
        }
    }
}
