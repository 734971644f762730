//! Histories of topics, and changes of topics (contract section 12).

use actix_web::{HttpRequest, web};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use super::{TopicDetail, topic_of_path};
use crate::{
    domain::{
        ids::TopicId,
        topics::{
            TopicChange,
            history::{Entry, History, HistoryPart, MAX_SIZE, MAX_TTL_SECS, Retention, RetentionChange},
        },
    },
    http::{
        Admission,
        body::{Body, Checked, Fields, FromFields, QueryOf},
        errors::ApiError,
        extract::Identity,
        paging::{MOST, PAGE_BYTES, USUAL},
        undisturbed,
    },
    protocol::outbound::{excerpt, rfc3339},
    state::Broker,
};

/// What a topic keeps of its publications.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TopicHistorySettings, example = json!({"size": 100, "ttl_secs": 3600}))]
pub struct HistorySettings {
    /// How many of the newest.
    #[schema(minimum = 1, maximum = 10000)]
    size: u32,
    /// For how many seconds; without end if it is left out or null.
    #[schema(minimum = 1, maximum = 315_360_000)]
    ttl_secs: Option<u32>,
}

impl From<Retention> for HistorySettings {
    fn from(retention: Retention) -> Self {
        Self { size: retention.size, ttl_secs: retention.ttl_secs }
    }
}

/// A topic's history, seen from outside.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TopicHistoryInfo)]
pub struct HistoryInfo {
    #[serde(flatten)]
    settings: HistorySettings,
    /// The offset of the newest publication; 0: there has been none.
    last_offset: i64,
    /// The bytes of the publications that it keeps; beyond `limits.topic_history_bytes` the oldest are deleted.
    bytes: i64,
}

impl From<History> for HistoryInfo {
    fn from(history: History) -> Self {
        Self { settings: history.retention.into(), last_offset: history.last_offset, bytes: history.bytes }
    }
}

/// The field `history`: `None` if it is left out, `Some(None)` if it is null.
pub(super) fn history(fields: &mut Fields<'_>) -> Checked<Option<Option<RetentionChange>>> {
    if !fields.has("history") {
        return Ok(None);
    }
    let Some(value) = fields.optional_value("history") else { return Ok(Some(None)) };
    let Some(settings) = value.as_object() else {
        return Err(fields.fault("dict_type", "history", "Input should be a valid object"));
    };
    if let Some(unknown) = settings.keys().find(|key| !["size", "ttl_secs"].contains(&key.as_str())) {
        let msg = format!("Extra inputs are not permitted: {}", excerpt(unknown));
        return Err(fields.fault("extra_forbidden", "history", msg));
    }
    let most_kept = match fields.limits.topic_history {
        0 => MAX_SIZE,
        most => most,
    };
    let mut within = |name: &str, most: u32, limit: &str| match settings.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(number) => match number.as_u64().and_then(|number| u32::try_from(number).ok()) {
            Some(number) if (1..=most).contains(&number) => Ok(Some(Some(number))),
            _ => {
                let msg = format!("Value error, {name} must be a whole number from 1 to {most}{limit}");
                Err(fields.fault("value_error", "history", msg))
            }
        },
    };
    let size = within("size", most_kept, " (limits.topic_history)")?.flatten();
    Ok(Some(Some(RetentionChange { size, ttl_secs: within("ttl_secs", MAX_TTL_SECS, "")? })))
}

/// A change of a topic.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"history": {"size": 1000}}))]
pub struct PatchTopic {
    /// Whatever describes it: an object of at most 4 KiB as JSON.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    metadata: Option<Value>,
    /// What it keeps of its publications; null ends its history. What is left out stays as it is.
    #[schema(value_type = Option<HistorySettings>)]
    history: Option<Option<RetentionChange>>,
}

