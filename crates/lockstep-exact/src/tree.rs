//! The parts of a layer, written once: a tree whose leaves are products and vectors.
//!
//! A plan, the tensors of a file, weights, a verifier's key and its checks are this tree with
//! leaves of their own kind. A part that another model family brings is one leaf here, and every
//! walk over the tree takes it: [`LayerTree::try_map`] makes a tree of other leaves,
//! [`LayerTree::zip`] pairs two trees of one shape, and [`LayerTree::products`] and
//! [`LayerTree::vectors`] list the leaves. All go in one order, that of the fields, which is also
//! the order in a key file.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use core::convert::Infallible;

use crate::feed_forward::FeedForward;
use crate::names::{ProductName, VectorName};
use crate::norm::{HeadNorms, Norm, PostNorms};

/// The parts of a layer: `P` stands for a matrix product with its bias, `V` for a vector.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTree<P, V> {
    /// The normalisation before attention.
    pub attention_norm: Norm<V>,
    /// Queries, keys and values, fused in this order of rows.
    pub qkv: P,
    /// The output product of attention.
    pub output: P,
    /// Normalisation before the feed-forward part.
    pub ffn_norm: Norm<V>,
    /// The products of the feed-forward part.
    pub feed_forward: FeedForward<P>,
    /// Normalisation of query and key heads.
    pub head_norms: Option<HeadNorms<V>>,
    /// Normalisation before each residual addition.
    pub post_norms: Option<PostNorms<V>>,
}

/// The leaves of two trees of one shape, in pairs.
pub type Zipped<'a, P, V, Q, W> = LayerTree<(&'a P, &'a Q), (&'a V, &'a W)>;

