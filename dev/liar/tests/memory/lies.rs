//! Every lie, told by every server that can tell it, in rings of 1, 2 and 3: a full audit (or the
//! protocol, before one) names that server and no other, for the reason in the table.

use std::collections::BTreeMap;
use std::sync::Arc;

use lockstep_testing::lie::{Aim, Lie, Script};
use lockstep_testing::proofs::Ask;
use lockstep_verify::draw::Extent;

use crate::ring::{Scene, Subject, Verdict, fit_for};

pub(crate) const RINGS: [&[u32]; 3] = [&[6], &[3, 6], &[2, 4, 6]];
const LAYERS: u32 = 6;
const PROMPT: u32 = 12;
const TOKENS: u32 = 6;

/// One telling of a lie.
#[derive(Clone, Copy, Debug)]
struct Telling {
    ends: &'static [u32],
    stage: usize,
    script: Script,
}

/// Every way in which a lie is told here: servers, layers that have what it is about, positions.
fn tellings(subject: &Subject, rings: &[&'static [u32]], lie: Lie) -> Vec<Telling> {
    let mut all = Vec::new();
    let fits = |layer: &u32| *layer < LAYERS && lie.fits(&subject.manifest, *layer);
    for &ends in rings {
        let tells = |stage: &usize| lie.teller().includes(*stage, ends.len());
        let is_alone = ends.len() == 1 && matches!(lie, Lie::HiddenTail | Lie::MixedRuns);
        for stage in (0..ends.len()).filter(tells).filter(|_| !is_alone) {
            let first = stage.checked_sub(1).map_or(0, |before| ends[before]);
            for layer in layers(lie, first..ends[stage]).into_iter().filter(fits) {
                for position in positions(lie, layer, stage + 1 == ends.len()) {
                    let script = Script { lie, aim: Aim { layer, position } };
                    all.push(Telling { ends, stage, script });
                }
            }
        }
    }
    all
}

/// The layers of a span in which it is worth telling: all, if the lie is about one.
fn layers(lie: Lie, span: std::ops::Range<u32>) -> Vec<u32> {
    match lie {
        Lie::ConstantState
        | Lie::FlippedBit
        | Lie::FourBitWeights
        | Lie::IgnoredWindow
        | Lie::LeftOutBiases
        | Lie::LeftOutHeadNorms
        | Lie::LeftOutPostNorms
        | Lie::LeftOutSharedExpert
        | Lie::OtherChoice
        | Lie::OtherKvRoot
        | Lie::OtherLayer
        | Lie::OtherRouter
        | Lie::OtherStatesRoot
        | Lie::OtherWeights
        | Lie::OverflowState
        | Lie::ScaledCodes
        | Lie::ScaledRowScales
        | Lie::SkippedInAnswer
        | Lie::SkippedInPrompt
        | Lie::SkippedLayer
        | Lie::SumOffByOne
        | Lie::SumOutOfRange
        | Lie::SumPlusP
        | Lie::SumPlusPWide
        | Lie::SwappedExperts
        | Lie::SwappedLayers
        | Lie::TruncatedContext
        | Lie::WrongActivation
        | Lie::WrongKv
        | Lie::WrongRope
        | Lie::ZeroState => span.collect(),
        // Whose segment is not of this run: that of each other server.
        Lie::MixedRuns => vec![span.end, LAYERS - 1],
        // Where the model ends, the position before has no state.
        Lie::OldState => span.filter(|layer| layer + 1 < LAYERS).collect(),
        _ => vec![span.start],
    }
}

/// Positions: in the prompt, its last, in the answer. What the last server sends, and states after
/// the last layer, begin with the prompt's last position.
fn positions(lie: Lie, layer: u32, is_last_stage: bool) -> Vec<u32> {
    let all = [3, PROMPT - 1, PROMPT + 2];
    let from = |first: u32| all.into_iter().filter(|position| *position >= first).collect();
    match lie {
        Lie::FlippedBit | Lie::OverflowState if layer + 1 == LAYERS => from(PROMPT - 1),
        Lie::NonCanonicalState | Lie::SendsOther | Lie::TwoMarks | Lie::WrongMark
            if is_last_stage =>
        {
            from(PROMPT - 1)
        }
        Lie::FlippedBit
        | Lie::HiddenEmbedding
        | Lie::NonCanonicalState
        | Lie::OtherMarkInput
        | Lie::OverflowState
        | Lie::ReceivesOther
        | Lie::SendsOther
        | Lie::TwoMarks
        | Lie::WrongEmbedding
        | Lie::WrongKv
        | Lie::WrongMark => from(0),
        Lie::EarlyEnd | Lie::FalseOverflow | Lie::SecondBest | Lie::StreamsOther => {
            from(PROMPT - 1)
        }
        Lie::AnotherPrompt => vec![PROMPT - 1],
        Lie::SkippedInAnswer | Lie::SkippedInPrompt => vec![PROMPT],
        // In the chunk that is also rebuilt as one.
        Lie::OldState => vec![3],
        _ => vec![0],
    }
}

fn ask(lie: Lie) -> Ask {
    // Other positions can only be opened where not all are asked for.
    let prompt = if lie == Lie::OtherPosition { 100 } else { PROMPT };
    fit_for(Ask::new(21, prompt, TOKENS), lie)
}

const fn extent(lie: Lie) -> Extent {
    match lie {
        Lie::OtherPosition => Extent::Sampled,
        _ => Extent::Full,
    }
}

/// Tells the lie. Openings of another session take one that is honest until then.
fn tell(subject: &Arc<Subject>, telling: Telling) -> Verdict {
    let Telling { ends, stage, script } = telling;
    let mut earlier = Vec::new();
    if script.lie == Lie::MixedRuns {
        let mut before = Scene::of(subject, 6, ends, &[]);
        let client = before.ask(&ask(script.lie));
        before.run();
        earlier = before.segments(client);
    }
    let mut scene = Scene::after(subject, 5, ends, &[(stage, script)], earlier);
    if script.lie == Lie::OtherSession {
        let before = scene.whole(&Ask::new(22, PROMPT, TOKENS), Extent::Full);
        assert!(matches!(before, Verdict::Verified(_)), "{before:?}");
    }
    scene.whole(&ask(script.lie), extent(script.lie))
}

fn check(subject: &Arc<Subject>, telling: Telling) -> Result<(), String> {
    let lie = telling.script.lie;
    let verdict = tell(subject, telling);
    if verdict.convicts(telling.stage, lie) {
        return Ok(());
    }
    let got = match &verdict {
        Verdict::Verified(_) => "VERIFIED".to_owned(),
        Verdict::Failed(fault) => fault.to_string(),
        Verdict::Ended(error) => error.to_string(),
        Verdict::NotChecked(missing) => missing.to_string(),
    };
    Err(format!("{telling:?}: expected {:?}, got: {got}", lie.findings()))
}

/// Tells every lie about what the model has, in every way in which it is told in these rings. Gives
/// how many lies there were, and how often they were told.
pub(crate) fn check_all(subject: &Arc<Subject>, rings: &[&'static [u32]]) -> (usize, usize) {
    let mut told: BTreeMap<Lie, usize> = BTreeMap::new();
    let mut escaped = Vec::new();
    for &lie in Lie::ALL {
        for telling in tellings(subject, rings, lie) {
            *told.entry(lie).or_default() += 1;
            escaped.extend(check(subject, telling).err());
        }
    }
    let all: usize = told.values().sum();
    assert!(
        escaped.is_empty(),
        "{} of {all} not as expected:\n{}",
        escaped.len(),
        escaped.join("\n")
    );
    (told.len(), all)
}

#[test]
fn every_lie_of_every_server_is_caught_and_blamed_on_that_server_alone() {
    // As docs/liars.md says.
    assert_eq!(check_all(Subject::plain(), &RINGS), (50, 696));
}

#[test]
fn without_the_lie_the_same_requests_are_verified_in_full() {
    check_honest(Subject::plain(), &RINGS);
}

/// Without a lie, what is asked where one is told is verified in full.
pub(crate) fn check_honest(subject: &Arc<Subject>, rings: &[&'static [u32]]) {
    let mut asked: Vec<Ask> = Vec::new();
    for ask in Lie::ALL.iter().map(|&lie| ask(lie)) {
        if asked.contains(&ask) {
            continue;
        }
        for ends in rings {
            match Scene::of(subject, 5, ends, &[]).whole(&ask, Extent::Full) {
                Verdict::Verified(verified) => assert!(verified.coverage().is_full()),
                other => panic!("{ends:?}: {other:?}"),
            }
        }
        asked.push(ask);
    }
    assert!(asked.len() >= 4);
}

#[test]
fn of_two_neighbours_that_lie_one_is_caught_and_never_the_third() {
    for lie in [Lie::SkippedLayer, Lie::ScaledRowScales, Lie::WrongKv, Lie::OtherStatesRoot] {
        for (one, other) in [(0, 1), (1, 2), (2, 0)] {
            let script = |stage: usize| {
                let layer = 2 * u32::try_from(stage).unwrap() + 1;
                (stage, Script { lie, aim: Aim { layer, position: 3 } })
            };
            let mut scene = Scene::new(5, RINGS[2], &[script(one), script(other)]);
            let verdict = scene.whole(&ask(lie), Extent::Full);
            let convicted = verdict.convicts(one, lie) || verdict.convicts(other, lie);
            assert!(convicted, "{lie}: {verdict:?}");
        }
    }
}

#[test]
fn a_liar_among_many_sessions_is_caught_in_each_of_them() {
    let aim = Aim { layer: 3, position: 3 };
    let script = Script { lie: Lie::FlippedBit, aim };
    let mut scene = Scene::new(9, RINGS[2], &[(1, script)]);
    let clients: Vec<usize> = (0..8).map(|seed| scene.ask(&Ask::new(seed, 5 + seed, 4))).collect();
    scene.run();
    for client in clients {
        let verdict = scene.verdict(client, Extent::Full);
        assert!(verdict.convicts(1, script.lie), "{verdict:?}");
    }
}

#[test]
fn a_token_where_the_head_gives_none_is_caught() {
    let (subject, token) = Subject::overflowing();
    for ends in RINGS {
        let script = Script { lie: Lie::IgnoredOverflow, aim: Aim { layer: 0, position: 0 } };
        let mut ask = Ask::new(21, PROMPT, TOKENS);
        ask.prompt[3] = token;
        // A marker in the prompt is data, and the answer goes on.
        let mut honest = Scene::of(&subject, 5, ends, &[]);
        assert!(matches!(honest.whole(&ask, Extent::Full), Verdict::Verified(_)));
        *ask.prompt.last_mut().unwrap() = token;
        let mut honest = Scene::of(&subject, 5, ends, &[]);
        let client = honest.ask(&ask);
        honest.run();
        assert!(honest.answer(client).is_empty());
        assert!(matches!(honest.verdict(client, Extent::Full), Verdict::Verified(_)));
        let verdict = Scene::of(&subject, 5, ends, &[(0, script)]).whole(&ask, Extent::Full);
        assert!(verdict.convicts(0, script.lie), "{ends:?}: {verdict:?}");
    }
}
