//! A swarm: servers that know each other, and everything that is decided from what they say.
//!
//! | module | what it has |
//! |---|---|
//! | [`members`] | the newest announcement of each node, for as long as it is true |
//! | [`gossip`] | the machine by which nodes come to know each other's announcements |

pub mod gossip;
pub mod members;
