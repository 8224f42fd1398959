//! Models come as one file, as the parts of a split one and as folders: one package whichever.

mod support;
#[path = "../../lockstep-import/tests/support/mod.rs"]
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use lockstep_import::source::{Checksum, GitBlob};
use serde_json::{Value, json};

use support::process::Process;
use support::{Folder, PATIENCE, command_in, lockstep_in, tokens};
use written::File;
use written::folder::{Parts, gguf};

/// What `lockstep import` says of a path.
fn imported(home: &Folder, path: &str) -> Value {
    lockstep_in(home.path(), &["import", path, "--json"]).expect_code(0).json()
}

/// Why `lockstep import` refuses a path.
fn refused(home: &Folder, path: &str) -> String {
    let ended = lockstep_in(home.path(), &["import", path]);
    assert_ne!(ended.code, Some(0), "{ended}");
    ended.stderr
}

/// Writes a folder, and a model card, and returns its path.
fn write(home: &Folder, name: &str, parts: &Parts, is_split: bool) -> String {
    let path = home.file(name);
    fs::create_dir_all(&path).unwrap();
    for (file, bytes) in parts.files(is_split) {
        let file = home.path().join(name).join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
    }
    let card = "---\nlicense: MIT\ntags: [tiny]\n---\n# Tiny\n";
    fs::write(home.path().join(name).join("README.md"), card).unwrap();
    path
}

/// Writes the parts of a split file and returns their paths.
fn write_parts(home: &Folder, file: &File) -> Vec<String> {
    let parts = written::split(file).into_iter().zip(1..);
    let path = |number: u32| home.file(&format!("Tiny-F32-{number:05}-of-00003.gguf"));
    let written = parts.map(|(part, number)| {
        fs::write(path(number), part.bytes()).unwrap();
        path(number)
    });
    written.collect()
}

#[test]
fn every_form_of_a_familys_model_is_one_package() {
    for (case, mut file) in written::family::cases() {
        let home = Folder::new(&format!("forms-{case}"));
        let parts = Parts::of(case, &mut file);
        let whole = home.file("whole.gguf");
        fs::write(&whole, file.bytes()).unwrap();
        let whole = imported(&home, &whole);
        let folder = imported(&home, &write(&home, "tiny", &parts, case == "gemma3"));
        let paths = write_parts(&home, &file);
        for path in [&paths[0], &paths[2]] {
            let split = imported(&home, path);
            assert_eq!(split["id"], whole["id"], "{case}");
            assert_eq!(split["name"], "tiny-f32");
        }
        assert_eq!(folder["id"], whole["id"], "{case}");
        assert_eq!((&folder["name"], &folder["license"]), (&"tiny".into(), &"MIT".into()));
    }
}

/// A stand-in for the model host that has these files in the repository "org/tiny".
fn host(files: BTreeMap<String, Vec<u8>>) -> String {
    let listing = files.iter().map(|(path, content)| {
        let blob = GitBlob::of(content.as_slice(), content.len() as u64).unwrap();
        let oid = Checksum::Git(blob).digits();
        json!({"type": "file", "path": path, "size": content.len(), "oid": oid})
    });
    let listing = Value::Array(listing.collect()).to_string().into_bytes();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            let _rest = lines.take_while(|line| !line.is_empty()).count();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let body = match path.strip_prefix("/org/tiny/resolve/main/") {
                None => Some(&listing),
                Some(path) => files.get(path),
            };
            let (status, body) = body.map_or(("404 Not Found", &[][..]), |body| ("200 OK", body));
            let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n");
            let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    url
}

/// What `lockstep pull` says of a reference.
fn pulled(home: &Folder, endpoint: &str, arguments: &[&str]) -> Value {
    let arguments = [&["pull", "--json"], arguments].concat();
    let mut command = command_in(home.path(), &arguments);
    command.env("HF_ENDPOINT", endpoint).env_remove("HF_HUB_OFFLINE").env_remove("HF_TOKEN");
    Process::spawn(command).end(PATIENCE).expect_code(0).json()
}

