//! Three real server processes over real sockets on the real model, one of which lies: the client
//! program finds out, names it and ends with exit code 3.

use std::io::{BufRead, BufReader, Read};
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
    let mut server = Server { child, ticket: String::new() };
    let line = heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no ticket of {span}"));
    let value: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
    value["ticket"].as_str().unwrap().clone_into(&mut server.ticket);
    server
}

/// Runs a command to its end, or kills it when its time is up.
fn finish(mut command: Command, limit: Duration) -> Output {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
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
    let tickets: Vec<&str> = servers.iter().map(|server| server.ticket.as_str()).collect();
    let mut command = Command::new(lockstep());
    command.arg("--home").arg(home).arg("chat").args(tickets);
    command.args(["--prompt", "What is the capital of France?", "--max-tokens", "8"]);
    command.args(["--audit", "full", "--json"]);
    let output = finish(command, WATCHDOG);
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or_else(|| panic!("no report: {words}"));
    let report = serde_json::from_str(last).unwrap_or_else(|e| panic!("{last:?}: {e}"));
    (output.status.code(), report)
}

#[test]
fn real_processes_that_lie_are_named_and_honest_ones_are_verified() {
    let home = home();
    let (code, report) = ask(&home.0, 0, None);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(report["verdict"], "verified", "{report}");
    let middle = ["skipped-layer", "scaled-row-scales", "scaled-codes", "wrong-kv", "flipped-bit"];
    let first = ["second-best-token", "hidden-embedding"];
    let told = middle.iter().map(|lie| (1, *lie)).chain(first.iter().map(|lie| (0, *lie)));
    for (stage, lie) in told {
        let (code, report) = ask(&home.0, stage, Some(lie));
        assert_eq!(code, Some(3), "{lie}: {report}");
        assert_eq!(report["verdict"], "failed", "{lie}: {report}");
        assert_eq!(report["stage"], stage, "{lie}: {report}");
        assert!(report["node"].is_string(), "{lie}: {report}");
        if stage == 1 {
            assert_eq!(report["cell"]["layer"], MIDDLE, "{lie}: {report}");
        }
    }
}
