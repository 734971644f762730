//! Gateways that were created over HTTP.

pub(super) mod history;

use chrono::{DateTime, Utc};
use entity::gateways;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, Set, sea_query::Expr};

use super::{
    DeviceRow, Store, StoreError,
    counters::{self, Counter},
    devices, is_unique_violation,
};
use crate::domain::{
    gateways::{Address, Gateway, Source},
    ids::GatewayId,
};

/// A row whose address no version of the program would have written is passed over.
fn read_gateway(row: gateways::Model) -> Option<Gateway> {
    Some(Gateway {
        id: GatewayId(row.id),
        name: row.name,
        address: Address::parse(&row.address)?,
        parent_id: row.parent_id.map(GatewayId),
        max_rtt_ms: row.max_rtt_ms,
        max_loss_percent: row.max_loss_percent,
        source: Source::Api,
    })
}

fn gateway_row(gateway: &Gateway, now: DateTime<Utc>) -> gateways::ActiveModel {
    gateways::ActiveModel {
        id: Set(gateway.id.0),
        name: Set(gateway.name.clone()),
        address: Set(gateway.address.as_str().to_owned()),
        parent_id: Set(gateway.parent_id.map(|parent| parent.0)),
        max_rtt_ms: Set(gateway.max_rtt_ms),
        max_loss_percent: Set(gateway.max_loss_percent),
        created_at: Set(now.into()),
    }
}

/// What came of a change of the gateways, unless they are not as its author knows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current<T> {
    /// The change was tried, with this result.
    Yes(T),
    /// Another node has changed gateways in the meantime; nothing is changed.
    No,
}

impl Store {
    /// How many changes there were of gateways. Read it before the gateways: they are at least as new then.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn gateway_version(&self) -> Result<i64, StoreError> {
        counters::last(&self.read, Counter::GatewayChange).await
    }

    /// The gateways that were created over HTTP.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn gateways(&self) -> Result<Vec<Gateway>, StoreError> {
        let rows = gateways::Entity::find().order_by_asc(gateways::Column::Id).all(&self.read).await?;
        Ok(rows.into_iter().filter_map(read_gateway).collect())
    }

    /// An id above all that a gateway ever had.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unused_gateway_id(&self) -> Result<GatewayId, StoreError> {
        Ok(GatewayId(counters::last(&self.read, Counter::GatewayId).await? + 1))
    }

    /// Gateways of the configuration have ids up to this one: none is given to another gateway, also when those are no
    /// longer in the configuration.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reserve_gateway_ids(&self, highest: GatewayId) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        counters::raise(&transaction, Counter::GatewayId, highest.0).await?;
        transaction.commit().await?;
        Ok(())
    }

    /// Creates a gateway, without what is left of the history of an earlier one. False: there is one with this id. `version` is
    /// that of the gateways that the author knows, `None` if there are no other nodes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_gateway(&self, gateway: &Gateway, version: Option<i64>) -> Result<Current<bool>, StoreError> {
        let transaction = self.begin().await?;
        if !is_current(&transaction, version).await? {
            return Ok(Current::No);
        }
        match gateways::Entity::insert(gateway_row(gateway, self.clock.now()))
            .exec_without_returning(&transaction)
            .await
        {
            Ok(_) => {}
            Err(error) if is_unique_violation(&error) => return Ok(Current::Yes(false)),
            Err(error) => return Err(error.into()),
        }
        history::delete_history(&transaction, &[gateway.id]).await?;
        counters::raise(&transaction, Counter::GatewayId, gateway.id.0).await?;
        transaction.commit().await?;
        Ok(Current::Yes(true))
    }

    /// Changes a gateway. False: there is none with this id. `version` as for [`Store::create_gateway`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_gateway(&self, gateway: &Gateway, version: Option<i64>) -> Result<Current<bool>, StoreError> {
        let transaction = self.begin().await?;
        if !is_current(&transaction, version).await? {
            return Ok(Current::No);
        }
        let done = gateways::Entity::update_many()
            .filter(gateways::Column::Id.eq(gateway.id.0))
            .col_expr(gateways::Column::Name, Expr::value(gateway.name.as_str()))
            .col_expr(gateways::Column::Address, Expr::value(gateway.address.as_str()))
            .col_expr(gateways::Column::ParentId, Expr::value(gateway.parent_id.map(|parent| parent.0)))
            .col_expr(gateways::Column::MaxRttMs, Expr::value(gateway.max_rtt_ms))
            .col_expr(gateways::Column::MaxLossPercent, Expr::value(gateway.max_loss_percent))
            .exec(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(Current::Yes(done.rows_affected > 0))
    }

    /// Deletes a gateway with its history; what was behind it is behind nothing. What the Journal has not written yet of the
    /// history is deleted by the record of the deletion. Returns the devices that were behind it, as they are now. `version` as for
    /// [`Store::create_gateway`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_gateway(
        &self,
        id: GatewayId,
        version: Option<i64>,
    ) -> Result<Current<Vec<DeviceRow>>, StoreError> {
        let transaction = self.begin_essential().await?;
        if !is_current(&transaction, version).await? {
            return Ok(Current::No);
        }
        let devices = devices::lock_behind(&transaction, id).await?;
        gateways::Entity::delete_by_id(id.0).exec(&transaction).await?;
        gateways::Entity::update_many()
            .filter(gateways::Column::ParentId.eq(id.0))
            .col_expr(gateways::Column::ParentId, Expr::value(Option::<i64>::None))
            .exec(&transaction)
            .await?;
        history::delete_history(&transaction, &[id]).await?;
        let devices = devices::forget_gateway(&transaction, id, devices).await?;
        transaction.commit().await?;
        Ok(Current::Yes(devices))
    }
}

/// Counts a change of the gateways, if they are of this version, and keeps others from changing them until the transaction
/// ends. A node without others counts nothing.
async fn is_current(transaction: &impl ConnectionTrait, version: Option<i64>) -> Result<bool, StoreError> {
    match version {
        Some(version) => counters::next_after(transaction, Counter::GatewayChange, version).await,
        None => Ok(true),
    }
}
