//! Access tokens (JWT, HS256) and refresh tokens.

use std::{fmt, sync::Arc};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use quick_cache::sync::Cache;
use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{AuthError, hs256};
use crate::{
    clock::Clock,
    domain::{
        accounts::Account,
        ids::{ClientId, ClientKind},
        refresh_tokens::{CLOCK_STEP, RefreshToken, ShownRefreshToken},
    },
};

/// Verified tokens in the cache; half a kilobyte each.
const VERIFIED: usize = 10_000;

/// What an access token says (contract section 3). Clients treat tokens as opaque.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claims {
    /// The client's UUID.
    pub sub: Uuid,
    /// `device` or `user`.
    pub kind: String,
    /// The client's name, for display.
    pub name: String,
    /// The user's role when the token was issued, for display; rights come from the account.
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
    /// Not valid before, seconds since 1970. Only tokens of other programs have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<f64>,
}

impl Claims {
    /// When the token expires.
    pub fn expires_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.exp, 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// Whether the token has begun, and not expired. It is expired from the second `exp` on (RFC 7519, section 4.1.4).
    fn is_valid_at(&self, now: DateTime<Utc>) -> bool {
        self.has_begun(now) && self.exp > now.timestamp()
    }

    fn has_begun(&self, now: DateTime<Utc>) -> bool {
        self.nbf.is_none_or(|nbf| nbf <= now.timestamp() as f64)
    }
}

/// A pair of tokens that a client has just got.
#[derive(Debug)]
pub struct Issued {
    /// The access token.
    pub access: String,
    /// When that expires.
    pub access_expires_at: DateTime<Utc>,
    /// The refresh token.
    pub refresh: RefreshToken,
    /// When it got them.
    pub issued_at: DateTime<Utc>,
}

/// Signed in front of a refresh token. The signed part of an access token is base64, so it never begins like this.
const REFRESH_CONTEXT: &[u8] = b"refresh token ";

/// Issues and verifies tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    /// tokens whose signature has been verified; whether they have expired or are revoked is checked each time
    verified: Cache<String, Arc<Claims>>,
    access: TimeDelta,
    refresh: TimeDelta,
    clock: Clock,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").field("access", &self.access).field("refresh", &self.refresh).finish_non_exhaustive()
    }
}

impl Tokens {
    /// Signs with this secret; lifetimes as given.
    pub fn new(secret: &[u8], access: TimeDelta, refresh: TimeDelta, clock: Clock) -> Self {
        hs256::install();
        let mut validation = Validation::new(Algorithm::HS256);
        // the library has a clock of its own
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self {
            encoding: EncodingKey::from_secret(secret),
            decoding: DecodingKey::from_secret(secret),
            validation,
            verified: Cache::new(VERIFIED),
            access,
            refresh,
            clock,
        }
    }

    /// The time by which tokens begin and expire.
    pub(super) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The pair of an access token for this account and this refresh token of the family.
    ///
    /// # Errors
    /// When the token can't be signed, which no input causes.
    pub fn issue(&self, account: &Account, family: Uuid, refresh: RefreshToken) -> Result<Issued, AuthError> {
        let issued_at = self.now();
        let (access, access_expires_at) = self.access(account, family, issued_at)?;
        Ok(Issued { access, access_expires_at, refresh, issued_at })
    }

    /// An access token for this account, and when it expires.
    ///
    /// # Errors
    /// When the token can't be signed, which no input causes.
    pub fn access(
        &self,
        account: &Account,
        family: Uuid,
        issued_at: DateTime<Utc>,
    ) -> Result<(String, DateTime<Utc>), AuthError> {
        let claims = Claims {
            sub: account.id.into(),
            kind: account.kind().as_str().to_owned(),
            name: account.name().to_owned(),
            role: account.role().as_str().to_owned(),
            jti: Uuid::new_v4(),
            family,
            generation: account.generation,
            iat: issued_at.timestamp(),
            exp: (issued_at + self.access).timestamp(),
            nbf: None,
        };
        let access = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map_err(|error| AuthError::Internal(error.to_string()))?;
        Ok((access, claims.expires_at()))
    }

