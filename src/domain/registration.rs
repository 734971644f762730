//! Who may register a UUID (contract section 3).

use std::ops::RangeInclusive;

use uuid::Uuid;

/// Characters of a device key that the client chooses: 256 random bits take 43 as base64url, 64 in hex.
pub const KEY_CHARS: RangeInclusive<usize> = 32..=128;

/// Whether a device key has only characters that it may have: printable ASCII without spaces.
pub fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_graphic())
}

/// What a client shows to register a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof<'a> {
    /// Nothing, under a policy that asks for nothing.
    NotAsked,
    /// An operator's token.
    Operator,
    /// A token of the device itself.
    Token(DeviceToken),
    /// The device key with this digest, or none.
    Key(Option<&'a str>),
}

/// A device's token, as far as a revocation can name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceToken {
    /// Its own id.
    pub id: Uuid,
    /// All tokens of its login.
    pub family: Uuid,
    /// The device's token generation when it was issued.
    pub generation: i64,
}

/// The registration that a UUID has.
#[derive(Debug, Clone, Copy)]
pub struct Registered<'a> {
    /// Digest of its device key; empty: the key was revoked.
    pub key_hash: &'a str,
    /// It was made under a policy that asks for proof.
    pub is_bound: bool,
}

/// What a registration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The first one of its UUID.
    First,
    /// The same device once more.
    Again {
        /// Earlier tokens end: as long as no proof was needed, anybody could have got them.
        ends_tokens: bool,
    },
    /// The UUID belongs to another device.
    Refused,
}

/// Decides about a registration with this proof, after which the key with the digest `new_key` is to be the device's.
///
/// If `new_key` is the device's key already, that is proof as well: the request repeats one whose answer was lost.
pub fn decide(registered: Option<Registered<'_>>, proof: Proof<'_>, new_key: &str) -> Outcome {
    let Some(registered) = registered else { return Outcome::First };
    // the keys are random, so nothing can be learned from how long a comparison of their digests takes
    let is_granted = match proof {
        Proof::NotAsked | Proof::Operator | Proof::Token(_) => true,
        Proof::Key(shown) => shown == Some(registered.key_hash) || new_key == registered.key_hash,
    };
    if is_granted {
        Outcome::Again { ends_tokens: proof != Proof::NotAsked && !registered.is_bound }
    } else {
        Outcome::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: DeviceToken = DeviceToken { id: Uuid::nil(), family: Uuid::nil(), generation: 0 };
    const AGAIN: Outcome = Outcome::Again { ends_tokens: false };

    fn bound(key_hash: &str) -> Option<Registered<'_>> {
        Some(Registered { key_hash, is_bound: true })
    }

    #[test]
    fn the_first_registration_needs_no_proof_and_later_ones_do() {
        assert_eq!(decide(None, Proof::Key(None), "new"), Outcome::First);
        assert_eq!(decide(bound("key"), Proof::Key(None), "new"), Outcome::Refused);
        assert_eq!(decide(bound("key"), Proof::Key(Some("other")), "new"), Outcome::Refused);
        assert_eq!(decide(bound("key"), Proof::Key(Some("key")), "new"), AGAIN);
        assert_eq!(decide(bound("key"), Proof::Token(TOKEN), "new"), AGAIN);
        assert_eq!(decide(bound("key"), Proof::Operator, "new"), AGAIN);
        assert_eq!(decide(bound("key"), Proof::NotAsked, "new"), AGAIN);
    }

    #[test]
    fn a_request_that_was_carried_out_can_be_repeated() {
        for shown in [None, Some("old")] {
            assert_eq!(decide(bound("new"), Proof::Key(shown), "new"), AGAIN);
        }
        // not after a revocation
        assert_eq!(decide(bound(""), Proof::Key(Some("old")), "new"), Outcome::Refused);
    }

    #[test]
    fn proof_ends_the_tokens_that_needed_none() {
        let unbound = Some(Registered { key_hash: "key", is_bound: false });
        for proof in [Proof::Operator, Proof::Token(TOKEN), Proof::Key(Some("key"))] {
            assert_eq!(decide(unbound, proof, "new"), Outcome::Again { ends_tokens: true });
        }
        assert_eq!(decide(unbound, Proof::NotAsked, "new"), AGAIN);
        assert_eq!(decide(unbound, Proof::Key(None), "new"), Outcome::Refused);
    }

    #[test]
    fn a_key_is_printable_ascii_without_spaces() {
        assert!(is_key("AZaz09-_~!+/="));
        for bad in ["a b", "a\n", "ü", "\u{7f}"] {
            assert!(!is_key(bad), "{bad:?}");
        }
    }
}
