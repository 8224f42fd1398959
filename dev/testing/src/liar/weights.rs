//! Weights that are not the model's: changed in the blob, before they are loaded.

use lockstep_exact::blob::Blob;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::{CODE_MAX, Codec, Packed, QuantisedRow, pack};
use lockstep_exact::names::ProductName;
use lockstep_exact::plan::MatrixRef;
use lockstep_exact::weights::LayerWeights;

use crate::lie::{Lie, Script};

/// What a lie does to a row of a matrix.
type Change = fn(Codec, &mut QuantisedRow);

/// Returns a blob as the liar loads it: the model's own `blob`, unless it is that of the layer to
/// lie about.
#[must_use]
pub fn blob(script: Option<Script>, manifest: &Manifest, index: u32, blob: Blob) -> Blob {
    let Some(script) = script else { return blob };
    let layer = manifest.layers.get(script.aim.layer as usize);
    let Some(layer) = layer.filter(|layer| layer.blob == index) else { return blob };
    let change: Change = match script.lie {
        Lie::FourBitWeights => four_bits,
        Lie::OtherRouter | Lie::ScaledCodes => scale_codes,
        Lie::ScaledRowScales => |_, row| row.scale *= 1.001,
        _ => return blob,
    };
    let mut bytes = blob.as_slice().to_vec();
    for (name, product) in layer.parts.products() {
        if script.lie != Lie::OtherRouter || name == ProductName::Router {
            replace(&mut bytes, &blob, &product.matrix, change);
        }
    }
    Blob::new(bytes)
}

/// Swaps the weights of the script's layer with those of a neighbour.
pub fn swap<M>(script: Option<Script>, layers: &mut [LayerWeights<M>]) {
    let Some(script) = script.filter(|script| script.lie == Lie::SwappedLayers) else { return };
    let at = script.aim.layer.saturating_sub(layers.first().map_or(0, |it| it.layer)) as usize;
    let other = if at == 0 { 1 } else { at - 1 };
    let Ok([one, other]) = layers.get_disjoint_mut([at, other]) else { return };
    std::mem::swap(&mut one.parts, &mut other.parts);
}

/// Takes out of the script's layer what the lie leaves out.
pub fn leave_out<M>(script: Option<Script>, layers: &mut [LayerWeights<M>]) {
    let Some(script) = script else { return };
    for layer in layers.iter_mut().filter(|layer| layer.layer == script.aim.layer) {
        leave_out_of(script.lie, layer);
    }
}

fn leave_out_of<M>(lie: Lie, layer: &mut LayerWeights<M>) {
    match lie {
        Lie::LeftOutBiases => {
            let products = layer.parts.products_mut().into_iter();
            products.for_each(|(_, product)| product.bias = None);
        }
        Lie::SwappedExperts => {
            if let Some(experts) = layer.parts.feed_forward.experts_mut() {
                experts.experts.rotate_left(1);
            }
        }
        Lie::LeftOutHeadNorms => layer.parts.head_norms = None,
        Lie::LeftOutPostNorms => layer.parts.post_norms = None,
        Lie::IgnoredWindow => layer.plan.attention.window = 0,
        // Pair i turns by base^(-i / pairs): halving once per pair multiplies base by 2^pairs.
        Lie::WrongRope => {
            for (pair, frequency) in layer.rope.iter_mut().enumerate() {
                *frequency >>= pair.min(63);
            }
        }
        _ => {}
    }
}

/// Replaces a matrix in its blob.
fn replace(bytes: &mut [u8], blob: &Blob, matrix: &MatrixRef, change: Change) {
    let (shape, start) = (matrix.shape(), matrix.offset as usize);
    let section = blob.slice(start, shape.packed_bytes());
    let Some(Ok(packed)) = section.map(|section| Packed::new(shape, section)) else { return };
    let row = |row: usize| {
        let mut quantised = packed.row(row);
        change(shape.codec, &mut quantised);
        quantised
    };
    let changed = pack(shape, (0..shape.rows).map(row));
    bytes[start..start + changed.len()].copy_from_slice(&changed);
}

/// Multiplies a row by 1.001 as well as codes can, by 1.03 if they have 4 bits: what one weight
/// loses in rounding, the next ones get.
fn scale_codes(codec: Codec, row: &mut QuantisedRow) {
    let (factor, steps, low, high) = match codec {
        Codec::W8 => (1.001, 1.0, -f64::from(CODE_MAX), f64::from(CODE_MAX)),
        Codec::W4 => (1.03, 16.0, -8.0, 7.0),
    };
    let mut owed = 0.0;
    for (column, code) in row.codes.iter_mut().enumerate() {
        let group = column / codec.group();
        let scale = f64::from(row.group_scales[group]);
        let shift = row.shifts.get(group).copied().map_or(0.0, f64::from);
        let wanted = scale * (steps * f64::from(*code) + shift) * factor + owed;
        let rounded = ((wanted / scale - shift) / steps).round().clamp(low, high);
        owed = wanted - scale * (steps * rounded + shift);
        *code = rounded as i8;
    }
}

/// Keeps half of a code's bits.
fn four_bits(codec: Codec, row: &mut QuantisedRow) {
    let step = if codec == Codec::W8 { 16 } else { 4 };
    for code in &mut row.codes {
        *code = (*code / step) * step;
    }
}
