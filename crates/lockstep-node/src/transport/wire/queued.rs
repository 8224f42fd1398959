//! The entries of a link's send queue.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::transport::LinkFailure;

/// An entry of a link's send queue.
pub(crate) enum Queued {
    /// A frame, and its share of the queue.
    Frame(Bytes, OwnedSemaphorePermit),
    /// Deliver all that went before, end the stream, and say how that went.
    Finish(oneshot::Sender<Result<(), LinkFailure>>),
}
