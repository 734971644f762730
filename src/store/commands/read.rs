//! Reading commands.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use entity::{command_progress, command_targets, commands};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait};
use uuid::Uuid;

use super::{Store, StoreError};
use crate::domain::{
    commands::{Command, Reason, Target, TargetState},
    ids::{ClientId, ClientKind, CommandId},
};

/// Commands, targets and progress reports per query: each can have tens or hundreds of kilobytes.
const COMMANDS_AT_ONCE: u64 = 20;
const TARGETS_AT_ONCE: u64 = 50;
const REPORTS_AT_ONCE: u64 = 50;

/// Bytes of an answer for a command or target, without the texts of clients.
const ROW_BYTES: usize = 400;

/// Commands per query of their targets.
const ROWS: usize = 1000;

/// A progress report as stored.
#[derive(Debug, Clone)]
pub struct StoredProgress {
    /// The target.
    pub client: ClientId,
    /// The command's version that includes it.
    pub version: i64,
    /// When it came.
    pub at: DateTime<Utc>,
    /// JSON.
    pub progress: String,
}

/// Which commands to list; newest first.
#[derive(Debug, Default)]
pub struct CommandFilter {
    /// Only commands of this requester.
    pub requested_by: Option<ClientId>,
    /// Only commands with a target in this state.
    pub state: Option<TargetState>,
    /// Only commands to this target.
    pub target: Option<ClientId>,
    /// Only commands given at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only commands before this one.
    pub before: Option<CommandId>,
    /// Most commands to return.
    pub limit: u64,
    /// Most bytes to return.
    pub bytes: usize,
}

/// A command with some of its targets.
#[derive(Debug)]
pub struct CommandPage {
    /// The command.
    pub command: Command,
    /// The number of the next target, if there are more.
    pub next_target: Option<u64>,
    /// The broker that handles it, by its instance; `None` if an earlier version has stored it.
    pub owner: Option<Uuid>,
}

/// How a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandStanding {
    /// Whether it is finished.
    pub is_finished: bool,
    /// As in [`CommandPage`].
    pub owner: Option<Uuid>,
}

