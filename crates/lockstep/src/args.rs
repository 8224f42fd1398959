//! The command line: every flag has an environment twin `LOCKSTEP_*`, shown by `--help`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::{BoolishValueParser, RangedU64ValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use lockstep_exact::matrix::Codec;
use lockstep_node::config::LogFormat;
use lockstep_node::metrics;
use lockstep_node::transport::{Advertised, NodeId, Relay, parse_node_id};
use lockstep_proto::fair::Weight;

mod observing;

pub(crate) use observing::{Doctor, Nodes, Plan, Status};

use crate::chat_format::FormatArgs;
use crate::device::Wanted;
use crate::hours::Hours;

/// The help text of the argument of commands that can work with any model.
const MODEL: &str = "Model name, package id, GGUF file or safetensors folder, hf:ORG/REPO or \
                     hf:ORG/REPO:NAME";
/// The help text of the flag that says how a model's layers are stored.
const WEIGHTS: &str = "How its layers' weights are stored: w8, or w4 for about half the memory \
                       (embedding, head, queries, keys and values, and routers stay w8)";

/// Parses a number of things that may be 0, or says what was expected.
fn count(text: &str) -> Result<u32, String> {
    let expected = |_| "expected a whole number, 0 or more".to_owned();
    text.parse().map_err(expected)
}

/// Parses a number of servers, at least 1, or says what was expected.
fn servers(text: &str) -> Result<u32, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| "expected a whole number, 1 or more".to_owned())
}

/// Parses a seed, or says what was expected.
fn seed(text: &str) -> Result<u64, String> {
    let expected =
        |_| "expected a whole number, 0 or more; without --seed one is drawn anew".to_owned();
    text.parse().map_err(expected)
}

/// Parses the weight of a client, or says what was expected.
fn weight(text: &str) -> Result<(NodeId, Weight), String> {
    let expected = || {
        "expected a node id, as `lockstep id` prints it, and a weight from 1 to 16: NODE_ID=N"
            .to_owned()
    };
    let (node, weight) = text.split_once('=').ok_or_else(expected)?;
    let node = parse_node_id(node.trim()).map_err(|error| format!("{}: {error}", expected()))?;
    let weight = weight.trim().parse().ok().and_then(Weight::new);
    Ok((node, weight.ok_or_else(expected)?))
}

/// Parses an address to listen on, or says what was expected.
fn bind(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "expected a socket address: an IP address with a port, such as 0.0.0.0:4848 or [::]:4848 \
         (port 0 lets the system choose)"
            .to_owned()
    })
}

/// Returns the parser of a flag's environment variable: yes and no in the usual words, `1` and `0`
/// among them.
fn flag() -> BoolishValueParser {
    BoolishValueParser::new()
}

