//! Publishing over HTTP (contract section 12).

use actix_web::web;
use serde::Serialize;
use utoipa::ToSchema;

use super::topic_id;
use crate::{
    domain::{
        accounts::Account,
        ids::{ClientId, TopicId},
    },
    http::{
        body::{Body, Checked, Fields, FromFields},
        errors::ApiError,
        extract::TopicIdentity,
        sent_object::SentObject,
        undisturbed,
    },
    protocol::{
        outbound::{epoch_seconds, topic_receipt_text},
        wire,
    },
    state::Broker,
};

/// A message to the subscribers of a topic. They get the object as it is sent, with all its other fields; a missing `from` or
/// `msgid` is added.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"topic_id": "weather", "content": {"degrees": 21.5}}))]
pub struct Publication {
    #[schema(value_type = String, example = "weather")]
    topic_id: TopicId,
    /// The caller's id of the message; a random one if it is left out.
    msgid: Option<String>,
    /// The caller, if it is given.
    #[schema(value_type = Option<uuid::Uuid>)]
    from: Option<ClientId>,
    /// Anything but null. The object with its other fields may be as long as a frame (`limits.frame_bytes`).
    #[schema(rename = "content", value_type = serde_json::Value)]
    object: String,
    #[schema(ignore)]
    has_offset: bool,
}

impl FromFields for Publication {
    const IGNORES_UNKNOWN: bool = true;

    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let topic_id = topic_id(fields);
        let object = SentObject::from_fields(fields);
        let has_offset = fields.has("offset");
        let (topic_id, SentObject { msgid, from, text: object }) = (topic_id?, object?);
        Ok(Self { topic_id, msgid, from, object, has_offset })
    }
}

/// The receipt of a publication.
#[derive(Debug, Serialize, ToSchema)]
pub struct PublicationReceipt {
    #[serde(rename = "type")]
    #[schema(example = "topic_sent", pattern = "^topic_sent$")]
    kind: &'static str,
    #[schema(example = "Message sent to 2 subscribers")]
    message: String,
    topic_id: String,
    msgid: String,
    /// Its number in the topic's history, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<i64>,
    /// Seconds since 1970.
    timestamp: f64,
}

/// Publish to a topic. For devices that are subscribed, and for operators.
///
/// The caller's own socket gets no copy. The receipt has the number of connected subscribers that the message reached.
#[utoipa::path(post, path = "/topics/publish", tag = "messaging", request_body = Publication, responses((status = 200, description = "Published", body = PublicationReceipt), (status = 403, description = "Neither a device nor an operator, not subscribed, not allowed by topics.publish, the broker's own topic, or `from` is another client"), (status = 404, description = "Topic not found")), security(("bearer" = [])))]
pub async fn publish(
    broker: web::Data<Broker>,
    identity: TopicIdentity,
    body: Body<Publication>,
) -> Result<web::Json<PublicationReceipt>, ApiError> {
    let (publication, account) = (body.content, identity.0.account);
    undisturbed(async move { publish_as(&broker, &account, publication).await.map(web::Json) }).await
}

/// Publishes for a client.
///
/// # Errors
/// Nothing was published.
pub async fn publish_as(
    broker: &Broker,
    account: &Account,
    publication: Publication,
) -> Result<PublicationReceipt, ApiError> {
    let Publication { topic_id, msgid, from, object, has_offset } = publication;
    let (msgid, object) = SentObject { msgid, from, text: object }.complete(account.id)?;
    let (name, frame) = (topic_id.as_str().to_owned(), wire::text(&[object.as_bytes()]));
    let (reached, offset) = broker.topics.publish_over_http(account, topic_id, frame, has_offset).await?;
    Ok(PublicationReceipt {
        kind: "topic_sent",
        message: topic_receipt_text(reached),
        topic_id: name,
        msgid,
        offset,
        timestamp: epoch_seconds(broker.clock.now()),
    })
}
