//! A GPU as a subject.

use lockstep_cuda::{
    Batch, Codes, Error, Flags, Gpu, Heads, Input, Kv, Matrix, Queries, Rows, Scratch, Span,
    States, Step, Sums,
};
use lockstep_exact::flags;
use lockstep_exact::matrix::Packed;
use lockstep_exact::norm::Norm;
use lockstep_exact::plan::Activation;
use lockstep_exact::state::State;

use crate::decode::{Inputs, Stepped, Steps};
use crate::subject::{Attended, Sessions, Subject};

/// An open GPU.
pub(crate) struct Device(pub(crate) Gpu);

impl Device {
    fn rows(&self, width: usize, data: &[f32]) -> Result<(Rows, Flags), Error> {
        let mut rows = Rows::new(&self.0)?;
        rows.write(width, data)?;
        Ok((rows, Flags::new(&self.0, data.len() / width)?))
    }

    fn states(&self, state: &State) -> Result<States, Error> {
        let mut states = States::new(&self.0)?;
        states.write(state)?;
        Ok(states)
    }

    fn norm_of(&self, state: &State, norm: &Norm) -> Result<Vec<f32>, Error> {
        let mut out = Rows::new(&self.0)?;
        let Norm { eps, gain } = self.0.norm_of(norm)?;
        self.0.norm(&self.states(state)?, eps, &gain, &mut out)?;
        out.read()
    }

    fn norm_rows_of(&self, norm: &Norm, data: &[f32]) -> Result<(Vec<f32>, flags::Flags), Error> {
        let (mut rows, mut flags) = self.rows(norm.gain.len(), data)?;
        let Norm { eps, gain } = self.0.norm_of(norm)?;
        self.0.norm_rows(eps, &gain, &mut rows, &mut flags)?;
        Ok((rows.read()?, flags.read()?))
    }

    fn residual_of(&self, state: &State, delta: &[f32]) -> Result<(State, flags::Flags), Error> {
        let (delta, mut flags) = self.rows(state.width(), delta)?;
        let (x, mut out) = (self.states(state)?, States::new(&self.0)?);
        self.0.flags_of(&x, &mut flags)?;
        self.0.residual(&x, &delta, &mut out, &mut flags)?;
        Ok((out.read()?, flags.read()?))
    }

    fn quantised(&self, width: usize, data: &[f32]) -> Result<(Codes, flags::Flags), Error> {
        let (rows, mut flags) = self.rows(width, data)?;
        let mut out = Codes::new(&self.0)?;
        self.0.quantise(&rows, &mut out, &mut flags)?;
        Ok((out, flags.read()?))
    }

    fn product_of(
        &self,
        matrix: &Packed,
        data: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<(Vec<i64>, Vec<f32>), Error> {
        let (codes, _) = self.quantised(matrix.shape().columns, data)?;
        let matrix = Matrix::new(&self.0, matrix)?;
        let bias = bias.map(|bias| self.0.buffer(bias)).transpose()?;
        let (mut sums, mut out) = (Sums::new(&self.0)?, Rows::new(&self.0)?);
        self.0.product(&matrix, &codes, bias.as_ref(), Some(&mut sums), &mut out)?;
        let with_sums = out.read()?;
        self.0.product(&matrix, &codes, bias.as_ref(), None, &mut out)?;
        let alone = out.read()?;
        let same = with_sums.iter().zip(&alone).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "numbers do not depend on whether sums are asked for");
        Ok((sums.read()?, alone))
    }

    fn attended(&self, sessions: &Sessions) -> Result<Attended, Error> {
        let gpu = &self.0;
        let mut caches: Vec<Kv> =
            sessions.written.iter().map(|_| Kv::new(sessions.shape())).collect();
        for (cache, rows) in caches.iter_mut().zip(&sessions.written) {
            cache.write(gpu, 0, rows)?.unwrap();
        }
        let rope = gpu.buffer(&sessions.rope)?;
        let norms = sessions.norms.as_ref();
        let norms = norms.map(|norms| Ok((gpu.norm_of(&norms.query)?, gpu.norm_of(&norms.key)?)));
        let norms = norms.transpose()?;
        let norms = norms.as_ref().map(|(query, key)| (query, key));
        let layer = Heads { plan: &sessions.plan, rope: &rope, norms };
        let (fused, mut append_flags) = self.rows(sessions.plan.qkv_width(), &sessions.fused)?;
        let mut queries = Queries::new(gpu)?;
        let mut borrowed: Vec<&mut Kv> = caches.iter_mut().collect();
        let batch = Batch::new(gpu, &sessions.places, &mut borrowed)?;
        let wanted = &sessions.wanted;
        gpu.append(layer, &fused, &batch, wanted, &mut queries, &mut append_flags)?;
        let batch = Batch::new(gpu, &sessions.wanted_places(), &mut borrowed)?;
        let (mut scratch, mut out) = (Scratch::new(gpu)?, Rows::new(gpu)?);
        let mut attend_flags = Flags::new(gpu, wanted.len())?;
        let plan = &sessions.plan;
        gpu.attend(plan, &queries, &batch, &mut scratch, &mut out, &mut attend_flags)?;
        let (queries, scales) = queries.read()?;
        let rows = caches.iter().map(|cache| cache.read(gpu, 0..cache.len()));
        Ok(Attended {
            rows: rows.collect::<Result<_, _>>()?,
            queries,
            scales,
            append_flags: append_flags.read()?,
            out: out.read()?,
            attend_flags: attend_flags.read()?,
        })
    }
}

