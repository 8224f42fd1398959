//! `tokenizer.json` field by field: small files with one feature each get the ids that the
//! `tokenizers` package of Python gives, or are refused with the field's name.
//!
//! `golden/tokenizers_json.py` makes the files and says how the ids were made.

use std::collections::BTreeMap;

use lockstep_exact::bytes::Canonical;
use lockstep_import::safetensors::{Folder, FolderError};
use lockstep_import::tokenizer::{
    self, ControlText, Definition, DefinitionError, FromGguf, Tokenizer,
};
use serde_json::{Value, json};

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/tokenizers.json")).unwrap()
}

/// The files of a folder beside `tokenizer.json`.
struct Beside {
    config: Value,
    settings: Value,
    generation: Value,
}

impl Default for Beside {
    fn default() -> Self {
        Self { config: json!({}), settings: json!({}), generation: json!({}) }
    }
}

/// What a folder without weights says about text.
fn read_beside(file: &Value, beside: &Beside) -> Result<FromGguf, FolderError> {
    let ordinary = match &file["model"]["vocab"] {
        Value::Object(ids) => ids.len() as u64,
        list => list.as_array().map_or(0, Vec::len) as u64,
    };
    let added = file["added_tokens"].as_array().into_iter().flatten();
    let size =
        added.filter_map(|token| token["id"].as_u64()).map(|id| id + 1).fold(ordinary, u64::max);
    let mut config = json!({
        "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": false, "vocab_size": size,
    });
    config.as_object_mut().unwrap().extend(beside.config.as_object().unwrap().clone());
    let bytes = |value: &Value| serde_json::to_vec(value).unwrap();
    let (config, tokens) = (bytes(&config), bytes(file));
    let (settings, generation) = (bytes(&beside.settings), bytes(&beside.generation));
    let no_weights: &[u8] = b"\x02\0\0\0\0\0\0\0{}";
    let folder = Folder {
        name: "tiny",
        license: None,
        config: &config,
        tokenizer: &tokens,
        tokenizer_config: Some(&settings),
        chat_template: None,
        more_chat_templates: BTreeMap::new(),
        generation_config: Some(&generation),
        index: None,
        weights: BTreeMap::from([("model.safetensors".to_owned(), no_weights)]),
    };
    let translated = folder.translate()?;
    Ok(tokenizer::read(&translated.gguf().unwrap()).unwrap())
}

fn read(file: &Value) -> Result<FromGguf, FolderError> {
    read_beside(file, &Beside::default())
}

