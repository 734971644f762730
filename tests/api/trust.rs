//! Whom the command line trusts, and what it says where it does not, or where there is no broker.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use rcgen::{CertificateParams, IsCa, date_time_ymd};

use crate::support::{Broker, Program, TlsProxy};

type Change = fn(&mut CertificateParams);

/// What `demo` says of a failure, on one line.
fn refusal(broker: &mut Broker, url: &str, ca: Option<&str>) -> String {
    let ca = ca.map(|file| vec!["--ca", file]).unwrap_or_default();
    let output = broker.command(&[&["demo", "--url", url], &ca[..]].concat(), "");
    assert!(output.code == Some(1) && output.stderr.lines().count() == 1, "{output:?}");
    // no values of a library's types
    assert!(!output.stderr.contains("Error") && !output.stderr.contains("Other("), "{output:?}");
    output.stderr
}

#[tokio::test]
async fn a_servers_own_certificate_is_trusted_where_it_is_given() {
    let mut broker = Broker::start().await;
    let file = broker.data_dir().join("own.pem");
    let ca = file.display().to_string();
    let no_ca: Change = |certificate| certificate.is_ca = IsCa::ExplicitNoCa;
    for change in [|_: &mut CertificateParams| {}, no_ca] {
        let proxy = TlsProxy::self_signed(&broker, &file, &["127.0.0.1"], change);
        let output = broker.command(&["demo", "--url", &proxy.url, "--ca", &ca], "");
        assert!(output.code == Some(0), "{output:?}");
    }
    // all else holds for it as for others
    let expired: Change = |certificate| certificate.not_after = date_time_ymd(2020, 1, 1);
    let future: Change = |certificate| certificate.not_before = date_time_ymd(3000, 1, 1);
    for (names, change, expected) in [
        (&["127.0.0.1"][..], expired, "its certificate has expired"),
        (&["127.0.0.1"], future, "is not valid yet"),
        (&["example.org"], |_| {}, "is for another host name"),
        (&[], |_| {}, "-addext subjectAltName"),
    ] {
        let proxy = TlsProxy::self_signed(&broker, &file, names, change);
        let said = refusal(&mut broker, &proxy.url, Some(&ca));
        assert!(said.contains(expected), "{expected} {said}");
    }
}

#[tokio::test]
async fn an_authority_that_the_system_trusts_is_trusted_unless_another_is_given() {
    let mut setup = Broker::with();
    let system = setup.dir().join("system.pem");
    // where the system's certificates are on this machine
    let mut broker = setup.env("SSL_CERT_FILE", system.to_str().unwrap()).start().await;
    let proxy = TlsProxy::start(&broker, &system);
    let output = broker.command(&["demo", "--url", &proxy.url], "");
    assert_eq!(output.code, Some(0), "{output:?}");
    let uuid = uuid::Uuid::new_v4().to_string();
    let arguments = ["agent", "--exec", "true", "--url", &proxy.url, "--uuid", &uuid];
    let mut agent = Program::start(broker.setup(), &arguments);
    agent.says(&uuid).await;
    agent.stop().await;
    // an authority that is given takes the place of the system's
    let other = broker.data_dir().join("other.pem");
    let _other = TlsProxy::start(&broker, &other);
    let said = refusal(&mut broker, &proxy.url, other.to_str());
    assert!(said.contains("not trusted here"), "{said}");
}

#[tokio::test]
async fn another_certificate_than_the_one_that_was_given_is_refused() {
    let mut broker = Broker::start().await;
    let (own, other) = (broker.data_dir().join("own.pem"), broker.data_dir().join("other.pem"));
    let proxy = TlsProxy::self_signed(&broker, &own, &["127.0.0.1"], |_| {});
    let _other = TlsProxy::self_signed(&broker, &other, &["127.0.0.1"], |_| {});
    let other = other.display().to_string();
    for ca in [None, Some(other.as_str())] {
        let said = refusal(&mut broker, &proxy.url, ca);
        assert!(said.contains("--ca FILE") && said.contains("CA:FALSE"), "{said}");
    }
    std::fs::write(broker.data_dir().join("none.pem"), "nothing").unwrap();
    let none = broker.data_dir().join("none.pem").display().to_string();
    let output = broker.command(&["demo", "--url", &proxy.url, "--ca", &none], "");
    assert!(output.code == Some(2) && output.stderr.contains("none in PEM form"), "{output:?}");
}

#[tokio::test]
async fn a_url_of_the_wrong_scheme_is_told_to_need_the_other_one() {
    let mut broker = Broker::start().await;
    let file = broker.data_dir().join("own.pem");
    let proxy = TlsProxy::self_signed(&broker, &file, &["127.0.0.1"], |_| {});
    let plain = proxy.url.replace("https://", "http://");
    let tls = broker.url.replace("http://", "https://");
    assert!(refusal(&mut broker, &plain, None).contains("give https:// in place of http://"));
    assert!(refusal(&mut broker, &tls, None).contains("try http:// in place of https://"));
    // neither waits for a broker that is there
    for program in [&["client", "--name", "x"][..], &["agent", "--exec", "true"]] {
        let (code, said) = Program::start(broker.setup(), &[program, &["--url", &plain]].concat()).ended().await;
        assert!(code == Some(1) && said.contains("give https:// in place of http://"), "{said}");
    }
}

#[tokio::test]
async fn an_agent_ends_where_something_else_than_a_broker_answers() {
    let mut setup = Broker::with();
    for (answer, expected) in [
        ("501 Unsupported method", "not from a Switchboard broker"),
        ("404 Not Found", "not from a Switchboard broker"),
        ("500 Internal Server Error", "not from a Switchboard broker"),
        ("200 OK", "not from a Switchboard broker"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let body = "<html>";
            let head = format!("HTTP/1.1 {answer}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all((head + body).as_bytes()).unwrap();
        });
        let (code, said) = Program::start(&mut setup, &["agent", "--exec", "true", "--url", &url]).ended().await;
        assert!(code == Some(1) && said.contains(expected), "{answer} {code:?} {said}");
    }
    // one whose proxy says that it is away is waited for
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
    });
    let mut agent = Program::start(&mut setup, &["agent", "--exec", "true", "--url", &url]);
    agent.says("trying again").await;
    agent.stop().await;
}
