//! One suite of laws for every instruction set this processor has and several thread counts: each
//! operation gives the bits of the reference, on random and on adversarial values.

mod attention;
mod elements;
mod model;
mod products;
mod values;

use lockstep_kernels::{Isa, Kernels};

/// The kernels under test; `None` where the processor lacks the instruction set.
fn kernels(isa: &str, threads: usize) -> Option<Kernels> {
    let isa = Isa::named(isa).ok()?;
    Some(Kernels::new(isa, threads).unwrap())
}

/// Every law, for one instruction set and number of threads.
macro_rules! laws {
    ($($backend:ident: $isa:literal, $threads:literal;)*) => {
        $(mod $backend {
            laws! { @each $isa, $threads,
                attention: append_writes_the_rows_and_queries_of_the_reference,
                attention: heads_are_normalised_as_in_the_reference,
                attention: attention_is_exact_at_chunk_boundaries_and_in_windows,
                attention: attention_is_exact_for_scales_of_any_spread,
                attention: values_of_zero_attend_to_zero_at_every_score,
                attention: attention_overflows_exactly_where_the_reference_does,
                attention: batches_of_sessions_attend_as_each_alone,
                attention: ragged_batches_of_prompts_and_tokens_attend_exactly,
                attention: a_long_session_attends_exactly,
                attention: a_cache_forgets_what_is_truncated_and_keeps_the_rest,
                attention: rows_that_no_quantisation_gives_are_refused,
                elements: embedding_rows_are_exact,
                elements: norms_are_exact_on_states_of_any_spread,
                elements: norms_of_rows_are_exact_and_flag_overflow,
                elements: biases_are_added_to_every_row,
                elements: quantised_rows_are_exact_up_to_both_edges,
                elements: gates_are_exact_on_every_kind_of_number,
                elements: rows_are_selected_and_added_up_where_they_belong,
                elements: residuals_are_exact_and_mark_overflow,
                elements: field_dots_are_those_of_the_definition,
                elements: field_dots_of_the_largest_numbers_do_not_overflow,
                elements: keys_are_the_transposed_products,
                elements: keys_of_the_tallest_matrices_do_not_overflow,
                products: products_are_exact_for_every_shape_and_row_count,
                products: products_of_the_largest_numbers_do_not_overflow,
                products: every_input_code_and_weight_code_multiplies_exactly,
                products: every_4_bit_code_and_shift_multiplies_exactly,
                products: written_sums_are_read_back_and_dequantised,
                model: a_whole_model_gives_the_same_bits_in_any_chunks,
                model: every_feature_of_every_family_gives_the_same_bits,
                model: a_row_goes_through_its_experts_alone_as_in_any_batch,
                model: a_batch_of_sessions_gives_the_same_bits_as_each_alone,
            }
        })*
    };
    (@each $isa:literal, $threads:literal, $($file:ident: $law:ident,)*) => {
        $(#[test]
        fn $law() {
            if let Some(kernels) = crate::kernels($isa, $threads) {
                crate::$file::$law(&kernels);
            }
        })*
    };
}

laws! {
    portable_on_one_thread: "portable", 1;
    portable_on_two_threads: "portable", 2;
    avx2_on_one_thread: "avx2", 1;
    avx2_on_two_threads: "avx2", 2;
    avx_vnni_on_one_thread: "avx-vnni", 1;
    avx_vnni_on_two_threads: "avx-vnni", 2;
    neon_on_one_thread: "neon", 1;
    neon_on_two_threads: "neon", 2;
    avx512_on_one_thread: "avx512", 1;
    avx512_on_two_threads: "avx512", 2;
    avx512_on_five_threads: "avx512", 5;
}
