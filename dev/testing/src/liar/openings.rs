//! Openings that are not the answer to the challenge.

use std::collections::BTreeMap;

use lockstep_exact::Digest;
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::field::P;
use lockstep_exact::matrix::Shape;
use lockstep_verify::challenge::Target;
use lockstep_verify::opening::{Inputs, LayerOpening, Opening};
use lockstep_verify::sums;

use super::session::{Embedding, Session};
use crate::lie::{Lie, Script};

/// The openings of the first session that was challenged, to be given again.
#[derive(Default)]
pub(crate) struct Openings {
    first: Option<Digest>,
    kept: BTreeMap<Target, Vec<u8>>,
}

/// The challenge that an opening answers, and what the liar knows of its session.
pub(crate) struct About<'a> {
    pub(crate) session: Digest,
    pub(crate) target: &'a Target,
    /// Of the qkv product of the script's layer.
    pub(crate) shape: Shape,
    pub(crate) seen: &'a Session,
    pub(crate) embedding: Option<&'a Embedding>,
}

impl Openings {
    /// Returns other cells to open in place of those that were challenged, or `None` if the
    /// script's lie is not about that.
    pub(crate) fn other_target(script: Script, seen: &Session, target: &Target) -> Option<Target> {
        let Target::Layer { layer, first, end, positions } = target else { return None };
        let (layer, first, end) = (*layer, *first, *end);
        match script.lie {
            Lie::OtherLayer if layer == script.aim.layer => {
                let below = layer.checked_sub(1).filter(|below| seen.span.contains(below));
                let above = Some(layer + 1).filter(|above| seen.span.contains(above));
                let positions = positions.clone();
                Some(Target::Layer { layer: below.or(above)?, first, end, positions })
            }
            Lie::OtherPosition => {
                let (lowest, last) = (*positions.first()?, *positions.last()?);
                let shifted: Vec<u32> = if last + 1 < seen.positions {
                    positions.iter().map(|position| position + 1).collect()
                } else if lowest > 0 {
                    positions.iter().map(|position| position - 1).collect()
                } else {
                    return None;
                };
                let end = shifted.last()? + 1;
                Some(Target::Layer { layer, first, end, positions: shifted })
            }
            _ => None,
        }
    }

    /// Returns the bytes of an opening as the script's lie has them, given those of the honest one.
    pub(crate) fn falsify(&mut self, script: Script, about: &About<'_>, body: Vec<u8>) -> Vec<u8> {
        match script.lie {
            Lie::CutOpening => body[..body.len() / 2].to_vec(),
            Lie::GarbageOpening => {
                let noise = |at: usize| Digest::derive("noise", &[&at.to_le_bytes()]).0;
                (0..body.len()).step_by(32).flat_map(noise).collect()
            }
            Lie::LongOpening => body.into_iter().chain([0]).collect(),
            Lie::OtherSession => self.replay(about, body),
            Lie::AnotherPrompt
            | Lie::HiddenEmbedding
            | Lie::SumOffByOne
            | Lie::SumOutOfRange
            | Lie::SumPlusP
            | Lie::SumPlusPWide => match Opening::from_bytes(&body) {
                Ok(Opening::Layer(opening)) => {
                    Opening::Layer(falsify_layer(script, about, opening)).to_bytes()
                }
                _ => body,
            },
            _ => body,
        }
    }

    fn replay(&mut self, about: &About<'_>, body: Vec<u8>) -> Vec<u8> {
        if *self.first.get_or_insert(about.session) == about.session {
            self.kept.insert(about.target.clone(), body.clone());
            return body;
        }
        let cells = |target: &&Target| match (target, about.target) {
            (Target::Layer { layer: a, .. }, Target::Layer { layer: b, .. }) => a == b,
            _ => false,
        };
        let same = self.kept.get(about.target);
        let near = || self.kept.keys().find(cells).and_then(|target| self.kept.get(target));
        same.or_else(near).cloned().unwrap_or(body)
    }
}

fn falsify_layer(script: Script, about: &About<'_>, opening: LayerOpening) -> LayerOpening {
    let mut opening = opening;
    let Target::Layer { layer, positions, .. } = about.target else { return opening };
    if matches!(script.lie, Lie::AnotherPrompt | Lie::HiddenEmbedding) {
        if let (Some(embedding), Inputs::Embeddings(rows)) = (about.embedding, &mut opening.inputs)
        {
            let token = |&position: &u32| about.seen.tokens.get(position as usize).copied();
            let tokens: Vec<u32> = positions.iter().filter_map(token).collect();
            *rows = embedding.rows(&tokens).to_bytes();
        }
        return opening;
    }
    if *layer != script.aim.layer {
        return opening;
    }
    let Some(qkv) = opening.sums.first_mut() else { return opening };
    let rows = positions.len();
    let Ok(mut values) = sums::decode(about.shape, rows, qkv) else { return opening };
    // A sum in the middle, so that no end of anything hides it.
    let middle = values.len() / 2;
    let p = P as i64;
    values[middle] = match script.lie {
        Lie::SumOffByOne => values[middle] + 1,
        Lie::SumOutOfRange => about.shape.sum_bound() + 1,
        Lie::SumPlusPWide => values[middle] + p,
        _ => {
            let unused = 64 - sums::widest(about.shape);
            (values[middle] + p) << unused >> unused
        }
    };
    qkv.clear();
    sums::encode(about.shape, &values, qkv);
    opening
}
