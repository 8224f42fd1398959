//! Metadata values, and typed access to them by key.

use super::cursor::Cursor;
use super::{Gguf, GgufError, counted};
use crate::limits::{MAX_ARRAY_ITEMS, MAX_STRING_BYTES, MAX_VALUE_BYTES};

/// One value of the metadata of a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    /// An array of scalars or strings.
    Array(Array<'a>),
    /// A boolean of one byte, 0 or 1.
    Bool(bool),
    /// A number of IEEE 754 binary32.
    F32(f32),
    /// A number of IEEE 754 binary64.
    F64(f64),
    /// An integer of any signed width.
    Signed(i64),
    /// A string in UTF-8, of at most the limit's length.
    String(&'a str),
    /// An integer of any unsigned width.
    Unsigned(u64),
}

/// Number of the array type in the file format.
const ARRAY: u32 = 9;

impl<'a> Value<'a> {
    pub(super) fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Self, GgufError> {
        match cursor.u32("value type")? {
            ARRAY => Array::read(cursor, key).map(Self::Array),
            ty => Self::read_scalar(cursor, ty, key),
        }
    }

    fn read_scalar(cursor: &mut Cursor<'a>, ty: u32, key: &str) -> Result<Self, GgufError> {
        const WHAT: &str = "metadata value";
        let unknown = || GgufError::ValueType { key: key.to_owned(), got: ty };
        Ok(match ScalarType::from_id(ty).ok_or_else(unknown)? {
            ScalarType::U8 => Self::Unsigned(u8::from_le_bytes(cursor.array(WHAT)?).into()),
            ScalarType::I8 => Self::Signed(i8::from_le_bytes(cursor.array(WHAT)?).into()),
            ScalarType::U16 => Self::Unsigned(u16::from_le_bytes(cursor.array(WHAT)?).into()),
            ScalarType::I16 => Self::Signed(i16::from_le_bytes(cursor.array(WHAT)?).into()),
            ScalarType::U32 => Self::Unsigned(cursor.u32(WHAT)?.into()),
            ScalarType::I32 => Self::Signed(i32::from_le_bytes(cursor.array(WHAT)?).into()),
            ScalarType::F32 => Self::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
            ScalarType::Bool => match cursor.array(WHAT)? {
                [0] => Self::Bool(false),
                [1] => Self::Bool(true),
                [got] => return Err(GgufError::BadBool { key: key.to_owned(), got }),
            },
            ScalarType::String => Self::String(read_string(cursor, key)?),
            ScalarType::U64 => Self::Unsigned(cursor.u64(WHAT)?),
            ScalarType::I64 => Self::Signed(i64::from_le_bytes(cursor.array(WHAT)?)),
            ScalarType::F64 => Self::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
        })
    }

    /// Returns the name of the value's kind, for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Array(_) => "an array",
            Self::Bool(_) => "a boolean",
            Self::F32(_) => "a 32-bit float",
            Self::F64(_) => "a 64-bit float",
            Self::Signed(_) => "a signed integer",
            Self::String(_) => "a string",
            Self::Unsigned(_) => "an unsigned integer",
        }
    }
}

/// Returns the text under `key`. It may be long, as it stays in the file: whoever keeps it has a
/// limit of its own.
fn read_string<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<&'a str, GgufError> {
    cursor.string("string value", MAX_VALUE_BYTES).map_err(|error| match error {
        GgufError::TooMany { got, limit, .. } => {
            GgufError::LongValue { key: key.to_owned(), got, limit }
        }
        other => other,
    })
}

/// The value types of the file format, arrays aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ScalarType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    U64,
    I64,
    F64,
}

impl ScalarType {
    fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Returns the number of bytes of one value; `None` for strings, which have no fixed size.
    fn bytes(self) -> Option<u64> {
        Some(match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
            Self::String => return None,
        })
    }
}