/// Verifiable distributed LLM inference: a model's layers split over many machines, and proof that
/// each of them computed honestly.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, arg_required_else_help = true, propagate_version = true)]
#[command(
    after_help = "Start here:  lockstep up smollm2 --prompt \"What is the capital of France?\"\n\n\
                  Exit codes: 0 done, and verified if servers answered; 1 error; 2 usage; 3 an \
                  audit failed; 4 not checked though audits are on; 5 a server withheld what \
                  it had promised to open"
)]
pub(crate) struct Cli {
    /// Folder in which models, keys and receipts are kept [default: the XDG data folder]
    #[arg(long, global = true, env = "LOCKSTEP_HOME", value_name = "DIR", hide_env_values = true)]
    pub home: Option<PathBuf>,
    /// Show times and rates after an answer, and more detail about what the program does (never
    /// prompts or answers); repeat for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count, env = "LOCKSTEP_VERBOSE")]
    pub verbose: u8,
    /// Format of the log on standard error: text, or json for one JSON object on each line
    /// [default: text]
    #[arg(long, global = true, env = "LOCKSTEP_LOG", value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// Which events are logged: off, error, warn, info, debug or trace, or a filter such as
    /// lockstep_node=debug; -v takes precedence [default: warn]
    #[arg(long, global = true, env = "LOCKSTEP_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// The command to run, with its arguments.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands of the program, each with its arguments.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start servers on this machine, answer a prompt (or chat) through them, and verify it
    Up(Up),
    /// Serve a span of a model's layers to others
    Serve(Serve),
    /// Hand on the traffic of servers that nobody can reach from outside
    Relay(Relaying),
    /// Chat through servers that are running already, and verify what they answer
    Chat(Chat),
    /// Chat with a model on this machine, or answer a prompt; downloads the model if need be
    Run(Run),
    /// Generate text in this process alone, without servers
    Generate(Generate),
    /// Turn a GGUF file or a safetensors folder into a content-addressed package
    Import(Import),
    /// Download and import a model: "smollm2", hf:ORG/REPO or hf:ORG/REPO:NAME
    Pull(Pull),
    /// List the models on this machine
    #[command(visible_alias = "ls")]
    List(List),
    /// Show a model's manifest: sizes, layers, licence, blobs
    Show(Show),
    /// Remove a model and the blobs that no other model uses
    #[command(aliases = ["delete", "remove"])]
    Rm(Rm),
    /// Make the secret key with which this machine verifies a model's answers
    Key(Key),
    /// Check a receipt bundle, offline: who computed what, and how surely
    Verify(Verify),
    /// List the receipts that were kept, with their sizes, or remove some
    Receipts(Receipts),
    /// Show this home's node id, for the allow-list of whoever runs a server
    Id(Id),
    /// Show the servers of a swarm: who holds what, how fast and how busy they are
    Status(Status),
    /// Predict what a swarm gives, measure it, and see what more machines would give
    Plan(Plan),
    /// Show how servers answered this machine's audits, and which of them it avoids
    Nodes(Nodes),
    /// Measure speed: prefill, decode, and the share of commitments, signatures and audits
    Bench(Bench),
    /// Measure quality: against reference log-probabilities, or perplexity and KL on a text
    Quality(Quality),
    /// Check this machine: processor, memory, disk, network, permissions
    Doctor(Doctor),
    /// Print a shell completion script
    Completions(Completions),
}

