//! The verifier on one thread: the algebra of a layer's products, and whole audits of a layer.
//!
//! What is checked is true, so every check goes to its end.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lockstep_exact::matrix::Shape;
use lockstep_exact::plan::LayerPlan;
use lockstep_verify::measure::{Algebra, Column};
use serde_json::{Value, json};

use super::Subject;
use super::samples::Samples;
use crate::args::Bench;
use crate::backend;
use crate::output::{self, Printer};

/// Cells of a layer whose products are checked together.
const ALGEBRA_CELLS: usize = 8;
/// Cells of a layer that are audited together, the last of a prompt.
const AUDIT_CELLS: u32 = 16;
/// Checks of the algebra in a repetition: one is short.
const CHECKS: usize = 32;

/// Measures the algebra and whole audits, and adds both to `report`.
pub(super) fn measure(
    subject: &Subject,
    args: &Bench,
    report: &mut Value,
    printer: Printer,
) -> Result<()> {
    let ops = backend::backend(Some(1))?;
    // A layer in the middle: its inputs come from the layer before.
    let mut layers = subject.local.layers().iter();
    let weights = layers
        .find(|weights| weights.layer > 0 && !weights.is_last)
        .context("--verify takes a model of three layers or more")?;
    let algebra = Algebra::new(shapes(&weights.plan), ALGEBRA_CELLS);
    let positions = (args.prefill as u32).max(AUDIT_CELLS);
    let column = Column::new(&ops, weights, positions, AUDIT_CELLS)?;
    let (mut micros, mut millis) = (Samples::default(), Samples::default());
    let count = subject.manifest.layers.len() as f64;
    let bar = output::steps_bar("verifier", args.repetitions as u64);
    for _ in 0..args.repetitions {
        let start = Instant::now();
        let right = (0..CHECKS).all(|_| black_box(&algebra).check(&ops));
        let seconds = start.elapsed().as_secs_f64() / CHECKS as f64;
        ensure!(right, "the algebra refuses true products");
        micros.push(1e6 * seconds / ALGEBRA_CELLS as f64);
        let start = Instant::now();
        let checked = column.check(&ops);
        let seconds = start.elapsed().as_secs_f64();
        checked.context("the audit refuses an honest layer")?;
        millis.push(1e3 * seconds * count / f64::from(AUDIT_CELLS));
        bar.inc(1);
    }
    bar.finish_and_clear();
    printer.line(format!("  algebra                  {:>26} us/layer/token", micros.text(1)));
    printer.line(format!("  full audit               {:>26} ms/token", millis.text(2)));
    report["algebra_us_per_layer_token"] = json!(micros.median());
    report["audit_ms_per_token"] = json!(millis.median());
    report["verifier"] = json!({
        "algebra_us_per_layer_token": micros.json(),
        "audit_ms_per_token": millis.json(),
    });
    Ok(())
}

/// Returns the sizes of the products of a layer that a token uses, in order of use.
fn shapes(plan: &LayerPlan) -> Vec<Shape> {
    let products = plan.parts.products_of_a_row().into_iter();
    products.flat_map(|(_, times, product)| vec![product.shape(); times]).collect()
}
