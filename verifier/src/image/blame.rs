//! Which blocks are damaged: the tree, the data, or both.
//!
//! From the root down, a hash block that is proven (its hash is what the proven block above it says) convicts every
//! child whose hash it does not hold. One that is not proven is compared with what its children make it: if that has
//! the right hash, the hash block is damaged and the children are fine. If neither has it, mixtures of both are
//! tried, slot by slot; one with the right hash is proof as well. What then remains cannot be vouched for.

use std::ops::Range;

use mkimg_format::merkle::FANOUT;
use mkimg_format::salt::Salt;
use mkimg_format::{BLOCK_LEN, BLOCK_SIZE, Sha256};

use super::scan::{Record, Scan, Shape, Stored, bit, first_bits, set_slot, slot};

/// Slots of a hash block.
const SLOTS: usize = 128;
/// Mixtures of a hash block that are tried.
const MIX_MAX: usize = 1024;
/// Damaged ranges that are kept.
const RANGES_MAX: usize = 100_000;
/// Most levels that a tree over 2^32 blocks has.
const LEVELS_MAX: u32 = 5;

/// What is wrong with a range of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Damage {
    /// It does not have the hash that a proven hash block holds.
    Wrong,
    /// Nothing proven is left to compare it with, and it differs from what is left.
    Unvouched,
    /// The system reported an error.
    Unreadable(Option<i32>),
    /// A hash block is damaged; what it covers is known to be as it should, or listed.
    Tree,
    /// A hash block is damaged, and something below it as well.
    TreeAndBelow,
    /// A hash block agrees with what it covers, but not with the block above.
    TreeReplaced,
}

/// A range of damaged blocks, in bytes of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Damaged {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) damage: Damage,
}

/// Damaged ranges in order, merged where they touch, and how many blocks were left out.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) ranges: Vec<Damaged>,
    pub(crate) dropped: u64,
    /// Runs of data that could be read only at the second attempt, and the first error.
    pub(crate) unsteady: Vec<(Range<u64>, Option<i32>)>,
}

/// What is known about the hash that a block should have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It has it.
    Holds,
    /// The data below is proven; stored hash blocks are right exactly if they are what the data makes them.
    Intact,
    /// This one, which the block does not have.
    Is(Sha256),
    /// The block above cannot be believed.
    Unknown,
}

/// Restores a damaged hash block: a mixture of stored and rebuilt slots that has hash `wanted`.
///
/// The hash proves the result, so guessing is safe; it is bounded by [`MIX_MAX`].
fn restore(scan: &Scan, level: usize, index: u64, wanted: &Sha256) -> Option<Box<[u8; BLOCK_LEN]>> {
    let record = scan.records.get(level)?.get(index)?;
    let detail = scan.details.get(level)?.get(index)?;
    let children = level.checked_sub(1).and_then(|below| scan.records.get(below));
    let differing = || (0..SLOTS).filter(|slot| record.differ & bit(*slot) != 0);
    // A child that agrees with what it covers is most likely fine, and then the stored slot is what is damaged.
    // One that does not agree may be damaged itself.
    let guided = children.map(|children| {
        let first = index.saturating_mul(FANOUT);
        differing()
            .filter_map(|child| {
                let own = children.get(first.saturating_add(u64::try_from(child).ok()?))?;
                let mut options = vec![slot(&detail.stored, child), slot(&detail.rebuilt, child)];
                options.extend(own.rebuilt.filter(|hash| !options.contains(hash)));
                Some((child, options))
            })
            .collect()
    });
    let plain = differing()
        .map(|child| (child, vec![slot(&detail.stored, child), slot(&detail.rebuilt, child)]))
        .collect();
    guided
        .into_iter()
        .chain([plain])
        .find_map(|options: Vec<_>| try_all(&detail.rebuilt, &options, &scan.salt, wanted))
}

