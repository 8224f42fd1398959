//! Folders of safetensors files: the same package as from a GGUF file, and what is refused.

mod support;

use std::collections::BTreeMap;

use lockstep_exact::Digest;
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_import::safetensors::{Folder, FolderError, weight_files};
use serde_json::{Value, json};
use support::{File, HEAD_DIM, HIDDEN, INNER, LAYERS, Meta, drive, tiny, tokens};

/// The tiny model as a GGUF file whose unused token has the name that folders give it.
fn gguf() -> File {
    let mut file = tiny();
    file.strings("tokenizer.ggml.tokens")[263] = "[PAD263]".to_owned();
    file
}

/// Name, type, shape and bytes of a tensor.
type Stored = (String, &'static str, Vec<u64>, Vec<u8>);

/// A model's folder, each file to be changed before it is written.
#[derive(Clone)]
struct Parts {
    config: Value,
    tokenizer: Value,
    settings: Value,
    tensors: Vec<Stored>,
}

/// Rows of each head, from interleaved to half-split.
fn half_split(bytes: &[u8], row_bytes: usize) -> Vec<u8> {
    let rows: Vec<&[u8]> = bytes.chunks_exact(row_bytes).collect();
    let heads = rows.chunks_exact(HEAD_DIM);
    let split = heads.flat_map(|head| {
        let every_other = |first: usize| head.iter().skip(first).step_by(2).copied();
        every_other(0).chain(every_other(1)).collect::<Vec<_>>()
    });
    split.collect::<Vec<_>>().concat()
}

fn their_name(name: &str) -> String {
    let parts = [
        ("token_embd", "model.embed_tokens"),
        ("output_norm", "model.norm"),
        ("blk.", "model.layers."),
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    parts.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

fn folder() -> Parts {
    let tensors = gguf().tensors.into_iter().map(|tensor| {
        let is_turned = tensor.name.contains("attn_q") || tensor.name.contains("attn_k");
        let bytes =
            if is_turned { half_split(&tensor.bytes, HIDDEN * 4) } else { tensor.bytes.clone() };
        let shape = tensor.dims.iter().rev().copied().collect();
        (their_name(&tensor.name), "F32", shape, bytes)
    });
    let vocab: BTreeMap<String, usize> =
        tokens().into_iter().enumerate().map(|(id, text)| (text, id)).collect();
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "special": special, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false})
    };
    Parts {
        config: json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "attention_bias": false, "mlp_bias": false, "rope_scaling": null,
            "tie_word_embeddings": true, "torch_dtype": "float32", "initializer_range": 0.02,
            "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 265,
        }),
        tokenizer: json!({
            "version": "1.0",
            "added_tokens": [
                added(261, "<|im_start|>", true), added(262, "<|im_end|>", true),
                added(264, "user-word", false),
            ],
            "normalizer": null,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": true},
                {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                    "use_regex": true},
            ]},
            "post_processor": null,
            "model": {"type": "BPE", "vocab": vocab,
                "merges": ["t h", "th e", ["\u{120}", "the"], "\u{120} t", "i n"]},
        }),
        settings: json!({"add_bos_token": false, "bos_token": "<|im_start|>",
            "eos_token": {"content": "<|im_end|>"},
            "chat_template": "{{ messages[0].content }}"}),
        tensors: tensors.collect(),
    }
}

