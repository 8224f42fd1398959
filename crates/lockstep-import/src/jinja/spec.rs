//! Formats one value as Python does: the mini-language behind `:` in `str.format`, which `%`
//! shares.

use super::budget::{Budget, Error, Result};
use super::python::float;
use super::strings::byte_of;
use super::text::{Builder, Origin, Text};
use super::value::Value;

/// A format specification, as in Python's `format`.
#[derive(Debug, Clone, Default)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    pub(super) align: Option<char>,
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

/// Digits behind the point that any number may be asked for.
const MAX_PRECISION: usize = 1024;

impl Spec {
    /// Parses a format specification.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut spec = Self::default();
        let mut letters: std::iter::Peekable<std::str::Chars<'_>> = text.chars().peekable();
        let mut ahead = text.chars();
        let (first, second) = (ahead.next(), ahead.next());
        let is_align = |letter: Option<char>| matches!(letter, Some('<' | '>' | '=' | '^'));
        if is_align(second) {
            (spec.fill, spec.align) = (first, second);
            letters.next();
            letters.next();
        } else if is_align(first) {
            spec.align = letters.next();
        }
        spec.sign = letters.next_if(|letter| matches!(letter, '+' | '-' | ' '));
        if letters.next_if_eq(&'z').is_some() {
            return Err(Error::fails("the option z of format is not supported"));
        }
        spec.alternate = letters.next_if_eq(&'#').is_some();
        if letters.next_if_eq(&'0').is_some() {
            spec.fill.get_or_insert('0');
            spec.align.get_or_insert('=');
        }
        spec.width = digits(&mut letters)?.unwrap_or_default();
        spec.grouping = letters.next_if(|letter| matches!(letter, ',' | '_'));
        if letters.next_if_eq(&'.').is_some() {
            let missing = || Error::fails("Format specifier missing precision");
            spec.precision = Some(digits(&mut letters)?.ok_or_else(missing)?);
        }
        spec.kind = letters.next();
        if letters.next().is_some() {
            return Err(Error::fails(format!("Invalid format specifier '{text}'")));
        }
        Ok(spec)
    }

    /// Writes `value` by this specification.
    pub(super) fn write(&self, out: &mut Builder<'_>, value: &Value) -> Result<()> {
        match value {
            Value::Str(text) => self.string(out, text),
            Value::Int(number) => self.integer(out, *number),
            Value::Bool(value) if self.kind.is_some() => self.integer(out, i128::from(*value)),
            Value::Float(number) => self.float(out, *number),
            other if self.is_empty() => super::python::write_str(out, other),
            Value::Bool(value) => {
                let text = Text::template(out.budget(), if *value { "True" } else { "False" })?;
                self.string(out, &text)
            }
            other => Err(Error::fails(format!(
                "unsupported format string passed to {}.__format__",
                other.type_name()
            ))),
        }
    }

    fn is_empty(&self) -> bool {
        let Self { fill, align, sign, alternate, width, grouping, precision, kind } = self;
        fill.is_none()
            && align.is_none()
            && sign.is_none()
            && !alternate
            && *width == 0
            && grouping.is_none()
            && precision.is_none()
            && kind.is_none()
    }

    fn unknown<T>(&self, of: &str) -> Result<T> {
        let kind = self.kind.unwrap_or(' ');
        Err(Error::fails(format!("Unknown format code '{kind}' for object of type '{of}'")))
    }

    fn string(&self, out: &mut Builder<'_>, text: &Text) -> Result<()> {
        if !matches!(self.kind, None | Some('s')) {
            return self.unknown("str");
        }
        if self.sign.is_some() || self.alternate || self.grouping.is_some() {
            return Err(Error::fails("Sign, # or grouping not allowed in string format specifier"));
        }
        if self.align == Some('=') {
            return Err(Error::fails("'=' alignment not allowed in string format specifier"));
        }
        let whole = text.as_str();
        out.budget().read(whole.len())?;
        let end = self.precision.map_or(whole.len(), |precision| byte_of(whole, precision));
        let cut = text.slice(out.budget(), 0..end)?;
        let fill = self.fill_text(out.budget())?;
        let missing = self.width.saturating_sub(cut.chars());
        let before = match self.align {
            Some('>') => missing,
            Some('^') => missing / 2,
            _ => 0,
        };
        out.push_times(&fill, before)?;
        out.push(&cut)?;
        out.push_times(&fill, missing - before)
    }

    fn fill_text(&self, budget: &Budget) -> Result<Text> {
        // The specification may be a user's, and so the character.
        let origin = if self.fill.is_some() { Origin::User } else { Origin::Template };
        Text::new(budget, &self.fill.unwrap_or(' ').to_string(), origin)
    }

    fn integer(&self, out: &mut Builder<'_>, number: i128) -> Result<()> {
        let size = number.unsigned_abs();
        let (digits, prefix) = match self.kind {
            None | Some('d' | 'n') => (size.to_string(), ""),
            Some('b') => (format!("{size:b}"), "0b"),
            Some('o') => (format!("{size:o}"), "0o"),
            Some('x') => (format!("{size:x}"), "0x"),
            Some('X') => (format!("{size:X}"), "0X"),
            Some('c') => {
                let letter = u32::try_from(number).ok().and_then(char::from_u32);
                let letter = letter.ok_or_else(|| Error::fails("%c arg not in range"))?;
                let text = Text::new(out.budget(), &letter.to_string(), Origin::User)?;
                return Self { kind: None, ..self.clone() }.string(out, &text);
            }
            Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => return self.float(out, number as f64),
            Some(_) => return self.unknown("int"),
        };
        if self.precision.is_some() {
            return Err(Error::fails("Precision not allowed in integer format specifier"));
        }
        let prefix = if self.alternate { prefix } else { "" };
        let group = if matches!(self.kind, None | Some('d' | 'n')) { 3 } else { 4 };
        self.number(out, number < 0, prefix, &digits, "", group)
    }

    fn float(&self, out: &mut Builder<'_>, number: f64) -> Result<()> {
        let text = self.float_digits(number.abs())?;
        let negative = number.is_sign_negative() && !number.is_nan();
        let whole = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (digits, rest) = text.split_at_checked(whole).unwrap_or((&text, ""));
        self.number(out, negative, "", digits, rest, 3)
    }

    fn float_digits(&self, size: f64) -> Result<String> {
        let precision = self.precision.unwrap_or(6);
        if precision > MAX_PRECISION {
            return Err(Error::fails("precision too big"));
        }
        let upper = matches!(self.kind, Some('E' | 'F' | 'G'));
        let text = match self.kind {
            _ if !size.is_finite() => {
                let text = if size.is_nan() { "nan" } else { "inf" };
                let percent = if self.kind == Some('%') { "%" } else { "" };
                format!("{text}{percent}")
            }
            Some('f' | 'F') => format!("{size:.precision$}"),
            Some('%') => format!("{:.precision$}%", size * 100.0),
            Some('e' | 'E') => scientific(size, precision),
            Some('g' | 'G' | 'n') => general(size, precision, self.alternate),
            None if self.precision.is_none() => float(size),
            None => {
                let text = general(size, precision, false);
                let is_whole = text.bytes().all(|byte| byte.is_ascii_digit());
                if is_whole { text + ".0" } else { text }
            }
            Some(_) => return self.unknown("float"),
        };
        Ok(if upper { text.to_uppercase() } else { text })
    }

    /// Writes sign, prefix, grouped digits and the rest in a field.
    fn number(
        &self,
        out: &mut Builder<'_>,
        negative: bool,
        prefix: &str,
        digits: &str,
        rest: &str,
        group: usize,
    ) -> Result<()> {
        let sign = match (negative, self.sign) {
            (true, _) => "-",
            (false, Some('+')) => "+",
            (false, Some(' ')) => " ",
            _ => "",
        };
        let zeros = self.fill == Some('0') && self.align == Some('=');
        let fixed = sign.len() + prefix.len() + rest.len();
        let digits = match self.grouping {
            None => digits.to_owned(),
            Some(mark) => {
                let room = if zeros { self.width.saturating_sub(fixed) } else { 0 };
                out.budget().make_times(room, 4)?;
                grouped(digits, mark, group, room)
            }
        };
        let missing = self.width.saturating_sub(fixed + digits.len());
        let (before, inside, behind) = match self.align.unwrap_or('>') {
            '<' => (0, 0, missing),
            '^' => (missing / 2, 0, missing - missing / 2),
            '=' => (0, missing, 0),
            _ => (missing, 0, 0),
        };
        let fill = self.fill_text(out.budget())?;
        out.push_times(&fill, before)?;
        out.own(sign)?;
        out.own(prefix)?;
        out.push_times(&fill, inside)?;
        out.own(&digits)?;
        out.own(rest)?;
        out.push_times(&fill, behind)
    }
}