impl Command {
    /// Returns whether the last line of standard output is to be one JSON object.
    pub(crate) const fn is_json(&self) -> bool {
        match self {
            Self::Up(args) => args.checking.json,
            Self::Serve(args) => args.json,
            Self::Chat(args) => args.checking.json,
            Self::Run(args) => args.checking.json,
            Self::Generate(args) => args.json,
            Self::Import(args) => args.json,
            Self::Pull(args) => args.json,
            Self::List(args) => args.json,
            Self::Show(args) => args.json,
            Self::Key(args) => args.json,
            Self::Verify(args) => args.json,
            Self::Receipts(args) => args.json,
            Self::Id(args) => args.json,
            Self::Relay(args) => args.json,
            Self::Nodes(args) => args.json,
            Self::Status(args) => args.json,
            Self::Plan(args) => args.json,
            Self::Bench(args) => args.json,
            Self::Quality(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Rm(_) | Self::Completions(_) => false,
        }
    }
}

/// The arguments that say how an answer is made.
#[derive(Clone, Debug, Args)]
pub(crate) struct Asking {
    /// The user's message, or - to read it from standard input; without it, an interactive chat
    /// opens
    #[arg(short, long, env = "LOCKSTEP_PROMPT", hide_env_values = true)]
    pub prompt: Option<String>,
    /// A file with the user's message, or - for standard input; a line break at its end is left out
    #[arg(short = 'f', long, env = "LOCKSTEP_PROMPT_FILE", value_name = "FILE")]
    #[arg(conflicts_with = "prompt")]
    pub prompt_file: Option<PathBuf>,
    /// System message in place of the model's own
    #[arg(long, env = "LOCKSTEP_SYSTEM", hide_env_values = true, conflicts_with = "raw")]
    pub system: Option<String>,
    /// Feed the prompt as it is, without a chat template: text that spells a control token is read
    /// as that token
    #[arg(long, env = "LOCKSTEP_RAW", value_parser = flag())]
    pub raw: bool,
    /// Most tokens of the answer; -1 for as many as the context has room for
    #[arg(short = 'n', long, env = "LOCKSTEP_MAX_TOKENS", default_value = "256")]
    #[arg(value_parser = max_tokens, allow_negative_numbers = true)]
    pub max_tokens: u32,
    #[command(flatten)]
    pub format: FormatArgs,
    #[command(flatten)]
    pub sampling: SamplingArgs,
}

/// The arguments that say how tokens are chosen.
#[derive(Clone, Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Temperature: 0 takes the most likely token, higher values vary more
    #[arg(
        long,
        env = "LOCKSTEP_TEMPERATURE",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    pub temperature: f32,
    /// Keep this many of the most likely tokens (0 = all)
    #[arg(long, env = "LOCKSTEP_TOP_K", default_value_t = 0)]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    pub top_k: u32,
    /// Keep the most likely tokens up to this share
    #[arg(long, env = "LOCKSTEP_TOP_P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f32,
    /// Keep tokens with at least this fraction of the best one's probability
    #[arg(long, env = "LOCKSTEP_MIN_P", default_value_t = 0.0, allow_negative_numbers = true)]
    pub min_p: f32,
    /// Make tokens seen before less likely (1 = off)
    #[arg(
        long,
        env = "LOCKSTEP_REPETITION_PENALTY",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    pub repetition_penalty: f32,
    /// Subtract this from logits of tokens in the answer so far
    #[arg(
        long,
        env = "LOCKSTEP_PRESENCE_PENALTY",
        default_value_t = 0.0,
        allow_hyphen_values = true
    )]
    pub presence_penalty: f32,
    /// Subtract this per occurrence in the answer so far
    #[arg(
        long,
        env = "LOCKSTEP_FREQUENCY_PENALTY",
        default_value_t = 0.0,
        allow_hyphen_values = true
    )]
    pub frequency_penalty: f32,
    /// Add BIAS to the logit of a token, as TOKEN_ID=BIAS; may be repeated
    #[arg(long, env = "LOCKSTEP_LOGIT_BIAS", value_delimiter = ',', allow_hyphen_values = true)]
    pub logit_bias: Vec<String>,
    /// Seed of the random choices [default: drawn anew, below 2^53, as readers of JSON
    /// need it]
    #[arg(long, env = "LOCKSTEP_SEED", value_parser = seed, allow_negative_numbers = true)]
    pub seed: Option<u64>,
    /// End the answer where this text begins, and don't show the text; may be repeated
    #[arg(long, env = "LOCKSTEP_STOP")]
    pub stop: Vec<String>,
}

/// The amount of an answer that is audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Audit {
    /// At least 16 random cells of every server and 4 of the head
    Sampled,
    /// Every cell of every server and of the head
    Full,
    /// Nothing: the verdict is "not checked"
    Off,
}

/// The arguments that say how a session is audited and reported.
#[derive(Clone, Debug, Args)]
pub(crate) struct Checking {
    /// Audit this much after the answer [default: sampled]
    #[arg(long, env = "LOCKSTEP_AUDIT", value_enum)]
    pub audit: Option<Audit>,
    /// Save the receipt bundle to this file [default: a new file in the receipts folder, where the
    /// oldest go when there are too many]
    #[arg(long, env = "LOCKSTEP_RECEIPT", value_name = "FILE")]
    pub receipt: Option<PathBuf>,
    /// Stream tokens to standard error, and end standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

impl Checking {
    /// Returns the amount that is audited: a sample, unless the arguments say otherwise.
    pub(crate) fn audit(&self) -> Audit {
        self.audit.unwrap_or(Audit::Sampled)
    }
}

/// The arguments that say how a chat runs on a terminal.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Chatting {
    /// Don't keep the lines that are typed in a chat, and don't offer earlier ones; without this
    /// flag only lines that begin with a space are not kept
    #[arg(long, env = "LOCKSTEP_NO_HISTORY", value_parser = flag())]
    pub no_history: bool,
}

