//! A calendar day, and the part of `strftime` that chat templates use.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// Letters of an abbreviated name of a month or weekday.
const SHORT: usize = 3;

/// A day of the Gregorian calendar from 1970 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// The day `year`-`month`-`day`, both counted from 1.
    ///
    /// # Errors
    /// There is no such day, or it is outside 1970..=9999.
    pub fn new(year: u16, month: u8, day: u8) -> Result<Self, DateError> {
        let exists = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day);
        if exists { Ok(Self { year, month, day }) } else { Err(DateError::NoSuchDay) }
    }

    /// Reads `YYYY-MM-DD`.
    ///
    /// # Errors
    /// The text is something else, or there is no such day.
    pub fn parse(text: &str) -> Result<Self, DateError> {
        let number = |from: usize, to: usize| {
            let digits = text.get(from..to).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
            digits.and_then(|digits| digits.parse::<u16>().ok()).ok_or(DateError::NoSuchDay)
        };
        let (Some("-"), Some("-"), 10) = (text.get(4..5), text.get(7..8), text.len()) else {
            return Err(DateError::NoSuchDay);
        };
        Self::new(number(0, 4)?, number(5, 7)? as u8, number(8, 10)? as u8)
    }

    /// The day that is `days` days after 1 January 1970.
    ///
    /// # Errors
    /// The day is after 9999.
    pub fn from_days_since_1970(mut days: u64) -> Result<Self, DateError> {
        for year in 1970..=9999 {
            for month in 1..=12 {
                let length = u64::from(days_of(year, month));
                if days < length {
                    return Self::new(year, month, days as u8 + 1);
                }
                days -= length;
            }
        }
        Err(DateError::NoSuchDay)
    }

    fn month_name(self) -> &'static str {
        MONTHS.get(usize::from(self.month) - 1).copied().unwrap_or("")
    }

    fn weekday_name(self) -> &'static str {
        // Zeller's rule with March as the first month: January and February end the year before.
        let (shift, month) = if self.month < 3 { (1, self.month + 12) } else { (0, self.month) };
        let year = u32::from(self.year) - shift;
        let months = 13 * (u32::from(month) + 1) / 5;
        let day = u32::from(self.day) + months + year + year / 4 - year / 100 + year / 400 + 6;
        WEEKDAYS.get((day % 7) as usize).copied().unwrap_or("")
    }

    fn day_of_year(self) -> u32 {
        let before: u32 = (1..self.month).map(|m| u32::from(days_of(self.year, m))).sum();
        before + u32::from(self.day)
    }

    /// The day at midnight in the `strftime` format `format`.
    ///
    /// # Errors
    /// The format has a directive that depends on more than the day.
    pub fn format(self, format: &str) -> Result<String, DateError> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let directive = letters.next();
            let unpadded = directive == Some('-');
            let directive = if unpadded { letters.next() } else { directive };
            let directive = directive.ok_or(DateError::Directive { letter: None })?;
            self.put(&mut out, directive, unpadded)
                .ok_or(DateError::Directive { letter: Some(directive) })?;
        }
        Ok(out)
    }

    /// Writes what `directive` stands for; `None` if it stands for nothing.
    fn put(self, out: &mut String, directive: char, unpadded: bool) -> Option<()> {
        let (number, digits) = match directive {
            'Y' => (self.year.into(), 4),
            'y' => (u32::from(self.year) % 100, 2),
            'm' => (self.month.into(), 2),
            'd' => (self.day.into(), 2),
            'j' => (self.day_of_year(), 3),
            'I' => (12, 2),
            'H' | 'M' | 'S' => (0, 2),
            _ if unpadded => return None,
            _ => return self.put_text(out, directive),
        };
        let digits = if unpadded { 0 } else { digits };
        write!(out, "{number:0digits$}").ok()
    }

    fn put_text(self, out: &mut String, directive: char) -> Option<()> {
        let text = match directive {
            'B' => self.month_name(),
            'b' | 'h' => self.month_name().get(..SHORT)?,
            'A' => self.weekday_name(),
            'a' => self.weekday_name().get(..SHORT)?,
            'T' | 'X' => "00:00:00",
            'p' => "AM",
            '%' => "%",
            'e' => return write!(out, "{:2}", self.day).ok(),
            'F' => return write!(out, "{}-{:02}-{:02}", self.year, self.month, self.day).ok(),
            _ => return None,
        };
        out.push_str(text);
        Some(())
    }
}

fn days_of(year: u16, month: u8) -> u8 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Why a date could not be made or shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DateError {
    /// A format directive that a day does not answer.
    #[error("strftime_now knows no directive %{}", letter.map_or(String::new(), String::from))]
    Directive {
        /// The directive's letter, if there was one.
        letter: Option<char>,
    },
    /// Not a day of the calendar.
    #[error("not a date of the form YYYY-MM-DD from 1970 to 9999")]
    NoSuchDay,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(date: &str, format: &str) -> String {
        Date::parse(date).unwrap().format(format).unwrap()
    }

    #[test]
    fn formats_that_templates_use_show_the_day() {
        assert_eq!(shown("2026-11-23", "%d %b %Y"), "23 Nov 2026");
        assert_eq!(shown("2026-11-23", "%A, %B %-d, %Y"), "Monday, November 23, 2026");
        assert_eq!(shown("2024-02-29", "%F %j %a %e"), "2024-02-29 060 Thu 29");
        assert_eq!(shown("2000-01-01", "%y/%m/%-d 100%%"), "00/01/1 100%");
        assert_eq!(shown("1970-01-01", "%a %H:%M:%S"), "Thu 00:00:00");
    }

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for text in
            ["2026-02-29", "2026-13-01", "2026-00-10", "26-01-01", "2026-1-011", "", "+026-01-01"]
        {
            assert_eq!(Date::parse(text), Err(DateError::NoSuchDay), "{text}");
        }
    }

    #[test]
    fn unknown_directives_are_refused() {
        let date = Date::parse("2026-11-23").unwrap();
        assert_eq!(date.format("%Z"), Err(DateError::Directive { letter: Some('Z') }));
        assert_eq!(date.format("%-B"), Err(DateError::Directive { letter: Some('B') }));
        assert_eq!(date.format("100%"), Err(DateError::Directive { letter: None }));
    }

    #[test]
    fn days_count_from_1970() {
        assert_eq!(Date::from_days_since_1970(0), Date::new(1970, 1, 1));
        assert_eq!(Date::from_days_since_1970(20_780), Date::new(2026, 11, 23));
        assert_eq!(Date::from_days_since_1970(u64::MAX), Err(DateError::NoSuchDay));
    }
}
