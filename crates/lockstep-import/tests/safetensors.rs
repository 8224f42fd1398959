//! Folders of safetensors files: the same package as from a GGUF file, and what is refused.

mod support;

use std::collections::BTreeMap;

use lockstep_exact::Digest;
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_import::safetensors::{FolderError, weight_files};
use serde_json::{Value, json};
use support::family::cases;
use support::folder::{Parts, folder, gguf, weights};
use support::{File, HIDDEN, LAYERS, Meta, drive, family};

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
fn every_familys_model_has_one_id_from_a_gguf_file_and_from_a_folder() {
    for (case, mut file) in cases() {
        let folder = Parts::of(case, &mut file);
        assert_eq!(folder.id(), Ok(gguf_id(&file)), "{case}");
    }
}

/// A folder of Gemma with a part for images, as published folders have it in one way or another.
fn with_images(plain: &Parts, before: &str, images: &str) -> Parts {
    let mut folder = plain.clone();
    let mut text = folder.config.take();
    text["model_type"] = json!("gemma3_text");
    folder.config = json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
        "boi_token_index": 5, "eoi_token_index": 6, "image_token_index": 7,
        "mm_tokens_per_image": 256, "vision_config": {"hidden_size": 1152}, "text_config": text,
    });
    for (name, ..) in &mut folder.tensors {
        *name = match before.strip_suffix("language_model.").unwrap() {
            "" => format!("{before}{name}"),
            outer => name.replacen(outer, before, 1),
        };
    }
    let image = (format!("{images}.patch.weight"), "F32", vec![2], vec![0; 8]);
    folder.tensors.push(image);
    folder
}

#[test]
fn of_a_gemma_that_sees_images_the_language_model_is_taken() {
    let mut file = cases().into_iter().find(|(case, _)| *case == "gemma3").unwrap().1;
    let plain = Parts::of("gemma3", &mut file);
    let id = plain.id().unwrap();
    for (before, images) in [
        ("language_model.", "vision_tower"),
        ("language_model.", "multi_modal_projector"),
        ("model.language_model.", "model.vision_tower"),
    ] {
        assert_eq!(with_images(&plain, before, images).id(), Ok(id), "{before} {images}");
    }
    let folder = with_images(&plain, "language_model.", "vision_tower");
    let mut heard = folder.clone();
    heard.tensors.last_mut().unwrap().0 = "audio_tower.weight".to_owned();
    let error = heard.id().unwrap_err();
    assert!(error.contains("audio_tower.weight"), "{error}");
    let mut heard = folder.clone();
    heard.config["audio_config"] = json!({"layers": 2});
    let error = heard.id().unwrap_err();
    assert!(error.contains("audio_config"), "{error}");
    let mut inside = folder.clone();
    inside.config["text_config"]["final_logit_softcapping"] = json!(30.0);
    let error = inside.id().unwrap_err();
    assert!(error.contains("final_logit_softcapping"), "{error}");
    // What published settings leave out is what the architecture has for it.
    let (mut unsaid, mut said) = (folder, plain);
    unsaid.config["text_config"].as_object_mut().unwrap().remove("rms_norm_eps");
    said.config["rms_norm_eps"] = json!(1e-6);
    assert_eq!(unsaid.id(), said.id());
}

/// Biases of queries and keys have the order of their rows.
#[test]
fn biases_that_the_settings_speak_of_are_read_and_all_are_needed() {
    let (mut folder, mut file) = (folder(), gguf());
    family::biases(&mut file);
    for layer in 0..LAYERS {
        family::add(&mut file, &format!("blk.{layer}.attn_output.bias"), HIDDEN, 0.0);
    }
    let with = Parts::of("llama", &mut file);
    folder.tensors = with.tensors;
    let unknown = "tensor \"model.layers.0.self_attn.k_proj.bias\" does not belong to a plain \
                   llama model; it cannot be imported";
    assert_eq!(folder.id().unwrap_err(), unknown);
    folder.config["attention_bias"] = json!(true);
    assert_eq!(folder.id(), Ok(gguf_id(&file)));
    folder.tensors.retain(|(name, ..)| !name.ends_with("o_proj.bias"));
    let missing = "config.json: attention_bias asks for 8 biases; there are 6";
    assert_eq!(folder.id().unwrap_err(), missing);
}

