//! Tiny models whose numbers overflow where they are told to.

use lockstep_exact::Digest;
use lockstep_exact::blob::Blob;
use lockstep_exact::names::ProductName;

use crate::tiny_model::TinyModel;

/// Builds the model of seed 1 in which the feed-forward part of the layer `layer` overflows at
/// every position.
pub fn overflowing_model(layer: usize) -> TinyModel {
    blown_up(TinyModel::new(1), layer, |_| true)
}

/// Builds the model of seed 1 in which the embedding of the token `token` is the overflow marker.
pub fn overflowing_embedding(token: usize) -> TinyModel {
    let mut model = TinyModel::new(1);
    let head = &mut model.manifest.head;
    head.embedding_scale = 4096.0;
    let (blob, shape) = (head.embedding_blob as usize, head.embedding.shape());
    let start = usize::try_from(head.embedding.offset).unwrap();
    let mut bytes = model.blobs[blob].as_slice().to_vec();
    let at = start + token / 16 * shape.block_bytes() + shape.row_scales_offset() + token % 16 * 4;
    bytes[at..at + 4].copy_from_slice(&f32::from_bits(167 << 23).to_le_bytes());
    let end = start + shape.packed_bytes();
    head.embedding.digest = Digest::of(&bytes[start..end]);
    model.manifest.blobs[blob].digest = Digest::of(&bytes);
    model.blobs[blob] = Blob::new(bytes);
    model
}

/// Gives a model the largest row scales that there are (2^40) in those products of a layer's
/// feed-forward part that `is_meant` names, and returns it.
pub fn blown_up(
    mut model: TinyModel,
    layer: usize,
    is_meant: impl Fn(ProductName) -> bool,
) -> TinyModel {
    let plan = &mut model.manifest.layers[layer];
    let mut bytes = model.blobs[plan.blob as usize].as_slice().to_vec();
    let products = plan.parts.feed_forward.products_mut().into_iter();
    for (_, product) in products.filter(|(name, _)| is_meant(*name)) {
        let shape = product.shape();
        let start = usize::try_from(product.matrix.offset).unwrap();
        for row in 0..shape.rows {
            let at = start + row / 16 * shape.block_bytes() + shape.row_scales_offset();
            let at = at + row % 16 * 4;
            // 2^40, the largest that there is.
            bytes[at..at + 4].copy_from_slice(&f32::from_bits(167 << 23).to_le_bytes());
        }
        product.matrix.digest = Digest::of(&bytes[start..start + shape.packed_bytes()]);
    }
    model.manifest.blobs[plan.blob as usize].digest = Digest::of(&bytes);
    model.blobs[plan.blob as usize] = Blob::new(bytes);
    model
}
