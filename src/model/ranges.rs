//! A set of numbers as ranges: what a long job has done, in as little memory as it has gaps.

/// Whole numbers, kept as disjoint inclusive ranges in rising order that do not touch.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The ranges, rising.
    #[must_use]
    pub fn as_slice(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// How many ranges there are: what they cost.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.0.len()
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `number` is in it.
    #[must_use]
    pub fn contains(&self, number: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        after > 0 && self.0[after - 1].1 >= number
    }

    /// Adds one; `false` where it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        if after > 0 && self.0[after - 1].1 >= number {
            return false;
        }
        let joins_left = after > 0 && self.0[after - 1].1 + 1 == number;
        let joins_right = self.0.get(after).is_some_and(|(first, _)| number + 1 == *first);
        match (joins_left, joins_right) {
            (true, true) => {
                self.0[after - 1].1 = self.0[after].1;
                self.0.remove(after);
            }
            (true, false) => self.0[after - 1].1 = number,
            (false, true) => self.0[after].0 = number,
            (false, false) => self.0.insert(after, (number, number)),
        }
        true
    }

    /// Takes one out; `false` where it was not there.
    pub fn remove(&mut self, number: u64) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= number);
        let Some(at) = after.checked_sub(1).filter(|at| self.0[*at].1 >= number) else { return false };
        let (first, last) = self.0[at];
        let left = (first < number).then(|| (first, number - 1));
        let right = (number < last).then(|| (number + 1, last));
        self.0.splice(at..=at, left.into_iter().chain(right));
        true
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        let mut all: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        all.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(all.len());
        for (first, last) in all {
            match merged.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        self.0 = merged;
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut left = Vec::with_capacity(self.0.len());
        let mut cuts = other.0.as_slice();
        for (first, last) in &self.0 {
            let mut from = *first;
            while let [(cut, end), rest @ ..] = cuts
                && cut <= last
            {
                if *cut > from {
                    left.push((from, cut - 1));
                }
                from = from.max(end + 1);
                // One that reaches further cuts the next range too.
                if end > last {
                    break;
                }
                cuts = rest;
            }
            if from <= *last {
                left.push((from, *last));
            }
        }
        Self(left)
    }

    /// The least number that is neither in it nor `taken`.
    #[must_use]
    pub fn first_gap(&self, taken: impl Fn(u64) -> bool) -> u64 {
        let mut number = 0;
        for (first, last) in &self.0 {
            while number < *first {
                if !taken(number) {
                    return number;
                }
                number += 1;
            }
            number = last + 1;
        }
        while taken(number) {
            number += 1;
        }
        number
    }
}

impl FromIterator<(u64, u64)> for Ranges {
    /// Ranges in any order, overlapping or not; one whose end is before its start is passed over.
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(pairs: I) -> Self {
        let mut ranges = Self::default();
        ranges.extend(&Self(pairs.into_iter().filter(|(first, last)| first <= last).collect()));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the set looks like from outside, and that its pieces are what they promise to be.
    fn agrees(ranges: &Ranges, set: &BTreeSet<u64>) {
        let listed: Vec<u64> = ranges.as_slice().iter().flat_map(|(first, last)| *first..=*last).collect();
        assert_eq!(listed, set.iter().copied().collect::<Vec<_>>());
        assert_eq!((ranges.count(), ranges.is_empty()), (set.len() as u64, set.is_empty()));
        assert!(ranges.as_slice().windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "{ranges:?} touch");
    }

    proptest! {
        #[test]
        fn it_is_a_set(acts in prop::collection::vec((any::<bool>(), 0u64..24), 0..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (adds, number) in acts {
                if adds {
                    prop_assert_eq!(ranges.insert(number), set.insert(number));
                } else {
                    prop_assert_eq!(ranges.remove(number), set.remove(&number));
                }
                agrees(&ranges, &set);
                for number in 0..26 {
                    prop_assert_eq!(ranges.contains(number), set.contains(&number));
                }
                let odd = |number: u64| number % 2 == 1;
                let gap = (0..).find(|number| !set.contains(number) && !odd(*number));
                prop_assert_eq!(Some(ranges.first_gap(odd)), gap);
            }
        }

        #[test]
        fn two_sets_make_one(left in prop::collection::btree_set(0u64..40, 0..30), right in prop::collection::btree_set(0u64..40, 0..30)) {
            let of = |set: &BTreeSet<u64>| set.iter().map(|number| (*number, *number)).collect::<Ranges>();
            let mut both = of(&left);
            both.extend(&of(&right));
            agrees(&both, &left.union(&right).copied().collect());
            agrees(&of(&left).without(&of(&right)), &left.difference(&right).copied().collect());
        }
    }

    #[test]
    fn the_greatest_numbers_do_not_overflow() {
        let most = (1u64 << 53) - 1;
        let mut ranges: Ranges = [(0, most - 1)].into_iter().collect();
        assert_eq!(ranges.first_gap(|_| false), most);
        assert!(ranges.insert(most));
        assert_eq!((ranges.count(), ranges.pieces()), (1 << 53, 1));
    }
}
