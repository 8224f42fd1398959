//! Thirteen ways to misbehave, each in a task of its own until it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use iroh::endpoint::presets;
use iroh::{EndpointAddr, RelayMode, TransportAddr};
use lockstep_exact::bytes::Canonical as _;
use lockstep_node::driver::{self, Clock, Links};
use lockstep_node::transport::{Address, Class, Endpoint, Link, PeerAddr};
use lockstep_proto::client::Output;
use lockstep_proto::frame::{RingFrame, ToServer};
use lockstep_proto::limits as protocol;
use lockstep_testing::hash_model::LAYERS;
use lockstep_verify::challenge::{Challenge, Target};
use lockstep_verify::sign::{Keypair, Signature};
use tokio::task::JoinHandle;

use super::town::{Town, endpoint, lease_frame, pause, random_key};

/// Attacks under way.
pub(crate) struct Attacks(Vec<(&'static str, Arc<AtomicUsize>, JoinHandle<()>)>);

impl Attacks {
    /// Ends them; says how often each did what it does.
    pub(crate) async fn stop(self) -> Vec<(&'static str, usize)> {
        let mut done = Vec::new();
        for (name, count, task) in self.0 {
            task.abort();
            task.await.ok();
            done.push((name, count.load(Ordering::Relaxed)));
        }
        done
    }
}

/// A peer that speaks QUIC and nothing of the rest.
pub(crate) async fn raw_endpoint() -> iroh::Endpoint {
    iroh::Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .expect("an address")
        .bind()
        .await
        .expect("loopback")
}

pub(crate) fn raw_addr(peer: &PeerAddr) -> EndpointAddr {
    let id = iroh::PublicKey::from_bytes(&peer.id.0).expect("a key");
    EndpointAddr::from_parts(
        id,
        peer.addrs.iter().filter_map(Address::socket).map(TransportAddr::Ip),
    )
}

/// What an attack does once; `Err` makes it start over with a new connection.
type Deed = Result<(), ()>;

/// What an attacker has: one node id, and connections to both servers.
struct Attacker {
    town: Town,
    endpoint: Arc<Endpoint>,
    victims: String,
}

impl Attacker {
    async fn link(&self, server: usize, class: Class) -> Result<Link, ()> {
        self.endpoint.connect(&self.town.peer(server), class).await.map_err(drop)
    }

    /// The frame that opens a session of so many tokens.
    fn open(&self, session: &Keypair, prompt: u32, tokens: u32) -> Vec<u8> {
        let mut machine = self.town.client(session, prompt, tokens);
        match machine.poll() {
            Some(Output::Send(wire)) => wire[protocol::LENGTH_BYTES..].to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn lease(&self) -> Vec<u8> {
        let lease = self.town.lease(self.endpoint.id(), random_key().id(), &self.victims);
        lease_frame(lease).to_bytes()
    }

    async fn leases_that_never_begin(&self) -> Deed {
        let link = self.link(1, Class::Ring).await?;
        for _ in 0..64 {
            let lease = self.town.lease(self.endpoint.id(), random_key().id(), "");
            let frame = lease_frame(lease).to_bytes();
            link.sender.post(frame).map_err(drop)?;
        }
        for _ in 0..4 {
            pause(Duration::from_millis(400)).await;
            link.sender.post(RingFrame::Heartbeat.to_bytes()).map_err(drop)?;
        }
        Ok(())
    }

    async fn silent_connections(&self) -> Deed {
        let raw = raw_endpoint().await;
        let mut silent = Vec::new();
        for _ in 0..100 {
            let to = raw_addr(&self.town.peer(0));
            silent.push(raw.connect(to, Class::Control.alpn()).await.map_err(drop)?);
        }
        pause(Duration::from_secs(1)).await;
        Ok(())
    }

    async fn unfinished_frames(&self) -> Deed {
        let raw = raw_endpoint().await;
        let mut held = Vec::new();
        for _ in 0..24 {
            let to = raw_addr(&self.town.peer(0));
            let conn = raw.connect(to, Class::Control.alpn()).await.map_err(drop)?;
            let (mut send, recv) = conn.open_bi().await.map_err(drop)?;
            send.write_all(b"LKS0").await.map_err(drop)?;
            let announced = u32::try_from(protocol::TO_SERVER_BYTES).map_err(drop)?;
            send.write_all(&announced.to_le_bytes()).await.map_err(drop)?;
            // A request, all of it but its end.
            send.write_all(&vec![1; 1 << 20]).await.map_err(drop)?;
            held.push((conn, send, recv));
        }
        pause(Duration::from_secs(1)).await;
        Ok(())
    }

    /// An answer of its own, and the challenges that it poses for it.
    async fn challenges(&self, targets: Vec<Target>) -> Deed {
        let session = random_key();
        let machine = self.town.client(&session, 300, 1);
        let links = Links::new(Arc::clone(&self.endpoint));
        let asking = driver::ask(&links, &self.town.peer(0), Clock::start(), machine);
        let receipt = asking.finish().await.map_err(drop)?;
        let link = self.link(0, Class::Control).await?;
        for target in targets {
            let challenge = Challenge {
                session: receipt.request.session(),
                run: receipt.segments.first().ok_or(())?.run().id(),
                receipt: receipt.digest(),
                target,
                signature: Signature::NONE,
            };
            let frame = ToServer::Challenge(Box::new(challenge.signed(&session))).to_bytes();
            link.sender.post(frame).map_err(drop)?;
        }
        pause(Duration::from_millis(200)).await;
        Ok(())
    }

    async fn huge_challenges(&self) -> Deed {
        let all: Vec<u32> = (0..300).collect();
        let layer = |number: u32| Target::Layer {
            layer: number % LAYERS,
            first: 0,
            end: 300,
            positions: all.clone(),
        };
        let mut targets: Vec<Target> = (0..60).map(layer).collect();
        targets.push(Target::Head { positions: (0..4096).collect() });
        self.challenges(targets).await
    }

    async fn challenge_floods(&self) -> Deed {
        let one = |number: u32| {
            let position = number % 300;
            Target::Layer { layer: 0, first: 0, end: position + 1, positions: vec![position] }
        };
        self.challenges((0..5000).map(one).collect()).await
    }

    async fn session_floods(&self) -> Deed {
        let link = self.link(0, Class::Control).await?;
        for _ in 0..64 {
            link.sender.post(self.open(&random_key(), 3, 1)).map_err(drop)?;
        }
        pause(Duration::from_millis(200)).await;
        Ok(())
    }

    async fn reconnect_storms(&self) -> Deed {
        for class in Class::ALL {
            drop(self.link(0, class).await?);
            drop(self.link(1, class).await?);
        }
        Ok(())
    }

    async fn slow_readers(&self) -> Deed {
        let raw = raw_endpoint().await;
        let to = raw_addr(&self.town.peer(0));
        let conn = raw.connect(to, Class::Control.alpn()).await.map_err(drop)?;
        let (mut send, recv) = conn.open_bi().await.map_err(drop)?;
        send.write_all(b"LKS0").await.map_err(drop)?;
        let open = self.open(&random_key(), 5, 500);
        let len = u32::try_from(open.len()).map_err(drop)?;
        send.write_all(&len.to_le_bytes()).await.map_err(drop)?;
        send.write_all(&open).await.map_err(drop)?;
        for _ in 0..4 {
            pause(Duration::from_millis(400)).await;
            send.write_all(&[1, 0, 0, 0, 3]).await.map_err(drop)?;
        }
        drop(recv);
        Ok(())
    }

    async fn garbage(&self) -> Deed {
        for server in 0..2 {
            let control = self.link(server, Class::Control).await?;
            control.sender.post(vec![4; 3000]).map_err(drop)?;
            let ring = self.link(server, Class::Ring).await?;
            ring.sender.post(vec![1; 5000]).map_err(drop)?;
            pause(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn duplicate_sessions(&self) -> Deed {
        let link = self.link(0, Class::Control).await?;
        let open = self.open(&random_key(), 9, 2);
        for _ in 0..100 {
            link.sender.post(open.clone()).map_err(drop)?;
        }
        pause(Duration::from_millis(100)).await;
        Ok(())
    }

    async fn reflection_leases(&self) -> Deed {
        let link = self.link(1, Class::Ring).await?;
        for _ in 0..40 {
            link.sender.post(self.lease()).map_err(drop)?;
        }
        pause(Duration::from_millis(300)).await;
        Ok(())
    }

    async fn heartbeats_only(&self) -> Deed {
        let mut links = Vec::new();
        for _ in 0..8 {
            links.push(self.link(0, Class::Control).await?);
        }
        for _ in 0..10 {
            for link in &links {
                link.sender.post(ToServer::Heartbeat.to_bytes()).map_err(drop)?;
            }
            pause(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn cancel_storms(&self) -> Deed {
        let link = self.link(0, Class::Control).await?;
        for _ in 0..50 {
            let session = random_key();
            let client = self.town.client(&session, 100, 100);
            link.sender.post(self.open(&session, 100, 100)).map_err(drop)?;
            link.sender.post(ToServer::Cancel(client.session()).to_bytes()).map_err(drop)?;
        }
        pause(Duration::from_millis(50)).await;
        Ok(())
    }
}

/// Starts an attack that is repeated until it is stopped.
macro_rules! attack {
    ($town:expr, $victims:expr, $name:ident) => {{
        let (town, victims) = ($town.clone(), $victims.to_owned());
        let count = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            let attacker = Attacker { town, endpoint: endpoint().await, victims };
            loop {
                counted.fetch_add(1, Ordering::Relaxed);
                if attacker.$name().await.is_err() {
                    pause(Duration::from_millis(20)).await;
                }
            }
        });
        (stringify!($name), count, task)
    }};
}

/// Starts all attacks.
pub(crate) fn all(town: &Town, victims: &str) -> Attacks {
    Attacks(vec![
        attack!(town, victims, leases_that_never_begin),
        attack!(town, victims, silent_connections),
        attack!(town, victims, unfinished_frames),
        attack!(town, victims, huge_challenges),
        attack!(town, victims, challenge_floods),
        attack!(town, victims, session_floods),
        attack!(town, victims, reconnect_storms),
        attack!(town, victims, slow_readers),
        attack!(town, victims, garbage),
        attack!(town, victims, duplicate_sessions),
        attack!(town, victims, reflection_leases),
        attack!(town, victims, heartbeats_only),
        attack!(town, victims, cancel_storms),
    ])
}
