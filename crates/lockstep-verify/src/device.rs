//! What a verifier asks of a backend: everything but its products.

use core::convert::Infallible;

use lockstep_exact::ops::{FieldDots, Host};

/// A backend's operations that an audit needs: everything but its products, on a device that cannot
/// fail, so that whatever goes wrong is the fault of who opened the cells.
pub trait AuditDevice: Host<Error = Infallible> + FieldDots {}

impl<D: Host<Error = Infallible> + FieldDots> AuditDevice for D {}
