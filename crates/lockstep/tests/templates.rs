//! Chat templates, their arguments and tools, as the command line gives them.

mod support;
#[path = "../../lockstep-import/tests/support/mod.rs"]
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;

use support::process::{Ended, Process};
use support::{Folder, PATIENCE, command_in, lockstep_in, tokens};
use written::Meta;
use written::folder::{Parts, gguf};

fn text(source: &str) -> Meta {
    Meta::Str(source.to_owned())
}

/// A home with the tiny model under the name "tiny", that has templates under these names.
fn home(name: &str, templates: &[(&str, &str)]) -> Folder {
    let home = Folder::new(name);
    let mut file = gguf();
    file.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
    file.remove("tokenizer.chat_template");
    for (name, source) in templates {
        let key = match *name {
            "default" => "tokenizer.chat_template".to_owned(),
            name => format!("tokenizer.chat_template.{name}"),
        };
        file.set(&key, text(source));
    }
    let path = home.file("tiny.gguf");
    fs::write(&path, file.bytes()).unwrap();
    lockstep_in(home.path(), &["import", &path, "--name", "tiny"]).expect_code(0);
    home
}

/// What a command does that answers "th".
fn asked(home: &Folder, command: &str, more: &[&str]) -> Ended {
    let base = [command, "tiny", "-p", "th", "-n", "4", "--json"];
    lockstep_in(home.path(), &[&base[..], more].concat())
}

/// The number of the prompt's tokens and the answer's tokens.
fn said(ended: Ended) -> (u64, Vec<u32>) {
    said_with(ended, 0)
}

/// The same of an answer that ended the program with this code.
fn said_with(ended: Ended, code: i32) -> (u64, Vec<u32>) {
    let report = ended.expect_code(code).json();
    (report["prompt_tokens"].as_u64().unwrap(), tokens(&report))
}

/// What the model answers to a prompt as it is.
fn raw(home: &Folder, prompt: &str) -> (u64, Vec<u32>) {
    let base = ["generate", "tiny", "--raw", "-p", prompt, "-n", "4", "--json"];
    said(lockstep_in(home.path(), &base))
}

/// Writes a file and returns its path.
fn file(home: &Folder, name: &str, content: impl AsRef<[u8]>) -> String {
    fs::write(home.path().join(name), content).unwrap();
    home.file(name)
}

