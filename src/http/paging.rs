//! Pages of lists: how many entries, how many bytes, and where the next page begins (contract section 2).
//!
//! Every list takes `limit` and `cursor`. A cursor is the key of a page's last entry, so that the next page neither skips
//! nor repeats entries when others are added or removed meanwhile. A list whose answer is an object gives it as `cursor`; one
//! whose answer is a bare array has no place for it and gives the address of the next page in the header `Link` (RFC 8288).

use actix_web::{HttpRequest, HttpResponse, http::header};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::body::{Checked, Fields, FromFields};
use crate::{domain::ids::ClientId, http::errors::ApiError};

/// Entries of a page by default.
pub(super) const USUAL: u64 = 100;

/// Most entries of a page.
pub(super) const MOST: u64 = 1000;

/// Most entries of an earlier system's list, which is complete by default.
pub(super) const WHOLE: u64 = 10_000;

/// Most bytes of a page.
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;

/// Most bytes of a list that is complete by default.
pub(crate) const WHOLE_BYTES: usize = 4 * PAGE_BYTES;

/// The key by which the entries of a list are ordered. A cursor contains one.
pub(super) trait Key: Sized + 'static {
    /// As text.
    fn to_text(&self) -> String;

    /// From the text of a key; `None` if it is none.
    fn from_text(text: &str) -> Option<Self>;
}

impl Key for String {
    fn to_text(&self) -> String {
        self.clone()
    }

    fn from_text(text: &str) -> Option<Self> {
        // no key contains NUL, and PostgreSQL refuses to search for it
        (!text.contains('\0')).then(|| text.to_owned())
    }
}

impl Key for i64 {
    fn to_text(&self) -> String {
        self.to_string()
    }

    fn from_text(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Key for DateTime<Utc> {
    fn to_text(&self) -> String {
        self.to_rfc3339_opts(SecondsFormat::AutoSi, true)
    }

    fn from_text(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc())
    }
}

/// A key that several clients may have, with the client.
impl<K: Key> Key for (K, ClientId) {
    fn to_text(&self) -> String {
        format!("{} {}", self.1, self.0.to_text())
    }

    fn from_text(text: &str) -> Option<Self> {
        let (client, key) = text.split_once(' ')?;
        Some((K::from_text(key)?, ClientId::parse(client)?))
    }
}

/// Reads a cursor from the query.
pub(super) fn cursor<K: Key>(fields: &mut Fields<'_>) -> Checked<Option<K>> {
    let decode = |text: &str| K::from_text(&String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?);
    fields.parsed("cursor", decode, "a cursor from an earlier answer")
}

/// The page of a list that a request asks for: after a cursor, else after `skip` entries.
#[derive(Debug)]
pub struct Paging<K, const LEAST: u64 = 1> {
    /// The last key of the page before.
    pub(super) after: Option<K>,
    /// How many entries to pass over.
    pub(super) skip: u64,
    /// Entries.
    pub(super) limit: u64,
}

impl<K: Key, const LEAST: u64> FromFields for Paging<K, LEAST> {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let skip = fields.optional_number("skip", 0..=i64::MAX as u64);
        let limit = fields.optional_number("limit", LEAST..=MOST);
        let (after, skip, limit) = (cursor(fields), skip?, limit?);
        let after = after?;
        let skip = if after.is_some() { 0 } else { skip.unwrap_or(0) };
        Ok(Self { after, skip, limit: limit.unwrap_or(USUAL) })
    }
}

/// The part of an earlier system's list that a request asks for: the complete list, or a page.
#[derive(Debug)]
pub struct Part<K = String> {
    /// The last key of the page before.
    pub(super) after: Option<K>,
    /// Most entries.
    pub(super) limit: u64,
    /// Most bytes.
    pub(super) bytes: usize,
}

impl<K: Key> FromFields for Part<K> {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let limit = fields.optional_number("limit", 1..=MOST);
        let after = cursor(fields);
        let limit = limit?;
        let bytes = if limit.is_some() { PAGE_BYTES } else { WHOLE_BYTES };
        Ok(Self { after: after?, limit: limit.unwrap_or(WHOLE), bytes })
    }
}

/// Where a list goes on, if it does: nothing is added to the last page.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Next {
    /// There is more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) truncated: bool,
    /// For the next page, as `cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cursor: Option<String>,
}

impl Next {
    /// After the entry with this key, if there is more.
    pub(super) fn after<K: Key>(key: Option<&K>, more: bool) -> Self {
        match key {
            Some(key) if more => Self { truncated: true, cursor: Some(URL_SAFE_NO_PAD.encode(key.to_text())) },
            _ => Self::default(),
        }
    }

