//! One receiver: signs what is sent to it, and connects to no address that is not public.

use std::{error::Error, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, USER_AGENT},
    redirect,
};
use rustls::{ClientConfig, crypto::ring};
use sha2::Sha256;

use crate::{
    domain::{
        audit::shortened,
        webhooks::{Webhook, is_public},
    },
    trust,
};

/// How long an attempt may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is kept for the next delivery.
const IDLE: Duration = Duration::from_secs(5);

/// A receiver, with its connections.
pub(super) struct Sender {
    pub(super) webhook: Webhook,
    http: reqwest::Client,
}

impl Sender {
    pub(super) fn new(webhook: Webhook) -> anyhow::Result<Self> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(trust::roots())
            .with_no_client_auth();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(Resolver { allow_private: webhook.allow_private }))
            // a proxy would connect to addresses that nobody has checked
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_idle_timeout(IDLE)
            .redirect(redirect::Policy::none())
            .build()
            .context("cannot set up the connections of webhooks")?;
        Ok(Self { webhook, http })
    }

    /// Sends a delivery (Standard Webhooks 1.0). The body of the answer is not read.
    ///
    /// # Errors
    /// Why the receiver does not have it, without its URL.
    pub(super) async fn send(&self, id: &str, timestamp: i64, body: &str) -> Result<(), String> {
        let request = self
            .http
            .post(&self.webhook.url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("switchboard/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", format!("v1,{}", signature(&self.webhook.secret, id, timestamp, body)))
            .body(body.to_owned());
        match request.send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(format!("status {}", response.status().as_u16())),
            Err(error) if error.is_timeout() => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
            Err(error) => Err(cause(&error.without_url())),
        }
    }
}

/// The signature of a delivery as base64.
fn signature(secret: &[u8], id: &str, timestamp: i64, body: &str) -> String {
    // never fails, since a key may have any length
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret) else { return String::new() };
    STANDARD.encode(mac.chain_update(format!("{id}.{timestamp}.{body}")).finalize().into_bytes())
}

/// The innermost cause of an error.
fn cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    shortened(&cause.to_string())
}

/// Resolves names. What it returns is what is connected to, so that a name cannot have another address then.
struct Resolver {
    allow_private: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<_> =
                found.into_iter().filter(|address| allow_private || is_public(address.ip())).collect();
            if allowed.is_empty() {
                return Err("the name has no public address (allow_private)".into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_signed_as_the_standard_says() {
        // the example of the specification
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[tokio::test]
    async fn a_name_of_this_machine_has_no_address_for_a_webhook() {
        let resolve = |allow_private| Resolver { allow_private }.resolve("localhost".parse().unwrap());
        let refused = resolve(false).await.err().unwrap();
        assert!(refused.to_string().contains("no public address"), "{refused}");
        assert!(resolve(true).await.unwrap().all(|address| address.ip().is_loopback()));
    }
}