    /// A new refresh token of a family.
    ///
    /// # Errors
    /// When the token can't be signed, which no input causes.
    pub fn refresh(&self, family: Uuid) -> Result<RefreshToken, AuthError> {
        let mut body = [0; 48];
        body[..16].copy_from_slice(family.as_bytes());
        rand::rng().fill_bytes(&mut body[16..]);
        let body = BASE64_URL_SAFE_NO_PAD.encode(body);
        let message = [REFRESH_CONTEXT, body.as_bytes()].concat();
        let signature = jsonwebtoken::crypto::sign(&message, &self.encoding, Algorithm::HS256)
            .map_err(|error| AuthError::Internal(error.to_string()))?;
        let token = format!("{body}.{signature}");
        Ok(RefreshToken { hash: digest(&token), token, expires_at: self.now() + self.refresh })
    }

    /// Reads a refresh token. An authentic one may have been used, or have expired.
    pub fn read_refresh(&self, token: &str) -> ShownRefreshToken {
        let family = || {
            let (body, signature) = token.split_once('.')?;
            let message = [REFRESH_CONTEXT, body.as_bytes()].concat();
            let is_ours = jsonwebtoken::crypto::verify(signature, &message, &self.decoding, Algorithm::HS256);
            let body = BASE64_URL_SAFE_NO_PAD.decode(body).ok()?;
            is_ours.is_ok_and(|is_ours| is_ours).then(|| Uuid::from_slice(body.get(..16)?).ok())?
        };
        ShownRefreshToken { hash: digest(token), family: family() }
    }

    /// The claims of an access token that is authentic and has not expired.
    pub fn read(&self, token: &str) -> Option<Claims> {
        self.decode(token).filter(|claims| claims.is_valid_at(self.now()))
    }

    /// The same for a token that comes with many requests: its signature is verified once. The token of a handshake comes
    /// once and is not cached.
    pub fn read_again(&self, token: &str) -> Option<Arc<Claims>> {
        if let Some(claims) = self.verified.get(token) {
            return Some(claims).filter(|claims| claims.is_valid_at(self.now()));
        }
        let claims = Arc::new(self.read(token)?);
        self.verified.insert(token.to_owned(), claims.clone());
        Some(claims)
    }

    /// The claims of an access token that is authentic, expired or not: it proves an identity and grants nothing.
    pub fn read_expired(&self, token: &str) -> Option<Claims> {
        self.decode(token).filter(|claims| claims.has_begun(self.now()))
    }

    /// Until when a revocation made now has to be kept, of a token that expires then. A user's tokens are worthless once they
    /// have expired, and `switchboard token` makes some that live longer than others; a device's still prove its identity, so
    /// their revocations are kept for ever.
    pub fn revoked_until(&self, kind: ClientKind, expires_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
        let usual = self.now() + self.access;
        match kind {
            ClientKind::User => expires_at.map_or(usual, |expires_at| expires_at.max(usual)) + CLOCK_STEP,
            ClientKind::Device => self.now() + TimeDelta::days(100 * 365),
        }
    }

    /// The claims of an authentic token, whatever the time.
    fn decode(&self, token: &str) -> Option<Claims> {
        let token = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation).ok()?;
        // `crit` names extensions that the reader must support, and none is supported (RFC 7515, section 4.1.11)
        token.header.crit.is_none().then_some(token.claims)
    }
}

impl Claims {
    /// The holder of the token.
    pub fn client(&self) -> ClientId {
        self.sub.into()
    }

    /// Whether the holder is a device or a user.
    pub fn client_kind(&self) -> Option<ClientKind> {
        ClientKind::parse(&self.kind)
    }
}

