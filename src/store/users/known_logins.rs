//! Addresses from which users have logged in. From these they can log in while others use up the failed logins of the name.

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};
use entity::{
    known_logins::{ActiveModel, Column},
    prelude::KnownLogins,
};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    QueryTrait, Set,
    sea_query::{Expr, LockBehavior, LockType, OnConflict},
};

use crate::{
    domain::login_limit::{KNOWN_PER_USER, REMEMBERED},
    store::{Store, StoreError},
};

/// Logins before this time do not count.
fn horizon(now: DateTime<Utc>) -> DateTime<Utc> {
    now - REMEMBERED
}

impl Store {
    /// How long ago a user last logged in from an address, if that is remembered. Takes the same time for an unknown name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn known_login(&self, user: Option<i64>, address: IpAddr) -> Result<Option<Duration>, StoreError> {
        // no user has this id
        let key = (user.unwrap_or(0), address.to_string());
        let row = KnownLogins::find_by_id(key).one(&self.read).await?;
        let now = self.clock.now();
        let last = row.map(|row| row.last_at.to_utc()).filter(|last| *last > horizon(now));
        // a clock that was set back makes no login younger than now
        Ok(last.map(|last| (now - last).to_std().unwrap_or_default()))
    }

    /// Deletes logins that no longer count.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_old_logins(&self) -> Result<(), StoreError> {
        let transaction = self.begin_essential().await?;
        let key = [Column::UserId, Column::Address];
        let old = KnownLogins::find()
            .select_only()
            .columns(key)
            .filter(Column::LastAt.lte(horizon(self.clock.now())))
            .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
            .into_query();
        let key = Expr::tuple(key.map(Expr::col));
        KnownLogins::delete_many().filter(key.in_subquery(old)).exec(&transaction).await?;
        Ok(transaction.commit().await?)
    }
}

/// Remembers a login, and deletes the oldest ones of the user beyond the limit. The caller holds the lock on the user's row.
pub(super) async fn remember(
    transaction: &impl ConnectionTrait,
    user: i64,
    address: IpAddr,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let row = ActiveModel { user_id: Set(user), address: Set(address.to_string()), last_at: Set(now.into()) };
    let newer = OnConflict::columns([Column::UserId, Column::Address]).update_column(Column::LastAt).to_owned();
    KnownLogins::insert(row).on_conflict(newer).exec_without_returning(transaction).await?;
    let known = KnownLogins::find().filter(Column::UserId.eq(user)).order_by_desc(Column::LastAt);
    let known = known.all(transaction).await?;
    if known.len() > KNOWN_PER_USER {
        let oldest = known.into_iter().skip(KNOWN_PER_USER).map(|row| row.address);
        let oldest = Condition::all().add(Column::UserId.eq(user)).add(Column::Address.is_in(oldest));
        KnownLogins::delete_many().filter(oldest).exec(transaction).await?;
    }
    Ok(())
}

/// Forgets all logins of a user.
pub(super) async fn forget(transaction: &impl ConnectionTrait, user: i64) -> Result<(), DbErr> {
    KnownLogins::delete_many().filter(Column::UserId.eq(user)).exec(transaction).await.map(drop)
}
