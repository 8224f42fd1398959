//! A session under way: frames go round the ring until the answer ends.

use lockstep_exact::Digest;
use lockstep_exact::forward::{Row, Scratch, logits};
use lockstep_exact::matrix::Packed;
use lockstep_exact::num::Overflow;
use lockstep_exact::ops::{Device as _, Place};
use lockstep_exact::reference::Reference;
use lockstep_exact::sample::{Finish, History, StopTracker, sample};
use lockstep_exact::state::State;
use lockstep_exact::weights::HeadWeights;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{Lease, Request};
use lockstep_verify::sign::{NodeId, Signature};
use lockstep_verify::statement::{
    HeadStatement, LayerRoots, Mark, Run, RunId, Segment, Step, Takeover, token_digest,
    tokens_digest,
};

use super::misdeed::{Misdeed, Slip, aim, samples};
use super::session::Session;
use super::stage::Stage;
use super::{Ring, Taken, client, node, standby};
use crate::lie::{Aim, Lie, Script};

/// A session under way.
pub(super) struct Live<'a> {
    pub(super) ring: &'a Ring<'a>,
    pub(super) request: Request,
    pub(super) session: Digest,
    /// The leases, the one that opened the session first.
    pub(super) placements: Vec<Lease>,
    pub(super) stages: Vec<Stage>,
    /// By place, who serves it.
    pub(super) active: Vec<usize>,
    /// The last stage's run when the session began.
    pub(super) last: RunId,
    pub(super) head_takeovers: Vec<Takeover>,
    /// By frame, the marks of who computed it.
    pub(super) marks: Vec<Vec<(usize, Mark)>>,
    pub(super) head: HeadWeights<Packed>,
    pub(super) head_run: RunId,
    pub(super) head_chain: Digest,
    pub(super) head_received: Vec<Mark>,
    pub(super) steps: Vec<Step>,
    pub(super) head_marks: Vec<Mark>,
    pub(super) answer: Vec<u32>,
}

