//! Models split into several GGUF files, `NAME-00001-of-00003.gguf` and so on.
//!
//! The first file - which may hold no tensor - describes the model; the others hold tensors, and
//! say nothing that the first does not say too. Joined, they read like one file.

use super::{Gguf, GgufError, Tensor, Value};
use crate::limits::{MAX_SHARDS, MAX_TENSORS};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Returns the names of all files of the model to which the file called `name` belongs, in order;
/// `None` if the name is not that of a part.
pub fn shard_names(name: &str) -> Option<Vec<String>> {
    let (stem, count) = shard(name)?;
    Some((1..=count).map(|number| shard_name(stem, number, count)).collect())
}

/// Returns the name of the first file of the model to which the file called `name` belongs; `None`
/// if the name is not that of a part.
pub fn first_shard(name: &str) -> Option<String> {
    let (stem, count) = shard(name)?;
    Some(shard_name(stem, 1, count))
}

fn shard_name(stem: &str, number: usize, count: usize) -> String {
    format!("{stem}-{number:05}-of-{count:05}.gguf")
}

/// Splits the name of a part of a split model into what stands before the part's number, and the
/// number of parts.
fn shard(name: &str) -> Option<(&str, usize)> {
    let stem = name.strip_suffix(".gguf")?;
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let five_digits = |text: &str| {
        let all = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<usize>().ok().filter(|_| all)
    };
    let (number, count) = (five_digits(number)?, five_digits(count)?);
    let is_part = (1..=count).contains(&number) && count <= MAX_SHARDS;
    is_part.then_some((stem, count))
}

impl<'a> Gguf<'a> {
    /// Reads and checks the directories of all files of a split model, given in any order.
    ///
    /// A single file that is no part of a split model is taken too.
    ///
    /// # Errors
    /// As [`parse`](Self::parse), with the file's place in the list; or the files are not all
    /// parts, each once, of one model.
    pub fn parse_shards(files: &[&'a [u8]]) -> Result<Self, GgufError> {
        if files.is_empty() {
            return Self::parse(&[]);
        }
        if files.len() > MAX_SHARDS {
            let (got, limit) = (files.len() as u64, MAX_SHARDS as u64);
            return Err(GgufError::TooMany { what: "files of a split model", got, limit });
        }
        let mut shards = Vec::with_capacity(files.len());
        for (place, file) in files.iter().enumerate() {
            let inside = |error| GgufError::InShard { shard: place + 1, error: Box::new(error) };
            let shard = Self::parse(file).map_err(inside)?;
            shards.push((shard.shard_number(place, files.len())?, shard));
        }
        shards.sort_by_key(|(number, _)| *number);
        for (expected, (number, _)) in shards.iter().enumerate() {
            if *number != expected as u64 {
                // Sorted, and as many as there should be: one is there twice, one is missing.
                return Err(GgufError::ShardMissing { shard: expected + 1, count: files.len() });
            }
        }
        join(shards.into_iter().map(|(_, shard)| shard))
    }

    /// Returns the number that this file, given at `place` among `count`, says it has among the
    /// parts.
    fn shard_number(&self, place: usize, count: usize) -> Result<u64, GgufError> {
        let shard = place + 1;
        let stated = self.optional_u64(COUNT)?.unwrap_or(1);
        if stated != count as u64 {
            return Err(GgufError::ShardCount { shard, stated, given: count });
        }
        match self.optional_u64(NUMBER)? {
            Some(number) if number < stated => Ok(number),
            None if count == 1 => Ok(0),
            stated_number => {
                let number = stated_number.map_or_else(|| "no".to_owned(), |n| n.to_string());
                Err(GgufError::ShardNumber { shard, number, count })
            }
        }
    }
}

fn join<'a>(mut shards: impl Iterator<Item = Gguf<'a>>) -> Result<Gguf<'a>, GgufError> {
    let Some(mut whole) = shards.next() else { return Ok(Gguf::default()) };
    for (number, shard) in (2..).zip(shards) {
        let differs = |(key, value): &(&str, &Value<'_>)| {
            !is_about_shards(key) && whole.get(key) != Some(*value)
        };
        if let Some((key, _)) = shard.metadata().find(differs) {
            return Err(GgufError::ShardMetadata { shard: number, key: key.to_owned() });
        }
        whole.tensors.extend(shard.tensors);
        if whole.tensors.len() as u64 > MAX_TENSORS {
            let got = whole.tensors.len() as u64;
            return Err(GgufError::TooMany { what: "tensors", got, limit: MAX_TENSORS });
        }
    }
    let (got, stated) = (whole.tensors.len() as u64, whole.optional_u64(TENSORS)?);
    if let Some(stated) = stated.filter(|stated| *stated != got) {
        return Err(GgufError::ShardTensors { stated, got });
    }
    whole.tensors.sort_by_key(Tensor::name);
    for pair in whole.tensors.windows(2) {
        if let [a, b] = pair
            && a.name() == b.name()
        {
            return Err(GgufError::TensorTwice { name: a.name().to_owned() });
        }
    }
    whole.metadata.retain(|(key, _)| !is_about_shards(key));
    Ok(whole)
}

/// Returns whether a key speaks of the file and not of the model.
fn is_about_shards(key: &str) -> bool {
    [NUMBER, COUNT, TENSORS, "general.alignment"].contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_lead_to_all_parts() {
        let all =
            ["m-q8-00001-of-00003.gguf", "m-q8-00002-of-00003.gguf", "m-q8-00003-of-00003.gguf"];
        for name in all {
            assert_eq!(shard_names(name).unwrap(), all);
        }
        for other in [
            "m.gguf",
            "m-00001-of-00003.bin",
            "m-00000-of-00003.gguf",
            "m-00004-of-00003.gguf",
            "m-1-of-3.gguf",
            "m-+0001-of-00003.gguf",
            "-of-.gguf",
            "m-00001-of-99999.gguf",
        ] {
            assert_eq!(shard_names(other), None, "{other}");
        }
    }
}
