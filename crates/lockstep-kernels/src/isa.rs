//! The instruction set that computes: detected once, or forced by name.
//!
//! An [`Isa`] value is a proof: it can only be obtained for an instruction set that this processor
//! has, so everything below may rely on it when it calls code compiled for that set.

use std::fmt;

/// Environment variable that forces one instruction set by name.
pub const OVERRIDE: &str = "LOCKSTEP_KERNEL";

/// An instruction set that this processor has. All of them give the same bits.
///
/// Ordered from slowest to fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(pub(crate) Kind);

/// The instruction sets there is code for. Private to the crate: holding one proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// Plain Rust, for any processor.
    Portable,
    /// AVX2: integer multiplies of 256 bits.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-VNNI: dot products of 256 bits.
    #[cfg(target_arch = "x86_64")]
    AvxVnni,
    /// AVX-512 with VNNI: dot products of 512 bits.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// NEON: dot products of 128 bits.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// Why an instruction set could not be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    /// The name is none of [`Isa::NAMES`].
    #[error("unknown kernel path {name:?}: expected one of portable, avx2, avx-vnni, avx512, neon")]
    Unknown {
        /// The name that was asked for.
        name: String,
    },
    /// The name is known but the processor lacks the instructions.
    #[error("kernel path {name} is not available on this processor")]
    Unavailable {
        /// The name that was asked for.
        name: &'static str,
    },
}

impl Isa {
    /// Every name that [`Isa::named`] knows, available here or not.
    pub const NAMES: [&'static str; 5] = ["portable", "avx2", "avx-vnni", "avx512", "neon"];

    /// The instruction set every processor has.
    pub const PORTABLE: Self = Self(Kind::Portable);

    /// Returns the fastest available instruction set, unless [`OVERRIDE`] in the environment names
    /// another.
    ///
    /// # Errors
    /// When the variable names an unknown or unavailable instruction set.
    pub fn detect() -> Result<Self, IsaError> {
        match std::env::var_os(OVERRIDE) {
            Some(name) => Self::named(&name.to_string_lossy()),
            None => Ok(Self::fastest()),
        }
    }

    /// Returns the instruction set called `name`.
    ///
    /// # Errors
    /// When the name is unknown, or the processor lacks that instruction set.
    pub fn named(name: &str) -> Result<Self, IsaError> {
        let Some(name) = Self::NAMES.into_iter().find(|known| *known == name) else {
            return Err(IsaError::Unknown { name: name.to_owned() });
        };
        Self::available()
            .into_iter()
            .find(|isa| isa.name() == name)
            .ok_or(IsaError::Unavailable { name })
    }

    /// Returns every instruction set this processor has, slowest first.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(Self(Kind::Avx2));
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni") {
                all.push(Self(Kind::AvxVnni));
            }
            if is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                all.push(Self(Kind::Avx512));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            all.push(Self(Kind::Neon));
        }
        all
    }

    /// Returns the name that [`Isa::named`] and [`OVERRIDE`] take.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni => "avx-vnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    fn fastest() -> Self {
        // default: every processor has the portable code
        Self::available().into_iter().max().unwrap_or(Self::PORTABLE)
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A function whose body is compiled once per instruction set and called for the one given first.
macro_rules! per_isa {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($isa:ident: Isa $(, $arg:ident: $type:ty)* $(,)?) $(-> $out:ty)?
        $body:block
    ) => {
        $(#[$meta])*
        $vis fn $name($isa: $crate::isa::Isa $(, $arg: $type)*) $(-> $out)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) $(-> $out)? {
                body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $out)? {
                body($($arg),*)
            }
            match $isa.0 {
                $crate::isa::Kind::Portable => body($($arg),*),
                // SAFETY: an `Isa` is only made where the processor has it.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx2 | $crate::isa::Kind::AvxVnni => unsafe {
                    avx2($($arg),*)
                },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::isa::Kind::Avx512 => unsafe { avx512($($arg),*) },
                // What every AArch64 processor has suffices.
                #[cfg(target_arch = "aarch64")]
                $crate::isa::Kind::Neon => body($($arg),*),
            }
        }
    };
}
pub(crate) use per_isa;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_is_found_again_by_its_name() {
        for isa in Isa::available() {
            assert_eq!(Isa::named(isa.name()), Ok(isa));
            assert!(Isa::NAMES.contains(&isa.name()));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_name() {
        let error = Isa::named("AVX2 ").unwrap_err();
        assert_eq!(error, IsaError::Unknown { name: "AVX2 ".into() });
        assert!(error.to_string().contains("\"AVX2 \""));
    }

    #[test]
    fn a_known_name_is_available_or_says_it_is_not() {
        for name in Isa::NAMES {
            match Isa::named(name) {
                Ok(isa) => assert_eq!(isa.name(), name),
                Err(error) => assert_eq!(error, IsaError::Unavailable { name }),
            }
        }
    }
}
