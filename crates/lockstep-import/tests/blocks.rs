//! Quantised blocks against an independent implementation, bit for bit.
//!
//! `golden/blocks.py` says how the golden numbers were made.

mod support;

use lockstep_import::gguf::Gguf;
use lockstep_import::source::Sha256;
use serde_json::Value;
use support::{Tensor, tiny};

/// Bytes of splitmix64, little-endian.
fn bytes(mut seed: u64, len: usize) -> Vec<u8> {
    let next = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31).to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(next).take(len.div_ceil(8)).flatten().collect();
    bytes.truncate(len);
    bytes
}

/// The numbers of `rows` rows of one block each, as a file with such a tensor gives them.
fn decoded(ty: u32, len: usize, rows: usize, stored: Vec<u8>) -> Vec<f32> {
    let mut file = tiny();
    let name = "blocks".to_owned();
    let dims = vec![len as u64, rows as u64];
    file.tensors = vec![Tensor { name, dims, ty, bytes: stored, offset: None }];
    let file = file.bytes();
    let gguf = Gguf::parse(&file).unwrap();
    let matrix = gguf.matrix("blocks", rows, len).unwrap();
    let mut numbers = vec![0.0; rows * len];
    for (row, out) in numbers.chunks_exact_mut(len).enumerate() {
        matrix.read_row(row, out).unwrap();
    }
    numbers
}

#[test]
fn blocks_decode_to_the_golden_bits() {
    let golden: Value = serde_json::from_str(include_str!("golden/blocks.json")).unwrap();
    let golden = golden.as_array().unwrap();
    assert_eq!(golden.len(), 22);
    for case in golden {
        let number = |key: &str| case[key].as_u64().unwrap();
        let (size, rows) = (number("block_bytes") as usize, number("blocks") as usize);
        let len = number("block_len") as usize;
        let mut stored = bytes(number("seed"), size * rows);
        for block in stored.chunks_exact_mut(size) {
            for top in case["tops"].as_array().unwrap() {
                let [at, bits, kept] = [0, 1, 2].map(|field| top[field].as_u64().unwrap());
                let byte = &mut block[at as usize];
                if u64::from(*byte) & bits == bits {
                    *byte &= kept as u8;
                }
            }
        }
        let numbers = decoded(number("id") as u32, len, rows, stored);
        let first: Vec<String> =
            numbers[..len].iter().map(|x| format!("{:08x}", x.to_bits())).collect();
        assert_eq!(first.join(" "), case["first"].as_str().unwrap(), "{}", case["type"]);
        let all: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        let digest = Sha256::of(&all[..], |_| ()).unwrap();
        assert_eq!(digest.to_string(), case["sha256"].as_str().unwrap(), "{}", case["type"]);
    }
}
