//! Links to servers that a client keeps between requests, so that a request does not cost a dial.
//!
//! [`Links::take`] gives a link that was kept, or dials; [`Links::keep`] gives one back on which
//! nothing is under way. A kept link is watched: when its other end closes it, dies, or says
//! something that nobody asked for, it is dropped, and the next [`Links::take`] dials anew. It is
//! closed after [`limits::KEPT_LINK_IDLE`], and for a newer one beyond [`limits::KEPT_LINKS`] of
//! all and [`limits::KEPT_LINKS_OF_PEER`] of one server.
//!
//! Invariant: a link is lent to one caller at a time, so that no frame of one request is heard in
//! another.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstep_verify::sign::NodeId;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::limits;
use crate::transport::{Class, ConnectError, Endpoint, Link, PeerAddr};

/// Control links of one endpoint, kept between requests. Clones share them.
#[derive(Clone, Debug)]
pub struct Links {
    endpoint: Arc<Endpoint>,
    kept: Arc<Mutex<Vec<Kept>>>,
}

/// A link that nobody uses; its task ends, and the link with it, when this is dropped.
#[derive(Debug)]
struct Kept {
    peer: NodeId,
    /// Asks the task that watches the link to hand it over.
    lend: oneshot::Sender<oneshot::Sender<Link>>,
}

/// A link that was taken out of the kept ones, or dialled.
#[derive(Debug)]
pub struct Taken {
    /// The link, for the caller alone.
    pub link: Link,
    /// Whether it was kept from an earlier request. Its other end may have closed it at this very
    /// moment, so whoever hears nothing on it asks again over a link that is dialled.
    pub is_kept: bool,
}

