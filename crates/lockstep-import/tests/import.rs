//! What an import writes: every weight where it belongs, the same package from equal files.

mod support;

use lockstep_exact::Digest;
use lockstep_exact::blob::Blob;
use lockstep_exact::manifest::Manifest;
use lockstep_exact::matrix::{Codec, Packed};
use lockstep_exact::plan::MatrixRef;
use lockstep_exact::reference::Reference;
use lockstep_exact::weights::{load_head, load_span};
use lockstep_import::package::{ImportError, MemorySink, ModelFile, Sink};
use lockstep_import::tokenizer::{ControlText, Tokenizer};
use support::{File, HEAD_DIM, HEADS, HIDDEN, INNER, KV_HEADS, LAYERS, Meta, Tensor, tiny};

struct Package {
    manifest: Manifest,
    sink: MemorySink,
}

impl Package {
    fn of(file: &File) -> Self {
        let mut sink = MemorySink::default();
        let bytes = file.bytes();
        let manifest = ModelFile::open(&bytes).unwrap().import(&mut sink, |_| ()).unwrap();
        Self { manifest, sink }
    }

    fn blob(&self, index: u32) -> Blob {
        let blob = self.manifest.blobs[index as usize];
        let bytes = self.sink.get(&blob.digest).unwrap();
        assert_eq!((Digest::of(bytes), bytes.len() as u64), (blob.digest, blob.len));
        Blob::new(bytes.to_vec())
    }

    fn matrix(&self, blob: u32, matrix: &MatrixRef) -> Packed {
        let slice = self.blob(blob).slice(matrix.offset as usize, matrix.shape().packed_bytes());
        let packed = Packed::new(matrix.shape(), slice.unwrap()).unwrap();
        assert_eq!(Digest::of(packed.bytes()), matrix.digest);
        packed
    }
}

/// Makes every number of a matrix's row `r` the same power of two times `r + 1`.
fn number_rows(file: &mut File, name: &str, rows: usize, columns: usize) {
    let numbers = (0..rows).flat_map(|row| vec![(row + 1) as f32; columns]);
    file.numbers(name, numbers.collect::<Vec<_>>());
}

/// Makes row `r` of a matrix one in column `r` and zero elsewhere.
fn mark_rows(file: &mut File, name: &str, rows: usize, columns: usize) {
    let number = |at: usize| if at % columns == at / columns { 1.0 } else { 0.0 };
    file.numbers(name, (0..rows * columns).map(number).collect::<Vec<_>>());
}

/// Reads back which marked row a packed row was, whatever it was multiplied by.
fn marked_row(packed: &Packed, row: usize) -> usize {
    (0..packed.shape().columns).find(|&column| packed.weight(row, column) != 0).unwrap()
}

/// Reads back which source row a packed row was, if every number in it is the same.
fn source_row(packed: &Packed, row: usize) -> f32 {
    (packed.weight(row, 0) as f32 * packed.row_scale(row)).round() - 1.0
}

