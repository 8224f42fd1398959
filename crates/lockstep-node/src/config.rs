//! The settings of a node: one TOML file, and an environment variable for each setting.
//!
//! A variable is named after its setting: `bind` is `LOCKSTEP_BIND`. Variables go before the file,
//! and what a program takes from its command line goes before both. An unknown setting and a value
//! of the wrong kind are errors, with the line; nothing is guessed.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use lockstep_proto::limits as protocol;
use serde::Deserialize;
use serde::de::Deserializer;

use crate::several::{parts, several};
use crate::transport::{
    AddressError, Advertised, AdvertisedError, AllowList, Listen, NodeId, Relay, parse_node_id,
};
use crate::{home, limits, ticket};

/// The settings, each of which may be missing.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $kind:ty = $variable:literal,)*) => {
        /// The settings that the file and the environment state; `None` where they state nothing.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Config {
            $($(#[$doc])* pub $name: Option<$kind>,)*
        }

        /// Every setting with its environment variable.
        pub const SETTINGS: &[(&str, &str)] = &[$((stringify!($name), $variable),)*];

        impl Config {
            /// Lets the environment's variables go before these settings.
            ///
            /// # Errors
            /// [`ConfigError::Variable`] names the variable whose value makes no sense.
            pub fn overridden(
                mut self,
                variable: impl Fn(&str) -> Option<String>,
            ) -> Result<Self, ConfigError> {
                $(if let Some(value) = variable($variable) {
                    self.$name = Some(from_variable($variable, &value)?);
                })*
                Ok(self)
            }
        }
    };
}

settings! {
    /// Addresses at which servers say that they can be reached, separated by commas, in place of
    /// those that this machine has.
    advertise: Advertisement = "LOCKSTEP_ADVERTISE",
    /// Node ids that may connect; an empty list lets nobody in, none at all lets anybody in.
    allow: NodeList = "LOCKSTEP_ALLOW",
    /// Rows that the steps of one job of a server compute together.
    batch_positions: BatchPositions = "LOCKSTEP_BATCH_POSITIONS",
    /// UDP address to listen on, or one of IPv4 and one of IPv6, separated by a comma; port 0 lets
    /// the system choose.
    bind: Listen = "LOCKSTEP_BIND",
    /// Disk space in MiB that downloads and imports leave free.
    disk_reserve_mib: u64 = "LOCKSTEP_DISK_RESERVE_MIB",
    /// How the log is written: "text", or "json" for one JSON object on each line.
    log: LogFormat = "LOCKSTEP_LOG",
    /// Which events go to the log ("info", "lockstep_node=debug").
    log_level: String = "LOCKSTEP_LOG_LEVEL",
    /// Memory in MiB that this program may take for weights and caches, or for an import.
    memory_mib: u64 = "LOCKSTEP_MEMORY_MIB",
    /// Disk space in MiB that receipts in the home directory may take: past it the oldest go.
    receipts_mib: u64 = "LOCKSTEP_RECEIPTS_MIB",
    /// Relays through which servers are reached and reach others, separated by commas.
    relay: Relays = "LOCKSTEP_RELAY",
    /// Seconds for which a server keeps what an audit of a finished session needs.
    retention_s: u64 = "LOCKSTEP_RETENTION_S",
    /// The number of threads that compute.
    threads: NonZeroUsize = "LOCKSTEP_THREADS",
    /// The servers to ask when no ticket is given: tickets, separated by commas or white space, or
    /// a list of them.
    ticket: Tickets = "LOCKSTEP_TICKET",
}

