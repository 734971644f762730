//! Verifies a server by the certificates of `--ca FILE`: authorities, or the server's own certificate.
//!
//! `openssl req -x509` creates a certificate with the CA flag, which is not valid as a server's certificate (RFC 5280). If
//! the operator gives such a certificate and the server presents exactly the same bytes, it is accepted. Host name, validity
//! period and possession of the private key are still checked.

use std::{path::Path, sync::Arc};

use rustls::{
    CertificateError, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

use super::ClientError;

#[derive(Debug)]
pub(super) struct Given {
    authorities: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Given {
    pub(super) fn new(authorities: Arc<WebPkiServerVerifier>, certificates: Vec<CertificateDer<'static>>) -> Self {
        Self { authorities, certificates }
    }
}

/// Reads the certificates in a PEM file.
pub(super) fn read(file: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let file_name = file.display();
    let pem = std::fs::read(file).map_err(|error| ClientError::Tls(format!("cannot read {file_name}: {error}")))?;
    let certificates: Result<_, _> = CertificateDer::pem_slice_iter(&pem).collect();
    certificates.map_err(|_| ClientError::Tls(format!("cannot use the certificates in {file_name}: it is damaged")))
}

/// Whether a certificate was refused because it is an authority's, not a server's.
pub(in crate::client) fn is_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

impl ServerCertVerifier for Given {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.authorities.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // the validity period has been checked before this error
            Err(Error::InvalidCertificate(error)) if is_authority(&error) && self.certificates.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}