#[test]
fn what_is_pulled_is_the_package_that_its_files_are_by_path() {
    let mut file =
        written::family::cases().into_iter().find(|(case, _)| *case == "gemma3").unwrap().1;
    let here = Folder::new("pull-here");
    let mut parts = Parts::of("gemma3", &mut file);
    parts.templates = [("default", "D".to_owned()), ("tool_use", "T".to_owned())].into();
    file.set("tokenizer.chat_template", written::Meta::Str("D".to_owned()));
    file.set("tokenizer.chat_template.tool_use", written::Meta::Str("T".to_owned()));
    let folder = write(&here, "tiny", &parts, true);
    let paths = write_parts(&here, &file);
    let folder_id = imported(&here, &folder)["id"].clone();
    let split_id = imported(&here, &paths[0])["id"].clone();
    let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
    let read = |path: &String| (name(path), fs::read(path).unwrap());
    let shards: BTreeMap<String, Vec<u8>> = paths.iter().map(read).collect();
    let mut files = parts.files(true);
    files.insert("README.md".to_owned(), fs::read(format!("{folder}/README.md")).unwrap());
    let there = Folder::new("pull-there");
    let pulled_folder = pulled(&there, &host(files.clone()), &["hf:org/tiny"]);
    assert_eq!(pulled_folder["id"], folder_id);
    assert_eq!(
        (&pulled_folder["name"], &pulled_folder["source"]),
        (&"tiny".into(), &"hf:org/tiny".into())
    );
    files.extend(shards);
    let endpoint = host(files);
    let split = pulled(&there, &endpoint, &["hf:org/tiny:Tiny-F32", "--name", "split"]);
    assert_eq!(split["id"], split_id);
    let asked = pulled(&there, &endpoint, &["hf:org/tiny:safetensors", "--name", "asked"]);
    assert_eq!(asked["id"], folder_id);
    let downloads = fs::read_dir(there.path().join("downloads")).unwrap();
    assert_eq!(downloads.count(), 0, "nothing is kept twice");
}

#[test]
fn a_folder_is_taken_wherever_a_model_is_named() {
    let home = Folder::new("folders");
    let (mut file, text) = (gguf(), home.file("text"));
    let path = write(&home, "tiny", &Parts::of("llama", &mut file), true);
    fs::write(&text, "the time in the tin").unwrap();
    let say = |arguments: &[&str]| lockstep_in(home.path(), arguments).expect_code(0).json();
    let by_path = say(&["generate", &path, "-p", "th", "-n", "4", "--json"]);
    let by_name = say(&["generate", "tiny", "-p", "th", "-n", "4", "--json"]);
    assert_eq!(tokens(&by_path), tokens(&by_name));
    let window = ["--window", "8", "--windows", "1"];
    let quality = ["quality", &path, "--text", &text, "--against", &path, "--json"];
    let quality = say(&[&quality[..], &window].concat());
    assert!(quality["text"]["kl"].as_f64().is_some_and(|kl| kl < 1.0), "{quality}");
}