#[test]
fn the_template_is_the_models_for_the_chat_or_the_one_that_is_named() {
    let home = home(
        "templates-named",
        &[
            ("default", "D{{ messages[0].content }}"),
            ("tool_use", "T{{ tools | length }}{{ messages[0].content }}"),
            ("rag", "R{{ messages[0].content }}"),
        ],
    );
    let tools = file(&home, "tools.json", r#"[{"name": "f"}, {"name": "g"}]"#);
    let none = file(&home, "none.json", "[]");
    let other = file(&home, "other.jinja", "O{{ messages[0].content }}");
    let cases: [(&[&str], &str); 8] = [
        (&[], "Dth"),
        (&["--tools", &tools], "T2th"),
        (&["--tools", &none], "T0th"),
        (&["--chat-template", "rag"], "Rth"),
        (&["--chat-template", "rag", "--tools", &tools], "Rth"),
        (&["--chat-template", "default", "--tools", &tools], "Dth"),
        (&["--chat-template", &other], "Oth"),
        (&["--chat-template", &other, "--tools", &tools], "Oth"),
    ];
    let mut answers = BTreeMap::new();
    for (arguments, prompt) in cases {
        let answer = said(asked(&home, "generate", arguments));
        assert_eq!(answer, raw(&home, prompt), "{arguments:?}");
        answers.insert(prompt, answer);
    }
    let different: std::collections::BTreeSet<_> = answers.values().collect();
    assert!(different.len() > 3, "the model tells prompts apart: {answers:?}");
    // A name goes before a file that has it; what is neither is said with the names there are.
    let mut command = command_in(home.path(), &["generate", "tiny", "-p", "th", "-n", "4"]);
    command.current_dir(home.path()).args(["--json", "--chat-template", "rag"]);
    file(&home, "rag", "F{{ messages[0].content }}");
    assert_eq!(said(Process::spawn(command).end(PATIENCE)), raw(&home, "Rth"));
    let ended = asked(&home, "generate", &["--chat-template", "tool-use"]).expect_code(2);
    let words = "there is no file \"tool-use\", and the model has no template of that name (it \
                 has \"default\", \"rag\", \"tool_use\")";
    assert!(ended.stderr.contains(words), "{ended}");
}

/// As a shell gives them: `--tools <(make-tools)`.
#[cfg(unix)]
#[test]
fn files_that_are_named_may_be_pipes_which_give_their_bytes_once() {
    let source = "D{{ tools | length }}{{ messages[0].content }}";
    let home = home("templates-pipes", &[("default", source)]);
    let pipe = home.file("tools");
    for command in ["generate", "run"] {
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let written = thread::spawn({
            let pipe = pipe.clone();
            move || fs::write(pipe, r#"[{"name": "f"}]"#)
        });
        let ended = asked(&home, command, &["--tools", &pipe]);
        assert_eq!(said(ended), raw(&home, "D1th"), "{command}");
        written.join().unwrap().unwrap();
        fs::remove_file(&pipe).unwrap();
    }
}

#[test]
fn a_model_without_a_template_for_every_chat_says_which_it_has() {
    let home = home("templates-no-default", &[("tool_use", "T{{ messages[0].content }}")]);
    let tools = file(&home, "tools.json", "[]");
    for command in ["generate", "run"] {
        let ended = asked(&home, command, &[]).expect_code(2);
        let words = "no chat template for every chat, but these by name: \"tool_use\": give one \
                     with --chat-template";
        assert!(ended.stderr.contains(words), "{ended}");
    }
    assert_eq!(said(asked(&home, "generate", &["--tools", &tools])), raw(&home, "Tth"));
    let named = ["--chat-template", "tool_use"];
    assert_eq!(said(asked(&home, "generate", &named)), raw(&home, "Tth"));

    let bare = self::home("templates-none", &[]);
    let ended = asked(&bare, "generate", &[]).expect_code(2);
    assert!(ended.stderr.contains("the model has no chat template: give one with"), "{ended}");
    let ended = asked(&bare, "generate", &["--chat-template", "nowhere"]).expect_code(2);
    assert!(ended.stderr.contains("no file \"nowhere\"") && ended.stderr.contains("has none"));
}

#[test]
fn arguments_reach_the_template_as_json_or_text() {
    let home = home("templates-arguments", &[("default", "{{ messages[0].content }}")]);
    let source = "{% if x is defined %}{{ x | tojson }}{% endif %}{{ messages[0].content }}";
    let template = file(&home, "x.jinja", source);
    let cases: [(&[&str], &str); 7] = [
        (&[], "th"),
        (&["--template-arg", "x=false"], "falseth"),
        (&["--template-arg", "x=2"], "2th"),
        (&["--template-arg", "x=null"], "nullth"),
        (&["--template-arg", "x=a=b"], "\"a=b\"th"),
        (&["--template-arg", "x={\"a\": [1]}"], "{\"a\": [1]}th"),
        (&["--template-arg", "x=1", "--template-arg", "x="], "\"\"th"),
    ];
    for (arguments, prompt) in cases {
        let arguments = [&["--chat-template", &template], arguments].concat();
        assert_eq!(said(asked(&home, "generate", &arguments)), raw(&home, prompt), "{arguments:?}");
    }
    for wrong in ["x", "=1", ""] {
        let ended = asked(&home, "generate", &["--template-arg", wrong]).expect_code(2);
        assert!(ended.stderr.contains("--template-arg: expected NAME=VALUE, got"), "{ended}");
    }
    let ended = asked(&home, "generate", &["--template-arg", "messages=[]"]).expect_code(1);
    assert!(ended.stderr.contains("messages can't be given as an argument"), "{ended}");
}

#[test]
fn every_command_that_asks_renders_the_same_prompt() {
    let home = home("templates-commands", &[("default", "D{{ messages[0].content }}")]);
    let source = "{{ x }}{{ tools[0].name }}{{ messages[0].content }}";
    let template = file(&home, "x.jinja", source);
    let tools = file(&home, "tools.json", r#"[{"name": "f"}]"#);
    let more = ["--chat-template", &template, "--tools", &tools, "--template-arg", "x=1"];
    let expected = raw(&home, "1fth");
    assert_eq!(said(asked(&home, "generate", &more)), expected);
    assert_eq!(said(asked(&home, "run", &more)), expected);
    let up = [&more[..], &["--servers", "1", "--audit", "off"]].concat();
    assert_eq!(said_with(asked(&home, "up", &up), 0), expected);
    let serve = ["serve", "tiny", "--ephemeral", "--json", "--until-stdin-closes"];
    let server = Process::spawn(command_in(home.path(), &serve));
    let line = server.wait_stdout(PATIENCE, "a ticket", |text| {
        text.split_once('\n').map(|(line, _)| line.to_owned())
    });
    let told: serde_json::Value = serde_json::from_str(&line).unwrap();
    let ticket = told["ticket"].as_str().unwrap();
    let chat = ["chat", ticket, "-p", "th", "-n", "4", "--json", "--audit", "off"];
    let chat = lockstep_in(home.path(), &[&chat[..], &more].concat());
    assert_eq!(said_with(chat, 0), expected);
}

#[test]
fn files_that_can_not_be_used_are_named_with_what_is_wrong() {
    let home = home("templates-files", &[("default", "D{{ messages[0].content }}")]);
    let latin = file(&home, "latin", b"caf\xe9");
    let long = file(&home, "long", "x".repeat((64 << 10) + 1));
    let broken = file(&home, "broken.json", "[{\"name\": \n\"f\"");
    let object = file(&home, "object.json", "{}");
    let folder = home.path().to_str().unwrap();
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--chat-template", "/no/where"], 1, "can't read /no/where"),
        (&["--chat-template", &latin], 1, "latin is not UTF-8"),
        (&["--chat-template", &long], 1, "long is longer than 65536 bytes"),
        (&["--chat-template", folder], 1, "can't read"),
        (&["--tools", "/no/where"], 1, "can't read /no/where"),
        (&["--tools", &latin], 1, "latin is not UTF-8"),
        (
            &["--tools", &broken],
            1,
            "broken.json is not JSON: EOF while parsing an object at line 2",
        ),
        (&["--tools", &object], 2, "--tools: expected a JSON list of functions"),
        (&["--tools", &object, "--raw"], 2, "cannot be used with"),
    ];
    for (arguments, code, words) in cases {
        let ended = asked(&home, "generate", arguments).expect_code(code);
        assert!(ended.stderr.contains(words), "{arguments:?}: {ended}");
    }
}

#[test]
fn a_template_that_fails_says_where_and_one_that_refuses_says_why() {
    let home = home("templates-fail", &[("default", "D{{ messages[0].content }}")]);
    for (source, words) in [
        ("one\n{% for %}", "the chat template fails: expected a name, got %} (line 2)"),
        ("one\ntwo {{ nothing.x }}", "is undefined (line 2)"),
        ("{{ messages[0].content | nofilter }}", "nofilter"),
        ("{{ raise_exception('only for pirates') }}", "refuses this chat: only for pirates"),
        (
            "{% set r = range(9999) %}{% for x in r %}{% for y in r %}{% endfor %}{% endfor %}",
            "makes more than 134217728 bytes of values",
        ),
        ("{{ 'x' * 1000000000 }}", "more than"),
    ] {
        let template = file(&home, "x.jinja", source);
        for command in ["generate", "run"] {
            let ended = asked(&home, command, &["--chat-template", &template]).expect_code(1);
            assert!(ended.stderr.contains(words), "{source}: {ended}");
            assert!(!ended.stderr.contains("panicked"), "{ended}");
        }
    }
    // A model whose own template is broken is imported, and says so.
    let broken = Folder::new("templates-broken");
    let mut gguf = gguf();
    gguf.set("tokenizer.chat_template.tool_use", text("{% for %}"));
    let path = broken.file("tiny.gguf");
    fs::write(&path, gguf.bytes()).unwrap();
    let ended = lockstep_in(broken.path(), &["import", &path]).expect_code(0);
    assert!(ended.stderr.contains("warning: the chat template fails: expected a name"), "{ended}");
    assert!(ended.stderr.contains("(line 1) (template \"tool_use\")"), "{ended}");
}

#[test]
fn templates_of_a_folder_are_read_from_where_they_are() {
    let home = Folder::new("templates-folder");
    let mut parts = Parts::of("llama", &mut gguf());
    parts.templates = [("default", "F{{ messages[0].content }}"), ("rag", "R")]
        .map(|(name, source)| (name, source.to_owned()))
        .into();
    let folder = home.path().join("tiny");
    for (name, bytes) in parts.files(false) {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    // Not a template: another ending.
    fs::write(folder.join("additional_chat_templates/notes.txt"), b"\xff").unwrap();
    lockstep_in(home.path(), &["import", folder.to_str().unwrap()]).expect_code(0);
    assert_eq!(said(asked(&home, "generate", &[])), raw(&home, "Fth"));
    assert_eq!(said(asked(&home, "generate", &["--chat-template", "rag"])), raw(&home, "R"));
}
