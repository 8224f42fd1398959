//! One safetensors file: a JSON directory behind its 64-bit length, then the tensors' bytes.

use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};

use super::FolderError;
use crate::foreign::Foreign;
use crate::gguf::TensorType;
use crate::layout;
use crate::limits::{MAX_SAFETENSORS_HEADER, MAX_TENSOR_DIMS, MAX_TENSORS};

/// The shape, type and bytes of a stored tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stored<'a> {
    /// Fastest first, padded with ones, as in GGUF files.
    pub(super) dims: [u64; MAX_TENSOR_DIMS],
    pub(super) ty: TensorType,
    pub(super) bytes: &'a [u8],
}

/// The directory's entries in their order, names that occur twice included.
struct Entries(Vec<(String, Entry)>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// Returns the tensors of the file called `file`.
pub(super) fn parse<'a>(
    file: &str,
    bytes: &'a [u8],
) -> Result<Vec<(String, Stored<'a>)>, FolderError> {
    read(file, bytes).map_err(|error| match Foreign::of(bytes) {
        None | Some(Foreign::Safetensors) => error,
        Some(is) => FolderError::Foreign { file: file.to_owned(), is },
    })
}

fn read<'a>(file: &str, bytes: &'a [u8]) -> Result<Vec<(String, Stored<'a>)>, FolderError> {
    let cut = || FolderError::Truncated { file: file.to_owned() };
    let (len, rest) = bytes.split_first_chunk::<8>().ok_or_else(cut)?;
    let len = u64::from_le_bytes(*len);
    if len > MAX_SAFETENSORS_HEADER {
        return Err(FolderError::LongHeader { file: file.to_owned(), got: len });
    }
    let len = usize::try_from(len).map_err(|_| cut())?;
    let (header, data) = rest.split_at_checked(len).ok_or_else(cut)?;
    let Entries(entries) = serde_json::from_slice(header)
        .map_err(|error| FolderError::Json { file: file.to_owned(), reason: error.to_string() })?;
    if entries.len() as u64 > MAX_TENSORS {
        return Err(FolderError::TooManyTensors { got: entries.len() });
    }
    check_overlaps(&entries)?;
    entries
        .into_iter()
        .map(|(name, entry)| entry.locate(&name, data).map(|stored| (name, stored)))
        .collect()
}

impl Entry {
    fn locate<'a>(&self, name: &str, data: &'a [u8]) -> Result<Stored<'a>, FolderError> {
        let (ty, size) = match self.dtype.as_str() {
            "F32" => (TensorType::F32, 4),
            "F16" => (TensorType::F16, 2),
            "BF16" => (TensorType::Bf16, 2),
            _ => {
                let dtype = self.dtype.clone();
                return Err(FolderError::Type { tensor: name.to_owned(), dtype });
            }
        };
        let shape = || FolderError::Shape { tensor: name.to_owned(), shape: self.shape.clone() };
        let mut dims = [1; MAX_TENSOR_DIMS];
        let stated = dims.get_mut(..self.shape.len()).filter(|dims| !dims.is_empty());
        for (dim, stated) in stated.ok_or_else(shape)?.iter_mut().zip(self.shape.iter().rev()) {
            *dim = *stated;
        }
        let elements = dims.iter().try_fold(1_u64, |n, dim| n.checked_mul(*dim));
        let bytes = elements.filter(|n| *n > 0).and_then(|n| n.checked_mul(size));
        let bytes = bytes.ok_or_else(shape)?;
        let (start, end) = self.data_offsets;
        let found = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let found = found.and_then(|(start, end)| data.get(start..end));
        let outside = || FolderError::OutsideFile {
            tensor: name.to_owned(),
            start,
            end,
            bytes,
            available: data.len() as u64,
        };
        let found = found.filter(|found| found.len() as u64 == bytes).ok_or_else(outside)?;
        Ok(Stored { dims, ty, bytes: found })
    }
}

/// Refuses two tensors of one name, or that share a byte.
fn check_overlaps(entries: &[(String, Entry)]) -> Result<(), FolderError> {
    if let Some(name) = layout::twice(entries.iter().map(|(name, _)| name.as_str())) {
        return Err(FolderError::TensorTwice { name: name.to_owned() });
    }
    let ranges = entries
        .iter()
        .map(|(name, entry)| (entry.data_offsets.0, entry.data_offsets.1, name.as_str()));
    let overlap = |(first, second): (&str, &str)| FolderError::Overlap {
        first: first.to_owned(),
        second: second.to_owned(),
    };
    layout::overlap(ranges).map(overlap).map_or(Ok(()), Err)
}
