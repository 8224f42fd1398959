//! Rotary positions: what `config.json` says about them, as GGUF files would say it.

use serde_json::{Map, Value};

use super::FolderError;
use super::config::Config;
use super::metadata::Metadata;
use super::settings::FILE;

/// A vector that GGUF files hold and folders do not.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: &'static str,
    pub(super) numbers: Vec<f32>,
}

/// The base of a Gemma's layers that see all positions, if it does not state it.
const GEMMA_BASE: f32 = 1_000_000.0;

/// The setting that says how positions are scaled, and what it says.
struct Scaling<'c> {
    key: &'static str,
    values: &'c Map<String, Value>,
}

/// Writes what there is to say about positions.
pub(super) fn describe(config: &Config, metadata: &mut Metadata) -> Result<Vec<Made>, FolderError> {
    let architecture = config.kind.architecture;
    let parameters = config.values.get("rope_parameters");
    // One set of parameters, or one for layers that see all positions and one for the others.
    let nested = |key| parameters.and_then(|all| all.get(key)).filter(|_| architecture == "gemma3");
    let (all, local) = (nested("full_attention").or(parameters), nested("sliding_attention"));
    let scaling = scaling(config, all)?;
    let base = match (config.fraction("rope_theta")?, all) {
        (Some(base), _) => Some(base),
        (None, Some(all)) => fraction(all, "rope_theta", "rope_parameters")?,
        (None, None) => None,
    };
    let base = base.or_else(|| (architecture == "gemma3").then_some(GEMMA_BASE));
    if let Some(base) = base {
        metadata.float(&config.key("rope.freq_base"), base);
    }
    let local = match local {
        Some(local) => {
            let values = local.as_object().ok_or_else(|| wrong("rope_parameters"))?;
            let plain = Scaling { key: "rope_parameters", values };
            plain.check(&[])?;
            if plain.kind()? != "default" {
                return Err(plain.refused());
            }
            fraction(local, "rope_theta", "rope_parameters")?
        }
        None => config.fraction("rope_local_base_freq")?,
    };
    if let Some(local) = local {
        metadata.float(&config.key("rope.freq_base_swa"), local);
    }
    if architecture == "phi3" {
        describe_partial(config, all, metadata)?;
    }
    match scaling {
        Some(scaling) => scaling.describe(config, base, metadata),
        None => Ok(Vec::new()),
    }
}

/// Returns how positions are scaled, by the older setting or the newer one.
fn scaling<'c>(
    config: &'c Config,
    parameters: Option<&'c Value>,
) -> Result<Option<Scaling<'c>>, FolderError> {
    let older = config.values.get("rope_scaling").filter(|value| !value.is_null());
    let (key, value) = match (older, parameters.filter(|value| !value.is_null())) {
        (Some(value), _) => ("rope_scaling", value),
        (None, Some(value)) => ("rope_parameters", value),
        (None, None) => return Ok(None),
    };
    let values = value.as_object().ok_or_else(|| wrong(key))?;
    Ok(Some(Scaling { key, values }))
}

/// Writes how much of a head is rotated, and the context that the model was first trained with.
fn describe_partial(
    config: &Config,
    parameters: Option<&Value>,
    metadata: &mut Metadata,
) -> Result<(), FolderError> {
    const PART: &str = "partial_rotary_factor";
    let stated = match (config.values.get(PART), parameters) {
        (Some(_), _) => config.fraction(PART)?,
        (None, Some(parameters)) => fraction(parameters, PART, "rope_parameters")?,
        (None, None) => None,
    };
    let needed = |key| config.size(key)?.ok_or_else(|| Config::missing(key));
    let (hidden, heads) = (needed("hidden_size")?, needed("num_attention_heads")?);
    let part = f64::from(stated.unwrap_or(1.0)) * hidden as f64;
    let rotated = (part as u64).checked_div(heads).ok_or_else(|| wrong("num_attention_heads"))?;
    metadata.integer(&config.key("rope.dimension_count"), rotated);
    if let Some(original) = original_context(config, parameters)? {
        metadata.integer(&config.key("rope.scaling.original_context_length"), original);
    }
    Ok(())
}

fn original_context(
    config: &Config,
    parameters: Option<&Value>,
) -> Result<Option<u64>, FolderError> {
    const ORIGINAL: &str = "original_max_position_embeddings";
    let inside = parameters.and_then(|values| values.get(ORIGINAL));
    match (config.size(ORIGINAL)?, inside) {
        (Some(stated), _) => Ok(Some(stated)),
        (None, Some(inside)) => inside.as_u64().map(Some).ok_or_else(|| wrong(ORIGINAL)),
        (None, None) => Ok(None),
    }
}

fn wrong(key: &str) -> FolderError {
    FolderError::Wrong { file: FILE.to_owned(), key: key.to_owned() }
}

/// Returns the number called `name` in the object under `key`, if it has one.
fn fraction(values: &Value, name: &str, key: &str) -> Result<Option<f32>, FolderError> {
    match values.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(number) => number.as_f64().map(|x| Some(x as f32)).ok_or_else(|| wrong(key)),
    }
}

