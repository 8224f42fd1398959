//! Parameters that a chat can change: their names, values and what they say.

use crate::args::{Asking, Audit, Checking};
use crate::exit;
use crate::prompt;

/// The way to go on when a conversation has no room in the context any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum WhenFull {
    /// Say so, and let the person choose.
    #[default]
    Ask,
    /// Drop the oldest turns, and say so.
    Drop,
}

/// The names of parameters that `/set` takes.
pub(super) const NAMES: [&str; 14] = [
    "audit",
    "frequency_penalty",
    "full",
    "max_tokens",
    "min_p",
    "presence_penalty",
    "quiet",
    "repetition_penalty",
    "seed",
    "stop",
    "temperature",
    "top_k",
    "top_p",
    "verbose",
];

/// The settings of a chat, which say how answers are made, checked and shown.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The arguments that say how answers are made.
    pub(crate) asking: Asking,
    /// The arguments that say how answers are checked.
    pub(crate) checking: Checking,
    /// Whether times and rates are shown.
    pub(crate) verbose: bool,
    /// The way to go on when the context is full.
    pub(crate) when_full: WhenFull,
}

/// Returns this program's name of a parameter that other programs call by another name.
fn own_name(name: &str) -> &str {
    match name {
        "num_predict" | "n_predict" => "max_tokens",
        "repeat_penalty" => "repetition_penalty",
        other => other,
    }
}

/// Parses the value of the parameter called `name`, or says what was expected.
fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("/set {name}: expected a number, got {value:?}"))
}

impl Settings {
    /// Sets a parameter; says it with its value. One that no model takes changes nothing.
    ///
    /// # Errors
    /// What was expected.
    pub(crate) fn set(&mut self, name: &str, value: &str) -> Result<String, String> {
        let name = own_name(name);
        let mut changed = self.clone();
        changed.change(name, value)?;
        let in_words = |error| format!("/set {}", exit::in_full(&error));
        prompt::check_parameters(&changed.asking).map_err(in_words)?;
        *self = changed;
        let shown = if name == "quiet" { "verbose" } else { name };
        let is_it = |line: &String| line.split_whitespace().next() == Some(shown);
        Ok(self.lines().into_iter().find(is_it).unwrap_or_default())
    }

    fn change(&mut self, name: &str, value: &str) -> Result<(), String> {
        let sampling = &mut self.asking.sampling;
        match name {
            "temperature" => sampling.temperature = number(name, value)?,
            "top_k" => sampling.top_k = number(name, value)?,
            "top_p" => sampling.top_p = number(name, value)?,
            "min_p" => sampling.min_p = number(name, value)?,
            "repetition_penalty" => sampling.repetition_penalty = number(name, value)?,
            "presence_penalty" => sampling.presence_penalty = number(name, value)?,
            "frequency_penalty" => sampling.frequency_penalty = number(name, value)?,
            "seed" if value.is_empty() => sampling.seed = None,
            "seed" => sampling.seed = Some(number(name, value)?),
            "stop" if value.is_empty() => sampling.stop.clear(),
            "stop" => sampling.stop.push(unescaped(value)),
            "max_tokens" => {
                let count = crate::args::max_tokens(value);
                self.asking.max_tokens = count.map_err(|why| format!("/set {name}: {why}"))?;
            }
            "audit" => self.checking.audit = Some(audit(value)?),
            "full" => self.when_full = when_full(value)?,
            "verbose" => self.verbose = true,
            "quiet" => self.verbose = false,
            other => {
                return Err(format!("there is no parameter {other:?}; /set shows what there is"));
            }
        }
        Ok(())
    }

    /// Returns every parameter with its value.
    pub(crate) fn lines(&self) -> Vec<String> {
        let sampling = &self.asking.sampling;
        let or = |value: Option<String>, none: &str| value.unwrap_or_else(|| none.to_owned());
        let max_tokens = Some(self.asking.max_tokens).filter(|&count| count != u32::MAX);
        let stops: Vec<String> = sampling.stop.iter().map(|stop| format!("{stop:?}")).collect();
        let audit = match self.checking.audit() {
            Audit::Sampled => "sampled",
            Audit::Full => "full",
            Audit::Off => "off",
        };
        let when_full = match self.when_full {
            WhenFull::Ask => "ask",
            WhenFull::Drop => "drop",
        };
        [
            ("temperature", sampling.temperature.to_string()),
            ("top_k", sampling.top_k.to_string()),
            ("top_p", sampling.top_p.to_string()),
            ("min_p", sampling.min_p.to_string()),
            ("repetition_penalty", sampling.repetition_penalty.to_string()),
            ("presence_penalty", sampling.presence_penalty.to_string()),
            ("frequency_penalty", sampling.frequency_penalty.to_string()),
            ("seed", or(sampling.seed.map(|seed| seed.to_string()), "(drawn anew)")),
            ("stop", or(Some(stops.join(" ")).filter(|stops| !stops.is_empty()), "(none)")),
            ("max_tokens", or(max_tokens.map(|count| count.to_string()), "-1")),
            ("audit", audit.to_owned()),
            ("full", when_full.to_owned()),
            ("verbose", if self.verbose { "yes" } else { "no" }.to_owned()),
        ]
        .map(|(name, value)| format!("  {name:<20} {value}"))
        .to_vec()
    }
}

