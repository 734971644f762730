//! Users: accounts that log in with a password.

use crate::schema::*;

#[derive(DeriveIden)]
enum Users {
    Table,
    Id,
    Uuid,
    Username,
    Email,
    FullName,
    JobTitle,
    PasswordHash,
    Role,
    IsActive,
    TokenGeneration,
    CreatedAt,
    ChangedAt,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Users::Table)
                .col(big_pk_auto(Users::Id))
                .col(uuid(Users::Uuid).unique_key())
                .col(string(Users::Username).unique_key())
                .col(string_null(Users::Email).unique_key())
                .col(string_null(Users::FullName))
                // the role that a client asked for at registration; grants nothing
                .col(string_null(Users::JobTitle))
                .col(string(Users::PasswordHash))
                .col(string(Users::Role))
                .col(boolean(Users::IsActive))
                // tokens of an earlier generation are revoked
                .col(big_integer(Users::TokenGeneration).default(0))
                .col(timestamp_with_time_zone(Users::CreatedAt))
                // time of the last change of role, state or token generation, which running servers poll
                .col(timestamp_with_time_zone(Users::ChangedAt))
                .to_owned(),
        )
        .await?;
    schema.run(Index::create().name("idx_users_changed_at").table(Users::Table).col(Users::ChangedAt).to_owned()).await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(Users::Table).to_owned()).await
}
