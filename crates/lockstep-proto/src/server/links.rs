//! The links that this server's sessions use, and which of them are silent.

use std::collections::{BTreeMap, VecDeque};

use lockstep_verify::sign::NodeId;

use super::LinkId;
use crate::life::{Life, Watch};
use crate::limits;
use crate::now::Now;

/// The node or client at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Client(LinkId),
    Stage(NodeId),
}

#[derive(Debug)]
struct Link {
    /// The number of sessions that use it.
    sessions: usize,
    life: Life,
}

/// The links that sessions use, with their signs of life.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<End, Link>,
    /// The stages whose last session ended less than [`limits::HANDSHAKE_US`] ago, oldest first, at
    /// most [`limits::ENDED_SESSIONS`].
    left: VecDeque<(Now, End)>,
    now: Now,
    watch: Watch,
}

impl Links {
    /// Notes that one more session uses this link from now on. Its first frame may take as long as
    /// connecting. If another session used it just before, frames of that one are still on their
    /// way, and none of them says that the stage knows of the new session: for the time of a
    /// connecting they shorten nobody's patience.
    pub(super) fn attach(&mut self, end: End, now: Now) {
        let patience_us = match end {
            End::Client(_) => limits::SILENCE_US,
            End::Stage(_) => limits::HANDSHAKE_US,
        };
        let life = Life::new(now, patience_us);
        let was_used = self.left.iter().any(|(_, left)| *left == end);
        let life = if was_used { life.after_another_use() } else { life };
        let link = self.links.entry(end).or_insert(Link { sessions: 0, life });
        link.sessions = link.sessions.saturating_add(1);
    }

    /// Notes that one session less uses this link; without sessions it is forgotten.
    pub(super) fn detach(&mut self, end: End) {
        if let Some(link) = self.links.get_mut(&end) {
            link.sessions = link.sessions.saturating_sub(1);
            if link.sessions == 0 {
                self.links.remove(&end);
                if matches!(end, End::Stage(_)) {
                    self.left.push_back((self.now, end));
                }
                if self.left.len() > limits::ENDED_SESSIONS {
                    self.left.pop_front();
                }
            }
        }
    }

    /// Returns whether a session uses this link.
    pub(super) fn is_used(&self, end: End) -> bool {
        self.links.contains_key(&end)
    }

    /// Notes that a frame came over a link.
    pub(super) fn heard(&mut self, end: End, now: Now) {
        if let Some(link) = self.links.get_mut(&end) {
            link.life.heard(now);
        }
    }

    /// Notes that a frame goes out over a link.
    pub(super) fn spoken(&mut self, end: End, now: Now) {
        if let Some(link) = self.links.get_mut(&end) {
            link.life.spoken(now);
        }
    }

    /// Moves the time to `now`. A pause of this process is held against no link.
    pub(super) fn wake(&mut self, now: Now) {
        self.now = now;
        let is_old = |(left, _): &mut (Now, End)| now.since(*left) >= limits::HANDSHAKE_US;
        while self.left.pop_front_if(is_old).is_some() {}
        let pause = self.watch.pause(now);
        if pause > 0 {
            self.links.values_mut().for_each(|link| link.life.excuse(pause, now));
        }
    }

    /// Returns the ends that have been silent for too long.
    pub(super) fn silent(&self, now: Now) -> Vec<End> {
        let silent = self.links.iter().filter(|(_, link)| link.life.is_silent(now));
        silent.map(|(&end, _)| end).collect()
    }

    /// Returns the ends that have not been spoken to for a heartbeat's time.
    pub(super) fn waiting(&self, now: Now) -> Vec<End> {
        let waiting = self.links.iter().filter(|(_, link)| link.life.wants_heartbeat(now));
        waiting.map(|(&end, _)| end).collect()
    }

    /// Returns the time at which the first link becomes silent or is to be sent a heartbeat.
    pub(super) fn deadline(&self) -> Option<Now> {
        self.links.values().map(|link| link.life.deadline()).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: End = End::Stage(NodeId([1; 32]));

    fn links() -> Links {
        let mut links = Links::default();
        links.wake(Now(0));
        links.attach(PEER, Now(0));
        links
    }

    fn wake_until(links: &mut Links, from: u64, to: u64) {
        for time in (from..=to).step_by(100_000) {
            links.wake(Now(time));
        }
    }

    #[test]
    fn a_peer_has_the_handshakes_time_for_its_first_frame_and_then_two_seconds() {
        let mut links = links();
        wake_until(&mut links, 0, 4_900_000);
        assert_eq!(links.silent(Now(4_999_999)), []);
        links.heard(PEER, Now(4_900_000));
        wake_until(&mut links, 4_900_000, 6_800_000);
        assert_eq!(links.silent(Now(6_899_999)), []);
        assert_eq!(links.silent(Now(6_900_000)), [PEER]);
    }

    /// The stage heard of the new session late, and what came of the one before was no answer.
    #[test]
    fn late_frames_of_a_session_before_do_not_shorten_the_handshake_of_the_next() {
        let mut links = links();
        wake_until(&mut links, 0, 1_000_000);
        links.heard(PEER, Now(1_000_000));
        links.detach(PEER);
        links.attach(PEER, Now(1_000_000));
        links.heard(PEER, Now(1_100_000));
        wake_until(&mut links, 1_000_000, 5_900_000);
        assert_eq!(links.silent(Now(5_999_999)), []);
        assert_eq!(links.silent(Now(6_000_000)), [PEER]);
        // Long after the session before nothing of it is on its way any more.
        links.detach(PEER);
        wake_until(&mut links, 6_000_000, 11_000_000);
        links.attach(PEER, Now(11_000_000));
        links.heard(PEER, Now(11_100_000));
        wake_until(&mut links, 11_000_000, 13_100_000);
        assert_eq!(links.silent(Now(13_099_999)), []);
        assert_eq!(links.silent(Now(13_100_000)), [PEER]);
    }

    #[test]
    fn a_pause_of_this_process_is_not_the_peers_silence() {
        let mut links = links();
        links.heard(PEER, Now(1_000));
        links.wake(Now(60_000_000));
        assert_eq!(links.silent(Now(60_000_000)), []);
        assert_eq!(links.silent(Now(62_000_000)), [PEER]);
    }

    #[test]
    fn a_link_without_sessions_is_forgotten() {
        let mut links = links();
        links.attach(PEER, Now(5));
        links.detach(PEER);
        assert_eq!(links.waiting(Now(500_000)), [PEER]);
        links.detach(PEER);
        assert_eq!(links.deadline(), None);
    }
}
