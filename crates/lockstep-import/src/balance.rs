//! K balance: makes the elements of keys alike in size, so that one scale per head fits all.
//!
//! Keys are stored as 8-bit codes with one scale per head and position. Where some elements are
//! much larger than others - in Gemma 80 times the median - the others keep few bits. The score is
//! a sum of products of query and key elements, so an element of the key may be divided by a
//! factor if that of the query is multiplied by it. Rotation mixes the two elements of a pair, so
//! these share a factor. It costs nothing at run time: the factors go into the rows of the query
//! and key products, or into the gains of head norms, where there are any.
//!
//! The factor of a pair is its expected size, from the weights alone: the root of the sum of
//! squares of its two key rows, each weight times the gain of the norm before it, and of its
//! biases; over the largest of the head. Sums are binary64 in order of columns, so every machine
//! has the same factors.

use lockstep_exact::names::{ProductName, VectorName};

use crate::families::{FamilyError, LayerTensors, Model};

/// Factors below this stay at it: rows of zeros have no size.
const LEAST: f64 = 1.0 / 1024.0;

/// The factors by which the query and key rows of a layer, or the gains of its head norms, are
/// multiplied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Balance {
    /// Per key head and element; of one head only if `in_norms`.
    factors: Vec<f32>,
    head_dim: usize,
    /// The number of key heads.
    kv_heads: usize,
    /// The number of query heads for each key head.
    group: usize,
    /// Multiplied into rotated elements of queries.
    gain: f32,
    rotated: usize,
    /// The factors are in the gains of head norms and not in rows.
    in_norms: bool,
}

impl Balance {
    /// Returns the factors of a layer.
    pub(crate) fn of(
        model: &Model,
        rope: &[u64],
        tensors: &LayerTensors<'_>,
    ) -> Result<Self, FamilyError> {
        let head_dim = model.head_dim as usize;
        let mut sizes = squared_sizes(model, tensors)?;
        let in_norms = tensors.head_norms.is_some();
        if let Some(norms) = &tensors.head_norms {
            sizes = behind_norm(&sizes, &norms.key.gain);
        }
        let factors =
            sizes.chunks(head_dim).flat_map(|head| head_factors(head, rope.len())).collect();
        let kv_heads = model.kv_heads as usize;
        let group = model.heads as usize / kv_heads;
        let (gain, rotated) = (model.positions.gain, 2 * rope.len());
        Ok(Self { factors, head_dim, kv_heads, group, gain, rotated, in_norms })
    }

    /// Returns the factor of an element of a key head.
    fn factor(&self, head: usize, element: usize) -> f32 {
        self.factors.get(head * self.head_dim + element).copied().unwrap_or(1.0)
    }

    fn gain(&self, element: usize) -> f32 {
        if element < self.rotated { self.gain } else { 1.0 }
    }

    /// Returns the factor of row `row` of a product, and of its bias: 1 but for queries and keys.
    pub(crate) fn of_row(&self, product: ProductName, row: usize) -> f32 {
        if product != ProductName::Qkv || self.in_norms {
            return 1.0;
        }
        let (head, element) = (row / self.head_dim, row % self.head_dim);
        let queries = self.group * self.kv_heads;
        if head < queries {
            self.factor(head / self.group, element) * self.gain(element)
        } else if head < queries + self.kv_heads {
            1.0 / self.factor(head - queries, element)
        } else {
            1.0
        }
    }

    /// Returns the bias of a product, each number multiplied as its row is.
    pub(crate) fn bias(&self, product: ProductName, bias: &[f32]) -> Vec<f32> {
        let each = bias.iter().enumerate();
        each.map(|(row, bias)| bias * self.of_row(product, row)).collect()
    }

    /// Returns the numbers of a vector; the gains of head norms are changed as queries and keys
    /// are.
    pub(crate) fn vector(&self, name: VectorName, numbers: &[f32]) -> Vec<f32> {
        let each = numbers.iter().enumerate();
        match name {
            VectorName::QueryNorm => {
                each.map(|(at, gain)| gain * (self.factor(0, at) * self.gain(at))).collect()
            }
            VectorName::KeyNorm => each.map(|(at, gain)| gain / self.factor(0, at)).collect(),
            VectorName::AttentionNorm
            | VectorName::FfnNorm
            | VectorName::AttentionPostNorm
            | VectorName::FfnPostNorm => numbers.to_vec(),
        }
    }
}

/// Returns the expected square of each output of the key product, if its inputs have size 1.
fn squared_sizes(model: &Model, tensors: &LayerTensors<'_>) -> Result<Vec<f64>, FamilyError> {
    let mut row = vec![0.0; model.hidden as usize];
    let mut sizes = Vec::with_capacity(model.kv_width());
    let keys = tensors.qkv.each_row().skip(model.query_width()).take(model.kv_width());
    for (at, (rows, key)) in (model.query_width()..).zip(keys) {
        rows.read(key, &mut row)?;
        let products = row.iter().zip(&tensors.attention_norm.gain);
        let squares = products.map(|(&weight, &gain)| {
            let product = f64::from(weight) * f64::from(gain);
            product * product
        });
        let bias = tensors.qkv.bias.as_ref().and_then(|bias| bias.get(at));
        let bias = bias.copied().map_or(0.0, f64::from);
        sizes.push(squares.sum::<f64>() + bias * bias);
    }
    Ok(sizes)
}

/// Returns the expected squares behind a norm that all heads share: the mean over heads.
fn behind_norm(sizes: &[f64], gains: &[f32]) -> Vec<f64> {
    let mut means = vec![0.0; gains.len()];
    for head in sizes.chunks(gains.len()) {
        let total = head.iter().sum::<f64>();
        if total > 0.0 {
            means.iter_mut().zip(head).for_each(|(mean, size)| *mean += size / total);
        }
    }
    let squares = gains.iter().map(|&gain| f64::from(gain) * f64::from(gain));
    means.iter().zip(squares).map(|(mean, square)| mean * square).collect()
}

/// Returns a head's factors: of each pair, and of each element that is not rotated, its size over
/// the largest.
fn head_factors(squares: &[f64], pairs: usize) -> Vec<f32> {
    let at = |element: usize| squares.get(element).copied().unwrap_or(0.0);
    let size = |element: usize| {
        let square = match element {
            first if first < pairs => at(first) + at(first + pairs),
            second if second < 2 * pairs => at(second) + at(second - pairs),
            alone => 2.0 * at(alone),
        };
        square.sqrt()
    };
    let sizes: Vec<f64> = (0..squares.len()).map(size).collect();
    let largest = sizes.iter().fold(0.0, |a: f64, &b| if b > a { b } else { a });
    let factor =
        |size: &f64| if *size > largest * LEAST { (size / largest) as f32 } else { LEAST as f32 };
    if largest > 0.0 { sizes.iter().map(factor).collect() } else { vec![1.0; squares.len()] }
}
