//! The subcommands, one file each.

pub(crate) mod completions;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod library;
pub(crate) mod quality;
