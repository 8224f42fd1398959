//! A reader for GGUF versions 2 and 3 over a byte slice, written for hostile files.
//!
//! [`Gguf::parse`] checks the whole directory before it returns: every string, array and tensor
//! lies inside the file, no key or tensor name occurs twice, tensor ranges are aligned and do not
//! overlap, and every tensor has a type that [`Matrix::read_row`] can turn into `f32`. What it
//! returns borrows from the file, so memory stays proportional to the directory, not the weights.
//!
//! Versions 2 and 3 differ in nothing that is read. Refused: version 1, big-endian files, nested
//! arrays, tensor types without a decoder here, and anything past a bound in
//! [`limits`](crate::limits).

mod cursor;
mod decode;
mod error;
mod shards;
mod tensor;
mod tensor_type;
mod value;

use cursor::Cursor;
pub use error::GgufError;
pub use shards::{first_shard, shard_names};
pub use tensor::{Matrix, Tensor};
pub use tensor_type::TensorType;
pub(crate) use value::required;
pub use value::{Array, Strings, Value};

use crate::foreign::Foreign;
use crate::layout;
use crate::limits::{
    MAX_ALIGNMENT, MAX_KEY_BYTES, MAX_METADATA_PAIRS, MAX_TENSOR_DIMS, MAX_TENSOR_NAME_BYTES,
    MAX_TENSORS,
};

const MAGIC: [u8; 4] = *b"GGUF";
/// Version 3 is version 2 with a word for the byte order: neither says so in its bytes.
const VERSIONS: [u32; 2] = [2, 3];
const DEFAULT_ALIGNMENT: u64 = 32;

/// A checked GGUF file: its metadata and its tensors.
#[derive(Debug, Default)]
pub struct Gguf<'a> {
    /// The metadata pairs, sorted by key.
    metadata: Vec<(&'a str, Value<'a>)>,
    /// The tensors, sorted by name.
    tensors: Vec<Tensor<'a>>,
}

impl<'a> Gguf<'a> {
    /// Reads and checks the directory of a GGUF file.
    ///
    /// # Errors
    /// The first rule the file breaks, with where it does.
    pub fn parse(file: &'a [u8]) -> Result<Self, GgufError> {
        let mut cursor = Cursor::new(file);
        check_header(file, &mut cursor)?;
        let tensor_count = counted(cursor.u64("tensor count")?, MAX_TENSORS, "tensors")?;
        let pair_count = counted(cursor.u64("pair count")?, MAX_METADATA_PAIRS, "metadata pairs")?;
        let metadata = read_metadata(&mut cursor, pair_count)?;
        let mut gguf = Self { metadata, tensors: Vec::new() };
        let entries = (0..tensor_count)
            .map(|_| DirectoryEntry::read(&mut cursor))
            .collect::<Result<Vec<_>, _>>()?;
        check_names(&entries)?;
        let alignment = gguf.alignment()?;
        let data_start = (cursor.at() as u64).next_multiple_of(alignment);
        let data = usize::try_from(data_start).ok().and_then(|s| file.get(s..)).unwrap_or(&[]);
        gguf.tensors = entries
            .iter()
            .map(|entry| entry.locate(data, alignment))
            .collect::<Result<Vec<_>, _>>()?;
        check_overlaps(&entries, &gguf.tensors)?;
        gguf.tensors.sort_by_key(Tensor::name);
        Ok(gguf)
    }

    /// Assembles a model described as a file would describe it, from `count` pairs of metadata and
    /// the tensors.
    pub(crate) fn assemble(
        metadata: &'a [u8],
        count: usize,
        mut tensors: Vec<Tensor<'a>>,
    ) -> Result<Self, GgufError> {
        let metadata = read_metadata(&mut Cursor::new(metadata), count)?;
        if let Some(name) = layout::twice(tensors.iter().map(Tensor::name)) {
            return Err(GgufError::TensorTwice { name: name.to_owned() });
        }
        tensors.sort_by_key(Tensor::name);
        Ok(Self { metadata, tensors })
    }

    /// Returns the value under `key`, if the file has one.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        let at = self.metadata.binary_search_by(|(k, _)| (*k).cmp(key)).ok()?;
        self.metadata.get(at).map(|(_, value)| value)
    }

    /// Returns every metadata pair, in order of key.
    pub fn metadata(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.metadata.iter().map(|(key, value)| (*key, value))
    }

    /// Returns every tensor, in order of name.
    pub fn tensors(&self) -> &[Tensor<'a>] {
        &self.tensors
    }

    /// Returns the tensor called `name`, if the file has one.
    pub fn tensor(&self, name: &str) -> Option<&Tensor<'a>> {
        let at = self.tensors.binary_search_by(|t| t.name().cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// Returns the tensor called `name` as a matrix of `rows` × `cols`.
    ///
    /// # Errors
    /// The tensor is missing or has another shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix<'a>, GgufError> {
        let missing = || GgufError::MissingTensor { name: name.to_owned() };
        self.tensor(name).ok_or_else(missing)?.matrix(rows, cols)
    }

    /// Returns the tensor called `name` as `count` matrices of `rows` × `cols`, one below the
    /// other.
    ///
    /// # Errors
    /// The tensor is missing or has another shape.
    pub fn stack(
        &self,
        name: &str,
        count: usize,
        rows: usize,
        cols: usize,
    ) -> Result<Matrix<'a>, GgufError> {
        let missing = || GgufError::MissingTensor { name: name.to_owned() };
        self.tensor(name).ok_or_else(missing)?.stack(count, rows, cols)
    }

    /// Returns the tensor called `name` as a vector of `len` finite numbers.
    ///
    /// # Errors
    /// The tensor is missing, has another shape, or holds a number that is not finite.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, GgufError> {
        self.matrix(name, 1, len)?.read_vector()
    }

    fn alignment(&self) -> Result<u64, GgufError> {
        let alignment = self.optional_u64("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        let fits = alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&alignment);
        if fits { Ok(alignment) } else { Err(GgufError::Alignment { got: alignment }) }
    }
}

