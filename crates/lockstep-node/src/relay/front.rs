//! The TCP socket of a relay, in front of the one that the library serves.
//!
//! The library has no limit on connections by where they come from, and a node id costs nothing.
//! Here each connection is counted by its source - an IPv4 address, or the first 64 bits of an IPv6
//! address - for as long as it lasts, before anything is read of it; one that is too many is closed
//! at once. Its bytes, which are encrypted, go to the library's socket on this machine's loopback
//! and come back unchanged. Deadlines for whoever says nothing are the library's: it closes, and
//! then both sides are closed here.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::debug;

use crate::limits;
use crate::transport::Source;

/// The connections of a relay, by where they come from.
#[derive(Clone, Debug, Default)]
struct Sources(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of_source: BTreeMap<Source, usize>,
}

/// The place of one connection, until it is dropped.
#[derive(Debug)]
struct Entry {
    sources: Sources,
    source: Source,
}

impl Sources {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, or says why not.
    fn enter(&self, source: Source) -> Result<Entry, &'static str> {
        let mut counts = self.lock();
        if counts.all >= limits::RELAY_CONNECTIONS {
            return Err("this relay has as many connections as it may");
        }
        let of_source = counts.of_source.entry(source).or_default();
        if *of_source >= limits::RELAY_CONNECTIONS_OF_SOURCE {
            return Err("its address has as many connections to this relay as one may");
        }
        *of_source += 1;
        counts.all += 1;
        drop(counts);
        Ok(Entry { sources: self.clone(), source })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut counts = self.sources.lock();
        counts.all = counts.all.saturating_sub(1);
        if let Some(count) = counts.of_source.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.of_source.remove(&self.source);
            }
        }
    }
}

/// Accepts connections for ever, and hands each that is let in on to the socket at `inner`. All of
/// them end when this is dropped.
pub(super) async fn hand_on(listener: TcpListener, inner: SocketAddr) {
    let sources = Sources::default();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // A connection that broke, or no file left: others may go on.
                debug!(%error, "a connection to the relay could not be accepted");
                sleep(limits::RELAY_PAUSE).await;
                continue;
            }
        };
        match sources.enter(Source::of(Some(from))) {
            Ok(entry) => {
                connections.spawn(async move {
                    let _entry = entry;
                    if let Err(error) = splice(stream, inner).await {
                        debug!(%error, "a connection to the relay broke");
                    }
                });
            }
            Err(why) => debug!(%from, why, "a connection to the relay is closed"),
        }
    }
}

/// Copies the bytes of a connection both ways until either side ends.
async fn splice(mut outer: TcpStream, inner: SocketAddr) -> io::Result<()> {
    let mut inner = TcpStream::connect(inner).await?;
    // Small packets of nodes must not wait for one another.
    outer.set_nodelay(true)?;
    inner.set_nodelay(true)?;
    let (mut from_outer, mut to_outer) = outer.split();
    let (mut from_inner, mut to_inner) = inner.split();
    // Who says nothing more, or takes nothing more, has left: no half of a connection stays.
    tokio::select! {
        copied = tokio::io::copy(&mut from_outer, &mut to_inner) => copied.map(drop),
        copied = tokio::io::copy(&mut from_inner, &mut to_outer) => copied.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::*;

    fn source(ip: impl Into<IpAddr>) -> Source {
        Source::of(Some(SocketAddr::new(ip.into(), 7)))
    }

    #[test]
    fn an_address_has_so_many_connections_and_leaves_the_others_theirs() {
        let sources = Sources::default();
        let (one, two) = (source(Ipv4Addr::new(192, 0, 2, 1)), source(Ipv4Addr::new(192, 0, 2, 2)));
        let enter = |source| sources.enter(source).expect("room");
        let mut of_one: Vec<_> =
            (0..limits::RELAY_CONNECTIONS_OF_SOURCE).map(|_| enter(one)).collect();
        assert!(sources.enter(one).expect_err("one more").contains("its address"));
        drop(enter(two));
        of_one.pop();
        of_one.push(enter(one));
        // A network of IPv6 is one source.
        let of_net = |host| source(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host));
        let net: Vec<_> = (0..limits::RELAY_CONNECTIONS_OF_SOURCE)
            .map(|host| enter(of_net(u16::try_from(host).expect("few"))))
            .collect();
        sources.enter(of_net(999)).expect_err("the network has its share");
        drop((of_one, net));
        assert_eq!(sources.lock().all, 0);
        assert!(sources.lock().of_source.is_empty());
    }

    #[test]
    fn all_addresses_together_have_so_many_connections() {
        let sources = Sources::default();
        let enter = |number: usize| {
            let number = u32::try_from(number).expect("few");
            sources.enter(source(Ipv4Addr::from_bits(number)))
        };
        let all: Vec<_> =
            (0..limits::RELAY_CONNECTIONS).map(|number| enter(number).expect("room")).collect();
        let full = enter(limits::RELAY_CONNECTIONS).expect_err("full");
        assert!(full.contains("as it may"), "{full}");
        drop(all);
        enter(0).expect("room again");
    }
}
