//! Figures of quality in manifests: what is written into them, and how they are shown.

use anyhow::{Result, bail};
use lockstep_exact::figure::Figure;
use lockstep_exact::limits;
use lockstep_exact::manifest::Manifest;
use serde_json::{Value, json};

use crate::printable::Foreign;

/// The sentence that says who vouches for the figures.
pub(crate) const WHOSE: &str = "(Figures are the claim of whoever made the manifest; `lockstep \
                                quality` measures again.)";

/// Returns a figure in one line, for people.
pub(crate) fn line(figure: &Figure) -> String {
    let change =
        100.0 * (f64::from(figure.perplexity) / f64::from(figure.reference_perplexity) - 1.0);
    format!(
        "claimed on {} ({}, {} windows of {}): perplexity {:.4}, of {} {:.4} ({change:+.2} %), KL \
         {:.5}, same top-1 {:.2} %",
        Foreign(&figure.text),
        figure.text_digest.short(),
        figure.windows,
        figure.window,
        figure.perplexity,
        Foreign(&figure.reference),
        figure.reference_perplexity,
        figure.kl,
        100.0 * figure.same_top,
    )
}

/// Returns all fields of a figure as JSON, for scripts.
pub(crate) fn json(figure: &Figure) -> Value {
    json!({
        "text": figure.text,
        "text_digest": figure.text_digest.to_string(),
        "window": figure.window,
        "windows": figure.windows,
        "positions": figure.positions,
        "reference": figure.reference,
        "perplexity": figure.perplexity,
        "reference_perplexity": figure.reference_perplexity,
        "kl": figure.kl,
        "same_top_1": figure.same_top,
    })
}

/// Returns the manifest with this figure, in place of one that was measured in the same way.
pub(crate) fn recorded(manifest: &Manifest, figure: Figure) -> Result<Manifest> {
    let mut manifest = manifest.clone();
    let how = |figure: &Figure| {
        (figure.text_digest, figure.window, figure.windows, figure.reference.clone())
    };
    let figures = &mut manifest.provenance.figures;
    if let Some(other) = figures.iter_mut().find(|other| how(other) == how(&figure)) {
        *other = figure;
    } else if figures.len() < limits::FIGURES {
        figures.push(figure);
    } else {
        bail!("the manifest has {} figures already, and may have no more", figures.len());
    }
    manifest.check()?;
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use lockstep_exact::Digest;
    use lockstep_testing::tiny_model::TinyModel;

    use super::*;

    fn figure(text: &[u8], kl: f32) -> Figure {
        Figure {
            text: "a.txt".to_owned(),
            text_digest: Digest::of(text),
            window: 512,
            windows: 2,
            positions: 510,
            reference: "f32 of a.gguf".to_owned(),
            perplexity: 22.11,
            reference_perplexity: 22.0,
            kl,
            same_top: 0.97,
        }
    }

    #[test]
    fn a_figure_replaces_the_one_that_was_measured_in_the_same_way() {
        let bare = TinyModel::new(1).manifest;
        let one = recorded(&bare, figure(b"a", 0.5)).unwrap();
        let again = recorded(&one, figure(b"a", 0.25)).unwrap();
        assert_eq!(again.provenance.figures, [figure(b"a", 0.25)]);
        let two = recorded(&again, figure(b"b", 0.5)).unwrap();
        assert_eq!(two.provenance.figures.len(), 2);
        assert!(recorded(&bare, figure(b"a", f32::NAN)).is_err());
        let mut full = bare;
        full.provenance.figures = vec![figure(b"x", 0.5); limits::FIGURES];
        let error = recorded(&full, figure(b"y", 0.5)).unwrap_err().to_string();
        assert!(error.contains("16 figures"), "{error}");
    }

    #[test]
    fn a_line_says_what_was_measured_and_that_it_is_a_claim() {
        let line = line(&figure(b"a", 0.0025));
        for part in ["claimed on a.txt", "22.1100", "22.0000 (+0.50 %)", "KL 0.00250", "97.00 %"] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
}
