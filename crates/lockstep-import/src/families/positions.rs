//! Reads how layers see positions: rotary tables and windows.

use std::ops::RangeInclusive;

use super::{FamilyError, GEMMA, Keys, PHI, Tensors};
use crate::rope;

/// `rope.freq_base` of files that do not state one.
const DEFAULT_BASE: f32 = 10_000.0;
/// Layers of Gemma 3 from one that sees all positions to the next.
const GEMMA_PATTERN: u32 = 6;
/// Per-pair factors that slow rotation down: of Llama 3.1, and of Phi 3 for long contexts. The
/// factors for short ones are left out: a table is one for all positions.
const FACTORS: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";
/// The range of factors by which a pair's turn may be divided.
const FACTOR: RangeInclusive<f32> = 1.0 / 256.0..=1e12;

/// Rotary tables and windows of a model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Positions {
    /// For each table the turn per position of each pair, in units of 2^-64.
    pub(crate) ropes: Vec<Vec<u64>>,
    /// The table and the window of each layer; a window of 0 is all positions.
    pub(crate) layers: Vec<(u32, u32)>,
    /// Multiplied into rotated queries.
    pub(crate) gain: f32,
}

impl Positions {
    pub(super) fn read(
        keys: &Keys<'_, '_>,
        tensors: &Tensors<'_, '_>,
        layers: u32,
        head_dim: u32,
    ) -> Result<Self, FamilyError> {
        let pairs = read_pairs(keys, head_dim)?;
        let base = keys.number("rope.freq_base", 1.0, 1e12)?.unwrap_or(DEFAULT_BASE);
        let window = read_window(keys)?;
        // Every position is within a window that the context does not fill.
        let context = keys.size("context_length", u32::MAX)?;
        let window = window.filter(|window| *window < context);
        let scaling = read_scaling(keys, pairs)?;
        if keys.family == GEMMA {
            let local = keys.number("rope.freq_base_swa", 1.0, 1e12)?.unwrap_or(DEFAULT_BASE);
            let pattern = keys
                .optional_size("attention.sliding_window_pattern", u32::MAX)?
                .unwrap_or(GEMMA_PATTERN);
            let sees_all = |layer: u32| layer % pattern == pattern - 1;
            let of = |layer| if sees_all(layer) { (0, 0) } else { (1, window.unwrap_or(0)) };
            let ropes = vec![
                rope::frequencies(base, pairs, scaling.as_deref()),
                rope::frequencies(local, pairs, None),
            ];
            return Ok(Self { ropes, layers: (0..layers).map(of).collect(), gain: 1.0 });
        }
        let factors = match keys.family {
            PHI => read_long_factors(keys, tensors, pairs, context)?,
            _ => read_factors(tensors, FACTORS, pairs)?,
        };
        let attention = keys.number("rope.scaling.attn_factor", 0.0625, 16.0)?.unwrap_or(1.0);
        if let (Some(_), Some(factor)) = (&factors, scaling.as_ref().and_then(|all| all.first())) {
            let expected = "no scaling beside a tensor of factors";
            return Err(keys.refused("rope.scaling.factor", factor, expected));
        }
        let factors = factors.or(scaling);
        Ok(Self {
            ropes: vec![rope::frequencies(base, pairs, factors.as_deref())],
            layers: vec![(0, window.unwrap_or(0)); layers as usize],
            // It belongs to both the query and the key.
            gain: attention * attention,
        })
    }
}

/// Returns the stated window; 0 says that there is none.
fn read_window(keys: &Keys<'_, '_>) -> Result<Option<u32>, FamilyError> {
    const NAME: &str = "attention.sliding_window";
    match keys.gguf.optional_u64(&keys.full(NAME))? {
        Some(0) => Ok(None),
        _ => keys.optional_size(NAME, u32::MAX),
    }
}

/// Reads the number of pairs of a head that are rotated; families with interleaved rows rotate all
/// pairs.
fn read_pairs(keys: &Keys<'_, '_>, head_dim: u32) -> Result<usize, FamilyError> {
    const NAME: &str = "rope.dimension_count";
    let rotated = keys.optional_size(NAME, u32::MAX)?.unwrap_or(head_dim);
    let partial = keys.family == PHI && rotated < head_dim && rotated.is_multiple_of(2);
    if rotated == head_dim || partial {
        return Ok(rotated as usize / 2);
    }
    Err(keys.refused(NAME, rotated, &format!("{head_dim}, the size of a head")))
}

/// Returns the same factor for all pairs, if positions are scaled linearly: what llama.cpp does
/// with a factor where the file states no type.
fn read_scaling(keys: &Keys<'_, '_>, pairs: usize) -> Result<Option<Vec<f32>>, FamilyError> {
    const TYPE: &str = "rope.scaling.type";
    let factor = |name| match keys.gguf.optional_f32(&keys.full(name))? {
        Some(0.0) | None => Ok(None),
        Some(_) => keys.number(name, *FACTOR.start(), *FACTOR.end()),
    };
    let (newer, older) = (factor("rope.scaling.factor")?, factor("rope.scale_linear")?);
    let factor = newer.or(older).filter(|factor| *factor != 1.0);
    match keys.gguf.optional_str(&keys.full(TYPE))? {
        Some("none") => Ok(None),
        // Its factors are tensors.
        Some("longrope") if keys.family == PHI && factor.is_none() => Ok(None),
        None | Some("linear") => Ok(factor.map(|factor| vec![factor; pairs])),
        Some(other) => {
            Err(FamilyError::UnknownKey { key: keys.full(TYPE), value: format!("{other:?}") })
        }
    }
}

fn read_factors(
    tensors: &Tensors<'_, '_>,
    tensor: &'static str,
    pairs: usize,
) -> Result<Option<Vec<f32>>, FamilyError> {
    let Some(factors) = tensors.optional_vector(tensor, pairs)? else { return Ok(None) };
    match factors.iter().position(|factor| !FACTOR.contains(factor)) {
        Some(pair) => Err(FamilyError::Factor { tensor, pair }),
        None => Ok(Some(factors)),
    }
}

/// Returns the factors for long contexts, in a model whose context is longer than the one it was
/// first trained with; those for short ones otherwise.
fn read_long_factors(
    keys: &Keys<'_, '_>,
    tensors: &Tensors<'_, '_>,
    pairs: usize,
    context: u32,
) -> Result<Option<Vec<f32>>, FamilyError> {
    let (long, short) = (read_factors(tensors, LONG, pairs)?, read_factors(tensors, SHORT, pairs)?);
    let original = keys.optional_size("rope.scaling.original_context_length", u32::MAX)?;
    let is_long = original.is_some_and(|original| context > original);
    Ok(if is_long { long } else { short })
}