/// The arguments of `lockstep up`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Up {
    #[arg(help = MODEL, default_value = "smollm2", env = "LOCKSTEP_MODEL")]
    pub(crate) model: String,
    /// Number of servers to split the layers over
    #[arg(short, long, env = "LOCKSTEP_SERVERS", default_value_t = 3)]
    #[arg(value_parser = servers, allow_negative_numbers = true)]
    pub servers: u32,
    #[arg(long, env = "LOCKSTEP_WEIGHTS", value_enum, default_value = "w8", help = WEIGHTS)]
    pub weights: Weights,
    /// Compute threads of each server [default: cores / servers, at least 1]
    #[arg(long, env = "LOCKSTEP_THREADS")]
    pub threads: Option<usize>,
    /// Show the servers' metrics over HTTP, in Prometheus' text format at /metrics: those of server
    /// 1 at this port, or IP:PORT, and of each other one at the port after the one before
    #[arg(long, env = "LOCKSTEP_METRICS", value_name = "ADDRESS")]
    #[arg(value_parser = metrics::parse_address)]
    pub metrics: Option<SocketAddr>,
    #[command(flatten)]
    pub asking: Asking,
    #[command(flatten)]
    pub checking: Checking,
    #[command(flatten)]
    pub chatting: Chatting,
}

/// The arguments of `lockstep run`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Run {
    #[arg(help = MODEL, default_value = "smollm2")]
    pub(crate) model: String,
    /// The user's message; what standard input holds goes before it, if that is no terminal.
    /// Without either, an interactive chat opens
    #[arg(value_name = "PROMPT", conflicts_with_all = ["prompt", "prompt_file"])]
    pub words: Vec<String>,
    /// Number of servers to split the layers over, whose answers are then verified; 0 for this
    /// process alone, which has nothing to verify
    #[arg(short, long, env = "LOCKSTEP_SERVERS", default_value_t = 0)]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    pub servers: u32,
    #[arg(long, env = "LOCKSTEP_WEIGHTS", value_enum, default_value = "w8", help = WEIGHTS)]
    pub weights: Weights,
    /// Compute threads; of each server, if there are servers [default: all cores, shared by the
    /// servers]
    #[arg(long, env = "LOCKSTEP_THREADS")]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub asking: Asking,
    #[command(flatten)]
    pub checking: Checking,
    #[command(flatten)]
    pub chatting: Chatting,
}

