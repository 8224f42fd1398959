//! A ring in memory over a tiny model, in which one server or several may lie.

use std::sync::{Arc, LazyLock, OnceLock};

use lockstep_exact::manifest::Manifest;
use lockstep_exact::sample::Bias;
use lockstep_kernels::Kernels;
use lockstep_liar::{Liar, liar};
use lockstep_proto::client::ClientError;
use lockstep_proto::model::Model;
use lockstep_proto::server::{Capacity, Holding};
use lockstep_testing::liar::frames::{Forger, To};
use lockstep_testing::liar::rules;
use lockstep_testing::lie::{Finding, Lie, Script};
use lockstep_testing::overflow::overflowing_embedding;
use lockstep_testing::proofs::{Ask, key_of};
use lockstep_testing::ring::{Meddle, Point, Ring};
use lockstep_testing::tiny_model::TinyModel;
use lockstep_verify::audit::{Missing, Unverified, Verified, audit, plan};
use lockstep_verify::bundle::{Bundle, Exchange};
use lockstep_verify::draw::Extent;
use lockstep_verify::fault::Fault;
use lockstep_verify::key::Key;
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::{AuditSeed, Request};
use lockstep_verify::secret::Secret;
use lockstep_verify::statement::Segment;

/// Virtual time that no session of these tests takes.
const LONG_US: u64 = 600_000_000;
/// The seed that [`Ring::request`] commits to.
static SEED: LazyLock<AuditSeed> = LazyLock::new(|| AuditSeed::new(Secret::of(&[7; 32])));

/// A model with 6 layers, and a verifier's key for it.
pub(crate) struct Subject {
    model: TinyModel,
    pub(crate) manifest: Arc<Manifest>,
    key: Key,
}

impl Subject {
    pub(crate) fn new(model: TinyModel) -> Arc<Self> {
        let manifest = model.manifest.clone();
        let key = key_of(&model);
        Arc::new(Self { model, manifest: Arc::new(manifest), key })
    }

    /// The one without what only some families have.
    pub(crate) fn plain() -> &'static Arc<Self> {
        static PLAIN: OnceLock<Arc<Subject>> = OnceLock::new();
        PLAIN.get_or_init(|| Self::new(TinyModel::new(1)))
    }
}

impl Subject {
    /// A model in which the embedding of one token is the overflow marker, and that token.
    pub(crate) fn overflowing() -> (Arc<Self>, u32) {
        let token = 17;
        (Self::new(overflowing_embedding(token)), token as u32)
    }
}

/// The fastest operations that this machine has, on this thread.
fn kernels() -> Kernels {
    Kernels::detect(1).unwrap()
}

/// What is asked, made such that a lie can be one.
pub(crate) fn fit_for(mut ask: Ask, lie: Lie) -> Ask {
    match lie {
        Lie::IgnoredSeed => ask.sampling.temperature = 1.5,
        Lie::StopsEarly => ask.stops.ignore_end = false,
        Lie::GoesOn | Lie::HiddenTail => {
            let end = Subject::plain().manifest.end_tokens[0];
            ask.sampling.logit_bias = vec![Bias { token: end, bias: 100.0 }];
            ask.stops.ignore_end = false;
        }
        _ => {}
    }
    ask
}

/// How a request ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// An audit found nothing wrong.
    Verified(Box<Verified<Receipt>>),
    /// An audit found something.
    Failed(Fault),
    /// There is no answer.
    Ended(ClientError),
    /// Openings are missing.
    NotChecked(Missing),
}

impl Verdict {
    /// The stage that is named, and what was found.
    fn finding(&self) -> Option<(Option<u32>, Finding)> {
        match self {
            Self::Verified(_) => None,
            Self::Failed(fault) => Some((fault.stage(), Finding::of_fault(&fault.reason)?)),
            Self::Ended(error) => {
                Some((error.stage().or_else(|| error.reported()), Finding::of_error(error)?))
            }
            Self::NotChecked(Missing::Openings { stages }) => {
                let [stage] = stages[..] else { return None };
                Some((Some(stage), Finding::Unanswered))
            }
            Self::NotChecked(_) => None,
        }
    }

    /// Whether this stage is named and no other, for a reason that the table gives for the lie; or
    /// nobody, where that is what the reason allows.
    pub(crate) fn convicts(&self, stage: usize, lie: Lie) -> bool {
        self.finding().is_some_and(|(named, finding)| {
            let expected = finding.names().then_some(stage);
            named.map(|named| named as usize) == expected && lie.findings().contains(&finding)
        })
    }
}

/// A ring and its clients.
pub(crate) struct Scene {
    pub(crate) ring: Ring<Liar<Kernels>>,
    subject: Arc<Subject>,
    clients: usize,
}

impl Scene {
    /// [`Scene::of`] the plain model.
    pub(crate) fn new(seed: u64, ends: &[u32], scripts: &[(usize, Script)]) -> Self {
        Self::of(Subject::plain(), seed, ends, scripts)
    }

    /// Servers whose spans end at `ends`, and the scripts of those that lie.
    pub(crate) fn of(
        subject: &Arc<Subject>,
        seed: u64,
        ends: &[u32],
        scripts: &[(usize, Script)],
    ) -> Self {
        Self::after(subject, seed, ends, scripts, Vec::new())
    }