/// A safetensors file of these tensors.
fn weights(tensors: &[Stored]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend(bytes);
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn import(folder: &Folder<'_>) -> Result<Digest, String> {
    let translated = folder.translate().map_err(|error| error.to_string())?;
    let model = ModelFile::open_folder(&translated).map_err(|error| error.to_string())?;
    let manifest = model.import(&mut MemorySink::default(), |_| ());
    manifest.map(|manifest| manifest.id()).map_err(|error| error.to_string())
}

impl Parts {
    /// Imports the folder with its weights in one file per slice, and an index if there are more.
    fn id_in(&self, shards: &[&[Stored]]) -> Result<Digest, String> {
        let names: Vec<String> = match shards.len() {
            1 => vec!["model.safetensors".to_owned()],
            count => {
                (1..=count).map(|n| format!("model-{n:05}-of-{count:05}.safetensors")).collect()
            }
        };
        let map: serde_json::Map<String, Value> = shards
            .iter()
            .zip(&names)
            .flat_map(|(shard, file)| shard.iter().map(move |t| (t.0.clone(), json!(file))))
            .collect();
        let index = serde_json::to_vec(&json!({"metadata": {}, "weight_map": map})).unwrap();
        let bytes: Vec<Vec<u8>> = shards.iter().map(|shard| weights(shard)).collect();
        if shards.len() > 1 {
            assert_eq!(weight_files(&index), Ok(names.clone()));
        }
        let index = (shards.len() > 1).then_some(&index[..]);
        let weights = names.into_iter().zip(bytes.iter().map(Vec::as_slice)).collect();
        self.with(index, weights)
    }

    fn with(
        &self,
        index: Option<&[u8]>,
        weights: BTreeMap<String, &[u8]>,
    ) -> Result<Digest, String> {
        let json = |value: &Value| serde_json::to_vec(value).unwrap();
        let (config, tokenizer) = (json(&self.config), json(&self.tokenizer));
        let settings = json(&self.settings);
        import(&Folder {
            name: "tiny",
            license: Some("MIT"),
            config: &config,
            tokenizer: &tokenizer,
            tokenizer_config: Some(&settings),
            chat_template: None,
            index,
            weights,
        })
    }

    fn id(&self) -> Result<Digest, String> {
        self.id_in(&[&self.tensors])
    }
}

fn gguf_id(file: &File) -> Digest {
    let file = file.bytes();
    let model = ModelFile::open(&file).unwrap();
    model.import(&mut MemorySink::default(), |_| ()).unwrap().id()
}

#[test]
fn a_model_has_one_id_from_a_gguf_file_and_from_a_folder() {
    let folder = folder();
    assert_eq!(folder.id(), Ok(gguf_id(&gguf())));
    let (first, second) = folder.tensors.split_at(5);
    assert_eq!(folder.id_in(&[first, second]), Ok(gguf_id(&gguf())));
    let mut other = gguf();
    other.tensor("blk.0.attn_q.weight").bytes[2] ^= 0x40;
    assert_ne!(folder.id(), Ok(gguf_id(&other)));
}

#[test]
fn a_head_of_its_own_is_taken_unless_the_embedding_is_tied() {
    let mut folder = folder();
    let (_, dtype, shape, mut bytes) = folder.tensors[0].clone();
    bytes.reverse();
    for byte in bytes.chunks_exact_mut(4) {
        byte.copy_from_slice(&0.25_f32.to_le_bytes());
    }
    folder.tensors.push(("lm_head.weight".to_owned(), dtype, shape, bytes.clone()));
    assert_eq!(folder.id(), Ok(gguf_id(&gguf())));
    folder.config["tie_word_embeddings"] = json!(false);
    let mut file = gguf();
    let head =
        support::Tensor { name: "output.weight".to_owned(), bytes, ..file.tensors[0].clone() };
    file.tensors.push(head);
    assert_eq!(folder.id(), Ok(gguf_id(&file)));
}

#[test]
fn half_precision_is_read_as_in_gguf_files() {
    let (mut folder, mut file) = (folder(), gguf());
    for (tensor, theirs) in folder.tensors.iter_mut().zip(&mut file.tensors) {
        let halves = |bytes: &[u8]| {
            let (words, _) = bytes.as_chunks::<4>();
            words.iter().flat_map(|[_, _, low, high]| [*low, *high]).collect::<Vec<u8>>()
        };
        tensor.1 = "BF16";
        tensor.3 = halves(&tensor.3);
        (theirs.ty, theirs.bytes) = (30, halves(&theirs.bytes));
    }
    assert_eq!(folder.id(), Ok(gguf_id(&file)));
}

#[test]
fn pieces_of_a_folder_are_those_of_a_gguf_file() {
    let mut file = support::tiny_pieces();
    file.set("tokenizer.ggml.add_space_prefix", Meta::Bool(true));
    let texts = file.strings("tokenizer.ggml.tokens").clone();
    let mut folder = folder();
    let added =
        |id: usize, special: bool| json!({"id": id, "content": texts[id], "special": special});
    let vocab: BTreeMap<&String, usize> = texts.iter().zip(0..).collect();
    folder.tokenizer = json!({
        "added_tokens": [added(0, true), added(1, true), added(2, true), added(259, false)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u{2581}"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        ]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]},
        "model": {"type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "vocab": vocab,
            "merges": [["\u{2581}", "t"]]},
    });
    folder.settings = json!({"bos_token": "<s>", "eos_token": "</s>",
        "chat_template": [{"name": "default", "template": "{{ messages[0].content }}"}]});
    assert_eq!(folder.id(), Ok(gguf_id(&file)));
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}",
        "prepend_scheme": "first", "split": false});
    let other = Parts { tokenizer: folder.tokenizer.clone(), ..folder };
    let mut other = other;
    other.tokenizer["normalizer"] = Value::Null;
    other.tokenizer["pre_tokenizer"] = metaspace;
    assert_eq!(other.id(), Ok(gguf_id(&file)));
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Parts), expected: &str) {
    let mut folder = folder();
    change(&mut folder);
    assert_eq!(folder.id().unwrap_err(), expected);
}

