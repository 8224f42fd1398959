//! The types that the numbers of a GGUF file are stored in.

use std::fmt;

/// A type in which tensor elements are stored, and which can be read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// Numbers of IEEE 754 binary32.
    F32,
    /// Numbers of IEEE 754 binary16.
    F16,
    /// Numbers that are the upper half of a binary32.
    Bf16,
    /// 4-bit codes around zero, one scale per 32.
    Q4_0,
    /// 4-bit codes, one scale and one minimum per 32.
    Q4_1,
    /// 5-bit codes around zero, one scale per 32.
    Q5_0,
    /// 5-bit codes, one scale and one minimum per 32.
    Q5_1,
    /// 8-bit codes with one scale for every 32.
    Q8_0,
    /// 4-bit codes of uneven levels, one scale per 32.
    Iq4Nl,
    /// 4-bit codes of uneven levels, a 6-bit scale per 32.
    Iq4Xs,
    /// 2-bit codes, a 4-bit scale and minimum per 16.
    Q2K,
    /// 3-bit codes, a 6-bit scale per 16.
    Q3K,
    /// 4-bit codes, a 6-bit scale and minimum per 32.
    Q4K,
    /// 5-bit codes, a 6-bit scale and minimum per 32.
    Q5K,
    /// 6-bit codes, an 8-bit scale per 16.
    Q6K,
    /// Rows of eight ternary digits by 11-bit codes, a 3-bit scale per 16.
    Iq1M,
    /// Rows of eight ternary digits by 11-bit codes, a 3-bit scale per 32.
    Iq1S,
    /// Rows of eight by 10-bit codes with eight signs, a 4-bit scale per 16.
    Iq2S,
    /// Rows of eight by 9-bit codes with seven signs, a 4-bit scale per 16.
    Iq2Xs,
    /// Rows of eight by 8-bit codes with seven signs, a 4-bit scale per 32.
    Iq2Xxs,
    /// Rows of four by 9-bit codes with four signs, a 4-bit scale per 32.
    Iq3S,
    /// Rows of four by 8-bit codes with seven signs per eight, a 4-bit scale per 32.
    Iq3Xxs,
    /// Ternary digits, five in a byte, one scale per 256.
    Tq1_0,
    /// Ternary digits, four in a byte, one scale per 256.
    Tq2_0,
    /// 4-bit floats, a power of two per 32.
    Mxfp4,
}

impl TensorType {
    /// Elements of one block, the unit in which numbers are stored.
    pub fn block_len(self) -> u64 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Iq4Nl | Self::Mxfp4 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => 256,
            Self::Iq1M | Self::Iq1S | Self::Iq2S | Self::Iq2Xs | Self::Iq2Xxs => 256,
            Self::Iq3S | Self::Iq3Xxs | Self::Tq1_0 | Self::Tq2_0 => 256,
        }
    }

    /// Returns the number of bytes of one block.
    pub fn block_bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 | Self::Iq4Nl => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K | Self::Iq3S => 110,
            Self::Iq4Xs => 136,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
            Self::Iq1M => 56,
            Self::Iq1S => 50,
            Self::Iq2S => 82,
            Self::Iq2Xs => 74,
            Self::Iq2Xxs | Self::Tq2_0 => 66,
            Self::Iq3Xxs => 98,
            Self::Tq1_0 => 54,
            Self::Mxfp4 => 17,
        }
    }

    /// Returns the name that exporters use for the type.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq1M => "IQ1_M",
            Self::Iq1S => "IQ1_S",
            Self::Iq2S => "IQ2_S",
            Self::Iq2Xs => "IQ2_XS",
            Self::Iq2Xxs => "IQ2_XXS",
            Self::Iq3S => "IQ3_S",
            Self::Iq3Xxs => "IQ3_XXS",
            Self::Tq1_0 => "TQ1_0",
            Self::Tq2_0 => "TQ2_0",
            Self::Mxfp4 => "MXFP4",
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