#[test]
fn a_figure_that_is_recorded_makes_another_manifest_of_the_same_blobs() {
    let home = Folder::new("figures");
    let (mut file, text) = (gguf(), home.file("text"));
    let path = write(&home, "tiny", &Parts::of("llama", &mut file), true);
    fs::write(&text, "the time in the tin, the time in the tin").unwrap();
    let say = |arguments: &[&str]| lockstep_in(home.path(), arguments).expect_code(0);
    let before = imported(&home, &path);
    let quality = ["quality", "tiny", "--text", &text, "--window", "8", "--record"];
    assert_eq!(lockstep_in(home.path(), &quality).code, Some(2), "no --against");
    let quality = [&quality[..], &["--against", &path, "--json"]].concat();
    let measured = say(&quality).json();
    let show = say(&["show", "tiny", "--json"]).json();
    assert_ne!(show["id"], before["id"]);
    assert_eq!((&show["id"], &show["blobs"]), (&measured["id"], &before["blobs"]));
    let figure = &show["figures"][0];
    assert_eq!(
        (&figure["text"], &figure["windows"]),
        (&"text".into(), &measured["text"]["windows"])
    );
    assert_eq!(figure["reference"], "f32 of tiny (unquantised)");
    let near = |name: &str, other: &str| {
        let (a, b) = (figure[name].as_f64().unwrap(), measured["text"][other].as_f64().unwrap());
        assert!((a - b).abs() <= 1e-6 * b.abs(), "{name}: {a} {b}");
    };
    near("perplexity", "perplexity");
    near("reference_perplexity", "float_perplexity");
    near("same_top_1", "same_top_1");
    for shown in [&["list"][..], &["show", "tiny"]] {
        let shown = say(shown).stdout;
        for part in ["claimed on text", "f32 of tiny", "claim of whoever made the manifest"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
    }
    let old = before["id"].as_str().unwrap();
    assert_ne!(lockstep_in(home.path(), &["show", old]).code, Some(0), "it has no name any more");
    let again = say(&quality).json();
    assert_eq!(again["id"], measured["id"], "the same figure, in the place of the first");
    let generate = ["generate", "tiny", "-p", "th", "-n", "4", "--json"];
    let answer = tokens(&say(&generate).json());
    let words = refused(&home, &path);
    assert!(words.contains("stands for another model"), "it has no figure: {words}");
    let again = say(&["import", &path, "--replace", "--json"]).json();
    assert_eq!(again["id"], before["id"], "an import measures nothing");
    assert_eq!(tokens(&say(&generate).json()), answer);
}

#[test]
fn files_that_are_missing_are_named() {
    let home = Folder::new("missing-files");
    let paths = write_parts(&home, &gguf());
    fs::remove_file(&paths[1]).unwrap();
    assert!(refused(&home, &paths[0]).contains("Tiny-F32-00002-of-00003.gguf"));
    let alone = home.file("alone.gguf");
    fs::copy(&paths[2], &alone).unwrap();
    assert!(refused(&home, &alone).contains("one file of several"), "{}", refused(&home, &alone));

    let parts = Parts::of("llama", &mut gguf());
    for (name, missing) in [
        ("a", "config.json"),
        ("b", "tokenizer.json"),
        ("c", "model-00002-of-00002.safetensors"),
        ("d", "model.safetensors"),
    ] {
        let path = write(&home, name, &parts, name != "d");
        fs::remove_file(home.path().join(name).join(missing)).unwrap();
        let said = refused(&home, &path);
        assert!(said.contains(missing) && said.contains(&path), "{missing}: {said}");
    }
}

#[test]
fn a_model_whose_layers_are_in_4_bits_is_served_and_verified_beside_the_one_in_8() {
    for (case, file) in written::family::cases() {
        let home = Folder::new(&format!("w4-{case}"));
        let path = home.file("tiny.gguf");
        fs::write(&path, file.bytes()).unwrap();
        let plain = imported(&home, &path);
        let asking = ["--raw", "--prompt", "a b", "-n", "4", "--json"];
        let up = ["up", &path, "--weights", "w4", "--servers", "2", "--audit", "full"];
        let up = lockstep_in(home.path(), &[&up[..], &asking].concat()).expect_code(0);
        assert!(up.stderr.contains("w4: "), "the cost is told: {up}");
        let up = up.json();
        assert_eq!(up["verdict"], "verified", "{case}: {up}");
        let list = lockstep_in(home.path(), &["list", "--json"]).expect_code(0).json();
        let of = |name: &str| {
            let models = list["models"].as_array().unwrap().iter();
            models.clone().find(|model| model["name"] == name).unwrap().clone()
        };
        let (w4, w8) = (of("tiny-w4"), of("tiny"));
        assert_eq!((&w4["weights"], &w8["weights"]), (&"w4".into(), &"w8".into()));
        assert_eq!(w8["id"], plain["id"]);
        assert!(w4["bytes"].as_u64() < w8["bytes"].as_u64(), "{w4} {w8}");
        for (name, kept) in [
            ("tiny", "w8: kept in 8-bit codes with a scale for every 64 columns, whatever"),
            ("tiny-w4", "w4: kept in 4-bit codes with a scale for every 32 columns (queries, keys"),
        ] {
            let shown = lockstep_in(home.path(), &["show", name]).expect_code(0).stdout;
            let source = "unquantised, as most weights of the source were stored";
            for part in [kept, "whatever the source had", source] {
                assert!(shown.contains(part), "{part}: {shown}");
            }
        }
        // It is here now, by its name, and answers alike without servers.
        let alone = ["generate", "tiny-w4"];
        let alone = lockstep_in(home.path(), &[&alone[..], &asking].concat()).expect_code(0);
        assert_eq!(tokens(&alone.json()), tokens(&up), "{case}");
    }
}

/// The tiny model with the longest context that a model may have, and so many tokens that every
/// cell of its head takes an opening of its own.
fn of_long_context() -> File {
    const MORE: usize = 200_000;
    let mut file = written::tiny();
    file.set("llama.context_length", written::Meta::U32(1 << 20));
    let more = (0..MORE).map(|number| format!("[unused{number}]"));
    file.strings("tokenizer.ggml.tokens").extend(more);
    let written::Meta::I32s(types) = file.meta("tokenizer.ggml.token_type") else { panic!() };
    types.resize(types.len() + MORE, 5);
    let embedding = file.tensor("token_embd.weight");
    embedding.dims[1] += MORE as u64;
    let more = MORE * written::HIDDEN * 4;
    embedding.bytes =
        embedding.bytes.iter().copied().cycle().take(embedding.bytes.len() + more).collect();
    file
}

#[test]
fn an_audit_that_may_be_too_long_is_refused_before_anything_is_asked() {
    let home = Folder::new("too-long");
    let path = home.file("tiny.gguf");
    fs::write(&path, of_long_context().bytes()).unwrap();
    let ask = |arguments: &[&str]| {
        let up = ["up", &path, "--servers", "2", "--raw", "--prompt", "a b", "--json"];
        lockstep_in(home.path(), &[&up[..], arguments].concat())
    };
    let refused = ask(&["--audit", "full", "-n", "-1"]).expect_code(2);
    let said = [
        "a full audit of 1048575 positions may take",
        "an audit takes at most 524288: let prompt and answer take at most 5",
        "or take a sampled audit (--audit sampled, -n TOKENS)",
    ];
    for said in said {
        assert!(refused.stderr.contains(said), "{said:?}: {refused}");
    }
    assert!(!home.path().join("receipts").exists(), "nothing was asked: {refused}");
    for arguments in [["--audit", "full", "-n", "2"], ["--audit", "sampled", "-n", "2"]] {
        let report = ask(&arguments).expect_code(0).json();
        assert_eq!(report["verdict"], "verified", "{report}");
    }
}

#[test]
fn a_model_that_is_here_in_8_bits_is_not_taken_for_one_in_4() {
    let (case, mut file) = written::family::cases().into_iter().next().unwrap();
    let home = Folder::new("codecs");
    let path = write(&home, "tiny", &Parts::of(case, &mut file), false);
    imported(&home, &path);
    let said = |arguments: &[&str], expected: &str| {
        let ended = lockstep_in(home.path(), arguments).expect_code(1);
        assert!(ended.stderr.contains(expected), "{ended}");
    };
    let of_up = "tiny is here with weights in w8: for w4 import its file or folder again";
    said(&["up", "tiny", "--weights", "w4", "--prompt", "hello"], of_up);
    let of_pull = "tiny is here with weights in w8: give another --name for w4";
    said(&["pull", "smollm2", "--name", "tiny", "--weights", "w4"], of_pull);
}

/// A tiny model's file, and one of another model.
fn two_files(home: &Folder) -> [String; 2] {
    let mut other = gguf();
    other.set("general.name", written::Meta::Str("Another".to_owned()));
    [("a", gguf()), ("b", other)].map(|(folder, file)| {
        fs::create_dir_all(home.path().join(folder)).unwrap();
        let path = home.file(&format!("{folder}/model.gguf"));
        fs::write(&path, file.bytes()).unwrap();
        path
    })
}

/// Names of the files in a folder of the home.
fn files_in(home: &Folder, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(home.path().join(folder)).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_second_model_under_a_taken_name_is_refused_or_replaces_and_nothing_leaks() {
    let home = Folder::new("taken");
    let [first, second] = two_files(&home);
    let id = imported(&home, &first)["id"].clone();
    let words = refused(&home, &second);
    assert!(words.contains("stands for another model"), "{words}");
    assert!(words.contains("--name NAME") && words.contains("--replace"), "{words}");
    let other = lockstep_in(home.path(), &["import", &second, "--replace", "--json"]);
    let other = other.expect_code(0).json();
    assert_ne!(other["id"], id);
    lockstep_in(home.path(), &["rm", "model"]).expect_code(0);
    assert_eq!(files_in(&home, "blobs"), [""; 0]);
}

#[test]
fn files_that_are_here_already_are_not_imported_again() {
    let home = Folder::new("again");
    let [first, second] = two_files(&home);
    let id = imported(&home, &first)["id"].clone();
    let again = lockstep_in(home.path(), &["import", &first, "--json"]).expect_code(0);
    assert!(again.stderr.contains("is here already, from these files"), "{again}");
    assert!(!again.stderr.contains("Importing"), "{again}");
    assert_eq!(again.json()["id"], id);
    let named = ["import", first.as_str(), "--name", "another", "--json"];
    let named = lockstep_in(home.path(), &named).expect_code(0);
    assert!(!named.stderr.contains("Importing"), "{named}");
    assert_eq!((&named.json()["id"], &named.json()["name"]), (&id, &"another".into()));
    // What is named in order to be run gets a name of its own, and keeps it.
    let run = ["generate", second.as_str(), "--raw", "--prompt", "the", "-n", "1"];
    let once = lockstep_in(home.path(), &run).expect_code(0);
    assert!(once.stderr.contains("Imported model-2 as"), "{once}");
    let twice = lockstep_in(home.path(), &run).expect_code(0);
    assert!(twice.stderr.contains("model-2 is here already"), "{twice}");
    // A damaged blob is found, and written again.
    let blobs = home.path().join("blobs");
    let largest = fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    let largest = largest.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let bytes = fs::read(&largest).unwrap();
    fs::remove_file(&largest).unwrap();
    fs::write(&largest, &bytes[1..]).unwrap();
    let doctor = lockstep_in(home.path(), &["doctor"]);
    assert_eq!(doctor.code, Some(1), "{doctor}");
    assert!(doctor.stdout.contains("is damaged"), "{doctor}");
    for path in [&first, &second] {
        imported(&home, path);
    }
    assert_eq!(fs::read(&largest).unwrap(), bytes);
    lockstep_in(home.path(), &["doctor", "--deep"]).expect_code(0);
}

#[test]
fn a_damaged_model_is_repaired_by_pulling_it_again() {
    let mut file = gguf();
    let here = Folder::new("repair-files");
    let parts = Parts::of("llama", &mut file);
    let folder = write(&here, "tiny", &parts, false);
    let read = |name: String| (name.clone(), fs::read(format!("{folder}/{name}")).unwrap());
    let endpoint = host(files_in(&here, "tiny").into_iter().map(read).collect());
    let home = Folder::new("repair");
    let id = pulled(&home, &endpoint, &["hf:org/tiny"])["id"].clone();
    let again = pulled(&home, "http://127.0.0.1:9", &["hf:org/tiny"]);
    assert_eq!(again["id"], id, "what is whole is not asked for again");
    for blob in files_in(&home, "blobs") {
        let path = home.path().join("blobs").join(&blob);
        let bytes = fs::read(&path).unwrap();
        // The manifest stays, or nobody knows what was pulled from where.
        if id != blob.as_str() {
            fs::remove_file(&path).unwrap();
            fs::write(&path, vec![0; bytes.len()]).unwrap();
        }
    }
    let repaired = pulled(&home, &endpoint, &["hf:org/tiny"]);
    assert_eq!((&repaired["id"], &repaired["name"]), (&id, &"tiny".into()));
    lockstep_in(home.path(), &["doctor", "--deep"]).expect_code(0);
}

#[test]
fn files_whose_names_no_model_may_have_are_named_after_the_model_in_them() {
    let home = Folder::new("names");
    for (file, name) in [
        ("\u{6a21}\u{578b}.gguf", "tiny"),
        ("-dash.gguf", "dash"),
        (".hidden.gguf", "hidden"),
        ("two words.gguf", "two-words"),
        ("40236d8fa1f2.gguf", "model-40236d8fa1f2"),
    ] {
        let path = home.file(file);
        fs::write(&path, gguf().bytes()).unwrap();
        let model = imported(&home, &path);
        assert_eq!(model["name"], name, "{file}");
        lockstep_in(home.path(), &["rm", name]).expect_code(0);
    }
    let shadow = ["import", &home.file("-dash.gguf"), "--name", "40236d8fa1f2"];
    let shadow = lockstep_in(home.path(), &shadow).expect_code(2);
    assert!(shadow.stderr.contains("looks like an id"), "{shadow}");
}

#[test]
fn folders_without_weights_or_tokenizer_under_their_names_say_what_is_there() {
    let home = Folder::new("other-weights");
    let parts = Parts::of("llama", &mut gguf());
    let folder = write(&home, "tiny", &parts, false);
    let at = |name: &str| home.path().join("tiny").join(name);
    let tokenizer = fs::read(at("tokenizer.json")).unwrap();
    fs::remove_file(at("tokenizer.json")).unwrap();
    let words = refused(&home, &folder);
    assert!(words.contains("no tokenizer.json in it; it says how text becomes"), "{words}");
    fs::write(at("tekken.json"), b"{}").unwrap();
    fs::write(at("tokenizer.model"), b"\n").unwrap();
    let words = refused(&home, &folder);
    assert!(words.contains("there is tekken.json, tokenizer.model instead"), "{words}");
    assert!(words.contains("save_pretrained") && words.contains("GGUF"), "{words}");
    fs::write(at("tokenizer.json"), tokenizer).unwrap();
    fs::rename(at("model.safetensors"), at("x.safetensors")).unwrap();
    fs::write(at("pytorch_model.bin"), b"PK").unwrap();
    let words = refused(&home, &folder);
    assert!(words.contains("no model.safetensors and no index"), "{words}");
    assert!(words.contains("there are x.safetensors, pytorch_model.bin"), "{words}");
    fs::write(at("model.safetensors"), b"version https://git-lfs.github.com/spec/v1\n").unwrap();
    let words = refused(&home, &folder);
    assert!(words.contains("model.safetensors: it is a Git LFS pointer"), "{words}");
    let index = json!({"weight_map": {"x": "model-00001-of-00002.safetensors"}}).to_string();
    fs::write(at("model.safetensors.index.json"), index).unwrap();
    let words = refused(&home, &folder);
    assert!(words.contains("model-00001-of-00002.safetensors is missing"), "{words}");
    fs::remove_file(at("config.json")).unwrap();
    let words = refused(&home, &folder);
    assert!(words.contains("no config.json in it; there are"), "{words}");
}

#[test]
fn what_interrupted_work_left_is_told_and_freed() {
    let home = Folder::new("leftovers");
    imported(&home, &two_files(&home)[0]);
    let before = files_in(&home, "blobs").len();
    fs::write(home.path().join("blobs").join("0".repeat(64)), b"a blob of nobody").unwrap();
    fs::write(home.path().join("tmp/0123"), b"half a blob").unwrap();
    fs::create_dir_all(home.path().join("downloads")).unwrap();
    fs::write(home.path().join("downloads/0123.part"), b"half a file").unwrap();
    let doctor = lockstep_in(home.path(), &["doctor"]).expect_code(0);
    assert!(doctor.stdout.contains("lockstep rm --leftovers"), "{doctor}");
    let freed = lockstep_in(home.path(), &["rm", "--leftovers"]).expect_code(0);
    assert!(freed.stdout.contains("3 files"), "{freed}");
    assert_eq!(files_in(&home, "blobs").len(), before);
    assert_eq!((files_in(&home, "tmp").len(), files_in(&home, "downloads").len()), (0, 0));
    let doctor = lockstep_in(home.path(), &["doctor"]).expect_code(0);
    assert!(doctor.stdout.contains("nothing is left"), "{doctor}");
}

#[test]
fn what_may_be_taken_of_memory_binds_generate_too() {
    let home = Folder::new("generate-memory");
    let [path, _] = two_files(&home);
    imported(&home, &path);
    let mut command = command_in(home.path(), &["generate", "model", "--raw", "--prompt", "the"]);
    command.env("LOCKSTEP_MEMORY_MIB", "0");
    let ended = Process::spawn(command).end(PATIENCE).expect_code(1);
    assert!(ended.stderr.contains("not enough memory for running model"), "{ended}");
    assert!(ended.stderr.contains("memory_mib allows only 0 MiB"), "{ended}");
}

#[cfg(unix)]
#[test]
fn a_server_does_not_start_with_a_node_key_to_which_others_have_a_right() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Folder::new("exposed-node");
    let [path, _] = two_files(&home);
    imported(&home, &path);
    let key = home.file("node.key");
    fs::write(&key, "07".repeat(32)).unwrap();
    for mode in [0o640, 0o604, 0o622] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        let ended = lockstep_in(home.path(), &["serve", "model", "--json"]).expect_code(1);
        assert!(ended.stderr.contains(&format!("chmod 600 {key}")), "{mode:o}: {ended}");
        assert!(!ended.stderr.contains("0707") && !ended.stdout.contains("0707"), "{ended}");
        let told: Value = serde_json::from_str(&ended.stdout).expect("the error as JSON alone");
        assert_eq!(told["exit_code"], 1, "{ended}");
    }
}

