//! Figures of the machines of a node: whoever looks asks, and the loop in which a machine runs
//! answers between two inputs. Nothing is counted here.

use std::sync::{Arc, Mutex, PoisonError};

use lockstep_proto::{server, swarm::gossip};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::limits;

/// The figures of a node at one moment.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// The figures of the server; none if no server serves here now.
    pub server: Option<server::Figures>,
    /// The figures of the node's part in a swarm; none if it has none.
    pub swarm: Option<SwarmFigures>,
}

/// The figures of a node's part in a swarm: what it has counted, and how large the swarm is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SwarmFigures {
    /// The counters of the machine of gossip.
    pub counters: gossip::Counters,
    /// The number of other nodes that are known.
    pub members: usize,
}

/// Asks the loops of a node for their figures.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    pub(crate) server: Slot<server::Figures>,
    pub(crate) swarm: Slot<SwarmFigures>,
}

impl Observer {
    /// Returns the figures of the node now. A loop that does not answer within
    /// [`limits::FIGURES_DEADLINE`] has none.
    pub async fn figures(&self) -> Figures {
        let (server, swarm) = tokio::join!(self.server.ask(), self.swarm.ask());
        Figures { server, swarm }
    }
}

/// A question for figures, which holds the way for the answer.
pub(crate) type Question<T> = oneshot::Sender<T>;

/// The sender of questions for the figures of one loop; none if the loop does not run.
#[derive(Debug)]
pub(crate) struct Slot<T>(Arc<Mutex<Option<mpsc::Sender<Question<T>>>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Slot<T> {
    /// Returns the receiver of the questions that are asked from now on.
    pub(crate) fn open(&self) -> mpsc::Receiver<Question<T>> {
        let (asks, asked) = mpsc::channel(limits::FIGURES_ASKED);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asks);
        asked
    }

    async fn ask(&self) -> Option<T> {
        let asks = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let (question, answer) = oneshot::channel();
        asks.try_send(question).ok()?;
        timeout(limits::FIGURES_DEADLINE, answer).await.ok()?.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_loop_that_is_not_there_stuck_or_has_too_many_questions() {
        let slot: Slot<u32> = Slot::default();
        assert_eq!(slot.ask().await, None, "nothing runs");
        let mut asked = slot.open();
        let answering = tokio::spawn(async move {
            asked.recv().await.expect("a question").send(7).expect("it waits");
            asked
        });
        assert_eq!(slot.ask().await, Some(7));
        let asked = answering.await.expect("no panic");
        for _ in 0..limits::FIGURES_ASKED + 1 {
            assert_eq!(slot.ask().await, None, "it answers nobody");
        }
        drop(asked);
        assert_eq!(slot.ask().await, None, "it has ended");
    }
}