    /// A page that is a bare array.
    pub(super) fn of_array<T: Serialize>(self, request: &HttpRequest, page: &[T]) -> HttpResponse {
        let mut response = HttpResponse::Ok();
        if let Some(cursor) = self.cursor {
            response.insert_header((header::LINK, link(request, &cursor)));
        }
        response.json(page)
    }
}

/// The address of the request with another cursor.
fn link(request: &HttpRequest, cursor: &str) -> String {
    let query = form_urlencoded::parse(request.query_string().as_bytes());
    // without credentials, since proxies may log the headers of answers
    let kept = query.filter(|(name, _)| !matches!(&**name, "cursor" | "token"));
    let query =
        form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).append_pair("cursor", cursor).finish();
    format!("<{}?{query}>; rel=\"next\"", request.uri().path())
}

/// The part of the entries after the cursor. The entries are ordered by their keys.
pub(super) fn part_of<K: Key + Ord, V>(
    entries: impl IntoIterator<Item = (K, V)>,
    part: &Part<K>,
) -> (Vec<(K, V)>, Next) {
    let after = part.after.as_ref();
    let mut rest = entries.into_iter().skip_while(|(key, _)| after.is_some_and(|after| key <= after));
    let page: Vec<_> = rest.by_ref().take(part.limit as usize).collect();
    let more = rest.next().is_some();
    let next = Next::after(page.last().map(|(key, _)| key), more);
    (page, next)
}

/// The page of the entries as JSON: at most `limit`, and as many as fit into [`PAGE_BYTES`], but at least one. The entries must
/// continue after the page if there are more.
pub(super) fn fit<K: Key, T: Serialize>(
    entries: impl IntoIterator<Item = (K, T)>,
    limit: u64,
) -> Result<(Vec<Box<RawValue>>, Next), ApiError> {
    let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
    for (key, entry) in entries {
        let json = to_raw_value(&entry).map_err(|error| ApiError::Internal(error.to_string()))?;
        bytes += json.get().len() + 1;
        if page.len() as u64 >= limit || (bytes > PAGE_BYTES && !page.is_empty()) {
            return Ok((page, Next::after(last.as_ref(), true)));
        }
        page.push(json);
        last = Some(key);
    }
    Ok((page, Next::default()))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn pages_go_on_after_the_last_entry_of_the_one_before() {
        let entries = || ["a", "b", "c", "d", "e"].into_iter().map(|key| (key.to_owned(), ()));
        let mut part = Part { after: None, limit: 2, bytes: PAGE_BYTES };
        let mut seen = Vec::new();
        loop {
            let (page, next) = part_of(entries(), &part);
            seen.extend(page.into_iter().map(|(key, ())| key));
            let Some(cursor) = next.cursor else { break };
            assert!(next.truncated);
            part.after = Some(String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).unwrap()).unwrap());
        }
        assert_eq!(seen, ["a", "b", "c", "d", "e"]);
    }

    #[test]
    fn a_page_is_cut_at_its_entries_and_its_bytes_and_has_at_least_one_entry() {
        let large = "x".repeat(PAGE_BYTES);
        let (page, next) = fit([(1, &large), (2, &large)], 2).unwrap();
        assert!(page.len() == 1 && next.truncated);
        let small = || (0..100).map(|key| (key, "x".repeat(100)));
        let (page, next) = fit(small(), 100).unwrap();
        assert!(page.len() == 100 && !next.truncated);
        let (page, next) = fit(small(), 99).unwrap();
        assert!(page.len() == 99 && next.truncated);
        let (page, next) = fit(small(), 0).unwrap();
        assert!(page.is_empty() && next.cursor.is_none());
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        fn again<K: Key>(key: &K) -> Option<K> {
            K::from_text(&key.to_text())
        }
        let client = ClientId::random();
        let now = Utc::now();
        assert_eq!(again(&i64::MIN), Some(i64::MIN));
        assert_eq!(again(&now), Some(now));
        for name in ["", " ", "two words ", "\u{fc}\n"] {
            assert_eq!(again(&name.to_owned()), Some(name.to_owned()));
            assert_eq!(again(&(name.to_owned(), client)), Some((name.to_owned(), client)));
        }
        for text in ["", "x", "a\0", &client.to_string(), &format!("{client} a\0")] {
            assert_eq!(<(String, ClientId)>::from_text(text), None);
        }
    }

    #[test]
    fn a_link_keeps_the_other_parameters_but_no_token_and_can_not_be_ended_early() {
        let request = TestRequest::with_uri("/api/rooms/?limit=2&cursor=a&token=b&q=%3E%22+%26").to_http_request();
        assert_eq!(link(&request, "c"), "</api/rooms/?limit=2&q=%3E%22+%26&cursor=c>; rel=\"next\"");
        let request = TestRequest::with_uri("/api/users").to_http_request();
        assert_eq!(link(&request, "c"), "</api/users?cursor=c>; rel=\"next\"");
    }
}
