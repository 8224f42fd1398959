//! The embedded PTX texts, and what they say of their kernels.
//!
//! `dev/ptx.py` makes the texts of the sources in `kernels`; they are text so that a change can be
//! read and compared, and so that one of them serves all later chips.

use crate::version::Capability;

/// The size of a kernel's parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A parameter of four bytes.
    U32,
    /// A parameter that is a binary32.
    F32,
    /// A parameter of eight bytes, which may be an address.
    U64,
}

/// A text of kernels in PTX.
#[derive(Debug)]
pub(crate) struct Text {
    /// The target that it is compiled for.
    pub(crate) target: &'static str,
    /// The oldest chip that accepts it.
    needs: Capability,
    /// Whether no later chip does: the text has instructions that only this one has.
    only: bool,
    pub(crate) ptx: &'static str,
}

/// The texts, the most demanding first.
pub(crate) const TEXTS: [Text; 3] = [
    Text {
        target: "sm_90a",
        needs: Capability { major: 9, minor: 0 },
        only: true,
        ptx: include_str!("../ptx/lockstep_sm90a.ptx"),
    },
    Text {
        target: "sm_80",
        needs: Capability { major: 8, minor: 0 },
        only: false,
        ptx: include_str!("../ptx/lockstep_sm80.ptx"),
    },
    Text {
        target: "sm_75",
        needs: Capability { major: 7, minor: 5 },
        only: false,
        ptx: include_str!("../ptx/lockstep_sm75.ptx"),
    },
];

impl Text {
    /// Returns the texts that a chip takes, the best first.
    pub(crate) fn fitting(capability: Capability) -> impl Iterator<Item = &'static Self> {
        let fits = move |text: &&Self| {
            if text.only { text.needs == capability } else { text.needs <= capability }
        };
        TEXTS.iter().filter(fits)
    }

    /// Returns every kernel's name and parameters, in the text's order.
    pub(crate) fn kernels(&self) -> Vec<(&'static str, Vec<Kind>)> {
        let entries = self.ptx.split(".visible .entry ").skip(1);
        entries
            .filter_map(|entry| {
                let (name, rest) = entry.split_once('(')?;
                let (parameters, _) = rest.split_once(')')?;
                Some((name.trim(), parameters.split(',').filter_map(kind).collect()))
            })
            .collect()
    }
}

/// Returns the kind of a line such as `.param .u64 norm_param_0`.
fn kind(line: &str) -> Option<Kind> {
    match line.trim().strip_prefix(".param ")?.split(' ').next()? {
        ".u32" | ".s32" | ".b32" => Some(Kind::U32),
        ".f32" => Some(Kind::F32),
        ".u64" | ".s64" | ".b64" => Some(Kind::U64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn all_texts_have_the_same_kernels_and_every_parameter_is_understood() {
        let [best, middle, oldest] = TEXTS.each_ref().map(Text::kernels);
        assert_eq!(best, oldest);
        assert_eq!(middle, oldest);
        assert_eq!(best.len(), 29);
        for text in &TEXTS {
            let understood: usize = text.kernels().iter().map(|(_, kinds)| kinds.len()).sum();
            let headers = text.ptx.split(".visible .entry ").skip(1);
            let headers = headers.map(|entry| entry.split(')').next().unwrap());
            let declared: usize = headers.map(|header| header.matches(".param ").count()).sum();
            assert_eq!(understood, declared, "{}", text.target);
        }
    }

    #[test]
    fn a_chip_gets_the_best_text_that_it_takes() {
        let targets = |major, minor| -> Vec<&str> {
            Text::fitting(Capability { major, minor }).map(|text| text.target).collect()
        };
        assert_eq!(targets(9, 0), ["sm_90a", "sm_80", "sm_75"]);
        assert_eq!(targets(8, 9), ["sm_80", "sm_75"]);
        assert_eq!(targets(10, 0), ["sm_80", "sm_75"]);
        assert_eq!(targets(7, 5), ["sm_75"]);
        assert!(targets(7, 0).is_empty());
    }

    #[test]
    fn the_texts_are_made_of_the_sources_that_are_here() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
        let files: BTreeMap<String, Vec<u8>> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect();
        let mut digest = Sha256::new();
        for (name, text) in &files {
            digest.update(format!("{name} {}\n", text.len()));
            digest.update(text);
        }
        let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let header = format!("// Made by dev/ptx.py of kernels with the SHA-256 {digest}\n");
        for text in &TEXTS {
            assert!(text.ptx.starts_with(&header), "{}: run dev/ptx.py --write", text.target);
        }
    }
}
