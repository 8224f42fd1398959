//! Sampling: from logits to the next token, and when to stop. A pure function of its arguments.
//!
//! Order of steps: penalties and bias on logits, mask, then greedy (temperature 0) or:
//! temperature, top-k, top-p, min-p, and a draw from a counter-based generator keyed by (seed,
//! position). Tokens are ordered by (logit descending, id ascending) with -0 = +0; weights are
//! integers, so sums have no order. The history that penalties look at is prompt and answer so
//! far.

use core::cmp::Ordering;
use core::fmt;

use crate::bytes::{Canonical, DecodeError, Reader, put_bytes, put_count, put_list};
use crate::digest::Digest;
use crate::limits;
use crate::num::{self, Overflow};
use crate::vocabulary::Vocabulary;

/// One entry of a logit bias: a token with the number for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bias {
    /// The id of the token whose logit is changed.
    pub token: u32,
    /// The number that is added to the token's logit.
    pub bias: f32,
}
crate::canonical_struct!(Bias { token, bias });

/// The parameters by which a token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy; otherwise logits are divided by it.
    pub temperature: f32,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the most likely tokens until their share reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens with at least this fraction of the most likely token's probability; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen before; 1 does nothing.
    pub repetition_penalty: f32,
    /// Subtracted from logits of tokens seen in the answer.
    pub presence_penalty: f32,
    /// Subtracted from logits once per occurrence in the answer.
    pub frequency_penalty: f32,
    /// Added to logits; tokens in increasing order.
    pub logit_bias: Vec<Bias>,
    /// The seed of the random choices, drawn by the client.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Canonical for Sampling {
    fn encode(&self, out: &mut Vec<u8>) {
        self.temperature.encode(out);
        self.top_k.encode(out);
        self.top_p.encode(out);
        self.min_p.encode(out);
        self.repetition_penalty.encode(out);
        self.presence_penalty.encode(out);
        self.frequency_penalty.encode(out);
        put_list(out, &self.logit_bias);
        self.seed.encode(out);
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            temperature: f32::decode(input)?,
            top_k: u32::decode(input)?,
            top_p: f32::decode(input)?,
            min_p: f32::decode(input)?,
            repetition_penalty: f32::decode(input)?,
            presence_penalty: f32::decode(input)?,
            frequency_penalty: f32::decode(input)?,
            logit_bias: input.list("logit bias", limits::LOGIT_BIAS, 8)?,
            seed: u64::decode(input)?,
        })
    }
}

/// A sampling or stop parameter outside its range.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterError {
    /// The name of the parameter.
    pub name: &'static str,
    /// A description of what is allowed.
    pub expected: &'static str,
    /// The value that was given.
    pub got: String,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, got {}", self.name, self.expected, self.got)
    }
}

impl core::error::Error for ParameterError {}

impl Sampling {
    /// Checks that all parameters are in their ranges, for a model of `vocabulary` token ids.
    ///
    /// # Errors
    /// [`ParameterError`] names the first parameter out of range.
    pub fn check(&self, vocabulary: u32) -> Result<(), ParameterError> {
        let check = |name, expected, got: f32, fits: bool| {
            if fits { Ok(()) } else { Err(ParameterError { name, expected, got: got.to_string() }) }
        };
        let t = self.temperature;
        check("temperature", "0 or 0.01..=100", t, t == 0.0 || (0.01..=100.0).contains(&t))?;
        let p = self.top_p;
        check("top_p", "a number above 0, up to 1", p, p > 0.0 && p <= 1.0)?;
        check("min_p", "0..=1", self.min_p, (0.0..=1.0).contains(&self.min_p))?;
        let r = self.repetition_penalty;
        check("repetition_penalty", "0.01..=100", r, (0.01..=100.0).contains(&r))?;
        let in_100 = |x: f32| (-100.0..=100.0).contains(&x);
        let p = self.presence_penalty;
        check("presence_penalty", "-100..=100", p, in_100(p))?;
        let p = self.frequency_penalty;
        check("frequency_penalty", "-100..=100", p, in_100(p))?;
        let mut before = None;
        for entry in &self.logit_bias {
            let bias = entry.bias;
            check(
                "logit_bias",
                "biases in -1000..=1000",
                bias,
                (-1000.0..=1000.0).contains(&bias),
            )?;
            if entry.token >= vocabulary || before.is_some_and(|token| token >= entry.token) {
                let got = entry.token.to_string();
                let expected = "increasing token ids of the vocabulary";
                return Err(ParameterError { name: "logit_bias", expected, got });
            }
            before = Some(entry.token);
        }
        Ok(())
    }
}

