//! The feed-forward part of a layer: one gated product, or a choice of experts.
//!
//! Plan, weights, a verifier's key and an audit hold the same tree of products, each with its own
//! kind of leaf. [`FeedForward::try_map`] walks it in order of use and gives each its name.
#![deny(clippy::indexing_slicing, clippy::string_slice)]

use core::convert::Infallible;

use crate::bytes::{Canonical, DecodeError, Reader, put_list};
use crate::limits;
use crate::names::ProductName;

/// `down · (activation(gate · x) · (up · x))`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gated<P> {
    /// Gate and up, fused in this order of rows.
    pub gate_up: P,
    /// The product that leads back to the state's size.
    pub down: P,
}

/// An expert that every row goes to, times a sigmoid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared<P> {
    /// The gated product of the expert.
    pub gated: Gated<P>,
    /// One output: what the sigmoid is taken of.
    pub gate: P,
}

/// The rule by which a row's experts are chosen and weighted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The number of experts that a row goes to: those of the largest logits.
    pub used: u32,
    /// Whether the weights of the chosen experts add up to one: their softmax is over the chosen
    /// logits. Otherwise it is over the logits of all experts.
    pub normalise: bool,
}

/// A router and the experts that it chooses from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Experts<P> {
    /// The rule by which experts are chosen.
    pub rule: Rule,
    /// One output for each expert: its logit.
    pub router: P,
    /// The experts, which all have the same size.
    pub experts: Vec<Gated<P>>,
    /// One more that is not chosen, if there is one.
    pub shared: Option<Shared<P>>,
}

/// The feed-forward part; `P` is what stands for a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedForward<P> {
    /// Every row goes through the same product.
    Dense(Gated<P>),
    /// Every row goes to the experts that a router chooses for it.
    Experts(Experts<P>),
}

impl<P> Gated<P> {
    const fn both_mut(&mut self) -> [&mut P; 2] {
        [&mut self.gate_up, &mut self.down]
    }

    fn try_map<'a, Q, E>(
        &'a self,
        names: [ProductName; 2],
        map: &mut impl FnMut(ProductName, &'a P) -> Result<Q, E>,
    ) -> Result<Gated<Q>, E> {
        let [gate_up, down] = names;
        Ok(Gated { gate_up: map(gate_up, &self.gate_up)?, down: map(down, &self.down)? })
    }
}

impl<P> FeedForward<P> {
    /// Returns the same tree with other leaves: `map` sees every product in order of use, with its
    /// name.
    ///
    /// # Errors
    /// The first that `map` gives.
    pub fn try_map<'a, Q, E>(
        &'a self,
        mut map: impl FnMut(ProductName, &'a P) -> Result<Q, E>,
    ) -> Result<FeedForward<Q>, E> {
        let map = &mut map;
        let of = match self {
            Self::Dense(gated) => {
                return Ok(FeedForward::Dense(gated.try_map(ProductName::DENSE, map)?));
            }
            Self::Experts(of) => of,
        };
        let router = map(ProductName::Router, &of.router)?;
        let mut experts = Vec::with_capacity(of.experts.len());
        for (index, gated) in (0..).zip(&of.experts) {
            experts.push(gated.try_map(ProductName::of_expert(index), map)?);
        }
        let shared = match &of.shared {
            None => None,
            Some(shared) => Some(Shared {
                gate: map(ProductName::SharedGate, &shared.gate)?,
                gated: shared.gated.try_map(ProductName::SHARED, map)?,
            }),
        };
        Ok(FeedForward::Experts(Experts { rule: of.rule, router, experts, shared }))
    }

    /// Returns the same tree with other leaves, as [`FeedForward::try_map`] does, without errors.
    #[must_use]
    pub fn map<'a, Q>(&'a self, mut map: impl FnMut(ProductName, &'a P) -> Q) -> FeedForward<Q> {
        let Ok(mapped) = self.try_map(|name, product| Ok::<Q, Infallible>(map(name, product)));
        mapped
    }

    /// Returns all products with their names, in order of use.
    #[must_use]
    pub fn products(&self) -> Vec<(ProductName, &P)> {
        let mut all = Vec::new();
        drop(self.map(|name, product| all.push((name, product))));
        all
    }

    /// Returns what [`FeedForward::products`] returns, with products that can be changed.
    #[must_use]
    pub fn products_mut(&mut self) -> Vec<(ProductName, &mut P)> {
        let names: Vec<ProductName> = self.products().into_iter().map(|(name, _)| name).collect();
        let products = match self {
            Self::Dense(gated) => gated.both_mut().into(),
            Self::Experts(Experts { router, experts, shared, .. }) => {
                let mut all = vec![router];
                all.extend(experts.iter_mut().flat_map(Gated::both_mut));
                if let Some(Shared { gate, gated }) = shared {
                    all.push(gate);
                    all.extend(gated.both_mut());
                }
                all
            }
        };
        names.into_iter().zip(products).collect()
    }

    /// Returns the products that one row goes through, with the names of kinds
    /// ([`ProductName::kind`]) and how many times: a chosen expert stands for all that are chosen.
    #[must_use]
    pub fn of_a_row(&self) -> Vec<(ProductName, usize, &P)> {
        let used = match self {
            Self::Dense(_) => 1,
            Self::Experts(experts) => experts.rule.used as usize,
        };
        let times = |name: ProductName| if name.expert().is_some() { used } else { 1 };
        let first = |(name, _): &(ProductName, &P)| name.kind() == *name;
        let all = self.products().into_iter().filter(first);
        all.map(|(name, product)| (name, times(name), product)).collect()
    }

