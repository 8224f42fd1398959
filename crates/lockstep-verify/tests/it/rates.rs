//! What coverage says of a draw is what the draw does: cheats are placed in many ways, the
//! cleverest that we know among them, and held against the real draw under many seeds.

use std::collections::BTreeSet;

use lockstep_testing::numbers::Numbers;
use lockstep_testing::tiny_model::{Sizes, TinyModel};
use lockstep_verify::challenge::Target;
use lockstep_verify::draw::{Draw, Extent, PROMPT_CELLS, Stratum, draw};
use lockstep_verify::links::{Linked, Rules};
use lockstep_verify::rates::{self, Cheat};
use lockstep_verify::receipt::Receipt;
use lockstep_verify::request::AuditSeed;
use lockstep_verify::secret::Secret;

use lockstep_testing::proofs::{Ask, Ring};

/// Draws that an estimate is made of.
const DRAWS: u64 = 4000;
/// Standard deviations that an estimate may be off.
const DEVIATIONS: f64 = 4.5;

/// A finished session of an honest ring.
struct Subject {
    model: TinyModel,
    receipt: Receipt,
    prompt: u32,
}

/// What one draw opens.
struct Opened {
    positions: usize,
    /// `[layers][positions]`.
    cells: Vec<bool>,
    heads: BTreeSet<u32>,
}

/// A layer and a position.
type Cell = (u32, u32);

impl Opened {
    fn has(&self, (layer, position): Cell) -> bool {
        self.cells[layer as usize * self.positions + position as usize]
    }
}

impl Subject {
    fn new(layers: u32, cuts: &[u32], prompt: u32, tokens: u32) -> Self {
        let model = TinyModel::with_sizes(1, Sizes { layers, ..Sizes::default() });
        let receipt = Ring::new(&model, cuts).run(&Ask::new(3, prompt, tokens)).receipt;
        Self { model, receipt, prompt }
    }

    fn draw(&self, seed: u64) -> Draw {
        let vocabulary = self.model.vocabulary();
        let rules = Rules { manifest: &self.model.manifest, vocabulary: &vocabulary };
        let linked = Linked::check(&self.receipt, rules).unwrap();
        draw(&linked, &self.model.manifest, &audit_seed(seed), Extent::Sampled).unwrap()
    }

    fn positions(&self) -> u32 {
        self.receipt.segments[0].positions
    }

    /// What so many draws open.
    fn opened(&self, seeds: std::ops::Range<u64>) -> Vec<Opened> {
        let vocabulary = self.model.vocabulary();
        let rules = Rules { manifest: &self.model.manifest, vocabulary: &vocabulary };
        let linked = Linked::check(&self.receipt, rules).unwrap();
        let positions = self.positions() as usize;
        let opened = |seed| {
            let mut cells = vec![false; self.model.manifest.layers.len() * positions];
            let mut heads = BTreeSet::new();
            let drawn =
                draw(&linked, &self.model.manifest, &audit_seed(seed), Extent::Sampled).unwrap();
            for (_, target) in drawn.targets {
                match target {
                    Target::Layer { layer, positions: opened, .. } => {
                        for position in opened {
                            cells[layer as usize * positions + position as usize] = true;
                        }
                    }
                    Target::Head { positions } => heads.extend(positions),
                    Target::Edge { .. } | Target::Mark { .. } => {
                        panic!("an honest ring has nothing unsettled")
                    }
                }
            }
            Opened { positions, cells, heads }
        };
        seeds.map(opened).collect()
    }

    /// Spans, prompt's positions and answer's.
    fn spans(&self) -> Vec<std::ops::Range<u32>> {
        self.receipt.segments.iter().map(|segment| segment.first..segment.end).collect()
    }
}

