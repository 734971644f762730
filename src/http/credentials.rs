//! Finds the token of a request (contract section 2).

use actix_web::{
    HttpRequest,
    cookie::Cookie,
    http::{Method, header},
};

use crate::{
    auth::AuthError,
    domain::origin::{self, Origin},
    http::is_from_trusted_proxy,
    settings::Http,
};

/// The subprotocol that carries a token where a browser can't set headers: `Sec-WebSocket-Protocol: bearer, <token>`.
pub const BEARER_PROTOCOL: &str = "bearer";

/// The cookie that a login sets.
pub const COOKIE: &str = "access_token";

/// The token of a request. The first of these counts: `Authorization: Bearer`, `?token=` (of several the first),
/// `Sec-WebSocket-Protocol: bearer, <token>`, the cookie. Unreadable credentials become an empty token, which is always
/// refused, since they must not count as no credentials.
///
/// # Errors
/// `ForeignOrigin` if the token is in a cookie and an unsafe request comes from a page of another site.
pub fn token(request: &HttpRequest, http: &Http) -> Result<Option<String>, AuthError> {
    if let Some(token) = explicit(request) {
        return Ok(Some(token));
    }
    let Some(cookie) = cookie(request) else { return Ok(None) };
    let safe = [Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method())
        && !request.headers().contains_key(header::UPGRADE);
    if !safe && !is_own_origin(request, http) {
        return Err(AuthError::ForeignOrigin);
    }
    let value = cookie.trim_matches('"');
    Ok(Some(bearer(value.as_bytes()).unwrap_or_else(|| value.to_owned())))
}

fn explicit(request: &HttpRequest) -> Option<String> {
    if let Some(token) = request.headers().get_all(header::AUTHORIZATION).find_map(|value| bearer(value.as_bytes())) {
        return Some(token);
    }
    // decoded, as for every other parameter: `tok%65n` is `token`
    if let Some((_, token)) = form_urlencoded::parse(request.query_string().as_bytes()).find(|(key, _)| key == "token")
    {
        return Some(token.into_owned());
    }
    let mut protocols = websocket_protocols(request).skip_while(|protocol| *protocol != BEARER_PROTOCOL.as_bytes());
    protocols.nth(1).map(|token| std::str::from_utf8(token).unwrap_or_default().to_owned())
}

/// The token of credentials of this scheme: the scheme in any case, then one or more spaces (RFC 9110, section 11.4). A tab is
/// no space, so with one the token is unreadable.
fn bearer(value: &[u8]) -> Option<String> {
    let value = value.trim_ascii();
    let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
    let (scheme, token) = value.split_at(end);
    let token = if token.contains(&b'\t') { b"" } else { token.trim_ascii() };
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer");
    is_bearer.then(|| std::str::from_utf8(token).unwrap_or_default().to_owned())
}

/// The value of the cookie. Other cookies may be malformed.
fn cookie(request: &HttpRequest) -> Option<String> {
    let lines = request.headers().get_all(header::COOKIE);
    let mut cookies = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
    let named =
        |cookie: &&[u8]| cookie.split(|byte| *byte == b'=').next().map(<[u8]>::trim_ascii) == Some(COOKIE.as_bytes());
    let text = std::str::from_utf8(cookies.find(named)?).unwrap_or_default();
    Some(Cookie::parse_encoded(text).map(|cookie| cookie.value().to_owned()).unwrap_or_default())
}

/// Whether a handshake offers the subprotocol that carries a token.
pub fn offers_bearer(request: &HttpRequest) -> bool {
    websocket_protocols(request).any(|protocol| protocol == BEARER_PROTOCOL.as_bytes())
}

/// What a handshake offers as `Sec-WebSocket-Protocol`; several lines are one list (RFC 6455, section 11.3.4).
fn websocket_protocols(request: &HttpRequest) -> impl Iterator<Item = &[u8]> {
    let lines = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let protocols = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    protocols.map(<[u8]>::trim_ascii).filter(|protocol| !protocol.is_empty())
}

