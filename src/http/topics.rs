//! Topics: create, list, subscribe (contract section 5).

pub mod history;
pub mod publish;

use actix_web::{HttpRequest, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use self::history::{HistoryInfo, HistorySettings, history};
use super::{
    audit::actor,
    body::{Body, Checked, Fields, FromFields, QueryOf},
    paging::{Next, Part, part_of},
    undisturbed,
};
use crate::{
    actors::topic_manager::TopicView,
    domain::{
        audit::{Action, Target},
        ids::{ClientId, TopicId},
        topics::{
            Topic,
            history::Retention,
            pattern::{ONE, Pattern, has_wildcards},
        },
    },
    http::Admission,
    http::errors::ApiError,
    http::extract::{Identity, PublicRead, TopicIdentity},
    state::Broker,
};

/// A topic to be created.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"topic_id": "weather", "metadata": {"unit": "°C"}}))]
pub struct CreateTopic {
    /// 1 to 100 characters, without + and #. Slashes divide it into levels, which patterns match.
    #[schema(value_type = String, example = "weather")]
    topic_id: TopicId,
    /// Whatever describes it: an object of at most 4 KiB as JSON.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    metadata: Value,
    /// What it keeps of its publications; nothing if it is left out.
    #[schema(value_type = Option<HistorySettings>)]
    history: Option<Retention>,
}

impl FromFields for CreateTopic {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let topic_id = topic_id(fields);
        let metadata = fields.optional_object("metadata", fields.limits.metadata_bytes, "limits.metadata_bytes");
        let topic_id = topic_id?;
        if topic_id.is_reserved() {
            return Err(fields.fault("value_error", "topic_id", "Value error, names that begin with $ are reserved"));
        }
        if has_wildcards(topic_id.as_str()) {
            let msg = "Value error, + and # are wildcards of patterns, and in no name";
            return Err(fields.fault("value_error", "topic_id", msg));
        }
        let history = match history(fields)?.flatten() {
            None => None,
            Some(change) => {
                let retention = change.apply(None);
                Some(retention.ok_or_else(|| fields.fault_in("missing", "history", "size", "Field required"))?)
            }
        };
        Ok(Self { topic_id, metadata: metadata?, history })
    }
}

/// A topic that is there.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"topic_id": "weather"}))]
pub struct TopicName {
    #[schema(value_type = String, example = "weather")]
    topic_id: TopicId,
}

impl FromFields for TopicName {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        // what would be ignored although the same frame on a socket has it
        if let Some(name) = ["since_offset", "last"].into_iter().find(|name| fields.has(name)) {
            let msg =
                "Value error, only a subscription on a socket begins at an offset; here the client gets what comes";
            return Err(fields.fault("value_error", name, msg));
        }
        topic_id(fields).map(|topic_id| Self { topic_id })
    }
}

pub(super) fn topic_id(fields: &mut Fields<'_>) -> Checked<TopicId> {
    fields.limited_text("topic_id", fields.limits.topic_id_chars, "limits.topic_id_chars").map(TopicId::from)
}

/// A topic, seen from outside.
#[derive(Serialize, ToSchema)]
pub struct TopicInfo {
    id: String,
    #[schema(value_type = uuid::Uuid)]
    creator: ClientId,
    #[schema(value_type = HashMap<String, Value>)]
    metadata: Value,
    subscriber_count: usize,
    /// If it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    history: Option<HistoryInfo>,
}

impl TopicInfo {
    fn of(topic: Topic, subscriber_count: usize) -> Self {
        let history = topic.history.map(HistoryInfo::from);
        Self { id: topic.id, creator: topic.creator, metadata: topic.metadata, subscriber_count, history }
    }
}

/// Which topics a list contains.
#[derive(Debug)]
pub struct ListQuery {
    pattern: Option<Pattern>,
    part: Part,
}

impl FromFields for ListQuery {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        // no name contains NUL, and PostgreSQL refuses to search for it
        let parse = |text: &str| Pattern::parse(wildcards(text).into()).ok().filter(|_| !text.contains('\0'));
        let expected =
            "a pattern such as plant/+/temperature or plant/#, with wildcards as whole levels and # at the end";
        let pattern = fields.parsed("match", parse, expected);
        let part = Part::from_fields(fields);
        Ok(Self { pattern: pattern?, part: part? })
    }
}

