//! Three real server processes over real sockets on the real model, one of which lies: the client
//! program finds out, names it and ends with exit code 3; from then on nothing goes over it, and
//! the evidence stays until the ban is lifted. Or it withholds what it had promised to open: exit
//! code 5, and it is remembered, avoided and, on request, forgotten.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use serde_json::Value;

const SPANS: [&str; 3] = ["0..10", "10..20", "20..30"];
/// The layer that the middle server lies about unless told otherwise.
const MIDDLE: u32 = 15;
const LIAR: &str = env!("CARGO_BIN_EXE_lockstep-liar");
/// From starting the client to its end.
const WATCHDOG: Duration = Duration::from_secs(30);
/// For servers to load, and for what is done once: import and key.
const PATIENCE: Duration = Duration::from_secs(120);

/// The program, which lies beside the liar's.
fn lockstep() -> PathBuf {
    let program = Path::new(LIAR).with_file_name("lockstep");
    assert!(
        program.exists(),
        "{} is not there: run `cargo build --release --workspace` first",
        program.display()
    );
    program
}

/// A folder of this process, removed when dropped.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// A home with the imported model and a key.
fn home() -> Folder {
    let name = format!("lockstep-liar-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    let model = test_model::path();
    let import = ["import", &model.to_string_lossy(), "--name", "smollm2"].map(str::to_owned);
    for arguments in [&import[..], &["key".to_owned(), "smollm2".to_owned()]] {
        let mut command = Command::new(lockstep());
        command.arg("--home").arg(&folder.0).args(arguments);
        let output = finish(command, PATIENCE);
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {words}");
    }
    folder
}

/// A server process; killed when dropped.
struct Server {
    child: Child,
    ticket: String,
    node: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Starts a server and waits for its ticket.
fn start(home: &Path, span: &str, lie: Option<&str>) -> Server {
    let mut command = match lie {
        None => {
            let mut command = Command::new(lockstep());
            command.args(["serve", "smollm2", "--bind", "127.0.0.1:0", "--ephemeral", "--json"]);
            command.arg("--until-stdin-closes");
            command
        }
        Some(lie) => {
            let mut command = Command::new(LIAR);
            command.args(["smollm2", "--lie", lie]);
            command
        }
    };
    command.arg("--home").arg(home).args(["--layers", span, "--threads", "1"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let (tell, heard) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).ok();
        tell.send(line).ok();
    });
    let mut server = Server { child, ticket: String::new(), node: String::new() };
    let line = heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no ticket of {span}"));
    let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    value["ticket"].as_str().unwrap().clone_into(&mut server.ticket);
    value["node"].as_str().unwrap().clone_into(&mut server.node);
    server
}

/// Runs a command to its end, or kills it when its time is up.
fn finish(command: Command, limit: Duration) -> Output {
    finish_with(command, limit, "")
}

/// The same, with a text on its standard input.
fn finish_with(mut command: Command, limit: Duration, text: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    child.stdin.take().unwrap().write_all(text.as_bytes()).ok();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (tell, heard) = mpsc::channel::<()>();
    let read_errors = thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).ok();
        bytes
    });
    let read = thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).ok();
        drop(tell);
        bytes
    });
    let timed_out = heard.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
    if timed_out {
        child.kill().ok();
    }
    let status = child.wait().unwrap();
    let (stdout, stderr) = (read.join().unwrap(), read_errors.join().unwrap());
    let words = String::from_utf8_lossy(&stderr);
    assert!(!timed_out, "{command:?} took longer than {limit:?}: {words}");
    Output { status, stdout, stderr }
}

/// Asks a ring in which one server tells a lie; gives exit code and report.
fn ask(home: &Path, liar: usize, lie: Option<&str>) -> (Option<i32>, Value) {
    let servers: Vec<Server> = SPANS
        .iter()
        .enumerate()
        .map(|(stage, span)| start(home, span, lie.filter(|_| stage == liar)))
        .collect();
    let servers: Vec<&Server> = servers.iter().collect();
    report(&chat(home, &servers, &["--audit", "full", "--json"]))
}