fn audit(value: &str) -> Result<Audit, String> {
    match value {
        "sampled" => Ok(Audit::Sampled),
        "full" => Ok(Audit::Full),
        "off" => Ok(Audit::Off),
        other => Err(format!("/set audit: expected sampled, full or off, got {other:?}")),
    }
}

fn when_full(value: &str) -> Result<WhenFull, String> {
    match value {
        "ask" => Ok(WhenFull::Ask),
        "drop" => Ok(WhenFull::Drop),
        other => Err(format!("/set full: expected ask or drop, got {other:?}")),
    }
}

/// Returns a text as it is typed on one line: in quotes or not, `\n` and `\t` for what can't be
/// typed.
fn unescaped(text: &str) -> String {
    let inner = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
    inner.unwrap_or(text).replace("\\n", "\n").replace("\\t", "\t")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn settings() -> Settings {
        let cli = Cli::try_parse_from(["lockstep", "up"]).unwrap();
        let Command::Up(up) = cli.command else { panic!("up") };
        let (asking, checking) = (up.asking, up.checking);
        Settings { asking, checking, verbose: false, when_full: WhenFull::Ask }
    }

    #[test]
    fn a_parameter_is_set_and_shown() {
        let mut settings = settings();
        for (name, value, shown) in [
            ("temperature", "0.5", "temperature          0.5"),
            ("top_k", "40", "top_k                40"),
            ("repeat_penalty", "1.1", "repetition_penalty   1.1"),
            ("num_predict", "-1", "max_tokens           -1"),
            ("max_tokens", "7", "max_tokens           7"),
            ("seed", "42", "seed                 42"),
            ("stop", "\"\\n\"", "stop                 \"\\n\""),
            ("audit", "full", "audit                full"),
            ("full", "drop", "full                 drop"),
            ("verbose", "", "verbose              yes"),
        ] {
            assert_eq!(settings.set(name, value).unwrap().trim(), shown);
            let lines = settings.lines();
            assert!(lines.iter().any(|line| line.trim() == shown), "{shown}: {lines:?}");
        }
        assert_eq!(settings.asking.sampling.stop, ["\n"]);
        settings.set("stop", "").unwrap();
        assert!(settings.asking.sampling.stop.is_empty());
    }

    #[test]
    fn every_name_that_is_completed_is_a_parameter() {
        for name in NAMES {
            let told = settings().set(name, "").err().unwrap_or_default();
            assert!(!told.contains("no parameter"), "{name}: {told}");
        }
        for line in settings().lines() {
            let name = line.split_whitespace().next().unwrap();
            assert!(NAMES.contains(&name), "{name} is shown");
        }
    }

    #[test]
    fn what_can_not_be_set_is_said() {
        for (name, value, word) in [
            ("warmth", "1", "no parameter \"warmth\""),
            ("temperature", "hot", "expected a number"),
            ("max_tokens", "0", "at least 1"),
            ("audit", "some", "sampled, full or off"),
            ("full", "", "ask or drop"),
            ("top_p", "7", "top_p: expected a number above 0, up to 1, got 7"),
            ("temperature", "-3", "temperature: expected 0 or 0.01..=100"),
            ("min_p", "2", "min_p"),
            ("repeat_penalty", "0", "repetition_penalty"),
            ("presence_penalty", "NaN", "presence_penalty"),
        ] {
            let mut settings = settings();
            let before = settings.lines();
            let error = settings.set(name, value).unwrap_err();
            assert_eq!(settings.lines(), before, "{name} {value} changes nothing");
            assert!(error.contains(word), "{name} {value}: {error}");
        }
    }
}
