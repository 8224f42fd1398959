//! A swarm: servers that know each other, and everything that is decided from what they say.
//!
//! | module | what it has |
//! |---|---|
//! | [`members`] | the newest announcement of each node, for as long as it is true |
//! | [`trust`] | what this node has seen of others, and what it makes of their claims |
//! | [`trial`] | the ring in which a server is tried before it counts as ready |
//! | [`gossip`] | the machine by which nodes come to know each other's announcements |
//! | `peers` | what each peer of gossip may still cost, and for how long it is left alone |
//! | [`fetch`] | the machine that fetches a model's files from servers that hold them |
//! | [`uploads`] | the machine that gives files to servers that fetch them |
//! | [`demand`] | what a client needs of servers, and which servers are left out for it |
//! | [`cost`] | how long a server and a link take, in nanoseconds |
//! | [`route`] | the ring for one stream: the shortest time per token |
//! | [`flow`] | the most tokens per second of all servers together |
//! | [`weighted`] | a ring for each request of many, along the flow |
//! | [`chooser`] | which ring each request of a client takes, and what a refused one does |
//! | [`place`] | which layers a server should hold, and when it should move |
//! | [`split`] | how layers are split over given machines |
//! | [`plan`] | what a ring is expected to give, and what more machines would |

pub mod chooser;
pub mod cost;
pub mod demand;
mod draws;
pub mod fetch;
pub mod flow;
pub mod gossip;
pub mod members;
mod path;
mod peers;
pub mod place;
pub mod plan;
pub mod route;
pub mod split;
pub mod trial;
pub mod trust;
pub mod uploads;
pub mod weighted;
