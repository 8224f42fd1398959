//! Packed matrices of every codec: what goes in comes out, and every value out of range is named.

use lockstep_exact::blob::Blob;
use lockstep_exact::matrix::{
    COLUMNS_MAX, Codec, MatrixError, Packed, QuantisedRow, ROWS_MAX, Shape, pack, seeded_bytes,
};
use lockstep_exact::ops::Products;
use lockstep_exact::reference::{Codes, Reference, Sums};
use lockstep_testing::numbers::Numbers;

fn packed(shape: Shape, bytes: Vec<u8>) -> Result<Packed, MatrixError> {
    let blob = Blob::new(bytes);
    Packed::new(shape, blob.slice(0, blob.as_slice().len()).unwrap())
}

fn row(numbers: &mut Numbers, shape: Shape) -> QuantisedRow {
    let (low, levels) = if shape.codec == Codec::W8 { (-127, 255) } else { (-8, 16) };
    let most = shape.codec.group_scale_max() as u64;
    let shifts = if shape.codec == Codec::W8 { 0 } else { shape.groups() };
    QuantisedRow {
        codes: (0..shape.columns).map(|_| (numbers.below(levels) as i32 + low) as i8).collect(),
        group_scales: (0..shape.groups()).map(|_| 1 + numbers.below(most) as u8).collect(),
        shifts: (0..shifts).map(|_| (numbers.below(255) as i32 - 127) as i8).collect(),
        scale: 0.5 + numbers.signed_unit().abs(),
    }
}

#[test]
fn rows_come_back_from_their_packed_form() {
    let mut numbers = Numbers::new(1);
    for codec in Codec::ALL {
        for (rows, columns) in [(1, 1), (17, 31), (5, 33), (16, 64), (3, 97), (33, 130)] {
            let shape = codec.shape(rows, columns);
            let quantised: Vec<_> = (0..rows).map(|_| row(&mut numbers, shape)).collect();
            let packed = packed(shape, pack(shape, quantised.clone())).unwrap();
            for (index, row) in quantised.iter().enumerate() {
                assert_eq!(packed.row(index), *row, "{shape}, row {index}");
                let weights = (0..columns).map(|column| packed.weight(index, column));
                assert!(weights.eq((0..columns).map(|column| row.weight(codec, column))));
            }
        }
    }
}

#[test]
fn no_integer_weight_or_sum_exceeds_its_bound() {
    for (codec, code, shift) in [(Codec::W8, -127, 0), (Codec::W4, -8, -127)] {
        let shape = codec.shape(1, 100);
        let row = QuantisedRow {
            codes: vec![code; 100],
            group_scales: vec![codec.group_scale_max() as u8; shape.groups()],
            shifts: if codec == Codec::W8 { vec![] } else { vec![shift; shape.groups()] },
            scale: 1.0,
        };
        let packed = packed(shape, pack(shape, [row])).unwrap();
        assert_eq!(i64::from(packed.weight(0, 99)), -codec.weight_max());
        let x = Codes { width: 100, codes: vec![-32_512; 100], scales: vec![1.0] };
        let mut sums = Sums::default();
        let Ok(()) = Reference.matmul(&packed, &x, &mut sums);
        assert_eq!(sums.data, [shape.sum_bound()]);
    }
}

#[test]
fn what_is_out_of_range_in_w4_is_named() {
    let shape = Codec::W4.shape(20, 70);
    let good = seeded_bytes(5, Codec::W4.shape(32, 70));
    // Rows 20..32 are padding here, so they must look like it.
    let rows = packed(Codec::W4.shape(32, 70), good).unwrap();
    let good = pack(shape, (0..20).map(|index| rows.row(index)));
    assert!(packed(shape, good.clone()).is_ok());
    let (groups, row_scales) = (shape.group_scales_offset(), shape.row_scales_offset());
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        packed(shape, bytes).unwrap_err()
    };
    // Row 3, group 1; row 2, group 2.
    let error = with(groups + 7, 0);
    assert_eq!(error, MatrixError::GroupScale { codec: Codec::W4, row: 3, group: 1, got: 0 });
    assert_eq!(error.to_string(), "group scale 0 at row 3, group 1 (expected 1..=255)");
    assert_eq!(with(groups + 64 + 32 + 4, 128), MatrixError::Shift { row: 2, group: 2 });
    assert!(matches!(with(row_scales + 3, 0x60), MatrixError::RowScale { row: 0, .. }));
    // Column 70 of row 0, a group beyond the last, and row 20.
    let padding = |block| MatrixError::Padding { block };
    assert_eq!(with(8 * 64 + 2, 0x07), padding(0));
    assert_eq!(with(groups + 64 + 1, 2), padding(0));
    assert_eq!(with(groups + 64 + 33, 1), padding(0));
    assert_eq!(with(shape.block_bytes() + 16, 0x87), padding(1));
    let short = packed(shape, good[1..].to_vec()).unwrap_err();
    assert!(matches!(short, MatrixError::Length { .. }), "{short}");
}

#[test]
fn a_matrix_that_is_longer_than_memory_has_its_true_length() {
    for codec in Codec::ALL {
        let shape = codec.shape(ROWS_MAX, COLUMNS_MAX);
        let codes =
            (ROWS_MAX as u64 * COLUMNS_MAX as u64 / 2) * if codec == Codec::W8 { 2 } else { 1 };
        assert!(shape.stored_bytes() > codes, "{shape}");
        // More than 32 bits can count: no slice has the length, on a machine that has no others.
        let in_memory = usize::try_from(shape.stored_bytes()).unwrap_or(usize::MAX);
        assert_eq!(shape.packed_bytes(), in_memory);
        let small = codec.shape(17, 65);
        assert_eq!(small.stored_bytes(), small.packed_bytes() as u64);
    }
}
