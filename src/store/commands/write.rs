//! Writing commands.

use entity::{command_progress, command_targets, commands};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::{super::pieces, StoreError};
use crate::domain::{
    commands::{Command, Target, TargetState},
    ids::{ClientId, CommandId},
};

/// Progress reports kept per target.
const PROGRESS_KEPT: u64 = 100;

/// Writes commands. The owner of a new one is the broker with this id; that of others stays.
pub(in crate::store) async fn upsert_commands(
    connection: &impl ConnectionTrait,
    mut commands: impl ExactSizeIterator<Item = &Command>,
    owner: Option<Uuid>,
) -> Result<(), StoreError> {
    for size in pieces(commands.len()) {
        commands::Entity::insert_many(commands.by_ref().take(size).map(|command| command_row(command, owner)))
            .on_conflict(
                OnConflict::column(commands::Column::Id)
                    .update_columns([commands::Column::FinishedAt, commands::Column::Version])
                    .to_owned(),
            )
            .exec_without_returning(connection)
            .await?;
    }
    Ok(())
}

pub(in crate::store) async fn upsert_targets(
    connection: &impl ConnectionTrait,
    mut targets: impl ExactSizeIterator<Item = (CommandId, &Target)>,
) -> Result<(), StoreError> {
    use command_targets::Column;
    for size in pieces(targets.len()) {
        let rows = targets.by_ref().take(size).map(|(command, target)| target_row(command, target));
        command_targets::Entity::insert_many(rows)
            .on_conflict(
                OnConflict::columns([Column::CommandId, Column::ClientUuid])
                    .update_columns([
                        Column::State,
                        Column::Reason,
                        Column::Result,
                        Column::SentAt,
                        Column::InProgressAt,
                        Column::EndedAt,
                        Column::Version,
                    ])
                    .to_owned(),
            )
            .exec_without_returning(connection)
            .await?;
    }
    Ok(())
}

/// Stores a result that came too late, once, if the target timed out or lost its socket.
pub(in crate::store) async fn write_late_result(
    connection: &impl ConnectionTrait,
    command: CommandId,
    client: ClientId,
    result: &str,
) -> Result<(), StoreError> {
    command_targets::Entity::update_many()
        .filter(command_targets::Column::CommandId.eq(command.uuid()))
        .filter(command_targets::Column::ClientUuid.eq(client.uuid()))
        .filter(
            command_targets::Column::State.is_in([TargetState::TimedOut.as_str(), TargetState::Disconnected.as_str()]),
        )
        .filter(command_targets::Column::LateResult.is_null())
        .col_expr(command_targets::Column::LateResult, Expr::value(result))
        .exec(connection)
        .await?;
    Ok(())
}

pub(in crate::store) async fn write_progress(
    connection: &impl ConnectionTrait,
    rows: Vec<command_progress::ActiveModel>,
) -> Result<(), StoreError> {
    use command_progress::{Column, Entity};
    if rows.is_empty() {
        return Ok(());
    }
    let mut written: Vec<(Uuid, Uuid)> =
        rows.iter().map(|row| (*row.command_id.as_ref(), *row.client_uuid.as_ref())).collect();
    let sizes = pieces(rows.len());
    let mut rows = rows.into_iter();
    for size in sizes {
        Entity::insert_many(rows.by_ref().take(size))
            // an earlier attempt may have been committed although it seemed to fail
            .on_conflict(
                OnConflict::columns([Column::CommandId, Column::ClientUuid, Column::Version]).do_nothing().to_owned(),
            )
            .exec_without_returning(connection)
            .await?;
    }
    written.sort_unstable();
    written.dedup();
    for (command, client) in written {
        let of_target = || Condition::all().add(Column::CommandId.eq(command)).add(Column::ClientUuid.eq(client));
        let kept = Entity::find()
            .select_only()
            .column(Column::Version)
            .filter(of_target())
            .order_by_desc(Column::Version)
            .limit(PROGRESS_KEPT)
            .into_query();
        Entity::delete_many()
            .filter(of_target())
            .filter(Column::Version.not_in_subquery(kept))
            .exec(connection)
            .await?;
    }
    Ok(())
}

fn command_row(command: &Command, owner: Option<Uuid>) -> commands::ActiveModel {
    commands::ActiveModel {
        id: Set(command.id.uuid()),
        requested_by: Set(command.requested_by.into()),
        requester: Set(command.requester.clone()),
        method: Set(command.method.clone()),
        url: Set(command.url.clone()),
        data: Set(command.data.as_deref().map(str::to_owned)),
        timeout_secs: Set(command.timeout.as_secs() as i64),
        deliver_until: Set(command.deliver_until.map(Into::into)),
        created_at: Set(command.created_at.into()),
        finished_at: Set(command.finished_at.map(Into::into)),
        version: Set(command.version),
        owner: Set(owner),
    }
}

fn target_row(command: CommandId, target: &Target) -> command_targets::ActiveModel {
    command_targets::ActiveModel {
        command_id: Set(command.uuid()),
        client_uuid: Set(target.client.into()),
        user_id: Set(target.user_id),
        kind: Set(target.kind.as_str().to_owned()),
        name: Set(target.name.clone()),
        state: Set(target.state.as_str().to_owned()),
        reason: Set(target.reason.map(|reason| reason.as_str().to_owned())),
        incarnation: Set(target.incarnation),
        result: Set(target.result.as_deref().map(str::to_owned)),
        late_result: Set(target.late_result.as_deref().map(str::to_owned)),
        sent_at: Set(target.sent_at.map(Into::into)),
        in_progress_at: Set(target.in_progress_at.map(Into::into)),
        ended_at: Set(target.ended_at.map(Into::into)),
        version: Set(target.version),
    }
}
