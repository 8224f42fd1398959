//! What a region of work costs when its parts do nothing.

use std::hint::black_box;
use std::time::Instant;

#[allow(dead_code, reason = "the pool uses more")]
#[path = "../../src/pool/board.rs"]
mod board;
#[allow(dead_code, reason = "the pool uses more")]
#[path = "../../src/pool/patience.rs"]
mod patience;
#[path = "../../src/pool/sync.rs"]
mod sync;

const REGIONS: u32 = 200_000;

pub(crate) fn run(threads: usize) {
    let board = board::Board::new();
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(|| board.work());
        }
        for parts in [2, 8, 16] {
            let start = Instant::now();
            board.mood().enter_scope();
            for _ in 0..REGIONS {
                // SAFETY: nobody else posts.
                let outcome = unsafe { board.run(parts, &|part| _ = black_box(part)) };
                assert!(outcome.is_ok());
            }
            board.mood().leave_scope();
            let each = start.elapsed() / REGIONS;
            println!("region of {parts} empty parts: {} ns", each.as_nanos());
        }
        board.stop();
    });
}
