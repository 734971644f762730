//! The list of devices and the search in it.

use entity::devices::{Column, Entity as Devices};
use sea_orm::{
    ColumnTrait, Condition, EntityTrait, ExprTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{Expr, Func, LikeExpr},
};
use uuid::Uuid;

use super::DeviceRow;
use crate::{
    domain::ids::{ClientId, GatewayId},
    store::{Store, StoreError},
};

/// Fewest hexadecimal digits of a search that also looks at UUIDs; shorter ones only look at names.
const UUID_DIGITS: usize = 4;

/// Which devices to list, by name.
#[derive(Debug, Default)]
pub struct DeviceFilter {
    /// Only devices whose name contains this text, or whose UUID begins with it.
    pub search: Option<String>,
    /// Only devices behind this gateway.
    pub gateway_id: Option<GatewayId>,
    /// Only devices after this name and UUID.
    pub after: Option<(String, ClientId)>,
    /// Number of devices to skip.
    pub skip: u64,
    /// Most devices to return.
    pub limit: u64,
}

impl Store {
    /// A page of devices by name, and the number of devices on all pages.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn devices(&self, filter: DeviceFilter) -> Result<(Vec<DeviceRow>, u64), StoreError> {
        let mut query = Devices::find().filter(Column::DeletedAt.is_null());
        if let Some(search) = &filter.search {
            query = query.filter(matches(search));
        }
        if let Some(gateway) = filter.gateway_id {
            query = query.filter(Column::GatewayId.eq(gateway.0));
        }
        let total = query.clone().count(&self.read).await?;
        let page = query.apply_if(filter.after, |query, (name, uuid)| {
            let same_name = Column::Name.eq(name.as_str()).and(Column::Uuid.gt(uuid.uuid()));
            query.filter(Column::Name.gt(name).or(same_name))
        });
        let page = page.order_by_asc(Column::Name).order_by_asc(Column::Uuid);
        let rows = page.offset(filter.skip).limit(filter.limit).all(&self.read).await?;
        Ok((rows.into_iter().map(DeviceRow::from).collect(), total))
    }
}

/// Devices whose name contains this text, in any case, or whose UUID begins with it.
fn matches(search: &str) -> Condition {
    let pattern = |text: &str| {
        let escaped = text.replace('\\', "\\\\").replace('%', "\\%").replace('_', "\\_");
        LikeExpr::new(format!("%{escaped}%")).escape('\\')
    };
    let lower = Expr::expr(Func::lower(Expr::col(Column::Name)));
    let mut any = Condition::any()
        // SQLite's LOWER only knows ASCII
        .add(Expr::col(Column::Name).like(pattern(search)))
        .add(lower.like(pattern(&search.to_lowercase())));
    let digits = search.replace('-', "");
    if (UUID_DIGITS..=32).contains(&digits.len())
        && let Ok(first) = Uuid::try_parse(&format!("{digits:0<32}"))
        && let Ok(last) = Uuid::try_parse(&format!("{digits:f<32}"))
    {
        any = any.add(Column::Uuid.between(first, last));
    }
    any
}
