//! What is known to differ, and what is new about it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};

use crate::difference::Difference;
use crate::tree::scope::below;
use crate::tree::{Depth, Scope};

/// Bytes of text in all of it.
const TEXT_MAX: usize = 32 << 20;
/// What one difference takes beside its text.
const OVERHEAD: usize = 256;

/// What differs, by path.
#[derive(Debug, Default)]
pub(super) struct Known {
    differences: BTreeMap<Vec<u8>, BTreeSet<Difference>>,
    bytes: usize,
    full: bool,
}

/// What an audit has found that was not known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Differences that were not there before.
    pub(super) appeared: Vec<Difference>,
    /// Paths that differed and do not any more.
    pub(super) restored: Vec<Vec<u8>>,
}

impl News {
    /// Adds what came after it.
    pub(super) fn extend(&mut self, later: Self) {
        self.appeared.extend(later.appeared);
        self.restored.extend(later.restored);
    }
}

impl Known {
    /// Takes what was found in a scope for what is there now, of all that `about` says it was looked for.
    pub(super) fn replace(
        &mut self,
        scope: &Scope,
        about: impl Fn(&Difference) -> bool,
        found: Vec<Difference>,
    ) -> News {
        let mut news = News::default();
        let before = self.take(scope, about);
        for difference in found {
            let known = before.get(&difference.path).is_some_and(|known| known.contains(&difference));
            if !known {
                news.appeared.push(difference.clone());
            }
            self.insert(difference);
        }
        news.restored = before.into_keys().filter(|path| !self.differences.contains_key(path)).collect();
        news
    }

    /// Whether there was more than is held. What is not held is news whenever it is looked at.
    pub(super) const fn is_full(&self) -> bool {
        self.full
    }

    /// Whether there is a difference of which this is true.
    pub(super) fn any(&self, is: impl Fn(&Difference) -> bool) -> bool {
        self.differences.values().flatten().any(is)
    }

    fn insert(&mut self, difference: Difference) {
        let bytes = self.bytes.saturating_add(cost(&difference));
        if bytes > TEXT_MAX {
            self.full = true;
            return;
        }
        if self.differences.entry(difference.path.clone()).or_default().insert(difference) {
            self.bytes = bytes;
        }
    }

    fn take(
        &mut self,
        scope: &Scope,
        about: impl Fn(&Difference) -> bool,
    ) -> BTreeMap<Vec<u8>, BTreeSet<Difference>> {
        let mut paths: Vec<Vec<u8>> = Vec::new();
        for (path, depth) in scope.iter() {
            let own = if path.is_empty() { b"/" } else { path };
            paths.extend(self.differences.get_key_value(own).map(|(path, _)| path.clone()));
            if depth == Depth::Below {
                let first = below(path);
                let all = self.differences.range::<[u8], _>((Excluded(first.as_slice()), Unbounded));
                paths.extend(all.map(|(path, _)| path).take_while(|path| path.starts_with(&first)).cloned());
            }
        }
        let mut taken = BTreeMap::new();
        for path in paths {
            let Some(all) = self.differences.remove(&path) else { continue };
            let (gone, kept): (BTreeSet<_>, BTreeSet<_>) = all.into_iter().partition(&about);
            self.bytes = gone.iter().map(cost).fold(self.bytes, usize::saturating_sub);
            if !kept.is_empty() {
                self.differences.insert(path.clone(), kept);
            }
            if !gone.is_empty() {
                taken.insert(path, gone);
            }
        }
        taken
    }
}

fn cost(difference: &Difference) -> usize {
    // The path is there twice.
    OVERHEAD.saturating_add(difference.path.len()).saturating_add(difference.text_len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::difference::Kind;

    fn mode(path: &str, found: &str) -> Difference {
        Difference::new(path.as_bytes().to_vec(), Kind::Mode).found(found)
    }

    fn scope(path: &str, depth: Depth) -> Scope {
        let mut scope = Scope::default();
        scope.add(path.as_bytes().to_vec(), depth);
        scope
    }

    #[test]
    fn news_is_what_was_not_known() {
        let mut known = Known::default();
        let all = |_: &Difference| true;
        let first = vec![mode("/", "1"), mode("/a", "1"), mode("/a/b", "1"), mode("/a-b", "1")];
        let news = known.replace(&Scope::everything(), all, first.clone());
        assert_eq!(news.appeared, first);

        // The same again is no news.
        assert_eq!(known.replace(&Scope::everything(), all, first), News::default());

        // The name alone, then with what is below it.
        let news = known.replace(&scope("/a", Depth::Own), all, vec![mode("/a", "2")]);
        assert_eq!(news, News { appeared: vec![mode("/a", "2")], restored: Vec::new() });
        let news = known.replace(&scope("/a", Depth::Below), all, Vec::new());
        let gone = |path: &str| path.as_bytes().to_vec();
        assert_eq!(news.restored, [gone("/a"), gone("/a/b")]);

        // The root alone.
        let news = known.replace(&scope("", Depth::Own), all, Vec::new());
        assert_eq!(news.restored, [gone("/")]);
        assert!(known.any(|difference| difference.path == b"/a-b") && !known.any(|d| d.path == b"/a"));
    }

    #[test]
    fn what_was_not_looked_for_stays() {
        let mut known = Known::default();
        let links = Difference::new(b"/a".to_vec(), Kind::Links);
        known.replace(&Scope::everything(), |_| true, vec![mode("/a", "1"), links.clone()]);
        let is_link = |difference: &Difference| difference.kind == Kind::Links;
        let news = known.replace(&scope("/a", Depth::Own), |difference| !is_link(difference), Vec::new());
        assert_eq!(news, News::default());
        let news = known.replace(&Scope::everything(), is_link, Vec::new());
        assert_eq!(news.restored, [b"/a".to_vec()]);
        assert_eq!(known.bytes, 0);
    }

    #[test]
    fn it_is_bounded() {
        let mut known = Known::default();
        let long = |index: usize| mode(&format!("/{index:08}/{}", "x".repeat(4000)), "1");
        let all: Vec<Difference> = (0..5000).map(long).collect();
        let news = known.replace(&Scope::everything(), |_| true, all.clone());
        assert_eq!(news.appeared, all);
        assert!(known.is_full() && known.bytes <= TEXT_MAX && known.differences.len() > 3000);
    }
}