/// Blobs of a running server are cut short, or written to: it ends with a sentence, and signs
/// nothing.
#[cfg(target_os = "linux")]
#[test]
fn a_server_whose_weights_are_changed_or_cut_short_ends_with_a_sentence() {
    use std::os::unix::fs::PermissionsExt as _;
    for is_cut in [true, false] {
        let home = Folder::new(if is_cut { "cut" } else { "changed" });
        let [path, _] = two_files(&home);
        imported(&home, &path);
        let serve = command_in(home.path(), &["serve", "model", "--ephemeral", "--json"]);
        let server = Process::spawn(serve);
        let line = |said: &str| said.split_once('\n').map(|(line, _)| line.to_owned());
        let line = server.wait_stdout(PATIENCE, "a ticket", line);
        let ready: Value = serde_json::from_str(&line).unwrap();
        for blob in files_in(&home, "blobs") {
            let path = home.path().join("blobs").join(blob);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            if is_cut {
                file.set_len(0).unwrap();
            } else {
                file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            }
        }
        let ticket = ready["ticket"].as_str().unwrap();
        let client = Folder::new("asks");
        imported(&client, &path);
        let ask = ["chat", ticket, "--raw", "--prompt", "the", "--audit", "off"];
        let asked = lockstep_in(client.path(), &ask);
        assert!(!matches!(asked.code, Some(0 | 4)), "{asked}");
        let ended = server.end(PATIENCE).expect_code(1);
        // Which it is depends on what comes first: the use of a page, or the question before
        // signing.
        let words = ["was cut short", "was changed while it was in use"];
        assert!(words.iter().any(|words| ended.stderr.contains(words)), "{ended}");
    }
}
