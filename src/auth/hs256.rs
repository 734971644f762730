//! HMAC-SHA-256 for `jsonwebtoken`: the only algorithm that access tokens have (RFC 7518, section 3.2). The providers that
//! come with the crate bring RSA and elliptic curves along, which would be compiled and never be used.

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Signer, Verifier},
};
use sha2::Sha256;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key: &EncodingKey| Ok(Box::new(Hs256::new(*algorithm, key.as_bytes())?)),
    verifier_factory: |algorithm, key: &DecodingKey| Ok(Box::new(Hs256::new(*algorithm, key.try_get_as_bytes()?)?)),
    key_utils: KeyUtils::new_unimplemented(),
};

/// Registers the algorithm with `jsonwebtoken` for this process. To be called before anything is signed or verified.
pub fn install() {
    // fails if it is registered already
    let _ = PROVIDER.install_default();
}

/// Signs and verifies with one key.
struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn new(algorithm: Algorithm, key: &[u8]) -> Result<Self, Error> {
        if algorithm != Algorithm::HS256 {
            return Err(ErrorKind::InvalidAlgorithm.into());
        }
        Hmac::new_from_slice(key).map(Self).map_err(|_| ErrorKind::InvalidKeyFormat.into())
    }

    fn of(&self, message: &[u8]) -> Hmac<Sha256> {
        self.0.clone().chain_update(message)
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.of(message).finalize().into_bytes().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        // in constant time
        self.of(message).verify_slice(signature).map_err(signature::Error::from_source)
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use jsonwebtoken::crypto;

    use super::*;

    #[test]
    fn it_signs_like_the_example_of_the_rfc() {
        // RFC 7515, appendix A.1
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let message = b"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        install();
        let key = BASE64_URL_SAFE_NO_PAD.decode(key).unwrap();
        let (encoding, decoding) = (EncodingKey::from_secret(&key), DecodingKey::from_secret(&key));
        assert_eq!(crypto::sign(message, &encoding, Algorithm::HS256).unwrap(), signature);
        assert!(crypto::verify(signature, message, &decoding, Algorithm::HS256).unwrap());
        assert!(!crypto::verify(signature, &message[1..], &decoding, Algorithm::HS256).unwrap());
        assert!(!crypto::verify(&signature[..20], message, &decoding, Algorithm::HS256).unwrap());
    }

    #[test]
    fn other_algorithms_are_refused() {
        install();
        for algorithm in [Algorithm::HS384, Algorithm::RS256, Algorithm::ES256] {
            assert!(crypto::sign(b"", &EncodingKey::from_secret(b"key"), algorithm).is_err());
        }
    }
}
