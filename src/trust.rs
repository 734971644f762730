//! Whom the program trusts as certificate authorities: for clients, and for webhooks.

use rustls::RootCertStore;

/// Those of the system, or Mozilla's if the system has none.
pub(crate) fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    // unreadable certificates are skipped
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