    /// Finds the gated product that the product called `name` belongs to; nothing for routers and
    /// the gates of shared experts, and for products that this part does not have.
    #[must_use]
    pub fn gated_of(&self, name: ProductName) -> Option<&Gated<P>> {
        match (self, name) {
            (Self::Dense(gated), ProductName::GateUp | ProductName::Down) => Some(gated),
            (Self::Experts(of), ProductName::SharedGateUp | ProductName::SharedDown) => {
                of.shared.as_ref().map(|shared| &shared.gated)
            }
            (Self::Experts(of), _) => of.experts.get(name.expert()? as usize),
            (Self::Dense(_), _) => None,
        }
    }

    /// Returns gate, up and down of a dense part; `None` if there are experts.
    #[must_use]
    pub const fn dense(&self) -> Option<&Gated<P>> {
        match self {
            Self::Dense(gated) => Some(gated),
            Self::Experts(_) => None,
        }
    }

    /// Returns what [`FeedForward::dense`] returns, to be changed.
    pub const fn dense_mut(&mut self) -> Option<&mut Gated<P>> {
        match self {
            Self::Dense(gated) => Some(gated),
            Self::Experts(_) => None,
        }
    }

    /// Returns router and experts; `None` if the part is dense.
    #[must_use]
    pub const fn experts(&self) -> Option<&Experts<P>> {
        match self {
            Self::Dense(_) => None,
            Self::Experts(experts) => Some(experts),
        }
    }

    /// Returns what [`FeedForward::experts`] returns, to be changed.
    pub const fn experts_mut(&mut self) -> Option<&mut Experts<P>> {
        match self {
            Self::Dense(_) => None,
            Self::Experts(experts) => Some(experts),
        }
    }
}

impl<P: Canonical> Canonical for Gated<P> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.gate_up.encode(out);
        self.down.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { gate_up: P::decode(input)?, down: P::decode(input)? })
    }
}

impl<P: Canonical> Canonical for Shared<P> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.gate.encode(out);
        self.gated.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { gate: P::decode(input)?, gated: Gated::decode(input)? })
    }
}

impl<P: Canonical> Canonical for FeedForward<P> {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Dense(gated) => {
                out.push(0);
                gated.encode(out);
            }
            Self::Experts(Experts { rule, router, experts, shared }) => {
                out.push(1);
                rule.used.encode(out);
                rule.normalise.encode(out);
                router.encode(out);
                put_list(out, experts);
                shared.encode(out);
            }
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u8::decode(input)? {
            0 => Ok(Self::Dense(Gated::decode(input)?)),
            1 => Ok(Self::Experts(Experts {
                rule: Rule { used: u32::decode(input)?, normalise: bool::decode(input)? },
                router: P::decode(input)?,
                experts: input.list("experts", limits::EXPERTS, 2)?,
                shared: Option::decode(input)?,
            })),
            tag => Err(input.unknown_tag("feed-forward part", tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProductName::{ExpertDown, ExpertGateUp, Router, SharedDown, SharedGate, SharedGateUp};

    /// Two experts, both used, and a shared one; the leaves are numbered in order of use.
    fn tree() -> FeedForward<u32> {
        let gated = |gate_up| Gated { gate_up, down: gate_up + 1 };
        FeedForward::Experts(Experts {
            rule: Rule { used: 2, normalise: true },
            router: 0,
            experts: vec![gated(1), gated(3)],
            shared: Some(Shared { gate: 5, gated: gated(6) }),
        })
    }

    #[test]
    fn every_walk_is_in_order_of_use_under_the_same_names() {
        let names = [
            Router,
            ExpertGateUp(0),
            ExpertDown(0),
            ExpertGateUp(1),
            ExpertDown(1),
            SharedGate,
            SharedGateUp,
            SharedDown,
        ];
        let mut tree = tree();
        let expected: Vec<(ProductName, u32)> = names.into_iter().zip(0..).collect();
        let seen = |all: Vec<(ProductName, &u32)>| -> Vec<(ProductName, u32)> {
            all.into_iter().map(|(name, leaf)| (name, *leaf)).collect()
        };
        assert_eq!(seen(tree.products()), expected);
        assert_eq!(seen(tree.map(|_, leaf| *leaf).products()), expected);
        let mutable = tree.products_mut().into_iter().map(|(name, leaf)| (name, &*leaf));
        assert_eq!(seen(mutable.collect()), expected);
        let refused = tree.try_map(|name, _| if name == SharedGate { Err(name) } else { Ok(()) });
        assert_eq!(refused, Err(SharedGate));
    }

    #[test]
    fn of_the_experts_a_row_uses_some_and_the_first_stands_for_them() {
        let of_a_row: Vec<(ProductName, usize, u32)> =
            tree().of_a_row().into_iter().map(|(name, times, leaf)| (name, times, *leaf)).collect();
        assert_eq!(
            of_a_row,
            [
                (Router, 1, 0),
                (ExpertGateUp(0), 2, 1),
                (ExpertDown(0), 2, 2),
                (SharedGate, 1, 5),
                (SharedGateUp, 1, 6),
                (SharedDown, 1, 7),
            ]
        );
        let dense = FeedForward::Dense(Gated { gate_up: 1, down: 2 });
        let times: Vec<usize> = dense.of_a_row().iter().map(|(_, times, _)| *times).collect();
        assert_eq!(times, [1, 1]);
    }

    #[test]
    fn a_tree_has_one_encoding() {
        let tree = tree();
        let bytes = tree.to_bytes();
        assert_eq!(FeedForward::from_bytes(&bytes), Ok(tree));
        assert!(FeedForward::<u32>::from_bytes(&[2]).is_err());
    }
}
