//! Ctrl-C, and for servers the signal that ends services. The first time that it is waited for,
//! the system's own way, to end the program, is off for good: from then on every long wait has to
//! listen for it.

use std::future;

use tokio::signal;

/// Waits until the user interrupts the program; for ever where that can't be told.
pub(crate) async fn interrupted() {
    if signal::ctrl_c().await.is_err() {
        future::pending::<()>().await;
    }
}

/// Waits until the user or the system asks the program to end: Ctrl-C, SIGTERM.
pub(crate) async fn asked_to_end() {
    requests(1).await;
}

/// Waits until the program has been asked to end a second time.
pub(crate) async fn asked_twice() {
    requests(2).await;
}

#[cfg(unix)]
async fn requests(count: usize) {
    use tokio::signal::unix::{SignalKind, signal};
    let both = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = both else {
        return future::pending().await;
    };
    for _ in 0..count {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
async fn requests(count: usize) {
    for _ in 0..count {
        interrupted().await;
    }
}
