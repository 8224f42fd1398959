//! The keys and values of one session, on the device.

use std::collections::BTreeMap;

use lockstep_exact::kv::{KvCache, KvRow, KvRowError, KvShape};

use crate::driver::Error;
use crate::gpu::Gpu;
use crate::kv::Kv;

/// The cache of a session: one [`Kv`] for each layer.
///
/// It knows no device until a batch is appended. Rows that are written before wait in the host's
/// memory, and go to the device with that batch.
#[derive(Debug)]
pub struct Cache {
    layers: Vec<Kv>,
    /// For each layer the rows that wait, by position.
    waiting: Vec<BTreeMap<usize, Vec<u8>>>,
    /// The layer from which layers are counted.
    entered: usize,
}

impl Cache {
    /// Returns a layer's keys and values after all rows that wait have gone to the device.
    pub(super) fn layer(&mut self, gpu: &Gpu, layer: usize) -> Result<&mut Kv, Error> {
        let layer = self.entered + layer;
        let (kv, waiting) = (&mut self.layers[layer], &mut self.waiting[layer]);
        let mut run: Option<(usize, usize, Vec<u8>)> = None;
        for (position, row) in std::mem::take(waiting) {
            match &mut run {
                Some((_, next, rows)) if *next == position => {
                    *next += 1;
                    rows.extend(row);
                }
                _ => {
                    write(gpu, kv, run.replace((position, position + 1, row)))?;
                }
            }
        }
        write(gpu, kv, run)?;
        Ok(kv)
    }

    /// Returns the keys and values of the next `count` layers, when every row of them that waits
    /// has gone to the device.
    pub(super) fn next(&mut self, gpu: &Gpu, count: usize) -> Result<&mut [Kv], Error> {
        for layer in 0..count {
            self.layer(gpu, layer)?;
        }
        Ok(&mut self.layers[self.entered..][..count])
    }

    /// Returns a layer's keys and values as they are on the device.
    pub(super) fn on_device(&self, layer: usize) -> &Kv {
        &self.layers[self.entered + layer]
    }

    fn len_of(&self, layer: usize) -> usize {
        let waiting = self.waiting[layer].last_key_value().map_or(0, |(position, _)| position + 1);
        self.layers[layer].len().max(waiting)
    }
}

/// Writes a run of rows, if there is one: its first position, that after its last, and the rows.
fn write(gpu: &Gpu, kv: &mut Kv, run: Option<(usize, usize, Vec<u8>)>) -> Result<(), Error> {
    let Some((first, _, rows)) = run else { return Ok(()) };
    match kv.write(gpu, first, &rows)? {
        Ok(()) => Ok(()),
        // They were checked when they came.
        Err(_) => Err(super::missing("canonical rows of keys and values")),
    }
}

impl KvCache for Cache {
    fn new(layers: &[KvShape]) -> Self {
        let waiting = vec![BTreeMap::new(); layers.len()];
        Self { layers: layers.iter().map(|&shape| Kv::new(shape)).collect(), waiting, entered: 0 }
    }

    fn enter(&mut self, layer: usize) {
        self.entered = layer;
    }

    fn len(&self) -> usize {
        // default: a cache of no layers holds no position
        (0..self.layers.len()).map(|layer| self.len_of(layer)).min().unwrap_or(0)
    }

    fn pages(&self) -> usize {
        self.layers.iter().map(|kv| kv.pages().len()).sum()
    }

    fn truncate(&mut self, len: usize) {
        for (kv, waiting) in self.layers.iter_mut().zip(&mut self.waiting) {
            drop(waiting.split_off(&len));
            kv.truncate(len);
        }
    }

    fn write_row(&mut self, layer: usize, position: usize, row: &[u8]) -> Result<(), KvRowError> {
        let layer = self.entered + layer;
        KvRow::parse(self.layers[layer].shape(), row)?;
        self.waiting[layer].insert(position, row.to_vec());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_wait_for_the_device_count_are_checked_and_can_be_forgotten() {
        let shape = KvShape { kv_heads: 1, head_dim: 4 };
        let mut cache = Cache::new(&[shape, shape]);
        let row = vec![0; shape.row_bytes()];
        for position in 0..3 {
            assert_eq!(cache.write_row(0, position, &row), Ok(()));
        }
        assert_eq!(cache.len(), 0, "the second layer has none");
        assert_eq!(cache.write_row(1, 0, &row), Ok(()));
        assert_eq!(cache.len(), 1);
        let short = KvRowError::Length { expected: row.len(), got: 1 };
        assert_eq!(cache.write_row(1, 1, &[0]), Err(short));
        assert_eq!(cache.write_row(1, 1, &row), Ok(()));
        assert_eq!(cache.write_row(1, 2, &row), Ok(()));
        assert_eq!((cache.len(), cache.pages()), (3, 0));
        cache.truncate(1);
        assert_eq!((cache.len_of(0), cache.len_of(1)), (1, 1));
    }
}