impl Store {
    /// A command with its targets from number `from` on, as many as fit into `bytes`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn command(&self, id: CommandId, from: u64, bytes: usize) -> Result<Option<CommandPage>, StoreError> {
        let snapshot = self.snapshot().await?;
        let command = find(&snapshot, id, from, u64::MAX, bytes).await?;
        snapshot.end().await?;
        Ok(command)
    }

    /// A command with at most `limit` targets from number `from` on, and its progress reports, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn command_with_progress(
        &self,
        id: CommandId,
        from: u64,
        limit: u64,
        bytes: usize,
    ) -> Result<Option<(CommandPage, Vec<StoredProgress>)>, StoreError> {
        let snapshot = self.snapshot().await?;
        let Some(command) = find(&snapshot, id, from, limit, bytes).await? else { return Ok(None) };
        let progress = read_progress(&snapshot, id, 0, bytes).await?;
        snapshot.end().await?;
        Ok(Some((command, progress)))
    }

    /// The progress reports of a command after a version, oldest first: the newest that fit into `bytes`.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn progress_of(
        &self,
        id: CommandId,
        after: i64,
        bytes: usize,
    ) -> Result<Vec<StoredProgress>, StoreError> {
        read_progress(&self.read, id, after, bytes).await
    }

    /// Commands with their targets, newest first. Also returns whether there are more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn commands(&self, filter: CommandFilter) -> Result<(Vec<CommandPage>, bool), StoreError> {
        // ids are in the order of time
        let mut query = commands::Entity::find().order_by_desc(commands::Column::Id);
        if let Some(requester) = filter.requested_by {
            query = query.filter(commands::Column::RequestedBy.eq(requester.uuid()));
        }
        if filter.state.is_some() || filter.target.is_some() {
            let mut of = command_targets::Entity::find().select_only().column(command_targets::Column::CommandId);
            if let Some(state) = filter.state {
                of = of.filter(command_targets::Column::State.eq(state.as_str()));
            }
            if let Some(target) = filter.target {
                of = of.filter(command_targets::Column::ClientUuid.eq(target.uuid()));
            }
            query = query.filter(commands::Column::Id.in_subquery(of.into_query()));
        }
        if let Some(since) = filter.since {
            query = query
                .filter(commands::Column::Id.gte(CommandId::least(since).uuid()))
                .filter(commands::Column::CreatedAt.gte(since));
        }
        let snapshot = self.snapshot().await?;
        let (mut pages, mut room) = (Vec::<CommandPage>::new(), filter.bytes);
        loop {
            let want = (filter.limit - pages.len() as u64).min(COMMANDS_AT_ONCE);
            let mut query = query.clone();
            if let Some(before) = pages.last().map(|last| last.command.id).or(filter.before) {
                query = query.filter(commands::Column::Id.lt(before.uuid()));
            }
            let rows = query.limit(want + 1).all(&snapshot).await?;
            let more = rows.len() as u64 > want;
            for row in rows.into_iter().take(want as usize) {
                let size = row.url.len() + row.data.as_ref().map_or(0, String::len) + ROW_BYTES;
                if size > room && !pages.is_empty() {
                    return Ok((pages, true));
                }
                room = room.saturating_sub(size);
                let (targets, next_target) = read_targets(&snapshot, row.id.into(), 0, u64::MAX, &mut room).await?;
                let owner = row.owner;
                pages.push(CommandPage { command: read_command(row, targets), next_target, owner });
            }
            if !more || pages.len() as u64 >= filter.limit {
                snapshot.end().await?;
                return Ok((pages, more));
            }
        }
    }

    /// Commands that are not finished, in the order in which they were given: all, or those that a broker handles.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unfinished_commands(&self, owner: Option<Uuid>) -> Result<Vec<Command>, StoreError> {
        let mut rows = commands::Entity::find().filter(commands::Column::FinishedAt.is_null());
        if let Some(owner) = owner {
            rows = rows.filter(commands::Column::Owner.eq(owner));
        }
        let rows = rows.order_by_asc(commands::Column::Id).all(&self.read).await?;
        with_targets(&self.read, rows).await
    }

    /// Those of these commands that are not finished, in the order in which they were given.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unfinished_of(&self, ids: &[CommandId]) -> Result<Vec<Command>, StoreError> {
        let rows = commands::Entity::find()
            .filter(commands::Column::Id.is_in(ids.iter().map(|id| id.uuid())))
            .filter(commands::Column::FinishedAt.is_null())
            .order_by_asc(commands::Column::Id);
        let rows = rows.all(&self.read).await?;
        with_targets(&self.read, rows).await
    }

    /// How a command stands; `None` if there is none with this id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn command_standing(&self, id: CommandId) -> Result<Option<CommandStanding>, StoreError> {
        let columns = [commands::Column::FinishedAt, commands::Column::Owner];
        let row = commands::Entity::find_by_id(id.uuid()).select_only().columns(columns);
        let row = row.into_tuple::<(Option<DateTime<Utc>>, Option<Uuid>)>().one(&self.read).await?;
        Ok(row.map(|(finished_at, owner)| CommandStanding { is_finished: finished_at.is_some(), owner }))
    }
}

async fn find(
    connection: &impl ConnectionTrait,
    id: CommandId,
    from: u64,
    limit: u64,
    mut bytes: usize,
) -> Result<Option<CommandPage>, StoreError> {
    let Some(row) = commands::Entity::find_by_id(id.uuid()).one(connection).await? else { return Ok(None) };
    let (targets, next_target) = read_targets(connection, id, from, limit, &mut bytes).await?;
    let owner = row.owner;
    Ok(Some(CommandPage { command: read_command(row, targets), next_target, owner }))
}

