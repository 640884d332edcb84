//! Finds the span that covers an address range, nested and overlapping spans included.

use crate::MemKind;

/// Values by address range, per (kind, device).
#[derive(Clone, Debug)]
pub struct SpanIndex<T> {
    spaces: Vec<Space<T>>,
}

#[derive(Clone, Debug)]
struct Space<T> {
    kind: MemKind,
    dev: u64,
    entries: Vec<Entry<T>>,
}

#[derive(Clone, Debug)]
struct Entry<T> {
    start: u64,
    end: u64,
    /// Largest `end` of this entry and all before it: says when looking further back is futile.
    reach: u64,
    value: T,
}

impl<T> Default for SpanIndex<T> {
    fn default() -> Self {
        Self { spaces: Vec::new() }
    }
}

impl<T> SpanIndex<T> {
    /// Adds `value` for `len` bytes at `start`; the caller has checked that the sum does not wrap.
    pub fn insert(&mut self, kind: MemKind, dev: u64, start: u64, len: u64, value: T) {
        let space = match self
            .spaces
            .iter_mut()
            .position(|s| s.kind == kind && s.dev == dev)
        {
            Some(i) => &mut self.spaces[i],
            None => {
                self.spaces.push(Space {
                    kind,
                    dev,
                    entries: Vec::new(),
                });
                self.spaces.last_mut().expect("pushed just above")
            }
        };
        let at = space.entries.partition_point(|e| e.start <= start);
        let end = start.saturating_add(len);
        let entry = Entry {
            start,
            end,
            reach: 0,
            value,
        };
        space.entries.insert(at, entry);
        space.mend_reach(at);
    }

    /// Removes the value that begins at `start` and that `is` accepts, and returns it.
    pub fn remove(
        &mut self,
        kind: MemKind,
        dev: u64,
        start: u64,
        is: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let mut spaces = self.spaces.iter_mut();
        let space = spaces.find(|s| s.kind == kind && s.dev == dev)?;
        let first = space.entries.partition_point(|e| e.start < start);
        let mut equals = space.entries[first..]
            .iter()
            .take_while(|e| e.start == start);
        let at = first + equals.position(|e| is(&e.value))?;
        let entry = space.entries.remove(at);
        space.mend_reach(at);
        Some(entry.value)
    }

    /// The value whose span covers all of `start..start + len`; of several, the latest start.
    pub fn find(&self, kind: MemKind, dev: u64, start: u64, len: u64) -> Option<&T> {
        let end = start.checked_add(len)?;
        let space = self
            .spaces
            .iter()
            .find(|s| s.kind == kind && s.dev == dev)?;
        let upto = space.entries.partition_point(|e| e.start <= start);
        for entry in space.entries[..upto].iter().rev() {
            if entry.reach < end {
                return None;
            }
            if entry.end >= end {
                return Some(&entry.value);
            }
        }
        None
    }

    /// Whether any span of another kind or device covers the range: for better error messages.
    pub fn find_elsewhere(&self, start: u64, len: u64) -> Option<(MemKind, u64)> {
        let places: Vec<_> = self.spaces.iter().map(|s| (s.kind, s.dev)).collect();
        places
            .into_iter()
            .find(|&(kind, dev)| self.find(kind, dev, start, len).is_some())
    }

    /// All values, in address order per kind and device.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.spaces
            .iter()
            .flat_map(|s| s.entries.iter().map(|e| &e.value))
    }
}

impl<T> Space<T> {
    /// Brings `reach` up to date after a change at `from`: as far as it makes a difference.
    fn mend_reach(&mut self, from: usize) {
        let mut reach = from.checked_sub(1).map_or(0, |i| self.entries[i].reach);
        for entry in &mut self.entries[from..] {
            reach = reach.max(entry.end);
            if entry.reach == reach {
                break;
            }
            entry.reach = reach;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(index: &SpanIndex<u32>, start: u64, len: u64) -> Option<u32> {
        index.find(MemKind::Dram, 0, start, len).copied()
    }

    #[test]
    fn nested_and_overlapping_spans_resolve() {
        let mut index = SpanIndex::default();
        index.insert(MemKind::Dram, 0, 1000, 9000, 1);
        index.insert(MemKind::Dram, 0, 2000, 10, 2);
        index.insert(MemKind::Dram, 0, 2005, 100, 3);
        assert_eq!(find(&index, 2000, 10), Some(2), "the nested one");
        assert_eq!(find(&index, 2008, 50), Some(3), "the overlapping one");
        assert_eq!(find(&index, 2001, 500), Some(1), "behind both");
        assert_eq!(find(&index, 999, 2), None);
        assert_eq!(find(&index, 9999, 2), None, "across the end");
        assert_eq!(find(&index, u64::MAX, 2), None, "wraps");
        let mut remove = |v| index.remove(MemKind::Dram, 0, 1000, |found| *found == v);
        assert_eq!(remove(2), None, "it begins elsewhere");
        assert_eq!(remove(1), Some(1));
        assert_eq!(find(&index, 2001, 500), None, "reach was mended");
    }

    #[test]
    fn kinds_and_devices_do_not_mix() {
        let mut index = SpanIndex::default();
        index.insert(MemKind::Vram, 1, 0, 100, 7);
        assert_eq!(index.find(MemKind::Vram, 0, 0, 1), None);
        assert_eq!(index.find(MemKind::Vram, 1, 0, 100), Some(&7));
        assert_eq!(index.find_elsewhere(5, 5), Some((MemKind::Vram, 1)));
    }

    /// Against a list that is searched from end to end.
    #[test]
    fn any_order_of_inserts_and_removes_finds_the_same() {
        let mut index = SpanIndex::default();
        let mut plain: Vec<(u64, u64, u32)> = Vec::new();
        let mut random = 1_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1);
            (random >> 33) % below
        };
        for value in 0..3000 {
            let (start, len) = (draw(2000), 1 + draw(50) * draw(10));
            index.insert(MemKind::Dram, 0, start, len, value);
            plain.push((start, start + len, value));
            if draw(3) == 0 {
                let (start, _, value) = plain.swap_remove(draw(plain.len() as u64) as usize);
                let removed = index.remove(MemKind::Dram, 0, start, |v| *v == value);
                assert_eq!(removed, Some(value));
            }
            let (at, len) = (draw(2100), 1 + draw(20));
            let covers = |s: &&(u64, u64, u32)| s.0 <= at && at + len <= s.1;
            let latest = plain.iter().filter(covers).map(|s| s.0).max();
            let found = find(&index, at, len).map(|v| {
                let of_value = plain.iter().find(|s| s.2 == v).unwrap();
                assert!(covers(&of_value), "{v} does not cover {at}+{len}");
                of_value.0
            });
            assert_eq!(found, latest);
        }
    }
}
