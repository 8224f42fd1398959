//! Measures how much of a model's quality the exact arithmetic keeps: reference log-probabilities,
//! perplexity and KL. Measurements only; the logarithms here are the platform's.

/// Returns the natural logarithms of the probabilities that a row of logits gives.
fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shifted = logits.iter().map(|&x| f64::from(x) - f64::from(top));
    let total: f64 = shifted.clone().map(f64::exp).sum();
    let log_total = total.ln();
    shifted.map(|x| x - log_total).collect()
}

/// Returns the index of the largest number, the lowest of equals.
fn top(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// Sums of losses and divergences over positions of a text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// The number of positions counted.
    pub positions: usize,
    /// Sum of negative log-probabilities of the text's tokens.
    pub loss: f64,
    /// The sum of the losses of the f32 forward pass.
    pub float_loss: f64,
    /// The sum of KL(float || exact).
    pub kl: f64,
    /// Positions where both have the same most likely token.
    pub same_top: usize,
}

impl Tally {
    /// Adds a position: the exact logits, the float ones if there are any, and the token that
    /// follows.
    pub(crate) fn add(&mut self, exact: &[f32], float: Option<&[f32]>, next: u32) {
        let exact = log_softmax(exact);
        self.positions += 1;
        self.loss -= exact[next as usize];
        if let Some(float) = float {
            let float = log_softmax(float);
            self.float_loss -= float[next as usize];
            self.kl += float.iter().zip(&exact).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
            self.same_top += usize::from(top(&float) == top(&exact));
        }
    }

    /// Returns mean KL(float || exact).
    pub(crate) fn mean_kl(&self) -> f64 {
        self.kl / self.positions.max(1) as f64
    }

    /// Returns the share of positions where both have the same most likely token.
    pub(crate) fn same_top_share(&self) -> f64 {
        self.same_top as f64 / self.positions.max(1) as f64
    }

    /// Returns the perplexity: e to the power of the mean loss.
    pub(crate) fn perplexity(&self) -> f64 {
        (self.loss / self.positions.max(1) as f64).exp()
    }

    /// Returns the same of the f32 forward pass.
    pub(crate) fn float_perplexity(&self) -> f64 {
        (self.float_loss / self.positions.max(1) as f64).exp()
    }
}

/// The agreement of log-probabilities with a reference's top lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Agreement {
    /// The number of positions compared.
    pub positions: usize,
    /// Positions where the most likely token is the reference's.
    pub same_top: usize,
    /// The number of entries of the top lists.
    pub entries: usize,
    /// Sum of |Δ log-probability| over the entries.
    pub difference: f64,
    /// The largest difference of all entries.
    pub largest: f64,
}

impl Agreement {
    /// Adds a position: our logits and the reference's (token, log-probability) list, best first.
    pub(crate) fn add(&mut self, logits: &[f32], reference: &[(u32, f64)]) {
        let ours = log_softmax(logits);
        self.positions += 1;
        let best = reference.first().map(|entry| entry.0 as usize);
        self.same_top += usize::from(best == Some(top(&ours)));
        for &(token, log_probability) in reference {
            let difference = (ours[token as usize] - log_probability).abs();
            self.entries += 1;
            self.difference += difference;
            self.largest = self.largest.max(difference);
        }
    }

    /// Returns mean |Δ log-probability|.
    pub(crate) fn mean(&self) -> f64 {
        self.difference / self.entries.max(1) as f64
    }
}