#[test]
fn query_and_key_rows_go_from_interleaved_to_half_split_pairs() {
    let mut file = tiny();
    let (queries, kv) = (HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    mark_rows(&mut file, "blk.1.attn_q.weight", queries, HIDDEN);
    mark_rows(&mut file, "blk.1.attn_k.weight", kv, HIDDEN);
    mark_rows(&mut file, "blk.1.attn_v.weight", kv, HIDDEN);
    let package = Package::of(&file);
    let plan = &package.manifest.layers[1];
    let qkv = package.matrix(plan.blob, &plan.parts.qkv.matrix);
    // Heads of 8 rows: 0, 2, 4, 6 turn with 1, 3, 5, 7.
    let head = [0, 2, 4, 6, 1, 3, 5, 7];
    let rotated = |row: usize| row / HEAD_DIM * HEAD_DIM + head[row % HEAD_DIM];
    let expected: Vec<usize> =
        (0..queries).map(rotated).chain((0..kv).map(rotated)).chain(0..kv).collect();
    let got: Vec<usize> = (0..qkv.shape().rows).map(|row| marked_row(&qkv, row)).collect();
    assert_eq!(got, expected);
}

#[test]
fn gate_lies_above_up_and_every_other_matrix_keeps_its_rows() {
    let mut file = tiny();
    number_rows(&mut file, "blk.0.ffn_gate.weight", INNER, HIDDEN);
    number_rows(&mut file, "blk.0.ffn_up.weight", INNER, HIDDEN);
    number_rows(&mut file, "blk.0.ffn_down.weight", HIDDEN, INNER);
    number_rows(&mut file, "blk.0.attn_output.weight", HIDDEN, HEADS * HEAD_DIM);
    number_rows(&mut file, "token_embd.weight", 265, HIDDEN);
    let package = Package::of(&file);
    let plan = &package.manifest.layers[0];
    let rows = |blob, matrix| {
        let packed = package.matrix(blob, matrix);
        (0..packed.shape().rows).map(|row| source_row(&packed, row) as usize).collect::<Vec<_>>()
    };
    let gated = plan.parts.feed_forward.dense().unwrap();
    assert_eq!(
        rows(plan.blob, &gated.gate_up.matrix),
        (0..INNER).chain(0..INNER).collect::<Vec<_>>()
    );
    assert_eq!(rows(plan.blob, &gated.down.matrix), (0..HIDDEN).collect::<Vec<_>>());
    assert_eq!(rows(plan.blob, &plan.parts.output.matrix), (0..HIDDEN).collect::<Vec<_>>());
    let head = &package.manifest.head;
    assert_eq!(rows(head.embedding_blob, &head.embedding), (0..265).collect::<Vec<_>>());
}

#[test]
fn the_package_loads_and_its_weights_are_close_to_the_files() {
    let file = tiny();
    let package = Package::of(&file);
    let all = 0..LAYERS as u32;
    let layers = load_span(&Reference, &package.manifest, all, |b| package.blob(b)).unwrap();
    assert_eq!(layers.len(), LAYERS);
    load_head(&Reference, &package.manifest, |b| package.blob(b)).unwrap();
    let mut source = file.clone();
    let plan = &package.manifest.layers[1];
    let down = package.matrix(plan.blob, &plan.parts.feed_forward.dense().unwrap().down.matrix);
    let numbers = source.tensor("blk.1.ffn_down.weight").bytes.as_chunks::<4>().0.to_vec();
    for (at, number) in numbers.into_iter().enumerate() {
        let (row, column) = (at / INNER, at % INNER);
        let stored = down.weight(row, column) as f32 * down.row_scale(row);
        assert!((stored - f32::from_le_bytes(number)).abs() < 0.5 / 127.0, "{row}, {column}");
    }
}

#[test]
fn a_tied_embedding_is_stored_once_and_an_output_matrix_has_its_own_blob() {
    let mut file = tiny();
    let tied = Package::of(&file).manifest;
    assert_eq!((tied.head.blob, tied.head.output), (tied.head.embedding_blob, tied.head.embedding));
    assert_eq!(tied.blobs.len(), 3 + LAYERS);
    let mut output = file.tensor("token_embd.weight").clone();
    output.name = "output.weight".to_owned();
    file.tensors.push(output);
    let package = Package::of(&file);
    let head = package.manifest.head;
    assert_ne!(head.blob, head.embedding_blob);
    assert_eq!(package.manifest.blobs.len(), 4 + LAYERS);
    let (output, embedding) = (
        package.matrix(head.blob, &head.output),
        package.matrix(head.embedding_blob, &head.embedding),
    );
    assert_eq!(output.bytes(), embedding.bytes());
}

#[test]
fn the_order_of_a_file_and_what_it_says_beside_the_model_change_nothing() {
    let mut file = tiny();
    let id = Package::of(&file).manifest.id();
    file.pairs.reverse();
    file.tensors.reverse();
    file.set("general.description", Meta::Str("another file of the same model".to_owned()));
    file.set("general.alignment", Meta::U32(64));
    file.alignment = 64;
    assert_eq!(Package::of(&file).manifest.id(), id);
    file.set("general.license", Meta::Str("proprietary".to_owned()));
    assert_ne!(Package::of(&file).manifest.id(), id);
}

#[test]
fn equal_weights_in_another_unquantised_type_give_the_same_package() {
    let mut file = tiny();
    for tensor in &mut file.tensors {
        let keep_high = |number: &[u8; 4]| [0, 0, number[2], number[3]];
        tensor.bytes = tensor.bytes.as_chunks::<4>().0.iter().flat_map(keep_high).collect();
    }
    let id = Package::of(&file).manifest.id();
    for tensor in &mut file.tensors {
        let high = |number: &[u8; 4]| [number[2], number[3]];
        tensor.bytes = tensor.bytes.as_chunks::<4>().0.iter().flat_map(high).collect();
        tensor.ty = 30;
    }
    assert_eq!(Package::of(&file).manifest.id(), id);
}

#[test]
fn one_changed_weight_changes_one_layers_blob_only() {
    let mut file = tiny();
    let before = Package::of(&file).manifest;
    file.tensor("blk.1.ffn_up.weight").bytes[2] ^= 0x40;
    let after = Package::of(&file).manifest;
    assert_ne!(before.id(), after.id());
    let changed: Vec<usize> = (0..before.blobs.len())
        .filter(|at| before.blobs[*at].digest != after.blobs[*at].digest)
        .collect();
    assert_eq!(changed, [before.layers[1].blob as usize]);
}

#[test]
fn frequency_factors_slow_their_pairs_down() {
    let mut file = tiny();
    let plain = Package::of(&file).manifest.ropes[0].frequencies.clone();
    let bytes = [1.0_f32, 2.0, 4.0, 8.0].into_iter().flat_map(f32::to_le_bytes).collect();
    let name = "rope_freqs.weight".to_owned();
    file.tensors.push(Tensor { name, dims: vec![4], ty: 0, bytes, offset: None });
    let slowed = Package::of(&file).manifest.ropes[0].frequencies.clone();
    assert_eq!(plain.len(), HEAD_DIM / 2);
    for (pair, (plain, slowed)) in plain.iter().zip(slowed).enumerate() {
        assert!((plain >> pair).abs_diff(slowed) <= 1, "pair {pair}");
    }
}

#[test]
fn contexts_past_the_arithmetics_limit_are_cut_to_it() {
    let mut file = tiny();
    file.set("llama.context_length", Meta::U64(u64::from(u32::MAX)));
    assert_eq!(Package::of(&file).manifest.context, 1 << 20);
}

#[test]
fn the_packages_tokenizer_is_the_files() {
    let package = Package::of(&tiny());
    let blob = |index| package.blob(index);
    let (vocabulary, definition) =
        (blob(package.manifest.vocabulary_blob), blob(package.manifest.tokenizer_blob));
    let tokenizer = Tokenizer::from_blobs(vocabulary.as_slice(), definition.as_slice()).unwrap();
    let encode = |text, control| tokenizer.encode(text, control).unwrap();
    let text = "<|im_start|> the thin user-word9";
    let merged = [261, 258, 32, 256, 260, 32, 264, 57];
    assert_eq!(encode(text, ControlText::Parse), merged);
    let plain = encode(text, ControlText::Plain);
    assert!(plain.ends_with(&merged[1..]) && !plain.contains(&261));
    assert_eq!(tokenizer.decode(&plain, ControlText::Plain), text);
    assert_eq!(encode("[unused]", ControlText::Parse).len(), 8);
    assert_eq!(package.manifest.end_tokens, [262]);
}

#[test]
fn every_matrix_blob_is_allocated_once_and_fits_the_memory_that_was_stated() {
    struct Exact(u64);
    impl Sink for Exact {
        type Error = String;
        fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, String> {
            let (len, room) = (bytes.len(), bytes.capacity());
            if len != room || len as u64 > self.0 {
                return Err(format!("{len} bytes in room for {room}, {} stated", self.0));
            }
            Ok(Digest::of(&bytes))
        }
    }
    let tied = tiny();
    let mut untied = tiny();
    let mut output = untied.tensor("token_embd.weight").clone();
    output.name = "output.weight".to_owned();
    untied.tensors.push(output);
    for file in [tied, untied] {
        for codec in Codec::ALL {
            let bytes = file.bytes();
            let model = ModelFile::open(&bytes).unwrap().with_weights(codec);
            let mut sink = Texts(2, Exact(model.facts().memory_bytes));
            model.import(&mut sink, |_| ()).unwrap();
        }
    }
}

#[test]
fn layers_come_in_either_codec_and_what_that_costs_is_stated() {
    let bytes = tiny().bytes();
    let mut costs = Vec::new();
    for codec in Codec::ALL {
        let model = ModelFile::open(&bytes).unwrap().with_weights(codec);
        let mut sink = MemorySink::default();
        let (manifest, loss) = model.import_measured(&mut sink, |_| ()).unwrap();
        let package = Package { manifest, sink };
        let blobs = package.manifest.blobs.iter().map(|blob| blob.len).sum::<u64>();
        assert_eq!(blobs, model.facts().package_bytes, "{codec}");
        assert_eq!(package.manifest.head.output.codec, Codec::W8);
        assert_eq!(package.manifest.head.embedding.codec, Codec::W8);
        for layer in &package.manifest.layers {
            let qkv = package.matrix(layer.blob, &layer.parts.qkv.matrix);
            assert_eq!(qkv.shape().codec, Codec::W8);
            for (_, product) in &layer.parts.products()[1..] {
                assert_eq!(package.matrix(layer.blob, &product.matrix).shape().codec, codec);
            }
        }
        let again = model.import_measured(&mut MemorySink::default(), |_| ()).unwrap();
        assert_eq!(again, (package.manifest, loss), "the same file gives the same package");
        costs.push((blobs, loss.relative()));
    }
    let [(w8_bytes, w8_loss), (w4_bytes, w4_loss)] = costs[..] else { panic!("two codecs") };
    assert!(w4_bytes < w8_bytes);
    assert!(w8_loss < 0.01, "{w8_loss}");
    assert!(w8_loss < w4_loss && w4_loss < 0.1, "{w4_loss}");
}

/// Lets the first blobs, which are texts, pass.
struct Texts<S>(u32, S);

impl<S: Sink> Sink for Texts<S> {
    type Error = S::Error;
    fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, S::Error> {
        if self.0 == 0 {
            return self.1.put_blob(bytes);
        }
        self.0 -= 1;
        Ok(Digest::of(&bytes))
    }
}

#[test]
fn a_failing_sink_ends_the_import_with_its_error() {
    struct Full(u32);
    impl Sink for Full {
        type Error = &'static str;
        fn put_blob(&mut self, bytes: Vec<u8>) -> Result<Digest, &'static str> {
            self.0 = self.0.checked_sub(1).ok_or("the disk is full")?;
            Ok(Digest::of(&bytes))
        }
    }
    let bytes = tiny().bytes();
    let model = ModelFile::open(&bytes).unwrap();
    for room in 0..5 {
        let error = model.import(&mut Full(room), |_| ()).unwrap_err();
        assert_eq!(error, ImportError::Sink("the disk is full"));
        assert_eq!(error.to_string(), "could not keep a blob: the disk is full");
    }
    assert!(model.import(&mut Full(5), |_| ()).is_ok());
}