/// The arguments of `lockstep serve`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Serve {
    /// Model name, package id, GGUF file or safetensors folder, hf:ORG/REPO or hf:ORG/REPO:NAME;
    /// with --join also what the swarm serves, whose servers then give the files that are missing
    /// here [default: smollm2; with --join the model of the swarm]
    #[arg(env = "LOCKSTEP_MODEL")]
    pub(crate) model: Option<String>,
    /// Layers to serve, as FIRST..END (END not included) [default: all; with --join those of which
    /// the swarm has least, as many as there is memory for]
    #[arg(short, long, env = "LOCKSTEP_LAYERS", value_name = "FIRST..END")]
    pub layers: Option<String>,
    /// Ticket of a server whose swarm this one joins, as `lockstep serve` prints it, or "lan" for
    /// all servers of the model on the local network; may be repeated [default: a swarm of its own,
    /// which others join with its ticket]
    #[arg(short, long, env = "LOCKSTEP_JOIN", value_name = "TICKET")]
    pub join: Vec<String>,
    /// Address to listen on, such as 0.0.0.0:4848; twice for one of IPv4 and one of IPv6 [default:
    /// this machine alone, any port]
    #[arg(short, long, env = "LOCKSTEP_BIND", value_delimiter = ',', value_parser = bind)]
    pub bind: Vec<SocketAddr>,
    /// Address that the ticket states in place of this machine's own, for servers behind a router
    /// or in a container: IP or IP:PORT; may be repeated
    #[arg(long, env = "LOCKSTEP_ADVERTISE", value_delimiter = ',', value_name = "ADDRESS")]
    pub advertise: Vec<Advertised>,
    /// Relay through which others reach this server if they can't reach it themselves, as
    /// `lockstep relay` prints it; may be repeated [default: the relays in the tickets of --join,
    /// else none]
    #[arg(long, env = "LOCKSTEP_RELAY", value_delimiter = ',', value_name = "NODE_ID@IP:PORT")]
    pub relay: Vec<Relay>,
    /// Only these node ids may connect; may be repeated [default: anyone who has the ticket]
    #[arg(long, env = "LOCKSTEP_ALLOW", value_delimiter = ',', value_name = "NODE_ID")]
    pub allow: Vec<String>,
    /// Weigh a client's work N times as much as that of others, from 1 to 16, where there is not
    /// enough for all; may be repeated
    #[arg(long, env = "LOCKSTEP_WEIGHT", value_delimiter = ',', value_name = "NODE_ID=N")]
    #[arg(value_parser = weight)]
    pub weight: Vec<(NodeId, Weight)>,
    /// Device that computes: cpu; an NVIDIA GPU, such as cuda:0; or auto, the first GPU that can be
    /// used, else the processor. No answer depends on it
    #[arg(long, env = "LOCKSTEP_DEVICE", default_value = "cpu")]
    pub device: Wanted,
    /// Compute threads, where the processor computes [default: all cores]
    #[arg(long, env = "LOCKSTEP_THREADS")]
    pub threads: Option<usize>,
    /// Memory for weights and caches, in MiB [default: the setting memory_mib, else what is
    /// available]
    #[arg(long, env = "LOCKSTEP_MEMORY_MIB", value_name = "MIB")]
    pub memory: Option<u32>,
    /// With --join and without --layers: take as many layers as leave memory for this many
    /// positions of all sessions together in each of them [default: 2048]
    #[arg(long, env = "LOCKSTEP_ROOM", value_name = "POSITIONS", conflicts_with = "layers")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), requires = "join")]
    pub room: Option<u32>,
    /// Most megabits per second for giving files of the model to other servers; 0 gives none
    /// [default: no limit]
    #[arg(long, env = "LOCKSTEP_UPLINK", value_name = "MBPS")]
    pub uplink: Option<u32>,
    /// Serve only in these hours of the day, by UTC, such as 22-7 or 22:30-7:15: joins when they
    /// begin, and finishes its answers and leaves when they end [default: always]
    #[arg(long, env = "LOCKSTEP_HOURS", value_name = "FIRST-END")]
    pub hours: Option<Hours>,
    /// Show this server's metrics over HTTP, in Prometheus' text format at /metrics: at a port of
    /// this machine's loopback, such as 9464, or at IP:PORT
    #[arg(long, env = "LOCKSTEP_METRICS", value_name = "ADDRESS")]
    #[arg(value_parser = metrics::parse_address)]
    pub metrics: Option<SocketAddr>,
    /// A name under which requests for metrics come, beside this machine's addresses and localhost;
    /// may be repeated
    #[arg(long, env = "LOCKSTEP_METRICS_NAME", value_delimiter = ',', value_name = "NAME")]
    pub metrics_name: Vec<String>,
    /// Use a fresh identity for this run, not one that is kept in the home folder
    #[arg(long, env = "LOCKSTEP_EPHEMERAL", value_parser = flag())]
    pub ephemeral: bool,
    /// Print one JSON object with ticket, node id and addresses when ready
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
    /// For this machine alone and whoever is on it, under a fresh identity, whatever bind,
    /// advertise and allow say: for programs that start servers for themselves
    #[arg(long, hide = true, env = "LOCKSTEP_FOR_THIS_MACHINE", value_parser = flag())]
    pub for_this_machine: bool,
    /// End when standard input closes: for programs that start servers
    #[arg(long, hide = true, env = "LOCKSTEP_UNTIL_STDIN_CLOSES", value_parser = flag())]
    pub until_stdin_closes: bool,
}