/// A client's question to these servers.
fn chat(home: &Path, servers: &[&Server], more: &[&str]) -> Output {
    let mut arguments = vec!["chat"];
    arguments.extend(servers.iter().map(|server| server.ticket.as_str()));
    arguments.extend(["--prompt", "What is the capital of France?", "--max-tokens", "8"]);
    arguments.extend(more);
    program(home, &arguments)
}

/// Runs the program to its end.
fn program(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(lockstep());
    command.arg("--home").arg(home).args(arguments);
    finish(command, WATCHDOG)
}

/// Exit code and report.
fn report(output: &Output) -> (Option<i32>, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = words(output);
    let last = text.lines().last().unwrap_or_else(|| panic!("no report: {words}"));
    let report = serde_json::from_str(last).unwrap_or_else(|e| panic!("{last:?}: {e}"));
    (output.status.code(), report)
}

/// What was said to people.
fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The saved receipt of an answer, verified again: exit code and report.
fn verify(home: &Path, answer: &Value) -> (Option<i32>, Value) {
    let receipt = answer["receipt"].as_str().unwrap_or_else(|| panic!("no receipt: {answer}"));
    report(&program(home, &["verify", receipt, "--json"]))
}

#[test]
fn real_processes_that_lie_or_withhold_are_named_and_honest_ones_are_verified() {
    let home = home();
    lies_are_found_and_found_again_in_the_receipt(&home.0);
    who_is_convicted_is_banned_until_that_is_lifted_and_the_evidence_stays(&home.0);
    what_withholds_is_told_remembered_avoided_and_forgotten(&home.0);
}

/// The middle one of three servers lies; `spare` serves the same layers honestly.
fn who_is_convicted_is_banned_until_that_is_lifted_and_the_evidence_stays(home: &Path) {
    let lie = |stage| (stage == 1).then_some("skipped-layer");
    let three: Vec<Server> =
        SPANS.iter().enumerate().map(|(stage, span)| start(home, span, lie(stage))).collect();
    let spare = start(home, SPANS[1], None);
    let liar = three[1].node.as_str();
    let three: Vec<&Server> = three.iter().collect();
    let with_spare = [&three[..], &[&spare]].concat();
    let banned = || {
        let (code, nodes) = report(&program(home, &["nodes", "--banned", "--json"]));
        assert_eq!(code, Some(0), "{nodes}");
        let nodes = nodes["nodes"].as_array().expect("a list").clone();
        nodes.into_iter().find(|node| node["node"] == liar)
    };
    assert_eq!(banned(), None);

    // In one chat: the second message is asked of nobody, because nobody else has those layers.
    let mut arguments = vec!["chat"];
    arguments.extend(three.iter().map(|server| server.ticket.as_str()));
    arguments.extend(["--audit", "full", "--max-tokens", "4", "--json"]);
    let mut command = Command::new(lockstep());
    command.arg("--home").arg(home).args(&arguments);
    let output = finish_with(command, WATCHDOG, "One.\nTwo.\n");
    let said = words(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("nobody holds layers 10..20") && said.contains("1 banned"), "{said}");
    let (_, answer) = report(&output);
    let conviction = banned().expect("a conviction");
    let evidence = conviction["conviction"]["receipt"].as_str().expect("a path").to_owned();
    assert_eq!(answer["receipt"].as_str(), Some(evidence.as_str()), "{conviction}");

    // In the next chat: its answers come from the other one, and it says why.
    let output = chat(home, &with_spare, &["--json"]);
    let (code, answer) = report(&output);
    assert_eq!((code, &answer["verdict"]), (Some(0), &Value::from("verified")), "{answer}");
    assert_eq!(answer["audited"][1]["node"].as_str(), Some(spare.node.as_str()), "{answer}");
    let said = words(&output);
    assert!(said.contains(&format!("banned {liar}: it failed the audit of 1 of 1")), "{said}");
    let tickets: Vec<&str> = with_spare.iter().map(|server| server.ticket.as_str()).collect();
    let status = [&["status"], &tickets[..], &["--json"]].concat();
    let (_, seen) = report(&program(home, &status));
    let nodes = seen["nodes"].as_array().expect("a list");
    for node in nodes {
        let is_liar = node["node"] == liar;
        assert_eq!((&node["banned"], &node["proven"]), (&is_liar.into(), &(!is_liar).into()));
        assert_eq!(node["evidence"].as_str(), is_liar.then_some(evidence.as_str()), "{node}");
    }

    // Neither the limit of the folder nor `--rm all` removes the evidence.
    let removed = program(home, &["receipts", "--rm", "all"]);
    assert!(words(&removed).contains("they convict banned nodes"), "{}", words(&removed));
    let left = program(home, &["receipts", "--json"]);
    let (_, left) = report(&left);
    assert!(Path::new(&evidence).exists(), "{left}");
    let (code, again) = verify(home, &answer_of(&evidence));
    assert_eq!((code, &again["node"]), (Some(3), &Value::from(liar)), "{again}");

    // Lifted; and the receipt bans again by itself.
    assert_eq!(program(home, &["nodes", "--forget", liar]).status.code(), Some(0));
    assert_eq!(banned(), None);
    let output = program(home, &["verify", &evidence]);
    assert!(words(&output).contains(&format!("banned {liar}")), "{}", words(&output));
    assert_eq!(banned().expect("a conviction")["conviction"]["receipt"], evidence.as_str());
    assert_eq!(program(home, &["nodes", "--forget", liar]).status.code(), Some(0));
}

