//! A server of this process is tried: a token crosses a ring with it.

use std::sync::Arc;
use std::time::Duration;

use lockstep_node::driver::{self, Links, Node};
use lockstep_node::transport::{
    AllowList, BindError, Endpoint, Identity, Listen, NodeId, PeerAddr,
};
use lockstep_proto::announcement::{Announcement, Status};
use lockstep_proto::swarm::trial::ring_through;
use tokio::time::timeout;

use crate::own::OwnSecret;
use crate::random::NoRandomness;
use crate::request::{Parameters, RequestError};
use crate::ring::{AskError, BrokenOff, Ring, Served};

/// Time for one trial.
const DEADLINE: Duration = Duration::from_secs(30);

/// The reasons why no token has crossed a ring.
#[derive(Debug, thiserror::Error)]
pub enum NotTried {
    /// The swarm does not hold the other layers.
    #[error("nobody holds the other layers yet")]
    NoRing,
    /// No socket could be opened to ask this server itself.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system gave no random bytes.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The model takes no prompt of one token.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The ring could not be asked.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The token did not come: a server of the ring was lost or refused.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
    /// The answer took too long.
    #[error("no token crossed a ring in {} s", DEADLINE.as_secs())]
    TooLate,
}

/// Has one token cross a ring over the whole span of this node's own server, of which `own` is the
/// status and `peer` the address, and which `allow` lets others in. The other servers are those of
/// the swarm, ready or joining.
///
/// # Errors
/// [`NotTried`].
pub async fn cross_a_ring(
    node: &Node,
    (own, peer, allow): (&Status, &PeerAddr, &AllowList),
    served: Served,
    swarm: &[Arc<Announcement>],
) -> Result<(), NotTried> {
    let others: Vec<Status> = swarm.iter().map(|one| one.status.clone()).collect();
    let layers = served.manifest.layer_count();
    let route = ring_through(own, &others, layers).ok_or(NotTried::NoRing)?;
    let places = swarm.iter().map(|one| driver::peer_of(one.status.node, &one.address));
    let peers = places.chain([peer.clone()]).map(|peer| (peer.id, peer)).collect();
    let question = Parameters { max_tokens: 1, ignore_end: true, ..Parameters::default() }
        .question(vec![0], &served.manifest)?;
    let is_own = route.first().is_some_and(|hop| hop.node == own.node);
    let links = match is_own {
        true => Links::new(Arc::new(visitor(node, peer, allow).await?)),
        false => node.links().clone(),
    };
    let ring = Ring::along(served, links.clone(), peers, route);
    let asking = async {
        let answering = ring.ask(question, &OwnSecret::draw()?, None)?;
        answering.finish().await?;
        Ok(())
    };
    let crossed = timeout(DEADLINE, asking).await.unwrap_or(Err(NotTried::TooLate));
    if is_own {
        links.close().await;
        node.links().endpoint().set_allow(allow.clone());
    }
    crossed
}

/// Returns an endpoint from which this node's own server can be asked: no endpoint dials itself.
/// An allow-list lets it in meanwhile.
async fn visitor(node: &Node, peer: &PeerAddr, allow: &AllowList) -> Result<Endpoint, BindError> {
    let identity = Identity::generate();
    if let AllowList::Only(nodes) = allow {
        let with_visitor = nodes.iter().copied().chain([identity.id()]);
        let with_visitor: std::collections::BTreeSet<NodeId> = with_visitor.collect();
        node.links().endpoint().set_allow(AllowList::Only(with_visitor));
    }
    let nobody = AllowList::Only([].into());
    Endpoint::bind(&identity, Listen::to_reach(&peer.addrs), nobody).await
}
