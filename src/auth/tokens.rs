//! Access tokens (JWT, HS256), refresh tokens and device keys.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::accounts::Account;
use crate::{
    domain::ids::{ClientId, ClientKind},
    error::ApiError,
    store::NewRefreshToken,
};

/// Verified tokens that are remembered: half a kilobyte each.
const VERIFIED: usize = 10_000;

/// What an access token says (contract section 3). Clients treat tokens as opaque.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// The client's UUID.
    pub sub: Uuid,
    /// `device` or `user`.
    pub kind: String,
    /// The client's name, for people.
    pub name: String,
    /// The user's role when the token was made, for people; what counts is the account.
    pub role: String,
    /// The token's own id.
    pub jti: Uuid,
    /// All tokens that came from one login.
    pub family: Uuid,
    /// The account's token generation; revoking a client begins a new one.
    pub generation: i64,
    /// Issued at, seconds since 1970.
    pub iat: i64,
    /// Expires at, seconds since 1970.
    pub exp: i64,
}

impl Claims {
    /// When the token expires.
    pub fn expires_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.exp, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }
}

/// A refresh token: opaque, used once.
#[derive(Debug)]
pub struct RefreshToken {
    /// What the client gets.
    pub token: String,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

impl RefreshToken {
    /// What is stored of it.
    pub fn to_store(&self, family: Uuid, client: ClientId, kind: ClientKind) -> NewRefreshToken {
        NewRefreshToken { token_hash: digest(&self.token), family, client, kind, expires_at: self.expires_at }
    }
}

/// Makes and reads tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    device_keys: Hmac<Sha256>,
    /// tokens whose signature has been verified; what else counts is looked at each time
    verified: Cache<String, Arc<Claims>>,
    access: TimeDelta,
    refresh: TimeDelta,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("access", &self.access).field("refresh", &self.refresh).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Signs with this secret; lifetimes as given.
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    pub fn new(secret: &[u8], access: TimeDelta, refresh: TimeDelta) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        // from the very second of `exp` on (RFC 7519, section 4.1.4)
        validation.reject_tokens_expiring_in_less_than = 1;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            device_keys: Hmac::new_from_slice(secret).expect("HMAC takes any key").chain_update(b"device key of "),
            verified: Cache::new(VERIFIED),
            access,
            refresh,
        }
    }

    /// An access token for this account, and when it expires.
    ///
    /// # Errors
    /// When the token can't be signed, which no input causes.
    pub fn access(&self, account: &Account, family: Uuid) -> Result<(String, DateTime<Utc>), ApiError> {
        let now = Utc::now();
        let claims = Claims {
            sub: account.id.into(),
            kind: account.kind().as_str().to_owned(),
            name: account.name().to_owned(),
            role: account.role().as_str().to_owned(),
            jti: Uuid::new_v4(),
            family,
            generation: account.generation,
            iat: now.timestamp(),
            exp: (now + self.access).timestamp(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        Ok((token, claims.expires_at()))
    }

    /// A new refresh token, nobody's yet.
    pub fn refresh(&self) -> RefreshToken {
        RefreshToken { token: random_text(), expires_at: Utc::now() + self.refresh }
    }

    /// What a token says, if it is authentic and has not expired.
    pub fn read(&self, token: &str) -> Option<Claims> {
        self.decode(token, &self.validation)
    }

    /// The same for a token that comes with one request after the other: its signature is verified once. A connection's
    /// comes once and is not remembered.
    pub fn read_again(&self, token: &str) -> Option<Arc<Claims>> {
        if let Some(claims) = self.verified.get(token) {
            return (claims.exp > Utc::now().timestamp()).then_some(claims);
        }
        let claims = Arc::new(self.read(token)?);
        self.verified.insert(token.to_owned(), claims.clone());
        Some(claims)
    }

    /// What a token says, if it is authentic, expired or not: proof of an identity, not of a right.
    pub fn read_expired(&self, token: &str) -> Option<Claims> {
        let mut validation = self.validation.clone();
        validation.validate_exp = false;
        self.decode(token, &validation)
    }

    /// Until when a revocation made now has to be known. A user's tokens are worth nothing once they have expired; a
    /// device's go on to prove who it is, so their revocation has to be known for good.
    pub fn revoked_until(&self, kind: ClientKind) -> DateTime<Utc> {
        match kind {
            // one more minute for tokens that another node is just making
            ClientKind::User => Utc::now() + self.access + TimeDelta::minutes(1),
            ClientKind::Device => Utc::now() + TimeDelta::days(100 * 365),
        }
    }

    /// A device's key: always the same for the same device and secret, so that the first answer's stays good.
    pub fn device_key(&self, device: ClientId) -> String {
        let mut key = self.device_keys.clone();
        key.update(device.to_string().as_bytes());
        BASE64_URL_SAFE_NO_PAD.encode(key.finalize().into_bytes())
    }

    fn decode(&self, token: &str, validation: &Validation) -> Option<Claims> {
        jsonwebtoken::decode::<Claims>(token, &self.decoding, validation).ok().map(|data| data.claims)
    }
}

impl Claims {
    /// Whose token it is.
    pub fn client(&self) -> ClientId {
        self.sub.into()
    }

    /// Of which kind that client is.
    pub fn client_kind(&self) -> Option<ClientKind> {
        ClientKind::parse(&self.kind)
    }
}

/// 256 random bits as text: a refresh token, a secret, a password.
pub fn random_text() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// What is stored of a random text. It has 256 random bits, so a plain SHA-256 keeps it safe.
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::accounts::tests::device;

    fn tokens(access: TimeDelta) -> Tokens {
        Tokens::new(b"a secret of the tests", access, TimeDelta::days(1))
    }

    #[test]
    fn a_token_says_whose_it_is() {
        let tokens = tokens(TimeDelta::minutes(1));
        let account = device("Alice");
        let family = Uuid::new_v4();
        let (token, _) = tokens.access(&account, family).unwrap();
        let claims = tokens.read(&token).unwrap();
        assert_eq!((claims.client(), claims.client_kind()), (account.id, Some(ClientKind::Device)));
        assert_eq!((claims.name.as_str(), claims.family), ("Alice", family));
    }

    #[test]
    fn an_expired_token_is_proof_of_identity_alone() {
        let tokens = tokens(TimeDelta::seconds(-5));
        let (token, _) = tokens.access(&device("Alice"), Uuid::new_v4()).unwrap();
        assert!(tokens.read(&token).is_none());
        assert!(tokens.read_expired(&token).is_some());
    }

    #[test]
    fn tokens_of_other_secrets_and_other_algorithms_are_refused() {
        let tokens = tokens(TimeDelta::minutes(1));
        let (token, _) = tokens.access(&device("Alice"), Uuid::new_v4()).unwrap();
        let other = Tokens::new(b"another secret", TimeDelta::minutes(1), TimeDelta::days(1));
        assert!(other.read(&token).is_none());
        let (_, rest) = token.split_once('.').unwrap();
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let (payload, _) = rest.split_once('.').unwrap();
        for forged in [format!("{unsigned}.{payload}."), format!("{unsigned}.{rest}"), String::new(), "a.b.c".into()] {
            assert!(tokens.read(&forged).is_none());
        }
    }
}
