//! Families of metrics in the text format, each with its help and type, also when it has no value.

use std::fmt;

use lockstep_proto::counters::{BOUNDS_US, Times};
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;

/// The labels of one value, with their names.
pub(super) type Labels = Vec<(&'static str, String)>;

/// A page of metrics that is being written.
pub(super) struct Page<'a>(DescriptorEncoder<'a>);

impl<'a> Page<'a> {
    /// Returns the page that `encoder` writes.
    pub(super) const fn new(encoder: DescriptorEncoder<'a>) -> Self {
        Self(encoder)
    }

    /// Writes a family of gauges.
    pub(super) fn gauge(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in values {
            labelled(&mut family, &labels, |metric| metric.encode_gauge(&value))?;
        }
        Ok(())
    }

    /// Writes a family of counters, to whose name `_total` is added.
    pub(super) fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let write = |metric: &mut MetricEncoder<'_>| {
                metric.encode_counter::<NoLabelSet, V, f64>(&value, None)
            };
            labelled(&mut family, &labels, write)?;
        }
        Ok(())
    }

    /// Writes a family of histograms of times, in seconds.
    pub(super) fn times<'t>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, &'t Times)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, times) in values {
            let bounds = BOUNDS_US.iter().map(|us| seconds(*us));
            let buckets: Vec<(f64, u64)> = bounds.zip(times.buckets).collect();
            let (sum, count) = (seconds(times.sum_us), times.count());
            let write = |metric: &mut MetricEncoder<'_>| {
                metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            };
            labelled(&mut family, &labels, write)?;
        }
        Ok(())
    }
}

/// Writes one value of a family under its labels.
fn labelled(
    family: &mut MetricEncoder<'_>,
    labels: &[(&str, String)],
    write: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result {
    if labels.is_empty() { write(family) } else { write(&mut family.encode_family(&labels)?) }
}

/// Returns the seconds of so many microseconds.
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
