//! Asks two servers for an answer, and verifies it.
//!
//! `cargo run -p lockstep-client --example ask_and_verify` starts two servers of a tiny seeded
//! model in this process (see `serve_a_span.rs`), finds a ring over them, streams an answer, has
//! cells of it opened and checked, and prints what was found.

#[path = "serve_a_span.rs"]
#[expect(dead_code, reason = "what makes it a program of its own")]
mod serve_a_span;

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{Write, stdout};
use std::sync::Arc;

use lockstep_client::audit::{self, Audit, Audited};
use lockstep_client::backend::backend;
use lockstep_client::outcome::Outcome;
use lockstep_client::own::OwnSecret;
use lockstep_client::random;
use lockstep_client::request::Parameters;
use lockstep_client::ring::{self, Answer, Ring, Served, Statuses};
use lockstep_exact::bytes::Canonical as _;
use lockstep_exact::digest::Digest;
use lockstep_node::driver::Links;
use lockstep_node::transport::{AllowList, Endpoint, Identity, Listen};
use lockstep_testing::tiny_model::TinyModel;
use lockstep_verify::draw::Extent;
use lockstep_verify::key::Key;
use tokio::task::JoinHandle;

use serve_a_span::Span;

/// Two servers of a tiny model, in this process.
struct Servers {
    model: TinyModel,
    ring: Ring,
    tasks: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Takes leave of the servers, and ends them.
    async fn stop(self) {
        self.ring.close().await;
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Starts the servers and finds a ring over them.
async fn start() -> Result<Servers, Box<dyn Error>> {
    let model = TinyModel::new(serve_a_span::SEED);
    let layers = model.span().end;
    let (mut peers, mut tasks) = (Vec::new(), Vec::new());
    for span in [0..layers / 2, layers / 2..layers] {
        let server = Span::of(&model, span).await?;
        peers.extend(server.ticket.peers.iter().cloned());
        tasks.push(tokio::spawn(async { drop(server.serve(std::future::pending()).await) }));
    }
    let nobody = AllowList::Only(BTreeSet::new());
    let endpoint = Endpoint::bind(&Identity::generate(), Listen::default(), nobody).await?;
    let links = Links::new(Arc::new(endpoint));
    let id = Digest::of(&model.manifest.to_bytes());
    let statuses = Statuses::ask(&links, &peers, id, |_| true).await;
    let served = Served {
        id,
        manifest: Arc::new(model.manifest.clone()),
        vocabulary: Arc::new(model.vocabulary()),
    };
    let ring = Ring::over(served, links, &statuses, &BTreeSet::new())?;
    Ok(Servers { model, ring, tasks })
}

/// Asks for an answer of a few tokens, and shows them as they come.
async fn ask(servers: &Servers, out: &mut impl Write) -> Result<Answer, Box<dyn Error>> {
    let parameters = Parameters { max_tokens: 5, ignore_end: true, ..Parameters::default() };
    let question = parameters.question(vec![1, 2, 3], &servers.model.manifest)?;
    // A program with a home folder keeps its secret there: see `lockstep_client::client`.
    let own = OwnSecret::draw()?;
    let mut answering = servers.ring.ask(question, &own, Some(Extent::Full))?;
    while let Some(event) = answering.next().await {
        match event {
            ring::Event::Accepted => writeln!(out, "the session is open")?,
            ring::Event::Token { index, token } => writeln!(out, "token {index}: {token}")?,
            ring::Event::Finished(answer) => return Ok(*answer),
            ring::Event::Moved(moved) => writeln!(out, "another ring: {}", moved.reason)?,
            ring::Event::Failed(error) => return Err(error.into()),
        }
    }
    Err("no answer and no error".into())
}

/// Has every cell opened and checked.
async fn verify(servers: &Servers, answer: &Answer) -> Result<Audited, Box<dyn Error>> {
    let ops = backend(Some(1))?;
    // Made once for a model, from its weights, and kept secret: see `lockstep_client::keys`.
    let model = &servers.model;
    let (secret, blob) = (random::secret()?, |index| model.blob(index));
    let key = Key::generate(&ops, model.manifest.clone(), secret, blob, |_| ())?;
    let mut audit = Audit::begin(&servers.ring, &ops, &key, answer, None);
    while let Some(event) = audit.next().await {
        if let audit::Event::Finished(audited) = event {
            return Ok(*audited);
        }
    }
    Err("no verdict".into())
}

/// Says what an audit found.
fn say(audited: &Audited, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    writeln!(out, "{}: {} openings were checked", audited.outcome(), audited.openings)?;
    for conduct in &audited.conduct {
        let server = conduct.stage + 1;
        writeln!(out, "s{server} opened {} of {} cells", conduct.answered, conduct.asked)?;
        for (why, count) in &conduct.unanswered {
            writeln!(out, "  {count} did not come: {why}")?;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut out = stdout();
    let servers = start().await?;
    let answer = ask(&servers, &mut out).await?;
    let audited = verify(&servers, &answer).await?;
    say(&audited, &mut out)?;
    servers.stop().await;
    match audited.outcome() {
        Outcome::Verified => Ok(()),
        outcome => Err(outcome.name().into()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use lockstep_proto::client::NoAnswer;
    use tokio::time::timeout;

    use super::*;

    /// No test waits longer than this, whatever hangs.
    async fn watched<T>(work: impl Future<Output = T>) -> T {
        timeout(Duration::from_secs(120), work).await.expect("it hangs")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_answer_of_honest_servers_is_verified_and_asked_again_it_is_the_same() {
        watched(async {
            let (servers, mut out) = (start().await.expect("a ring"), Vec::new());
            let first = ask(&servers, &mut out).await.expect("an answer");
            let audited = verify(&servers, &first).await.expect("a verdict");
            say(&audited, &mut out).expect("written");
            let text = String::from_utf8(out).expect("text");
            assert_eq!(audited.outcome(), Outcome::Verified, "{text}");
            assert!(text.contains("token 4: ") && text.contains("verified: "), "{text}");
            assert!(audited.openings > 0);
            for conduct in &audited.conduct {
                assert_eq!((conduct.answered, conduct.withheld), (conduct.asked, 0), "{text}");
                assert!(conduct.unanswered.is_empty(), "{text}");
            }
            let again = ask(&servers, &mut Vec::new()).await.expect("an answer");
            assert_eq!(again.receipt.answer, first.receipt.answer);
            servers.stop().await;
        })
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_opening_of_a_server_that_is_gone_is_counted_with_the_reason() {
        watched(async {
            let servers = start().await.expect("a ring");
            let answer = ask(&servers, &mut Vec::new()).await.expect("an answer");
            servers.tasks[1].abort();
            let audited = verify(&servers, &answer).await.expect("a verdict");
            assert_ne!(audited.outcome(), Outcome::Verified);
            let [first, second] = &audited.conduct[..] else { panic!("two servers") };
            assert!(first.unanswered.is_empty() && first.answered == first.asked, "{first:?}");
            assert_eq!(second.answered, 0);
            let counted: u32 = second.unanswered.values().sum();
            assert_eq!(counted, second.asked, "each has its reason: {second:?}");
            let known = [NoAnswer::HungUp, NoAnswer::LinkLost, NoAnswer::Timeout];
            assert!(second.unanswered.keys().all(|why| known.contains(why)), "{second:?}");
            servers.stop().await;
        })
        .await;
    }
}
