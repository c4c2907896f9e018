//! Text for people and machines.

use std::fs::File;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mkimg_format::erofs::{Timestamp, escape};
pub(crate) use mkimg_report::words::{count, size};
use serde::Serialize;

/// Standard output, whose errors say so.
pub(crate) struct Stdout(StdoutLock<'static>);

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(named)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(named)
    }
}

fn named(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("standard output: {error}"))
}

/// Standard output, buffered. Flush it with [`Write::flush`] to see its errors.
pub(crate) fn stdout() -> BufWriter<Stdout> {
    BufWriter::with_capacity(64 << 10, Stdout(io::stdout().lock()))
}

/// A file whose errors say which it is, and so are not taken for those of the image.
pub(crate) struct Named<'a> {
    pub file: &'a File,
    pub path: &'a Path,
}

impl Named<'_> {
    fn error(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", show(self.path)))
    }
}

impl Write for Named<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes).map_err(|error| self.error(&error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|error| self.error(&error))
    }
}

/// One JSON object on a line.
pub(crate) fn json_line(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Bytes in base64, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Bytes that are text most of the time: as `Ok` text, or as `Err` base64.
pub(crate) fn text_or_base64(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|error| base64(error.as_bytes()))
}

/// Bytes for a pair of JSON fields, of which one is there: `NAME` with text, or `NAME_b64` with base64.
pub(crate) fn text_and_base64(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match text_or_base64(bytes) {
        Ok(text) => (Some(text), None),
        Err(encoded) => (None, Some(encoded)),
    }
}

/// A path of this machine, on one line whatever it holds.
pub(crate) fn show(path: &Path) -> String {
    escape(path.as_os_str().as_bytes())
}

/// Date and time in UTC: the same on every machine.
pub(crate) fn utc(time: Timestamp) -> String {
    let days = time.sec.div_euclid(86_400);
    let seconds = time.sec.rem_euclid(86_400);
    // Civil date from days since 1970, by 400-year eras that begin on 1 March (proleptic Gregorian calendar).
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// A UUID as it is written.
pub(crate) fn uuid_text(uuid: &[u8; 16]) -> String {
    let digits = mkimg_format::hex(uuid);
    let (a, rest) = digits.split_at(8);
    let (b, rest) = rest.split_at(4);
    let (c, rest) = rest.split_at(4);
    let (d, e) = rest.split_at(4);
    [a, b, c, d, e].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values by `date -u -d @SECONDS`.
    #[test]
    fn times_look_like_those_of_date() {
        for (sec, text) in [
            (0, "1970-01-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_500_000_000, "2017-07-14 02:40:00"),
            (4_294_967_313, "2106-02-07 06:28:33"),
            (i64::MAX, "292277026596-12-04 15:30:07"),
            (i64::MIN, "-292277022657-01-27 08:29:52"),
        ] {
            assert_eq!(utc(Timestamp { sec, nsec: 0 }), text);
        }
    }
}
