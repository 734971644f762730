//! Gateways as a resource, and `GET /device_status/` (contract section 4).

pub mod history;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Confirmation,
    audit::actor,
    body::{Body, Checked, Fields, FromFields, QueryOf, path_int},
    paging::{Next, Part, part_of},
    undisturbed,
};
use crate::{
    actors::gateway_monitor::{GatewayChange, NewGateway},
    domain::{
        audit::{Action, Target},
        gateways::{Address, EXPECTED, GatewayState, MAX_NAME_CHARS, PERCENTS, RTTS, is_name},
        ids::GatewayId,
    },
    http::errors::ApiError,
    http::extract::{Operator, PublicRead},
    protocol::outbound::rfc3339,
    state::Broker,
};

/// A gateway and how it is.
#[derive(Serialize, ToSchema)]
pub struct GatewayInfo {
    id: i64,
    name: String,
    #[schema(example = "tcp://192.0.2.1:443")]
    address: String,
    /// `unknown` before the first probe, `connected`, `degraded` or `disconnected`.
    status: &'static str,
    /// `timeout`, `refused`, `unreachable`, `unresolvable`, `parent_down`, `high_rtt` or `high_loss`.
    reason: Option<&'static str>,
    /// Since when it has this status.
    since: String,
    /// The last round trip; null if the last probe was lost.
    rtt_ms: Option<f64>,
    /// Of the last 20 attempts; null before the first.
    loss_percent: Option<f64>,
    /// The gateway that it is behind.
    parent_id: Option<i64>,
    /// Degraded above this mean round trip.
    max_rtt_ms: Option<f64>,
    /// Degraded above this loss.
    max_loss_percent: Option<f64>,
    probed_at: Option<String>,
    /// `config` or `api`; those of the configuration can't be changed here.
    source: &'static str,
}

impl GatewayInfo {
    fn of(known: &GatewayState) -> Self {
        let gateway = &known.gateway;
        Self {
            id: gateway.id.0,
            name: gateway.name.clone(),
            address: gateway.address.as_str().to_owned(),
            status: known.status.as_str(),
            reason: known.reason.map(|reason| reason.as_str()),
            since: rfc3339(known.since),
            rtt_ms: known.rtt_ms.map(rounded),
            loss_percent: known.loss_percent.map(rounded),
            parent_id: gateway.parent_id.map(|id| id.0),
            max_rtt_ms: gateway.max_rtt_ms,
            max_loss_percent: gateway.max_loss_percent,
            probed_at: known.probed_at.map(rfc3339),
            source: gateway.source.as_str(),
        }
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// All gateways.
#[derive(Serialize, ToSchema)]
pub struct GatewayList {
    /// On this page.
    count: usize,
    gateways: Vec<GatewayInfo>,
    #[serde(flatten)]
    next: Next,
}

/// A gateway to be created.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"name": "Plant north", "address": "tcp://192.0.2.1:443"}))]
pub struct CreateGateway {
    /// 1 to 100 characters.
    #[schema(example = "Plant north")]
    name: String,
    /// A host name or IP address, pinged by ICMP; or `tcp://host:port`.
    #[schema(value_type = String, example = "tcp://192.0.2.1:443")]
    address: Address,
    /// Assigned if left out.
    #[schema(value_type = Option<i64>)]
    id: Option<GatewayId>,
    /// The gateway that it is behind: while that is down, this one is `disconnected` (`parent_down`).
    #[schema(value_type = Option<i64>)]
    parent_id: Option<GatewayId>,
    /// Degraded above this mean round trip.
    max_rtt_ms: Option<f64>,
    /// Degraded above this loss.
    max_loss_percent: Option<f64>,
}

impl FromFields for CreateGateway {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let name = name(fields);
        let address = address(fields);
        let own_id = id(fields, "id");
        let parent_id = id(fields, "parent_id");
        let max_rtt_ms = max_rtt_ms(fields);
        let max_loss_percent = max_loss_percent(fields);
        Ok(Self {
            name: name?,
            address: address?,
            id: own_id?,
            parent_id: parent_id?,
            max_rtt_ms: max_rtt_ms?,
            max_loss_percent: max_loss_percent?,
        })
    }
}

/// What to change of a gateway; what is left out stays.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"name": "Plant south"}))]
pub struct UpdateGateway {
    name: Option<String>,
    #[schema(value_type = Option<String>)]
    address: Option<Address>,
    /// Null: behind none.
    #[schema(value_type = Option<i64>)]
    parent_id: Option<Option<GatewayId>>,
    /// Null: no threshold.
    #[schema(value_type = Option<f64>)]
    max_rtt_ms: Option<Option<f64>>,
    /// Null: no threshold.
    #[schema(value_type = Option<f64>)]
    max_loss_percent: Option<Option<f64>>,
}

impl FromFields for UpdateGateway {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let name = fields.optional_value("name").is_some().then(|| name(fields)).transpose();
        let address = fields.optional_value("address").is_some().then(|| address(fields)).transpose();
        let parent_id = fields.has("parent_id").then(|| id(fields, "parent_id")).transpose();
        let max_rtt_ms = fields.has("max_rtt_ms").then(|| max_rtt_ms(fields)).transpose();
        let max_loss_percent = fields.has("max_loss_percent").then(|| max_loss_percent(fields)).transpose();
        Ok(Self {
            name: name?,
            address: address?,
            parent_id: parent_id?,
            max_rtt_ms: max_rtt_ms?,
            max_loss_percent: max_loss_percent?,
        })
    }
}

