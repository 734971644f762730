//! Statements of sea-orm on a connection of sqlx, of either database.

use sea_orm::{
    ExecResult, QueryResult, Statement, Values,
    sqlx::{self, Executor, Postgres, Sqlite, pool::PoolConnection},
};
use sea_query_sqlx::SqlxValues;

pub(super) enum Pooled {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// SQL that was built here or by sea-query; input of clients is only in its values.
fn sql(text: String) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(text)
}

fn values(values: Option<Values>) -> SqlxValues {
    SqlxValues(values.unwrap_or_else(|| Values(Vec::new())))
}

impl Pooled {
    pub(super) async fn execute(&mut self, statement: Statement) -> Result<ExecResult, sqlx::Error> {
        let (text, values) = (sql(statement.sql), values(statement.values));
        match self {
            Self::Sqlite(connection) => sqlx::query_with(text, values).execute(&mut **connection).await.map(Into::into),
            Self::Postgres(connection) => {
                sqlx::query_with(text, values).execute(&mut **connection).await.map(Into::into)
            }
        }
    }

    pub(super) async fn execute_plain(&mut self, text: String) -> Result<ExecResult, sqlx::Error> {
        match self {
            Self::Sqlite(connection) => connection.execute(sql(text)).await.map(Into::into),
            Self::Postgres(connection) => connection.execute(sql(text)).await.map(Into::into),
        }
    }

    pub(super) async fn query_plain(&mut self, text: String) -> Result<Vec<QueryResult>, sqlx::Error> {
        match self {
            Self::Sqlite(connection) => {
                Ok(connection.fetch_all(sql(text)).await?.into_iter().map(Into::into).collect())
            }
            Self::Postgres(connection) => {
                Ok(connection.fetch_all(sql(text)).await?.into_iter().map(Into::into).collect())
            }
        }
    }

    pub(super) async fn query_one(&mut self, statement: Statement) -> Result<Option<QueryResult>, sqlx::Error> {
        let (text, values) = (sql(statement.sql), values(statement.values));
        match self {
            Self::Sqlite(connection) => {
                let row = sqlx::query_with(text, values).fetch_optional(&mut **connection).await?;
                Ok(row.map(Into::into))
            }
            Self::Postgres(connection) => {
                let row = sqlx::query_with(text, values).fetch_optional(&mut **connection).await?;
                Ok(row.map(Into::into))
            }
        }
    }

    pub(super) async fn query_all(&mut self, statement: Statement) -> Result<Vec<QueryResult>, sqlx::Error> {
        let (text, values) = (sql(statement.sql), values(statement.values));
        match self {
            Self::Sqlite(connection) => {
                let rows = sqlx::query_with(text, values).fetch_all(&mut **connection).await?;
                Ok(rows.into_iter().map(Into::into).collect())
            }
            Self::Postgres(connection) => {
                let rows = sqlx::query_with(text, values).fetch_all(&mut **connection).await?;
                Ok(rows.into_iter().map(Into::into).collect())
            }
        }
    }
}