/// The arguments of `lockstep relay`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Relaying {
    /// Address to listen on, over TCP and UDP; port 0 lets the system choose
    #[arg(short, long, env = "LOCKSTEP_RELAY_BIND", value_parser = bind)]
    #[arg(default_value = "0.0.0.0:4849")]
    pub bind: SocketAddr,
    /// Address at which nodes reach the relay: IP or IP:PORT [default: those of this machine]
    #[arg(long, env = "LOCKSTEP_ADVERTISE", value_name = "ADDRESS")]
    pub advertise: Option<Advertised>,
    /// Only these node ids may use the relay; may be repeated [default: anyone]
    #[arg(long, env = "LOCKSTEP_ALLOW", value_delimiter = ',', value_name = "NODE_ID")]
    pub allow: Vec<String>,
    /// The most that each node may send, in Mbit/s [default: no limit]
    #[arg(long, env = "LOCKSTEP_RELAY_MBPS", value_name = "MBIT")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=34_000))]
    pub mbps: Option<u32>,
    /// Print one JSON object with the relay's address when it is ready
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep chat`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Chat {
    /// Tickets of the servers, as `lockstep serve` prints them, with commas or white space between
    /// them; "lan" for those on the local network [default: the setting `ticket`]
    #[arg(env = "LOCKSTEP_TICKET")]
    pub ticket: Vec<String>,
    /// The model to ask for [default: the one in the ticket]
    #[arg(short, long, env = "LOCKSTEP_MODEL")]
    pub(crate) model: Option<String>,
    /// Connect under this machine's own node id, for servers that keep an allow-list [default: a
    /// fresh id each time]
    #[arg(long, env = "LOCKSTEP_AS_NODE", value_parser = flag())]
    pub as_node: bool,
    #[command(flatten)]
    pub asking: Asking,
    #[command(flatten)]
    pub checking: Checking,
    #[command(flatten)]
    pub chatting: Chatting,
}

/// The arguments of `lockstep generate`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Generate {
    #[arg(help = MODEL, default_value = "smollm2", env = "LOCKSTEP_MODEL")]
    pub(crate) model: String,
    /// Compute threads [default: all cores]
    #[arg(long, env = "LOCKSTEP_THREADS")]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub asking: Asking,
    /// Stream text to standard error, and end standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep import`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Import {
    /// A GGUF file, any part of a split one, or a folder of safetensors files: of a Llama 2 or 3,
    /// Mistral, Mixtral, Qwen 2 or 3 (dense or with experts), Gemma 3 or Phi 3 model
    pub path: PathBuf,
    /// Name to keep it under [default: from the path, with -w4 if it is that]
    #[arg(long, env = "LOCKSTEP_NAME")]
    pub name: Option<String>,
    /// Replace the model that has the name, and free what no other model uses
    #[arg(long, env = "LOCKSTEP_REPLACE", value_parser = flag())]
    pub replace: bool,
    /// Import the model even if matrices are as no training leaves them: zero, constant, absurd
    #[arg(long, env = "LOCKSTEP_ODD_WEIGHTS", value_parser = flag())]
    pub odd_weights: bool,
    #[arg(long, env = "LOCKSTEP_WEIGHTS", value_enum, default_value = "w8", help = WEIGHTS)]
    pub weights: Weights,
    /// End standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep pull`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Pull {
    /// "smollm2", hf:ORG/REPO or hf:ORG/REPO:NAME
    ///
    /// Of a repository comes its only GGUF model (all parts of a split one), or its safetensors
    /// folder if it has no GGUF file. NAME is a GGUF file, any part of a split one, its stem, or
    /// "safetensors" for the folder.
    pub(crate) model: String,
    /// Name to keep it under [default: the model's, with -w4 if it is that]
    #[arg(long, env = "LOCKSTEP_NAME")]
    pub name: Option<String>,
    /// Replace the model that has the name, and free what no other model uses
    #[arg(long, env = "LOCKSTEP_REPLACE", value_parser = flag())]
    pub replace: bool,
    /// Import the model even if matrices are as no training leaves them: zero, constant, absurd
    #[arg(long, env = "LOCKSTEP_ODD_WEIGHTS", value_parser = flag())]
    pub odd_weights: bool,
    #[arg(long, env = "LOCKSTEP_WEIGHTS", value_enum, default_value = "w8", help = WEIGHTS)]
    pub weights: Weights,
    /// End standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep list`.
#[derive(Clone, Debug, Args)]
pub(crate) struct List {
    /// Print one JSON object in place of the table
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep show`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Show {
    /// Model name or package id
    pub(crate) model: String,
    /// Print one JSON object in place of the text
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep rm`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Rm {
    /// Model name or package id
    #[arg(required_unless_present = "leftovers")]
    pub(crate) model: Option<String>,
    /// Free what interrupted imports and pulls left: blobs that no model uses, parts of downloads
    #[arg(long, env = "LOCKSTEP_LEFTOVERS", value_parser = flag())]
    pub leftovers: bool,
}

/// The arguments of `lockstep key`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Key {
    /// Model name or package id
    #[arg(default_value = "smollm2", env = "LOCKSTEP_MODEL")]
    pub(crate) model: String,
    /// File to write the key to [default: one in the keys folder]
    #[arg(short, long, env = "LOCKSTEP_KEY", value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replace a key that is there already
    #[arg(long, env = "LOCKSTEP_FORCE", value_parser = flag())]
    pub force: bool,
    /// End standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep verify`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Verify {
    /// A receipt bundle, as `chat` and `up` save it: a file, or the id that `lockstep receipts`
    /// shows
    pub bundle: PathBuf,
    /// The key to check with [default: the one in the keys folder, if there is one]
    #[arg(short, long, env = "LOCKSTEP_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// End standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep receipts`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Receipts {
    /// Remove this receipt, by the id that the list shows, or "all"; may be repeated
    #[arg(long, env = "LOCKSTEP_RM", value_delimiter = ',', value_name = "ID")]
    pub rm: Vec<String>,
    /// Print one JSON object in place of the list
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep id`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Id {
    /// Print one JSON object in place of the text
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The codec in which the matrices of a model's layers are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Weights {
    /// 8-bit codes: what import chooses
    #[default]
    W8,
    /// 4-bit codes: about half the memory, and not quite the same answers
    W4,
}

impl From<Weights> for Codec {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::W8 => Self::W8,
            Weights::W4 => Self::W4,
        }
    }
}

/// The sizes of a model of random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shape {
    /// SmolLM2-135M: 30 layers, hidden size 576
    #[value(name = "smollm2-135m")]
    Smollm2,
    /// Llama-3.2-1B: 16 layers, hidden size 2048, vocabulary cut to 49,152
    #[value(name = "llama-3.2-1b")]
    Llama1b,
    /// 4 of the 32 layers of Llama-3.1-8B, hidden size 4096, vocabulary cut to 1,024
    #[value(name = "llama-3.1-8b-layers")]
    Llama8bLayers,
}

/// The arguments of `lockstep bench`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Bench {
    #[arg(help = MODEL, conflicts_with = "shape")]
    #[arg(default_value = "smollm2", env = "LOCKSTEP_MODEL")]
    pub(crate) model: String,
    /// Measure random weights of these sizes, packed and mapped like a model's, in place of a
    /// model: speed alone, without commitments and servers
    #[arg(long, env = "LOCKSTEP_SHAPE", value_enum, value_name = "NAME")]
    pub shape: Option<Shape>,
    /// Store the weights of `--shape`'s layers in this codec [default: w8]
    #[arg(long, env = "LOCKSTEP_CODEC", value_enum, requires = "shape")]
    pub codec: Option<Weights>,
    /// Compute threads [default: all cores]
    #[arg(long, env = "LOCKSTEP_THREADS", value_parser = at_most(1024))]
    pub threads: Option<usize>,
    /// Servers of the ring that is measured beside the single process (0 = none)
    #[arg(long, env = "LOCKSTEP_SERVERS", default_value_t = 3)]
    #[arg(value_parser = count, allow_negative_numbers = true)]
    #[arg(conflicts_with_all = ["shape", "rates_only"])]
    pub servers: u32,
    /// Number of tokens of the prompt
    #[arg(long, env = "LOCKSTEP_PREFILL", default_value_t = 512, value_parser = at_most(1 << 20))]
    pub prefill: usize,
    /// Tokens generated, from an empty session
    #[arg(long, env = "LOCKSTEP_DECODE", default_value_t = 128, value_parser = at_most(1 << 20))]
    pub decode: usize,
    /// Sessions that decode together, in one step; may list several (0 = not measured)
    #[arg(long, env = "LOCKSTEP_BATCH", default_value = "8", value_delimiter = ',')]
    #[arg(value_name = "SESSIONS", value_parser = at_most_or_none(256))]
    pub batch: Vec<usize>,
    /// Also measure a prompt of this length, decoding after it, and the share of attention there
    #[arg(long, env = "LOCKSTEP_CONTEXT", value_name = "TOKENS", value_parser = at_most(1 << 20))]
    pub context: Option<usize>,
    /// Also measure the verifier, on one thread: the algebra of a layer, and whole audits
    #[arg(long, env = "LOCKSTEP_VERIFY", value_parser = flag())]
    pub verify: bool,
    /// Measure tokens/s alone, without the machine's limits, products, commitments and servers
    #[arg(long, env = "LOCKSTEP_RATES_ONLY", value_parser = flag())]
    #[arg(conflicts_with_all = ["verify", "context"])]
    pub rates_only: bool,
    /// Repetitions; medians are reported
    #[arg(long, env = "LOCKSTEP_REPETITIONS", default_value_t = 5, value_parser = at_most(1000))]
    pub repetitions: usize,
    /// End standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// Returns the length of an answer; -1 stands for any.
pub(crate) fn max_tokens(text: &str) -> Result<u32, String> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(u32::MAX),
        Ok(count) if count >= 1 => Ok(u32::try_from(count).unwrap_or(u32::MAX)),
        Ok(_) | Err(_) => {
            Err("expected at least 1, or -1 for as many as the context has room for".to_owned())
        }
    }
}

/// Returns a number up to `max`, or 0.
fn at_most_or_none(max: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(0..=max)
}

/// Returns a number from 1 to `max`.
fn at_most(max: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=max)
}

/// Tokens of a window: as many as a figure in a manifest may say.
fn window() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(2..=1 << 21)
}

/// The arguments of `lockstep quality`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Quality {
    #[arg(help = MODEL, default_value = "smollm2", env = "LOCKSTEP_MODEL")]
    pub(crate) model: String,
    /// A file of reference log-probabilities (see vectors/reference)
    #[arg(long, env = "LOCKSTEP_REFERENCE", value_name = "FILE")]
    pub reference: Option<PathBuf>,
    /// File with a text to measure perplexity on
    #[arg(long, env = "LOCKSTEP_TEXT", value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// The GGUF file or safetensors folder the model was imported from: adds KL and perplexity of
    /// an f32 forward pass
    #[arg(long, env = "LOCKSTEP_AGAINST", value_name = "PATH", requires = "text")]
    pub against: Option<PathBuf>,
    /// Write the figure into the model's manifest, as your claim: the model's id changes, and its
    /// name then stands for the new one (needs --text and --against)
    #[arg(long, env = "LOCKSTEP_RECORD", value_parser = flag())]
    #[arg(requires = "text", requires = "against")]
    pub record: bool,
    /// Number of tokens of a window of the text
    #[arg(long, env = "LOCKSTEP_WINDOW", default_value_t = 512, value_parser = window())]
    #[arg(requires = "text")]
    pub window: usize,
    /// Number of windows to measure (0 = all)
    #[arg(long, env = "LOCKSTEP_WINDOWS", default_value_t = 0, requires = "text")]
    pub windows: usize,
    /// Compute threads [default: all cores]
    #[arg(long, env = "LOCKSTEP_THREADS")]
    pub threads: Option<usize>,
    /// End standard output with one JSON object
    #[arg(long, env = "LOCKSTEP_JSON", value_parser = flag())]
    pub json: bool,
}

/// The arguments of `lockstep completions`.
#[derive(Clone, Debug, Args)]
pub(crate) struct Completions {
    /// The shell that the script is for
    pub shell: clap_complete::Shell,
}