fn audit_seed(seed: u64) -> AuditSeed {
    let mut bytes = [0x5a; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    AuditSeed::new(Secret::of(&bytes))
}

/// How often any of these cells is opened.
fn found(opened: &[Opened], wrong: &[Cell]) -> f64 {
    let hits = opened.iter().filter(|opened| wrong.iter().any(|&cell| opened.has(cell)));
    hits.count() as f64 / opened.len() as f64
}

/// The most that an estimate of `probability` may be off.
fn slack(probability: f64, draws: usize) -> f64 {
    let variance = probability * (1.0 - probability) / draws as f64;
    DEVIATIONS * variance.sqrt() + 1e-9
}

/// `wrong` cells of a part of the session, in equal numbers in each of some layers, at random
/// places that are not opened in every draw.
fn spread(
    numbers: &mut Numbers,
    hidden: impl Fn(Cell) -> bool,
    layers: &[u32],
    positions: std::ops::Range<u32>,
    wrong: u64,
) -> Vec<Cell> {
    let mut columns: Vec<Vec<Cell>> = Vec::new();
    for &layer in layers {
        let mut cells: Vec<Cell> =
            positions.clone().map(|position| (layer, position)).filter(|&c| hidden(c)).collect();
        for last in (1..cells.len()).rev() {
            cells.swap(last, numbers.below(last as u64 + 1) as usize);
        }
        columns.push(cells);
    }
    let mut all = Vec::new();
    while (all.len() as u64) < wrong && columns.iter().any(|column| !column.is_empty()) {
        for column in &mut columns {
            if (all.len() as u64) < wrong {
                all.extend(column.pop());
            }
        }
    }
    all
}

/// Ways to place a quarter of a stage's cells.
fn quarters(
    subject: &Subject,
    span: std::ops::Range<u32>,
    hidden: &dyn Fn(Cell) -> bool,
) -> Vec<Vec<Cell>> {
    let mut numbers = Numbers::new(17);
    let (prompt, positions) = (subject.prompt, subject.positions());
    let quarter = (u64::from(positions) * span.len() as u64).div_ceil(4);
    let layers: Vec<u32> = span.clone().collect();
    let inner: Vec<u32> = layers[..layers.len().max(2) - 1].to_vec();
    let mut all = Vec::new();
    // Any share in the prompt, the rest in the answer; with the last layer and without.
    for layers in [&layers, &inner] {
        for share in 0..=20 {
            let in_prompt = quarter * share / 20;
            let mut wrong = spread(&mut numbers, hidden, layers, 0..prompt, in_prompt);
            let rest = quarter - wrong.len() as u64;
            wrong.extend(spread(&mut numbers, hidden, layers, prompt..positions, rest));
            all.push(wrong);
        }
        // Wherever it goes.
        all.push(spread(&mut numbers, hidden, layers, 0..positions, quarter));
    }
    // Whole layers, whole positions, the first, the last.
    let fewest = span.len().div_ceil(4);
    all.push(spread(
        &mut numbers,
        |_| true,
        &layers[layers.len() - fewest..],
        0..positions,
        quarter,
    ));
    let columns = |from: u32| {
        let cells =
            (from..positions).flat_map(|position| layers.iter().map(move |&l| (l, position)));
        cells.take(quarter as usize).collect::<Vec<Cell>>()
    };
    all.push(columns(0));
    all.push(columns(positions - positions / 4 - 1));
    all.retain(|wrong| wrong.len() as u64 == quarter);
    all
}

/// The least that any placement is found with, and that this is what is said.
fn check_quarter(subject: &Subject, seeds: &[Opened]) {
    let (strata, spans) = (subject.draw(0).strata, subject.spans());
    for (strata, span) in strata.iter().zip(spans) {
        let said = rates::of_stage(strata, Cheat::Quarter);
        let always = |cell| seeds.iter().take(400).all(|opened| opened.has(cell));
        let placements = quarters(subject, span.clone(), &|cell| !always(cell));
        let rates: Vec<f64> = placements.iter().map(|wrong| found(seeds, wrong)).collect();
        let least = rates.iter().copied().min_by(f64::total_cmp).unwrap();
        assert!(least >= said - slack(said, seeds.len()), "{span:?}: {least}, said {said}");
        assert!(said > 0.98, "{span:?}: {said}");
        // The estimates of many placements, of which the least is taken, are a little lower.
        assert!((least - said).abs() <= 1.3 * slack(said, seeds.len()), "{span:?}: {least} {said}");
    }
}

/// Every cell alone: the one that is opened least in some draws, looked for in others.
fn check_one_cell(subject: &Subject, seeds: &[Opened]) {
    let (learnt, held) = seeds.split_at(seeds.len() / 2);
    for (strata, span) in subject.draw(0).strata.iter().zip(subject.spans()) {
        let said = rates::of_stage(strata, Cheat::OneCell);
        let cells = span.flat_map(|layer| (0..subject.positions()).map(move |p| (layer, p)));
        let rates = cells.map(|cell| (found(learnt, &[cell]), cell));
        let (_, least) = rates.min_by(|(a, _), (b, _)| a.total_cmp(b)).unwrap();
        let rate = found(held, &[least]);
        assert!((rate - said).abs() <= slack(said, held.len()), "{least:?}: {rate}, said {said}");
    }
}

#[test]
fn what_is_said_of_a_draw_is_what_it_finds_of_the_cleverest_cheats() {
    for (layers, cuts, prompt, tokens) in
        [(8, vec![], 37, 8), (10, vec![5, 9], 12, 30), (16, vec![], 9, 40)]
    {
        let subject = Subject::new(layers, &cuts, prompt, tokens);
        let seeds = subject.opened(0..DRAWS);
        check_quarter(&subject, &seeds);
        check_one_cell(&subject, &seeds);
        let drawn = subject.draw(0);
        for strata in &drawn.strata {
            for cheat in [
                Cheat::Everywhere,
                Cheat::OneLayer,
                Cheat::OneLayerInPart,
                Cheat::AnotherPrompt,
                Cheat::OnePromptToken,
            ] {
                assert_eq!(rates::of_stage(strata, cheat), 1.0, "{cheat:?}");
            }
        }
        let answer = prompt..subject.positions();
        for layer in 0..layers {
            for part in [0..prompt, answer.clone()] {
                let wrong: Vec<Cell> = part.map(|position| (layer, position)).collect();
                assert_eq!(found(&seeds, &wrong), 1.0, "layer {layer}");
            }
        }
        assert!((0..prompt).all(|position| found(&seeds, &[(0, position)]) == 1.0));
        // Tokens: the first and the last always, another as often as said.
        let said = rates::of_head(&drawn.head, Cheat::OneToken);
        assert!((said - 2.0 / f64::from(tokens - 2)).abs() < 1e-12, "{said}");
        for index in 0..tokens {
            let position = prompt - 1 + index;
            let hits = seeds.iter().filter(|opened| opened.heads.contains(&position)).count();
            let rate = hits as f64 / seeds.len() as f64;
            let expected = if index == 0 || index + 1 == tokens { 1.0 } else { said };
            assert!(
                (rate - expected).abs() <= slack(expected, seeds.len()),
                "token {index}: {rate}"
            );
            // The state that the head read is opened where the head is.
            let opened =
                |seed: &Opened| position >= subject.positions() || seed.has((layers - 1, position));
            let with_state = seeds.iter().filter(|seed| seed.heads.contains(&position)).all(opened);
            assert!(with_state, "token {index}");
        }
    }
}

#[test]
fn a_prompt_above_the_cap_is_opened_at_as_many_positions_as_the_cap_says() {
    let prompt = PROMPT_CELLS + 60;
    let subject = Subject::new(1, &[], prompt, 2);
    let seeds = subject.opened(0..400);
    let strata = &subject.draw(0).strata[0];
    assert_eq!(rates::of_stage(strata, Cheat::AnotherPrompt), 1.0);
    let said = rates::of_stage(strata, Cheat::OnePromptToken);
    assert_eq!(said, f64::from(PROMPT_CELLS) / f64::from(prompt));
    for position in [0, 1, 500, prompt - 2] {
        let rate = found(&seeds, &[(0, position)]);
        assert!((rate - said).abs() <= slack(said, seeds.len()), "position {position}: {rate}");
    }
}

#[test]
fn a_draw_depends_on_the_audit_seed_and_on_the_receipt_and_on_nothing_else() {
    let subject = Subject::new(6, &[2, 4], 12, 8);
    let first = subject.draw(1);
    assert_eq!(first, subject.draw(1));
    let others: Vec<Draw> = (2..40).map(|seed| subject.draw(seed)).collect();
    assert!(others.iter().all(|other| other.targets != first.targets));
    let other = Subject::new(6, &[2, 4], 12, 8);
    assert_eq!(other.draw(1), first);
    // Another receipt of the same shape: the same request, split elsewhere.
    let other = Subject::new(6, &[3, 4], 12, 8);
    let cells = |draw: &Draw, of| {
        let is_it =
            |(_, t): &&(u32, Target)| matches!(t, Target::Layer { layer, .. } if *layer == of);
        draw.targets.iter().find(is_it).map(|(_, target)| target.clone())
    };
    let differ =
        |seed| (0..6).any(|l| cells(&other.draw(seed), l) != cells(&subject.draw(seed), l));
    assert!((0..20).all(differ));
}

#[test]
fn cells_of_a_stratum_are_drawn_alike_and_layers_independently() {
    let subject = Subject::new(4, &[], 9, 12);
    let seeds = subject.opened(0..DRAWS);
    let strata = &subject.draw(0).strata[0];
    let chosen = |layer: u32, part: usize| {
        let samples = &strata[2 * layer as usize + part].samples;
        samples[0].chosen as f64 / samples[0].of as f64
    };
    for layer in [1, 2] {
        for (part, positions) in [0..9_u32, 9..subject.positions()].into_iter().enumerate() {
            let said = chosen(layer, part);
            for position in positions {
                let rate = found(&seeds, &[(layer, position)]);
                let most = slack(said, seeds.len());
                assert!((rate - said).abs() <= most, "layer {layer}, {position}: {rate}, {said}");
                // What another layer opens at the same position says nothing.
                let both = seeds.iter().filter(|s| s.has((1, position)) && s.has((2, position)));
                let both = both.count() as f64 / seeds.len() as f64;
                let apart = chosen(1, part) * chosen(2, part);
                assert!((both - apart).abs() <= slack(apart, seeds.len()), "{both}, {apart}");
            }
        }
    }
}

/// The least probability with which so many wrong cells of one of these stages are found.
fn least(stages: &[Vec<Stratum>], wrong: impl Fn(&[Stratum]) -> u64) -> f64 {
    let of = |strata: &Vec<Stratum>| rates::worst_placement(strata, wrong(strata));
    stages.iter().map(of).min_by(f64::total_cmp).unwrap()
}

#[test]
fn the_worked_figures_of_the_document_are_those_of_the_draw() {
    let document = include_str!("../../../../docs/verification.md");
    // SmolLM2's layers and the README's answer: what is drawn depends on nothing else.
    let subject = Subject::new(30, &[10, 20], 37, 8);
    assert_eq!((subject.positions(), subject.receipt.answer.len()), (44, 8));
    let drawn = subject.draw(0);
    let figures = [1, 2, 4, 8, 16, 32, 64, 110].map(|wrong| {
        let found = least(&drawn.strata, |_| wrong);
        format!(" {:.1} % |", 100.0 * found)
    });
    let row = format!("| caught |{}\n", figures.concat());
    assert!(document.contains(&row), "docs/verification.md must hold {row}");
    let head = [1, 2, 3].map(|wrong| least(&[vec![drawn.head.clone()]], |_| wrong));
    for (found, said) in head.into_iter().zip([1.0 / 3.0, 0.6, 0.8]) {
        assert!((found - said).abs() < 1e-12, "{head:?}");
    }
    let mut of_last = BTreeSet::new();
    for opened in subject.opened(0..200) {
        let stages = opened.cells.chunks_exact(10 * 44);
        let counts: Vec<usize> =
            stages.map(|cells| cells.iter().filter(|&&is_opened| is_opened).count()).collect();
        assert_eq!(counts[..2], [61, 26]);
        of_last.insert(counts[2]);
    }
    assert_eq!(of_last, BTreeSet::from([28, 29, 30]));
}

#[test]
fn a_quarter_of_the_cells_is_found_with_98_percent_in_sessions_of_many_shapes() {
    let rings: [(u32, &[u32]); 3] = [(3, &[1, 2]), (9, &[3, 6]), (18, &[6, 12])];
    let sessions = [(1, 2), (2, 3), (5, 6), (9, 20), (37, 8)];
    let mut all = Vec::new();
    for (layers, cuts) in rings {
        for (prompt, tokens) in sessions {
            let strata = Subject::new(layers, cuts, prompt, tokens).draw(0).strata;
            let quarter = |of: &[Stratum]| of.iter().map(|of| of.cells).sum::<u64>().div_ceil(4);
            all.push((least(&strata, quarter), layers, prompt));
        }
    }
    let smallest = all.into_iter().min_by(|(a, ..), (b, ..)| a.total_cmp(b)).unwrap();
    assert_eq!(smallest, (0.984_375, 18, 2));
}