/// 256 random bits as text: a device key, a secret, a password.
pub fn random_text() -> String {
    let mut bytes = [0; 32];
    rand::rng().fill_bytes(&mut bytes);
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// SHA-256 in hex: what is stored of a key or token. These are random texts, so a fast hash is enough.
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::accounts::tests::device;

    fn with_secret(secret: &[u8], clock: &Clock) -> Tokens {
        Tokens::new(secret, TimeDelta::minutes(10), TimeDelta::days(1), clock.clone())
    }

    /// Tokens with a clock that stands still, and a token.
    fn issued() -> (Tokens, Clock, String) {
        let clock = Clock::stopped(DateTime::UNIX_EPOCH + TimeDelta::days(20_000));
        let tokens = with_secret(b"a secret of the tests", &clock);
        let refresh = tokens.refresh(Uuid::new_v4()).unwrap();
        let token = tokens.issue(&device("Alice"), Uuid::new_v4(), refresh).unwrap().access;
        (tokens, clock, token)
    }

    #[test]
    fn a_token_names_its_holder() {
        let (tokens, ..) = issued();
        let account = device("Bob");
        let family = Uuid::new_v4();
        let issued = tokens.issue(&account, family, tokens.refresh(family).unwrap()).unwrap();
        let claims = tokens.read(&issued.access).unwrap();
        assert_eq!((claims.client(), claims.client_kind()), (account.id, Some(ClientKind::Device)));
        assert_eq!((claims.name.as_str(), claims.family), ("Bob", family));
    }

    #[test]
    fn the_revocation_of_a_token_is_kept_until_the_token_has_expired() {
        let (tokens, clock, _) = issued();
        let usual = tokens.revoked_until(ClientKind::User, None);
        assert!(usual > clock.now() + TimeDelta::minutes(10));
        let expires_at = clock.now() + TimeDelta::days(365);
        assert!(tokens.revoked_until(ClientKind::User, Some(expires_at)) > expires_at);
        assert_eq!(tokens.revoked_until(ClientKind::User, Some(clock.now())), usual);
    }

    #[test]
    fn a_token_is_valid_from_its_nbf_on() {
        let (tokens, clock, token) = issued();
        let mut claims = serde_json::to_value(tokens.read(&token).unwrap()).unwrap();
        claims["nbf"] = (clock.now().timestamp() + 60).into();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &tokens.encoding).unwrap();
        assert!(tokens.read(&token).is_none() && tokens.read_again(&token).is_none());
        assert!(tokens.read_expired(&token).is_none());
        clock.advance(Duration::from_secs(60));
        assert!(tokens.read(&token).is_some() && tokens.read_again(&token).is_some());
    }

    #[test]
    fn a_token_expires_in_the_second_of_its_exp_and_then_proves_only_an_identity() {
        let (tokens, clock, token) = issued();
        clock.advance(Duration::from_secs(10 * 60 - 1));
        assert!(tokens.read(&token).is_some() && tokens.read_again(&token).is_some());
        clock.advance(Duration::from_secs(1));
        assert!(tokens.read(&token).is_none() && tokens.read_again(&token).is_none());
        assert!(tokens.read_expired(&token).is_some());
    }

    #[test]
    fn a_token_that_demands_an_extension_is_refused() {
        let (tokens, _, token) = issued();
        let claims = tokens.read(&token).unwrap();
        let header = Header { crit: Some(vec!["x".to_owned()]), ..Header::new(Algorithm::HS256) };
        let token = jsonwebtoken::encode(&header, &claims, &tokens.encoding).unwrap();
        assert!(tokens.read(&token).is_none() && tokens.read_again(&token).is_none());
        assert!(tokens.read_expired(&token).is_none());
    }

    #[test]
    fn a_refresh_token_names_its_login_if_this_server_issued_it() {
        let (tokens, clock, _) = issued();
        let family = Uuid::new_v4();
        let refresh = tokens.refresh(family).unwrap();
        let shown = tokens.read_refresh(&refresh.token);
        assert_eq!((shown.family, shown.hash), (Some(family), refresh.hash));
        let other = with_secret(b"another secret", &clock);
        assert_eq!(other.read_refresh(&refresh.token).family, None);
        let (body, signature) = refresh.token.split_once('.').unwrap();
        let another = tokens.refresh(Uuid::new_v4()).unwrap().token;
        let (another_body, _) = another.split_once('.').unwrap();
        for forged in
            [format!("{another_body}.{signature}"), format!("{body}."), body.to_owned(), random_text(), ".".into()]
        {
            assert_eq!(tokens.read_refresh(&forged).family, None, "{forged}");
        }
        assert_ne!(refresh.token, tokens.refresh(family).unwrap().token);
    }

    #[test]
    fn tokens_of_other_secrets_and_other_algorithms_are_refused() {
        let (tokens, clock, token) = issued();
        assert!(with_secret(b"another secret", &clock).read(&token).is_none());
        let (_, rest) = token.split_once('.').unwrap();
        let unsigned = BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let (payload, _) = rest.split_once('.').unwrap();
        for forged in [format!("{unsigned}.{payload}."), format!("{unsigned}.{rest}"), String::new(), "a.b.c".into()] {
            assert!(tokens.read(&forged).is_none());
        }
    }
}
