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
    /// The day from which days are counted: 1 January 1970, a Thursday.
    pub const FIRST: Self = Self { year: 1970, month: 1, day: 1 };

    /// Returns the day `year`-`month`-`day`, both counted from 1.
    ///
    /// # Errors
    /// There is no such day, or it is outside 1970..=9999.
    pub fn new(year: u16, month: u8, day: u8) -> Result<Self, DateError> {
        let exists = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of(year, month)).contains(&day);
        if exists { Ok(Self { year, month, day }) } else { Err(DateError::NoSuchDay) }
    }

    /// Parses a day that is written `YYYY-MM-DD`.
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

    /// Returns the day that is `days` days after 1 January 1970.
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
        WEEKDAYS.get(self.weekday() as usize).copied().unwrap_or("")
    }

    fn day_of_year(self) -> u32 {
        let before: u32 = (1..self.month).map(|m| u32::from(days_of(self.year, m))).sum();
        before + u32::from(self.day)
    }

    /// Returns the day of the week, counted from Sunday, 0.
    fn weekday(self) -> u32 {
        // Zeller's rule with March as the first month: January and February end the year before.
        let (shift, month) = if self.month < 3 { (1, self.month + 12) } else { (0, self.month) };
        let year = u32::from(self.year) - shift;
        let months = 13 * (u32::from(month) + 1) / 5;
        let day = u32::from(self.day) + months + year + year / 4 - year / 100 + year / 400 + 6;
        day % 7
    }

    /// Returns the year and the week of ISO 8601: weeks begin on Monday, and belong to the year of
    /// their Thursday.
    fn iso_week(self) -> (u32, u32) {
        let (year, day, from_monday) =
            (u32::from(self.year), self.day_of_year(), (self.weekday() + 6) % 7);
        let length = |year: u32| {
            let leap =
                year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            if leap { 366 } else { 365 }
        };
        let thursday = day + 3;
        match thursday.checked_sub(from_monday).filter(|thursday| *thursday > 0) {
            None => {
                let thursday = (thursday + length(year - 1)).saturating_sub(from_monday);
                (year - 1, (thursday - 1) / 7 + 1)
            }
            Some(thursday) if thursday > length(year) => {
                (year + 1, (thursday - length(year) - 1) / 7 + 1)
            }
            Some(thursday) => (year, (thursday - 1) / 7 + 1),
        }
    }

    /// Returns the day at midnight in the `strftime` format `format`, as the C library writes it in
    /// its own locale, for a time without a zone.
    ///
    /// # Errors
    /// The format has a directive that is not known.
    pub fn format(self, format: &str) -> Result<String, DateError> {
        let mut out = String::new();
        let mut letters = format.chars();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let mut directive = letters.next();
            let flag = directive.filter(|flag| matches!(flag, '-' | '_' | '0' | '^'));
            if flag.is_some() {
                directive = letters.next();
            }
            let directive = directive.ok_or(DateError::Directive { letter: None })?;
            self.put(&mut out, directive, flag)
                .ok_or(DateError::Directive { letter: Some(directive) })?;
        }
        Ok(out)
    }

    /// Writes what `directive` stands for; `None` if it stands for nothing.
    fn put(self, out: &mut String, directive: char, flag: Option<char>) -> Option<()> {
        let year = u32::from(self.year);
        let weeks = |first: u32| (self.day_of_year() + 6 - (self.weekday() + 7 - first) % 7) / 7;
        let (number, digits) = match directive {
            'Y' => (year, 4),
            'y' => (year % 100, 2),
            'C' => (year / 100, 2),
            'm' => (self.month.into(), 2),
            'd' | 'e' => (self.day.into(), 2),
            'j' => (self.day_of_year(), 3),
            'I' | 'l' => (12, 2),
            'H' | 'k' | 'M' | 'S' => (0, 2),
            'U' => (weeks(0), 2),
            'W' => (weeks(1), 2),
            'V' => (self.iso_week().1, 2),
            'G' => (self.iso_week().0, 4),
            'g' => (self.iso_week().0 % 100, 2),
            'u' => ((self.weekday() + 6) % 7 + 1, 1),
            'w' => (self.weekday(), 1),
            'f' if flag.is_none() => (0, 6),
            _ => return self.put_text(out, directive, flag),
        };
        let spaces = flag == Some('_') || (flag.is_none() && matches!(directive, 'e' | 'k' | 'l'));
        match flag {
            Some('-') => write!(out, "{number}").ok(),
            _ if spaces => write!(out, "{number:digits$}").ok(),
            _ => write!(out, "{number:0digits$}").ok(),
        }
    }

    fn put_text(self, out: &mut String, directive: char, flag: Option<char>) -> Option<()> {
        let composed = match directive {
            'c' => "%a %b %e %H:%M:%S %Y",
            'D' | 'x' => "%m/%d/%y",
            'F' => "%Y-%m-%d",
            'R' => "%H:%M",
            'T' | 'X' => "%H:%M:%S",
            'r' => "%I:%M:%S %p",
            _ => "",
        };
        let text = match directive {
            'B' => self.month_name(),
            'b' | 'h' => self.month_name().get(..SHORT)?,
            'A' => self.weekday_name(),
            'a' => self.weekday_name().get(..SHORT)?,
            'p' => "AM",
            'P' => "am",
            'n' => "\n",
            't' => "\t",
            '%' => "%",
            // A time without a zone has no name and no offset for it.
            'z' | 'Z' => "",
            _ if composed.is_empty() => return None,
            _ => &self.format(composed).ok()?,
        };
        match flag {
            None | Some('-') => out.push_str(text),
            Some('^') => out.push_str(&text.to_uppercase()),
            Some(_) => return None,
        }
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
    /// The calendar has no such day.
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
        assert_eq!(date.format("%Q"), Err(DateError::Directive { letter: Some('Q') }));
        assert_eq!(date.format("%Z|%-B"), Ok("|November".to_owned()), "as Python without a zone");
        assert_eq!(date.format("100%"), Err(DateError::Directive { letter: None }));
    }

    #[test]
    fn days_count_from_1970() {
        assert_eq!(Date::from_days_since_1970(0), Date::new(1970, 1, 1));
        assert_eq!(Date::from_days_since_1970(20_780), Date::new(2026, 11, 23));
        assert_eq!(Date::from_days_since_1970(u64::MAX), Err(DateError::NoSuchDay));
    }
}
