//! `model.safetensors.index.json`: which file holds which tensor.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::FolderError;
use crate::limits::MAX_SHARDS;

const FILE: &str = "model.safetensors.index.json";

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn parse(index: &[u8]) -> Result<Index, FolderError> {
    serde_json::from_slice(index).map_err(|error| FolderError::json(FILE, index, &error))
}

/// Returns the names of the files of weights that an index names, each once, in order.
///
/// # Errors
/// The index is malformed, names too many files, or one outside the folder.
pub fn weight_files(index: &[u8]) -> Result<Vec<String>, FolderError> {
    let files: BTreeSet<String> = parse(index)?.weight_map.into_values().collect();
    if files.len() > MAX_SHARDS {
        return Err(FolderError::TooManyFiles { got: files.len() });
    }
    let inside = |name: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        name.ends_with(".safetensors") && !name.starts_with('.') && name.chars().all(plain)
    };
    match files.iter().find(|name| !inside(name)) {
        None => Ok(files.into_iter().collect()),
        Some(name) => Err(FolderError::FileName { name: name.clone() }),
    }
}

/// Checks that the tensors are where the index says, all of them and no others.
pub(super) fn check(index: &[u8], holders: &BTreeMap<String, &str>) -> Result<(), FolderError> {
    let Index { weight_map } = parse(index)?;
    for (tensor, file) in &weight_map {
        if holders.get(tensor) != Some(&file.as_str()) {
            let (tensor, file) = (tensor.clone(), file.clone());
            return Err(FolderError::NotThere { tensor, file });
        }
    }
    match holders.keys().find(|tensor| !weight_map.contains_key(*tensor)) {
        None => Ok(()),
        Some(tensor) => Err(FolderError::NotInIndex { tensor: tensor.clone() }),
    }
}
