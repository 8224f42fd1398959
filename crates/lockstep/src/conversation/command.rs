//! Parses a line of a chat: a command that begins with `/`, or a message.

/// The text that `/help` prints.
pub(crate) const HELP: &str = "\
/clear              start over; the system message stays
/system TEXT        set the system message; without TEXT, show it
/set NAME VALUE     set a parameter; without NAME, show all of them
/set verbose        show times and rates after each answer (/set quiet: don't)
/set full drop      drop the oldest turns when the context is full (/set full ask: ask)
/save NAME          keep the conversation under a name
/load NAME          go on with one that was kept
/retry              answer the last message again
/drop [N]           forget the N oldest turns (1)
/model NAME         go on with another model; without NAME, say which it is
/proof              what was checked of the last answer, and how surely
/help, /?           this list
/bye, /exit, /quit  leave (also Ctrl-D)
\"\"\"                 begins and ends a message of several lines; pasted lines are one message
Ctrl-C              ends an answer; twice at the prompt, the chat
";

/// The names of the commands that are completed: one for each.
pub(super) const NAMES: [&str; 11] =
    ["bye", "clear", "drop", "help", "load", "model", "proof", "retry", "save", "set", "system"];

/// A command of a chat, or a message to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// The person leaves the chat.
    Bye,
    /// The conversation starts over; the system message stays.
    Clear,
    /// The conversation forgets this many of its oldest turns.
    Drop(usize),
    /// The chat explains its commands.
    Help,
    /// Go on with a conversation that was kept.
    Load(String),
    /// The model answers this message.
    Message(String),
    /// Go on with another model, or say which it is.
    Model(Option<String>),
    /// The line was empty, and nothing happens.
    Nothing,
    /// The chat shows what was checked of the last answer.
    Proof,
    /// The model answers the last message again.
    Retry,
    /// The conversation is kept under this name.
    Save(String),
    /// Set a parameter to a value, or show all of them.
    Set(Option<(String, String)>),
    /// Set the system message, or show it.
    System(Option<String>),
    /// Something that can't be done, and why.
    Wrong(String),
}

impl Command {
    /// Reads a line, or lines that belong together.
    pub(crate) fn of(text: &str) -> Self {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Self::Nothing;
        }
        let Some(rest) = text.strip_prefix('/').filter(|_| is_one_command(text)) else {
            return Self::Message(unquoted(trimmed).to_owned());
        };
        let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let value = unquoted(value.trim());
        Self::named(name.trim(), value)
    }

    fn named(name: &str, value: &str) -> Self {
        let given = || Some(value.to_owned()).filter(|value| !value.is_empty());
        let needs = |of: fn(String) -> Self| {
            given().map_or_else(|| Self::Wrong(format!("/{name} needs a name: /{name} NAME")), of)
        };
        match name {
            "bye" | "exit" | "quit" => Self::Bye,
            "clear" => Self::Clear,
            "drop" => match value.parse() {
                _ if value.is_empty() => Self::Drop(1),
                Ok(count) if count > 0 => Self::Drop(count),
                _ => Self::Wrong(format!("/drop: expected a number of turns, got {value:?}")),
            },
            "help" | "?" => Self::Help,
            "load" => needs(Self::Load),
            "model" => Self::Model(given()),
            "proof" => Self::Proof,
            "retry" => Self::Retry,
            "save" => needs(Self::Save),
            "set" | "show" => Self::setting(value),
            "system" => Self::System(given()),
            _ => Self::Wrong(format!(
                "/{name} is no command; /help lists them (a space before it makes it a message)"
            )),
        }
    }

    fn setting(value: &str) -> Self {
        // `/set parameter NAME VALUE` is what people know from elsewhere.
        let value = value.strip_prefix("parameter").map_or(value, str::trim_start);
        let (name, value) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
        match (name, unquoted(value.trim())) {
            ("", _) => Self::Set(None),
            ("system", "") => Self::System(None),
            ("system", text) => Self::System(Some(text.to_owned())),
            (name, value) => Self::Set(Some((name.to_owned(), value.to_owned()))),
        }
    }
}