/// A command's targets from number `from` on: at least one, at most `limit`, and as many as fit into `room` bytes, which are
/// reduced accordingly. Also returns the number of the next target, if there are more.
async fn read_targets(
    connection: &impl ConnectionTrait,
    command: CommandId,
    from: u64,
    limit: u64,
    room: &mut usize,
) -> Result<(Vec<Target>, Option<u64>), StoreError> {
    use command_targets::Column;
    let mut targets = Vec::new();
    'reading: loop {
        let read = from + targets.len() as u64;
        let want = (limit - targets.len() as u64).min(TARGETS_AT_ONCE);
        let rows = command_targets::Entity::find()
            .filter(Column::CommandId.eq(command.uuid()))
            .order_by_asc(Column::Name)
            .order_by_asc(Column::ClientUuid)
            .offset(read)
            .limit(want + 1)
            .all(connection)
            .await?;
        let more = rows.len() as u64 > want;
        for row in rows.into_iter().take(want as usize) {
            let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
            let size = row.name.len() + len(&row.result) + len(&row.late_result) + ROW_BYTES;
            if size > *room && !targets.is_empty() {
                break 'reading;
            }
            *room = room.saturating_sub(size);
            targets.push(read_target(row));
        }
        if !more {
            return Ok((targets, None));
        }
        if targets.len() as u64 >= limit {
            break;
        }
    }
    let next = from + targets.len() as u64;
    Ok((targets, Some(next)))
}

async fn read_progress(
    connection: &impl ConnectionTrait,
    id: CommandId,
    after: i64,
    bytes: usize,
) -> Result<Vec<StoredProgress>, StoreError> {
    use command_progress::Column;
    let (mut reports, mut size) = (Vec::<StoredProgress>::new(), 0);
    'reading: loop {
        let mut query = command_progress::Entity::find()
            .filter(Column::CommandId.eq(id.uuid()))
            .filter(Column::Version.gt(after))
            .order_by_desc(Column::Version);
        if let Some(oldest) = reports.last() {
            query = query.filter(Column::Version.lt(oldest.version));
        }
        let rows = query.limit(REPORTS_AT_ONCE).all(connection).await?;
        let more = rows.len() as u64 == REPORTS_AT_ONCE;
        for row in rows {
            size += row.progress.len() + ROW_BYTES;
            if size > bytes && !reports.is_empty() {
                break 'reading;
            }
            reports.push(StoredProgress {
                client: row.client_uuid.into(),
                version: row.version,
                at: row.at.to_utc(),
                progress: row.progress,
            });
        }
        if !more {
            break;
        }
    }
    reports.reverse();
    Ok(reports)
}

async fn with_targets(
    connection: &impl ConnectionTrait,
    rows: Vec<commands::Model>,
) -> Result<Vec<Command>, StoreError> {
    let mut targets: HashMap<Uuid, Vec<Target>> = HashMap::new();
    for ids in rows.iter().map(|row| row.id).collect::<Vec<_>>().chunks(ROWS) {
        let found = command_targets::Entity::find()
            .filter(command_targets::Column::CommandId.is_in(ids.iter().copied()))
            .order_by_asc(command_targets::Column::Name)
            .order_by_asc(command_targets::Column::ClientUuid)
            .all(connection)
            .await?;
        for row in found {
            targets.entry(row.command_id).or_default().push(read_target(row));
        }
    }
    Ok(rows
        .into_iter()
        .map(|row| {
            let targets = targets.remove(&row.id).unwrap_or_default();
            read_command(row, targets)
        })
        .collect())
}

fn read_target(row: command_targets::Model) -> Target {
    Target {
        client: row.client_uuid.into(),
        incarnation: row.incarnation,
        user_id: row.user_id,
        kind: ClientKind::parse(&row.kind).unwrap_or(ClientKind::Device),
        name: row.name,
        state: TargetState::parse(&row.state).unwrap_or(TargetState::Failed),
        reason: row.reason.as_deref().and_then(Reason::parse),
        result: row.result.map(Into::into),
        late_result: row.late_result.map(Into::into),
        sent_at: row.sent_at.map(|time| time.to_utc()),
        in_progress_at: row.in_progress_at.map(|time| time.to_utc()),
        ended_at: row.ended_at.map(|time| time.to_utc()),
        version: row.version,
    }
}

fn read_command(row: commands::Model, targets: Vec<Target>) -> Command {
    Command {
        id: row.id.into(),
        requested_by: row.requested_by.into(),
        requester: row.requester,
        method: row.method,
        url: row.url,
        data: row.data.map(Into::into),
        timeout: Duration::from_secs(row.timeout_secs.unsigned_abs()),
        deliver_until: row.deliver_until.map(|time| time.to_utc()),
        created_at: row.created_at.to_utc(),
        finished_at: row.finished_at.map(|time| time.to_utc()),
        version: row.version,
        targets,
    }
}
