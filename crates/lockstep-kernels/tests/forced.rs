//! The environment variable that forces an instruction set.

use std::process::Command;

use lockstep_kernels::{Isa, OVERRIDE};

/// What [`Isa::detect`] says in a process with the variable set to `name`.
fn detected_with(name: &str) -> String {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_says_what_it_detects", "--nocapture"])
        .env(OVERRIDE, name)
        .output()
        .unwrap();
    let output = String::from_utf8(child.stdout).unwrap();
    let (_, detected) = output.split_once("detected: ").unwrap();
    detected.lines().next().unwrap().to_owned()
}

#[test]
fn a_process_says_what_it_detects() {
    match Isa::detect() {
        Ok(isa) => println!("detected: {isa}"),
        Err(error) => println!("detected: {error}"),
    }
}

#[test]
fn the_environment_forces_an_instruction_set_or_is_refused() {
    for name in Isa::NAMES {
        let expected = match Isa::named(name) {
            Ok(isa) => isa.to_string(),
            Err(error) => error.to_string(),
        };
        assert_eq!(detected_with(name), expected);
    }
    assert!(detected_with("sse9").starts_with("unknown kernel path \"sse9\""));
}