fn name(fields: &mut Fields<'_>) -> Checked<String> {
    let name = fields.text("name", 1..=MAX_NAME_CHARS)?;
    if is_name(&name) {
        Ok(name)
    } else {
        Err(fields.fault("value_error", "name", "Value error, must not contain control characters"))
    }
}

fn address(fields: &mut Fields<'_>) -> Checked<Address> {
    let text = fields.text("address", 1..=300)?;
    Address::parse(&text).ok_or_else(|| fields.fault("value_error", "address", format!("Value error, {EXPECTED}")))
}

fn id(fields: &mut Fields<'_>, name: &str) -> Checked<Option<GatewayId>> {
    Ok(fields.optional_number(name, 0..=GatewayId::MAX.0 as u64)?.map(|id| GatewayId(id as i64)))
}

fn max_rtt_ms(fields: &mut Fields<'_>) -> Checked<Option<f64>> {
    fields.optional_decimal("max_rtt_ms", RTTS, "a number greater than 0")
}

fn max_loss_percent(fields: &mut Fields<'_>) -> Checked<Option<f64>> {
    fields.optional_decimal("max_loss_percent", PERCENTS, "a number from 0 to 100")
}

fn gateway_id(path: &str) -> Result<GatewayId, ApiError> {
    path_int("id", path).map(GatewayId)
}

/// All gateways and their state, by id.
#[utoipa::path(get, path = "/api/gateways", tag = "gateways", params(("limit" = Option<u64>, Query, description = "1 to 1000; left out: up to 10,000"), ("cursor" = Option<String>, Query, description = "From an earlier answer", max_length = 1024)), responses((status = 200, body = GatewayList), (status = 403, description = "Operator role required")), security(("bearer" = [])))]
pub async fn list(broker: web::Data<Broker>, _: Operator, part: QueryOf<Part<i64>>) -> web::Json<GatewayList> {
    let all = broker.gateways.all().into_iter().map(|known| (known.gateway.id.0, known));
    let (gateways, next) = part_of(all, &part.0);
    let gateways: Vec<_> = gateways.iter().map(|(_, known)| GatewayInfo::of(known)).collect();
    web::Json(GatewayList { count: gateways.len(), gateways, next })
}

/// Create a gateway. It is probed at once.
///
/// Without `id` it gets one that was never used; an id of a deleted gateway may be given explicitly.
#[utoipa::path(post, path = "/api/gateways", tag = "gateways", request_body = CreateGateway, responses((status = 200, body = GatewayInfo), (status = 400, description = "Gateway id already exists"), (status = 404, description = "Parent gateway not found"), (status = 429, description = "limits.gateways")), security(("bearer" = [])))]
pub async fn create(
    request: HttpRequest,
    broker: web::Data<Broker>,
    operator: Operator,
    body: Body<CreateGateway>,
) -> Result<web::Json<GatewayInfo>, ApiError> {
    let CreateGateway { name, address, id, parent_id, max_rtt_ms, max_loss_percent } = body.content;
    let by = actor(&request, &broker, &operator.0);
    let new = NewGateway { id, name, address, parent_id, max_rtt_ms, max_loss_percent };
    undisturbed(async move {
        let known = broker.gateways.create(new).await?;
        let gateway = &known.gateway;
        let target = Target::named(gateway.id, &gateway.name);
        broker.audit.record(by, Action::GatewayCreated, target, json!({ "address": gateway.address.as_str() }));
        Ok(web::Json(GatewayInfo::of(&known)))
    })
    .await
}

