//! Topics: create, list, subscribe (contract section 5).

use actix_web::{HttpRequest, web};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    body::{Body, Checked, Fields, FromFields, QueryOf},
    paging::{Next, Part, part_of},
    undisturbed,
};
use crate::{
    actors::topic_manager::{GetCounts, GetMembers, Subscribe, TopicDeleted, Unsubscribe},
    domain::{
        accounts::Account,
        ids::{ClientId, Role, TopicId},
        subscriptions::CannotSubscribe,
    },
    error::ApiError,
    http::Admission,
    http::extract::{Identity, PublicRead, TopicIdentity},
    state::Broker,
    store::CreatedTopic,
};

const NOT_FOUND: ApiError = ApiError::NotFound("Topic not found");

/// A topic to be created.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"topic_id": "weather", "metadata": {"unit": "°C"}}))]
pub struct CreateTopic {
    /// 1 to 100 characters.
    #[schema(value_type = String, example = "weather")]
    topic_id: TopicId,
    /// Whatever describes it: an object of at most 4 KiB as JSON.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    metadata: Value,
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
        Ok(Self { topic_id, metadata: metadata? })
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
        topic_id(fields).map(|topic_id| Self { topic_id })
    }
}

fn topic_id(fields: &mut Fields<'_>) -> Checked<TopicId> {
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
}

/// All topics.
#[derive(Serialize, ToSchema)]
pub struct Topics {
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
#[utoipa::path(post, path = "/topics/create", tag = "messaging", request_body = CreateTopic, responses((status = 200, description = "Created", body = TopicCreated), (status = 400, description = "Topic already exists"), (status = 429, description = "limits.topics_per_client")), security(("bearer" = [])))]
pub async fn create(
    broker: web::Data<Broker>,
    identity: TopicIdentity,
    body: Body<CreateTopic>,
) -> Result<web::Json<TopicCreated>, ApiError> {
    let creator = identity.0.account.id;
    let CreateTopic { topic_id, metadata } = body.content;
    broker.charge_stored(creator, topic_id.as_str().len() + metadata.to_string().len())?;
    let most = broker.settings.limits.topics_per_client;
    undisturbed(async move {
        match broker.store.create_topic(&topic_id, creator, metadata, most).await? {
            CreatedTopic::New => {}
            CreatedTopic::NameTaken => return Err(ApiError::AlreadyExists("Topic already exists")),
            CreatedTopic::TooMany => {
                return Err(ApiError::TooMany { limit: "limits.topics_per_client", retry_after: 60 });
            }
        }
        tracing::info!(topic = ?topic_id.as_str(), %creator, "topic created");
        let topic_id = topic_id.as_str().to_owned();
        Ok(web::Json(TopicCreated { message: "Topic created successfully", topic_id, creator }))
    })
    .await
}

/// All topics with the number of their subscribers.
#[utoipa::path(get, path = "/topics", tag = "messaging", params(("limit" = Option<u64>, Query, description = "1 to 1000; left out: up to 10,000", minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query, description = "From an earlier answer")), responses((status = 200, body = Topics)), security((), ("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    _: PublicRead,
    part: QueryOf<Part>,
) -> Result<web::Json<Topics>, ApiError> {
    let here = broker.topic_manager.send(GetCounts).await?;
    let elsewhere = broker.backplane.member_counts().await;
    let count = |id: &str| here.get(id).copied().unwrap_or_default() + elsewhere.get(id).copied().unwrap_or_default();
    let Part { after, limit, bytes } = part.0;
    let _turn = admission.reads.begin_list(bytes).await?;
    let (topics, more) = broker.store.topics(after.as_deref(), limit, bytes).await?;
    let topics: Vec<_> = topics
        .into_iter()
        .map(|topic| TopicInfo {
            subscriber_count: count(&topic.id),
            id: topic.id,
            creator: topic.creator,
            metadata: topic.metadata,
        })
        .collect();
    let next = Next::after(topics.last().map(|topic| &topic.id), more);
    Ok(web::Json(Topics { count: topics.len(), topics, next }))
}

/// A topic with its subscribers.
#[utoipa::path(get, path = "/topics/{topic_id}", tag = "messaging", params(("topic_id" = String, Path), ("limit" = Option<u64>, Query, description = "Subscribers, 1 to 1000; left out: up to 10,000", minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query, description = "From an earlier answer")), responses((status = 200, body = TopicDetail), (status = 404, description = "Topic not found")), security((), ("bearer" = [])))]
pub async fn show(
    broker: web::Data<Broker>,
    _: PublicRead,
    path: Option<web::Path<String>>,
    part: QueryOf<Part>,
    request: HttpRequest,
) -> Result<web::Json<TopicDetail>, ApiError> {
    let topic = existing(&broker, &topic_of_path(path, &request)).await?;
    let mut subscribers = broker.topic_manager.send(GetMembers(topic.id.as_str().into())).await?;
    subscribers.extend(broker.backplane.members(&topic.id).await);
    subscribers.sort_unstable();
    let subscriber_count = subscribers.len();
    // who the operators are is nobody's business
    if topic.id == TopicId::STATUS {
        subscribers.clear();
    }
    let info = TopicInfo { id: topic.id, creator: topic.creator, metadata: topic.metadata, subscriber_count };
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
    undisturbed(async move {
        let topic = existing(&broker, &id).await?;
        if id == TopicId::STATUS {
            return Err(ApiError::Forbidden("$status is the broker's own topic and cannot be deleted"));
        }
        let by = &identity.account;
        if topic.creator != by.id && by.role() < Role::Operator {
            return Err(ApiError::Forbidden("Only its creator or an operator may delete a topic"));
        }
        // of that creator: meanwhile somebody else may have created another one of the same name
        if !broker.store.delete_topic(&id, topic.creator).await? {
            return Err(NOT_FOUND);
        }
        broker.topic_manager.send(TopicDeleted(TopicId::from(id.as_str()))).await?;
        tracing::info!(topic = ?id, by = %by.id, "topic deleted");
        Ok(web::Json(TopicRemoved { message: "Topic deleted", topic_id: id }))
    })
    .await
}

