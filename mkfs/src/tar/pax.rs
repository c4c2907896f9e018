//! Extended headers: `LENGTH KEY=VALUE\n` records.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::header::MAX_SIZE;
use super::sparse::Records as SparseRecords;
use super::xattr;
use super::{Limits, Time};

/// What an `x` header says about the entry behind it.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) linkpath: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
    pub(super) mtime: Option<Time>,
    /// From `SCHILY.xattr`.
    pub(super) schily: BTreeMap<Vec<u8>, Vec<u8>>,
    /// From `LIBARCHIVE.xattr`, decoded.
    pub(super) libarchive: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) sparse: SparseRecords,
}

impl Records {
    /// Reads the data of an extended header. Later records replace earlier ones of the same key; an empty
    /// value takes the record back, except that an xattr may well be empty.
    pub(super) fn parse(body: &[u8], limits: &Limits) -> Result<Self, Fault> {
        let mut records = Self::default();
        for record in split(body) {
            let (key, value) = record?;
            records.add(key, value, limits)?;
        }
        Ok(records)
    }

    fn add(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), Fault> {
        let present = !value.is_empty();
        match key {
            b"path" => self.path = present.then(|| value.to_vec()),
            b"linkpath" => self.linkpath = present.then(|| value.to_vec()),
            b"size" => self.size = number(key, value, MAX_SIZE)?,
            b"uid" => self.uid = id(key, value)?,
            b"gid" => self.gid = id(key, value)?,
            b"mtime" => self.mtime = time(key, value)?,
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.schily.insert(xattr::name(key, value, name.to_vec())?, value.to_vec());
                } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let name = xattr::name(key, value, xattr::percent_decoded(name))?;
                    self.libarchive.insert(name, xattr::base64_decoded(key, value)?);
                } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.add(key, name, value, limits)?;
                }
            }
        }
        Ok(())
    }
}

/// Key and value.
type Record<'a> = (&'a [u8], &'a [u8]);

/// Splits the data of an extended header; checks the structure of all records.
pub(super) fn split(body: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Fault>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let at = body.len() - rest.len();
        match record(rest) {
            Ok((record, behind)) => {
                rest = behind;
                Some(Ok(record))
            }
            Err(problem) => {
                rest = &[];
                Some(Err(Fault::Record { at, problem }))
            }
        }
    })
}

/// The first record and what is behind it.
fn record(rest: &[u8]) -> Result<(Record<'_>, &[u8]), &'static str> {
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let len = decimal(&rest[..digits]).ok_or("the length is not a number")?;
    if rest.get(digits) != Some(&b' ') {
        return Err("no space behind the length");
    }
    let len = usize::try_from(len).ok().filter(|&len| len <= rest.len());
    let len = len.ok_or("the length leaves the extended header")?;
    let (whole, behind) = rest.split_at(len);
    let inner = whole.get(digits + 1..).ok_or("the length is too small")?;
    let Some((b'\n', inner)) = inner.split_last() else {
        return Err("no line break at the end");
    };
    let equals = inner.iter().position(|&byte| byte == b'=').ok_or("no equals sign")?;
    let (key, value) = (&inner[..equals], &inner[equals + 1..]);
    if key.is_empty() {
        return Err("empty key");
    }
    if key.contains(&0) {
        return Err("nul byte in the key");
    }
    Ok(((key, value), behind))
}

/// Digits alone, and no more than fit.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, &byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })
}

/// A value that is a number from 0 to `max`; `None` where it is empty.
pub(super) fn number(key: &[u8], value: &[u8], max: u64) -> Result<Option<u64>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    match decimal(value) {
        Some(number) if number <= max => Ok(Some(number)),
        Some(_) => Err(bad(key, value, "too large a number")),
        None if value.iter().all(u8::is_ascii_digit) => Err(bad(key, value, "too large a number")),
        None => Err(bad(key, value, "not a number without sign")),
    }
}

fn id(key: &[u8], value: &[u8]) -> Result<Option<u32>, Fault> {
    let number = number(key, value, u32::MAX.into())?;
    Ok(number.and_then(|number| u32::try_from(number).ok()))
}

/// `[-]SEC[.FRACTION]`; digits beyond nanoseconds are cut off before the sign is applied.
fn time(key: &[u8], value: &[u8]) -> Result<Option<Time>, Fault> {
    if value.is_empty() {
        return Ok(None);
    }
    let problem = || bad(key, value, "not a time");
    let (negative, plain) = match value.strip_prefix(b"-") {
        Some(plain) => (true, plain),
        None => (false, value),
    };
    let mut parts = plain.splitn(2, |&byte| byte == b'.');
    let whole = decimal(parts.next().unwrap_or_default()).ok_or_else(problem)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(problem());
    }
    let nsec =
        (0..9).fold(0, |nsec, at| nsec * 10 + fraction.get(at).map_or(0, |&byte| u32::from(byte - b'0')));
    let whole = i128::from(whole);
    let (sec, nsec) = match (negative, nsec) {
        (false, _) => (whole, nsec),
        (true, 0) => (-whole, 0),
        (true, _) => (-whole - 1, 1_000_000_000 - nsec),
    };
    let sec = i64::try_from(sec).map_err(|_| bad(key, value, "a time beyond 64 bits of seconds"))?;
    Ok(Some(Time { sec, nsec }))
}