/// Settings of newer and older exporters that say the same.
#[test]
fn rotary_settings_are_read_in_both_forms() {
    let id = |case: &str, change: &dyn Fn(&mut Value)| {
        let (_, mut file) = cases().into_iter().find(|(name, _)| *name == case).unwrap();
        let mut folder = Parts::of(case, &mut file);
        change(&mut folder.config);
        let id = folder.id();
        assert_eq!(id, Ok(gguf_id(&file)), "{case}");
    };
    let take = |config: &mut Value, key: &str| config.as_object_mut().unwrap().remove(key);
    id("qwen3", &|config| {
        let base = take(config, "rope_theta");
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": base});
        take(config, "rope_scaling");
    });
    id("gemma3-linear", &|config| {
        for key in ["rope_theta", "rope_scaling", "rope_local_base_freq", "layer_types"] {
            take(config, key);
        }
        config["rope_parameters"] = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        });
    });
    id("gemma3", &|config| {
        for key in ["rope_theta", "rope_local_base_freq", "_sliding_window_pattern"] {
            take(config, key);
        }
    });
    id("phi3-long", &|config| {
        let mut rope = take(config, "rope_scaling").unwrap();
        for key in ["rope_theta", "partial_rotary_factor", "original_max_position_embeddings"] {
            rope[key] = take(config, key).unwrap();
        }
        config["rope_parameters"] = rope;
    });
}

#[test]
fn ids_of_tokens_may_be_in_the_configuration_and_past_the_model() {
    let (mut folder, mut file) = (folder(), gguf());
    folder.settings = json!({"bos_token": null, "chat_template": "{{ messages[0].content }}"});
    folder.config["bos_token_id"] = json!(5);
    folder.config["eos_token_id"] = json!([262, 261]);
    file.set("tokenizer.ggml.bos_token_id", Meta::U32(5));
    file.set("tokenizer.ggml.eos_token_id", Meta::U32(262));
    file.set("tokenizer.ggml.eot_token_id", Meta::U32(261));
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    assert_eq!(folder.id(), Ok(gguf_id(&file)));
    let past = json!({"id": 265, "content": "<image>", "special": true});
    folder.tokenizer["added_tokens"].as_array_mut().unwrap().push(past);
    assert_eq!(folder.id(), Ok(gguf_id(&file)));
}

