//! The reference cache, its rows and the states' bytes: what is kept, freed and refused.

use lockstep_exact::kv::{
    KvCache, KvRow, KvRowError, KvShape, PAGE, ReadKv as _, ReferenceKv, is_scale,
};
use lockstep_exact::num;
use lockstep_exact::state::{self, State, StateError};
use lockstep_testing::numbers::Numbers;

const SHAPE: KvShape = KvShape { kv_heads: 2, head_dim: 4 };

fn row(numbers: &mut Numbers) -> Vec<u8> {
    let mut codes = || -> Vec<i8> {
        (0..SHAPE.width()).map(|_| (numbers.below(255) as i16 - 127) as i8).collect()
    };
    let (key_codes, value_codes) = (codes(), codes());
    let mut scales = || (0..SHAPE.kv_heads).map(|_| 0.5 + numbers.signed_unit() * 0.25).collect();
    let row = KvRow { key_codes, value_codes, key_scales: scales(), value_scales: scales() };
    let mut bytes = Vec::new();
    row.write(&mut bytes);
    bytes
}

fn read(cache: &ReferenceKv, layer: usize, position: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    cache.read_row(layer, position, &mut bytes);
    bytes
}

#[test]
fn a_cache_gives_back_what_it_was_given_and_frees_whole_pages() {
    let mut numbers = Numbers::new(1);
    let mut cache: ReferenceKv = KvCache::new(&[SHAPE; 2]);
    assert!(cache.is_empty());
    let count = 2 * PAGE + 10;
    let rows: Vec<[Vec<u8>; 2]> =
        (0..count).map(|_| [row(&mut numbers), row(&mut numbers)]).collect();
    for (position, [first, second]) in rows.iter().enumerate() {
        cache.write_row(0, position, first).unwrap();
        assert_eq!(cache.len(), position, "the other layer has none yet");
        cache.write_row(1, position, second).unwrap();
        assert_eq!(cache.len(), position + 1);
    }
    assert_eq!(cache.pages(), 6);
    for (len, pages) in [(count, 6), (2 * PAGE + 1, 6), (2 * PAGE, 4), (PAGE + 1, 4), (PAGE, 2)] {
        cache.truncate(len);
        assert_eq!((cache.len(), cache.pages()), (len, pages));
        for (layer, row) in rows[len - 1].iter().enumerate() {
            assert_eq!(&read(&cache, layer, len - 1), row, "last of {len}");
        }
    }
    cache.truncate(PAGE + 7);
    assert_eq!(cache.len(), PAGE, "truncating adds nothing");
    cache.truncate(3);
    assert_eq!((cache.len(), cache.pages()), (3, 2));
    cache.write_row(0, 3, &rows[9][0]).unwrap();
    cache.write_row(1, 3, &rows[9][1]).unwrap();
    assert_eq!(read(&cache, 1, 3), rows[9][1], "rows are written anew after a truncation");
    cache.truncate(0);
    assert_eq!((cache.len(), cache.pages(), cache.is_empty()), (0, 0, true));
}

#[test]
fn a_kv_row_that_no_quantisation_gives_is_refused() {
    let mut numbers = Numbers::new(2);
    let good = row(&mut numbers);
    assert_eq!(good.len(), SHAPE.row_bytes());
    for len in [0, good.len() - 1, good.len() + 1] {
        let mut bytes = good.clone();
        bytes.resize(len, 0);
        let error = KvRowError::Length { expected: good.len(), got: len };
        assert_eq!(KvRow::parse(SHAPE, &bytes), Err(error));
    }
    for at in 0..2 * SHAPE.width() {
        let mut bytes = good.clone();
        bytes[at] = 0x80;
        assert_eq!(KvRow::parse(SHAPE, &bytes), Err(KvRowError::Code), "code {at}");
    }
    for at in (2 * SHAPE.width()..good.len()).step_by(4) {
        for bad in [-0.0, -1.0, 1e-20, 1e30, f32::INFINITY, f32::NAN] {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
            assert_eq!(KvRow::parse(SHAPE, &bytes), Err(KvRowError::Scale), "{bad} at {at}");
        }
    }
    let mut cache: ReferenceKv = KvCache::new(&[SHAPE]);
    assert!(cache.write_row(0, 0, &good[1..]).is_err());
    assert_eq!(cache.len(), 0, "a refused row is not written");
}