/// Returns whether text that begins with `/` is one command: pasted lines are a message, unless
/// quotes hold them together.
fn is_one_command(text: &str) -> bool {
    !text.trim_end().contains('\n') || text.contains(QUOTES)
}

/// The quotes that hold several lines together as one message.
const QUOTES: &str = "\"\"\"";

/// Returns whether text ends inside the quotes that it begins, so that more lines belong to it.
pub(crate) fn is_open(text: &str) -> bool {
    let begins = text.trim_start();
    let is_quoting =
        begins.starts_with(QUOTES) || (begins.starts_with('/') && is_one_command(text));
    is_quoting && text.matches(QUOTES).count() % 2 == 1
}

/// Returns the text between the quotes, if it is in quotes.
fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix(QUOTES).and_then(|text| text.strip_suffix(QUOTES));
    inner.map_or(text, |inner| inner.trim_matches(['\r', '\n']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Command {
        Command::Message(text.to_owned())
    }

    fn set(name: &str, value: &str) -> Command {
        Command::Set(Some((name.to_owned(), value.to_owned())))
    }

    #[test]
    fn commands_are_read_with_their_values() {
        for (text, command) in [
            ("/bye", Command::Bye),
            ("/exit ", Command::Bye),
            ("/quit", Command::Bye),
            ("/clear", Command::Clear),
            ("/?", Command::Help),
            ("/drop", Command::Drop(1)),
            ("/drop 3", Command::Drop(3)),
            ("/load tale", Command::Load("tale".to_owned())),
            ("/save  tale ", Command::Save("tale".to_owned())),
            ("/model", Command::Model(None)),
            ("/model qwen", Command::Model(Some("qwen".to_owned()))),
            ("/system You are terse.", Command::System(Some("You are terse.".to_owned()))),
            ("/system", Command::System(None)),
            ("/set system Be brief.", Command::System(Some("Be brief.".to_owned()))),
            ("/set", Command::Set(None)),
            ("/set temperature 0.5", set("temperature", "0.5")),
            ("/set parameter seed 7", set("seed", "7")),
            ("/set verbose", set("verbose", "")),
            ("  ", Command::Nothing),
        ] {
            assert_eq!(Command::of(text), command, "{text:?}");
        }
    }

    #[test]
    fn every_name_is_a_command_and_is_explained() {
        for name in NAMES {
            let command = Command::of(&format!("/{name}"));
            let is_known = !matches!(&command, Command::Wrong(why) if why.contains("no command"));
            assert!(is_known, "{name}");
            assert!(HELP.contains(&format!("/{name}")), "{name}");
        }
    }

    #[test]
    fn what_is_no_command_is_said() {
        for (text, word) in [
            ("/foo", "/foo is no command; /help"),
            ("/byebye", "/byebye is no command"),
            ("/drop many", "expected a number"),
            ("/drop 0", "expected a number"),
            ("/save", "/save NAME"),
            ("/", "/ is no command"),
        ] {
            let Command::Wrong(why) = Command::of(text) else { panic!("{text}") };
            assert!(why.contains(word), "{text}: {why}");
        }
    }

    #[test]
    fn messages_are_as_they_were_typed() {
        assert_eq!(Command::of(" /etc/hosts: what is it?"), message("/etc/hosts: what is it?"));
        assert_eq!(Command::of("hello\n"), message("hello"));
        assert_eq!(Command::of("/bin/sh\n/bin/ls"), message("/bin/sh\n/bin/ls"), "pasted");
        assert_eq!(Command::of("\"\"\"\none\n/bye\n\"\"\""), message("one\n/bye"));
        assert_eq!(Command::of("\"\"\"one\"\"\""), message("one"));
        assert_eq!(
            Command::of("/system \"\"\"one\ntwo\"\"\""),
            Command::System(Some("one\ntwo".to_owned()))
        );
    }

    #[test]
    fn quotes_hold_lines_together_until_they_close() {
        for (text, expected) in [
            ("\"\"\"", true),
            ("\"\"\"one\ntwo", true),
            ("\"\"\"one\ntwo\"\"\"", false),
            ("/system \"\"\"one", true),
            ("say \"\"\"", false),
            ("hello", false),
        ] {
            assert_eq!(is_open(text), expected, "{text:?}");
        }
    }
}