#[test]
fn a_head_of_its_own_is_taken_unless_the_embedding_is_tied() {
    let mut folder = folder();
    let (_, dtype, shape, mut bytes) = folder.tensors[0].clone();
    bytes.reverse();
    for (at, byte) in bytes.chunks_exact_mut(4).enumerate() {
        byte.copy_from_slice(&((at % 7) as f32 / 4.0).to_le_bytes());
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
    // A GGUF file's tokens are looked for in the text before anything rewrites it.
    let added = |id: usize, special: bool| {
        let content = &texts[id];
        json!({"id": id, "content": content, "special": special, "normalized": false})
    };
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
    let metaspace = |scheme: &str| {
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme,
            "split": false})
    };
    let mut other = Parts { tokenizer: folder.tokenizer.clone(), ..folder };
    other.tokenizer["normalizer"] = Value::Null;
    // A space that is put only where none stands is something else.
    other.tokenizer["pre_tokenizer"] = metaspace("first");
    assert_ne!(other.id(), Ok(gguf_id(&file)));
    other.tokenizer["pre_tokenizer"] = metaspace("never");
    file.set("tokenizer.ggml.add_space_prefix", Meta::Bool(false));
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
        "config.json: the model is of type \"mamba\"; folders of \"llama\", \"mistral\", \
         \"mixtral\", \"qwen2\", \"qwen2_moe\", \"qwen3\", \"qwen3_moe\", \"gemma3_text\" and \
         \"phi3\" models can be imported",
    );
    for (key, value) in [
        ("hidden_act", json!("gelu")),
        ("mlp_bias", json!(true)),
        ("layer_types", json!(["full_attention"])),
        ("query_pre_attn_scalar", json!(8)),
        ("sliding_window", json!(4096)),
        ("rope_scaling", json!({"factor": 8.0})),
        ("rope_parameters", json!({"rope_type": "yarn", "rope_theta": 10000.0})),
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
fn settings_that_a_family_does_not_have_are_refused() {
    for (case, key, value) in [
        ("llama3", "rope_scaling", json!({"rope_type": "llama3", "factor": 8.0})),
        ("mistral-window", "attention_bias", json!(true)),
        ("mistral-window", "layer_types", json!(["sliding_attention", "full_attention"])),
        ("qwen2", "use_sliding_window", json!(true)),
        ("qwen3", "attention_bias", json!(true)),
        ("qwen3", "rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        ("gemma3", "final_logit_softcapping", json!(30.0)),
        ("gemma3", "hidden_act", json!("silu")),
        ("gemma3", "layer_types", json!(["full_attention", "sliding_attention"])),
        ("gemma3", "query_pre_attn_scalar", json!(16)),
        ("gemma3", "use_bidirectional_attention", json!(true)),
        ("phi3", "rope_scaling", json!({"type": "linear", "factor": 2.0})),
        ("qwen3", "rope_parameters", json!({"rope_theta": 1e4, "rope_type": "dynamic"})),
        ("phi3-long", "rope_scaling", json!({"type": "longrope", "long_factor": ["a"]})),
        ("mixtral", "norm_topk_prob", json!(true)),
        ("mixtral", "mlp_only_layers", json!([0])),
        ("qwen2moe", "norm_topk_prob", json!("yes")),
        ("qwen3moe", "shared_expert_intermediate_size", json!(40)),
        ("qwen3moe", "num_local_experts", json!(4)),
        ("qwen3moe", "qkv_bias", json!(true)),
        ("qwen2", "num_experts", json!(4)),
    ] {
        let (_, mut file) = cases().into_iter().find(|(name, _)| *name == case).unwrap();
        let mut folder = Parts::of(case, &mut file);
        let words = format!("config.json: {key:?} is {value}, which cannot be imported");
        folder.config[key] = value;
        assert_eq!(folder.id().unwrap_err(), words, "{case}");
    }
}

/// What training tools and Python's classes leave behind changes nothing.
#[test]
fn settings_that_say_nothing_about_answers_are_left_alone() {
    let plain = folder();
    let mut noted = plain.clone();
    for (key, value) in [
        ("_attn_implementation", json!("sdpa")),
        ("attention_dropout", json!(0.1)),
        ("id2label", json!({"0": "LABEL_0"})),
        ("is_decoder", json!(true)),
        ("max_length", json!(20)),
        ("neftune_noise_alpha", json!(5)),
        ("return_dict", json!(true)),
        ("temperature", json!(1.0)),
        ("trained_by", json!("somebody")),
    ] {
        noted.config[key] = value;
    }
    assert_eq!(noted.id(), plain.id());
}

#[test]
fn quantised_folders_are_refused_by_name_with_what_to_fetch_instead() {
    let words = |by: &str| {
        format!(
            "the weights are quantised by {by}, which cannot be imported: fetch the original \
             folder (F16 or BF16), or a GGUF file of the model (Q8_0, Q4_K_M); --weights w4 makes \
             4-bit weights of either"
        )
    };
    for (settings, by) in [
        (json!({"quant_method": "awq", "bits": 4}), "AWQ in 4 bits"),
        (json!({"quant_method": "gptq", "bits": 8}), "GPTQ in 8 bits"),
        (json!({"load_in_4bit": true}), "bitsandbytes in 4 bits"),
        (json!({"quant_method": "compressed-tensors"}), "compressed-tensors"),
        (json!({"quant_method": "fp8", "weight_block_size": [128, 128]}), "FP8"),
        (json!({"quant_method": "mxfp4"}), "MXFP4"),
        (json!({"quant_method": "new"}), "new"),
        (json!({"x": 1}), "a method that config.json does not name"),
    ] {
        refused(|f| f.config["quantization_config"] = settings, &words(by));
    }
    refused(|f| f.config["quantization"] = json!({"bits": 4}), &words("MLX in 4 bits"));
    for (end, by) in
        [("qweight", "GPTQ or AWQ"), ("q_weight", "EXL2"), ("weight.SCB", "bitsandbytes")]
    {
        let name = format!("model.layers.0.self_attn.q_proj.{end}");
        refused(|f| f.tensors[3].0 = name, &words(by));
    }
}

#[test]
fn files_of_a_folder_that_are_something_else_are_named() {
    use lockstep_import::foreign::Foreign;
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n";
    let error = weight_files(pointer).unwrap_err();
    let (file, is) = ("model.safetensors.index.json".to_owned(), Foreign::LfsPointer);
    assert_eq!(error, FolderError::Foreign { file, is });
    assert!(error.to_string().contains("git lfs pull"), "{error}");
}

/// Which layers have experts is said by settings and by tensors.
#[test]
fn experts_are_in_the_layers_that_the_settings_say() {
    let case = |name: &str| cases().into_iter().find(|(case, _)| *case == name).unwrap().1;
    for (name, key, value, layer, has) in [
        ("qwen3moe", "mlp_only_layers", json!([1]), 1, "no experts"),
        ("qwen3moe", "decoder_sparse_step", json!(2), 0, "no experts"),
        ("qwen3moe", "decoder_sparse_step", json!(0), 0, "no experts"),
        ("qwen3moe-dense", "mlp_only_layers", json!([]), 0, "experts"),
    ] {
        let mut folder = Parts::of(name, &mut case(name));
        folder.config[key] = value;
        let words =
            format!("config.json: layer {layer} should have {has}; its tensors say otherwise");
        assert_eq!(folder.id().unwrap_err(), words);
    }
    let mut folder = Parts::of("qwen3moe-dense", &mut case("qwen3moe-dense"));
    let by_list = folder.id().unwrap();
    folder.config["mlp_only_layers"] = json!([]);
    folder.config["decoder_sparse_step"] = json!(2);
    assert_eq!(folder.id(), Ok(by_list));
    folder.config["mlp_only_layers"] = json!([-1]);
    let words = "config.json: \"mlp_only_layers\" is not what was expected";
    assert_eq!(folder.id().unwrap_err(), words);
}

/// Gemma's layers with a window have rotary parameters of their own, which must be plain.
#[test]
fn local_rotary_settings_must_be_plain() {
    let (_, mut file) = cases().into_iter().find(|(name, _)| *name == "gemma3").unwrap();
    let mut folder = Parts::of("gemma3", &mut file);
    for local in [json!({"rope_type": "yarn"}), json!({"rope_theta": 1e4, "factor": 2.0})] {
        folder.config["rope_parameters"] =
            json!({"full_attention": {"rope_theta": 1e6}, "sliding_attention": local});
        let words =
            format!("config.json: \"rope_parameters\" is {local}, which cannot be imported");
        assert_eq!(folder.id().unwrap_err(), words);
    }
}

#[test]
fn tokenizers_that_are_not_understood_are_refused() {
    refused(
        |f| f.tokenizer["normalizer"] = json!({"type": "BertNormalizer"}),
        "tokenizer.json: normalizer is {\"type\":\"BertNormalizer\"}: no step that is known here",
    );
    refused(
        |f| f.tokenizer["model"]["type"] = json!("Unigram"),
        "tokenizer.json: model.vocab is a table of ids: a model of type \"Unigram\" has another",
    );
    refused(
        |f| f.tokenizer["model"]["type"] = json!("WordPiece"),
        "tokenizer.json: the model is of type \"WordPiece\"; only \"BPE\" and \"Unigram\" can be \
         imported",
    );
    refused(
        |f| f.tokenizer["model"]["merges"][0] = json!("th"),
        "tokenizer.json: merge 0 is not two tokens with a space between them",
    );
    refused(
        |f| f.tokenizer["model"]["vocab"]["x"] = json!(265),
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
        "tensor \"model.layers.0.self_attn.q_proj.weight\" is stored as \"F8_E4M3\" (8-bit \
         floats); F32, F16 and BF16 can be imported, and quantised models as GGUF files: fetch the \
         original folder or a GGUF file (Q8_0, Q4_K_M)",
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
        "tensor \"model.layers.0.self_attn.q_proj.bias\" does not belong to a plain llama model; \
         it cannot be imported",
    );
    // The same part under a second name.
    let again = |f: &mut Parts| {
        let mut tensor = f.tensors[3].clone();
        tensor.0 = "model.layers.00.self_attn.q_proj.weight".to_owned();
        f.tensors.push(tensor);
    };
    refused(again, "tensor \"blk.0.attn_q.weight\" occurs twice");
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

/// The fuzz target on every family's folder, whole and damaged.
#[test]
fn fuzz_folder_with_damaged_bytes() {
    let mut seed = 1_u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for (case, mut file) in cases() {
        let folder = Parts::of(case, &mut file);
        let json = |value: &Value| serde_json::to_vec(value).unwrap();
        let parts = [json(&folder.config), json(&folder.tokenizer), weights(&folder.tensors)];
        let len = |part: &[u8]| (part.len() as u16).to_le_bytes();
        let whole =
            [&len(&parts[0])[..], &len(&parts[1]), &parts[0], &parts[1], &parts[2]].concat();
        assert!(drive::folder(&whole), "{case}");
        for round in 0..600 {
            let mut bytes = whole.clone();
            // Half of the damage is in the settings.
            let within = match round % 2 {
                0 => parts[0].len(),
                _ => parts[0].len() + parts[1].len() + 2500,
            };
            for _ in 0..1 + next() % 3 {
                bytes[next() % within] = b" 0189\"{}[],:x\xff"[next() % 14];
            }
            drive::folder(&bytes);
        }
    }
}
