//! The arguments of the commands that look at a swarm, its servers, and this machine.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use clap::Args;

use super::{bind, flag};

/// The arguments of `lockstep status`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Status {
    /// Ticket of a server of the swarm; several with commas or white space between them; "lan" for
    /// those on the local network [default: the setting `ticket`]
    #[arg(env = "LOCKSTEP_TICKET")]
    pub ticket: Vec<String>,
    /// Show every server on a line of its own, however many there are
    #[arg(short, long, env = "LOCKSTEP_ALL", value_parser = flag())]
    pub all: bool,
    /// Look again every SECONDS until interrupted, and show what has changed
    #[arg(short, long, env = "LOCKSTEP_WATCH", value_name = "SECONDS")]
    pub watch: Option<NonZeroU32>,
    /// Connect under this machine's own node id, for servers that keep an allow-list [default: a
    /// fresh id each time]
    #[arg(long, env = "LOCKSTEP_AS_NODE", value_parser = flag())]
    pub as_node: bool,
    /// Print one JSON object in place of the table
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep plan`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:\n  \
    lockstep plan TICKET                    what the swarm gives now, and up to 4 machines more\n  \
    lockstep plan TICKET --measure          the same, beside a measured answer of 32 tokens\n  \
    lockstep plan TICKET --add 16 --json    for scripts\n  \
    lockstep plan smollm2 --rtt-ms 10       what machines like this one would give together")]
pub(crate) struct Plan {
    /// Tickets of servers of one swarm; or the name of a model on this machine, for a plan of
    /// machines like this one [default: the setting `ticket`]
    #[arg(value_name = "TICKET|MODEL", env = "LOCKSTEP_TICKET")]
    pub what: Vec<String>,
    /// Number of machines more to plan for
    #[arg(long, env = "LOCKSTEP_ADD", value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=64))]
    pub add: u32,
    /// The server that these machines are like, by its node id [default: one of median speed]
    #[arg(long, env = "LOCKSTEP_LIKE", value_name = "NODE_ID")]
    pub like: Option<String>,
    /// Ask the swarm for a short answer, and show its tokens/s beside the predicted ones
    #[arg(long, env = "LOCKSTEP_MEASURE", value_parser = flag())]
    pub measure: bool,
    /// Milliseconds of a round trip between machines, for a plan of a MODEL [default: 1]
    #[arg(long, env = "LOCKSTEP_RTT_MS", value_name = "MS", value_parser = round_trip)]
    #[arg(allow_negative_numbers = true)]
    pub rtt_ms: Option<f64>,
    /// Connect under this machine's own node id, for servers that keep an allow-list [default: a
    /// fresh id each time]
    #[arg(long, env = "LOCKSTEP_AS_NODE", value_parser = flag())]
    pub as_node: bool,
    /// End standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// Parses the milliseconds of a round trip, or says what was expected.
fn round_trip(text: &str) -> Result<f64, String> {
    let ms = text.parse().ok().filter(|ms: &f64| (0.0..=60_000.0).contains(ms));
    ms.ok_or_else(|| "expected milliseconds from 0 to 60000, such as 0.2 or 25".to_owned())
}

/// The arguments of `lockstep nodes`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Nodes {
    /// Show only the nodes that are banned because an audit convicted them
    #[arg(long, env = "LOCKSTEP_BANNED", value_parser = flag())]
    pub banned: bool,
    /// Forget what is remembered of this node, which lifts its ban too; may be repeated
    #[arg(long, env = "LOCKSTEP_FORGET", value_delimiter = ',', value_name = "NODE_ID")]
    pub forget: Vec<String>,
    /// Print one JSON object in place of the list
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep doctor`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Doctor {
    /// Tickets of servers to reach: says how far each is, and whether the clocks agree [default:
    /// the setting `ticket`]
    #[arg(env = "LOCKSTEP_TICKET")]
    pub ticket: Vec<String>,
    /// Address at which a server on this machine is to listen, such as 0.0.0.0:4848: says whether
    /// it can [default: the setting `bind`]
    #[arg(long, env = "LOCKSTEP_BIND", value_delimiter = ',', value_parser = bind)]
    pub bind: Vec<SocketAddr>,
    /// Connect under this machine's own node id, for servers that keep an allow-list [default: a
    /// fresh id each time]
    #[arg(long, env = "LOCKSTEP_AS_NODE", value_parser = flag())]
    pub as_node: bool,
    /// Read all bytes of all models, and say which are damaged
    #[arg(long, env = "LOCKSTEP_DEEP", value_parser = flag())]
    pub deep: bool,
    /// Print one JSON object in place of the table
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}
