//! The hours of the day in which a server serves, by coordinated universal time (UTC): the standard
//! library knows no other, and hours of UTC mean the same to everybody in a swarm.

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::sleep;

const MINUTES_OF_DAY: u32 = 24 * 60;
/// The longest time between two looks at the clock, which may be set anew meanwhile, and stands
/// still in nobody's memory while the machine sleeps.
const LOOK: Duration = Duration::from_secs(30);

/// A window of the day, which comes round every day and may go over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hours {
    /// The first minute of the window, counted from midnight.
    first: u32,
    /// The minute after the last.
    end: u32,
}

/// The text that is no window of the day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NoHours(String);

impl fmt::Display for NoHours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "expected FIRST-END in hours of the day by UTC, such as 22-7 or 22:30-7:15, the end \
             not included, got {:?}",
            self.0
        )
    }
}

impl Error for NoHours {}

impl FromStr for Hours {
    type Err = NoHours;

    fn from_str(text: &str) -> Result<Self, NoHours> {
        let both =
            text.split_once('-').and_then(|(first, end)| Some((minute(first)?, minute(end)?)));
        let (first, end) = both.ok_or_else(|| NoHours(text.to_owned()))?;
        let hours = Self { first: first % MINUTES_OF_DAY, end: end % MINUTES_OF_DAY };
        if hours.first == hours.end { Err(NoHours(text.to_owned())) } else { Ok(hours) }
    }
}

/// Parses a time of the day, such as 7 or 22:30, as minutes from midnight.
fn minute(text: &str) -> Option<u32> {
    let number = |text: &str| {
        let is_short = (1..=2).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
        is_short.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (hour, minute) = match text.trim().split_once(':') {
        None => (number(text.trim())?, 0),
        Some((hour, minute)) => (number(hour)?, number(minute).filter(|minute| *minute < 60)?),
    };
    let minutes = hour * 60 + minute;
    (minutes <= MINUTES_OF_DAY).then_some(minutes)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, end } = self;
        let (from, to) = ((first / 60, first % 60), (end / 60, end % 60));
        write!(f, "{:02}:{:02} to {:02}:{:02} UTC", from.0, from.1, to.0, to.1)
    }
}

impl Hours {
    /// Returns whether `unix_s`, in seconds since 1970, is inside of the window.
    pub(crate) fn has(self, unix_s: u64) -> bool {
        let now = minute_of(unix_s);
        match self.first < self.end {
            true => (self.first..self.end).contains(&now),
            false => now >= self.first || now < self.end,
        }
    }

    /// Returns the time from `unix_s` until the window begins or ends, whichever is next.
    fn until_change(self, unix_s: u64) -> Duration {
        let next = if self.has(unix_s) { self.end } else { self.first };
        let minutes = (next + MINUTES_OF_DAY - minute_of(unix_s)) % MINUTES_OF_DAY;
        let minutes = if minutes == 0 { MINUTES_OF_DAY } else { minutes };
        Duration::from_secs((u64::from(minutes) * 60).saturating_sub(unix_s % 60))
    }

    /// Returns the time after which to look at the clock again, for who waits at `unix_s` until the
    /// window has begun, or if not `begun` has ended; `None` if it has.
    fn pause(self, begun: bool, unix_s: u64) -> Option<Duration> {
        (self.has(unix_s) != begun).then(|| self.until_change(unix_s).min(LOOK))
    }

    /// Waits until the window has begun.
    pub(crate) async fn begun(self) {
        while let Some(pause) = self.pause(true, unix_s()) {
            sleep(pause).await;
        }
    }

    /// Waits until the window has ended.
    pub(crate) async fn ended(self) {
        while let Some(pause) = self.pause(false, unix_s()) {
            sleep(pause).await;
        }
    }

    /// Returns whether now is inside of the window.
    pub(crate) fn has_now(self) -> bool {
        self.has(unix_s())
    }
}

fn minute_of(unix_s: u64) -> u32 {
    u32::try_from(unix_s / 60 % u64::from(MINUTES_OF_DAY)).unwrap_or(0)
}

/// Returns the seconds since 1970, and 0 if the clock is before that.
fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds of a day at a time.
    const fn at(hour: u64, minute: u64, second: u64) -> u64 {
        5 * 86_400 + hour * 3_600 + minute * 60 + second
    }

    fn hours(text: &str) -> Hours {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_may_go_over_midnight_and_has_its_beginning_and_not_its_end() {
        let night = hours("22-7");
        for (hour, minute, is_inside) in [
            (21, 59, false),
            (22, 0, true),
            (23, 59, true),
            (0, 0, true),
            (6, 59, true),
            (7, 0, false),
        ] {
            assert_eq!(night.has(at(hour, minute, 59)), is_inside, "{hour}:{minute}");
        }
        let day = hours("9:30-17:05");
        assert!(!day.has(at(9, 29, 59)) && day.has(at(9, 30, 0)));
        assert!(day.has(at(17, 4, 59)) && !day.has(at(17, 5, 0)));
        assert!(hours("20-24").has(at(23, 59, 59)) && !hours("20-24").has(at(0, 0, 0)));
        assert_eq!(
            (hours("20-24"), night.to_string().as_str()),
            (hours("20-0"), "22:00 to 07:00 UTC")
        );
    }

    #[test]
    fn the_next_change_is_never_missed_and_never_now() {
        let night = hours("22-7");
        assert_eq!(night.until_change(at(21, 0, 1)), Duration::from_secs(3_599));
        assert_eq!(night.until_change(at(22, 0, 0)), Duration::from_secs(9 * 3_600));
        for second in (0..2 * 86_400).step_by(97) {
            let (now, wait) = (at(0, 0, second), night.until_change(at(0, 0, second)));
            assert!(!wait.is_zero());
            assert_ne!(night.has(now + wait.as_secs()), night.has(now), "{second}");
            assert_eq!(night.has(now + wait.as_secs() - 1), night.has(now), "{second}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_what_was_expected() {
        for text in
            ["", "22", "22-", "-7", "7-7", "0-24", "25-3", "24:01-3", "2:60-4", "a-b", "1-2-3"]
        {
            let error = text.parse::<Hours>().unwrap_err().to_string();
            assert!(error.contains("22-7") && error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn whoever_waits_is_woken_at_the_beginning_and_at_the_end_also_after_a_sleep() {
        let (night, mut now) = (hours("22-7"), at(21, 58, 30));
        while let Some(pause) = night.pause(true, now) {
            assert!(pause <= LOOK);
            now += pause.as_secs();
        }
        assert_eq!((now, night.pause(true, now)), (at(22, 0, 0), None));
        while let Some(pause) = night.pause(false, now) {
            now += pause.as_secs();
        }
        assert_eq!(now, at(31, 0, 0));
        // The machine slept over the beginning: the next look finds it begun.
        assert!(night.pause(true, at(21, 0, 0)).is_some());
        assert_eq!(night.pause(true, at(23, 0, 0)), None);
    }
}