/// A pattern from a query, in which `+` that is not percent-encoded stands for a space.
fn wildcards(text: &str) -> String {
    let levels: Vec<_> = text.split('/').map(|level| if level == " " { ONE } else { level }).collect();
    levels.join("/")
}

/// All topics.
#[derive(Serialize, ToSchema)]
#[schema(as = Topics)]
pub struct TopicList {
    /// On this page.
    count: usize,
    topics: Vec<TopicInfo>,
    #[serde(flatten)]
    next: Next,
}

/// A topic with its subscribers.
#[derive(Serialize, ToSchema)]
pub struct TopicDetail {
    #[serde(flatten)]
    info: TopicInfo,
    #[schema(value_type = Vec<uuid::Uuid>)]
    subscribers: Vec<ClientId>,
    #[serde(flatten)]
    next: Next,
}

impl TopicDetail {
    /// With all its subscribers.
    fn of(view: TopicView) -> Self {
        let TopicView { topic, subscriber_count, subscribers } = view;
        Self { info: TopicInfo::of(topic, subscriber_count), subscribers, next: Next::default() }
    }
}

/// The answer to a creation.
#[derive(Serialize, ToSchema)]
pub struct TopicCreated {
    #[schema(example = "Topic created successfully")]
    message: &'static str,
    topic_id: String,
    #[schema(value_type = uuid::Uuid)]
    creator: ClientId,
}

/// The answer to a subscription or its end.
#[derive(Serialize, ToSchema)]
pub struct SubscriptionAnswer {
    #[schema(example = "Subscribed successfully")]
    message: &'static str,
    topic_id: String,
    #[schema(value_type = uuid::Uuid)]
    client_uuid: ClientId,
}

/// Create a topic. It is stored until it is deleted. Its creator is not subscribed automatically.
#[utoipa::path(post, path = "/topics/create", tag = "messaging", request_body = CreateTopic, responses((status = 200, description = "Created", body = TopicCreated), (status = 400, description = "Topic already exists"), (status = 403, description = "Not allowed by topics.create"), (status = 429, description = "limits.topics_per_client")), security(("bearer" = [])))]
pub async fn create(
    broker: web::Data<Broker>,
    identity: TopicIdentity,
    body: Body<CreateTopic>,
) -> Result<web::Json<TopicCreated>, ApiError> {
    let creator = identity.0.account;
    let CreateTopic { topic_id, metadata, history } = body.content;
    undisturbed(async move {
        broker.topics.create(&topic_id, &creator, metadata, history).await?;
        let topic_id = topic_id.as_str().to_owned();
        Ok(web::Json(TopicCreated { message: "Topic created successfully", topic_id, creator: creator.id }))
    })
    .await
}

/// All topics with the number of their subscribers.
#[utoipa::path(get, path = "/topics", tag = "messaging", params(("match" = Option<String>, Query, description = "A pattern: + stands for one level between slashes, # at the end for any number of levels. A page may then have fewer topics than there are, and a cursor", example = "plant/+/temperature"), ("limit" = Option<u64>, Query, description = "1 to 1000; left out: up to 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = TopicList)), security((), ("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    _: PublicRead,
    query: QueryOf<ListQuery>,
) -> Result<web::Json<TopicList>, ApiError> {
    let ListQuery { pattern, part: Part { after, limit, bytes } } = query.0;
    let _turn = admission.reads.begin_list(bytes).await?;
    let (topics, more) = broker.topics.list(pattern.as_ref(), after.as_deref(), limit, bytes).await?;
    let topics: Vec<_> = topics.into_iter().map(|(topic, count)| TopicInfo::of(topic, count)).collect();
    let next = Next::after(more.as_ref(), true);
    Ok(web::Json(TopicList { count: topics.len(), topics, next }))
}

