//! Rules for usernames and email addresses.

/// Fewest characters of a username.
pub const MIN_CHARS: usize = 3;
/// Most characters of a username that is not an email address.
pub const MAX_CHARS: usize = 50;
/// Most characters of an email address.
pub const MAX_EMAIL_CHARS: usize = 254;

/// Why a text is not a username.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadUsername {
    /// Fewer characters than a username has.
    #[error("a username has at least {MIN_CHARS} characters")]
    TooShort,
    /// More characters than a username has, and no email address.
    #[error("a username has at most {MAX_CHARS} characters, unless it is an email address")]
    TooLong,
    /// Characters that cannot be seen.
    #[error("a username has no control characters, and no spaces at its beginning or end")]
    Invisible,
}

/// Checks a username: 3 to 50 characters, or an email address.
///
/// # Errors
/// What is wrong with it.
pub fn check(username: &str) -> Result<(), BadUsername> {
    let chars = username.chars().count();
    if chars < MIN_CHARS {
        Err(BadUsername::TooShort)
    } else if chars > MAX_CHARS && !(chars <= MAX_EMAIL_CHARS && is_email(username)) {
        Err(BadUsername::TooLong)
    } else if username.contains(char::is_control) || username.trim() != username {
        Err(BadUsername::Invisible)
    } else {
        Ok(())
    }
}

/// Whether a text has the shape of an email address.
pub fn is_email(text: &str) -> bool {
    let plain = !text.contains(|c: char| c.is_whitespace() || c.is_control());
    plain
        && text.rsplit_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && domain.contains('.') && !domain.starts_with('.') && !domain.ends_with('.')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_username_is_short_or_an_email_address() {
        let long_email = format!("{}@example.org", "x".repeat(60));
        for good in ["abc", "üüü", "a b c", &"x".repeat(50), &long_email] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", BadUsername::TooShort),
            ("üü", BadUsername::TooShort),
            (&"x".repeat(51), BadUsername::TooLong),
            (&format!("{}@example.org", "x".repeat(250)), BadUsername::TooLong),
            (" abc", BadUsername::Invisible),
            ("a\nbc", BadUsername::Invisible),
        ] {
            assert_eq!(check(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn email_addresses_are_told_by_their_shape() {
        for good in ["a@b.co", "first.last+tag@sub.example.org", "ü@exämple.org"] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "a", "@b.co", "a@", "a@b", "a b@c.co", "a@.co", "a@b.", "a@b.co\n"] {
            assert!(!is_email(bad), "{bad}");
        }
    }
}