/// The topic that a path names. It may be called like one of the fixed paths, where the router names no part.
fn topic_of_path(path: Option<web::Path<String>>, request: &HttpRequest) -> String {
    let fixed = || request.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    path.map_or_else(fixed, web::Path::into_inner)
}

/// Subscribe to a topic, also before the socket connects. Subscribing twice changes nothing.
///
/// Only operators may subscribe to `$status`.
#[utoipa::path(post, path = "/topics/subscribe", tag = "messaging", request_body = TopicName, responses((status = 200, description = "Subscribed", body = SubscriptionAnswer), (status = 403, description = "Operator role required"), (status = 404, description = "Topic not found"), (status = 429, description = "limits.subscriptions_per_client")), security(("bearer" = [])))]
pub async fn subscribe(
    broker: web::Data<Broker>,
    identity: TopicIdentity,
    body: Body<TopicName>,
) -> Result<web::Json<SubscriptionAnswer>, ApiError> {
    let (client, topic) = (identity.0.account.id, body.content.topic_id);
    existing(&broker, topic.as_str()).await?;
    let is_status = topic.as_str() == TopicId::STATUS;
    if is_status && !may_watch(&identity.0.account) {
        return Err(ApiError::Forbidden("Operator role required"));
    }
    // where the client's socket is, there its subscription is; a client that is nowhere is expected here
    let elsewhere = !broker.clients.is_connected(client) && broker.backplane.subscribe(client, &topic).await;
    if !elsewhere {
        let subscribe = Subscribe { client, topic: topic.clone() };
        broker.topic_manager.send(subscribe).await?.map_err(|error| match error {
            CannotSubscribe::TooMany => ApiError::TooMany { limit: "limits.subscriptions_per_client", retry_after: 60 },
            CannotSubscribe::TooManyWaiting => ApiError::AtLimit("limits.waiting_subscriptions"),
        })?;
    }
    // who lost the role, or whose topic was deleted, while this was under way was not yet subscribed when that ended the
    // subscription
    let lost = match existing(&broker, topic.as_str()).await {
        Ok(_) if is_status && !still_may_watch(&broker, client).await? => ApiError::Forbidden("Operator role required"),
        Ok(_) => return Ok(answer("Subscribed successfully", &topic, client)),
        Err(error) => error,
    };
    broker.topic_manager.send(Unsubscribe { client, topic }).await?;
    Err(lost)
}

/// Unsubscribe from a topic. It is no error if there was no subscription.
#[utoipa::path(post, path = "/topics/unsubscribe", tag = "messaging", request_body = TopicName, responses((status = 200, description = "Not subscribed any more", body = SubscriptionAnswer)), security(("bearer" = [])))]
pub async fn unsubscribe(
    broker: web::Data<Broker>,
    identity: TopicIdentity,
    body: Body<TopicName>,
) -> Result<web::Json<SubscriptionAnswer>, ApiError> {
    let (client, topic) = (identity.0.account.id, body.content.topic_id);
    let elsewhere = !broker.clients.is_connected(client) && broker.backplane.unsubscribe(client, &topic).await;
    if !elsewhere {
        broker.topic_manager.send(Unsubscribe { client, topic: topic.clone() }).await?;
    }
    Ok(answer("Unsubscribed successfully", &topic, client))
}

fn may_watch(account: &Account) -> bool {
    account.is_active() && account.role() >= Role::Operator
}

async fn still_may_watch(broker: &Broker, client: ClientId) -> Result<bool, ApiError> {
    Ok(broker.accounts.find(client).await?.is_some_and(|account| may_watch(&account)))
}

async fn existing(broker: &Broker, id: &str) -> Result<crate::store::Topic, ApiError> {
    if id == TopicId::STATUS {
        let description = "What happens to gateways and clients, for operators";
        let metadata = json!({ "description": description });
        return Ok(crate::store::Topic { id: id.to_owned(), creator: uuid::Uuid::nil().into(), metadata });
    }
    broker.store.topic(id).await?.ok_or(NOT_FOUND)
}

fn answer(message: &'static str, topic: &TopicId, client: ClientId) -> web::Json<SubscriptionAnswer> {
    web::Json(SubscriptionAnswer { message, topic_id: topic.as_str().to_owned(), client_uuid: client })
}
