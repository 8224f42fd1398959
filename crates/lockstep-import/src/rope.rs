//! Rotary frequencies as fractions of a turn, made once at import.

use std::f64::consts::TAU;

/// One whole turn, in units of 2^-64.
const TURN: f64 = 18_446_744_073_709_551_616.0;

/// Returns the turn per position of each of `pairs` pairs, in units of 2^-64.
///
/// Pair `i` turns by `base^(-i / pairs) / factors[i]` radians a position. The power comes from a
/// portable implementation, so every machine gets the same table. `base` is at least 1 and every
/// factor at least 2^-8, so a frequency is far below one turn.
pub(crate) fn frequencies(base: f32, pairs: usize, factors: Option<&[f32]>) -> Vec<u64> {
    let factor = |pair: usize| factors.and_then(|f| f.get(pair)).copied().map_or(1.0, f64::from);
    let frequency = |pair: usize| {
        let radians = libm::pow(f64::from(base), -(pair as f64) / pairs as f64) / factor(pair);
        libm::rint(radians / TAU * TURN) as u64
    };
    (0..pairs).map(frequency).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_pair_turns_one_radian_and_the_others_ever_less() {
        let table = frequencies(100_000.0, 32, None);
        assert_eq!(table.len(), 32);
        let turn_of_a_radian = 1.0 / TAU * TURN;
        assert_eq!(table[0], turn_of_a_radian as u64);
        assert!(table.windows(2).all(|pair| pair[0] > pair[1]));
        let last = table[31] as f64 / TURN * TAU;
        assert!((last - 100_000.0_f64.powf(-31.0 / 32.0)).abs() < 1e-18);
    }

    #[test]
    fn factors_slow_their_pair_down() {
        let (plain, slowed) =
            (frequencies(10_000.0, 2, None), frequencies(10_000.0, 2, Some(&[1.0, 8.0])));
        assert_eq!(plain[0], slowed[0]);
        assert_eq!(plain[1] / 8, slowed[1]);
    }
}
