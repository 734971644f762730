//! Parses the lines typed at the terminal.

/// A parsed line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A message to the device with this name or UUID.
    To(String, String),
    /// A message to that device which it is to acknowledge.
    Acknowledged(String, String),
    /// A message to this topic.
    Topic(String, String),
    /// A message to the recipient of the last one.
    Again(String),
    Subscribe(String),
    Unsubscribe(String),
    Who,
    Help,
    Quit,
    /// An invalid line, with the reason.
    Wrong(&'static str),
}

pub(super) fn read(line: &str) -> Line {
    let line = line.trim();
    let (word, rest) = cut(line);
    let (argument, text) = argument(rest);
    match (word, argument.is_empty(), text.is_empty()) {
        ("", ..) => Line::Wrong("/help lists the commands"),
        ("/to", true, _) => Line::Wrong("the recipient is missing: /to NAME TEXT"),
        ("/to", _, true) => Line::Wrong("the text is missing: /to NAME TEXT"),
        ("/to", ..) => Line::To(argument, text),
        ("/ack", true, _) => Line::Wrong("the recipient is missing: /ack NAME TEXT"),
        ("/ack", _, true) => Line::Wrong("the text is missing: /ack NAME TEXT"),
        ("/ack", ..) => Line::Acknowledged(argument, text),
        ("/topic", _, true) => Line::Wrong("the text is missing: /topic ID TEXT"),
        ("/topic", ..) => Line::Topic(argument, text),
        ("/subscribe", true, _) => Line::Wrong("the topic is missing: /subscribe ID"),
        ("/subscribe", ..) => Line::Subscribe(rest.to_owned()),
        ("/unsubscribe", true, _) => Line::Wrong("the topic is missing: /unsubscribe ID"),
        ("/unsubscribe", ..) => Line::Unsubscribe(rest.to_owned()),
        ("/who", ..) => Line::Who,
        ("/help", ..) => Line::Help,
        ("/quit", ..) => Line::Quit,
        (word, ..) if word.starts_with('/') => Line::Wrong("unknown command, /help lists the commands"),
        _ => Line::Again(line.to_owned()),
    }
}

/// The first word and the rest.
fn cut(text: &str) -> (&str, &str) {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (word, rest.trim_start())
}

/// The first word or quoted text, and the rest.
fn argument(text: &str) -> (String, String) {
    let (argument, rest) = match text.strip_prefix('"').and_then(|text| text.split_once('"')) {
        Some((quoted, rest)) => (quoted, rest.trim_start()),
        None => cut(text),
    };
    (argument.to_owned(), rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let own = str::to_owned;
        for (line, expected) in [
            ("/to Bob Hello you", Line::To(own("Bob"), own("Hello you"))),
            ("  /to   Bob   Hello ", Line::To(own("Bob"), own("Hello"))),
            ("/to \"Big Box\" Hello", Line::To(own("Big Box"), own("Hello"))),
            ("/to \"Big Hello", Line::To(own("\"Big"), own("Hello"))),
            ("/to Bob", Line::Wrong("the text is missing: /to NAME TEXT")),
            ("/to", Line::Wrong("the recipient is missing: /to NAME TEXT")),
            ("/ack \"Big Box\" Hello", Line::Acknowledged(own("Big Box"), own("Hello"))),
            ("/ack Bob", Line::Wrong("the text is missing: /ack NAME TEXT")),
            ("/ack", Line::Wrong("the recipient is missing: /ack NAME TEXT")),
            ("/topic weather It rains.", Line::Topic(own("weather"), own("It rains."))),
            ("/topic weather", Line::Wrong("the text is missing: /topic ID TEXT")),
            ("/subscribe a b", Line::Subscribe(own("a b"))),
            ("/subscribe", Line::Wrong("the topic is missing: /subscribe ID")),
            ("/unsubscribe weather", Line::Unsubscribe(own("weather"))),
            ("/who", Line::Who),
            ("/help", Line::Help),
            ("/quit", Line::Quit),
            ("/nope", Line::Wrong("unknown command, /help lists the commands")),
            ("", Line::Wrong("/help lists the commands")),
            ("Hello to all", Line::Again(own("Hello to all"))),
        ] {
            assert_eq!(read(line), expected, "{line}");
        }
    }
}
