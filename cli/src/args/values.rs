//! Values that need a look of their own.

use std::num::NonZeroUsize;

pub(super) fn kernel_version(text: &str) -> Result<(u32, u32), String> {
    let parsed =
        text.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    match parsed {
        None => Err("must be of the form X.Y".to_owned()),
        Some(version) if version < (5, 4) => Err("EROFS came with Linux 5.4".to_owned()),
        Some(version) => Ok(version),
    }
}

pub(super) fn image_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 255 || text.contains(char::is_control) {
        return Err("must have 1 to 255 bytes and no control characters".to_owned());
    }
    Ok(text.to_owned())
}

/// More threads than this only cost memory.
const THREADS_MAX: usize = 64;

pub(super) fn threads(text: &str) -> Result<NonZeroUsize, String> {
    let number = text.parse().ok().filter(|number: &NonZeroUsize| number.get() <= THREADS_MAX);
    number.ok_or_else(|| format!("must be a number from 1 to {THREADS_MAX}"))
}

/// Longer lists are for `ls`.
const TOP_MAX: usize = 1000;

pub(super) fn top(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=TOP_MAX).contains(number));
    number.ok_or_else(|| format!("must be a number from 1 to {TOP_MAX}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        assert_eq!(kernel_version("6.12"), Ok((6, 12)));
        for wrong in ["5.3", "6", "6.x", "", "6.12.1"] {
            assert!(kernel_version(wrong).is_err(), "{wrong}");
        }
    }
}
