//! A swarm: servers that know each other, and everything that is decided from what they say.
//!
//! | module | what it has |
//! |---|---|
//! | [`members`] | the newest announcement of each node, for as long as it is true |
//! | [`gossip`] | the machine by which nodes come to know each other's announcements |
//! | [`demand`] | what a client needs of servers, and which servers are left out for it |
//! | [`cost`] | how long a server and a link take, in nanoseconds |
//! | [`route`] | the ring for one stream: the shortest time per token |
//! | [`flow`] | the most tokens per second of all servers together |
//! | [`weighted`] | a ring for each request of many, along the flow |

pub mod cost;
pub mod demand;
pub mod flow;
pub mod gossip;
pub mod members;
mod path;
pub mod route;
pub mod weighted;