#[test]
fn configurations_that_are_not_understood_are_refused() {
    refused(
        |f| f.config["model_type"] = json!("mamba"),
        "config.json: the model is of type \"mamba\"; folders of \"llama\" and \"mistral\" models \
         can be imported, and GGUF files of others",
    );
    for (key, value) in [
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("sliding_window", json!(4096)),
        ("rope_scaling", json!({"factor": 8.0})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 10000.0})),
        ("quantization_config", json!({"bits": 4})),
        ("partial_rotary_factor", json!(0.5)),
    ] {
        let words = format!("config.json: {key:?} is {value}, which cannot be imported");
        refused(|f| f.config[key] = value, &words);
    }
    refused(
        |f| drop(f.config.as_object_mut().unwrap().remove("rms_norm_eps")),
        "config.json: \"rms_norm_eps\" is missing",
    );
    refused(
        |f| f.config["num_attention_heads"] = json!(0),
        "config.json: \"num_attention_heads\" is not what was expected",
    );
    refused(
        |f| f.config["hidden_size"] = json!("32"),
        "config.json: \"hidden_size\" is not what was expected",
    );
    refused(
        |f| f.config["vocab_size"] = json!(1_u64 << 40),
        "config.json: vocab_size is 1099511627776; the limit is 1048576",
    );
}

