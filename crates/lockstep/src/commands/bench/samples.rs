//! Measurements that were repeated: their median and range.

use serde_json::{Value, json};

use crate::output::Printer;

/// One quantity, measured several times.
#[derive(Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
        self.0.sort_by(f64::total_cmp);
    }

    pub(super) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(super) fn text(&self, digits: usize) -> String {
        let (low, high) = (self.0.first().unwrap_or(&0.0), self.0.last().unwrap_or(&0.0));
        format!("{:.digits$} ({low:.digits$}-{high:.digits$})", self.median())
    }

    pub(super) fn json(&self) -> Value {
        json!({ "median": self.median(), "min": self.0.first(), "max": self.0.last() })
    }
}

/// Rates of repeated measurements, in tokens per second.
#[derive(Default)]
pub(super) struct Rates {
    pub(super) prefill: Samples,
    pub(super) decode: Samples,
}

impl Rates {
    pub(super) fn push(&mut self, (prefill, decode): (f64, f64)) {
        self.prefill.push(prefill);
        self.decode.push(decode);
    }

    pub(super) fn show(&self, what: &str, printer: Printer) {
        printer.line(format!(
            "{what:<26} prefill {} tokens/s   decode {} tokens/s",
            self.prefill.text(0),
            self.decode.text(1)
        ));
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "prefill_tokens_per_s": self.prefill.json(),
            "decode_tokens_per_s": self.decode.json(),
        })
    }
}
