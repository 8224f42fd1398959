//! Weights that no trained model has: what damaged files and broken conversions hold.
//!
//! Numbers that are not finite are refused where they are read. Here whole matrices are looked at,
//! while they are imported: one that is zero, or the same everywhere, or of a size that no training
//! leaves, is a hole in a download, a block of something else, or a conversion that went wrong; the
//! model would run and talk nonsense. Few models have such matrices on purpose (zeros, in layers
//! that were put in and not trained yet), so whoever knows may import them all the same.

use std::fmt;

/// The largest magnitude of a weight that is believed; trained ones are below a thousand.
const MAGNITUDE_MAX: f32 = 1048576.0;
/// The largest root mean square of a matrix that is believed; trained ones are below ten.
const SIZE_MAX: f64 = 1000.0;

/// The ways in which a matrix can differ from what training leaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Oddity {
    /// More than half of its rows are zero.
    Zeros {
        /// Rows that are zero.
        zero: usize,
        /// All rows.
        rows: usize,
    },
    /// All of its elements are one number.
    Constant {
        /// The number.
        number: f32,
    },
    /// It has an element of this magnitude.
    Large {
        /// The magnitude.
        magnitude: f32,
    },
    /// Its elements are this large on the whole.
    LargeOnTheWhole {
        /// Their root mean square.
        size: f64,
    },
}

impl fmt::Display for Oddity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros { zero, rows } => write!(f, "{zero} of its {rows} rows are zero"),
            Self::Constant { number } => write!(f, "all of its elements are {number}"),
            Self::Large { magnitude } => write!(f, "an element of it is {magnitude:e}"),
            Self::LargeOnTheWhole { size } => {
                write!(f, "the root mean square of its elements is {size:.0}")
            }
        }
    }
}

/// Statistics of the rows of a matrix that have been read so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    rows: usize,
    zero: usize,
    elements: usize,
    squares: f64,
    largest: f32,
    first: Option<f32>,
    differs: bool,
}

impl Seen {
    /// Adds a row of finite numbers to the statistics.
    pub(crate) fn row(&mut self, numbers: &[f32]) {
        self.rows += 1;
        self.elements += numbers.len();
        let first = *self.first.get_or_insert_with(|| numbers.first().copied().unwrap_or_default());
        let mut largest = 0.0_f32;
        for &number in numbers {
            largest = largest.max(number.abs());
            self.squares += f64::from(number) * f64::from(number);
            self.differs |= number != first;
        }
        self.zero += usize::from(largest == 0.0);
        self.largest = self.largest.max(largest);
    }

    /// Returns how the rows differ from what training leaves, if they do.
    pub(crate) fn oddity(&self) -> Option<Oddity> {
        let size = (self.squares / self.elements.max(1) as f64).sqrt();
        match self.first {
            None => None,
            Some(_) if 2 * self.zero > self.rows => {
                Some(Oddity::Zeros { zero: self.zero, rows: self.rows })
            }
            Some(number) if !self.differs && self.elements > 1 => Some(Oddity::Constant { number }),
            Some(_) if self.largest > MAGNITUDE_MAX => {
                Some(Oddity::Large { magnitude: self.largest })
            }
            Some(_) if size > SIZE_MAX => Some(Oddity::LargeOnTheWhole { size }),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oddity(rows: &[&[f32]]) -> Option<Oddity> {
        let mut seen = Seen::default();
        rows.iter().for_each(|row| seen.row(row));
        seen.oddity()
    }

    #[test]
    fn what_no_trained_matrix_is_is_noticed() {
        let (zero, plain) = ([0.0; 2], [0.5, -0.25]);
        assert_eq!(oddity(&[&plain, &zero]), None, "half of the rows may be zero");
        assert_eq!(oddity(&[&zero, &plain, &zero]), Some(Oddity::Zeros { zero: 2, rows: 3 }));
        assert_eq!(oddity(&[&[0.5; 2], &[0.5; 2]]), Some(Oddity::Constant { number: 0.5 }));
        assert_eq!(oddity(&[&[0.5; 2], &[0.25; 2]]), None);
        assert_eq!(oddity(&[&[3e6, 0.5]]), Some(Oddity::Large { magnitude: 3e6 }));
        assert!(matches!(oddity(&[&[2e4, -2e4]]), Some(Oddity::LargeOnTheWhole { .. })));
        assert_eq!(oddity(&[&[900.0, 0.5]]), None);
        assert_eq!(oddity(&[]), None);
    }
}
