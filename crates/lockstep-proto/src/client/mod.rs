//! The client's machines: [`Client`] asks for one answer and checks it as it streams,
//! [`Challenger`] asks the stages to open cells of it afterwards.
//!
//! What a client reports as an answer has a complete, checked chain of marks, follows its own stop
//! rules and is signed by every stage; anything else is a typed error, never a fake end.

mod ask;
mod challenge;
mod conduct;
mod error;
mod stream;

pub use ask::{Ask, Client, Event, Input, Output};
pub use challenge::{ChallengeInput, ChallengeOutput, Challenger, Exchange, Loss, NoAnswer};
pub use conduct::Conduct;
pub use error::{ClientError, SegmentFault};

pub use crate::chain::MarkFault;
