//! A TLS proxy, with certificates of a private authority.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

use super::Broker;

/// The path below which the proxy serves the broker.
const PATH: &str = "/switchboard";

/// A proxy on a thread of its own, so that a test can wait for a command that uses the proxy. It ends with the test.
pub struct TlsProxy {
    /// The broker's URL through the proxy.
    pub url: String,
    _stop: oneshot::Sender<()>,
}

impl TlsProxy {
    /// Starts a proxy for 127.0.0.1 and writes the authority's certificate to a file.
    pub fn start(broker: &Broker, authority_file: &Path) -> Self {
        let (certificate, key) = certified("127.0.0.1", authority_file);
        Self::serve(broker, &certificate, &key)
    }

    /// Starts a proxy with a self-signed certificate, as `openssl req -x509` creates it, and writes it to a file.
    pub fn self_signed(
        broker: &Broker,
        file: &Path,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(file, certificate.pem()).unwrap();
        Self::serve(broker, &certificate, &key)
    }

    fn serve(broker: &Broker, certificate: &Certificate, key: &KeyPair) -> Self {
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("https://{}{PATH}", listener.local_addr().unwrap());
        let address = broker.url.strip_prefix("http://").unwrap().to_owned();
        let accepting = async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, address) = (acceptor.clone(), address.clone());
                tokio::spawn(async move {
                    // fails if the client does not trust the certificate
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let (mut from_client, mut to_client) = split(stream);
                    let Ok(broker) = TcpStream::connect(address).await else { return };
                    let (mut from_broker, mut to_broker) = broker.into_split();
                    let there = async {
                        let mut buffer = vec![0; 64 * 1024];
                        loop {
                            let count = from_client.read(&mut buffer).await.unwrap_or(0);
                            if count == 0 || to_broker.write_all(&below(&buffer[..count])).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = there => {}
                        _ = copy(&mut from_broker, &mut to_client) => {}
                    }
                });
            }
        };
        let (stop, stopped) = oneshot::channel::<()>();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = accepting => {}
                    _ = stopped => {}
                }
            });
        });
        Self { url, _stop: stop }
    }
}

/// A certificate of a new authority for a name, and its key. Writes the authority's certificate to a file.
pub fn certified(name: &str, authority_file: &Path) -> (Certificate, KeyPair) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new([]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    std::fs::write(authority_file, authority.self_signed(&authority_key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (certificate, key)
}

/// The head of a request without the proxy's path. A path outside of it is replaced by one that the broker does not have.
fn below(bytes: &[u8]) -> Vec<u8> {
    let Some(end) = bytes.windows(11).position(|part| part == b" HTTP/1.1\r\n") else { return bytes.to_vec() };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let (method, path) = head.split_once(' ').unwrap();
    let path = path.strip_prefix(PATH).unwrap_or("/not/below/the/proxy");
    [format!("{method} {path}").as_bytes(), &bytes[end..]].concat()
}