#[test]
fn ids_are_those_of_the_package_that_files_are_made_for() {
    let golden = golden();
    let texts: Vec<&str> =
        golden["texts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect();
    let files = golden["files"].as_array().unwrap();
    assert!(files.len() > 50);
    for file in files {
        let name = file["name"].as_str().unwrap();
        let read = read(&file["file"]).unwrap_or_else(|error| panic!("{name}: {error}"));
        let ours = Tokenizer::new(read.vocabulary, read.definition).unwrap();
        for (text, ids) in texts.iter().zip(file["ids"].as_array().unwrap()) {
            let expected: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            let ids = ours.encode(text, ControlText::Parse);
            assert_eq!(ids.as_deref(), Ok(expected.as_slice()), "{name}: {text:?}");
        }
    }
}

/// The file of this name, changed.
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Result<FromGguf, FolderError> {
    let golden = golden();
    let file = golden["files"].as_array().unwrap().iter().find(|file| file["name"] == name);
    let mut file = file.unwrap()["file"].clone();
    change(&mut file);
    read(&file)
}

fn split(pattern: &Value, behavior: &str) -> Value {
    json!({"type": "Split", "pattern": pattern, "behavior": behavior})
}

#[test]
fn what_is_not_understood_is_refused_by_name() {
    let refused =
        |name: &str, change: &dyn Fn(&mut Value)| changed(name, change).unwrap_err().to_string();
    let bytes = |change: &dyn Fn(&mut Value)| refused("byte level", change);
    for (kind, message) in [
        ("WordPiece", "tokenizer.json: the model is of type \"WordPiece\"; only"),
        ("WordLevel", "tokenizer.json: the model is of type \"WordLevel\"; only"),
    ] {
        let error = bytes(&|file| file["model"]["type"] = json!(kind));
        assert!(error.starts_with(message), "{error}");
    }
    let dropout = bytes(&|file| file["model"]["dropout"] = json!(0.1));
    assert!(dropout.starts_with("tokenizer.json: model.dropout is 0.1: "), "{dropout}");
    for field in ["continuing_subword_prefix", "end_of_word_suffix"] {
        let error = bytes(&|file| file["model"][field] = json!("</w>"));
        assert!(
            error.starts_with(&format!("tokenizer.json: model.{field} is \"</w>\": ")),
            "{error}"
        );
        assert!(changed("byte level", |file| file["model"][field] = json!("")).is_ok());
    }
    let unknown = bytes(&|file| file["model"]["unk_token"] = json!("[none]"));
    assert!(unknown.starts_with("tokenizer.json: model.unk_token is \"[none]\": "), "{unknown}");
    let contradiction = json!({"type": "Metaspace", "replacement": "_",
        "prepend_scheme": "always", "add_prefix_space": false});
    let template =
        json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<none>"}}]});
    for (field, step) in [
        ("pre_tokenizer", json!({"type": "UnicodeScripts"})),
        ("pre_tokenizer", split(&json!({"Regex": "(a)\\1"}), "Isolated")),
        ("pre_tokenizer", split(&json!({"Regex": "a"}), "Sideways")),
        ("pre_tokenizer", split(&Value::Null, "Isolated")),
        ("pre_tokenizer", json!({"type": "Metaspace", "replacement": "__"})),
        ("pre_tokenizer", contradiction),
        ("pre_tokenizer", json!({"type": "Sequence"})),
        ("normalizer", json!({"type": "BertNormalizer"})),
        ("normalizer", json!({"type": "Precompiled", "precompiled_charsmap": "ALQCAACEAAA="})),
        ("normalizer", json!({"type": "Replace", "content": "x"})),
        ("post_processor", template),
        ("post_processor", json!({"type": "RobertaProcessing", "cls": "<s>"})),
        ("post_processor", json!({"type": "Something"})),
    ] {
        let error = bytes(&|file| file[field] = step.clone());
        assert!(error.starts_with(&format!("tokenizer.json: {field} is ")), "{step}: {error}");
    }
    let level = json!({"type": "ByteLevel"});
    let twice = json!({"type": "Sequence", "pretokenizers": [level, level]});
    let error = bytes(&|file| file["pre_tokenizer"] = twice.clone());
    assert!(error.contains("two ByteLevel steps"), "{error}");
}

#[test]
fn what_changes_no_ids_is_taken() {
    for (field, value) in [
        ("truncation", json!({"max_length": 4, "strategy": "LongestFirst", "stride": 0})),
        ("padding", json!({"strategy": {"Fixed": 9}, "pad_id": 0, "pad_token": "x"})),
        ("decoder", json!({"type": "ByteLevel"})),
        ("post_processor", json!({"type": "ByteLevel", "trim_offsets": false})),
    ] {
        let plain = changed("byte level", |_| ()).unwrap();
        assert_eq!(changed("byte level", |file| file[field] = value).unwrap(), plain, "{field}");
    }
}

/// Added tokens that are written with the character for a space: texts are searched for it, and
/// answers have spaces there.
#[test]
fn added_tokens_keep_the_mark_of_a_space_and_stand_for_spaces() {
    let name = "runs of marks are added tokens";
    let read = changed(name, |_| ()).unwrap();
    let marked = read.definition.marked.clone();
    assert_eq!(marked.len(), 2);
    assert_eq!(Definition::from_bytes(&read.definition.to_bytes()), Ok(read.definition.clone()));
    for id in &marked {
        assert!(read.vocabulary.token(*id).iter().all(|byte| *byte == b' '), "{id}");
    }
    for id in [0, 300, 9999] {
        let mut definition = read.definition.clone();
        definition.marked.insert(id);
        assert_eq!(definition.check(&read.vocabulary), Err(DefinitionError::Mark { id }));
    }
    let error = changed(name, |file| {
        let last = file["added_tokens"].as_array_mut().unwrap().last_mut().unwrap();
        (last["id"], last["content"]) = (json!(2000), json!("a \u{2581}b"));
    });
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("tokenizer.json: added_tokens is \"a \u{2581}b\": "), "{error}");
}

/// Llama 3 as it was before `ignore_merges`, and files that are written in other ways.
#[test]
fn one_rule_has_one_definition_however_it_is_written() {
    let plain = changed("llama 3 without whole pieces", |_| ()).unwrap();
    let as_escapes = changed("llama 3 without whole pieces", |file| {
        let regex = &mut file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"];
        let text = regex.as_str().unwrap().replace(r"\r", "\r").replace(r"\n", "\n");
        *regex = json!(text);
    });
    assert_eq!(as_escapes.unwrap(), plain);
    let joined = changed("llama 3 without whole pieces", |file| {
        let merges = file["model"]["merges"].as_array_mut().unwrap();
        for merge in merges {
            *merge =
                json!(format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()));
        }
        file["model"].as_object_mut().unwrap().remove("type");
    });
    assert_eq!(joined.unwrap(), plain);
}

