//! Models with several chat templates: one package from GGUF files and folders, and bounds.

mod support;

use lockstep_exact::Digest;
use lockstep_import::gguf::Gguf;
use lockstep_import::limits::{MAX_TEMPLATE_BYTES, MAX_TEMPLATES};
use lockstep_import::package::{MemorySink, ModelFile};
use lockstep_import::tokenizer;
use serde_json::{Value, json};
use support::folder::{Parts, folder, gguf};
use support::{File, Meta};

/// The key of the template that has no name.
const KEY: &str = "tokenizer.chat_template";

fn text(source: &str) -> Meta {
    Meta::Str(source.to_owned())
}

/// The tiny model with templates under these keys.
fn with(templates: &[(&str, &str)]) -> File {
    let mut file = gguf();
    file.remove(KEY);
    for (key, source) in templates {
        file.set(&format!("{KEY}{key}"), text(source));
    }
    file
}

fn id(file: &File) -> Digest {
    let bytes = file.bytes();
    let model = ModelFile::open(&bytes).unwrap();
    model.import(&mut MemorySink::default(), |_| ()).unwrap().id()
}

/// Names and sources of a file's templates.
fn read(file: &File) -> Result<Vec<(String, String)>, String> {
    let bytes = file.bytes();
    let read = tokenizer::read(&Gguf::parse(&bytes).unwrap()).map_err(|error| error.to_string())?;
    let templates = read.definition.chat_templates;
    Ok(templates.iter().map(|(name, source)| (name.to_owned(), source.to_owned())).collect())
}

/// The tiny model as a folder whose settings say this of templates.
fn stating(templates: Value) -> Parts {
    let mut parts = folder();
    parts.settings["chat_template"] = templates;
    parts
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect()
}

#[test]
fn a_file_has_a_template_without_a_name_and_others_with_one() {
    let file = with(&[("", "D"), (".tool_use", "T"), (".rag", "R")]);
    assert_eq!(read(&file), Ok(pairs(&[("default", "D"), ("rag", "R"), ("tool_use", "T")])));
    // What older exporters wrote beside it is no template; another name of the first is not taken.
    let mut file = with(&[("", "D"), (".default", "other"), ("s", "no")]);
    assert_eq!(read(&file), Ok(pairs(&[("default", "D")])));
    file.set("tokenizer.chat_templates", Meta::Strs(vec!["default".to_owned()]));
    assert_eq!(read(&file), Ok(pairs(&[("default", "D")])));
    assert_eq!(read(&with(&[(".tool_use", "T")])), Ok(pairs(&[("tool_use", "T")])));
    assert_eq!(read(&with(&[])), Ok(Vec::new()));
}

#[test]
fn a_model_with_named_templates_is_one_package_from_a_file_and_a_folder() {
    let list = json!([{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]);
    let both = id(&with(&[("", "D"), (".tool_use", "T")]));
    assert_eq!(stating(list.clone()).id(), Ok(both));
    assert_eq!(stating(json!({"tool_use": "T", "default": "D"})).id(), Ok(both));
    let only = json!([{"name": "tool_use", "template": "T"}]);
    assert_eq!(stating(only).id(), Ok(id(&with(&[(".tool_use", "T")]))));
    assert_eq!(stating(json!("D")).id(), Ok(id(&with(&[("", "D")]))));
    for none in [Value::Null, json!([]), json!({})] {
        assert_eq!(stating(none).id(), Ok(id(&with(&[]))));
    }

    // Files of templates stand in place of all that the settings have.
    let mut files = stating(list.clone());
    files.templates = [("rag", "R".to_owned())].into();
    assert_eq!(files.id(), Ok(id(&with(&[(".rag", "R")]))));
    files.templates = [("default", "F".to_owned()), ("tool_use", "T".to_owned())].into();
    assert_eq!(files.id(), Ok(id(&with(&[("", "F"), (".tool_use", "T")]))));
    assert_ne!(files.id(), Ok(both));
    files.templates = [("default", "F".to_owned())].into();
    assert_eq!(files.id(), Ok(id(&with(&[("", "F")]))));
}

#[test]
fn templates_that_are_none_or_pass_a_bound_are_refused_with_their_name() {
    for wrong in [
        json!(7),
        json!(["D"]),
        json!([{"name": "default"}]),
        json!([{"template": "D"}]),
        json!([{"name": 1, "template": "D"}]),
        json!({"default": 1}),
    ] {
        let error = stating(wrong.clone()).id().unwrap_err();
        let said = "tokenizer_config.json: chat_template: expected a text, or a list of templates";
        assert!(error.starts_with(said), "{wrong}: {error}");
    }
    let long = "x".repeat(MAX_TEMPLATE_BYTES + 1);
    let error = read(&with(&[("", "D"), (".rag", &long)])).unwrap_err();
    assert_eq!(error, "the chat template \"rag\" has 65537 bytes; the limit is 65536");
    let error = read(&with(&[(".", "D")])).unwrap_err();
    assert_eq!(error, "the name of a chat template has 0 bytes; expected 1 to 128");
    let keys: Vec<String> = (0..=MAX_TEMPLATES).map(|number| format!(".{number}")).collect();
    let many: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), "")).collect();
    assert_eq!(read(&with(&many[1..])).map(|all| all.len()), Ok(MAX_TEMPLATES));
    let error = read(&with(&many)).unwrap_err();
    assert_eq!(error, "there are more than 16 chat templates, the limit");
    let mut file = with(&[("", "D")]);
    file.set(&format!("{KEY}.rag"), Meta::U32(1));
    assert!(read(&file).unwrap_err().contains("\"tokenizer.chat_template.rag\""));
}
