//! Whom a client trusts: one TLS configuration for HTTP and WebSocket.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::ClientError;

/// Trusts the authorities in the file; without one those of the system, or Mozilla's if the system has none.
pub(super) fn trusting(ca: Option<&Path>) -> Result<Arc<ClientConfig>, ClientError> {
    // the system's store is read once, which takes some milliseconds
    static SYSTEM: OnceLock<Arc<ClientConfig>> = OnceLock::new();
    match (ca, SYSTEM.get()) {
        (Some(file), _) => config(authorities(file)?),
        (None, Some(config)) => Ok(config.clone()),
        (None, None) => {
            let config = config(system())?;
            Ok(SYSTEM.get_or_init(|| config).clone())
        }
    }
}

/// Trusts nobody: for brokers without TLS.
pub(super) fn trusting_nobody() -> Result<Arc<ClientConfig>, ClientError> {
    config(RootCertStore::empty())
}

fn config(roots: RootCertStore) -> Result<Arc<ClientConfig>, ClientError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| ClientError::Tls(error.to_string()))?;
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn system() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // what can't be read of it is not trusted
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}

fn authorities(file: &Path) -> Result<RootCertStore, ClientError> {
    let bad = |why: String| ClientError::Tls(format!("cannot use the certificates in {}: {why}", file.display()));
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| bad(error.to_string()))? {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots.add(certificate).map_err(|error| bad(error.to_string()))?;
    }
    if roots.is_empty() { Err(bad("it holds none in PEM form".to_owned())) } else { Ok(roots) }
}
