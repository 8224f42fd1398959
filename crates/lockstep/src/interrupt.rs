//! Ctrl-C, and for servers the signal that ends services. The first time that it is listened for,
//! the system's own way, to end the program, is off for good: from then on every long wait has to
//! listen for it.

use std::future::{self, Future};

use tokio::sync::watch;

#[cfg(unix)]
type Listener = tokio::signal::unix::Signal;
#[cfg(windows)]
type Listener = tokio::signal::windows::CtrlC;

/// The user's interrupts since it began to listen: none is lost between two waits.
pub(crate) struct Interrupts(Option<Listener>);

impl Interrupts {
    /// Begins to listen for Ctrl-C.
    pub(crate) fn listen() -> Self {
        #[cfg(unix)]
        let listener = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
        #[cfg(windows)]
        let listener = tokio::signal::windows::ctrl_c();
        Self(listener.ok())
    }

    /// Waits for the next interrupt; never ends where interrupts can't be told.
    pub(crate) async fn next(&mut self) {
        match &mut self.0 {
            Some(listener) => drop(listener.recv().await),
            None => future::pending().await,
        }
    }
}

/// Listens for the user's interrupt from this call on; never ends where that can't be told.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    let mut interrupts = Interrupts::listen();
    async move { interrupts.next().await }
}

/// Waits until the user or the system asks the program to end: Ctrl-C, SIGTERM.
pub(crate) async fn asked_to_end() {
    requests(|| false).await;
}

/// Begins to count how often the program is asked to end. To be called inside a runtime of tokio.
pub(crate) fn end_requests() -> watch::Receiver<u32> {
    let (tell, told) = watch::channel(0u32);
    tokio::spawn(requests(move || {
        tell.send_modify(|count| *count = count.saturating_add(1));
        true
    }));
    told
}

/// Calls `goes_on` each time that the program is asked to end, until it says that it does not.
#[cfg(unix)]
async fn requests(mut goes_on: impl FnMut() -> bool) {
    use tokio::signal::unix::{SignalKind, signal};
    let both = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = both else {
        return future::pending().await;
    };
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if !goes_on() {
            return;
        }
    }
}

/// Calls `goes_on` each time that the program is asked to end, until it says that it does not.
#[cfg(not(unix))]
async fn requests(mut goes_on: impl FnMut() -> bool) {
    loop {
        interrupted().await;
        if !goes_on() {
            return;
        }
    }
}