/// Tries every combination of options for some slots of a hash block.
fn try_all(
    base: &[u8; BLOCK_LEN],
    options: &[(usize, Vec<Sha256>)],
    salt: &Salt,
    wanted: &Sha256,
) -> Option<Box<[u8; BLOCK_LEN]>> {
    let count = options.iter().try_fold(1_usize, |count, (_, options)| count.checked_mul(options.len()))?;
    if count > MIX_MAX {
        return None;
    }
    let mut block = Box::new(*base);
    for choice in 0..count {
        let mut rest = choice;
        for (slot, options) in options {
            let digest = options.get(rest.checked_rem(options.len())?)?;
            set_slot(&mut block, *slot, digest);
            rest = rest.checked_div(options.len())?;
        }
        if salt.hash_block(&block[..]) == *wanted {
            return Some(block);
        }
    }
    None
}

/// Whether `root` can be the root of what was scanned: of the stored tree, of the data, or of a mixture.
pub(crate) fn leads_to(scan: &Scan, root: &Sha256) -> bool {
    if scan.top.pushed.as_ref() == Some(root) || scan.top.pure.as_ref() == Some(root) {
        return true;
    }
    let Some(record) = scan.records.last().and_then(|records| records.get(0)) else { return false };
    let top = scan.records.len().saturating_sub(1);
    record.rebuilt.as_ref() == Some(root) || restore(scan, top, 0, root).is_some()
}

struct Judge<'a> {
    scan: &'a Scan,
    shape: &'a Shape<'a>,
    verdict: Verdict,
    stack: Vec<(usize, u64, Expect)>,
}

/// Decides for every block that is not as it should be what is wrong with it.
pub(crate) fn judge(scan: &Scan, shape: &Shape<'_>, top: Expect) -> Verdict {
    let mut judge = Judge { scan, shape, verdict: Verdict::default(), stack: Vec::new() };
    if let Some(level) = shape.levels.len().checked_sub(1) {
        judge.stack.push((level, 0, top));
    }
    while let Some((level, index, expect)) = judge.stack.pop() {
        judge.visit(level, index, expect);
    }
    let mut verdict = judge.verdict;
    verdict.dropped = verdict.dropped.saturating_add(scan.dropped);
    verdict.ranges = flatten(verdict.ranges);
    verdict
}

/// Sorts and merges ranges. Where a block is both known to be damaged and not vouched for, the former is kept.
fn flatten(ranges: Vec<Damaged>) -> Vec<Damaged> {
    let (mut weak, mut strong): (Vec<Damaged>, Vec<Damaged>) =
        ranges.into_iter().partition(|range| range.damage == Damage::Unvouched);
    merge(&mut weak);
    merge(&mut strong);
    let mut left = Vec::new();
    let mut known = strong.iter().peekable();
    for range in weak {
        let mut start = range.start;
        while let Some(next) = known.next_if(|next| next.start < range.end) {
            if start < next.start {
                left.push(Damaged { start, end: next.start, ..range });
            }
            start = start.max(next.end);
        }
        if start < range.end {
            left.push(Damaged { start, ..range });
        }
    }
    strong.append(&mut left);
    strong.sort_unstable();
    strong
}

fn merge(ranges: &mut Vec<Damaged>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let touch = before.end >= next.start && before.damage == next.damage;
        if touch {
            before.end = before.end.max(next.end);
        }
        touch
    });
}