/// An array, still in its bytes: items were walked once and are decoded when asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Array<'a> {
    ty: ScalarType,
    len: usize,
    bytes: &'a [u8],
}

impl<'a> Array<'a> {
    fn read(cursor: &mut Cursor<'a>, key: &str) -> Result<Self, GgufError> {
        let id = cursor.u32("array type")?;
        if id == ARRAY {
            return Err(GgufError::NestedArray { key: key.to_owned() });
        }
        let unknown = || GgufError::ValueType { key: key.to_owned(), got: id };
        let ty = ScalarType::from_id(id).ok_or_else(unknown)?;
        let len = counted(cursor.u64("array length")?, MAX_ARRAY_ITEMS, "array items")?;
        let bytes = match ty.bytes() {
            Some(each) => each * len as u64,
            None => {
                let mut walk = cursor.clone();
                for _ in 0..len {
                    walk.string("string in an array", MAX_STRING_BYTES)?;
                }
                (walk.at() - cursor.at()) as u64
            }
        };
        Ok(Self { ty, len, bytes: cursor.take(bytes, "array")? })
    }

    /// Returns the number of items of the array.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether there is no item.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the items as strings, or `None` if they are something else.
    pub fn strings(&self) -> Option<Strings<'a>> {
        let strings = Strings { cursor: Cursor::new(self.bytes), left: self.len };
        (self.ty == ScalarType::String).then_some(strings)
    }

    /// Returns the items as 32-bit integers of either sign, or `None` if they are something else.
    pub fn integers(&self) -> Option<impl Iterator<Item = i64> + use<'a>> {
        let signed = match self.ty {
            ScalarType::I32 => true,
            ScalarType::U32 => false,
            _ => return None,
        };
        let (words, _) = self.bytes.as_chunks::<4>();
        Some(words.iter().map(move |word| match signed {
            true => i32::from_le_bytes(*word).into(),
            false => u32::from_le_bytes(*word).into(),
        }))
    }

    /// Returns the items as 32-bit floats, or `None` if they are something else.
    pub fn floats(&self) -> Option<impl Iterator<Item = f32> + use<'a>> {
        let (words, _) = self.bytes.as_chunks::<4>();
        let floats = words.iter().map(|word| f32::from_le_bytes(*word));
        (self.ty == ScalarType::F32).then_some(floats)
    }
}

/// The strings of an array, in order.
#[derive(Debug, Clone)]
pub struct Strings<'a> {
    cursor: Cursor<'a>,
    left: usize,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        self.cursor.string("string in an array", MAX_STRING_BYTES).ok()
    }
}

impl<'a> Gguf<'a> {
    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || GgufError::WrongValue { key: key.to_owned(), expected, got: value.kind() };
        read(value).ok_or_else(wrong).map(Some)
    }

    /// Returns the non-negative integer under `key`, of whatever width, if there is one.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn optional_u64(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "a non-negative integer", |value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// Returns the 32-bit float under `key`, if there is one.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn optional_f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        self.typed(key, "a 32-bit float", |value| match value {
            Value::F32(x) => Some(*x),
            _ => None,
        })
    }

    /// Returns the boolean under `key`, if there is one.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn optional_bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a boolean", |value| match value {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// Returns the string under `key`, if there is one.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn optional_str(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a string", |value| match value {
            Value::String(s) => Some(*s),
            _ => None,
        })
    }

    /// Returns the array under `key`, if there is one.
    ///
    /// # Errors
    /// The key holds something else.
    pub fn optional_array(&self, key: &str) -> Result<Option<Array<'a>>, GgufError> {
        self.typed(key, "an array", |value| match value {
            Value::Array(array) => Some(*array),
            _ => None,
        })
    }
}

/// Turns an absent value into [`GgufError::MissingKey`].
///
/// # Errors
/// The value is absent.
pub(crate) fn required<T>(value: Option<T>, key: &str) -> Result<T, GgufError> {
    value.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
}
