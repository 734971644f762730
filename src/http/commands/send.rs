//! The two command routes of the systems before (contract section 6): one target or all, and the answer in the same
//! response.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::web;
use serde::Serialize;
use serde_json::{json, value::RawValue};
use utoipa::ToSchema;

use super::{Options, PATIENCE, Request, TargetRef, charge, check_right, command, to_raw};
use crate::{
    actors::command_dispatcher::Dispatch,
    domain::{
        commands::{Command, Reason, Target, TargetState},
        ids::{ClientId, ClientKind, CommandId},
    },
    error::ApiError,
    http::{
        body::Body,
        devices::{behind_down_gateway, check_gateways},
        extract::{Operator, UserIdentity},
    },
    protocol::json,
    state::Broker,
};

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
#[utoipa::path(post, path = "/send-command/{target}", tag = "commands", params(("target" = String, Path, description = "A user's integer id, or the UUID of a device or user")), request_body = Request, responses((status = 200, body = Sent), (status = 400, description = "The target is not connected, or its connection was lost"), (status = 403, description = "Operator role required to command others"), (status = 404, description = "User not found, or Client not found"), (status = 429, description = "limits.pending_commands_per_identity"), (status = 503, description = "limits.pending_commands, or Gateway … is down"), (status = 504, description = "Timeout waiting for command response.")), security(("bearer" = [])))]
pub async fn send(
    broker: web::Data<Broker>,
    identity: UserIdentity,
    path: web::Path<String>,
    body: Body<Request>,
) -> Result<web::Json<Sent>, ApiError> {
    let target = TargetRef::parse(&path).ok_or_else(|| {
        let msg = "Value error, expected a user's integer id or a UUID";
        ApiError::invalid("value_error", &["path", "target"], msg, path.as_str().into())
    })?;
    let account = target.account(&broker).await?;
    check_right(&identity.0, std::slice::from_ref(&account))?;
    check_gateways(&broker, std::slice::from_ref(&account))?;
    let command = command(&broker, &identity.0, vec![account], body.content, options(&broker))?;
    charge(&broker, &identity.0, &command)?;
    let finished = run(&broker, command, Vec::new()).await?;
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
    broker: web::Data<Broker>,
    operator: Operator,
    body: Body<Request>,
) -> Result<web::Json<Broadcasted>, ApiError> {
    let mut accounts = Vec::new();
    for client in broker.clients.all_commandable() {
        accounts.extend(broker.accounts.find(client).await?);
    }
    let mut results = BTreeMap::new();
    let mut command_id = None;
    if !accounts.is_empty() {
        let behind_down_gateway = behind_down_gateway(&broker, &accounts);
        let command = command(&broker, &operator.0, accounts, body.content, options(&broker))?;
        let finished = run(&broker, command, behind_down_gateway).await?;
        command_id = Some(finished.id);
        for target in &finished.targets {
            let key = target.user_id.map_or_else(|| target.client.to_string(), |id| id.to_string());
            let result = match target.state {
                TargetState::Succeeded | TargetState::Failed => result(target),
                TargetState::TimedOut => to_raw(&json!({ "error": "Timeout waiting for response." }))?,
                TargetState::Offline if target.reason == Some(Reason::GatewayDown) => {
                    to_raw(&json!({ "error": "The client's gateway is down." }))?
                }
                TargetState::Cancelled => to_raw(&json!({ "error": "Command was cancelled" }))?,
                _ => to_raw(&json!({ "error": "Connection lost while waiting for command response." }))?,
            };
            results.insert(key, result);
        }
    }
    Ok(web::Json(Broadcasted { message: "Command broadcasted to all connected users.", results, command_id }))
}

/// No target may take longer than the caller waits.
fn options(broker: &Broker) -> Options {
    let patience = PATIENCE.as_secs();
    let timeout_secs = match broker.settings.limits.command_timeout_secs {
        0 => patience,
        secs => secs.min(patience),
    };
    Options { timeout_secs: Some(timeout_secs), ..Options::default() }
}

/// Gives a command and waits for its end, which comes with its timeout at the latest. A caller that hangs up stops
/// waiting, and the command goes on. When the server is about to stop, nobody waits any more.
async fn run(broker: &Broker, command: Command, behind_down_gateway: Vec<ClientId>) -> Result<Arc<Command>, ApiError> {
    let finished = broker.inlet.dispatch(Dispatch { command, recorded: false, behind_down_gateway }).await?;
    tokio::select! {
        biased;
        finished = finished => finished.map_err(|_| ApiError::Internal("the dispatcher forgot a command".to_owned())),
        () = broker.drain_begun() => Err(ApiError::Draining),
    }
}

fn result(target: &Target) -> Box<RawValue> {
    target.result.as_deref().map_or_else(|| RawValue::NULL.to_owned(), json::stored)
}
