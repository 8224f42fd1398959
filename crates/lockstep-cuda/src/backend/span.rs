//! Weights, and decode steps that are one launch: [`Backend`].

use lockstep_exact::forward::{Probe, Row};
use lockstep_exact::matrix::Packed;
use lockstep_exact::weights::{Backend, LayerOf, PrepareError};

use super::{Cache, Cuda, Slot, lock};
use crate::decode::{Decoded, Input, Step};
use crate::driver::Error;
use crate::gpu::Gpu;
use crate::kv::Kv;
use crate::limits::{STEP_POSITIONS, STEP_ROWS};
use crate::products::Matrix;
use crate::rows::States;
use crate::span::Path;

impl Backend for Cuda {
    fn prepare(&self, matrix: Packed) -> Result<Matrix, PrepareError<Error>> {
        self.answer(|gpu| Matrix::new(gpu, &matrix)).map_err(PrepareError::Device)
    }

    /// A decode step: one new position of each of up to 8 sessions, through layers without experts.
    fn span<P: Probe>(
        &self,
        layers: &[LayerOf<Self>],
        rows: &[Row],
        caches: &mut [&mut Cache],
        state: &Slot<States>,
        probe: &mut P,
    ) -> Result<Option<Slot<States>>, Error> {
        if P::SEES.sums || P::SEES.middle || !are_one_each(layers, rows, caches.len()) {
            return Ok(None);
        }
        let Ok(path) = Path::new(layers) else { return Ok(None) };
        let stepped = self.answer(|gpu| {
            let Some(mut sessions) = sessions(gpu, rows, caches, layers.len())? else {
                return Ok(None);
            };
            let mut steps = lock(&self.steps);
            let Some(step) = step_for(gpu, path, rows, &mut steps)? else { return Ok(None) };
            step_of(gpu, path, step, rows, state.get()?, &mut sessions).map(Some)
        });
        let Some((decoded, out)) = stepped? else { return Ok(None) };
        show::<P>(&decoded, layers, rows, probe);
        Ok(Some(out))
    }
}

/// Returns whether a batch has one row of each session, each of which gets a state.
fn are_one_each(layers: &[LayerOf<Cuda>], rows: &[Row], caches: usize) -> bool {
    let ends = layers.last().is_some_and(|layer| layer.is_last);
    let mut seen = vec![false; caches];
    let mut is_new =
        |slot: usize| seen.get_mut(slot).is_some_and(|seen| !std::mem::replace(seen, true));
    (1..=STEP_ROWS).contains(&rows.len())
        && rows.iter().all(|row| (row.feeds_head || !ends) && is_new(row.place.slot))
}

/// Returns each row's session's keys and values of the layers that the batch goes through, if the
/// row is the next of its session.
fn sessions<'a>(
    gpu: &Gpu,
    rows: &[Row],
    caches: &'a mut [&mut Cache],
    layers: usize,
) -> Result<Option<Vec<&'a mut [Kv]>>, Error> {
    let mut of_slot: Vec<Option<&mut [Kv]>> = Vec::with_capacity(caches.len());
    for cache in caches.iter_mut() {
        of_slot.push(Some(cache.next(gpu, layers)?));
    }
    let mut sessions = Vec::with_capacity(rows.len());
    for row in rows {
        let Some(layers) = of_slot.get_mut(row.place.slot).and_then(Option::take) else {
            return Ok(None);
        };
        if layers.iter().any(|layer| layer.len() != row.place.position) {
            return Ok(None);
        }
        sessions.push(layers);
    }
    Ok(Some(sessions))
}

/// Returns the memory for steps of so many rows along these layers: what there is, or new.
fn step_for<'a>(
    gpu: &Gpu,
    path: Path<'_>,
    rows: &[Row],
    steps: &'a mut [Option<Step>; STEP_ROWS],
) -> Result<Option<&'a mut Step>, Error> {
    let end = rows.iter().map(|row| row.place.position + 1).max().unwrap_or(0);
    let Some(slot) = steps.get_mut(rows.len().saturating_sub(1)) else { return Ok(None) };
    let goes = match slot.as_ref() {
        Some(step) => step.goes(path, end)?,
        None => false,
    };
    if !goes {
        *slot = None;
        let positions = end.next_power_of_two().max(STEP_POSITIONS);
        match Step::along(gpu, path, rows.len(), positions) {
            Ok(step) => *slot = Some(step),
            // A device that can't do such steps.
            Err(Error::Shape { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(slot.as_mut())
}

/// Does a step. If it fails, the sessions have no more positions than before.
fn step_of(
    gpu: &Gpu,
    path: Path<'_>,
    step: &mut Step,
    rows: &[Row],
    state: &States,
    sessions: &mut [&mut [Kv]],
) -> Result<(Decoded, Slot<States>), Error> {
    let mut done = || {
        gpu.decode_along(path, step, Input::OnDevice(state), sessions)?;
        let mut out = Slot::default();
        step.last_states(out.room(gpu)?)?;
        Ok((step.read()?, out))
    };
    let stepped = done();
    if stepped.is_err() {
        for (row, layers) in rows.iter().zip(sessions) {
            layers.iter_mut().for_each(|layer| layer.truncate(row.place.position));
        }
    }
    stepped
}

/// Shows a step to a probe.
fn show<P: Probe>(decoded: &Decoded, layers: &[LayerOf<Cuda>], rows: &[Row], probe: &mut P) {
    for (index, layer) in layers.iter().enumerate() {
        if P::SEES.kv {
            let row = |session| decoded.kv_row(index, session);
            let kv: Vec<u8> = (0..rows.len()).flat_map(row).copied().collect();
            probe.kv(layer.layer, rows, &kv);
        }
        if P::SEES.state {
            probe.state(layer.layer, rows, &decoded.states(index + 1));
        }
    }
}
