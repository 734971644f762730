//! Devices as a resource (contract section 4).

use actix_web::{HttpRequest, web};
use chrono::{DateTime, SubsecRound, Utc};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use super::{
    Confirmation, audit,
    body::{Body, Checked, Fields, FromFields, QueryOf, path_uuid},
    paging::{Next, PAGE_BYTES, Paging, fit},
    undisturbed,
};
use crate::{
    domain::{
        accounts::Authenticated,
        ids::{ClientId, GatewayId, Role},
    },
    http::Admission,
    http::errors::ApiError,
    http::extract::{Identity, Operator},
    protocol::outbound::rfc3339,
    services::DeviceView,
    state::Broker,
    store::{DeviceChange, DeviceFilter},
};

/// A device, seen from outside.
#[derive(Serialize, ToSchema)]
pub struct DeviceInfo {
    #[schema(value_type = uuid::Uuid)]
    uuid: ClientId,
    name: String,
    /// What it says of itself.
    #[schema(value_type = HashMap<String, Value>)]
    metadata: Value,
    /// Whether its socket (`/ws`) is open.
    online: bool,
    /// When it was last connected: now, if it is online; null: never.
    last_seen: Option<String>,
    /// The gateway that it is behind.
    gateway_id: Option<i64>,
}

impl DeviceInfo {
    fn of(view: DeviceView, now: DateTime<Utc>) -> Self {
        let DeviceView { device, is_online } = view;
        let last_seen = if is_online { Some(now.trunc_subsecs(0)) } else { device.last_seen };
        Self {
            uuid: device.uuid,
            name: device.name,
            metadata: device.metadata,
            online: is_online,
            last_seen: last_seen.map(rfc3339),
            gateway_id: device.gateway_id.map(|id| id.0),
        }
    }
}

/// A page of devices by name.
#[derive(Serialize, ToSchema)]
pub struct DeviceList {
    /// On this page.
    count: usize,
    #[schema(value_type = Vec<DeviceInfo>)]
    devices: Vec<Box<RawValue>>,
    /// On all pages.
    total: u64,
    #[serde(flatten)]
    next: Next,
}

/// Which devices to list.
#[derive(Debug)]
pub struct ListQuery(DeviceFilter);

impl FromFields for ListQuery {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let search = fields.optional_text("search", 0..=200);
        let gateway_id = fields.optional_number("gateway_id", 0..=GatewayId::MAX.0 as u64);
        let paging = Paging::<(String, ClientId)>::from_fields(fields);
        let (search, gateway_id, Paging { after, skip, limit }) = (search?, gateway_id?, paging?);
        let search = search.filter(|search| !search.is_empty());
        Ok(Self(DeviceFilter { search, gateway_id: gateway_id.map(|id| GatewayId(id as i64)), after, skip, limit }))
    }
}

/// What to change of a device; what is left out stays.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"name": "Alice", "metadata": {"site": "north"}}))]
pub struct UpdateDevice {
    /// May be empty.
    name: Option<String>,
    /// An object of at most 4 KiB as JSON, in place of the one before.
    #[schema(value_type = Option<HashMap<String, Value>>)]
    metadata: Option<Value>,
    /// The gateway that it is behind; null: none.
    #[schema(value_type = Option<i64>)]
    gateway_id: Option<Option<GatewayId>>,
}

impl FromFields for UpdateDevice {
    fn from_fields(fields: &mut Fields<'_>) -> Checked<Self> {
        let name = fields.optional_text("name", 0..=200);
        let bytes = fields.limits.metadata_bytes;
        let metadata = fields
            .has("metadata")
            .then(|| fields.optional_object("metadata", bytes, "limits.metadata_bytes"))
            .transpose();
        let gateway_id = fields
            .has("gateway_id")
            .then(|| fields.optional_number("gateway_id", 0..=GatewayId::MAX.0 as u64))
            .transpose();
        Ok(Self {
            name: name?,
            metadata: metadata?,
            gateway_id: gateway_id?.map(|gateway_id| gateway_id.map(|id| GatewayId(id as i64))),
        })
    }
}

