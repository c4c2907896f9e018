//! Which block of the image has a given hash: the table behind `--dedup blocks`.
//!
//! The hashes themselves are the leaves of the dm-verity tree, which wait in memory until its place is known. So an
//! entry is no more than a block number, 4 bytes, and what is found is compared in full: two blocks are taken for one if
//! all 256 bits of their SHA-256 agree, which is what the root hash relies on as well.
//!
//! The table never grows. One that is full, or whose slots around a hash are taken (by chance, or because somebody has
//! made blocks for that), forgets no block that it knows, and learns no new one there: what is written does not depend
//! on anything but the blocks before.

use mkimg_format::Sha256;

/// Slots of 4 bytes at most: 64 MiB. Half of them are used, by the first 32 GiB of distinct blocks.
const SLOTS_MAX: usize = 16 << 20;

/// Slots that are looked at for one hash.
const PROBES: usize = 32;

/// No file data is ever in block 0.
const FREE: u32 = 0;

/// The blocks of an image that may be referred to again.
pub(crate) struct KnownBlocks {
    /// Open addressing; a power of two.
    slots: Box<[u32]>,
    /// Entries that may still be made.
    room: usize,
}

impl KnownBlocks {
    /// A table for so many blocks, or as many as fit.
    pub(crate) fn new(blocks: u64) -> Self {
        let wanted = usize::try_from(blocks).unwrap_or(SLOTS_MAX).saturating_mul(2);
        Self::with_slots(wanted.clamp(PROBES, SLOTS_MAX))
    }

    fn with_slots(slots: usize) -> Self {
        let slots = slots.next_power_of_two();
        Self { slots: vec![FREE; slots].into(), room: slots / 2 }
    }

    /// The slots in which a hash may be, in order.
    fn probes(&self, hash: &Sha256) -> impl Iterator<Item = usize> + use<> {
        let [a, b, c, d, ..] = *hash;
        let (start, mask) = (u32::from_le_bytes([a, b, c, d]) as usize, self.slots.len() - 1);
        (0..PROBES.min(self.slots.len())).map(move |step| (start + step) & mask)
    }

    /// The block of that hash; `leaves` are the hashes of all blocks so far.
    pub(crate) fn find(&self, hash: &Sha256, leaves: &[Sha256]) -> Option<u32> {
        let blocks = self.probes(hash).map(|slot| self.slots[slot]);
        blocks.take_while(|block| *block != FREE).find(|block| leaves.get(*block as usize) == Some(hash))
    }

    /// Takes note of a block whose hash was not found.
    pub(crate) fn learn(&mut self, hash: &Sha256, block: u32) {
        if self.room > 0
            && let Some(slot) = self.probes(hash).find(|slot| self.slots[*slot] == FREE)
        {
            self.slots[slot] = block;
            self.room -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hash that begins with `start`, of which there are many.
    fn hash(start: u32, number: u32) -> Sha256 {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&start.to_le_bytes());
        hash[28..].copy_from_slice(&number.to_le_bytes());
        hash
    }

    /// Learns hashes as blocks 1, 2, ... and tells which of them are found.
    fn found(slots: usize, hashes: &[Sha256]) -> Vec<bool> {
        let mut table = KnownBlocks::with_slots(slots);
        let mut leaves = vec![[0xff; 32]];
        for hash in hashes {
            assert_eq!(table.find(hash, &leaves), None);
            table.learn(hash, u32::try_from(leaves.len()).unwrap());
            leaves.push(*hash);
        }
        let found = |(block, hash): (usize, &Sha256)| match table.find(hash, &leaves) {
            None => false,
            Some(known) => {
                assert_eq!(known as usize, block + 1);
                true
            }
        };
        hashes.iter().enumerate().map(found).collect()
    }

    #[test]
    fn equal_beginnings_are_told_apart() {
        let hashes: Vec<Sha256> = (0..).take(PROBES).map(|number| hash(7, number)).collect();
        assert_eq!(found(1024, &hashes), vec![true; PROBES]);
        // Around the end of the table.
        let hashes: Vec<Sha256> = (0..20).map(|number| hash(1020, number)).collect();
        assert_eq!(found(1024, &hashes), vec![true; 20]);
    }

    #[test]
    fn blocks_made_to_collide_cost_no_more_than_their_own_place() {
        let mut hashes: Vec<Sha256> = (0..1000).map(|number| hash(7, number)).collect();
        hashes.push(hash(3000, 0));
        let expected: Vec<bool> = (0..1001).map(|at| at < PROBES || at == 1000).collect();
        assert_eq!(found(4096, &hashes), expected);
    }

    #[test]
    fn a_full_table_keeps_the_first() {
        let hashes: Vec<Sha256> = (0..100).map(|number| hash(number * 5, number)).collect();
        let expected: Vec<bool> = (0..100).map(|at| at < 32).collect();
        assert_eq!(found(64, &hashes), expected);
        assert_eq!(KnownBlocks::new(0).slots.len(), PROBES);
        assert_eq!(KnownBlocks::new(1000).slots.len(), 2048);
        assert_eq!(KnownBlocks::new(u64::MAX).slots.len(), SLOTS_MAX);
    }
}
