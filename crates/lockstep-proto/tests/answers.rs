//! Rings that work: every split gives the single process's answer, signed by everybody.

mod support;

use support::{SECOND, ask, nothing_is_left, receipt_of, ring};

#[test]
fn rings_of_one_to_five_stages_give_the_single_process_answer() {
    for stages in 1..=5 {
        for prompt_len in [1, 2, 127, 128, 129, 700] {
            let mut ring = ring(stages);
            let request = ask(&mut ring, 0, prompt_len, 12);
            assert!(ring.run_to_the_end(60 * SECOND), "{stages} stages, prompt {prompt_len}");
            let receipt = receipt_of(&ring, 0, &request);
            assert_eq!(receipt.segments.len(), stages);
            nothing_is_left(&mut ring, 0..stages);
        }
    }
}