/// A topic with its subscribers.
#[utoipa::path(get, path = "/topics/{topic_id}", tag = "messaging", params(("topic_id" = String, Path), ("limit" = Option<u64>, Query, description = "Subscribers, 1 to 1000; left out: up to 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = TopicDetail), (status = 404, description = "Topic not found")), security((), ("bearer" = [])))]
pub async fn show(
    broker: web::Data<Broker>,
    _: PublicRead,
    path: Option<web::Path<String>>,
    part: QueryOf<Part>,
    request: HttpRequest,
) -> Result<web::Json<TopicDetail>, ApiError> {
    let view = broker.topics.view(&topic_of_path(path, &request)).await?;
    let TopicView { topic, subscriber_count, subscribers } = view;
    let info = TopicInfo::of(topic, subscriber_count);
    let subscribers = subscribers.into_iter().map(|client| (client.to_string(), client));
    let (subscribers, next) = part_of(subscribers, &part.0);
    let subscribers = subscribers.into_iter().map(|(_, client)| client).collect();
    Ok(web::Json(TopicDetail { info, subscribers, next }))
}

/// The answer to a deletion.
#[derive(Serialize, ToSchema)]
pub struct TopicRemoved {
    #[schema(example = "Topic deleted")]
    message: &'static str,
    topic_id: String,
}

/// Delete a topic. For its creator and for operators. Its subscribers are told, and their subscriptions end.
#[utoipa::path(delete, path = "/topics/{topic_id}", tag = "messaging", params(("topic_id" = String, Path)), responses((status = 200, description = "Deleted", body = TopicRemoved), (status = 403, description = "Neither its creator nor an operator, or the broker's own topic"), (status = 404, description = "Topic not found")), security(("bearer" = [])))]
pub async fn remove(
    broker: web::Data<Broker>,
    identity: Identity,
    path: Option<web::Path<String>>,
    request: HttpRequest,
) -> Result<web::Json<TopicRemoved>, ApiError> {
    let id = topic_of_path(path, &request);
    let by = actor(&request, &broker, &identity);
    undisturbed(async move {
        broker.topics.delete(&TopicId::from(id.as_str()), &identity.account).await?;
        broker.audit.record_bounded(by, Action::TopicDeleted, Some(Target::of(&id)), json!({}));
        Ok(web::Json(TopicRemoved { message: "Topic deleted", topic_id: id }))
    })
    .await
}

/// The topic of a path. On fixed paths such as `/topics/create` the router has no parameter, so the last segment is taken.
fn topic_of_path(path: Option<web::Path<String>>, request: &HttpRequest) -> String {
    let fixed = || request.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    path.map_or_else(fixed, web::Path::into_inner)
}

/// Subscribe to a topic, or by a pattern to all topics that match, also those that are created later. It may be done before
/// the socket connects. Subscribing twice changes nothing, and a client gets a publication once, however many of its
/// subscriptions match.
///
/// In a pattern `+` stands for one level between slashes, and `#` at the end for any number of levels. Only operators may
/// subscribe to `$status`.
#[utoipa::path(post, path = "/topics/subscribe", tag = "messaging", request_body = TopicName, responses((status = 200, description = "Subscribed", body = SubscriptionAnswer), (status = 403, description = "Operator role required, or not allowed by topics.subscribe"), (status = 404, description = "Topic not found"), (status = 429, description = "limits.subscriptions_per_client")), security(("bearer" = [])))]
pub async fn subscribe(
    broker: web::Data<Broker>,
    identity: TopicIdentity,
    body: Body<TopicName>,
) -> Result<web::Json<SubscriptionAnswer>, ApiError> {
    let (account, topic) = (identity.0.account, body.content.topic_id);
    broker.topics.subscribe(&account, &topic).await?;
    Ok(answer("Subscribed successfully", &topic, account.id))
}

/// Unsubscribe from a topic. It is no error if there was no subscription.
#[utoipa::path(post, path = "/topics/unsubscribe", tag = "messaging", request_body = TopicName, responses((status = 200, description = "Not subscribed any more", body = SubscriptionAnswer)), security(("bearer" = [])))]
pub async fn unsubscribe(
    broker: web::Data<Broker>,
    identity: TopicIdentity,
    body: Body<TopicName>,
) -> Result<web::Json<SubscriptionAnswer>, ApiError> {
    let (client, topic) = (identity.0.account.id, body.content.topic_id);
    broker.topics.unsubscribe(client, &topic).await?;
    Ok(answer("Unsubscribed successfully", &topic, client))
}

fn answer(message: &'static str, topic: &TopicId, client: ClientId) -> web::Json<SubscriptionAnswer> {
    web::Json(SubscriptionAnswer { message, topic_id: topic.as_str().to_owned(), client_uuid: client })
}