/// The tokens that penalties look at.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// The tokens of the prompt.
    pub prompt: &'a [u32],
    /// The tokens of the answer so far.
    pub answer: &'a [u32],
}

impl History<'_> {
    /// Returns the position of the token to be sampled.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.prompt.len() + self.answer.len()
    }
}

/// Chooses the next token from its `logits`. `allowed`, if given, says which token ids may be
/// chosen.
///
/// # Errors
/// [`Overflow`] when penalties or temperature push a logit to 2^55 or more, or no token is allowed.
pub fn sample(
    logits: &[f32],
    sampling: &Sampling,
    history: History<'_>,
    allowed: Option<&dyn Fn(u32) -> bool>,
) -> Result<u32, Overflow> {
    let adjusted = adjust(logits, sampling, history);
    if num::amax_bits(&adjusted) >= num::OVERFLOW_BITS {
        return Err(Overflow);
    }
    let candidates = (0..)
        .zip(&adjusted)
        .filter(|&(id, _)| allowed.is_none_or(|allowed| allowed(id)))
        .map(|(id, &logit)| Candidate { id, logit });
    if sampling.temperature == 0.0 {
        return candidates.min_by(Candidate::order).map(|best| best.id).ok_or(Overflow);
    }
    let mut candidates: Vec<Candidate> = candidates.collect();
    let best = candidates.iter().copied().min_by(Candidate::order).ok_or(Overflow)?;
    truncate_top_k(&mut candidates, sampling.top_k);
    let weights = weights(&mut candidates, best, sampling);
    draw(&candidates, &weights, sampling.seed, history.position() as u64).ok_or(Overflow)
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
}

impl Candidate {
    /// Orders candidates: the most likely first, ties by lowest id. Logits are finite; -0 equals
    /// +0.
    fn order(a: &Self, b: &Self) -> Ordering {
        // default: what is no number has been refused, so there is an order
        let order = b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal);
        order.then(a.id.cmp(&b.id))
    }
}

/// Penalties in the order repetition, presence and frequency, then bias.
fn adjust(logits: &[f32], sampling: &Sampling, history: History<'_>) -> Vec<f32> {
    let mut adjusted = logits.to_vec();
    if sampling.repetition_penalty != 1.0 {
        let mut seen = vec![false; logits.len()];
        for &token in history.prompt.iter().chain(history.answer) {
            let token = token as usize;
            if token < logits.len() && !seen[token] {
                seen[token] = true;
                let logit = adjusted[token];
                let penalty = sampling.repetition_penalty;
                adjusted[token] = if logit > 0.0 { logit / penalty } else { logit * penalty };
            }
        }
    }
    if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
        let mut counts = vec![0_u32; logits.len()];
        for &token in history.answer {
            if let Some(count) = counts.get_mut(token as usize) {
                *count += 1;
            }
        }
        for (logit, count) in adjusted.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
            *logit -= sampling.presence_penalty;
            *logit -= sampling.frequency_penalty * count as f32;
        }
    }
    for entry in &sampling.logit_bias {
        if let Some(logit) = adjusted.get_mut(entry.token as usize) {
            *logit += entry.bias;
        }
    }
    adjusted
}

fn truncate_top_k(candidates: &mut Vec<Candidate>, top_k: u32) {
    let keep = top_k as usize;
    if keep != 0 && keep < candidates.len() {
        candidates.select_nth_unstable_by(keep, Candidate::order);
        candidates.truncate(keep);
    }
}