impl FromFields for PatchTopic {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let is_given = fields.has("metadata");
        let metadata = fields.optional_object("metadata", fields.limits.metadata_bytes, "limits.metadata_bytes");
        let history = history(fields);
        Ok(Self { metadata: is_given.then_some(metadata?), history: history? })
    }
}

/// Change a topic's metadata or history. For its creator and for operators.
#[utoipa::path(patch, path = "/topics/{topic_id}", tag = "messaging", params(("topic_id" = String, Path)), request_body = PatchTopic, responses((status = 200, description = "The topic after the change", body = TopicDetail), (status = 403, description = "Neither its creator nor an operator, or the broker's own topic"), (status = 404, description = "Topic not found")), security(("bearer" = [])))]
pub async fn change(
    broker: web::Data<Broker>,
    identity: Identity,
    path: Option<web::Path<String>>,
    body: Body<PatchTopic>,
    request: HttpRequest,
) -> Result<web::Json<TopicDetail>, ApiError> {
    let (id, account) = (TopicId::from(topic_of_path(path, &request)), identity.account.clone());
    let PatchTopic { metadata, history } = body.content;
    undisturbed(async move {
        let view = broker.topics.change(&id, &account, &TopicChange { metadata, history }).await?;
        Ok(web::Json(TopicDetail::of(view)))
    })
    .await
}

/// Which publications a request asks for.
#[derive(Debug)]
pub struct HistoryQuery {
    since_offset: i64,
    limit: u64,
}

impl FromFields for HistoryQuery {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let since = fields.optional_number("since_offset", 0..=i64::MAX as u64);
        let limit = fields.optional_number("limit", 1..=MOST)?.unwrap_or(USUAL);
        Ok(Self { since_offset: since?.unwrap_or(0) as i64, limit })
    }
}

/// A publication in a topic's history.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeptPublication {
    /// Its number in the topic, from 1 on without gaps.
    offset: i64,
    /// When it was stored.
    at: String,
    /// The object that was published.
    #[schema(value_type = HashMap<String, Value>)]
    message: Box<RawValue>,
}

impl KeptPublication {
    fn of(entry: Entry) -> Self {
        // was checked before it was stored
        let message = RawValue::from_string(entry.message).unwrap_or_default();
        Self { offset: entry.offset, at: rfc3339(entry.at), message }
    }
}

/// A part of a topic's history, oldest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct TopicMessages {
    topic_id: String,
    /// The offset of the oldest publication that is kept, or of the next to come.
    first_offset: i64,
    /// The offset of the newest publication; 0: there has been none.
    last_offset: i64,
    messages: Vec<KeptPublication>,
}

/// What a topic with a history keeps, oldest first. For who may subscribe to it.
///
/// A page ends after `limit` publications or a megabyte. For the next one, pass the last `offset` as `since_offset`.
#[utoipa::path(get, path = "/topics/{topic_id}/messages", tag = "messaging", params(("topic_id" = String, Path), ("since_offset" = Option<u64>, Query, description = "What came after this offset; left out: all that is kept"), ("limit" = Option<u64>, Query, description = "1 to 1000; left out: 100")), responses((status = 200, body = TopicMessages), (status = 400, description = "Topic has no history"), (status = 403, description = "Operator role required, or not allowed by topics.subscribe"), (status = 404, description = "Topic not found")), security(("bearer" = [])))]
pub async fn messages(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    identity: Identity,
    path: web::Path<String>,
    query: QueryOf<HistoryQuery>,
) -> Result<web::Json<TopicMessages>, ApiError> {
    let HistoryQuery { since_offset, limit } = query.0;
    let topic_id = path.into_inner();
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let id = TopicId::from(topic_id.as_str());
    let part = broker.topics.history(&identity.account, &id, since_offset, limit, PAGE_BYTES).await?;
    let HistoryPart { first_offset, last_offset, entries, .. } = part;
    let messages = entries.into_iter().map(KeptPublication::of).collect();
    Ok(web::Json(TopicMessages { topic_id, first_offset, last_offset, messages }))
}
