//! Gateways that were created over HTTP.

pub(super) mod history;

use chrono::{DateTime, Utc};
use entity::gateways;
use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, Set, sea_query::Expr};

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

impl Store {
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

    /// Creates a gateway, without what is left of the history of an earlier one. Returns false if there is one with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_gateway(&self, gateway: &Gateway) -> Result<bool, StoreError> {
        let transaction = self.begin().await?;
        match gateways::Entity::insert(gateway_row(gateway, self.clock.now()))
            .exec_without_returning(&transaction)
            .await
        {
            Ok(_) => {}
            Err(error) if is_unique_violation(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        history::delete_history(&transaction, &[gateway.id]).await?;
        counters::raise(&transaction, Counter::GatewayId, gateway.id.0).await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Changes a gateway. Returns whether there is one with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_gateway(&self, gateway: &Gateway) -> Result<bool, StoreError> {
        let transaction = self.begin().await?;
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
        Ok(done.rows_affected > 0)
    }

    /// Deletes a gateway with its history; what was behind it is behind nothing. What the Journal has not written yet of the
    /// history is deleted by the record of the deletion. Returns the devices that were behind it, as they are now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_gateway(&self, id: GatewayId) -> Result<Vec<DeviceRow>, StoreError> {
        let transaction = self.begin_essential().await?;
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
        Ok(devices)
    }
}