/// Whether the request comes from a page of this server or of an allow-listed origin, or from no browser at all.
fn is_own_origin(request: &HttpRequest, http: &Http) -> bool {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let same = Origin::parse(origin).is_some_and(|origin| origin.is_of_host(&host(request, http)));
    same || origin::is_allowed(origin, &http.cors_origins)
}

/// The host by which the client calls this server: the one that a trusted proxy names, else `Host`.
fn host(request: &HttpRequest, http: &Http) -> String {
    if is_from_trusted_proxy(request, http) {
        return request.connection_info().host().to_owned();
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| request.uri().authority().map(|authority| authority.as_str())).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use actix_web::{http::header::HeaderValue, test::TestRequest};

    use super::*;

    fn http() -> Http {
        Http {
            bind: ([127, 0, 0, 1], 0).into(),
            workers: 1,
            public_reads: true,
            public_sockets: true,
            cors_origins: vec!["localhost".to_owned(), "https://allowed.example".to_owned()],
            trusted_proxies: vec!["192.0.2.0/24".parse().unwrap()],
            metrics: Vec::new(),
            shutdown_delay_secs: 0,
            drain_secs: 0,
            close_spread_secs: 0,
        }
    }

    fn found(request: TestRequest) -> Option<String> {
        token(&request.to_http_request(), &http()).unwrap()
    }

    #[test]
    fn the_first_place_that_has_a_token_wins() {
        let all = || {
            TestRequest::with_uri("/?a=1&token=query%2B")
                .insert_header(("Authorization", "bearer header"))
                .cookie(Cookie::new(COOKIE, "cookie"))
        };
        assert_eq!(found(all()).unwrap(), "header");
        assert_eq!(found(TestRequest::with_uri("/?a=1&token=query%2B")).unwrap(), "query+");
        let protocol = TestRequest::default().insert_header(("Sec-WebSocket-Protocol", "bearer, abc"));
        assert_eq!(found(protocol).unwrap(), "abc");
        let lines = TestRequest::default()
            .append_header(("Sec-WebSocket-Protocol", "chat"))
            .append_header(("Sec-WebSocket-Protocol", "bearer"))
            .append_header(("Sec-WebSocket-Protocol", "abc"));
        assert_eq!(found(lines).unwrap(), "abc");
        assert_eq!(found(TestRequest::default().insert_header(("Sec-WebSocket-Protocol", "bearer"))), None);
        for cookie in ["abc", "Bearer abc", "bearer  abc"] {
            assert_eq!(found(TestRequest::default().cookie(Cookie::new(COOKIE, cookie))).unwrap(), "abc", "{cookie}");
        }
        assert_eq!(found(TestRequest::default().insert_header(("Authorization", "Basic abc"))), None);
        assert_eq!(found(TestRequest::default()), None);
    }

    #[test]
    fn a_token_in_the_query_is_found_as_the_decoded_query_says() {
        for (query, token) in [
            ("tok%65n=abc", Some("abc")),
            ("%74%6F%6b%65%6E=abc", Some("abc")),
            ("a=1&tok%65n=a%62c&b=2", Some("abc")),
            ("token=abc&token=def", Some("abc")),
            ("tok%65n=abc&token=def", Some("abc")),
            ("token=&token=def", Some("")),
            ("tok%65n", Some("")),
            ("to+ken=abc", None),
            ("tok%2565n=abc", None),
            ("a=token", None),
            ("mytoken=abc&Token=abc", None),
        ] {
            assert_eq!(found(TestRequest::with_uri(&format!("/?{query}"))).as_deref(), token, "{query}");
        }
    }

    #[test]
    fn a_scheme_in_any_case_and_any_number_of_spaces_come_before_a_token() {
        for value in ["Bearer abc", "bearer abc", "BEARER abc", "bEaReR abc", "Bearer    abc", " Bearer abc "] {
            assert_eq!(
                found(TestRequest::default().insert_header(("Authorization", value))).unwrap(),
                "abc",
                "{value}"
            );
        }
        for value in ["Bearerabc", "Bearer,abc", "Bearer:abc", "abc"] {
            assert_eq!(found(TestRequest::default().insert_header(("Authorization", value))), None, "{value}");
        }
    }

    #[test]
    fn unreadable_credentials_are_not_taken_for_none() {
        let value = |bytes: &'static [u8]| HeaderValue::from_bytes(bytes).unwrap();
        let with = |name: &'static str, bytes| found(TestRequest::default().insert_header((name, value(bytes))));
        for bytes in
            [b"Bearer".as_slice(), b"bearer ", b"Bearer \xe4", b"Bearer\tabc", b"Bearer \tabc", b"bearer abc\tabc"]
        {
            assert_eq!(with("Authorization", bytes).unwrap(), "", "{bytes:?}");
        }
        for bytes in [b"access_token".as_slice(), b"access_token=\xe4", b"a=1; access_token=%ff"] {
            assert_eq!(with("Cookie", bytes).unwrap(), "", "{bytes:?}");
        }
        for bytes in [b"bearer, \xe4".as_slice(), b"chat,bearer,a\xffc,chat"] {
            assert_eq!(with("Sec-WebSocket-Protocol", bytes).unwrap(), "", "{bytes:?}");
        }
        assert_eq!(found(TestRequest::with_uri("/?token")).unwrap(), "");
        // other cookies and protocols may have any value
        assert_eq!(with("Cookie", b"nonsense; x=\xe4; access_token=abc").unwrap(), "abc");
        assert_eq!(with("Cookie", b"nonsense; access_token2=abc"), None);
        assert_eq!(with("Sec-WebSocket-Protocol", b"\xe4, bearer, abc").unwrap(), "abc");
        let both = TestRequest::default()
            .append_header(("Authorization", "Basic abc"))
            .append_header(("Authorization", "Bearer abc"));
        assert_eq!(found(both).unwrap(), "abc");
    }

    #[test]
    fn a_cookie_from_a_foreign_page_is_refused_where_it_could_do_harm() {
        let request = |method: Method, origin: &str| {
            let request = TestRequest::default()
                .method(method)
                .insert_header(("Host", "chat.example:8000"))
                .insert_header(("Origin", origin.to_owned()))
                .cookie(Cookie::new(COOKIE, "abc"))
                .to_http_request();
            token(&request, &http())
        };
        for good in ["http://chat.example:8000", "https://allowed.example", "http://localhost:3000"] {
            assert!(request(Method::POST, good).is_ok(), "{good}");
        }
        for bad in ["http://evil.example", "http://localhost.evil.example", "null", "http://chat.example:8001"] {
            assert!(matches!(request(Method::POST, bad), Err(AuthError::ForeignOrigin)), "{bad}");
            assert!(request(Method::GET, bad).is_ok(), "{bad}");
        }
    }

    #[test]
    fn another_name_of_this_server_is_believed_from_a_trusted_proxy_alone() {
        let request = |peer: [u8; 4], host: &str, header: (&'static str, &'static str)| {
            let request = TestRequest::post()
                .peer_addr((peer, 1000).into())
                .insert_header(("Host", host.to_owned()))
                .insert_header(("Origin", "https://chat.example"))
                .insert_header(header)
                .cookie(Cookie::new(COOKIE, "abc"))
                .to_http_request();
            token(&request, &http()).is_ok()
        };
        let (proxy, stranger) = ([192, 0, 2, 1], [198, 51, 100, 1]);
        for header in [("X-Forwarded-Host", "chat.example"), ("Forwarded", "host=chat.example")] {
            assert!(request(proxy, "10.0.0.1:8000", header));
            assert!(!request(stranger, "10.0.0.1:8000", header));
        }
        assert!(request(stranger, "chat.example", ("X-Forwarded-Host", "evil.example")));
        assert!(!request(proxy, "chat.example", ("X-Forwarded-Host", "evil.example")));
    }
}