impl Judge<'_> {
    fn add(&mut self, start: u64, end: u64, damage: Damage) {
        if let Some(last) = self.verdict.ranges.last_mut()
            && last.damage == damage
            && last.end == start
        {
            last.end = end;
            return;
        }
        if self.verdict.ranges.len() < RANGES_MAX {
            self.verdict.ranges.push(Damaged { start, end, damage });
        } else {
            let blocks = end.saturating_sub(start) / BLOCK_SIZE;
            self.verdict.dropped = self.verdict.dropped.saturating_add(blocks);
        }
    }

    fn add_hash_block(&mut self, level: usize, index: u64, damage: Damage) {
        let offset = self.shape.offset(level, index);
        self.add(offset, offset.saturating_add(BLOCK_SIZE), damage);
    }

    /// Data blocks below a leaf hash block.
    fn add_slots(&mut self, index: u64, slots: u128, damage: Damage) {
        let slots = slots & first_bits(self.shape.used(0, index));
        let first = index.saturating_mul(FANOUT);
        for slot in (0..SLOTS).filter(|slot| slots & bit(*slot) != 0) {
            let start =
                first.saturating_add(u64::try_from(slot).unwrap_or_default()).saturating_mul(BLOCK_SIZE);
            self.add(start, start.saturating_add(BLOCK_SIZE), damage);
        }
    }

    /// Slots of a leaf hash block whose data a detached seal leaves out.
    fn absent_slots(&self, index: u64) -> u128 {
        let first = index.saturating_mul(FANOUT);
        (0..SLOTS)
            .filter(|slot| {
                self.shape.absent.contains(&first.saturating_add(u64::try_from(*slot).unwrap_or_default()))
            })
            .fold(0, |bits, slot| bits | bit(slot))
    }

    /// All data that a hash block covers, as far as it is there.
    fn add_covered(&mut self, level: usize, index: u64) {
        let exponent = u32::try_from(level).unwrap_or(LEVELS_MAX).saturating_add(1);
        let span = FANOUT.saturating_pow(exponent);
        let start = index.saturating_mul(span).min(self.shape.data_blocks);
        let end = start.saturating_add(span).min(self.shape.data_blocks);
        let absent = &self.shape.absent;
        let parts = if absent.is_empty() {
            [start..end, end..end]
        } else {
            [start..end.min(absent.start), start.max(absent.end)..end]
        };
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            self.add(
                part.start.saturating_mul(BLOCK_SIZE),
                part.end.saturating_mul(BLOCK_SIZE),
                Damage::Unvouched,
            );
        }
    }

    fn visit(&mut self, level: usize, index: u64, expect: Expect) {
        let scan = self.scan;
        match scan.records.get(level).and_then(|records| records.get(index)) {
            Some(record) => self.visit_odd(level, index, expect, record),
            None => {
                let below = match expect {
                    Expect::Is(_) => {
                        if self.shape.reaches(self.shape.offset(level, index)) {
                            self.add_hash_block(level, index, Damage::TreeReplaced);
                        }
                        self.add_covered(level, index);
                        Expect::Unknown
                    }
                    other => other,
                };
                self.descend(level, index, below, |_| None);
            }
        }
    }

    fn visit_odd(&mut self, level: usize, index: u64, expect: Expect, record: &Record) {
        if record.unreadable != 0 {
            self.add_slots(index, record.unreadable, Damage::Unreadable(record.errno));
        }
        if let Stored::Unreadable(errno) = record.state {
            self.add_hash_block(level, index, Damage::Unreadable(errno));
        }
        if record.unsteady {
            let start = index.saturating_mul(FANOUT).saturating_mul(BLOCK_SIZE);
            let length = u64::from(self.shape.used(0, index)).saturating_mul(BLOCK_SIZE);
            self.verdict.unsteady.push((start..start.saturating_add(length), record.errno));
        }
        let present = record.state == Stored::Present;
        match expect {
            Expect::Holds if !present && record.rebuilt.is_none() => self.doubt(level, index, record),
            Expect::Holds => self.convict(level, index, record, record.differ),
            Expect::Is(hash) if record.stored == Some(hash) => {
                self.convict(level, index, record, record.differ)
            }
            Expect::Is(hash) if record.pure == Some(hash) => self.visit_intact(level, index, record),
            Expect::Is(hash) if record.rebuilt == Some(hash) => {
                if present {
                    self.add_hash_block(level, index, Damage::Tree);
                }
                self.descend(level, index, Expect::Holds, |_| None);
            }
            Expect::Is(hash) => {
                if let Some(proven) = restore(self.scan, level, index, &hash) {
                    self.add_hash_block(level, index, Damage::Tree);
                    self.convict_by(level, index, record, &proven);
                    return;
                }
                if present {
                    let damage = if record.differ == 0 { Damage::TreeReplaced } else { Damage::TreeAndBelow };
                    self.add_hash_block(level, index, damage);
                }
                self.doubt(level, index, record);
            }
            Expect::Intact => self.visit_intact(level, index, record),
            Expect::Unknown => {
                if record.differ != 0 && present {
                    self.add_hash_block(level, index, Damage::Unvouched);
                }
                if record.differ != 0 || !present {
                    self.doubt(level, index, record);
                } else {
                    self.descend(level, index, Expect::Unknown, |_| None);
                }
            }
        }
    }

    /// The data below is proven.
    fn visit_intact(&mut self, level: usize, index: u64, record: &Record) {
        if record.state == Stored::Present && record.stored != record.pure {
            self.add_hash_block(level, index, Damage::Tree);
        }
        self.descend(level, index, Expect::Intact, |_| None);
    }

    /// The stored slots in `bad` are proven: their children are not what they should be.
    fn convict(&mut self, level: usize, index: u64, record: &Record, bad: u128) {
        if level == 0 {
            self.add_slots(index, bad & !record.unreadable, Damage::Wrong);
            return;
        }
        let scan = self.scan;
        let detail = scan.details.get(level).and_then(|details| details.get(index));
        self.descend(level, index, Expect::Holds, |child| {
            // Without the block at hand, nothing is known but that the child is wrong.
            (bad & bit(child) != 0)
                .then(|| Expect::Is(detail.map_or([0; 32], |detail| slot(&detail.stored, child))))
        });
    }

    /// The block `proven` is what should be stored: children with another hash are not what they should be.
    fn convict_by(&mut self, level: usize, index: u64, record: &Record, proven: &[u8; BLOCK_LEN]) {
        let scan = self.scan;
        let Some(detail) = scan.details.get(level).and_then(|details| details.get(index)) else { return };
        let wrong = |child: usize| {
            let digest = slot(proven, child);
            (digest != slot(&detail.rebuilt, child)).then_some(digest)
        };
        if level == 0 {
            let bad =
                (0..SLOTS).filter(|child| wrong(*child).is_some()).fold(0, |bits, child| bits | bit(child));
            self.add_slots(index, bad & !record.unreadable, Damage::Wrong);
        } else {
            self.descend(level, index, Expect::Holds, |child| wrong(child).map(Expect::Is));
        }
    }

    /// Neither the stored block nor what its children make it can be believed.
    fn doubt(&mut self, level: usize, index: u64, record: &Record) {
        if level == 0 && record.state != Stored::Present {
            self.add_slots(index, !record.unreadable & !self.absent_slots(index), Damage::Unvouched);
            return;
        }
        if level == 0 && record.differ != 0 {
            self.add_slots(index, record.differ & !record.unreadable, Damage::Unvouched);
            return;
        }
        self.add_covered(level, index);
        self.descend(level, index, Expect::Unknown, |_| None);
    }

    /// Goes on to the children that have something to them: those with an expectation of their own, and those
    /// with a record in what is below.
    fn descend(&mut self, level: usize, index: u64, rest: Expect, own: impl Fn(usize) -> Option<Expect>) {
        let Some(below) = level.checked_sub(1) else { return };
        let used = usize::try_from(self.shape.used(level, index)).unwrap_or(SLOTS);
        // Last first, so that the stack hands them out in order.
        for child in (0..used).rev() {
            let number =
                index.saturating_mul(FANOUT).saturating_add(u64::try_from(child).unwrap_or_default());
            if let Some(expect) = own(child) {
                self.stack.push((below, number, expect));
            } else if self.has_record(below, number) {
                self.stack.push((below, number, rest));
            }
        }
    }

    /// Whether a hash block or one below it has a record.
    fn has_record(&self, level: usize, index: u64) -> bool {
        let (mut first, mut end) = (index, index.saturating_add(1));
        for level in (0..=level).rev() {
            if self.scan.records.get(level).is_some_and(|records| records.any_in(first..end)) {
                return true;
            }
            first = first.saturating_mul(FANOUT);
            end = end.saturating_mul(FANOUT);
        }
        false
    }
}