fn check_header(file: &[u8], cursor: &mut Cursor<'_>) -> Result<(), GgufError> {
    if !file.starts_with(&MAGIC) {
        let got = file.get(..MAGIC.len()).unwrap_or(file).to_vec();
        return Err(GgufError::NotGguf { got, is: Foreign::of(file) });
    }
    cursor.array::<4>("magic")?;
    match cursor.u32("version")? {
        got if VERSIONS.contains(&got) => Ok(()),
        got if VERSIONS.contains(&got.swap_bytes()) => Err(GgufError::BigEndian),
        got => Err(GgufError::Version { got }),
    }
}

/// Refuses a count past `limit`, so that what is allocated for it stays small.
fn counted(got: u64, limit: u64, what: &'static str) -> Result<usize, GgufError> {
    let too_many = GgufError::TooMany { what, got, limit };
    if got > limit { Err(too_many) } else { usize::try_from(got).map_err(|_| too_many) }
}

fn read_metadata<'a>(
    cursor: &mut Cursor<'a>,
    count: usize,
) -> Result<Vec<(&'a str, Value<'a>)>, GgufError> {
    let mut pairs = Vec::new();
    for _ in 0..count {
        let key = cursor.string("metadata key", MAX_KEY_BYTES)?;
        pairs.push((key, Value::read(cursor, key)?));
    }
    pairs.sort_by_key(|(key, _)| *key);
    for pair in pairs.windows(2) {
        if let [(a, _), (b, _)] = pair
            && a == b
        {
            return Err(GgufError::KeyTwice { key: (*a).to_owned() });
        }
    }
    Ok(pairs)
}

/// A tensor as the directory states it, before its bytes were looked for.
struct DirectoryEntry<'a> {
    name: &'a str,
    dims: [u64; MAX_TENSOR_DIMS],
    ty: TensorType,
    offset: u64,
}

impl<'a> DirectoryEntry<'a> {
    fn read(cursor: &mut Cursor<'a>) -> Result<Self, GgufError> {
        let name = cursor.string("tensor name", MAX_TENSOR_NAME_BYTES)?;
        let count = cursor.u32("tensor dimensions")?;
        let mut dims = [1; MAX_TENSOR_DIMS];
        let stated = usize::try_from(count).ok().and_then(|n| dims.get_mut(..n));
        let stated = stated.filter(|dims| !dims.is_empty());
        let refused = || GgufError::Dimensions { tensor: name.to_owned(), got: count };
        for dim in stated.ok_or_else(refused)? {
            *dim = cursor.u64("tensor dimension")?;
        }
        let ty = TensorType::from_id(cursor.u32("tensor type")?, name)?;
        Ok(Self { name, dims, ty, offset: cursor.u64("tensor offset")? })
    }

    fn bytes(&self) -> Option<u64> {
        let elements = self.dims.iter().try_fold(1_u64, |n, d| n.checked_mul(*d))?;
        let whole = self.dims[0].is_multiple_of(self.ty.block_len()) && elements > 0;
        let blocks = whole.then(|| elements / self.ty.block_len())?;
        blocks.checked_mul(self.ty.block_bytes())
    }

    /// Finds the tensor's bytes in `data`, the part of the file behind the directory.
    fn locate(&self, data: &'a [u8], alignment: u64) -> Result<Tensor<'a>, GgufError> {
        let name = || self.name.to_owned();
        let bytes = self.bytes().ok_or_else(|| GgufError::Shape {
            tensor: name(),
            dims: self.dims,
            ty: self.ty,
        })?;
        if !self.offset.is_multiple_of(alignment) {
            let offset = self.offset;
            return Err(GgufError::Misaligned { tensor: name(), offset, alignment });
        }
        let range = self
            .offset
            .checked_add(bytes)
            .and_then(|end| Some(usize::try_from(self.offset).ok()?..usize::try_from(end).ok()?));
        let found = range.and_then(|range| data.get(range));
        let outside = || GgufError::OutsideFile {
            tensor: name(),
            offset: self.offset,
            bytes,
            available: data.len() as u64,
        };
        Ok(Tensor::new(self.name, self.dims, self.ty, found.ok_or_else(outside)?))
    }
}

/// Refuses two tensors that share a byte. `entries` and `tensors` run in the same order.
fn check_overlaps(entries: &[DirectoryEntry<'_>], tensors: &[Tensor<'_>]) -> Result<(), GgufError> {
    let ranges = entries
        .iter()
        .zip(tensors)
        .map(|(entry, tensor)| (entry.offset, entry.offset + tensor.byte_len(), entry.name));
    let overlap = |(first, second): (&str, &str)| GgufError::Overlap {
        first: first.to_owned(),
        second: second.to_owned(),
    };
    layout::overlap(ranges).map(overlap).map_or(Ok(()), Err)
}

fn check_names(entries: &[DirectoryEntry<'_>]) -> Result<(), GgufError> {
    let twice = layout::twice(entries.iter().map(|entry| entry.name));
    twice.map_or(Ok(()), |name| Err(GgufError::TensorTwice { name: name.to_owned() }))
}