impl Live<'_> {
    pub(super) fn run(&mut self) -> Finish {
        let manifest = &self.ring.model.manifest;
        let vocabulary = self.ring.model.vocabulary();
        let Request { prompt, stops, .. } = self.request.clone();
        let context = manifest.context as usize;
        let mut tracker = StopTracker::new(stops, &manifest.end_tokens, context, prompt.len());
        let mut position = 0;
        let mut state = State::default();
        for chunk in prompt.chunks(self.ring.chunk) {
            state = self.frame(position, chunk);
            position += u32::try_from(chunk.len()).unwrap();
        }
        loop {
            let at = position - 1;
            let index = u32::try_from(self.answer.len()).unwrap();
            let Ok(token) = self.token(at, &state) else {
                self.mark_token(at, Digest::ZERO, &state);
                return Finish::Overflow;
            };
            self.mark_token(at, token_digest(token), &state);
            self.answer.push(token);
            let ended = tracker.push(token, &vocabulary);
            if samples(&self.misdeeds(0), Lie::StopsEarly, at) {
                return Finish::EndToken;
            }
            match ended {
                Some(finish) if aim(&self.misdeeds(0), Lie::GoesOn).is_none() || index > 20 => {
                    return finish;
                }
                _ => {}
            }
            state = self.frame(position, &[token]);
            position += 1;
        }
    }

    fn misdeeds(&self, stage: usize) -> Vec<Misdeed> {
        self.ring.misdeeds_of(stage)
    }

    fn token(&mut self, position: u32, state: &State) -> Result<u32, Overflow> {
        let row = Row { place: Place { slot: 0, position: position as usize }, feeds_head: true };
        // A last stage that was given a shorter prompt's lease sends more rows than the head reads.
        let state = &state.select(&[state.rows() - 1]);
        let mut row_bytes = Vec::new();
        state.write_row(0, &mut row_bytes);
        self.stages[0].archive.head_state(&row_bytes);
        let scratch = &mut Scratch::default();
        let out = logits(&Reference, &self.head, &[row], state, scratch, &mut ());
        let Ok(out) = out;
        let lies = self.misdeeds(0);
        let logits = match out.into_iter().next().unwrap() {
            Err(Overflow) if samples(&lies, Lie::IgnoredOverflow, position) => return Ok(7),
            logits => logits?,
        };
        let history = History { prompt: &self.request.prompt, answer: &self.answer };
        let mut sampling = self.request.sampling.clone();
        if aim(&lies, Lie::IgnoredSeed).is_some() {
            sampling.seed ^= 1;
        }
        if samples(&lies, Lie::FalseOverflow, position) {
            return Err(Overflow);
        }
        let best = sample(&logits, &sampling, history, None)?;
        if samples(&lies, Lie::SecondBest, position) {
            return sample(&logits, &sampling, history, Some(&|token| token != best));
        }
        Ok(best)
    }

    fn mark_token(&mut self, position: u32, output: Digest, state: &State) {
        let layers = self.ring.model.span().end;
        let mark = Mark {
            first: layers,
            end: layers,
            epoch: 0,
            position,
            count: 1,
            chain_before: self.head_chain,
            input: Digest::of(&state.to_bytes()),
            output,
            signature: Signature::NONE,
        };
        self.head_chain = mark.chain_after();
        self.head_marks.push(mark.signed(self.head_run, &node(0)));
    }

    /// Sends a frame round the ring; returns what comes out of the last stage.
    pub(super) fn frame(&mut self, position: u32, tokens: &[u32]) -> State {
        for taken in self.ring.taken.clone().into_iter().filter(|taken| taken.at == position) {
            self.take_over(taken);
        }
        let count = u32::try_from(tokens.len()).unwrap();
        let mut marks = Vec::new();
        let mut state = self.embed(position, tokens);
        for (place, &index) in self.active.clone().iter().enumerate() {
            let lies = self.misdeeds(self.stages[index].place);
            let input = (place == 0).then(|| tokens_digest(tokens));
            let (out, told, passed) =
                self.stages[index].compute(&lies, position, count, state, input);
            state = out;
            marks.push((index, told));
            match self.active.get(place + 1) {
                Some(&next) => self.stages[next].received.push(passed),
                None => self.head_received.push(passed),
            }
        }
        self.steps.push(Step { position, count, marks: Vec::new() });
        self.marks.push(marks);
        state
    }

    /// Another server gets the states that a stage had got, computes them again in a run of its
    /// own, marks every frame again, and goes on in its place.
    fn take_over(&mut self, taken: Taken) {
        let Taken { place, at, is_handed } = taken;
        let (old, before) = (self.active[place], self.active[place - 1]);
        let epoch = self.placements.len();
        let mut lease = self.placements[epoch - 1].clone();
        lease.epoch = u32::try_from(epoch).unwrap();
        lease.route[place].node = node(standby(epoch)).id();
        let lease = lease.signed(&client());
        let first = if is_handed { at } else { 0 };
        let run = self.stages[before].run.id();
        let mut stage = self.ring.stage_of(standby(epoch), place, &lease, (run, first));
        self.placements.push(lease);
        stage.received.clone_from(&self.stages[before].passed);
        let lies = self.misdeeds(standby(epoch));
        let index = self.stages.len();
        let inputs = self.stages[old].inputs.clone();
        for (frame, state) in inputs.into_iter().enumerate() {
            let Step { position, count, .. } = self.steps[frame];
            let (_, told, _) = stage.compute(&lies, position, count, state, None);
            self.marks[frame].push((index, told));
        }
        let takeover = Takeover { position: first, run: stage.run.id() };
        let (takeovers, received) = match self.active.get(place + 1) {
            Some(&next) => {
                let next = &mut self.stages[next];
                (&mut next.takeovers, &mut next.received)
            }
            None => (&mut self.head_takeovers, &mut self.head_received),
        };
        takeovers.push(takeover);
        if is_handed {
            self.stages[old].end = Some(at);
        } else {
            // The next stage has checked that all is as it had it.
            received.clone_from(&stage.passed);
            self.stages[old].is_lost = true;
        }
        self.active[place] = index;
        self.stages.push(stage);
    }

    fn embed(&mut self, position: u32, tokens: &[u32]) -> State {
        let lies = self.misdeeds(0);
        let embed = |tokens: &[u32]| {
            let mut state = State::default();
            let head = &self.head;
            Reference.embed(&head.embedding, head.embedding_scale, tokens, &mut state);
            state
        };
        let right = embed(tokens);
        let (mut used, mut committed) = (tokens.to_vec(), right.clone());
        let (mut open, mut digest) = (false, false);
        for lie in lies {
            let (at, is_open, is_digest) = match lie {
                Misdeed::Lie(Script { lie: Lie::WrongEmbedding, aim }) => {
                    (aim.position, true, false)
                }
                Misdeed::Lie(Script { lie: Lie::HiddenEmbedding, aim }) => {
                    (aim.position, false, false)
                }
                Misdeed::Slip(Slip::EmbeddingDigest(at)) => (at, false, true),
                Misdeed::Lie(_) | Misdeed::Slip(_) => continue,
            };
            let Some(index) = at.checked_sub(position) else { continue };
            let Some(token) = used.get_mut(index as usize) else { continue };
            *token ^= 1;
            open |= is_open;
            digest |= is_digest;
        }
        let stage = &mut self.stages[0];
        if open || digest {
            committed = embed(&used);
        }
        stage.columns.receive_embeddings(&committed);
        stage.archive.tokens(tokens);
        if digest { right } else { embed(&used) }
    }

    pub(super) fn finish(mut self, finish: Finish, told: usize) -> Session {
        let session = self.session;
        let mut order: Vec<usize> = (0..self.stages.len()).collect();
        order.retain(|index| !self.stages[*index].is_lost);
        order.sort_by_key(|index| self.stages[*index].at);
        for (step, marks) in self.steps.iter_mut().zip(&self.marks) {
            let of =
                |index: &usize| marks.iter().find(|(of, _)| of == index).map(|(_, mark)| *mark);
            step.marks = order.iter().filter_map(of).collect();
        }
        let mut segments: Vec<Segment> =
            order.iter().map(|index| self.segment(&self.stages[*index])).collect();
        self.steps.truncate(told);
        if self.ring.tail > 0 {
            let last = &self.steps[told - 1];
            segments[0].positions = last.position + last.count;
            segments[0].chain = last.marks[0].chain_after();
            segments[0] = segments[0].clone().signed(&node(0));
        }
        let head = HeadStatement {
            session,
            before: self.last,
            takeovers: self.head_takeovers.clone(),
            tokens: tokens_digest(&self.answer),
            finish,
            chain: self.head_chain,
            signature: Signature::NONE,
        };
        let receipt = Receipt {
            request: self.request,
            lease: self.placements.remove(0),
            placements: self.placements,
            answer: std::mem::take(&mut self.answer),
            finish,
            segments,
            head: head.signed(self.head_run, &node(0)),
            steps: self.steps,
            head_marks: self.head_marks,
        };
        let lies = self.ring.misdeeds.clone();
        let (mut stages, head, head_received) = (self.stages, self.head, self.head_received);
        stages.retain(|stage| !stage.is_lost);
        stages.sort_by_key(|stage| stage.at);
        Session { receipt, stages, head, head_received, misdeeds: lies, other: None }
    }

    fn segment(&self, stage: &Stage) -> Segment {
        let Run { session, lease, before, value, .. } = stage.run;
        let positions = stage.end.unwrap_or_else(|| self.steps.iter().map(|step| step.count).sum());
        // From whom it got no frame any more, it does not name.
        let mut takeovers = stage.takeovers.clone();
        takeovers.retain(|takeover| takeover.position < positions);
        let mut segment = Segment {
            session,
            lease,
            before,
            takeovers,
            run_value: value,
            node: NodeId([0; 32]),
            first: stage.span.start,
            end: stage.span.end,
            first_position: stage.run.first_position,
            positions,
            input_root: stage.columns.input.root(),
            layers: stage.columns.roots(),
            chain: stage.chain,
            deadline_unix_ms: 1_800_000_000_000,
            signature: Signature::NONE,
        };
        let at = |layer: u32| (layer - stage.span.start) as usize;
        for lie in self.misdeeds(stage.place) {
            let LayerRoots { states, .. } = *segment.layers.last().unwrap();
            match lie {
                Misdeed::Lie(Script { lie, aim: Aim { layer, .. } }) => match lie {
                    Lie::OtherInputRoot => segment.input_root.0[3] ^= 1,
                    Lie::OtherKvRoot => segment.layers[at(layer)].kv.0[3] ^= 1,
                    Lie::OtherStatesRoot => segment.layers[at(layer)].states.0[3] ^= 1,
                    _ => {}
                },
                Misdeed::Slip(Slip::Chain) => segment.chain = states,
                Misdeed::Slip(Slip::OutputRoot) => {
                    segment.layers.last_mut().unwrap().states.0[3] ^= 1;
                }
                Misdeed::Slip(Slip::Positions) => segment.positions -= 1,
                Misdeed::Slip(_) => {}
            }
        }
        segment.signed(&node(stage.place))
    }
}
