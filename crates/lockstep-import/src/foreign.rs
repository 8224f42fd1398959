//! Recognises a file that is not the model file it should be, by its first bytes, and says what to
//! do.
//!
//! People rename files, servers answer with pages, and clones without large files hold pointers.
//! Nothing here is trusted: a wrong guess makes a worse error message and nothing else.

use std::fmt;

/// A kind of file that is often found where a model file should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// The file is empty: it has no bytes.
    Empty,
    /// Zeros: space that a download reserved and did not fill.
    Zeros,
    /// The text that stands for a large file in a Git repository.
    LfsPointer,
    /// The file is a web page in HTML.
    Html,
    /// XML, which object stores answer errors with.
    Xml,
    /// JSON that says `error`, as servers answer.
    JsonError,
    /// The file is JSON of another kind.
    Json,
    /// The file is text of another kind.
    Text,
    /// GGUF, where something else was expected.
    Gguf,
    /// The file is of one of llama.cpp's formats of before August 2023.
    Ggml(&'static str),
    /// A LoRA adapter in llama.cpp's format of before 2024.
    GgmlAdapter,
    /// Safetensors, where something else was expected.
    Safetensors,
    /// A PyTorch checkpoint, of pickled Python objects.
    Pickle,
    /// The file is a graph in ONNX.
    Onnx,
    /// The file is a model of TensorFlow or Keras.
    TensorFlow,
    /// The file holds arrays of NumPy.
    NumPy,
    /// The file is a program; llamafiles are programs too.
    Program,
    /// An archive or compressed file, by what it is called.
    Archive(&'static str),
}

/// The bytes that identify a kind of file, and the offset at which they stand.
type Magic = (usize, &'static [u8], Foreign);

const MAGICS: [Magic; 25] = [
    (0, b"GGUF", Foreign::Gguf),
    (0, b"lmgg", Foreign::Ggml("ggml")),
    (0, b"ggml", Foreign::Ggml("ggml")),
    (0, b"fmgg", Foreign::Ggml("ggmf")),
    (0, b"tjgg", Foreign::Ggml("ggjt")),
    (0, b"ggjt", Foreign::Ggml("ggjt")),
    (0, b"algg", Foreign::GgmlAdapter),
    (0, b"version https://git-lfs", Foreign::LfsPointer),
    (0, b"version https://hawser", Foreign::LfsPointer),
    (0, b"\x1f\x8b", Foreign::Archive("a gzip file")),
    (0, b"BZh", Foreign::Archive("a bzip2 file")),
    (0, b"\xfd7zXZ\0", Foreign::Archive("an xz file")),
    (0, b"\x28\xb5\x2f\xfd", Foreign::Archive("a zstd file")),
    (0, b"7z\xbc\xaf\x27\x1c", Foreign::Archive("a 7z archive")),
    (0, b"Rar!", Foreign::Archive("a RAR archive")),
    (257, b"ustar", Foreign::Archive("a tar archive")),
    (0, b"\x89HDF\r\n\x1a\n", Foreign::TensorFlow),
    (4, b"TFL3", Foreign::TensorFlow),
    (0, b"\x08\x01\x12", Foreign::TensorFlow),
    (0, b"\x93NUMPY", Foreign::NumPy),
    (0, b"\x7fELF", Foreign::Program),
    (0, b"\xcf\xfa\xed\xfe", Foreign::Program),
    (0, b"MZ", Foreign::Program),
    (0, b"<?xml", Foreign::Xml),
    (0, b"PK\x05\x06", Foreign::Archive("an empty ZIP archive")),
];

/// Bytes that are looked at for what stands anywhere near a file's beginning.
const HEAD: usize = 4096;
/// The longest directory of a safetensors file that is believed here.
const DIRECTORY: u64 = 100 << 20;

impl Foreign {
    /// Recognises what kind of file has these bytes; returns `None` if it is none that is known.
    ///
    /// # Examples
    /// ```
    /// use lockstep_import::foreign::Foreign;
    /// let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    /// assert_eq!(Foreign::of(pointer), Some(Foreign::LfsPointer));
    /// ```
    pub fn of(file: &[u8]) -> Option<Self> {
        let head = file.get(..HEAD).unwrap_or(file);
        if head.is_empty() {
            return Some(Self::Empty);
        }
        // First, as the length at its beginning may be any bytes.
        if let Some((length, [b'{', ..])) = head.split_first_chunk::<8>()
            && u64::from_le_bytes(*length) <= DIRECTORY
        {
            return Some(Self::Safetensors);
        }
        let has =
            |(at, magic, _): &&Magic| head.get(*at..).is_some_and(|head| head.starts_with(magic));
        if let Some((_, _, kind)) = MAGICS.iter().find(has) {
            return Some(*kind);
        }
        if head.starts_with(b"PK\x03\x04") {
            let is_checkpoint = contains(head, b".pkl") || contains(head, b"/version");
            return Some(if is_checkpoint { Self::Pickle } else { Self::Archive("a ZIP archive") });
        }
        match head {
            // The opcode of a pickle's protocol, and its number.
            [0x80, 2..=5, ..] => return Some(Self::Pickle),
            // A graph's format version, from 3 on, then its producer's name.
            [0x08, 3..=20, 0x12, ..] => return Some(Self::Onnx),
            _ => {}
        }
        if head.iter().all(|byte| *byte == 0) {
            return Some(Self::Zeros);
        }
        Self::of_text(head)
    }

    fn of_text(head: &[u8]) -> Option<Self> {
        let plain = |byte: &u8| !byte.is_ascii_control() || byte.is_ascii_whitespace();
        // The last character may be cut.
        let is_text = match std::str::from_utf8(head) {
            Ok(_) => true,
            Err(error) => error.error_len().is_none(),
        };
        if !is_text || !head.iter().all(plain) {
            return None;
        }
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
        let text = text.to_ascii_lowercase();
        let begins = |word: &str| text.starts_with(word.as_bytes());
        Some(if begins("<!doctype html") || begins("<html") || begins("<head") || begins("<!--") {
            Self::Html
        } else if begins("<?xml") || begins("<error") {
            Self::Xml
        } else if begins("{") || begins("[") {
            if contains(&text, b"\"error") { Self::JsonError } else { Self::Json }
        } else {
            Self::Text
        })
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const AGAIN: &str = "download the file again, from its `resolve` address and, where the \
                             model has terms, signed in";
        const FETCH: &str = "get the model's safetensors folder or a GGUF file";
        match self {
            Self::Empty => f.write_str("it is empty: download it again"),
            Self::Zeros => f.write_str(
                "it begins with zeros, as downloads do that were not completed: download it again",
            ),
            Self::LfsPointer => f.write_str(
                "it is a Git LFS pointer, which stands for the file: run `git lfs pull` where it \
                 was cloned, or download the file itself",
            ),
            Self::Html => write!(f, "it is a web page (HTML): {AGAIN}"),
            Self::Xml => write!(f, "it is an XML document, as servers answer errors: {AGAIN}"),
            Self::JsonError => write!(f, "it is a server's error message in JSON: {AGAIN}"),
            Self::Json => f.write_str(
                "it is a JSON file: give the model's GGUF file, or the folder with config.json, \
                 tokenizer.json and the weights",
            ),
            Self::Text => write!(f, "it is a text file: {FETCH}"),
            Self::Gguf => f.write_str("it is a GGUF file: import it by its own path"),
            Self::Ggml(name) => write!(
                f,
                "it is of llama.cpp's format {name} of before August 2023, which current programs \
                 do not read: {FETCH}"
            ),
            Self::GgmlAdapter => write!(
                f,
                "it is a LoRA adapter of llama.cpp, no model: {FETCH} in which it is merged"
            ),
            Self::Safetensors => f.write_str(
                "it is a safetensors file: give the folder that it lies in, with config.json and \
                 tokenizer.json",
            ),
            Self::Pickle => write!(
                f,
                "it is a PyTorch checkpoint (pickle), which can run any program when it is read, \
                 so it is not: {FETCH}, or convert it with `save_pretrained(..., \
                 safe_serialization=True)`"
            ),
            Self::Onnx => write!(f, "it is an ONNX graph: {FETCH}"),
            Self::TensorFlow => write!(f, "it is a TensorFlow or Keras model: {FETCH}"),
            Self::NumPy => write!(f, "it is an array of NumPy: {FETCH}"),
            Self::Program => write!(f, "it is a program (a llamafile?): {FETCH}"),
            Self::Archive(name) => write!(f, "it is {name}: unpack it and import what is in it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_for_what_it_is_with_the_next_step() {
        let tar = [&[b'x'; 257][..], b"ustar\0"].concat();
        let checkpoint = [&b"PK\x03\x04"[..], &[0; 20], b"archive/data.pkl"].concat();
        let graph = b"\x08\x07\x12\x07pytorch".as_slice();
        for (file, kind, words) in [
            (&b""[..], Foreign::Empty, "download it again"),
            (&[0; 5000], Foreign::Zeros, "not completed"),
            (b"version https://git-lfs.github.com/spec/v1\n", Foreign::LfsPointer, "git lfs pull"),
            (b"\n\n<!DOCTYPE html><html>", Foreign::Html, "web page"),
            (b"<html lang=en>", Foreign::Html, "web page"),
            (b"<?xml version=\"1.0\"?><Error>", Foreign::Xml, "XML"),
            (b"{\"error\": \"Repository not found\"}", Foreign::JsonError, "error message"),
            (b"{\"model_type\": \"llama\"}", Foreign::Json, "folder"),
            (b"Entry not found", Foreign::Text, "text file"),
            (b"GGUF\x03\0\0\0", Foreign::Gguf, "GGUF"),
            (b"lmgg\x01\0\0\0", Foreign::Ggml("ggml"), "2023"),
            (b"tjgg\x03\0\0\0", Foreign::Ggml("ggjt"), "2023"),
            (b"algg\x01\0\0\0", Foreign::GgmlAdapter, "adapter"),
            (b"\x02\0\0\0\0\0\0\0{}", Foreign::Safetensors, "folder"),
            (b"\x80\x02}q\0.", Foreign::Pickle, "pickle"),
            (&checkpoint, Foreign::Pickle, "pickle"),
            (graph, Foreign::Onnx, "ONNX"),
            (b"\x08\x01\x12\xff\xff", Foreign::TensorFlow, "TensorFlow"),
            (b"\x89HDF\r\n\x1a\n", Foreign::TensorFlow, "Keras"),
            (b"PK\x03\x04\x14\0\0\0model.gguf", Foreign::Archive("a ZIP archive"), "unpack"),
            (&tar, Foreign::Archive("a tar archive"), "unpack"),
            (b"\x1f\x8b\x08\0", Foreign::Archive("a gzip file"), "unpack"),
            (b"MZqFpD='", Foreign::Program, "llamafile"),
        ] {
            assert_eq!(Foreign::of(file), Some(kind), "{file:?}");
            let said = kind.to_string();
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(Foreign::of(&[0xff; 16]), None);
        assert_eq!(Foreign::of(b"\x01\x02\x03\x04\x05\x06\x07\x08\x09"), None);
    }
}
