//! Pages of lists: how many entries, how many bytes, and where the next page begins (contract section 2).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::body::{Checked, Fields, FromFields};
use crate::error::ApiError;

/// Entries of a page if nothing else is asked for.
pub(super) const USUAL: u64 = 100;

/// Entries of a page at most.
pub(super) const MOST: u64 = 1000;

/// Entries of a list of the systems before, whose clients expect it whole.
pub(super) const WHOLE: u64 = 10_000;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 1024 * 1024;

/// Bytes of a list of the systems before.
pub(crate) const WHOLE_BYTES: usize = 4 * PAGE_BYTES;

/// The header of an answer that is a bare array and was cut at [`PAGE_BYTES`].
pub(super) const TRUNCATED: &str = "x-truncated";

/// A cursor for what comes after this entry.
pub(super) fn cursor(key: &str) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

/// Reads a cursor's key from the query.
pub(super) fn key(fields: &mut Fields<'_>) -> Checked<Option<String>> {
    let decode = |text: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok();
    let decode = |text: &str| decode(text).filter(|key| !key.contains('\0'));
    fields.parsed("cursor", decode, "a cursor from an earlier answer")
}

/// Reads a cursor that is a number of entries from the query.
pub(super) fn number(fields: &mut Fields<'_>) -> Checked<Option<u64>> {
    let Some(key) = key(fields)? else { return Ok(None) };
    let number = key.parse().ok().filter(|number| *number <= i64::MAX as u64);
    number
        .map(Some)
        .ok_or_else(|| fields.fault("value_error", "cursor", "Value error, expected a cursor from an earlier answer"))
}

/// Which part of a list of the systems before: all of it, unless asked for pages.
#[derive(Debug)]
pub struct Part {
    /// The last key of the page before.
    pub(super) after: Option<String>,
    /// Entries.
    pub(super) limit: u64,
    /// Bytes.
    pub(super) bytes: usize,
}

impl FromFields for Part {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let limit = fields.optional_number("limit", 1..=MOST);
        let after = key(fields);
        let limit = limit?;
        let bytes = if limit.is_some() { PAGE_BYTES } else { WHOLE_BYTES };
        Ok(Self { after: after?, limit: limit.unwrap_or(WHOLE), bytes })
    }
}

/// Where a list goes on, if it does: nothing else is added to the answers of the systems before.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Next {
    /// There is more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    /// For the next page, as `cursor`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

impl Next {
    /// After the entry with this key, if there is more.
    pub(super) fn after(key: Option<&str>, more: bool) -> Self {
        match key {
            Some(key) if more => Self { truncated: true, cursor: Some(cursor(key)) },
            _ => Self::default(),
        }
    }
}

/// Takes so many of the entries, which are in the order of their keys, from the one after the cursor on.
pub(super) fn part_of<K: AsRef<str>, V>(entries: impl IntoIterator<Item = (K, V)>, part: &Part) -> (Vec<(K, V)>, Next) {
    let after = part.after.as_deref();
    let mut rest = entries.into_iter().skip_while(|(key, _)| after.is_some_and(|after| key.as_ref() <= after));
    let page: Vec<_> = rest.by_ref().take(part.limit as usize).collect();
    let more = rest.next().is_some();
    let next = Next::after(page.last().map(|(key, _)| key.as_ref()), more);
    (page, next)
}

/// Entries as JSON, as many as fit into a page; at least one, so that every page goes on.
pub(super) fn fit<T: Serialize>(entries: impl IntoIterator<Item = T>) -> Result<(Vec<Box<RawValue>>, bool), ApiError> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    for entry in entries {
        let json = to_raw_value(&entry).map_err(|error| ApiError::Internal(error.to_string()))?;
        bytes += json.get().len() + 1;
        if bytes > PAGE_BYTES && !page.is_empty() {
            return Ok((page, true));
        }
        page.push(json);
    }
    Ok((page, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_on_after_the_last_entry_of_the_one_before() {
        let entries = || ["a", "b", "c", "d", "e"].into_iter().map(|key| (key, ()));
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
    fn a_page_is_cut_at_its_bytes_and_has_at_least_one_entry() {
        let large = "x".repeat(PAGE_BYTES);
        let (page, cut) = fit([&large, &large]).unwrap();
        assert!(page.len() == 1 && cut);
        let (page, cut) = fit(vec!["x".repeat(100); 100]).unwrap();
        assert!(page.len() == 100 && !cut);
    }
}