pub(super) fn bad(key: &[u8], value: &[u8], problem: &'static str) -> Fault {
    // A value may fill the whole extended header; the message shows its beginning alone.
    let value = value.get(..1024).unwrap_or(value).to_vec();
    Fault::Value { key: key.to_vec(), value, problem }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn line(key: &str, value: &str) -> Vec<u8> {
        let body = format!(" {key}={value}\n");
        let mut len = body.len() + 1;
        while len.to_string().len() + body.len() != len {
            len += 1;
        }
        format!("{len}{body}").into_bytes()
    }

    #[test]
    fn times_are_rounded_down_to_nanoseconds() {
        let good = [
            ("0", 0, 0),
            ("1700000000", 1_700_000_000, 0),
            ("1700000000.", 1_700_000_000, 0),
            ("1.5", 1, 500_000_000),
            ("1.000000001", 1, 1),
            ("1.9999999999", 1, 999_999_999),
            ("-1", -1, 0),
            ("-1.5", -2, 500_000_000),
            ("-0.5", -1, 500_000_000),
            ("-0", 0, 0),
            ("-1.0000000009", -1, 0),
            ("-0.0000000019", -1, 999_999_999),
            ("9223372036854775807.999999999", i64::MAX, 999_999_999),
            ("-9223372036854775808", i64::MIN, 0),
        ];
        for (text, sec, nsec) in good {
            let records = Records::parse(&line("mtime", text), &Limits::default()).unwrap();
            assert_eq!(records.mtime, Some(Time { sec, nsec }), "{text}");
        }
        for text in [
            ".5",
            "+1",
            "1e5",
            "--1",
            "-",
            "-.5",
            "1.5.5",
            "1.-5",
            " 1",
            "1 ",
            "0x10",
            "9223372036854775808",
            "-9223372036854775808.1",
            "99999999999999999999999",
        ] {
            assert!(Records::parse(&line("mtime", text), &Limits::default()).is_err(), "{text}");
        }
    }

    #[test]
    fn broken_records_are_placed() {
        let good = line("a", "b");
        let cases: [(&[u8], &str); 14] = [
            (b"99 path=elsewhere\n", "the length leaves the extended header"),
            (b"18446744073709551616 a=b\n", "the length is not a number"),
            (b"18446744073709551615 a=b\n", "the length leaves the extended header"),
            (b"x a=b\n", "the length is not a number"),
            (b" 6 a=b\n", "the length is not a number"),
            (b"-6 a=b\n", "the length is not a number"),
            (b"6\ta=b\n", "no space behind the length"),
            (b"0 a=b\n", "the length is too small"),
            (b"2 a=b\n", "no line break at the end"),
            (b"5 a=b\n", "no line break at the end"),
            (b"6 abc\n", "no equals sign"),
            (b"5 =b\n", "empty key"),
            (b"8 a\0b=c\n", "nul byte in the key"),
            (b"\0\0\0\0", "the length is not a number"),
        ];
        for (bytes, problem) in cases {
            let body = [&good[..], bytes].concat();
            let fault = split(&body).find_map(Result::err);
            assert_eq!(fault, Some(Fault::Record { at: 6, problem }), "{bytes:?}");
        }
        assert_eq!(split(&good).collect::<Vec<_>>(), [Ok((&b"a"[..], &b"b"[..]))]);
        assert_eq!(split(b"").count(), 0);
    }

    #[test]
    fn the_last_of_equal_keys_wins_and_an_empty_value_takes_back() {
        let body = [
            line("path", "one"),
            line("path", "two"),
            line("uid", "7"),
            line("uid", ""),
            line("SCHILY.xattr.user.a", "1"),
            line("SCHILY.xattr.user.a", ""),
            line("GID", "5"),
            line("hdrcharset", "BINARY"),
        ]
        .concat();
        let records = Records::parse(&body, &Limits::default()).unwrap();
        assert_eq!(records.path.as_deref(), Some(&b"two"[..]));
        assert_eq!((records.uid, records.gid, records.size), (None, None, None));
        assert_eq!(records.schily.get(&b"user.a"[..]).map(Vec::len), Some(0));
    }

    #[test]
    fn numbers_have_limits() {
        for (key, value, good) in [
            ("uid", "4294967295", true),
            ("uid", "4294967296", false),
            ("gid", "-1", false),
            ("gid", "1.5", false),
            ("size", "9223372036854775807", true),
            ("size", "9223372036854775808", false),
            ("size", "18446744073709551615", false),
            ("size", "99999999999999999999999999", false),
            ("size", "-1", false),
            ("size", "0x10", false),
        ] {
            assert_eq!(Records::parse(&line(key, value), &Limits::default()).is_ok(), good, "{key}={value}");
        }
    }
}