impl Scaling<'_> {
    fn refused(&self) -> FolderError {
        let value = Value::Object(self.values.clone()).to_string().chars().take(80).collect();
        FolderError::Setting { key: self.key.to_owned(), value }
    }

    fn kind(&self) -> Result<&str, FolderError> {
        match self.values.get("rope_type").or_else(|| self.values.get("type")) {
            None => Ok("default"),
            Some(stated) => stated.as_str().ok_or_else(|| self.refused()),
        }
    }

    /// Refuses anything but a plain base and what is in `known`.
    fn check(&self, known: &[&str]) -> Result<(), FolderError> {
        // What a Phi's heads and contexts are is read apart.
        const OTHERS: [&str; 5] = [
            "original_max_position_embeddings",
            "partial_rotary_factor",
            "rope_theta",
            "rope_type",
            "type",
        ];
        let asks = |(key, value): (&String, &Value)| {
            !value.is_null() && !OTHERS.contains(&key.as_str()) && !known.contains(&key.as_str())
        };
        if self.values.iter().any(asks) { Err(self.refused()) } else { Ok(()) }
    }

    fn number(&self, name: &str) -> Result<f64, FolderError> {
        self.values.get(name).and_then(Value::as_f64).ok_or_else(|| self.refused())
    }

    fn numbers(&self, name: &str) -> Result<Vec<f32>, FolderError> {
        let list = self.values.get(name).and_then(Value::as_array);
        let numbers: Option<Vec<f32>> =
            list.and_then(|list| list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        numbers.ok_or_else(|| self.refused())
    }

    fn describe(
        &self,
        config: &Config,
        base: Option<f32>,
        metadata: &mut Metadata,
    ) -> Result<Vec<Made>, FolderError> {
        match (self.kind()?, config.kind.architecture) {
            ("default", _) => self.check(&[]).map(|()| Vec::new()),
            ("linear", "gemma3" | "llama" | "qwen2" | "qwen2moe" | "qwen3" | "qwen3moe") => {
                self.check(&["factor"])?;
                metadata.text(&config.key("rope.scaling.type"), "linear");
                let factor = self.number("factor")? as f32;
                metadata.float(&config.key("rope.scaling.factor"), factor);
                Ok(Vec::new())
            }
            ("llama3", "llama") => {
                self.check(&["factor", "high_freq_factor", "low_freq_factor"])?;
                Ok(vec![self.by_wavelength(config, base.unwrap_or(10_000.0))?])
            }
            ("longrope" | "su", "phi3") => {
                self.check(&["long_factor", "short_factor"])?;
                metadata.float(&config.key("rope.scaling.attn_factor"), self.gain(config)?);
                let (long, short) = (self.numbers("long_factor")?, self.numbers("short_factor")?);
                Ok(vec![
                    Made { name: "rope_factors_long.weight", numbers: long },
                    Made { name: "rope_factors_short.weight", numbers: short },
                ])
            }
            _ => Err(self.refused()),
        }
    }

    /// Computes the factors of Llama 3: pairs that turn slowly are slowed down, those that turn
    /// fast are not, and those between are in part. The steps are those of exporters, in binary32.
    fn by_wavelength(&self, config: &Config, base: f32) -> Result<Made, FolderError> {
        let original = self.number("original_max_position_embeddings")?;
        let (low, high) = (self.number("low_freq_factor")?, self.number("high_freq_factor")?);
        let factor = self.number("factor")? as f32;
        let head_dim = usize::try_from(config.head_dim()?).unwrap_or(usize::MAX);
        let head_dim = head_dim.min(lockstep_exact::limits::HEAD_DIM);
        let of_pair = |pair: usize| {
            let power = (2 * pair) as f32 / head_dim as f32;
            let frequency = 1.0 / (libm::pow(f64::from(base), f64::from(power)) as f32);
            let wavelength = std::f32::consts::TAU / frequency;
            if f64::from(wavelength) < original / high {
                return 1.0;
            }
            if f64::from(wavelength) > original / low {
                return factor;
            }
            let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
            1.0 / ((1.0 - smooth) / factor + smooth)
        };
        let numbers = (0..head_dim / 2).map(of_pair).collect();
        Ok(Made { name: "rope_freqs.weight", numbers })
    }

    /// Returns the factor of queries and keys where the context is longer than the one that the
    /// model was originally trained with.
    fn gain(&self, config: &Config) -> Result<f32, FolderError> {
        const CONTEXT: &str = "max_position_embeddings";
        const ORIGINAL: &str = "original_max_position_embeddings";
        let inside = Value::Object(self.values.clone());
        let original = original_context(config, Some(&inside))?;
        let original = original.ok_or_else(|| Config::missing(ORIGINAL))? as f64;
        let context = config.size(CONTEXT)?.ok_or_else(|| Config::missing(CONTEXT))? as f64;
        if context <= original {
            return Ok(1.0);
        }
        Ok(libm::sqrt(1.0 + libm::log(context / original) / libm::log(original)) as f32)
    }
}
