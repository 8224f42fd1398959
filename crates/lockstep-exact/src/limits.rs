//! Every limit on the size of a model and a session, in one place, with relations checked at
//! compile time.

/// The most elements of a state.
pub const HIDDEN: usize = 32_768;
/// Inner elements of a feed-forward part.
pub const INNER: usize = 131_072;
/// The most experts of a layer.
pub const EXPERTS: usize = 1024;
/// Outputs of all products of the experts that a row uses: a cell's sums fit an opening.
pub const EXPERT_OUTPUTS: u64 = 1 << 20;
/// The most query heads of a layer.
pub const HEADS: usize = 512;
/// Elements of a head: a score of i16 queries and i8 keys stays inside i32.
pub const HEAD_DIM: usize = 512;
/// The most layers of a model.
pub const LAYERS: usize = 512;
/// Positions of a session: attention's integer sums are sized for it.
pub const CONTEXT: usize = 1 << 20;
/// The most token ids of a model.
pub const VOCABULARY: usize = 1 << 20;
/// The most bytes of one token.
pub const TOKEN_BYTES: usize = 1024;
/// The most tokens that end an answer.
pub const END_TOKENS: usize = 64;
/// The most rotary tables of a model.
pub const ROPE_TABLES: usize = 8;
/// The most bytes of a name.
pub const NAME_BYTES: usize = 256;
/// The most bytes of a licence.
pub const LICENSE_BYTES: usize = 64 * 1024;
/// Figures of quality in a manifest.
pub const FIGURES: usize = 16;
/// The most entries of a logit bias.
pub const LOGIT_BIAS: usize = 1024;
/// The most stop strings of a request.
pub const STOP_STRINGS: usize = 16;
/// The most bytes of one stop string.
pub const STOP_BYTES: usize = 256;

const _: () = {
    use crate::matrix::{COLUMNS_MAX, Codec};
    let (w8_sum, w4_sum) =
        (Codec::W8.shape(1, COLUMNS_MAX).sum_bound(), Codec::W4.shape(1, COLUMNS_MAX).sum_bound());
    assert!(HEAD_DIM as i64 * 32_512 * 127 < i32::MAX as i64, "scores fit i32");
    assert!(256 * 32_767 * 127 < i32::MAX as i64, "a chunk's numerator fits i32");
    assert!(COLUMNS_MAX as i64 * 127 * 127 < i32::MAX as i64, "a plane's sum of codes fits i32");
    assert!(w8_sum < 1 << 45 && w4_sum < 1 << 49, "sums times scales are finite");
    assert!(w8_sum < 1 << 53 && w4_sum < 1 << 53, "an exact sum fits 2^53");
    assert!(INNER <= COLUMNS_MAX && HIDDEN <= COLUMNS_MAX);
};