/// A gateway and its state.
#[utoipa::path(get, path = "/api/gateways/{id}", tag = "gateways", params(("id" = i64, Path)), responses((status = 200, body = GatewayInfo), (status = 403, description = "Operator role required"), (status = 404, description = "Gateway not found")), security(("bearer" = [])))]
pub async fn show(
    broker: web::Data<Broker>,
    _: Operator,
    path: web::Path<String>,
) -> Result<web::Json<GatewayInfo>, ApiError> {
    Ok(web::Json(GatewayInfo::of(&*broker.gateways.get(gateway_id(&path)?)?)))
}

/// Change a gateway. It is probed at once; at another address it begins anew as `unknown`.
#[utoipa::path(put, path = "/api/gateways/{id}", tag = "gateways", params(("id" = i64, Path)), request_body = UpdateGateway, responses((status = 200, body = GatewayInfo), (status = 403, description = "It is from the configuration"), (status = 404, description = "Gateway not found, or Parent gateway not found")), security(("bearer" = [])))]
pub async fn update(
    request: HttpRequest,
    broker: web::Data<Broker>,
    operator: Operator,
    path: web::Path<String>,
    body: Body<UpdateGateway>,
) -> Result<web::Json<GatewayInfo>, ApiError> {
    let id = gateway_id(&path)?;
    let UpdateGateway { name, address, parent_id, max_rtt_ms, max_loss_percent } = body.content;
    let by = actor(&request, &broker, &operator.0);
    let fields = [
        ("name", name.is_some()),
        ("address", address.is_some()),
        ("parent_id", parent_id.is_some()),
        ("max_rtt_ms", max_rtt_ms.is_some()),
        ("max_loss_percent", max_loss_percent.is_some()),
    ];
    let changed: Vec<_> = fields.into_iter().filter(|(_, is)| *is).map(|(field, _)| field).collect();
    let change = GatewayChange { name, address, parent_id, max_rtt_ms, max_loss_percent };
    undisturbed(async move {
        let known = broker.gateways.update(id, change).await?;
        let gateway = &known.gateway;
        let details = json!({ "changed": changed, "address": gateway.address.as_str() });
        broker.audit.record(by, Action::GatewayChanged, Target::named(id, &gateway.name), details);
        Ok(web::Json(GatewayInfo::of(&known)))
    })
    .await
}

/// Delete a gateway with its history. Devices and gateways behind it are behind none afterwards.
#[utoipa::path(delete, path = "/api/gateways/{id}", tag = "gateways", params(("id" = i64, Path)), responses((status = 200, description = "Deleted", body = Confirmation), (status = 403, description = "It is from the configuration"), (status = 404, description = "Gateway not found")), security(("bearer" = [])))]
pub async fn remove(
    request: HttpRequest,
    broker: web::Data<Broker>,
    operator: Operator,
    path: web::Path<String>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let id = gateway_id(&path)?;
    let by = actor(&request, &broker, &operator.0);
    undisturbed(async move {
        let name = broker.gateways.get(id).map(|known| known.gateway.name.clone()).unwrap_or_default();
        broker.gateways.delete(id).await?;
        broker.audit.record(by, Action::GatewayDeleted, Target::named(id, &name), json!({}));
        Ok(Confirmation::of("Gateway deleted"))
    })
    .await
}

/// The state of each gateway by id: `connected` or `disconnected`. Gateways that have not been probed yet are left out.
#[utoipa::path(get, path = "/device_status/", tag = "gateways", responses((status = 200, description = "`connected` or `disconnected`, by id", body = BTreeMap<String, String>, example = json!({"1": "connected", "2": "disconnected"}))), security((), ("bearer" = [])))]
pub async fn device_status(broker: web::Data<Broker>, _: PublicRead) -> HttpResponse {
    HttpResponse::Ok().content_type(header::ContentType::json()).body(broker.gateways.statuses())
}
