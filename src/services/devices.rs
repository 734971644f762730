//! Devices: reading, changing and deleting them. They are registered in `auth::registration`.

use std::{fmt, iter, sync::Arc};

use actix::MailboxError;

use crate::{
    actors::{
        command_dispatcher::Commands,
        gateway_monitor::{GatewayError, Gateways},
        message_manager::Messages,
        registry::Clients,
        room_manager::{RoomError, Rooms},
    },
    auth::accounts::Accounts,
    domain::{
        accounts::{Account, AccountChange},
        audit::Actor,
        budget::OverLimit,
        ids::ClientId,
    },
    store::{Current, DeviceChange, DeviceFilter, DeviceRow, Store, StoreError},
};

/// Why a device is not read, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("device not found")]
    NotFound,
    /// It can't be behind this gateway.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Its memberships of rooms can't be ended.
    #[error(transparent)]
    Rooms(#[from] RoomError),
    /// The client that changes it has reached `limits.stored_bytes_per_minute`.
    #[error(transparent)]
    OverLimit(#[from] OverLimit),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Registry has stopped.
    #[error(transparent)]
    Stopped(#[from] MailboxError),
}

/// A device as it is now.
#[derive(Debug)]
pub struct DeviceView {
    pub device: DeviceRow,
    /// Whether its socket on `/ws` is open, on any node.
    pub is_online: bool,
}

/// Reads, changes and deletes devices.
pub struct Devices {
    store: Store,
    accounts: Arc<Accounts>,
    clients: Clients,
    rooms: Rooms,
    gateways: Gateways,
    commands: Commands,
    messages: Messages,
}

impl fmt::Debug for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Devices").finish_non_exhaustive()
    }
}

impl Devices {
    /// Of this database, with these actors.
    pub fn new(
        store: Store,
        accounts: Arc<Accounts>,
        clients: Clients,
        rooms: Rooms,
        gateways: Gateways,
        commands: Commands,
        messages: Messages,
    ) -> Self {
        Self { store, accounts, clients, rooms, gateways, commands, messages }
    }

    /// A page of devices by name, and the number of devices on all pages.
    ///
    /// # Errors
    /// The database failed.
    pub async fn list(&self, filter: DeviceFilter) -> Result<(Vec<DeviceView>, u64), StoreError> {
        let (devices, total) = self.store.devices(filter).await?;
        let online = self.clients.online_among(devices.iter().map(|device| device.uuid));
        let view = |device: DeviceRow| DeviceView { is_online: online.contains(&device.uuid), device };
        Ok((devices.into_iter().map(view).collect(), total))
    }

    /// The device with this UUID.
    ///
    /// # Errors
    /// There is none, or the database failed.
    pub async fn get(&self, id: ClientId) -> Result<DeviceView, DeviceError> {
        let device = self.store.device(id).await?.ok_or(DeviceError::NotFound)?;
        Ok(self.view(device).await)
    }

    /// Changes a device, also its name in its sessions and rooms, at the request of `by`.
    ///
    /// # Errors
    /// There is no such device or gateway, `by` has reached its limit of stored bytes, or the database failed.
    pub async fn update(&self, by: &Actor, id: ClientId, change: DeviceChange) -> Result<DeviceView, DeviceError> {
        if let Some(by) = by.client {
            self.store.charge_stored(by, change.metadata.as_ref().map_or(0, |metadata| metadata.to_string().len()))?;
        }
        let store = self.store.by(by.clone());
        let device = loop {
            // the gateway must not be deleted before the device is linked to it
            let held = match change.gateway_id {
                Some(Some(gateway)) => Some(self.gateways.hold(gateway).await?),
                _ => None,
            };
            let version = held.as_ref().and_then(|held| held.version);
            match store.update_device(id, change.clone(), version).await? {
                Current::Yes(device) => break device.ok_or(DeviceError::NotFound)?,
                Current::No => {}
            }
        };
        self.apply(device.clone()).await?;
        tracing::info!(device = %id, by = by.id.as_deref(), "device changed");
        Ok(self.view(device).await)
    }

    /// Deletes a device at the request of an operator. Its tokens become invalid, its sessions are closed, and its memberships of
    /// rooms and what waits for it end.
    ///
    /// # Errors
    /// There is no such device, or the database failed; then some memberships may have ended.
    pub async fn delete(&self, operator: Actor, id: ClientId) -> Result<(), DeviceError> {
        self.store.device(id).await?.ok_or(DeviceError::NotFound)?;
        self.rooms.leave_all(id).await?;
        let deleted = self.store.by(operator).delete_device(id).await?.ok_or(DeviceError::NotFound)?;
        self.apply(deleted).await?;
        // a membership since the first call must not pass to the next device with this UUID
        self.rooms.leave_all(id).await?;
        // otherwise a crash would restore the queued commands for the next device with this UUID
        if let Err(error) = self.commands.written().await {
            tracing::warn!(device = %id, %error, "the ends of a deleted device's commands are not written yet");
        }
        if let Err(error) = self.messages.recipient_deleted(id).await {
            tracing::warn!(device = %id, %error, "the senders of messages to a deleted device are told when they connect");
        }
        Ok(())
    }

    /// Applies a change that is in the database to the device's account and sessions.
    async fn apply(&self, device: DeviceRow) -> Result<(), MailboxError> {
        let account = self.accounts.put(Account::from(device));
        self.clients.apply(AccountChange::Account(account)).await
    }

    async fn view(&self, device: DeviceRow) -> DeviceView {
        let is_online = !self.clients.online_among(iter::once(device.uuid)).is_empty();
        DeviceView { device, is_online }
    }
}