fn digits(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Option<usize>> {
    let mut found: Option<usize> = None;
    while let Some(digit) = letters.peek().and_then(|letter| letter.to_digit(10)) {
        letters.next();
        let longer = found.unwrap_or_default().checked_mul(10);
        let longer = longer.and_then(|number| number.checked_add(digit as usize));
        found =
            Some(longer.ok_or_else(|| Error::fails("Too many decimal digits in format string"))?);
    }
    Ok(found)
}

/// Returns `digits` with `mark` between groups of `group`, and with zeros before them until there
/// are `room` characters.
fn grouped(digits: &str, mark: char, group: usize, room: usize) -> String {
    let mut reversed = String::new();
    let zeros = std::iter::repeat('0');
    for (at, digit) in digits.chars().rev().chain(zeros).enumerate() {
        let marked = at > 0 && at % group == 0;
        let len = reversed.len() + usize::from(marked);
        if at >= digits.len() && len >= room.max(1) {
            // A field does not begin with the mark; one more digit is written instead.
            if !(marked && reversed.len() < room) {
                break;
            }
        }
        if marked {
            reversed.push(mark);
        }
        reversed.push(digit);
    }
    reversed.chars().rev().collect()
}

/// Returns a number as `%e` writes it.
fn scientific(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

/// Returns a number as `%g` writes it.
fn general(size: f64, precision: usize, keep_zeros: bool) -> String {
    let precision = precision.max(1);
    let text = scientific(size, precision - 1);
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let trimmed = |text: &str| {
        if keep_zeros || !text.contains('.') {
            return text.to_owned();
        }
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if exponent < -4 || exponent >= precision as i32 {
        let (_, written) = text.split_once('e').unwrap_or(("", "+00"));
        return format!("{}e{written}", trimmed(digits));
    }
    let behind = (precision as i32 - 1 - exponent).max(0) as usize;
    trimmed(&format!("{size:.behind$}"))
}
