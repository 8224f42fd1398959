//! The subcommands, one file each.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod id;
pub(crate) mod key;
pub(crate) mod library;
pub(crate) mod nodes;
pub(crate) mod plan;
pub(crate) mod quality;
pub(crate) mod receipts;
pub(crate) mod relay;
pub(crate) mod run;
pub(crate) mod serve;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod verify;
