//! The layer below a link over QUIC: the connection, and the two tasks' halves of its stream.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use iroh::endpoint::{
    Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError,
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{timeout, timeout_at};

use super::Queued;
use crate::limits;
use crate::transport::door::Pulse;
use crate::transport::flight::Cargo;
use crate::transport::frame::{self, Assembler};
use crate::transport::way::Way;
use crate::transport::{HangUp, LinkFailure};

pub(crate) fn close(conn: &Connection, why: HangUp) {
    conn.close(VarInt::from_u32(why.code()), b"");
}

/// The function that returns the most bytes which a frame of a kind may have.
pub(crate) type CapOfKind = Box<dyn Fn(u8) -> usize + Send + Sync>;

/// The connection under a link, and why it ended.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    pub(crate) conn: Connection,
    /// The room in the send queue: closed with the link, so that nobody waits for it.
    pub(crate) room: Arc<Semaphore>,
    /// The handle through which frames are noted, of a link that came in.
    pub(crate) pulse: Option<Pulse>,
    pub(crate) failure: Arc<OnceLock<LinkFailure>>,
}

impl Wire {
    pub(crate) fn hang_up(&self, why: HangUp) {
        self.fail(LinkFailure::ClosedHere);
        close(&self.conn, why);
    }

    /// Returns the way that packets take now, if there is one.
    pub(crate) fn way(&self) -> Option<Way> {
        let paths = self.conn.paths();
        let path = paths.iter().find(|path| path.is_selected())?;
        Some(if path.is_relay() { Way::Relayed } else { Way::Direct })
    }

    /// Returns the reason why the link has ended.
    pub(crate) fn failure(&self) -> LinkFailure {
        match (self.failure.get(), self.conn.close_reason()) {
            (Some(failure), _) => failure.clone(),
            (None, Some(error)) => connection_lost(&error),
            (None, None) => LinkFailure::ClosedHere,
        }
    }

    /// Notes that a frame of `len` bytes has come or gone.
    fn said(&self, len: usize) {
        if let Some(pulse) = &self.pulse {
            pulse.frame(len);
        }
    }

    /// Gives the link up; the first reason stands.
    pub(crate) fn fail(&self, failure: LinkFailure) -> LinkFailure {
        let first = self.failure.get_or_init(|| failure).clone();
        self.room.close();
        // A connection that is already lost keeps its own reason.
        if self.conn.close_reason().is_none() {
            match first {
                LinkFailure::Stalled { .. } => close(&self.conn, HangUp::Stalled),
                LinkFailure::Crowded => close(&self.conn, HangUp::Busy),
                LinkFailure::Oversize { .. } => close(&self.conn, HangUp::Oversize),
                LinkFailure::Truncated { .. } => close(&self.conn, HangUp::BadFrame),
                LinkFailure::ClosedHere => {}
                _ => close(&self.conn, HangUp::Done),
            }
        }
        first
    }
}

/// Takes frames from the queue to the stream.
pub(crate) struct Writer {
    pub(crate) stream: SendStream,
    pub(crate) queued: mpsc::UnboundedReceiver<Queued>,
    pub(crate) wire: Wire,
    pub(crate) cap: usize,
}

impl Writer {
    pub(crate) async fn run(mut self) {
        let (written, done) = self.drain().await;
        let outcome = match written {
            Ok(()) => self.flush().await,
            Err(why) => Err(why),
        };
        let outcome = outcome.map_err(|why| self.wire.fail(why));
        self.wire.room.close();
        if let Some(done) = done {
            // Nobody has to wait for the answer.
            let _ = done.send(outcome);
        }
    }

    /// Writes until the queue ends, somebody asks to finish, or the link ends.
    async fn drain(
        &mut self,
    ) -> (Result<(), LinkFailure>, Option<oneshot::Sender<Result<(), LinkFailure>>>) {
        loop {
            let queued = tokio::select! {
                queued = self.queued.recv() => queued,
                error = self.wire.conn.closed() => return (Err(connection_lost(&error)), None),
            };
            match queued {
                None => return (Ok(()), None),
                Some(Queued::Finish(done)) => return (Ok(()), Some(done)),
                Some(Queued::Frame(frame, _room)) => {
                    if let Err(why) = self.write(frame).await {
                        return (Err(why), None);
                    }
                }
            }
        }
    }