    /// As [`Scene::of`], with what the servers signed in an earlier run of the session that is to
    /// come: another scene's, because servers that start again have forgotten it.
    pub(crate) fn after(
        subject: &Arc<Subject>,
        seed: u64,
        ends: &[u32],
        scripts: &[(usize, Script)],
        earlier: Vec<Segment>,
    ) -> Self {
        let script = |stage: usize| {
            scripts.iter().find(|(liar, _)| *liar == stage).map(|(_, script)| *script)
        };
        let span = |stage: usize| {
            let first = stage.checked_sub(1).map_or(0, |before| ends[before]);
            first..ends[stage]
        };
        let (tiny, manifest) = (&subject.model, &subject.manifest);
        let vocabulary = Arc::new(tiny.vocabulary());
        let model = Model::from(&**manifest);
        let known = (model.clone(), Arc::clone(&vocabulary));
        let mut ring = Ring::new(seed, known, ends, Capacity::default(), |stage| {
            liar(kernels(), script(stage), manifest, span(stage), |b| tiny.blob(b)).unwrap()
        });
        for &(stage, script) in scripts {
            let model = rules::model(Some(script), model.clone());
            let head = (stage == 0).then(|| Arc::clone(&vocabulary));
            let holding = Holding { model, span: span(stage), head };
            ring.replace_holding(stage, holding, Capacity::default());
            let mut forger = Forger::new(script, stage, Ring::<Liar<Kernels>>::server_key(stage));
            forger.earlier.clone_from(&earlier);
            ring.meddle(move |packet| {
                let changed = match (packet.from, packet.to) {
                    (Point::Server(from), Point::Client(_)) => {
                        forger.sent(from, To::Client, &packet.body)
                    }
                    (Point::Server(_), Point::Server(to)) if to == stage && to == 0 => {
                        forger.got(&packet.body)
                    }
                    (Point::Server(from), Point::Server(_)) => {
                        forger.sent(from, To::Stage, &packet.body)
                    }
                    _ => None,
                };
                changed.map_or(Meddle::Pass, Meddle::Replace)
            });
        }
        Self { ring, subject: Arc::clone(subject), clients: 0 }
    }

    /// The tokens of a client's answer.
    pub(crate) fn answer(&self, client: usize) -> Vec<u32> {
        match self.ring.outcome(client) {
            Some(Ok(receipt)) => receipt.answer.clone(),
            other => panic!("client {client} has no receipt: {other:?}"),
        }
    }

    /// What the servers signed at the end of a client's answer.
    pub(crate) fn segments(&self, client: usize) -> Vec<Segment> {
        match self.ring.outcome(client) {
            Some(Ok(receipt)) => receipt.segments.clone(),
            other => panic!("client {client} has no receipt: {other:?}"),
        }
    }

    /// A new client asks; gives its number.
    pub(crate) fn ask(&mut self, ask: &Ask) -> usize {
        let client = self.clients;
        self.clients += 1;
        let request = self.ring.request(client, ask.prompt.clone(), 1);
        let (sampling, stops) = (ask.sampling.clone(), ask.stops.clone());
        let request = Request { sampling, stops, ..request };
        let route = self.ring.route();
        assert_eq!(self.ring.ask(request, route), Ok(client));
        client
    }

    /// Runs all requests to their ends.
    pub(crate) fn run(&mut self) {
        assert!(self.ring.run_to_the_end(LONG_US), "a request has no end");
    }

    /// Audits a client's answer, if it has one.
    pub(crate) fn verdict(&mut self, client: usize, extent: Extent) -> Verdict {
        let receipt = match self.ring.outcome(client) {
            Some(Ok(receipt)) => (**receipt).clone(),
            Some(Err(error)) => return Verdict::Ended(error.clone()),
            None => panic!("client {client} has no end"),
        };
        let exchanges = match plan(&self.subject.key, &receipt, &SEED, extent) {
            Ok(plan) => self.open(client, plan.into_iter().map(|(_, target)| target).collect()),
            Err(_) => Vec::new(),
        };
        let bundle = Bundle { receipt, extent, seed: SEED.clone(), exchanges };
        match audit(&kernels(), &self.subject.key, &bundle) {
            Ok(verified) => Verdict::Verified(Box::new(verified)),
            Err(Unverified::Failed(fault)) => Verdict::Failed(fault),
            Err(Unverified::NotChecked { why, .. }) => Verdict::NotChecked(why),
        }
    }

    fn open(
        &mut self,
        client: usize,
        targets: Vec<lockstep_verify::challenge::Target>,
    ) -> Vec<Exchange> {
        self.ring.challenge(client, targets);
        let answered = self.ring.run_until(LONG_US, |ring| ring.exchanges(client).is_some());
        assert!(answered, "challenges have no end");
        let exchanges = self.ring.exchanges(client).unwrap_or_default().iter();
        let answered = exchanges.filter_map(|exchange| {
            let opening = exchange.answer.clone().ok()?;
            Some(Exchange { challenge: exchange.challenge.clone(), opening })
        });
        answered.collect()
    }

    /// Asks, runs and audits.
    pub(crate) fn whole(&mut self, ask: &Ask, extent: Extent) -> Verdict {
        let client = self.ask(ask);
        self.run();
        self.verdict(client, extent)
    }
}