/// A report of an answer, as far as [`verify`] reads it.
fn answer_of(receipt: &str) -> Value {
    serde_json::json!({ "receipt": receipt })
}

/// The middle one of three servers opens nothing; `spare` serves the same layers honestly.
fn what_withholds_is_told_remembered_avoided_and_forgotten(home: &Path) {
    let lie = |stage| (stage == 1).then_some("withheld-opening");
    let three: Vec<Server> =
        SPANS.iter().enumerate().map(|(stage, span)| start(home, span, lie(stage))).collect();
    let spare = start(home, SPANS[1], None);
    let withholder = three[1].node.as_str();
    let three: Vec<&Server> = three.iter().collect();
    let with_spare = [&three[..], &[&spare]].concat();

    // Told in words: who owes how much, and nothing of what the audit would have found.
    let output = chat(home, &three, &[]);
    let said = words(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    let owes = format!("WITHHELD: s2 ({withholder}) owes ");
    assert!(said.contains(&owes) && said.contains("nothing is claimed"), "{said}");
    assert!(!said.contains("VERIFIED") && !said.contains("caught with probability"), "{said}");

    // And to scripts, for each stage.
    let (code, answer) = report(&chat(home, &three, &["--json"]));
    assert_eq!((code, &answer["verdict"]), (Some(5), &Value::from("withheld")), "{answer}");
    assert_eq!(answer["coverage"]["detects"], Value::Array(Vec::new()), "{answer}");
    for stage in 0..3 {
        let conduct = &answer["audited"][stage];
        let (asked, answered) = (conduct["asked"].as_u64(), conduct["answered"].as_u64());
        assert_eq!(conduct["node"].as_str(), Some(three[stage].node.as_str()), "{answer}");
        assert!(asked > Some(0), "{answer}");
        let (owed, given) = if stage == 1 { (asked, Some(0)) } else { (Some(0), asked) };
        assert_eq!((conduct["withheld"].as_u64(), answered), (owed, given), "{answer}");
        are_all_explained(conduct, owed, &said);
    }
    // Nobody can see from the receipt that something was refused: it says what is missing.
    let (code, again) = verify(home, &answer);
    assert_eq!((code, &again["verdict"]), (Some(4), &Value::from("not checked")), "{again}");
    let rates = again["coverage"]["stages"][1]["detects"].as_array().expect("a list");
    assert!(!rates.is_empty(), "{again}");
    assert!(rates.iter().all(|rate| rate["probability"] == 0.0), "{again}");

    // Remembered, and avoided.
    let file = std::fs::read_to_string(home.join("nodes.toml")).expect("a record");
    assert!(file.contains(withholder) && !file.contains(&spare.node), "{file}");
    let (_, nodes) = report(&program(home, &["nodes", "--json"]));
    let of = |id: &str| {
        let nodes = nodes["nodes"].as_array().expect("a list");
        nodes.iter().find(|node| node["node"] == id).unwrap_or_else(|| panic!("{id}: {nodes:?}"))
    };
    assert_eq!((&of(withholder)["answers"], &of(withholder)["withheld"]), (&2.into(), &2.into()));
    assert_eq!(of(&three[0].node)["withheld"], 0);
    assert!(of(&three[0].node)["avoided"].is_null(), "{nodes}");
    let said = String::from_utf8_lossy(&program(home, &["nodes"]).stdout).into_owned();
    assert!(said.contains("avoided: it withheld openings of 2 of 2 answers"), "{said}");
    let output = chat(home, &three, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", words(&output));
    assert!(words(&output).contains("lockstep nodes --forget"), "{}", words(&output));
    let (code, answer) = report(&chat(home, &with_spare, &["--json"]));
    assert_eq!((code, &answer["verdict"]), (Some(0), &Value::from("verified")), "{answer}");
    assert_eq!(answer["audited"][1]["node"].as_str(), Some(spare.node.as_str()), "{answer}");
    let (code, again) = verify(home, &answer);
    assert_eq!((code, &again["verdict"]), (Some(0), &answer["verdict"]), "{again}");
    assert_eq!(again["coverage"], answer["coverage"], "{again}");

    // Forgotten, and asked again.
    let output = program(home, &["nodes", "--forget", withholder]);
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));
    let file = std::fs::read_to_string(home.join("nodes.toml")).expect("a record");
    assert!(!file.contains(withholder), "{file}");
    let (code, answer) = report(&chat(home, &three, &["--json"]));
    assert_eq!(code, Some(5), "{answer}");
}

