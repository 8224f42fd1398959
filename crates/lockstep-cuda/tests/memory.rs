//! A device without memory left: a typed error that ends the step, and nothing else. In a process
//! of its own, because it takes all the memory that there is.

use lockstep_cuda::{Cuda, Driver, Error, Gpu, Rows};
use lockstep_exact::forward::{self, Row, Scratch};
use lockstep_exact::kv::{KvCache as _, KvShape};
use lockstep_exact::ops::{Host as _, KvOf, Place};
use lockstep_exact::state::State;
use lockstep_exact::weights::load_span;
use lockstep_testing::tiny_model::{Sizes, TinyModel};

/// Takes the memory that is free, in large pieces and then smaller ones.
fn take_all(gpu: &Gpu) -> Vec<Rows> {
    let mut taken = Vec::new();
    for (rows, width) in [(65_535, 16_384), (4096, 16_384), (4096, 1024), (64, 1024), (1, 16)] {
        loop {
            let mut piece = Rows::new(gpu).unwrap();
            match gpu.zero_rows(rows, width, &mut piece) {
                Ok(()) => taken.push(piece),
                Err(Error::Memory { .. }) => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    taken
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo test --release -p lockstep-cuda -- --ignored"]
fn a_step_without_memory_is_refused_and_the_next_one_with_memory_is_done() {
    let driver = Driver::load().unwrap_or_else(|error| panic!("NOT RUN: {error}"));
    let gpu = Gpu::open(&driver, 0).unwrap_or_else(|error| panic!("NOT RUN: {error}"));
    let cuda = Cuda::open(&driver, 0).unwrap();
    let model = TinyModel::with_sizes(1, Sizes { layers: 1, ..Sizes::default() });
    let layers = load_span(&cuda, &model.manifest, 0..1, |b| model.blob(b)).unwrap();
    let shapes: Vec<KvShape> = layers.iter().map(|layer| layer.kv_shape()).collect();
    let step = || {
        let mut cache = KvOf::<Cuda>::new(&shapes);
        let rows = [Row { place: Place { slot: 0, position: 0 }, feeds_head: true }];
        let state = cuda.put_state(State::zeros(1, 64))?;
        let scratch = &mut Scratch::default();
        let out =
            forward::forward(&cuda, &layers, &rows, &mut [&mut cache], state, scratch, &mut ())?;
        cuda.read_state(&out).map(|state| state.into_owned())
    };
    let expected = step().unwrap();
    // A page of another size than any that was given back before.
    let large = KvShape { kv_heads: 16, head_dim: 1024 };
    let taken = take_all(&gpu);
    let mut kv = lockstep_cuda::Kv::new(large);
    let error = kv.write(&gpu, 0, &vec![0; large.row_bytes()]).unwrap_err();
    assert!(matches!(error, Error::Memory { .. }), "{error}");
    let state = State::zeros(1024, 32_768);
    let refused = cuda.put_state(state.clone()).map(drop);
    assert!(matches!(refused, Err(Error::Memory { .. })), "{refused:?}");
    drop(taken);
    assert_eq!(step().unwrap(), expected, "the device is of use");
    assert!(cuda.put_state(state).is_ok());
}