#[test]
fn every_scale_of_quantisation_is_a_scale_of_a_row() {
    let mut numbers = Numbers::new(3);
    let edges = [num::TINY_BITS, num::TINY_BITS + 1, num::OVERFLOW_BITS - 1, 0];
    let random = (0..4000).map(|_| num::TINY_BITS + numbers.below(95 << 23) as u32);
    for bits in edges.into_iter().chain(random.collect::<Vec<_>>()) {
        let mut codes = [0_i8; 1];
        let scale = num::quantise(&[f32::from_bits(bits)], 127.0, &mut codes).unwrap();
        assert!(is_scale(scale), "{bits:08x} has scale {scale}");
        assert_eq!(codes[0], if bits == 0 { 0 } else { 127 }, "{bits:08x}");
    }
}

#[test]
fn encoded_states_are_canonical_and_read_back() {
    let mut numbers = Numbers::new(4);
    for _ in 0..2000 {
        let spread = 1 + numbers.below(90) as i32;
        let values: Vec<f32> = (0..40)
            .map(|_| {
                let exponent = numbers.below(spread as u64) as i32 - spread / 2;
                numbers.signed_unit() * num::pow2(exponent)
            })
            .collect();
        let mut state = State::zeros(1, 40);
        let (mantissas, exponents) = state.row_mut(0);
        for (group, exponent) in exponents.iter_mut().enumerate() {
            let range = 32 * group..(32 * group + 32).min(40);
            *exponent = state::encode_group(&values[range.clone()], &mut mantissas[range]).unwrap();
        }
        let parsed = State::parse(40, &state.to_bytes()).unwrap();
        assert_eq!(parsed, state);
        // Encoding what a state stands for changes nothing: it has one form.
        let again: Vec<f32> = (0..40).map(|element| state.value(0, element)).collect();
        let mut mantissas = [0; 32];
        let byte = state::encode_group(&again[..32], &mut mantissas).unwrap();
        assert_eq!((byte, &mantissas[..]), (state.exponents(0)[0], &state.mantissas(0)[..32]));
    }
}

#[test]
fn a_state_that_is_not_canonical_is_refused_at_its_group() {
    let row = |mantissas: [i16; 40], exponents: [u8; 2]| {
        let mut bytes: Vec<u8> = mantissas.iter().flat_map(|m| m.to_le_bytes()).collect();
        bytes.extend(exponents);
        bytes
    };
    let with = |at: usize, mantissa: i16| {
        let mut mantissas = [0; 40];
        mantissas[at] = mantissa;
        mantissas
    };
    let good = row([0; 40], [0, 0]);
    let accepted =
        [row(with(39, 16_384), [0, 74]), row(with(0, -32_767), [168, 0]), row([0; 40], [255, 255])];
    for bytes in &accepted {
        assert!(State::parse(40, bytes).is_ok());
    }
    let refused = [
        (0, row(with(0, 1), [0, 0])),
        (0, row([0; 40], [128, 0])),
        (1, row(with(39, 16_383), [0, 128])),
        (1, row(with(39, i16::MIN), [0, 128])),
        (1, row(with(39, 16_384), [0, 73])),
        (1, row(with(39, 16_384), [0, 169])),
        (0, row([0; 40], [255, 0])),
        (1, row([0; 40], [0, 255])),
        (1, row(with(32, 1), [255, 255])),
    ];
    for (group, bytes) in refused {
        let bytes = [good.clone(), bytes].concat();
        assert_eq!(State::parse(40, &bytes), Err(StateError::Group { row: 1, group }));
    }
    let error = StateError::Length { row_bytes: 82, got: 81 };
    assert_eq!(State::parse(40, &good[1..]), Err(error));
    assert!(State::parse(0, &[]).is_err());
}
