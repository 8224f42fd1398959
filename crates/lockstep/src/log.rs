//! The log of the program: one line on standard error for each event, as text or as JSON. It never
//! holds prompts, answers, tokens or secrets.

use anyhow::{Context, Result};
use lockstep_node::config::LogFormat;
use tracing_subscriber::EnvFilter;

use crate::output;

/// The levels that stand for this program's own events; whatever else a setting says is a filter.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Starts the log on standard error. `verbose` takes precedence over `level`, which is a level or a
/// filter.
///
/// # Errors
/// The level is neither.
pub(crate) fn start(verbose: u8, level: Option<&str>, format: LogFormat) -> Result<()> {
    let filter = filter(verbose, level)?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match format {
        LogFormat::Text => log.with_writer(|| output::Log::Text).init(),
        LogFormat::Json => {
            let log = log.json().flatten_event(true);
            let log = log.with_current_span(false).with_span_list(false);
            log.with_writer(|| output::Log::Json).init();
        }
    }
    Ok(())
}

fn filter(verbose: u8, level: Option<&str>) -> Result<EnvFilter> {
    let ours = |level| EnvFilter::new(format!("error,lockstep={level},lockstep_node={level}"));
    let filter = match (verbose, level.map(str::trim)) {
        (0, None) => ours("warn"),
        (0, Some("off")) => EnvFilter::new("off"),
        (0, Some(level)) if LEVELS.contains(&level) => ours(level),
        (0, Some(text)) => EnvFilter::builder().parse(text).with_context(|| {
            format!(
                "the level of the log (--log-level, LOCKSTEP_LOG_LEVEL, or log_level in \
                 config.toml) is {text:?}: expected one of {}, or a filter such as \
                 lockstep_node=debug",
                LEVELS.join(", ")
            )
        })?,
        (1, _) => ours("info"),
        _ => ours("debug"),
    };
    // The line editor logs every key.
    Ok(filter.add_directive("rustyline=off".parse()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_this_programs_own_and_verbose_takes_precedence() {
        let of = |verbose, level| filter(verbose, level).unwrap().to_string();
        assert!(of(0, None).contains("lockstep_node=warn"));
        assert!(of(0, Some(" info ")).contains("lockstep=info"));
        assert!(!of(0, Some("info")).contains("iroh"));
        assert!(of(0, Some("iroh=trace")).contains("iroh=trace"));
        assert!(of(2, Some("off")).contains("lockstep=debug"));
        for level in LEVELS {
            assert!(of(0, Some(level)).contains("rustyline=off"), "{level}");
        }
        let error = format!("{:#}", filter(0, Some("lockstep=loud")).unwrap_err());
        assert!(error.contains("lockstep=loud") && error.contains("off, error, warn"), "{error}");
    }
}
