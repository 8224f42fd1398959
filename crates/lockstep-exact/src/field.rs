//! The field of integers modulo p = 2^61 - 1, in which a verifier checks matrix products
//! (Freivalds).

/// The modulus 2^61 - 1, a Mersenne prime.
pub const P: u64 = (1 << 61) - 1;

/// Returns the residue of a 128-bit number, in `[0, P)`.
#[must_use]
pub const fn reduce(x: u128) -> u64 {
    // 2^61 = 1 modulo p: fold the high bits onto the low ones until they are gone.
    let folded = (x & P as u128) + (x >> 61);
    let folded = (folded & P as u128) + (folded >> 61);
    let residue = folded as u64;
    if residue >= P { residue - P } else { residue }
}

/// Returns the sum modulo p of two residues, which are below p.
#[must_use]
pub const fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= P { sum - P } else { sum }
}

/// Returns the difference modulo p of two residues, which are below p.
#[must_use]
pub const fn sub(a: u64, b: u64) -> u64 {
    if a >= b { a - b } else { a + P - b }
}

/// Returns the product modulo p of two numbers, as a residue.
#[must_use]
pub const fn mul(a: u64, b: u64) -> u64 {
    reduce(a as u128 * b as u128)
}

/// Returns the residue, below p, that is congruent to a signed integer.
#[must_use]
pub const fn from_i64(x: i64) -> u64 {
    let magnitude = reduce(x.unsigned_abs() as u128);
    if x < 0 { sub(0, magnitude) } else { magnitude }
}

/// Computes `Σ weights[i] · values[i]` modulo p; extra elements of the longer slice are ignored.
/// Weights are residues.
#[must_use]
pub fn dot_i64(weights: &[u64], values: &[i64]) -> u64 {
    weights.iter().zip(values).fold(0, |sum, (&w, &x)| add(sum, mul(w, from_i64(x))))
}

/// Computes the same as [`dot_i64`], for values of 16 bits.
#[must_use]
pub fn dot_i16(weights: &[u64], values: &[i16]) -> u64 {
    weights.iter().zip(values).fold(0, |sum, (&w, &x)| add(sum, mul(w, from_i64(x.into()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn residues_are_canonical_at_the_edges() {
        assert_eq!(reduce(u128::from(P)), 0);
        assert_eq!(reduce(u128::from(P) * u128::from(P)), 0);
        assert_eq!(reduce(u128::MAX), ((1_u128 << 6) - 1) as u64);
        assert_eq!(from_i64(-1), P - 1);
        assert_eq!(from_i64(i64::MIN), sub(0, 4));
        assert_eq!(add(P - 1, 1), 0);
        assert_eq!(mul(P - 1, P - 1), 1);
    }

    #[test]
    fn dot_products_are_the_integer_ones_modulo_p() {
        let weights = [3, P - 1, 1 << 60];
        assert_eq!(dot_i64(&weights, &[-1, 5, 2]), from_i64(-3 - 5 + 1));
        assert_eq!(dot_i16(&weights, &[-1, 5, 2]), from_i64(-3 - 5 + 1));
    }
}