#[test]
fn tokenizers_that_are_not_understood_are_refused() {
    const SPLITTING: &str = "tokenizer.json splits text by rules that are not known here; guessing \
                             would give wrong tokens";
    refused(|f| f.tokenizer["normalizer"] = json!({"type": "NFKC"}), SPLITTING);
    refused(|f| f.tokenizer["pre_tokenizer"] = Value::Null, SPLITTING);
    refused(|f| f.tokenizer["model"]["ignore_merges"] = json!(true), SPLITTING);
    refused(
        |f| f.tokenizer["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true),
        SPLITTING,
    );
    refused(|f| f.tokenizer["model"]["byte_fallback"] = json!(true), SPLITTING);
    refused(
        |f| f.tokenizer["model"]["type"] = json!("Unigram"),
        "tokenizer.json: the model is of type \"Unigram\"; only \"BPE\" can be imported",
    );
    refused(
        |f| f.tokenizer["model"]["merges"][0] = json!("th"),
        "tokenizer.json: merge 0 is not two tokens with a space between them",
    );
    refused(
        |f| f.tokenizer["added_tokens"][0]["rstrip"] = json!(true),
        "tokenizer.json: token 261 is matched together with its surroundings (lstrip, rstrip or \
         single_word), which cannot be imported",
    );
    refused(
        |f| f.tokenizer["added_tokens"][0]["id"] = json!(265),
        "tokenizer.json: there is a token 265, but the model has 265 ids",
    );
    refused(
        |f| f.tokenizer["added_tokens"][0]["id"] = json!(5),
        "tokenizer.json: there are two tokens 5",
    );
    refused(
        |f| f.settings["eos_token"] = json!("</s>"),
        "tokenizer_config.json: eos_token is \"</s>\", which is no token of the model",
    );
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    refused(
        |f| f.tensors[3].1 = "F8_E4M3",
        "tensor \"model.layers.0.self_attn.q_proj.weight\" is stored as \"F8_E4M3\"; F32, F16 and \
         BF16 can be imported, and quantised models as GGUF files",
    );
    refused(
        |f| f.tensors[1].2 = vec![33],
        "tensor \"model.norm.weight\" needs 132 bytes and has the range 33920 to 34048 of the \
         data, which has 108288; the file is truncated or damaged",
    );
    for shape in [vec![], vec![32, 0], vec![1; 5], vec![u64::MAX, 2]] {
        let words = format!(
            "tensor \"model.norm.weight\" has the shape {shape:?}: 1 to 4 dimensions of at least 1 \
             were expected"
        );
        refused(|f| f.tensors[1].2 = shape, &words);
    }
    refused(
        |f| f.tensors[3].0 = "model.layers.0.self_attn.q_proj.bias".to_owned(),
        "tensor \"model.layers.0.self_attn.q_proj.bias\" does not belong to a plain Llama model; \
         it cannot be imported",
    );
    refused(|f| drop(f.tensors.remove(1)), "tensor \"output_norm.weight\" is missing");
    refused(|f| f.tensors.truncate(12), "tensor \"blk.1.attn_q.weight\" is missing");
}

#[test]
fn shards_and_indexes_at_odds_are_refused() {
    let folder = folder();
    let (first, second) = folder.tensors.split_at(5);
    let (first, second) = (weights(first), weights(second));
    let files = || {
        let name = |n: u32| format!("{n}.safetensors");
        BTreeMap::from([(name(1), &first[..]), (name(2), &second[..])])
    };
    let names = |count: usize, file: &dyn Fn(usize) -> u32| {
        let map: serde_json::Map<String, Value> = (folder.tensors.iter().take(count).enumerate())
            .map(|(at, t)| (t.0.clone(), json!(format!("{}.safetensors", file(at)))))
            .collect();
        serde_json::to_vec(&json!({"weight_map": map})).unwrap()
    };
    let right = |at| if at < 5 { 1 } else { 2 };
    let with = |index: Option<&[u8]>| folder.with(index, files());
    assert!(with(Some(&names(99, &right))).is_ok());
    assert_eq!(with(None).unwrap_err(), "2 files of weights without model.safetensors.index.json");
    assert_eq!(
        with(Some(&names(99, &|_| 1))).unwrap_err(),
        "the index says that tensor \"model.layers.0.mlp.down_proj.weight\" is in \
         \"1.safetensors\"; it is not"
    );
    assert!(with(Some(&names(19, &right))).unwrap_err().ends_with("is not in the index"));
    let twice = BTreeMap::from([("1".to_owned(), &first[..]), ("2".to_owned(), &first[..])]);
    let error = folder.with(Some(&names(5, &right)), twice).unwrap_err();
    assert_eq!(error, "tensor \"model.embed_tokens.weight\" occurs twice");
    for name in
        ["../model.safetensors", "/x.safetensors", "x.bin", ".safetensors", "a\\b.safetensors"]
    {
        let index = serde_json::to_vec(&json!({"weight_map": {"t": name}})).unwrap();
        assert_eq!(weight_files(&index), Err(FolderError::FileName { name: name.to_owned() }));
    }
}

#[test]
fn damaged_files_of_weights_are_refused() {
    let folder = folder();
    let whole = weights(&folder.tensors);
    let opened =
        |bytes: &[u8]| folder.with(None, BTreeMap::from([("model.safetensors".to_owned(), bytes)]));
    assert!(opened(&whole).is_ok());
    for len in (0..whole.len()).step_by(997) {
        assert!(opened(&whole[..len]).is_err(), "{len} bytes");
    }
    let with_header = |header: &str| {
        let bytes =
            [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat();
        opened(&bytes).unwrap_err()
    };
    assert_eq!(
        opened(&u64::MAX.to_le_bytes()).unwrap_err(),
        "model.safetensors: the header has 18446744073709551615 bytes; the limit is 67108864"
    );
    let entry = r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16]}"#;
    assert_eq!(
        with_header(&format!(r#"{{"a":{entry},"a":{entry}}}"#)),
        "tensor \"a\" occurs twice"
    );
    assert_eq!(
        with_header(&format!(r#"{{"a":{entry},"b":{entry}}}"#)),
        "tensors \"a\" and \"b\" overlap"
    );
    assert!(with_header("[]").starts_with("model.safetensors: "));
    assert!(with_header(&"[".repeat(100_000)).starts_with("model.safetensors: "));
    let backwards = r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#;
    assert!(with_header(backwards).contains("has the range 16 to 0"));
}

/// The fuzz target on this folder's files, whole and damaged.
#[test]
fn fuzz_folder_with_damaged_bytes() {
    let folder = folder();
    let json = |value: &Value| serde_json::to_vec(value).unwrap();
    let parts = [json(&folder.config), json(&folder.tokenizer), weights(&folder.tensors)];
    let joined = |parts: &[Vec<u8>; 3]| {
        let len = |part: &[u8]| (part.len() as u16).to_le_bytes();
        [&len(&parts[0])[..], &len(&parts[1]), &parts[0], &parts[1], &parts[2]].concat()
    };
    let whole = joined(&parts);
    assert!(drive::folder(&whole));
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + next() % 3 {
            let place = next() % (parts[0].len() + parts[1].len() + 2500);
            bytes[place] = b" 0189\"{}[],:x\xff"[next() % 14];
        }
        drive::folder(&bytes);
    }
}
