//! Numbers for people.

/// A number of bytes.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = 0_usize;
    let mut rest = u128::from(bytes).saturating_mul(10);
    while rest >= 10_240 && unit < 5 {
        rest = rest.div_ceil(1024);
        unit = unit.saturating_add(1);
    }
    match UNITS.get(unit) {
        Some(unit) if *unit != "B" => format!("{}.{} {unit}", rest / 10, rest % 10),
        _ => format!("{bytes} B"),
    }
}

/// A count with its noun, in the plural where that is due.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How much `part` is of `whole`, in per cent with one digit behind the point.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    let per_mille = u128::from(part).saturating_mul(1000).checked_div(whole.into()).unwrap_or(0);
    format!("{}.{} %", per_mille / 10, per_mille % 10)
}

/// A ratio with two digits behind the point; a dash where there is none.
#[must_use]
pub fn ratio(ratio: Option<f64>) -> String {
    ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.2}"))
}

/// Text of at most `max` characters: from a longer one the middle is cut out, because paths differ at their ends.
#[must_use]
pub fn shorten(text: &str, max: usize) -> String {
    let length = text.chars().count();
    if length <= max {
        return text.to_owned();
    }
    let head = max.saturating_sub(1) / 3;
    let tail = max.saturating_sub(1).saturating_sub(head);
    let skip = length.saturating_sub(tail);
    text.chars().take(head).chain(['\u{2026}']).chain(text.chars().skip(skip)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB")]
        {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn shares() {
        for (part, whole, text) in [(0, 0, "0.0 %"), (1, 3, "33.3 %"), (u64::MAX, u64::MAX, "100.0 %")] {
            assert_eq!(percent(part, whole), text);
        }
    }

    #[test]
    fn long_text_keeps_its_ends() {
        for (text, max, short) in [
            ("abc", 3, "abc"),
            ("/usr/lib/libz.so", 10, "/us\u{2026}ibz.so"),
            ("\u{e4}\u{f6}\u{fc}\u{df}", 3, "\u{2026}\u{fc}\u{df}"),
            ("abc", 0, "\u{2026}"),
        ] {
            assert_eq!(shorten(text, max), short);
        }
    }
}
