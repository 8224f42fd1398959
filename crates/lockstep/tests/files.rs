//! Models come as one file, as the parts of a split one and as folders: one package whichever.

mod support;
#[path = "../../lockstep-import/tests/support/mod.rs"]
mod written;

use std::fs;

use serde_json::Value;

use support::{Folder, lockstep_in, tokens};
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
        fs::write(home.path().join(name).join(file), bytes).unwrap();
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
        // It is here now, by its name, and answers alike without servers.
        let alone = ["generate", "tiny-w4"];
        let alone = lockstep_in(home.path(), &[&alone[..], &asking].concat()).expect_code(0);
        assert_eq!(tokens(&alone.json()), tokens(&up), "{case}");
    }
}