/// Every opening that did not come has its reason and is counted once, and the words say it too.
fn are_all_explained(conduct: &Value, owed: Option<u64>, said: &str) {
    let reasons = conduct["unanswered"].as_array().expect("a list");
    let counts = reasons.iter().map(|reason| reason["openings"].as_u64().expect("a number"));
    assert_eq!(Some(counts.sum()), owed, "{conduct}");
    for reason in reasons {
        let why = reason["reason"].as_str().expect("words");
        assert!(said.contains(&format!("{why} (")), "told in words too: {why}: {said}");
    }
}

fn lies_are_found_and_found_again_in_the_receipt(home: &Path) {
    let (code, report) = ask(home, 0, None);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["verdict"], "verified", "{report}");
    let middle = ["skipped-layer", "scaled-row-scales", "scaled-codes", "wrong-kv", "flipped-bit"];
    let first = ["second-best-token", "hidden-embedding"];
    let told = middle.iter().map(|lie| (1, *lie)).chain(first.iter().map(|lie| (0, *lie)));
    for (stage, lie) in told {
        let (code, report) = ask(home, stage, Some(lie));
        assert_eq!(code, Some(3), "{lie}: {report}");
        let (code, again) = verify(home, &report);
        assert_eq!(code, Some(3), "{lie}: {again}");
        for fact in ["verdict", "stage", "node", "cell", "reason"] {
            assert_eq!(again[fact], report[fact], "{lie}, {fact}: {again}");
        }
        assert_eq!(report["verdict"], "failed", "{lie}: {report}");
        assert_eq!(report["stage"], stage, "{lie}: {report}");
        assert!(report["node"].is_string(), "{lie}: {report}");
        if stage == 1 {
            assert_eq!(report["cell"]["layer"], MIDDLE, "{lie}: {report}");
        }
    }
}