impl Config {
    /// Reads a settings file; one that isn't there says nothing.
    ///
    /// # Errors
    /// [`ConfigError`] with the path, and the line if a line is wrong.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = match home::read_capped(path, limits::CONFIG_BYTES) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Io { path: path.to_owned(), source }),
        };
        let text = String::from_utf8(text).map_err(|_| ConfigError::File {
            path: path.to_owned(),
            detail: "not UTF-8".to_owned(),
        })?;
        Self::parse(&text).map_err(|detail| ConfigError::File { path: path.to_owned(), detail })
    }

    fn parse(text: &str) -> Result<Self, String> {
        // The message of the parser names line and column and shows the line.
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// Returns the list of the nodes that may connect.
    pub fn allow_list(&self) -> AllowList {
        match &self.allow {
            None => AllowList::Anyone,
            Some(NodeList(nodes)) => AllowList::Only(nodes.clone()),
        }
    }

    /// Returns how many rows the steps of one job of a server compute together.
    pub fn batch_positions(&self) -> u32 {
        self.batch_positions.map_or(protocol::BATCH_POSITIONS, |BatchPositions(rows)| rows)
    }

    /// Returns the addresses to listen on: this machine's loopback alone, unless the settings say
    /// otherwise.
    pub fn listen(&self) -> Listen {
        self.bind.clone().unwrap_or_default()
    }

    /// Returns the relays through which servers are reached; none unless the settings name some.
    pub fn relays(&self) -> &[Relay] {
        self.relay.as_ref().map_or(&[], |Relays(relays)| relays)
    }

    /// Returns the addresses at which servers say that they can be reached, if the settings say so.
    pub fn advertised(&self) -> &[Advertised] {
        self.advertise.as_ref().map_or(&[], |Advertisement(addrs)| addrs)
    }

    /// Returns the disk space in bytes to leave free.
    pub fn disk_reserve(&self) -> u64 {
        let mib = self.disk_reserve_mib.map(|mib| mib.saturating_mul(1 << 20));
        mib.unwrap_or(limits::DISK_RESERVE_BYTES)
    }

    /// Returns the memory in bytes that may be taken, if the settings say so.
    pub fn memory(&self) -> Option<u64> {
        self.memory_mib.map(|mib| mib.saturating_mul(1 << 20))
    }

    /// Returns the disk space in bytes that the receipts of the home directory may take.
    pub fn receipts(&self) -> u64 {
        let mib = self.receipts_mib.map(|mib| mib.saturating_mul(1 << 20));
        mib.unwrap_or(limits::RECEIPTS_BYTES)
    }

    /// Returns the time for which servers keep what an audit needs: ten minutes, unless the
    /// settings say otherwise.
    pub fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_s.unwrap_or(600))
    }
}

/// The reasons why the settings can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file says something that is no setting, or no value of it.
    #[error("{}: {detail}", path.display())]
    File {
        /// The path of the settings file.
        path: PathBuf,
        /// The error, with the line and the column in the file.
        detail: String,
    },
    /// The settings file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The path of the settings file.
        path: PathBuf,
        /// The error that the system reported.
        source: io::Error,
    },
    /// A variable has a value that makes no sense.
    #[error("{name}={value}: {detail}")]
    Variable {
        /// The name of the environment variable.
        name: &'static str,
        /// The value of the environment variable.
        value: String,
        /// The reason why the value can't be used.
        detail: String,
    },
}

fn from_variable<T: FromStr<Err: fmt::Display>>(
    name: &'static str,
    value: &str,
) -> Result<T, ConfigError> {
    value.trim().parse().map_err(|error: T::Err| ConfigError::Variable {
        name,
        value: value.to_owned(),
        detail: error.to_string(),
    })
}

/// The number of rows that the steps of one job compute together: from 1 to
/// [`protocol::BATCH_POSITIONS_MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct BatchPositions(u32);

/// The error of a number of rows that no job may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a job computes from 1 to {} rows together", protocol::BATCH_POSITIONS_MOST)]
pub struct BatchPositionsError;

impl TryFrom<i64> for BatchPositions {
    type Error = BatchPositionsError;

    fn try_from(rows: i64) -> Result<Self, Self::Error> {
        let rows = u32::try_from(rows).map_err(|_| BatchPositionsError)?;
        let is_allowed = (1..=protocol::BATCH_POSITIONS_MOST).contains(&rows);
        if is_allowed { Ok(Self(rows)) } else { Err(BatchPositionsError) }
    }
}

impl FromStr for BatchPositions {
    type Err = BatchPositionsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<i64>().map_err(|_| BatchPositionsError)?.try_into()
    }
}