/// The device id in a path. Callers who are not operators may only name themselves.
fn own_or_operator(
    request: &HttpRequest,
    broker: &Broker,
    identity: &Authenticated,
    path: &str,
) -> Result<ClientId, ApiError> {
    let id = path_uuid("device_id", path)?;
    if identity.account.id == id || identity.account.role() >= Role::Operator {
        Ok(id)
    } else {
        audit::access_refused(request, broker, identity);
        Err(ApiError::Forbidden("Operator role required for other devices"))
    }
}

/// Devices by name, a page at a time.
#[utoipa::path(get, path = "/devices", tag = "devices", params(("search" = Option<String>, Query, description = "A part of the name, or how the UUID begins (4 digits at least)", max_length = 256), ("gateway_id" = Option<i64>, Query, description = "Behind this gateway"), ("skip" = Option<u64>, Query, description = "Entries to pass over"), ("limit" = Option<u64>, Query, description = "1 to 1000"), ("cursor" = Option<String>, Query, description = "From an earlier answer, in place of skip", max_length = 1024)), responses((status = 200, body = DeviceList), (status = 403, description = "Operator role required")), security(("bearer" = [])))]
pub async fn list(
    broker: web::Data<Broker>,
    admission: web::Data<Admission>,
    _: Operator,
    query: QueryOf<ListQuery>,
) -> Result<web::Json<DeviceList>, ApiError> {
    let _turn = admission.reads.begin_list(PAGE_BYTES).await?;
    let mut filter = query.0.0;
    let limit = filter.limit;
    filter.limit += 1;
    let (devices, total) = broker.devices.list(filter).await?;
    let now = broker.clock.now();
    let infos =
        devices.into_iter().map(|view| ((view.device.name.clone(), view.device.uuid), DeviceInfo::of(view, now)));
    let (devices, next) = fit(infos, limit)?;
    Ok(web::Json(DeviceList { count: devices.len(), devices, total, next }))
}

/// A device. For the device itself and for operators.
#[utoipa::path(get, path = "/devices/{device_id}", tag = "devices", params(("device_id" = uuid::Uuid, Path)), responses((status = 200, body = DeviceInfo), (status = 403, description = "Operator role required for other devices"), (status = 404, description = "Device not found")), security(("bearer" = [])))]
pub async fn show(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
) -> Result<web::Json<DeviceInfo>, ApiError> {
    let id = own_or_operator(&request, &broker, &identity, &path)?;
    Ok(web::Json(DeviceInfo::of(broker.devices.get(id).await?, broker.clock.now())))
}

/// Change a device: its name, its metadata, the gateway that it is behind. For the device itself and for operators.
#[utoipa::path(put, path = "/devices/{device_id}", tag = "devices", params(("device_id" = uuid::Uuid, Path)), request_body = UpdateDevice, responses((status = 200, body = DeviceInfo), (status = 404, description = "Device not found, or Gateway not found")), security(("bearer" = [])))]
pub async fn update(
    request: HttpRequest,
    broker: web::Data<Broker>,
    identity: Identity,
    path: web::Path<String>,
    body: Body<UpdateDevice>,
) -> Result<web::Json<DeviceInfo>, ApiError> {
    let id = own_or_operator(&request, &broker, &identity, &path)?;
    let UpdateDevice { name, metadata, gateway_id } = body.content;
    let change = DeviceChange { name, metadata, gateway_id };
    let by = audit::actor(&request, &broker, &identity);
    undisturbed(async move {
        let view = broker.devices.update(&by, id, change).await?;
        Ok(web::Json(DeviceInfo::of(view, broker.clock.now())))
    })
    .await
}

/// Delete a device. Its tokens become invalid, its sockets are closed (4401, in rooms 4403), and its subscriptions, its memberships of
/// rooms and what waits for it end. The UUID may be registered again.
#[utoipa::path(delete, path = "/devices/{device_id}", tag = "devices", params(("device_id" = uuid::Uuid, Path)), responses((status = 200, description = "Deleted", body = Confirmation), (status = 403, description = "Operator role required"), (status = 404, description = "Device not found")), security(("bearer" = [])))]
pub async fn remove(
    request: HttpRequest,
    broker: web::Data<Broker>,
    operator: Operator,
    path: web::Path<String>,
) -> Result<web::Json<Confirmation>, ApiError> {
    let id = path_uuid("device_id", &path)?;
    let by = audit::actor(&request, &broker, &operator.0);
    undisturbed(async move {
        broker.devices.delete(by, id).await?;
        Ok(Confirmation::of("Device deleted"))
    })
    .await
}
