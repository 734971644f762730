//! Rules for new passwords.

/// Shortest password in characters, whatever the settings say (contract section 3).
pub const MIN_CHARS: usize = 6;
/// Longest password in characters.
pub const MAX_CHARS: usize = 128;

/// Common passwords in lower case, one per line.
const COMMON: &str = include_str!("passwords/common.txt");

/// What a new password must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordRules {
    /// Fewest characters.
    pub min_chars: usize,
    /// Whether common passwords and the names of the account are refused.
    pub refuse_common: bool,
}

/// Why a password may not be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// Fewer characters than the rules ask for.
    #[error("the password must have at least {0} characters")]
    TooShort(usize),
    /// More characters than are hashed.
    #[error("the password must have at most {MAX_CHARS} characters")]
    TooLong,
    /// It is a common password.
    #[error("the password is too common: choose another one")]
    Common,
    /// It is a name of the account.
    #[error("the password must not be the username or the email address")]
    Name,
}

impl PasswordRules {
    /// The rules that keep to both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            min_chars: self.min_chars.max(other.min_chars),
            refuse_common: self.refuse_common || other.refuse_common,
        }
    }

    /// Checks a new password of somebody with these names.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self, password: &str, names: &[&str]) -> Result<(), Weakness> {
        let chars = password.chars().count();
        if chars < self.min_chars {
            return Err(Weakness::TooShort(self.min_chars));
        }
        if chars > MAX_CHARS {
            return Err(Weakness::TooLong);
        }
        if self.refuse_common {
            let lower = password.to_lowercase();
            if is_common(&lower) {
                return Err(Weakness::Common);
            }
            if names.iter().any(|name| name.to_lowercase() == lower) {
                return Err(Weakness::Name);
            }
        }
        Ok(())
    }
}

/// Whether it is on the list, or one character repeated, or a run such as `abcdef` or `987654`.
fn is_common(lower: &str) -> bool {
    let steps = |step: i64| {
        let codes = lower.chars().map(|c| i64::from(u32::from(c)));
        // in 1234567890, 0 follows 9
        let (nine, zero) = (57, 48);
        let wraps = |a, b| (step == 1 && (a, b) == (nine, zero)) || (step == -1 && (a, b) == (zero, nine));
        codes.clone().zip(codes.skip(1)).all(|(a, b)| b - a == step || wraps(a, b))
    };
    COMMON.lines().any(|common| common == lower) || [-1, 0, 1].into_iter().any(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: PasswordRules = PasswordRules { min_chars: 10, refuse_common: true };

    #[test]
    fn common_passwords_are_refused_where_the_rules_say_so() {
        for common in ["Password123", "1234567890", "0987654321", "qwertyuiop", "aaaaaaaaaaaa", "abcdefghijkl"] {
            assert_eq!(STRICT.check(common, &[]), Err(Weakness::Common), "{common}");
            let lenient = PasswordRules { min_chars: 6, refuse_common: false };
            assert_eq!(lenient.check(common, &[]), Ok(()), "{common}");
        }
        assert_eq!(STRICT.check("wet-lantern-93", &["alice"]), Ok(()));
        assert_eq!(STRICT.check("Alice@Example.org", &["alice", "alice@example.org"]), Err(Weakness::Name));
    }

    #[test]
    fn rules_of_two_places_count_together() {
        let long = PasswordRules { min_chars: 12, refuse_common: false };
        let both = PasswordRules { min_chars: 12, refuse_common: true };
        assert_eq!((STRICT.and(long), long.and(STRICT)), (both, both));
    }

    #[test]
    fn lengths_are_counted_in_characters() {
        assert_eq!(STRICT.check("üüüüü-ööö", &[]), Err(Weakness::TooShort(10)));
        assert_eq!(STRICT.check("üüüüü-öööö", &[]), Ok(()));
        assert_eq!(STRICT.check(&"ab".repeat(65), &[]), Err(Weakness::TooLong));
    }

    #[test]
    fn the_list_is_in_lower_case_and_long_enough_to_matter() {
        for line in COMMON.lines() {
            assert!(line.chars().count() >= MIN_CHARS && line == line.to_lowercase(), "{line}");
        }
    }
}