impl Links {
    /// Starts without any kept links; new ones are dialled through `endpoint`.
    #[must_use]
    pub fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, kept: Arc::default() }
    }

    /// Returns the endpoint through which links are dialled.
    #[must_use]
    pub const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Returns the newest link that is kept to a server, or a new one.
    ///
    /// # Errors
    /// [`ConnectError`], as [`Endpoint::connect`].
    pub async fn take(&self, peer: &PeerAddr) -> Result<Taken, ConnectError> {
        while let Some(kept) = self.newest_to(peer.id) {
            let (give, given) = oneshot::channel();
            if kept.lend.send(give).is_ok()
                && let Ok(link) = given.await
            {
                return Ok(Taken { link, is_kept: true });
            }
        }
        Ok(Taken { link: self.dial(peer).await?, is_kept: false })
    }

    /// Returns a new link to a server, whatever is kept.
    ///
    /// # Errors
    /// [`ConnectError`], as [`Endpoint::connect`].
    pub async fn dial(&self, peer: &PeerAddr) -> Result<Link, ConnectError> {
        self.endpoint.connect(peer, Class::Control).await
    }

    /// Keeps a link on which nothing is under way. To be called inside a runtime of tokio.
    pub fn keep(&self, link: Link) {
        let (lend, lent) = oneshot::channel();
        let peer = link.peer;
        tokio::spawn(watch(link, lent));
        let mut kept = self.lock();
        kept.retain(|kept| !kept.lend.is_closed());
        let of_peer = kept.iter().filter(|kept| kept.peer == peer).count();
        let is_too_many = of_peer >= limits::KEPT_LINKS_OF_PEER;
        let goes = |kept: &Kept| !is_too_many || kept.peer == peer;
        if (is_too_many || kept.len() >= limits::KEPT_LINKS)
            && let Some(oldest) = kept.iter().position(goes)
        {
            kept.remove(oldest);
        }
        kept.push(Kept { peer, lend });
    }

    /// Closes the endpoint, and with it all links.
    pub async fn close(&self) {
        drop(mem::take(&mut *self.lock()));
        self.endpoint.close().await;
    }

    fn newest_to(&self, peer: NodeId) -> Option<Kept> {
        let mut kept = self.lock();
        let newest = kept.iter().rposition(|kept| kept.peer == peer)?;
        Some(kept.remove(newest))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches a link until it is lent, ends, or was kept for too long.
async fn watch(mut link: Link, lent: oneshot::Receiver<oneshot::Sender<Link>>) {
    let give = tokio::select! {
        biased;
        // Whatever comes was not asked for: what is left of an earlier request, or the end.
        _ = link.receiver.recv() => return,
        give = lent => give,
        () = sleep(limits::KEPT_LINK_IDLE) => return,
    };
    if let Ok(give) = give {
        // Whoever wanted it may not wait any more: then it ends.
        give.send(link).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::transport::memory::Network;
    use crate::transport::{AllowList, HangUp};

    fn node(number: u8) -> NodeId {
        NodeId([number; 32])
    }

    fn at(number: u8) -> PeerAddr {
        PeerAddr { id: node(number), addrs: Vec::new() }
    }

    fn client(network: &Network) -> Links {
        Links::new(Arc::new(network.endpoint(node(0), AllowList::Anyone)))
    }

    /// Lets every task run that can.
    async fn settle() {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    /// What the other ends of links have heard: how many links were dialled, and which ended.
    async fn accepted(server: &Endpoint, count: usize) -> Vec<Link> {
        let mut links = Vec::new();
        for _ in 0..count {
            links.push(server.accept().await.expect("a link"));
        }
        links
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_was_given_back_is_taken_again_and_lent_to_one_at_a_time() {
        let network = Network::new();
        let server = network.endpoint(node(1), AllowList::Anyone);
        let links = client(&network);
        let first = links.take(&at(1)).await.expect("dialled");
        assert!(!first.is_kept);
        links.keep(first.link);
        let again = links.take(&at(1)).await.expect("kept");
        assert!(again.is_kept);
        let other = links.take(&at(1)).await.expect("dialled, for the first is lent");
        assert!(!other.is_kept);
        let mut heard = accepted(&server, 2).await;
        again.link.sender.post(vec![7, 7]).expect("open");
        let frame = heard[0].receiver.recv().await.expect("open").expect("a frame");
        assert_eq!(frame.as_ref(), [7, 7], "it is the first link that was dialled");
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_nobody_takes_is_closed_when_its_time_is_over() {
        let network = Network::new();
        let server = network.endpoint(node(1), AllowList::Anyone);
        let links = client(&network);
        links.keep(links.take(&at(1)).await.expect("dialled").link);
        let mut heard = accepted(&server, 1).await;
        settle().await;
        advance(limits::KEPT_LINK_IDLE / 2).await;
        let taken = links.take(&at(1)).await.expect("kept");
        assert!(taken.is_kept, "half of the time is not over");
        links.keep(taken.link);
        settle().await;
        advance(limits::KEPT_LINK_IDLE - Duration::from_millis(2)).await;
        settle().await;
        // Not by waiting for its end: a paused clock runs on to whatever is waited for.
        assert!(!links.lock()[0].lend.is_closed(), "its time is not over");
        advance(Duration::from_millis(4)).await;
        settle().await;
        assert!(links.lock()[0].lend.is_closed(), "its time is over");
        assert!(matches!(heard[0].receiver.recv().await, Ok(None) | Err(_)), "closed");
        assert!(!links.take(&at(1)).await.expect("dialled").is_kept);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_its_other_end_closed_or_spoke_on_is_not_lent_again() {
        let network = Network::new();
        let server = network.endpoint(node(1), AllowList::Anyone);
        let links = client(&network);
        for speaks in [false, true] {
            links.keep(links.take(&at(1)).await.expect("dialled").link);
            let there = server.accept().await.expect("a link");
            match speaks {
                true => there.sender.post(vec![1, 2]).expect("open"),
                false => there.sender.hang_up(HangUp::Busy),
            }
            settle().await;
            let taken = links.take(&at(1)).await.expect("dialled");
            assert!(!taken.is_kept, "{speaks}");
            drop((taken, there));
            server.accept().await.expect("the new link");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_links_are_kept_than_the_limits_say_and_the_oldest_go() {
        let network = Network::new();
        let links = client(&network);
        let one = network.endpoint(node(1), AllowList::Anyone);
        let mut taken = Vec::new();
        for _ in 0..=limits::KEPT_LINKS_OF_PEER {
            taken.push(links.take(&at(1)).await.expect("dialled").link);
        }
        taken.drain(..).for_each(|link| links.keep(link));
        let mut heard = accepted(&one, limits::KEPT_LINKS_OF_PEER + 1).await;
        settle().await;
        assert!(matches!(heard[0].receiver.recv().await, Ok(None) | Err(_)), "the oldest ended");
        assert_eq!(links.lock().len(), limits::KEPT_LINKS_OF_PEER);
        // Of many servers together.
        let most = u8::try_from(limits::KEPT_LINKS).expect("few") + 2;
        let mut servers = Vec::new();
        for number in 2..most {
            servers.push(network.endpoint(node(number), AllowList::Anyone));
            links.keep(links.take(&at(number)).await.expect("dialled").link);
        }
        assert_eq!(links.lock().len(), limits::KEPT_LINKS);
        assert!(!links.take(&at(1)).await.expect("dialled").is_kept, "the oldest went for others");
    }
}