impl<P, V> LayerTree<P, V> {
    /// Returns the same tree with other leaves. `product` makes a product's new leaf and `vector` a
    /// vector's, each of the leaf's name and the old leaf; both may change `state`.
    ///
    /// # Errors
    /// The first error that either gives.
    pub fn try_map<'a, S, Q, W, E>(
        &'a self,
        state: &mut S,
        product: impl FnMut(&mut S, ProductName, &'a P) -> Result<Q, E>,
        mut vector: impl FnMut(&mut S, VectorName, &'a V) -> Result<W, E>,
    ) -> Result<LayerTree<Q, W>, E> {
        self.try_map_norms(state, product, |state, name, of| {
            of.try_map(|of| vector(state, name, of))
        })
    }

    /// Makes the same tree with other leaves, as [`LayerTree::try_map`] does, where `norm` makes
    /// each whole normalisation: of the name of its gains and the old one.
    ///
    /// # Errors
    /// The first error that either gives.
    pub fn try_map_norms<'a, S, Q, W, E>(
        &'a self,
        state: &mut S,
        mut product: impl FnMut(&mut S, ProductName, &'a P) -> Result<Q, E>,
        mut norm: impl FnMut(&mut S, VectorName, &'a Norm<V>) -> Result<Norm<W>, E>,
    ) -> Result<LayerTree<Q, W>, E> {
        Ok(LayerTree {
            attention_norm: norm(state, VectorName::AttentionNorm, &self.attention_norm)?,
            qkv: product(state, ProductName::Qkv, &self.qkv)?,
            output: product(state, ProductName::Output, &self.output)?,
            ffn_norm: norm(state, VectorName::FfnNorm, &self.ffn_norm)?,
            feed_forward: self.feed_forward.try_map(|name, of| product(state, name, of))?,
            head_norms: match &self.head_norms {
                Some(of) => Some(HeadNorms {
                    query: norm(state, VectorName::QueryNorm, &of.query)?,
                    key: norm(state, VectorName::KeyNorm, &of.key)?,
                }),
                None => None,
            },
            post_norms: match &self.post_norms {
                Some(of) => Some(PostNorms {
                    attention: norm(state, VectorName::AttentionPostNorm, &of.attention)?,
                    ffn: norm(state, VectorName::FfnPostNorm, &of.ffn)?,
                }),
                None => None,
            },
        })
    }

    /// Returns the same tree with other leaves, as [`LayerTree::try_map`] does, without errors and
    /// without a state.
    #[must_use]
    pub fn map<'a, Q, W>(
        &'a self,
        mut product: impl FnMut(ProductName, &'a P) -> Q,
        mut vector: impl FnMut(VectorName, &'a V) -> W,
    ) -> LayerTree<Q, W> {
        let Ok(mapped) = self.try_map(
            &mut (),
            |(), name, of| Ok::<Q, Infallible>(product(name, of)),
            |(), name, of| Ok(vector(name, of)),
        );
        mapped
    }

    /// Pairs the leaves of both trees. Returns `None` if the trees have different shapes: another
    /// kind of feed-forward part, another number of experts, or a part that only one of them has.
    /// Everything that is no leaf is taken of the first tree.
    #[must_use]
    pub fn zip<'a, Q, W>(&'a self, other: &'a LayerTree<Q, W>) -> Option<Zipped<'a, P, V, Q, W>> {
        let (products, vectors) = (other.products(), other.vectors());
        let lengths = (products.len(), vectors.len());
        let mut rest = (products.into_iter(), vectors.into_iter());
        let zipped = self.try_map(
            &mut rest,
            |(products, _), name, of| {
                let (its, other) = products.next().ok_or(())?;
                if its == name { Ok((of, other)) } else { Err(()) }
            },
            |(_, vectors), name, of| {
                let (its, other) = vectors.next().ok_or(())?;
                if its == name { Ok((of, other)) } else { Err(()) }
            },
        );
        let all = (self.products().len(), self.vectors().len()) == lengths;
        match zipped {
            Ok(zipped) if all => Some(zipped),
            Ok(_) | Err(()) => None,
        }
    }

    /// Returns all products with their names, in order.
    #[must_use]
    pub fn products(&self) -> Vec<(ProductName, &P)> {
        let attention = [(ProductName::Qkv, &self.qkv), (ProductName::Output, &self.output)];
        attention.into_iter().chain(self.feed_forward.products()).collect()
    }

    /// Returns what [`LayerTree::products`] returns, with products that can be changed.
    #[must_use]
    pub fn products_mut(&mut self) -> Vec<(ProductName, &mut P)> {
        let Self { qkv, output, feed_forward, .. } = self;
        let attention = [(ProductName::Qkv, qkv), (ProductName::Output, output)];
        attention.into_iter().chain(feed_forward.products_mut()).collect()
    }

    /// Returns the products that one row goes through, as [`FeedForward::of_a_row`] has them.
    #[must_use]
    pub fn products_of_a_row(&self) -> Vec<(ProductName, usize, &P)> {
        let attention = [(ProductName::Qkv, 1, &self.qkv), (ProductName::Output, 1, &self.output)];
        attention.into_iter().chain(self.feed_forward.of_a_row()).collect()
    }

    /// Returns all vectors with their names, in order. Biases belong to their products.
    #[must_use]
    pub fn vectors(&self) -> Vec<(VectorName, &V)> {
        let mut all = Vec::new();
        drop(self.map(|_, _| (), |name, of| all.push((name, of))));
        all
    }

    /// Finds the normalisation whose gains are called `name`, if the layer has it.
    #[must_use]
    pub fn norm(&self, name: VectorName) -> Option<&Norm<V>> {
        let mut found = None;
        let Ok(_) = self.try_map_norms(
            &mut found,
            |_, _, _| Ok::<(), Infallible>(()),
            |found, its, of| {
                if its == name {
                    *found = Some(of);
                }
                of.try_map(|_| Ok(()))
            },
        );
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed_forward::{Experts, Gated, Rule};

    const fn norm(gain: u32) -> Norm<u32> {
        Norm::new(0.5, gain)
    }

    fn gated(gate_up: u32) -> Gated<u32> {
        Gated { gate_up, down: gate_up + 1 }
    }

    /// Every optional part, two experts; leaves are numbered in order.
    fn tree() -> LayerTree<u32, u32> {
        LayerTree {
            attention_norm: norm(0),
            qkv: 1,
            output: 2,
            ffn_norm: norm(3),
            feed_forward: FeedForward::Experts(Experts {
                rule: Rule { used: 1, normalise: true },
                router: 4,
                experts: vec![gated(5), gated(7)],
                shared: None,
            }),
            head_norms: Some(HeadNorms { query: norm(9), key: norm(10) }),
            post_norms: Some(PostNorms { attention: norm(11), ffn: norm(12) }),
        }
    }

    #[test]
    fn every_leaf_is_visited_once_in_order_under_a_name_of_its_own() {
        let tree = tree();
        let mut seen = Vec::new();
        let copy = tree.try_map(
            &mut seen,
            |seen, name, leaf| {
                seen.push((name.to_string(), *leaf));
                Ok::<u32, ()>(*leaf)
            },
            |seen, name, leaf| {
                seen.push((name.to_string(), *leaf));
                Ok(*leaf)
            },
        );
        assert_eq!(copy.as_ref(), Ok(&tree));
        let leaves: Vec<u32> = seen.iter().map(|(_, leaf)| *leaf).collect();
        assert_eq!(leaves, (0..13).collect::<Vec<u32>>());
        let mut names: Vec<&str> = seen.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), leaves.len(), "{names:?}");
        let listed = tree.products().into_iter().map(|(name, leaf)| (name.to_string(), *leaf));
        let vectors = tree.vectors();
        let all: Vec<VectorName> = vectors.iter().map(|(name, _)| *name).collect();
        assert_eq!(all, VectorName::ALL, "a layer with every vector");
        let vectors = vectors.into_iter().map(|(name, leaf)| (name.to_string(), *leaf));
        let mut listed: Vec<(String, u32)> = listed.chain(vectors).collect();
        listed.sort_by_key(|(_, leaf)| *leaf);
        assert_eq!(listed, seen);
    }

    #[test]
    fn a_normalisation_is_found_by_the_name_of_its_gains() {
        let tree = tree();
        for (name, gain) in tree.vectors() {
            assert_eq!(tree.norm(name), Some(&norm(*gain)), "{name}");
        }
        let plain = LayerTree { head_norms: None, post_norms: None, ..tree };
        assert_eq!(plain.norm(VectorName::KeyNorm), None);
        assert_eq!(plain.norm(VectorName::FfnNorm), Some(&norm(3)));
    }

    #[test]
    fn products_to_change_are_the_products() {
        let mut one = tree();
        let mut other = tree();
        let names: Vec<ProductName> = one.products().iter().map(|(name, _)| *name).collect();
        let mutable = other.products_mut();
        assert_eq!(mutable.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
        mutable.into_iter().for_each(|(_, leaf)| *leaf += 100);
        one = one.map(|_, leaf| leaf + 100, |_, leaf| *leaf);
        assert_eq!(one, other);
    }

    #[test]
    fn the_first_error_ends_a_walk() {
        let refused = tree().try_map(
            &mut (),
            |(), _, leaf| if *leaf < 5 { Ok(()) } else { Err(*leaf) },
            |(), _, leaf| if *leaf < 9 { Ok(()) } else { Err(*leaf) },
        );
        assert_eq!(refused, Err(5));
    }

    #[test]
    fn trees_of_one_shape_are_zipped_and_others_are_not() {
        let (one, other) = (tree(), tree().map(|_, leaf| leaf * 2, |_, leaf| leaf * 3));
        let zipped = one.zip(&other).unwrap();
        assert!(zipped.products().iter().all(|(_, (one, other))| **one * 2 == **other));
        assert!(zipped.vectors().iter().all(|(_, (one, other))| **one * 3 == **other));
        let differ = [
            LayerTree { head_norms: None, ..tree() },
            LayerTree { post_norms: None, ..tree() },
            LayerTree { feed_forward: FeedForward::Dense(gated(5)), ..tree() },
        ];
        for other in &differ {
            assert_eq!(one.zip(other), None);
            assert_eq!(other.zip(&one), None);
        }
        let mut fewer = tree();
        if let Some(of) = fewer.feed_forward.experts_mut() {
            of.experts.truncate(1);
        }
        assert_eq!((one.zip(&fewer), fewer.zip(&one)), (None, None));
    }
}
