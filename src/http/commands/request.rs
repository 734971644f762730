//! The bodies and queries of command routes.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::Type},
};

use crate::{
    auth::tokens::digest,
    domain::{
        commands::{Selection, TargetState, max_targets},
        ids::{ClientKind, ClientRef, CommandId, Role, RoomId, TopicId},
    },
    http::{
        body::{Checked, Fields, FromFields},
        paging::{self, MOST, USUAL, WHOLE},
    },
};

/// The longest that a target may take to answer.
pub(super) const MAX_TIMEOUT_SECS: u64 = 300;

/// The longest a command may wait for its targets: a week.
const MAX_DELIVER_WITHIN_SECS: u64 = 604_800;

fn read_target(value: &Value) -> Option<ClientRef> {
    match value {
        Value::Number(id) => id.as_i64().map(ClientRef::User),
        Value::String(text) => ClientRef::parse(text),
        _ => None,
    }
}

/// What targets are to do.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"method": "GET", "url": "/status"}))]
pub struct Request {
    #[schema(example = "GET")]
    pub(super) method: String,
    #[schema(example = "/status")]
    pub(super) url: String,
    /// Any JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(super) data: Option<Arc<str>>,
}

impl FromFields for Request {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let method = fields.text("method", 1..=32);
        let url = fields.text("url", 1..=2048);
        let data = fields.optional_json("data").map(Into::into);
        Ok(Self { method: method?, url: url?, data })
    }
}

/// Selects connected clients: those for which all conditions hold.
#[derive(Debug, Default, ToSchema)]
pub struct Select {
    /// `device` or `user`.
    #[schema(value_type = Option<String>)]
    kind: Option<ClientKind>,
    /// Subscribers of this topic.
    topic: Option<String>,
    /// Members of this room.
    room: Option<i64>,
    /// Clients whose names begin like this.
    name_prefix: Option<String>,
}

impl From<Select> for Selection {
    fn from(Select { kind, topic, room, name_prefix }: Select) -> Self {
        Self { kind, topic: topic.map(|topic| TopicId::from(topic.as_str())), room: room.map(RoomId), name_prefix }
    }
}

/// A command: one of `target`, `targets` and `select`, and what they are to do.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"target": "123e4567-e89b-12d3-a456-426614174000", "method": "GET", "url": "/status"}))]
pub struct CreateCommand {
    /// A user's integer id, or the UUID of a device or user.
    #[schema(value_type = Option<String>)]
    pub(super) target: Option<ClientRef>,
    /// Several of them.
    #[schema(value_type = Option<Vec<String>>)]
    pub(super) targets: Option<Vec<ClientRef>>,
    /// Or all that are connected and fit.
    pub(super) select: Option<Select>,
    #[schema(example = "GET")]
    pub(super) method: String,
    #[schema(example = "/status")]
    pub(super) url: String,
    /// Any JSON.
    #[schema(value_type = Option<serde_json::Value>)]
    pub(super) data: Option<Arc<str>>,
    /// 1 to 300; how long a target may take once it was sent. `limits.command_timeout_secs` if left out.
    pub(super) timeout_secs: Option<u64>,
    /// 0 to 604800; how long it waits for targets that are not connected. 0 if left out: not at all.
    pub(super) deliver_within_secs: Option<u64>,
    /// of the request as a JSON value: a repeated request has to be the same
    #[schema(ignore)]
    pub(super) digest: String,
}

impl FromFields for CreateCommand {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let request = Request::from_fields(fields);
        let timeout_secs = fields.optional_number("timeout_secs", 1..=MAX_TIMEOUT_SECS);
        let deliver_within_secs = fields.optional_number("deliver_within_secs", 0..=MAX_DELIVER_WITHIN_SECS);
        let target = fields.optional_value("target").map(|target| {
            let expected = "Value error, expected a user's integer id or a UUID";
            read_target(target).ok_or_else(|| fields.fault("value_error", "target", expected))
        });
        let expected = "a list of users' integer ids and UUIDs, at least one";
        let targets = fields.optional_list("targets", 1..=max_targets(Role::Operator), read_target, expected);
        let select = fields.optional_value("select").map(|select| read_select(fields, select));
        let (target, targets, select) = (target.transpose()?, targets?, select.transpose()?);
        let given = [target.is_some(), targets.is_some(), select.is_some()];
        if given.into_iter().filter(|given| *given).count() != 1 {
            return Err(fields.fault_of_all("value_error", "Value error, expected one of target, targets and select"));
        }
        let Request { method, url, data } = request?;
        let (timeout_secs, deliver_within_secs) = (timeout_secs?, deliver_within_secs?);
        let digest = digest(&fields.canonical());
        Ok(Self { target, targets, select, method, url, data, timeout_secs, deliver_within_secs, digest })
    }
}

fn read_select(fields: &mut Fields<'_>, select: &Value) -> Checked<Select> {
    let expected = "Value error, expected an object with any of kind, topic, room, name_prefix";
    let Some(object) = select.as_object() else {
        return Err(fields.fault("value_error", "select", expected));
    };
    let mut read = Select::default();
    for (key, value) in object {
        match (key.as_str(), value) {
            (_, Value::Null) => {}
            ("kind", Value::String(kind)) if ClientKind::parse(kind).is_some() => read.kind = ClientKind::parse(kind),
            ("kind", _) => {
                return Err(fields.fault("value_error", "select", "Value error, kind: expected device or user"));
            }
            ("topic", Value::String(topic)) => read.topic = Some(topic.clone()),
            ("name_prefix", Value::String(prefix)) => read.name_prefix = Some(prefix.clone()),
            ("room", Value::Number(room)) if room.is_i64() => read.room = room.as_i64(),
            // an unknown condition that is ignored would select too many clients
            _ => return Err(fields.fault("value_error", "select", expected)),
        }
    }
    Ok(read)
}

/// The state of a target.
pub struct StateName;

impl utoipa::PartialSchema for StateName {
    fn schema() -> RefOr<Schema> {
        let words = TargetState::ALL.map(TargetState::as_str);
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).into()
    }
}

impl ToSchema for StateName {}

/// Which commands to list.
#[derive(Debug)]
pub struct ListQuery {
    pub(super) state: Option<TargetState>,
    pub(super) target: Option<ClientRef>,
    pub(super) since: Option<DateTime<Utc>>,
    pub(super) limit: u64,
    pub(super) cursor: Option<CommandId>,
}

impl FromFields for ListQuery {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let state = fields.one_of("state", &TargetState::ALL.map(|state| (state.as_str(), state)));
        let target = fields.parsed("target", ClientRef::parse, "a user's integer id or a UUID");
        let time = |text: &str| DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
        let since = fields.parsed("since", time, "a time such as 2026-01-31T12:00:00Z");
        let limit = fields.optional_number("limit", 1..=MOST);
        let cursor = fields.parsed("cursor", CommandId::parse, "a cursor from an earlier answer");
        Ok(Self { state: state?, target: target?, since: since?, limit: limit?.unwrap_or(USUAL), cursor: cursor? })
    }
}

/// A page of a command's targets. Their order never changes, so that the cursor is a number.
#[derive(Debug)]
pub struct TargetPage {
    pub(super) from: u64,
    pub(super) limit: u64,
}

impl FromFields for TargetPage {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let limit = fields.optional_number("limit", 1..=MOST);
        let from = paging::cursor::<i64>(fields);
        let (limit, from) = (limit?, from?.unwrap_or(0).max(0));
        Ok(Self { from: from.unsigned_abs(), limit: limit.unwrap_or(WHOLE) })
    }
}
