//! The history of a gateway (contract section 4).

use actix_web::web;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use super::{gateway_id, rounded};
use crate::{
    clock::stored,
    domain::gateways::{Hour, Transition, uptime_percent},
    http::Admission,
    http::errors::ApiError,
    http::{
        body::{Checked, Fields, FromFields, QueryOf},
        extract::Operator,
        paging::{self, MOST, Next, PAGE_BYTES},
    },
    protocol::outbound::rfc3339,
    state::Broker,
    store::GatewayHistory,
};

/// Most changes in an answer, and in the calculation of the uptime.
const MAX_TRANSITIONS: usize = 1_000;

/// Most samples in an answer.
const MAX_SAMPLES: usize = 10_000;

/// The part of a history that a request asks for.
#[derive(Debug)]
pub struct Span {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// most changes, and most samples
    limit: Option<usize>,
}

impl FromFields for Span {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let time = |text: &str| {
            // an unescaped plus arrives as a space
            let read = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
            read(text)
                .or_else(|| read(&text.replace(' ', "+")))
                .filter(|time| (0..=253_402_300_799).contains(&time.timestamp()))
        };
        let expected = "a time such as 2026-01-31T12:00:00Z";
        let from = fields.parsed("from", time, expected);
        let to = fields.parsed("to", time, expected);
        let limit = fields.optional_number("limit", 1..=MOST);
        let cursor = paging::cursor::<DateTime<Utc>>(fields);
        let to = stored(to?.unwrap_or(fields.now));
        let from = stored(from?.unwrap_or(to - TimeDelta::hours(24)));
        if from > to {
            return Err(fields.fault("value_error", "from", "Value error, must not be after to"));
        }
        let (limit, cursor) = (limit?, cursor?);
        // a page ends where the span begins
        let to = cursor.map_or(to, |cursor| to.min(cursor).max(from));
        Ok(Self { from, to, limit: limit.map(|limit| limit as usize) })
    }
}

/// What became of a gateway.
#[derive(Serialize, ToSchema)]
pub struct History {
    id: i64,
    from: String,
    to: String,
    /// Of the time for which it is known; null if there is none.
    uptime_percent: Option<f64>,
    /// Oldest first.
    transitions: Vec<TransitionInfo>,
    /// Oldest first: one for each probe, and one for each hour where only that is kept.
    samples: Vec<Sample>,
    /// There is more, which is older: see `cursor`.
    truncated: bool,
    /// For the next page, as `cursor`: what was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

/// A change.
#[derive(Serialize, ToSchema)]
pub struct TransitionInfo {
    at: String,
    status: &'static str,
    reason: Option<&'static str>,
}

impl TransitionInfo {
    fn of(transition: &Transition) -> Self {
        Self {
            at: rfc3339(transition.at),
            status: transition.status.as_str(),
            reason: transition.reason.map(|reason| reason.as_str()),
        }
    }
}

/// A probe, or an hour of them.
#[derive(Serialize, ToSchema)]
pub struct Sample {
    at: String,
    /// Null: it was lost. Of an hour, the mean of what was answered.
    rtt_ms: Option<f64>,
    /// Of an hour: how many probes there were.
    #[serde(skip_serializing_if = "Option::is_none")]
    probes: Option<u32>,
    /// Of an hour: how many of them were answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    answered: Option<u32>,
}

/// The history of a gateway, by default of the last 24 hours. A page ends with the newest; the next page is what was before.
///
/// Each probe's round trip is kept for `probes.samples_hours`, hourly figures for `probes.history_days`.
#[utoipa::path(get, path = "/api/gateways/{id}/history", tag = "gateways", params(("id" = i64, Path), ("from" = Option<String>, Query, description = "RFC 3339", max_length = 64), ("to" = Option<String>, Query, description = "RFC 3339", max_length = 64), ("limit" = Option<u64>, Query, description = "Changes, and samples, 1 to 1000; left out: up to 1,000 and 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer, with the same other parameters", max_length = 1024)), responses((status = 200, body = History), (status = 403, description = "Operator role required"), (status = 404, description = "Gateway not found")), security(("bearer" = [])))]
pub async fn history(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    _: Operator,
    path: web::Path<String>,
    span: QueryOf<Span>,
) -> Result<web::Json<History>, ApiError> {
    let id = gateway_id(&path)?;
    let Span { from, to, limit } = span.0;
    let history = broker.gateways.written_history(id).await?;
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let GatewayHistory { before, mut transitions, hours } =
        history.between(from, to, MAX_TRANSITIONS as u64 + 1).await?;
    let uptime = uptime_percent(before, &transitions, from, to.min(broker.clock.now()));
    let (mut samples, left_out) = newest_samples(&hours, from, to, limit.unwrap_or(MAX_SAMPLES));
    // the page is complete from this time on
    let mut since = left_out.then(|| samples.first().map(|(at, _)| *at)).flatten();
    if let Some(first) = transitions.len().checked_sub(limit.unwrap_or(MAX_TRANSITIONS)).filter(|first| *first > 0) {
        since = since.max(transitions.get(first).map(|first| first.at));
    }
    if let Some(since) = since {
        transitions.retain(|transition| transition.at >= since);
        samples.retain(|(at, _)| *at >= since);
    }
    let Next { truncated, cursor } =
        Next::after(since.map(|since| since - TimeDelta::microseconds(1)).as_ref(), since.is_some());
    Ok(web::Json(History {
        id: id.0,
        from: rfc3339(from),
        to: rfc3339(to),
        uptime_percent: uptime.map(rounded),
        transitions: transitions.iter().map(TransitionInfo::of).collect(),
        samples: samples.into_iter().map(|(_, sample)| sample).collect(),
        truncated,
        cursor,
    }))
}

/// The newest samples, oldest first: at most `most`, but all with the same time as the first one. Also returns whether older
/// ones are left out.
fn newest_samples(
    hours: &[Hour],
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    most: usize,
) -> (Vec<(DateTime<Utc>, Sample)>, bool) {
    let mut samples: Vec<(DateTime<Utc>, Sample)> = Vec::new();
    let mut left_out = false;
    'hours: for hour in hours.iter().rev() {
        let whole = (
            hour.began_at,
            Sample {
                at: rfc3339(hour.began_at),
                rtt_ms: hour.rtt_ms.map(rounded),
                probes: Some(hour.probes),
                answered: Some(hour.answered),
            },
        );
        let each = hour.samples.iter().flatten().rev().map(|(offset, rtt_ms)| {
            let at = hour.began_at + TimeDelta::milliseconds((*offset).into());
            (at, Sample { at: rfc3339(at), rtt_ms: *rtt_ms, probes: None, answered: None })
        });
        let whole = hour.samples.is_none().then_some(whole);
        for sample in each.chain(whole).filter(|(at, _)| (from..=to).contains(at)) {
            if samples.len() >= most && samples.last().is_some_and(|(last, _)| *last != sample.0) {
                left_out = true;
                break 'hours;
            }
            samples.push(sample);
        }
    }
    samples.reverse();
    (samples, left_out)
}
