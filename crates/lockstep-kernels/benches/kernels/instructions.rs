//! Instructions of the calling thread, counted by the processor, as something to measure.
//!
//! A count hardly moves from run to run, so it shows changes of a kernel that time hides. Virtual
//! machines often have no counter, and the system may not let one be used: then there is an error.

use std::io;

use criterion::Throughput;
use criterion::measurement::{Measurement, ValueFormatter};

/// A counter that runs.
pub(crate) struct Instructions {
    #[cfg(target_os = "linux")]
    counter: std::cell::RefCell<perf_event::Counter>,
}

#[cfg(target_os = "linux")]
impl Instructions {
    pub(crate) fn new() -> io::Result<Self> {
        use perf_event::Builder;
        use perf_event::events::Hardware;
        let mut counter = Builder::new(Hardware::INSTRUCTIONS).build()?;
        counter.enable()?;
        Ok(Self { counter: counter.into() })
    }

    fn count(&self) -> u64 {
        self.counter.borrow_mut().read().expect("a counter that runs can be read")
    }
}

#[cfg(not(target_os = "linux"))]
impl Instructions {
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "only written for Linux"))
    }

    fn count(&self) -> u64 {
        0
    }
}

impl Measurement for Instructions {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        self.count()
    }

    fn end(&self, start: u64) -> u64 {
        self.count() - start
    }

    fn add(&self, a: &u64, b: &u64) -> u64 {
        a + b
    }

    fn zero(&self) -> u64 {
        0
    }

    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Plain
    }
}

/// Counts as they are, and for each element or byte.
struct Plain;

impl ValueFormatter for Plain {
    fn scale_values(&self, _: f64, _: &mut [f64]) -> &'static str {
        "instructions"
    }

    fn scale_throughputs(
        &self,
        _: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        let (count, unit) = match *throughput {
            Throughput::Elements(count) => (count, "instructions/element"),
            Throughput::Bytes(count) | Throughput::BytesDecimal(count) => {
                (count, "instructions/byte")
            }
            _ => (1, "instructions"),
        };
        values.iter_mut().for_each(|value| *value /= count as f64);
        unit
    }

    fn scale_for_machines(&self, _: &mut [f64]) -> &'static str {
        "instructions"
    }
}
