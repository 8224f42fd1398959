//! One process: what it has said so far, with the moment at which it came, and a guard.

use std::io::{Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A signal, by the name that `kill` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Continue,
    Interrupt,
    Kill,
    Stop,
    Terminate,
}

/// A running process, killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    what: String,
    /// Closed by [`Process::close_stdin`].
    stdin: Option<ChildStdin>,
    pub(crate) stdout: Stream,
    pub(crate) stderr: Stream,
}

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Ended {
    what: String,
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts a command with pipes on all three streams.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let what = format!("{:?}", command.get_args().collect::<Vec<_>>());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        let stdin = child.stdin.take();
        let stdout = Stream::of(child.stdout.take().unwrap());
        let stderr = Stream::of(child.stderr.take().unwrap());
        Self { child, what, stdin, stdout, stderr }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Continue => "CONT",
            Signal::Interrupt => "INT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Terminate => "TERM",
        };
        let line = format!("kill -{name} {}", self.child.id());
        let status = Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(status.success(), "{line}: {status}");
    }

    pub(crate) fn write_stdin(&mut self, text: &str) {
        self.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Closes its standard input, and waits until it has ended and both of its streams with it.
    pub(crate) fn end(mut self, within: Duration) -> Ended {
        self.close_stdin();
        self.end_by_itself(within)
    }

    /// The same, with its standard input open.
    pub(crate) fn end_by_itself(mut self, within: Duration) -> Ended {
        let deadline = Instant::now() + within;
        for stream in [&self.stdout, &self.stderr] {
            if stream.wait_until(deadline, |said| said.is_closed.then_some(())).is_none() {
                panic!("{} has not ended in {within:?}\n{}", self.what, self.said());
            }
        }
        // The streams of a process that ends are closed at its very end.
        let code = self.child.wait().unwrap().code();
        let (stdout, stderr) = (self.stdout.text(), self.stderr.text());
        Ended { what: std::mem::take(&mut self.what), code, stdout, stderr }
    }

    /// Waits for something on standard error.
    pub(crate) fn wait_stderr<T>(
        &self,
        within: Duration,
        what: &str,
        find: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.wait(&self.stderr, within, what, find)
    }

    /// Waits for something on standard output.
    pub(crate) fn wait_stdout<T>(
        &self,
        within: Duration,
        what: &str,
        find: impl Fn(&str) -> Option<T>,
    ) -> T {
        self.wait(&self.stdout, within, what, find)
    }

    fn wait<T>(
        &self,
        stream: &Stream,
        within: Duration,
        what: &str,
        find: impl Fn(&str) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        let found = stream.wait_until(deadline, |said| match find(&said.text()) {
            Some(found) => Some(Some(found)),
            None => said.is_closed.then_some(None),
        });
        match found {
            Some(Some(found)) => found,
            Some(None) => panic!("{} ended without {what}\n{}", self.what, self.said()),
            None => panic!("{}: no {what} in {within:?}\n{}", self.what, self.said()),
        }
    }

    fn said(&self) -> String {
        format!("stdout: {}\nstderr: {}", self.stdout.text(), self.stderr.text())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process dies of it too; one that has ended is only taken notice of.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Ended {
    /// The exit code is this one, or the test fails with what the process said.
    #[track_caller]
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// The last line of standard output.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let last = self.stdout.lines().last().unwrap_or_default();
        let value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self}"));
        assert!(matches!(value, Value::Object(_)), "{self}");
        value
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, code, stdout, stderr } = self;
        write!(f, "{what} ended with {code:?}\nstdout: {stdout}\nstderr: {stderr}")
    }
}

/// What came out of a pipe so far.
#[derive(Clone, Default)]
pub(crate) struct Stream(Arc<(Mutex<Said>, Condvar)>);

#[derive(Default)]
struct Said {
    bytes: Vec<u8>,
    /// How many bytes there were at which moment.
    moments: Vec<(usize, Instant)>,
    is_closed: bool,
}

impl Said {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Stream {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let stream = Self::default();
        let filled = stream.clone();
        thread::spawn(move || {
            let mut piece = [0; 4096];
            loop {
                let count = pipe.read(&mut piece).unwrap_or(0);
                let (said, changed) = &*filled.0;
                let mut said = said.lock().unwrap();
                said.bytes.extend_from_slice(&piece[..count]);
                let len = said.bytes.len();
                said.moments.push((len, Instant::now()));
                said.is_closed = count == 0;
                changed.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        stream
    }

    /// Everything so far.
    pub(crate) fn text(&self) -> String {
        self.0.0.lock().unwrap().text()
    }

    /// When the byte at this place came.
    pub(crate) fn moment(&self, at: usize) -> Instant {
        let said = self.0.0.lock().unwrap();
        let moment = said.moments.iter().find(|(len, _)| *len > at);
        moment.unwrap_or_else(|| panic!("only {} bytes", said.bytes.len())).1
    }

    fn wait_until<T>(&self, deadline: Instant, find: impl Fn(&Said) -> Option<T>) -> Option<T> {
        let (said, changed) = &*self.0;
        let mut said = said.lock().unwrap();
        loop {
            if let Some(found) = find(&said) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            said = changed.wait_timeout(said, left).unwrap().0;
        }
    }
}