impl Device {
    fn stepped(&self, steps: &Steps) -> Result<Vec<Stepped>, Error> {
        let (gpu, count) = (&self.0, steps.layers.len());
        let mut span = Span::new(gpu, &steps.layers)?;
        if matches!(steps.inputs, Inputs::Tokens(_)) {
            span = span.with_embedding(gpu, &steps.head)?;
        }
        if steps.to_logits {
            span = span.with_head(gpu, &steps.head)?;
        }
        let mut sessions: Vec<Vec<Kv>> = steps.written.iter().map(|_| span.caches()).collect();
        for (caches, written) in sessions.iter_mut().zip(&steps.written) {
            for (cache, rows) in caches.iter_mut().zip(written) {
                cache.write(gpu, 0, rows)?.unwrap();
            }
        }
        let mut step = Step::new(gpu, &span, sessions.len(), 1024)?;
        let inputs: Vec<Input<'_>> = match &steps.inputs {
            Inputs::Tokens(tokens) => tokens.iter().map(|tokens| Input::Tokens(tokens)).collect(),
            Inputs::States(states) => states.iter().map(Input::States).collect(),
        };
        let mut all = Vec::new();
        for input in inputs {
            let mut borrowed: Vec<&mut [Kv]> = sessions.iter_mut().map(Vec::as_mut_slice).collect();
            gpu.decode(&span, &mut step, input, &mut borrowed)?;
            let got = step.read()?;
            let rows = 0..sessions.len();
            let kv_rows = |layer| {
                let row = |session: usize| got.kv_row(layer, session).to_vec();
                rows.clone().map(row).collect::<Vec<_>>()
            };
            let kv_rows: Vec<Vec<Vec<u8>>> = (0..count).map(kv_rows).collect();
            // What the pages hold is what the step says.
            for (session, caches) in sessions.iter().enumerate() {
                for (layer, cache) in caches.iter().enumerate() {
                    let row = cache.read(gpu, cache.len() - 1..cache.len())?;
                    assert!(row == kv_rows[layer][session], "the page's row of {session}");
                }
            }
            let logits = |session: usize| got.logits(session).ok();
            let logits = rows.clone().filter(|_| steps.to_logits).map(logits).collect();
            let states = (0..=count).map(|index| got.states(index)).collect();
            all.push(Stepped { states, kv_rows, logits });
        }
        Ok(all)
    }
}

impl Subject for Device {
    fn norm(&self, state: &State, norm: &Norm) -> Vec<f32> {
        self.norm_of(state, norm).unwrap()
    }

    fn norm_rows(&self, norm: &Norm, data: &[f32]) -> (Vec<f32>, flags::Flags) {
        self.norm_rows_of(norm, data).unwrap()
    }

    fn residual(&self, state: &State, delta: &[f32]) -> (State, flags::Flags) {
        self.residual_of(state, delta).unwrap()
    }

    fn quantise(&self, width: usize, data: &[f32]) -> (Vec<i16>, Vec<f32>, flags::Flags) {
        let (out, flags) = self.quantised(width, data).unwrap();
        let (codes, scales) = out.read().unwrap();
        (codes, scales, flags)
    }

    fn gate(&self, activation: Activation, width: usize, data: &[f32]) -> Vec<f32> {
        let (rows, _) = self.rows(width, data).unwrap();
        let mut out = Rows::new(&self.0).unwrap();
        self.0.gate(activation, &rows, &mut out).unwrap();
        out.read().unwrap()
    }

    fn embed(&self, table: &Packed, scale: f32, tokens: &[u32]) -> State {
        let (table, mut out) =
            (Matrix::new(&self.0, table).unwrap(), States::new(&self.0).unwrap());
        self.0.embed(&table, scale, tokens, &mut out).unwrap();
        out.read().unwrap()
    }

    fn large_logits(&self, width: usize, data: &[f32]) -> flags::Flags {
        let (rows, mut flags) = self.rows(width, data).unwrap();
        self.0.flag_logits(&rows, &mut flags).unwrap();
        flags.read().unwrap()
    }

    fn markers(&self, state: &State) -> flags::Flags {
        let mut flags = Flags::new(&self.0, 0).unwrap();
        self.0.flags_of(&self.states(state).unwrap(), &mut flags).unwrap();
        flags.read().unwrap()
    }

    fn product(&self, matrix: &Packed, data: &[f32], bias: Option<&[f32]>) -> (Vec<i64>, Vec<f32>) {
        self.product_of(matrix, data, bias).unwrap()
    }

    fn attend(&self, sessions: &Sessions) -> Attended {
        self.attended(sessions).unwrap()
    }

    fn decode(&self, steps: &Steps) -> Vec<Stepped> {
        self.stepped(steps).unwrap()
    }
}