    async fn write(&mut self, frame: Bytes) -> Result<(), LinkFailure> {
        let length = frame::length_field(frame.len(), self.cap)?;
        self.wire.said(frame.len());
        let mut chunks = [Bytes::copy_from_slice(&length), frame];
        let after = limits::FRAME_DEADLINE;
        match timeout(after, self.stream.write_all_chunks(&mut chunks)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(write_failure(error)),
            Err(_elapsed) => Err(LinkFailure::Stalled { after }),
        }
    }

    /// Ends the stream and waits until the peer has all of it.
    async fn flush(&mut self) -> Result<(), LinkFailure> {
        let after = limits::FLUSH_DEADLINE;
        // A stream that is already closed has nothing left to flush.
        let _ = self.stream.finish();
        match timeout(after, self.stream.stopped()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(code))) => Err(LinkFailure::HungUp(HangUp::from_code(code.into_inner()))),
            Ok(Err(_lost)) => Err(self.wire.failure()),
            Err(_elapsed) => Err(LinkFailure::Stalled { after }),
        }
    }
}

/// Puts frames together from the stream.
pub(crate) struct Reader {
    pub(crate) stream: RecvStream,
    pub(crate) assembler: Assembler<CapOfKind>,
    pub(crate) cargo: Cargo,
    /// When the frame that is arriving began.
    pub(crate) begun: Option<Instant>,
    pub(crate) ended: bool,
    pub(crate) wire: Wire,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Reader {
    pub(crate) async fn recv(&mut self) -> Result<Option<Bytes>, LinkFailure> {
        if let Some(failure) = self.wire.failure.get() {
            return Err(failure.clone());
        }
        while !self.ended {
            let Some(piece) = self.read_piece().await? else {
                self.assembler.end().map_err(|why| self.wire.fail(why))?;
                self.ended = true;
                break;
            };
            if self.cargo.add(piece.len()).is_err() {
                return Err(self.wire.fail(LinkFailure::Crowded));
            }
            let frame = self.assembler.push(piece).map_err(|why| self.wire.fail(why))?;
            if !self.assembler.inside_frame() {
                self.begun = None;
            } else if self.begun.is_none() {
                self.begun = Some(Instant::now());
            }
            if let Some(frame) = frame {
                self.wire.said(frame.len());
                return Ok(Some(self.cargo.whole(frame)));
            }
        }
        Ok(None)
    }

    async fn read_piece(&mut self) -> Result<Option<Bytes>, LinkFailure> {
        let piece = self.stream.read_chunk(self.assembler.wanted());
        let piece = match self.begun {
            None => piece.await,
            Some(begun) => {
                let after = limits::FRAME_DEADLINE;
                let failure = tokio::select! {
                    biased;
                    () = self.cargo.given_up() => LinkFailure::Crowded,
                    piece = timeout_at((begun + after).into(), piece) => match piece {
                        Ok(Ok(piece)) => return Ok(piece),
                        Ok(Err(error)) => read_failure(error),
                        Err(_elapsed) => LinkFailure::Stalled { after },
                    },
                };
                return Err(self.wire.fail(failure));
            }
        };
        piece.map_err(|error| self.wire.fail(read_failure(error)))
    }
}

fn read_failure(error: ReadError) -> LinkFailure {
    match error {
        ReadError::ConnectionLost(error) => connection_lost(&error),
        ReadError::Reset(code) => LinkFailure::HungUp(HangUp::from_code(code.into_inner())),
        other => LinkFailure::Network(other.to_string()),
    }
}

fn write_failure(error: WriteError) -> LinkFailure {
    match error {
        WriteError::ConnectionLost(error) => connection_lost(&error),
        WriteError::Stopped(code) => LinkFailure::HungUp(HangUp::from_code(code.into_inner())),
        other => LinkFailure::Network(other.to_string()),
    }
}

fn connection_lost(error: &ConnectionError) -> LinkFailure {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            LinkFailure::HungUp(HangUp::from_code(close.error_code.into_inner()))
        }
        ConnectionError::LocallyClosed => LinkFailure::ClosedHere,
        ConnectionError::TimedOut => LinkFailure::Silent { after: limits::PEER_SILENCE },
        other => LinkFailure::Network(other.to_string()),
    }
}
