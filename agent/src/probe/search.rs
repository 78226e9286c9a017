//! Which size to try next. Pure.
//!
//! What loses packets for their size loses all larger ones too (RFC 8899 section 4.1 supposes the same).

use std::ops::Range;

/// Whatever carries anything carries this.
const SMALL: u32 = 128;

/// The search for the largest packet that comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Search {
    /// What should pass.
    mtu: u32,
    /// The largest that passed, and the smallest that did not.
    passed: Option<u32>,
    failed: Option<u32>,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A packet of this size, in bytes.
    Try(u32),
    /// Everything passes.
    Whole,
    /// Nothing passes: that is no matter of sizes.
    Dead,
    /// Packets up to this size pass, and larger ones do not.
    Hole(u32),
}

impl Search {
    pub(super) fn new(mtu: u32) -> Self {
        Self {
            mtu,
            passed: None,
            failed: None,
        }
    }

    pub(super) fn next(&self) -> Next {
        match (self.passed, self.failed) {
            (None, None) => Next::Try(self.mtu),
            (Some(_), None) => Next::Whole,
            (None, Some(failed)) if failed <= SMALL => Next::Dead,
            (None, Some(_)) => Next::Try(SMALL),
            (Some(passed), Some(failed)) => match middle(passed..failed) {
                Some(middle) => Next::Try(middle),
                None => Next::Hole(passed),
            },
        }
    }

    pub(super) fn tried(&mut self, size: u32, came_back: bool) {
        match came_back {
            true => self.passed = self.passed.max(Some(size)),
            false => self.failed = Some(self.failed.map_or(size, |failed| failed.min(size))),
        }
    }
}

/// What is in the middle of what is between.
fn middle(range: Range<u32>) -> Option<u32> {
    let middle = range.start + (range.end.saturating_sub(range.start)) / 2;
    (middle > range.start).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Where all up to `carries` pass; with the number of sizes tried.
    fn search(mtu: u32, carries: u32) -> (Next, usize) {
        let mut search = Search::new(mtu);
        for n in 0..64 {
            match search.next() {
                Next::Try(size) => search.tried(size, size <= carries),
                end => return (end, n),
            }
        }
        panic!("no end");
    }

    #[test]
    fn what_is_whole_costs_one_packet_and_what_is_dead_two() {
        assert_eq!(search(1426, 9000), (Next::Whole, 1));
        assert_eq!(search(1426, 0), (Next::Dead, 2));
        assert_eq!(search(SMALL, 0), (Next::Dead, 1));
    }

    proptest! {
        #[test]
        fn a_hole_is_found_to_the_byte(mtu in 129_u32..65_535, carries in 128_u32..65_535) {
            let (found, tries) = search(mtu, carries);
            let expected = if carries < mtu { Next::Hole(carries) } else { Next::Whole };
            prop_assert_eq!(found, expected);
            prop_assert!(tries <= 18);
        }
    }
}