/// A model stops at every id that its files list, whatever kind of token it is.
#[test]
fn all_ids_that_the_files_list_end_an_answer() {
    let golden = golden();
    let file = &golden["files"][0]["file"];
    let ends = |beside: &Beside| read_beside(file, beside).unwrap().end_tokens;
    // The vocabulary has a `</s>`, which ends answers wherever it occurs.
    assert_eq!(ends(&Beside::default()), [1]);
    let lists = Beside {
        config: json!({"eos_token_id": [40, 7]}),
        generation: json!({"eos_token_id": [7, 50, 999_999]}),
        ..Beside::default()
    };
    assert_eq!(ends(&lists), [1, 7, 40, 50]);
    let numbers = Beside {
        config: json!({"eos_token_id": 40}),
        generation: json!({"eos_token_id": 41, "pad_token_id": 3}),
        settings: json!({"eos_token": "<s>"}),
    };
    assert_eq!(ends(&numbers), [0, 1, 40, 41]);
    let nothing = Beside {
        config: json!({"eos_token_id": null}),
        generation: json!({"eos_token_id": ["x", -1, null]}),
        ..Beside::default()
    };
    assert_eq!(ends(&nothing), [1]);
}

/// Tokens before and behind a prompt, by the post-processor and by the settings.
#[test]
fn prompts_are_framed_as_the_files_say() {
    let template = |single: Value| {
        json!({"type": "TemplateProcessing", "single": single,
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}})
    };
    let special = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let names = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}});
    let framed = |post: &Value, settings: &Value| {
        let mut beside = Beside { settings: names.clone(), ..Beside::default() };
        beside.settings.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let mut file = golden()["files"][0]["file"].clone();
        file["post_processor"] = post.clone();
        let read = read_beside(&file, &beside).map_err(|error| error.to_string())?;
        let ours = Tokenizer::new(read.vocabulary, read.definition).unwrap();
        let ids = ours.encode_prompt("a", ControlText::Plain).unwrap();
        let a = ours.encode("a", ControlText::Plain).unwrap();
        let kept = |id: &u32| {
            if a.contains(id) {
                'a'
            } else if *id == 0 {
                '<'
            } else {
                '>'
            }
        };
        Ok::<_, String>(ids.iter().map(kept).collect::<String>())
    };
    let none = json!({});
    assert_eq!(framed(&Value::Null, &none).as_deref(), Ok("a"));
    let both = template(json!([special("<s>"), text, special("</s>")]));
    assert_eq!(framed(&both, &none).as_deref(), Ok("<a>"));
    assert_eq!(framed(&template(json!([special("<s>"), text])), &none).as_deref(), Ok("<a"));
    let sequence = json!({"type": "Sequence", "processors": [{"type": "ByteLevel"}, both]});
    assert_eq!(framed(&sequence, &none).as_deref(), Ok("<a>"));
    let roberta = json!({"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 1]});
    assert_eq!(framed(&roberta, &none).as_deref(), Ok("<a>"));
    let silent = json!({"add_bos_token": false, "add_eos_token": false});
    assert_eq!(framed(&both, &silent).as_deref(), Ok("a"));
    let loud = json!({"add_bos_token": true, "add_eos_token": true});
    assert_eq!(framed(&Value::Null, &loud).as_deref(), Ok("<a>"));
    let twice = template(json!([special("<s>"), special("<s>"), text]));
    let error = framed(&twice, &none).unwrap_err();
    assert!(error.starts_with("tokenizer.json: post_processor is tokens [0, 0]: "), "{error}");
}

/// Tokens that only the settings list are added, as `transformers` does.
#[test]
fn tokens_of_the_settings_are_added() {
    let beside = Beside {
        settings: json!({"added_tokens_decoder": {
            "0": {"content": "<s>", "special": true},
            "40": {"content": "<tool>", "special": true, "lstrip": false},
        }}),
        ..Beside::default()
    };
    let mut file = golden()["files"][0]["file"].clone();
    let ids = file["model"]["vocab"].as_object_mut().unwrap();
    let (text, _) = ids.iter().find(|(_, id)| **id == json!(40)).unwrap();
    let text = text.clone();
    ids.remove(&text);
    file["model"]["merges"] = json!([]);
    let config = json!({"vocab_size": file["model"]["vocab"].as_object().unwrap().len() + 1});
    let read = read_beside(&file, &Beside { config, ..beside }).unwrap();
    let ours = Tokenizer::new(read.vocabulary, read.definition).unwrap();
    assert_eq!(ours.encode("<tool>", ControlText::Parse), Ok(vec![40]));
}