/// Computes the integer weight of every kept candidate,
/// `rne(e^((logit - best)/temperature) · 2^30)`; candidates beyond top-p, below min-p or of weight
/// 0 are dropped.
fn weights(candidates: &mut Vec<Candidate>, best: Candidate, sampling: &Sampling) -> Vec<u64> {
    let weight = |candidate: &Candidate| {
        let x = (candidate.logit - best.logit) / sampling.temperature;
        num::rne(num::exp_of_negative(x) * num::pow2(30)) as u64
    };
    candidates.retain(|candidate| weight(candidate) > 0);
    candidates.sort_unstable_by(Candidate::order);
    let mut weights: Vec<u64> = candidates.iter().map(weight).collect();
    let total: u64 = weights.iter().sum();
    let enough = fraction_of(total, sampling.top_p);
    let mut sum = 0;
    let nucleus = weights
        .iter()
        .position(|weight| {
            sum += weight;
            sum >= enough
        })
        .map_or(weights.len(), |last| last + 1);
    let least = weights.first().map_or(0, |&most| fraction_of(most, sampling.min_p));
    let likely = weights.iter().take_while(|weight| **weight >= least).count();
    let keep = nucleus.min(likely).max(1);
    candidates.truncate(keep);
    weights.truncate(keep);
    weights
}

/// Returns `total · fraction` rounded down; `fraction` is in [0, 1] and counts in units of 2^-24.
fn fraction_of(total: u64, fraction: f32) -> u64 {
    let units = num::rne(fraction * num::pow2(24)) as u64;
    ((u128::from(total) * u128::from(units)) >> 24) as u64
}

/// Draws a candidate by its share of all weights: a number below their sum falls on one of them.
/// `None` if there is none.
fn draw(candidates: &[Candidate], weights: &[u64], seed: u64, position: u64) -> Option<u32> {
    let total: u64 = weights.iter().sum();
    let mut left = ((u128::from(random(seed, position)) * u128::from(total)) >> 64) as u64;
    let (last, before) = candidates.split_last()?;
    for (candidate, &weight) in before.iter().zip(weights) {
        if left < weight {
            return Some(candidate.id);
        }
        left -= weight;
    }
    Some(last.id)
}

/// Returns the 64 random bits of a position, from a counter-based generator keyed by the seed.
#[must_use]
pub fn random(seed: u64, position: u64) -> u64 {
    let parts: [&[u8]; 2] = [&seed.to_le_bytes(), &position.to_le_bytes()];
    let digest = Digest::derive("lockstep 2026 sampler randomness", &parts);
    let mut first = [0; 8];
    first.copy_from_slice(&digest.0[..8]);
    u64::from_le_bytes(first)
}

/// The rules by which an answer ends.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Stops {
    /// The most tokens of the answer.
    pub max_tokens: u32,
    /// Whether the model's end tokens are ignored.
    pub ignore_end: bool,
    /// Byte strings that end the answer.
    pub strings: Vec<Vec<u8>>,
}

impl Canonical for Stops {
    fn encode(&self, out: &mut Vec<u8>) {
        self.max_tokens.encode(out);
        self.ignore_end.encode(out);
        put_count(out, self.strings.len());
        for string in &self.strings {
            put_bytes(out, string);
        }
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (max_tokens, ignore_end) = (u32::decode(input)?, bool::decode(input)?);
        let count = input.count("stop strings", limits::STOP_STRINGS, 4)?;
        let mut strings = Vec::with_capacity(count);
        for _ in 0..count {
            let string = input.bytes("stop string", limits::STOP_BYTES)?.to_vec();
            if string.is_empty() {
                return Err(input.invalid("stop string", "empty"));
            }
            strings.push(string);
        }
        Ok(Self { max_tokens, ignore_end, strings })
    }
}

/// The reason why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The answer's last token is an end token.
    EndToken,
    /// The answer's text contains a stop string.
    StopString,
    /// The answer has as many tokens as the request allows.
    Length,
    /// The context of the model is full.
    Context,
    /// The head gives no token for the position after the last: the state there is the overflow
    /// marker, or a logit overflows. Which position that is follows from prompt and answer.
    Overflow,
}

impl Finish {
    /// Returns the word that the usual API has for the reason: `stop`, `length` or `error`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::EndToken | Self::StopString => "stop",
            Self::Length | Self::Context => "length",
            Self::Overflow => "error",
        }
    }
}

