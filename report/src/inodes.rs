//! Which inodes have been seen.

use mkimg_format::erofs::Nid;

/// Slots of 32 bytes that are remembered, a bit for each: those of 16 GiB of metadata take 64 MiB.
///
/// An inode behind them counts for each of its names.
pub const SLOTS_MAX: u64 = 1 << 29;

/// Inodes with several names that the walk came to.
#[derive(Debug, Default)]
pub(crate) struct Seen(Vec<u64>);

impl Seen {
    /// Whether this is the first time.
    pub(crate) fn is_new(&mut self, nid: Nid) -> bool {
        if nid.0 >= SLOTS_MAX {
            return true;
        }
        let Ok(word) = usize::try_from(nid.0 / 64) else { return true };
        if word >= self.0.len() {
            self.0.resize(word.saturating_add(1), 0);
        }
        let Some(word) = self.0.get_mut(word) else { return true };
        let bit = 1 << (nid.0 % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inode_is_new_once() {
        let mut seen = Seen::default();
        for (nid, is_new) in [(7, true), (7, false), (6, true), (1000, true), (1000, false), (0, true)] {
            assert_eq!(seen.is_new(Nid(nid)), is_new, "{nid}");
        }
        assert!(seen.is_new(Nid(SLOTS_MAX)) && seen.is_new(Nid(SLOTS_MAX)), "beyond the bound");
        assert!(seen.0.len() < 100);
    }
}
