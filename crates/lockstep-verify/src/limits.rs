//! Limits on requests, receipts and openings, in one place.

/// The most servers of a ring.
pub const STAGES: usize = 64;
/// Bytes of the addresses of one server.
pub const ADDRESS_BYTES: usize = 512;
/// The most adapters of a request.
pub const ADAPTERS: usize = 16;
/// The most tokens of a prompt.
pub const PROMPT_TOKENS: usize = lockstep_exact::limits::CONTEXT;
/// The most tokens of an answer.
pub const ANSWER_TOKENS: usize = lockstep_exact::limits::CONTEXT;
/// Frames of a session: at worst one per position.
pub const STEPS: usize = lockstep_exact::limits::CONTEXT;
/// Placements of a session after the first: each puts another server in a lost one's place.
pub const TAKEOVERS: usize = 64;
/// The most segments of a receipt.
pub const SEGMENTS: usize = STAGES + TAKEOVERS;
/// The most positions of one challenge.
pub const CHALLENGE_POSITIONS: usize = 4096;
/// Bytes of a mark, which a stage may be asked to show.
pub const MARK_BYTES: u64 = 180;
/// Challenges of an audit for cells. Those about states that neighbours signed differently come on
/// top: no stage can make an audit of the others longer than it may be.
pub const AUDIT_CHALLENGES: u64 = 1 << 19;
/// The most kinds of products of a layer.
pub const SLOTS: usize = 8;
/// Bytes of KV rows, states and sums that the draw puts into one opening: longer ones come in
/// parts. A single cell that is larger has an opening of its own.
pub const PART_BYTES: usize = 1 << 20;
/// Bytes of one opening: the largest cell that a manifest may have fits.
pub const OPENING_BYTES: usize = 24 << 20;
/// Bytes of a challenge with its opening, in a bundle.
pub const EXCHANGE_BYTES: usize = OPENING_BYTES + CHALLENGE_POSITIONS * 4 + 1024;
/// Bytes of a bundle's receipt, extent and seed: what their length, a `u32`, can say.
pub const HEAD_BYTES: usize = u32::MAX as usize;
