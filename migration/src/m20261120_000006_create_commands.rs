//! Commands with caller, targets, times and results. The table is the audit log.

use crate::schema::*;

#[derive(DeriveIden)]
enum Commands {
    Table,
    Id,
    RequestedBy,
    Requester,
    Method,
    Url,
    Data,
    TimeoutSecs,
    DeliverUntil,
    CreatedAt,
    FinishedAt,
    Version,
}

#[derive(DeriveIden)]
enum IdempotencyKeys {
    Table,
    RequestedBy,
    IdempotencyKey,
    CommandId,
    BodyDigest,
}

#[derive(DeriveIden)]
enum CommandTargets {
    Table,
    CommandId,
    ClientUuid,
    UserId,
    Kind,
    Name,
    State,
    Result,
    LateResult,
    SentAt,
    InProgressAt,
    EndedAt,
    Version,
}

#[derive(DeriveIden)]
enum CommandProgress {
    Table,
    CommandId,
    ClientUuid,
    Version,
    At,
    Progress,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(Commands::Table)
                // begins with the time, so that the order by id is the order by time
                .col(uuid(Commands::Id).primary_key())
                .col(uuid(Commands::RequestedBy))
                // the caller's name at that time
                .col(string(Commands::Requester))
                .col(string(Commands::Method))
                .col(text(Commands::Url))
                // JSON as it was given; null if there is none
                .col(text_null(Commands::Data))
                .col(big_integer(Commands::TimeoutSecs))
                // how long the command waits for offline devices
                .col(timestamp_with_time_zone_null(Commands::DeliverUntil))
                .col(timestamp_with_time_zone(Commands::CreatedAt))
                .col(timestamp_with_time_zone_null(Commands::FinishedAt))
                // number of changes; used as event id
                .col(big_integer(Commands::Version))
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Table::create()
                .table(IdempotencyKeys::Table)
                .col(uuid(IdempotencyKeys::RequestedBy))
                .col(string(IdempotencyKeys::IdempotencyKey))
                .col(uuid(IdempotencyKeys::CommandId))
                // SHA-256 of the request, in hex; the same key with a different request is an error
                .col(string(IdempotencyKeys::BodyDigest))
                .primary_key(Index::create().col(IdempotencyKeys::RequestedBy).col(IdempotencyKeys::IdempotencyKey))
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Index::create()
                .name("idx_idempotency_keys_command_id")
                .table(IdempotencyKeys::Table)
                .col(IdempotencyKeys::CommandId)
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Table::create()
                .table(CommandTargets::Table)
                .col(uuid(CommandTargets::CommandId))
                .col(uuid(CommandTargets::ClientUuid))
                .col(big_integer_null(CommandTargets::UserId))
                .col(string(CommandTargets::Kind))
                .col(string(CommandTargets::Name))
                .col(string(CommandTargets::State))
                // JSON as the target gave it
                .col(text_null(CommandTargets::Result))
                .col(text_null(CommandTargets::LateResult))
                .col(timestamp_with_time_zone_null(CommandTargets::SentAt))
                .col(timestamp_with_time_zone_null(CommandTargets::InProgressAt))
                .col(timestamp_with_time_zone_null(CommandTargets::EndedAt))
                .col(big_integer(CommandTargets::Version))
                .primary_key(Index::create().col(CommandTargets::CommandId).col(CommandTargets::ClientUuid))
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Index::create()
                .name("idx_command_targets_client_uuid")
                .table(CommandTargets::Table)
                .col(CommandTargets::ClientUuid)
                .to_owned(),
        )
        .await?;
    schema
        .run(
            Table::create()
                .table(CommandProgress::Table)
                .col(uuid(CommandProgress::CommandId))
                .col(uuid(CommandProgress::ClientUuid))
                .col(big_integer(CommandProgress::Version))
                .col(timestamp_with_time_zone(CommandProgress::At))
                .col(text(CommandProgress::Progress))
                .primary_key(
                    Index::create()
                        .col(CommandProgress::CommandId)
                        .col(CommandProgress::ClientUuid)
                        .col(CommandProgress::Version),
                )
                .to_owned(),
        )
        .await
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema.run(Table::drop().table(CommandProgress::Table).to_owned()).await?;
    schema.run(Table::drop().table(CommandTargets::Table).to_owned()).await?;
    schema.run(Table::drop().table(IdempotencyKeys::Table).to_owned()).await?;
    schema.run(Table::drop().table(Commands::Table).to_owned()).await
}