/// The format of the log on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum LogFormat {
    /// A line of text for each event.
    #[default]
    Text,
    /// A JSON object on a line for each event.
    Json,
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// The error of a word that is no format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected text or json; which events are logged is what log_level says")]
pub struct LogFormatError;

impl FromStr for LogFormat {
    type Err = LogFormatError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(LogFormatError),
        }
    }
}

impl TryFrom<String> for LogFormat {
    type Error = LogFormatError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// A set of node ids, as a setting lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeList(pub BTreeSet<NodeId>);

impl FromStr for NodeList {
    type Err = crate::transport::NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parts(text).map(parse_node_id).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for NodeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        several(deserializer)
    }
}

/// Addresses at which servers say that they can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertisement(pub Vec<Advertised>);

impl FromStr for Advertisement {
    type Err = AdvertisedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parts(text).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for Advertisement {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        several(deserializer)
    }
}

/// Relays through which servers are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relays(pub Vec<Relay>);

impl FromStr for Relays {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parts(text).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for Relays {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        several(deserializer)
    }
}

/// Tickets that have been read, so that a damaged one is noticed with the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tickets(pub Vec<ticket::Ticket>);

impl FromStr for Tickets {
    type Err = ticket::TicketError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parts(text).map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl<'de> Deserialize<'de> for Tickets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        several(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;
    use crate::transport::Identity;

    #[test]
    fn the_environment_goes_before_the_file() {
        let config = Config::parse("threads = 2\nbind = \"0.0.0.0:4848\"").expect("valid");
        let variable = |name: &str| (name == "LOCKSTEP_THREADS").then(|| "3".to_owned());
        let config = config.overridden(variable).expect("valid");
        assert_eq!(config.threads, NonZeroUsize::new(3));
        assert_eq!(config.listen(), "0.0.0.0:4848".parse().expect("address"));
    }

    #[test]
    fn a_level_in_the_place_of_the_logs_format_is_told_where_it_belongs() {
        assert_eq!(Config::parse("log = \"json\"").expect("valid").log, Some(LogFormat::Json));
        let error = Config::parse("log = \"info\"").expect_err("no format");
        assert!(error.contains("line 1") && error.contains("log_level"), "{error}");
        let variable = |name: &str| (name == "LOCKSTEP_LOG").then(|| "debug".to_owned());
        let error = Config::default().overridden(variable).expect_err("no format").to_string();
        assert!(error.starts_with("LOCKSTEP_LOG=debug: expected text or json"), "{error}");
    }

    #[test]
    fn a_budget_of_no_rows_or_of_too_many_is_an_error_and_none_at_all_is_the_protocols() {
        let budget = |text: &str| Config::parse(text).map(|config| config.batch_positions());
        let variable = |rows: &str| {
            let variable = |name: &str| (name == "LOCKSTEP_BATCH_POSITIONS").then(|| rows.into());
            Config::default().overridden(variable).map(|config| config.batch_positions())
        };
        assert_eq!(budget(""), Ok(protocol::BATCH_POSITIONS));
        let most = protocol::BATCH_POSITIONS_MOST;
        for rows in [1, most] {
            assert_eq!(budget(&format!("batch_positions = {rows}")), Ok(rows));
            assert_eq!(variable(&rows.to_string()).expect("valid"), rows);
        }
        let above = u64::from(most) + 1;
        for rows in [0, above, 1 << 32, (1 << 32) + 1] {
            let error = budget(&format!("batch_positions = {rows}")).expect_err("not allowed");
            assert!(error.contains("line 1") && error.contains("1 to 4096"), "{error}");
            let error = variable(&rows.to_string()).expect_err("not allowed").to_string();
            assert!(error.starts_with(&format!("LOCKSTEP_BATCH_POSITIONS={rows}: ")), "{error}");
        }
        assert!(budget("batch_positions = -1").is_err() && variable("many").is_err());
    }

    #[test]
    fn what_names_several_things_is_a_list_or_a_text_in_the_file_and_a_text_in_a_variable() {
        let ids = [1, 2].map(|seed| Identity::from_secret(&[seed; 32]).id());
        let ticket = |id| {
            let peer = crate::transport::PeerAddr { id, addrs: Vec::new() };
            ticket::Ticket { peers: vec![peer], manifest: None, called: String::new() }.to_string()
        };
        let (allow, tickets) = (ids.map(|id| id.to_string()), ids.map(ticket));
        let bind = ["0.0.0.0:1".to_owned(), "[::]:1".to_owned()];
        let advertise = ["192.0.2.1".to_owned(), "192.0.2.2:7".to_owned()];
        let relay = ids.map(|id| format!("{id}@192.0.2.1:4849"));
        let settings = [
            ("allow", allow),
            ("ticket", tickets),
            ("bind", bind),
            ("advertise", advertise),
            ("relay", relay),
        ];
        for (name, [one, two]) in settings {
            let list = Config::parse(&format!("{name} = [\"{one}\", \"{two}\"]")).expect(name);
            assert_ne!(list, Config::default());
            for between in [",", " ", ", ", "\n", "\t ,\n"] {
                let text = format!("{one}{between}{two}");
                let file = Config::parse(&format!("{name} = {text:?}")).expect(name);
                assert_eq!(file, list, "{text:?}");
                let upper = format!("LOCKSTEP_{}", name.to_uppercase());
                let variable = |asked: &str| (asked == upper).then(|| text.clone());
                let set = Config::default().overridden(variable).expect(name);
                assert_eq!(set, list, "{text:?}");
            }
        }
        let error = Config::parse("ticket = 7").expect_err("a number");
        assert!(error.contains("a list of texts"), "{error}");
    }

    #[test]
    fn every_setting_has_a_variable_of_its_name() {
        for (setting, variable) in SETTINGS {
            assert_eq!(*variable, format!("LOCKSTEP_{}", setting.to_uppercase()));
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, word) in [
            ("threads = 2\nthraeds = 3", "line 2", "thraeds"),
            ("\nthreads = 0", "line 2", "nonzero"),
            ("allow = [\"me\"]", "line 1", "64 lower-case hexadecimal digits"),
            ("bind = \"here\"", "line 1", "socket address"),
            ("bind = \"[::]:1, [::1]:1\"", "line 1", "at most one IPv4"),
            ("advertise = \"0.0.0.0\"", "line 1", "can't be dialled"),
            ("relay = \"192.0.2.1:4849\"", "line 1", "NODE_ID@IP:PORT"),
            ("ticket = \"lockstep1aa!\"", "line 1", "'!'"),
            ("threads", "line 1", "expected"),
        ] {
            let error = Config::parse(text).expect_err(text);
            assert!(error.contains(line) && error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_variable_that_makes_no_sense_is_named() {
        for (name, value) in
            [("LOCKSTEP_THREADS", "0"), ("LOCKSTEP_ALLOW", "abc"), ("LOCKSTEP_BIND", "localhost")]
        {
            let variable = |asked: &str| (asked == name).then(|| value.to_owned());
            let error = Config::default().overridden(variable).expect_err(name).to_string();
            assert!(error.starts_with(&format!("{name}={value}: ")), "{error}");
        }
    }

    #[test]
    fn an_empty_allow_list_lets_nobody_in_and_none_lets_anybody_in() {
        let id = Identity::from_secret(&[1; 32]).id();
        assert!(Config::default().allow_list().permits(&id));
        let nobody = Config::parse("allow = []").expect("valid");
        assert!(!nobody.allow_list().permits(&id));
        let variable = |name: &str| (name == "LOCKSTEP_ALLOW").then(|| format!("{id}, "));
        assert!(nobody.overridden(variable).expect("valid").allow_list().permits(&id));
    }

    #[test]
    fn a_file_that_is_not_there_says_nothing_and_a_wrong_one_is_named() {
        let dir = TestDir::new("config");
        let path = dir.path().join("config.toml");
        assert_eq!(Config::read(&path).expect("nothing"), Config::default());
        std::fs::write(&path, "no = 1").expect("write");
        let error = Config::read(&path).expect_err("unknown").to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
        assert!(error.contains("line 1"), "{error}");
    }
}
