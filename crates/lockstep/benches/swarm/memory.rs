//! The memory of processes over time.

use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The time from one look to the next.
const LOOK: Duration = Duration::from_millis(500);

/// Looks at processes until it is stopped.
pub(crate) struct Watch {
    stop: Sender<()>,
    looking: JoinHandle<Vec<Vec<u64>>>,
}

impl Watch {
    /// Begins to look at the processes with these ids.
    pub(crate) fn start(processes: Vec<u32>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let looking = thread::spawn(move || {
            let mut seen = vec![Vec::new(); processes.len()];
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                for (process, seen) in processes.iter().zip(&mut seen) {
                    seen.push(resident_mib(*process));
                }
            }
            seen
        });
        Self { stop, looking }
    }

    /// Ends, and returns what was seen of each process: MiB in memory, at each look.
    pub(crate) fn stop(self) -> Vec<Vec<u64>> {
        drop(self.stop);
        self.looking.join().unwrap()
    }
}

/// MiB of a process that are in memory, files that it maps included; 0 once it has ended.
fn resident_mib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB"));
    kib.map_or(0, |kib| kib.trim().parse::<u64>().unwrap() / 1024)
}
