//! The terminal that a line editor changes: its mode is given back however the program ends.
//!
//! An editor reads single keys and turns echo off; a program that ends in the middle of that leaves
//! a terminal on which nothing is seen that is typed. Three ways out lead here: the editor's own
//! end, the end of [`Terminal`]'s owner (an error, a panic), and a signal that ends the program.

use std::io::{self, IsTerminal as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Terminals that know no command to move the cursor.
const SIMPLE: [&str; 3] = ["dumb", "cons25", "emacs"];

/// The terminal on standard input as it was before an editor changed it.
pub(super) struct Terminal {
    #[cfg(unix)]
    mode: rustix::termios::Termios,
    /// Whether an editor is reading a line at the moment.
    is_edited: AtomicBool,
}

impl Terminal {
    /// Returns the terminal on standard input, if there is one on which lines can be edited. From
    /// here on SIGTERM, SIGHUP and SIGQUIT give its mode back before they end the program.
    ///
    /// # Errors
    /// What the system says about the mode, signals and threads.
    pub(super) fn open() -> io::Result<Option<Arc<Self>>> {
        let kind = std::env::var("TERM").ok();
        let is_simple = kind.map_or(cfg!(not(windows)), |kind| {
            SIMPLE.iter().any(|simple| kind.eq_ignore_ascii_case(simple))
        });
        if is_simple || !io::stdin().is_terminal() {
            return Ok(None);
        }
        let terminal = Arc::new(Self {
            #[cfg(unix)]
            mode: rustix::termios::tcgetattr(rustix::stdio::stdin())?,
            is_edited: AtomicBool::new(false),
        });
        #[cfg(unix)]
        end_tidily(Arc::clone(&terminal))?;
        Ok(Some(terminal))
    }

    /// Runs `read`, which reads a line with an editor.
    pub(super) fn edit<T>(&self, read: impl FnOnce() -> T) -> T {
        self.is_edited.store(true, Ordering::SeqCst);
        let read = read();
        self.is_edited.store(false, Ordering::SeqCst);
        read
    }

    /// Gives the mode back if an editor is at work.
    pub(super) fn restore(&self) {
        if self.is_edited.swap(false, Ordering::SeqCst) {
            #[cfg(unix)]
            self.set_mode();
        }
    }

    #[cfg(unix)]
    fn set_mode(&self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        let terminal = rustix::stdio::stdin();
        // Whoever ends the program has nobody left to tell of an error.
        let _ = tcsetattr(terminal, OptionalActions::Now, &self.mode);
        let _ = rustix::io::write(terminal, PASTE_AS_TYPED);
    }
}

/// Ends what the editor asked the terminal to do with pasted text, and its line.
#[cfg(unix)]
const PASTE_AS_TYPED: &[u8] = b"\x1b[?2004l\r\n";

/// Gives the terminal's mode back when a signal ends the program, and lets it end.
#[cfg(unix)]
fn end_tidily(terminal: Arc<Terminal>) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM};
    use signal_hook::iterator::Signals;
    use signal_hook::low_level::emulate_default_handler;

    let mut signals = Signals::new([SIGHUP, SIGQUIT, SIGTERM])?;
    let watch = move || {
        for signal in &mut signals {
            terminal.restore();
            if emulate_default_handler(signal).is_err() {
                std::process::exit(128 + signal);
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map(drop)
}
