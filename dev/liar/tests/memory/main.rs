//! Rings in memory, in virtual time: honest ones are verified, lying ones are caught, and only
//! they.

mod families;
mod honest;
mod lies;
mod rates;
mod ring;
mod tellings;
