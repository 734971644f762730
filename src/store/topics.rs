//! Topics.

use chrono::Utc;
use entity::topics::{ActiveModel, Column, Entity as Topics, Model};
use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, Set, sea_query::OnConflict};
use serde_json::Value;

use super::{Store, StoreError};
use crate::{
    domain::ids::{ClientId, TopicId},
    protocol::json,
};

/// A topic as stored.
#[derive(Debug, Clone)]
pub struct Topic {
    /// Its name.
    pub id: String,
    /// Who created it.
    pub creator: ClientId,
    /// What its creator said of it: a JSON object.
    pub metadata: Value,
}

impl From<Model> for Topic {
    fn from(row: Model) -> Self {
        Self { id: row.id, creator: row.creator.into(), metadata: json::stored_object(&row.metadata) }
    }
}

impl Store {
    /// Creates a topic. Answers false if there is one of that name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_topic(&self, id: &TopicId, creator: ClientId, metadata: Value) -> Result<bool, StoreError> {
        let row = ActiveModel {
            id: Set(id.as_str().to_owned()),
            creator: Set(creator.into()),
            metadata: Set(metadata.to_string()),
            created_at: Set(Utc::now().into()),
        };
        let transaction = self.begin().await?;
        let inserted = Topics::insert(row)
            .on_conflict(OnConflict::column(Column::Id).do_nothing().to_owned())
            .exec_without_returning(&transaction)
            .await?;
        transaction.commit().await?;
        Ok(inserted > 0)
    }

    /// Deletes a topic of that creator. Answers whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_topic(&self, id: &str, creator: ClientId) -> Result<bool, StoreError> {
        let transaction = self.begin_essential().await?;
        let of_creator = Topics::delete_many().filter(Column::Id.eq(id)).filter(Column::Creator.eq(creator.uuid()));
        let deleted = of_creator.exec(&transaction).await?;
        transaction.commit().await?;
        Ok(deleted.rows_affected > 0)
    }

    /// All topics by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn topics(&self) -> Result<Vec<Topic>, StoreError> {
        let rows = Topics::find().order_by_asc(Column::Id).all(&self.read).await?;
        Ok(rows.into_iter().map(Topic::from).collect())
    }

    /// The topic of this name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn topic(&self, id: &str) -> Result<Option<Topic>, StoreError> {
        // NUL is in no name, and PostgreSQL refuses even to look for it
        if id.contains('\0') {
            return Ok(None);
        }
        Ok(Topics::find_by_id(id).one(&self.read).await?.map(Topic::from))
    }

    /// How many topics a client has created.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn count_topics_of(&self, creator: ClientId) -> Result<u64, StoreError> {
        Ok(Topics::find().filter(Column::Creator.eq(creator.uuid())).count(&self.read).await?)
    }
}
