//! The client's TLS configuration, shared by HTTP and WebSockets.

mod given;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{ClientConfig, RootCertStore, client::WebPkiServerVerifier, crypto::ring};

use super::ClientError;
use crate::trust;
use given::Given;
pub(super) use given::is_authority;

/// Trusts the certificates in the file; without a file those of the system, or Mozilla's if the system has none.
pub(super) fn trusting(ca: Option<&Path>) -> Result<Arc<ClientConfig>, ClientError> {
    // cached, since reading the system's store takes some milliseconds
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    match (ca, SYSTEM.get()) {
        (Some(file), _) => given(file),
        (None, Some(config)) => Ok(config.clone()),
        (None, None) => {
            let config = config(trust::roots())?;
            Ok(SYSTEM.get_or_init(|| config).clone())
        }
    }
}

/// Trusts the certificates in a file: authorities, or the server's own certificate.
fn given(file: &Path) -> Result<Arc<ClientConfig>, ClientError> {
    let bad = |why: &str| ClientError::Tls(format!("cannot use the certificates in {}: {why}", file.display()));
    let certificates = given::read(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|_| bad("one of them cannot be read"))?;
    }
    let provider = Arc::new(ring::default_provider());
    let authorities = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
    let authorities = authorities.map_err(|_| bad("it holds none in PEM form, as -----BEGIN CERTIFICATE-----"))?;
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| ClientError::Tls(error.to_string()))?;
    // "dangerous", since a custom verifier could accept anything; `Given` only adds the certificates of the file
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Given::new(authorities, certificates)));
    Ok(Arc::new(builder.with_no_client_auth()))
}

/// Trusts no certificate: for brokers without TLS.
pub(super) fn trusting_nobody() -> Result<Arc<ClientConfig>, ClientError> {
    config(RootCertStore::empty())
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, ClientError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| ClientError::Tls(error.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}
