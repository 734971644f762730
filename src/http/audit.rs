//! The audit log, and who is named in it.

use actix_web::{HttpRequest, web};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use utoipa::ToSchema;

use super::{
    body::{Checked, Fields, FromFields, QueryOf},
    client_address,
    paging::{self, MOST, Next, PAGE_BYTES, USUAL, fit},
};
use crate::{
    domain::{
        accounts::Authenticated,
        audit::{Action, Actor, Target},
    },
    http::Admission,
    http::errors::ApiError,
    http::extract::Admin,
    protocol::outbound::rfc3339,
    state::Broker,
    store::{AuditFilter, AuditRecord},
};

/// The longest id of an actor or target.
const MAX_ID_CHARS: usize = 256;

/// A client as the audit log names it.
pub(super) fn actor(request: &HttpRequest, broker: &Broker, identity: &Authenticated) -> Actor {
    Actor::of(&identity.account, client_address(request, &broker.settings.load()))
}

/// Records that a client may not call this route.
pub(super) fn access_refused(request: &HttpRequest, broker: &Broker, identity: &Authenticated) {
    // the pattern, so that a client cannot cause as many records as there are ids
    let route = request.match_pattern().unwrap_or_default();
    let target = Target::of(format!("{} {route}", request.method()));
    broker.audit.record_bounded(actor(request, broker, identity), Action::AccessRefused, Some(target), json!({}));
}

/// A record of the audit log.
#[derive(Serialize, ToSchema)]
pub struct AuditInfo {
    id: i64,
    /// When.
    #[schema(example = "2026-01-31T12:00:00Z")]
    at: String,
    /// Who: a client's UUID, or the user of the operating system who ran a command. Null: nobody who is known.
    actor: Option<String>,
    /// The client's name at that time.
    actor_name: Option<String>,
    /// `device`, `user`, `operator`, `admin`, `command_line` or `system`.
    actor_role: Option<String>,
    /// Where the request came from.
    address: Option<String>,
    /// The node: its host and address; of a command line the host.
    node: String,
    #[schema(value_type = ActionName)]
    action: String,
    /// The id of whom or what it was done to.
    target: Option<String>,
    target_name: Option<String>,
    /// `succeeded` or `refused`.
    outcome: String,
    /// What else there is to say, without secrets.
    #[schema(value_type = HashMap<String, Value>)]
    details: Value,
}

impl From<AuditRecord> for AuditInfo {
    fn from(record: AuditRecord) -> Self {
        Self {
            id: record.id,
            at: rfc3339(record.at),
            actor: record.actor,
            actor_name: record.actor_name,
            actor_role: record.actor_role,
            address: record.address,
            node: record.node,
            action: record.action,
            target: record.target,
            target_name: record.target_name,
            outcome: record.outcome,
            details: record.details.into(),
        }
    }
}

/// The word of an action.
pub struct ActionName;

impl utoipa::PartialSchema for ActionName {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        let words = Action::ALL.iter().map(|action| action.as_str());
        let text = utoipa::openapi::schema::Type::String;
        utoipa::openapi::ObjectBuilder::new().schema_type(text).enum_values(Some(words)).into()
    }
}

impl ToSchema for ActionName {}

/// A page of the audit log, newest first.
#[derive(Serialize, ToSchema)]
pub struct AuditList {
    /// On this page.
    count: usize,
    #[schema(value_type = Vec<AuditInfo>)]
    records: Vec<Box<RawValue>>,
    #[serde(flatten)]
    next: Next,
}

/// Which records to list.
#[derive(Debug)]
pub struct ListQuery(AuditFilter);

impl FromFields for ListQuery {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let actions: Vec<_> = Action::ALL.iter().map(|action| (action.as_str(), *action)).collect();
        let action = fields.one_of("action", &actions);
        let actor = fields.optional_text("actor", 1..=MAX_ID_CHARS);
        let target = fields.optional_text("target", 1..=MAX_ID_CHARS);
        let time = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
        let expected = "a time such as 2026-01-31T12:00:00Z";
        let since: Checked<Option<DateTime<Utc>>> = fields.parsed("since", time, expected);
        let until = fields.parsed("until", time, expected);
        let limit = fields.optional_number("limit", 1..=MOST);
        let before = paging::cursor::<i64>(fields);
        Ok(Self(AuditFilter {
            action: action?,
            actor: actor?,
            target: target?,
            since: since?,
            until: until?,
            limit: limit?.unwrap_or(USUAL),
            before: before?,
        }))
    }
}

/// Who did what to whom, newest first. What another node did in the last moments may not be there yet.
#[utoipa::path(get, path = "/api/audit", tag = "operations", params(("action" = Option<ActionName>, Query, description = "Only this action"), ("actor" = Option<String>, Query, description = "A client's UUID, or the user of the operating system who ran a command"), ("target" = Option<String>, Query, description = "An id"), ("since" = Option<String>, Query, description = "RFC 3339", max_length = 64), ("until" = Option<String>, Query, description = "RFC 3339; before this time", max_length = 64), ("limit" = Option<u64>, Query, description = "1 to 1000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = AuditList), (status = 403, description = "Admin role required")), security(("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    _: Admin,
    query: QueryOf<ListQuery>,
) -> Result<web::Json<AuditList>, ApiError> {
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let mut filter = query.0.0;
    let limit = filter.limit;
    filter.limit += 1;
    let records = broker.audit.list(filter).await?;
    let (records, next) = fit(records.into_iter().map(|record| (record.id, AuditInfo::from(record))), limit)?;
    Ok(web::Json(AuditList { count: records.len(), records, next }))
}
