//! The operations of [`lockstep_exact::ops`] on this machine's processor.
//!
//! [`kernels`] has the threads and what they are told to share; [`values`] what the operations work
//! on. Each of the other files implements one trait: [`device`] what lies between the products,
//! [`products`] the products, [`host`] the exchange with plain memory, [`field_dots`] what a
//! verifier multiplies.

mod device;
mod field_dots;
mod host;
mod kernels;
mod products;
mod values;

pub use kernels::Kernels;
pub use values::{Codes, Rows, Sums};