impl Canonical for Finish {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::EndToken => 0,
            Self::StopString => 1,
            Self::Length => 2,
            Self::Context => 3,
            Self::Overflow => 4,
        });
    }
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(match u8::decode(input)? {
            0 => Self::EndToken,
            1 => Self::StopString,
            2 => Self::Length,
            3 => Self::Context,
            4 => Self::Overflow,
            tag => return Err(input.unknown_tag("finish reason", tag)),
        })
    }
}

/// Applies the stop rules to an answer as it grows. Server 1 and the client run the same one.
#[derive(Clone, Debug)]
pub struct StopTracker {
    stops: Stops,
    end_tokens: Vec<u32>,
    room: usize,
    count: usize,
    tail: Vec<u8>,
}

impl StopTracker {
    /// Starts an answer to a prompt of `prompt_len` tokens, for a model with `context` positions.
    #[must_use]
    pub fn new(stops: Stops, end_tokens: &[u32], context: usize, prompt_len: usize) -> Self {
        let room = context.saturating_sub(prompt_len);
        Self { stops, end_tokens: end_tokens.to_vec(), room, count: 0, tail: Vec::new() }
    }

    /// Takes the next token; `Some` says that the answer ends with it.
    pub fn push(&mut self, token: u32, vocabulary: &Vocabulary) -> Option<Finish> {
        self.count += 1;
        if !self.stops.ignore_end && self.end_tokens.contains(&token) {
            return Some(Finish::EndToken);
        }
        let bytes = vocabulary.token(token);
        self.tail.extend_from_slice(bytes);
        let found = |string: &Vec<u8>| {
            // An empty string is refused by the codec and ends nothing.
            if string.is_empty() {
                return false;
            }
            // Only matches that end inside the new token are new.
            let from = self.tail.len().saturating_sub(bytes.len() + string.len());
            self.tail[from..].windows(string.len()).any(|window| window == string)
        };
        if self.stops.strings.iter().any(found) {
            return Some(Finish::StopString);
        }
        let keep = self.stops.strings.iter().map(Vec::len).fold(0, usize::max);
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        if self.count >= self.stops.max_tokens as usize {
            return Some(Finish::Length);
        }
        (self.count >= self.room).then_some(Finish::Context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: History<'_> = History { prompt: &[], answer: &[] };

    fn sampling(temperature: f32) -> Sampling {
        Sampling { temperature, ..Sampling::default() }
    }

    #[test]
    fn where_no_candidate_has_a_weight_there_is_no_token() {
        let sampling = Sampling { temperature: f32::NAN, ..Sampling::default() };
        let history = History { prompt: &[], answer: &[] };
        assert_eq!(sample(&[1.0, 2.0], &sampling, history, None), Err(Overflow));
        assert_eq!(draw(&[], &[], 1, 0), None);
    }

    #[test]
    fn a_draw_falls_on_each_candidate_as_often_as_its_weight_says() {
        let candidates = [7, 8, 9].map(|id| Candidate { id, logit: 0.0 });
        let mut counts = [0_i32; 3];
        for position in 0..6000 {
            let id = draw(&candidates, &[1 << 30, 1 << 29, 1 << 29], 5, position).unwrap();
            counts[(id - 7) as usize] += 1;
        }
        assert!(counts[0].abs_diff(3000) < 150, "{counts:?}");
        assert!(counts[1].abs_diff(1500) < 150 && counts[2].abs_diff(1500) < 150, "{counts:?}");
    }

    #[test]
    fn greedy_takes_the_lowest_id_of_equal_logits_and_minus_zero_is_zero() {
        assert_eq!(sample(&[-1.0, -0.0, 0.0], &sampling(0.0), NOTHING, None), Ok(1));
        assert_eq!(sample(&[0.0, 3.0, 3.0], &sampling(0.0), NOTHING, None), Ok(1));
        let not_one = |id| id != 1;
        assert_eq!(sample(&[0.0, 3.0, 3.0], &sampling(0.0), NOTHING, Some(&not_one)), Ok(2));
        let none = |_| false;
        assert_eq!(sample(&[0.0], &sampling(0.0), NOTHING, Some(&none)), Err(Overflow));
    }

    #[test]
    fn a_draw_depends_on_seed_and_position_only_and_follows_the_weights() {
        let logits = [0.0, 1.0, 2.0, -30.0];
        let mut counts = [0_u32; 4];
        for seed in 0..4000 {
            let sampling = Sampling { seed, ..sampling(1.0) };
            let token = sample(&logits, &sampling, NOTHING, None).unwrap();
            assert_eq!(sample(&logits, &sampling, NOTHING, None), Ok(token));
            counts[token as usize] += 1;
        }
        // e^0 : e^1 : e^2 = 9.0 % : 24.5 % : 66.5 %; the last token has weight 0.
        assert!((300..420).contains(&counts[0]), "{counts:?}");
        assert!((880..1080).contains(&counts[1]), "{counts:?}");
        assert_eq!(counts[3], 0);
    }

    #[test]
    fn top_k_top_p_and_min_p_leave_only_the_likely_tokens() {
        let logits = [0.0, 1.0, 2.0];
        for seed in 0..200 {
            let base = Sampling { seed, ..sampling(1.0) };
            let two = Sampling { top_k: 2, ..base.clone() };
            assert_ne!(sample(&logits, &two, NOTHING, None), Ok(0));
            let nucleus = Sampling { top_p: 0.6, ..base.clone() };
            assert_eq!(sample(&logits, &nucleus, NOTHING, None), Ok(2));
            let likely = Sampling { min_p: 0.3, ..base };
            assert_ne!(sample(&logits, &likely, NOTHING, None), Ok(0));
        }
    }

    #[test]
    fn penalties_count_prompt_and_answer_as_documented() {
        let history = History { prompt: &[2], answer: &[1, 1] };
        let penal = |r, p, f| Sampling {
            repetition_penalty: r,
            presence_penalty: p,
            frequency_penalty: f,
            ..Sampling::default()
        };
        let logits = [0.0, 1.0, 2.0];
        assert_eq!(adjust(&logits, &penal(2.0, 0.0, 0.0), history), [0.0, 0.5, 1.0]);
        assert_eq!(adjust(&logits, &penal(1.0, 0.5, 0.25), history), [0.0, 0.0, 2.0]);
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let bad = Sampling { top_p: 0.0, ..Sampling::default() };
        assert_eq!(bad.check(10).unwrap_err().name, "top_p");
        let bad = Sampling { temperature: f32::NAN, ..Sampling::default() };
        assert_eq!(bad.check(10).unwrap_err().name, "temperature");
        let bias = vec![Bias { token: 10, bias: 0.0 }];
        let bad = Sampling { logit_bias: bias, ..Sampling::default() };
        assert_eq!(bad.check(10).unwrap_err().name, "logit_bias");
    }

    #[test]
    fn stops_match_bytes_across_tokens_and_count_tokens() {
        let words: [&[u8]; 4] = [b"ab", b"cd", b"x", b"<end>"];
        let vocabulary = Vocabulary::new(words).unwrap();
        let stops = Stops { max_tokens: 4, ignore_end: false, strings: vec![b"bcd".to_vec()] };
        let track = |tokens: &[u32]| {
            let mut tracker = StopTracker::new(stops.clone(), &[3], 100, 10);
            tokens.iter().map(|&t| tracker.push(t, &vocabulary)).collect::<Vec<_>>()
        };
        assert_eq!(track(&[0, 1]), [None, Some(Finish::StopString)]);
        assert_eq!(track(&[2, 3]), [None, Some(Finish::EndToken)]);
        assert_eq!(track(&[2, 2, 2, 2]), [None, None, None, Some(Finish::Length)]);
        let mut full = StopTracker::new(stops.clone(), &[3], 11, 10);
        assert_eq!(full.push(2, &vocabulary), Some(Finish::Context));
        let empty = Stops { strings: vec![Vec::new()], ..stops };
        assert_eq!(StopTracker::new(empty, &[3], 100, 10).push(2, &vocabulary), None);
    }
}
