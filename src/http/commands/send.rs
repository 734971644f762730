//! The two command routes of the originals (contract section 6): one target or all, and the answer in the same response.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, web};
use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::ToSchema;

use super::{MAX_WAIT, Request, audit_refusal, new_command, to_raw};
use crate::{
    actors::command_dispatcher::{CommandError, Targets},
    domain::{
        commands::{Reason, Target, TargetState},
        ids::{ClientKind, ClientRef, CommandId},
    },
    http::errors::ApiError,
    http::{
        body::Body,
        extract::{Operator, UserIdentity},
    },
    protocol::{error_code::ErrorCode, json},
    state::Broker,
};

/// Why a target is offline that may be connected to another node.
const NODE_UNAVAILABLE: &str = "The node of the client cannot be asked.";

/// A target's answer.
#[derive(Serialize, ToSchema)]
pub struct Sent {
    #[schema(example = "Command sent to client 'Alice'")]
    message: String,
    #[schema(value_type = serde_json::Value)]
    response: Box<RawValue>,
    #[schema(value_type = uuid::Uuid)]
    command_id: CommandId,
}

/// Send a command to a device or user and get its result.
#[utoipa::path(post, path = "/send-command/{target}", tag = "commands", params(("target" = String, Path, description = "A user's integer id, or the UUID of a device or user")), request_body = Request, responses((status = 200, body = Sent), (status = 400, description = "The target is not connected, or its connection was lost"), (status = 403, description = "Operator role required to command others"), (status = 404, description = "User not found, or Client not found"), (status = 429, description = "limits.pending_commands_per_identity"), (status = 503, description = "limits.pending_commands, or Gateway … is down, or the node of the client cannot be asked"), (status = 504, description = "Timeout waiting for command response.")), security(("bearer" = [])))]
pub async fn send(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: UserIdentity,
    path: web::Path<String>,
    body: Body<Request>,
) -> Result<web::Json<Sent>, ApiError> {
    let target = ClientRef::parse(&path).ok_or_else(|| {
        let msg = "Value error, expected a user's integer id or a UUID";
        ApiError::invalid("value_error", &["path", "target"], msg, path.as_str().into())
    })?;
    let targets = Targets::Named(vec![target]);
    let within = Some(timeout_secs(&broker));
    let new = new_command((&request, &broker), &identity.0, targets, body.content, within, 0);
    let finished = broker.commands.send(new).await;
    let finished = finished.inspect_err(|error| audit_refusal(&request, &broker, &identity.0, error))?;
    let target = finished.targets.first().ok_or_else(|| ApiError::Internal("a command without target".to_owned()))?;
    let (what, not_connected) = match target.kind {
        ClientKind::User => ("user", "User is not connected"),
        ClientKind::Device => ("client", "Client is not connected"),
    };
    match target.state {
        TargetState::Succeeded | TargetState::Failed => Ok(web::Json(Sent {
            message: format!("Command sent to {what} '{}'", target.name),
            response: result(target),
            command_id: finished.id,
        })),
        TargetState::TimedOut => Err(ApiError::CommandTimeout),
        TargetState::Disconnected => Err(ApiError::ConnectionLost),
        TargetState::Cancelled => Err(ApiError::CommandCancelled),
        TargetState::Offline if target.reason == Some(Reason::NodeUnavailable) => {
            Err(ApiError::Message(ErrorCode::ClusterUnavailable, NODE_UNAVAILABLE.to_owned()))
        }
        _ => Err(ApiError::NotConnected(not_connected)),
    }
}

/// What everyone answered.
#[derive(Serialize, ToSchema)]
pub struct Broadcasted {
    #[schema(example = "Command broadcasted to all connected users.")]
    message: &'static str,
    /// By user id or device UUID.
    #[schema(value_type = BTreeMap<String, serde_json::Value>)]
    results: BTreeMap<String, Box<RawValue>>,
    /// Null: nobody was connected.
    #[schema(value_type = Option<uuid::Uuid>)]
    command_id: Option<CommandId>,
}

/// Send a command to all connected devices and users and get all results.
#[utoipa::path(post, path = "/broadcast-command", tag = "commands", request_body = Request, responses((status = 200, body = Broadcasted), (status = 403, description = "Operator role required"), (status = 429, description = "limits.pending_commands_per_identity"), (status = 503, description = "limits.pending_commands")), security(("bearer" = [])))]
pub async fn broadcast(
    request: HttpRequest,
    broker: web::Data<Broker>,
    operator: Operator,
    body: Body<Request>,
) -> Result<web::Json<Broadcasted>, ApiError> {
    let within = Some(timeout_secs(&broker));
    let new = new_command((&request, &broker), &operator.0, Targets::Connected, body.content, within, 0);
    let mut answer = Broadcasted {
        message: "Command broadcasted to all connected users.",
        results: BTreeMap::new(),
        command_id: None,
    };
    let finished = match broker.commands.send(new).await {
        // nobody is connected
        Err(CommandError::NoMatch) => return Ok(web::Json(answer)),
        finished => finished?,
    };
    answer.command_id = Some(finished.id);
    for target in &finished.targets {
        let key = target.user_id.map_or_else(|| target.client.to_string(), |id| id.to_string());
        answer.results.insert(key, outcome(target)?);
    }
    Ok(web::Json(answer))
}

/// A target's answer, or in its place why there is none.
fn outcome(target: &Target) -> Result<Box<RawValue>, ApiError> {
    let error = match target.state {
        TargetState::Succeeded | TargetState::Failed => return Ok(result(target)),
        TargetState::TimedOut => "Timeout waiting for response.",
        TargetState::Offline if target.reason == Some(Reason::GatewayDown) => "The client's gateway is down.",
        TargetState::Offline if target.reason == Some(Reason::NodeUnavailable) => NODE_UNAVAILABLE,
        TargetState::Cancelled => "Command was cancelled",
        _ => "Connection lost while waiting for command response.",
    };
    to_raw(&json!({ "error": error }))
}

/// The timeout of targets: the caller does not wait longer.
fn timeout_secs(broker: &Broker) -> u64 {
    match broker.settings.load().limits.command_timeout_secs {
        0 => MAX_WAIT.as_secs(),
        secs => secs.min(MAX_WAIT.as_secs()),
    }
}

fn result(target: &Target) -> Box<RawValue> {
    target.result.as_deref().map_or_else(|| RawValue::NULL.to_owned(), json::stored)
}
