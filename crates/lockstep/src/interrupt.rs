//! Ctrl-C. The first time that it is waited for, the system's own way, to end the program, is off
//! for good: from then on every long wait has to listen for it.

use std::future;

use tokio::signal;

/// Waits until the user interrupts the program; for ever where that can't be told.
pub(crate) async fn interrupted() {
    if signal::ctrl_c().await.is_err() {
        future::pending::<()>().await;
    }
}
