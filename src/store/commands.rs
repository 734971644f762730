//! Commands, their targets and their progress: what the Journal writes, and what operators read.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, Utc};
use entity::{command_progress, command_targets, commands, idempotency_keys};
use sea_orm::{
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Set,
    sea_query::{Expr, OnConflict},
};
use uuid::Uuid;

use super::{Record, Store, StoreError, devices, gateways, pieces};
use crate::domain::{
    commands::{Command, Reason, State, Target},
    ids::{ClientId, ClientKind},
};

/// Progress reports that are kept per target.
const PROGRESS_KEPT: u64 = 100;

/// Commands that are deleted in one transaction.
const DELETED: u64 = 200;
/// Commands, targets and reports that are read at once: each can have tens or hundreds of kilobytes.
const COMMANDS_AT_ONCE: u64 = 20;
const TARGETS_AT_ONCE: u64 = 50;
const REPORTS_AT_ONCE: u64 = 50;

/// What an answer says of a command or target beside what clients wrote.
const ROW_BYTES: usize = 400;

/// Ids per query.
const ROWS: usize = 1000;

/// A progress report as stored.
#[derive(Debug, Clone)]
pub struct StoredProgress {
    /// The target.
    pub client: ClientId,
    /// The command's version with it.
    pub version: i64,
    /// When it came.
    pub at: DateTime<Utc>,
    /// JSON.
    pub progress: String,
}

/// Whether a command with an idempotency key was created.
#[derive(Debug)]
pub enum Created {
    /// It is new.
    New,
    /// There is one with this key already.
    Existing {
        /// Its id.
        id: Uuid,
        /// The digest of its request.
        body_digest: String,
    },
}

/// Which commands to list; newest first.
#[derive(Debug, Default)]
pub struct CommandFilter {
    /// Only those of this requester.
    pub requested_by: Option<ClientId>,
    /// Only those with a target in this state.
    pub state: Option<State>,
    /// Only those to this target.
    pub target: Option<ClientId>,
    /// Only those given at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Only those before this one.
    pub before: Option<Uuid>,
    /// How many at most.
    pub limit: u64,
    /// Of how many bytes at most.
    pub bytes: usize,
}

/// A command with a part of its targets.
#[derive(Debug)]
pub struct CommandPage {
    /// The command.
    pub command: Command,
    /// There are more targets, from this one on.
    pub next_target: Option<u64>,
}

fn command_row(command: &Command) -> commands::ActiveModel {
    commands::ActiveModel {
        id: Set(command.id),
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
    }
}

fn target_row(command: Uuid, target: &Target) -> command_targets::ActiveModel {
    command_targets::ActiveModel {
        command_id: Set(command),
        client_uuid: Set(target.client.into()),
        user_id: Set(target.user_id),
        kind: Set(target.kind.as_str().to_owned()),
        name: Set(target.name.clone()),
        state: Set(target.state.as_str().to_owned()),
        reason: Set(target.reason.map(|reason| reason.as_str().to_owned())),
        result: Set(target.result.as_deref().map(str::to_owned)),
        late_result: Set(target.late_result.as_deref().map(str::to_owned)),
        sent_at: Set(target.sent_at.map(Into::into)),
        in_progress_at: Set(target.in_progress_at.map(Into::into)),
        ended_at: Set(target.ended_at.map(Into::into)),
        version: Set(target.version),
    }
}

fn read_target(row: command_targets::Model) -> Target {
    Target {
        client: row.client_uuid.into(),
        user_id: row.user_id,
        kind: ClientKind::parse(&row.kind).unwrap_or(ClientKind::Device),
        name: row.name,
        state: State::parse(&row.state).unwrap_or(State::Failed),
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
        id: row.id,
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

/// Writes all records; no reports of progress while storage is nearly full.
///
/// # Errors
/// When the database fails; then the transaction is not to be committed.
pub(super) async fn write(
    transaction: &impl ConnectionTrait,
    records: &[Record],
    nearly_full: bool,
) -> Result<(), StoreError> {
    // in the order of their ids, so that no two nodes wait for each other's rows; those of commands begin with the time, so
    // the database appends
    let mut commands = BTreeMap::new();
    let mut targets = BTreeMap::new();
    let mut progress = Vec::new();
    let mut late = Vec::new();
    let mut seen = BTreeMap::new();
    let mut of_gateways = Vec::new();
    for record in records {
        match record {
            Record::Whole(command) => {
                commands.insert(command.id, &**command);
                targets.extend(command.targets.iter().map(|target| ((command.id, target.client.uuid()), target)));
            }
            Record::Command(command) => {
                commands.insert(command.id, &**command);
            }
            Record::Target { command, target } => {
                targets.insert((*command, target.client.uuid()), target);
            }
            Record::Progress { .. } if nearly_full => {}
            Record::Progress { command, client, version, at, progress: report } => {
                progress.push(command_progress::ActiveModel {
                    command_id: Set(*command),
                    client_uuid: Set((*client).into()),
                    version: Set(*version),
                    at: Set((*at).into()),
                    progress: Set(report.to_string()),
                });
            }
            Record::LateResult { command, client, result } => late.push((*command, *client, result.to_string())),
            Record::DeviceSeen { device, incarnation, at } => {
                seen.insert(*device, (*incarnation, *at));
            }
            Record::Gateway(record) => of_gateways.push(record),
        }
    }
    upsert_commands(transaction, commands.into_values()).await?;
    upsert_targets(transaction, targets.into_iter().map(|((command, _), target)| (command, target))).await?;
    write_progress(transaction, progress).await?;
    let seen: Vec<_> = seen.into_iter().map(|(device, (incarnation, at))| (device, incarnation, at)).collect();
    devices::write_seen(transaction, &seen).await?;
    gateways::write(transaction, &of_gateways).await?;
    for (command, client, result) in late {
        command_targets::Entity::update_many()
            .filter(command_targets::Column::CommandId.eq(command))
            .filter(command_targets::Column::ClientUuid.eq(client.uuid()))
            .filter(command_targets::Column::State.is_in([State::TimedOut.as_str(), State::Disconnected.as_str()]))
            .filter(command_targets::Column::LateResult.is_null())
            .col_expr(command_targets::Column::LateResult, Expr::value(result))
            .exec(transaction)
            .await?;
    }
    Ok(())
}

impl Store {
    /// Creates a command with an idempotency key, unless there is one of its requester with that key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn create_command_once(
        &self,
        command: &Command,
        key: &str,
        body_digest: &str,
    ) -> Result<Created, StoreError> {
        let transaction = self.begin().await?;
        let row = idempotency_keys::ActiveModel {
            requested_by: Set(command.requested_by.into()),
            idempotency_key: Set(key.to_owned()),
            command_id: Set(command.id),
            body_digest: Set(body_digest.to_owned()),
        };
        let columns = [idempotency_keys::Column::RequestedBy, idempotency_keys::Column::IdempotencyKey];
        let inserted = idempotency_keys::Entity::insert(row)
            .on_conflict(OnConflict::columns(columns).do_nothing().to_owned())
            .exec_without_returning(&transaction)
            .await?;
        if inserted == 0 {
            let id = (command.requested_by.uuid(), key.to_owned());
            let existing = idempotency_keys::Entity::find_by_id(id).one(&transaction).await?;
            return existing
                .map(|row| Created::Existing { id: row.command_id, body_digest: row.body_digest })
                .ok_or_else(|| DbErr::RecordNotFound("an idempotency key that was just there".to_owned()).into());
        }
        upsert_commands(&transaction, std::iter::once(command)).await?;
        upsert_targets(&transaction, command.targets.iter().map(|target| (command.id, target))).await?;
        transaction.commit().await?;
        Ok(Created::New)
    }

    /// The command that a requester's idempotency key stands for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn command_of_key(&self, requester: ClientId, key: &str) -> Result<Option<Created>, StoreError> {
        let id = (requester.uuid(), key.to_owned());
        let row = idempotency_keys::Entity::find_by_id(id).one(&self.read).await?;
        Ok(row.map(|row| Created::Existing { id: row.command_id, body_digest: row.body_digest }))
    }

    /// A command with its targets from that one on, as many as fit into so many bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn command(&self, id: Uuid, from: u64, bytes: usize) -> Result<Option<CommandPage>, StoreError> {
        let snapshot = self.snapshot().await?;
        let command = find(&snapshot, id, from, u64::MAX, bytes).await?;
        snapshot.end().await?;
        Ok(command)
    }

    /// A command with so many of its targets, from that one on, and the reports of their progress, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn command_with_progress(
        &self,
        id: Uuid,
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

    /// The progress reports of a command after that version, oldest first: the newest that fit into so many bytes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn progress_of(&self, id: Uuid, after: i64, bytes: usize) -> Result<Vec<StoredProgress>, StoreError> {
        read_progress(&self.read, id, after, bytes).await
    }

    /// Commands with their targets, newest first. Answers also whether there are more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn commands(&self, filter: CommandFilter) -> Result<(Vec<CommandPage>, bool), StoreError> {
        // ids begin with the time
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
            query =
                query.filter(commands::Column::Id.gte(first_id(since))).filter(commands::Column::CreatedAt.gte(since));
        }
        let snapshot = self.snapshot().await?;
        let (mut pages, mut room) = (Vec::<CommandPage>::new(), filter.bytes);
        loop {
            let want = (filter.limit - pages.len() as u64).min(COMMANDS_AT_ONCE);
            let mut query = query.clone();
            if let Some(before) = pages.last().map(|last| last.command.id).or(filter.before) {
                query = query.filter(commands::Column::Id.lt(before));
            }
            let rows = query.limit(want + 1).all(&snapshot).await?;
            let more = rows.len() as u64 > want;
            for row in rows.into_iter().take(want as usize) {
                let size = row.url.len() + row.data.as_ref().map_or(0, String::len) + ROW_BYTES;
                if size > room && !pages.is_empty() {
                    return Ok((pages, true));
                }
                room = room.saturating_sub(size);
                let (targets, next_target) = read_targets(&snapshot, row.id, 0, u64::MAX, &mut room).await?;
                pages.push(CommandPage { command: read_command(row, targets), next_target });
            }
            if !more || pages.len() as u64 >= filter.limit {
                snapshot.end().await?;
                return Ok((pages, more));
            }
        }
    }

    /// Commands that were not over when the process ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn unfinished_commands(&self) -> Result<Vec<Command>, StoreError> {
        let rows = commands::Entity::find()
            .filter(commands::Column::FinishedAt.is_null())
            .order_by_asc(commands::Column::Id)
            .all(&self.read)
            .await?;
        with_targets(&self.read, rows).await
    }

    /// Deletes commands that are over and were given before that time, some at a time, so that nobody waits long.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_commands_before(&self, time: DateTime<Utc>) -> Result<u64, StoreError> {
        let mut deleted = 0;
        loop {
            let old: Vec<Uuid> = commands::Entity::find()
                .select_only()
                .column(commands::Column::Id)
                .filter(commands::Column::Id.lt(first_id(time)))
                .filter(commands::Column::FinishedAt.is_not_null())
                .limit(DELETED)
                .into_tuple()
                .all(&self.read)
                .await?;
            if old.is_empty() {
                return Ok(deleted);
            }
            let transaction = self.begin_essential().await?;
            command_progress::Entity::delete_many()
                .filter(command_progress::Column::CommandId.is_in(old.iter().copied()))
                .exec(&transaction)
                .await?;
            command_targets::Entity::delete_many()
                .filter(command_targets::Column::CommandId.is_in(old.iter().copied()))
                .exec(&transaction)
                .await?;
            idempotency_keys::Entity::delete_many()
                .filter(idempotency_keys::Column::CommandId.is_in(old.iter().copied()))
                .exec(&transaction)
                .await?;
            let done =
                commands::Entity::delete_many().filter(commands::Column::Id.is_in(old)).exec(&transaction).await?;
            transaction.commit().await?;
            deleted += done.rows_affected;
        }
    }
}

async fn find(
    connection: &impl ConnectionTrait,
    id: Uuid,
    from: u64,
    limit: u64,
    mut bytes: usize,
) -> Result<Option<CommandPage>, StoreError> {
    let Some(row) = commands::Entity::find_by_id(id).one(connection).await? else { return Ok(None) };
    let (targets, next_target) = read_targets(connection, id, from, limit, &mut bytes).await?;
    Ok(Some(CommandPage { command: read_command(row, targets), next_target }))
}

/// A command's targets from that one on: at least one, at most so many, and as many as there is room for, in bytes. Answers
/// also where to go on, if there are more.
async fn read_targets(
    connection: &impl ConnectionTrait,
    command: Uuid,
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
            .filter(Column::CommandId.eq(command))
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
    id: Uuid,
    after: i64,
    bytes: usize,
) -> Result<Vec<StoredProgress>, StoreError> {
    use command_progress::Column;
    let (mut reports, mut size) = (Vec::<StoredProgress>::new(), 0);
    'reading: loop {
        let mut query = command_progress::Entity::find()
            .filter(Column::CommandId.eq(id))
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

/// The least id that a command of that moment can have.
fn first_id(time: DateTime<Utc>) -> Uuid {
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&time.timestamp_millis().to_be_bytes()[2..]);
    Uuid::from_bytes(bytes)
}

async fn upsert_commands(
    connection: &impl ConnectionTrait,
    mut commands: impl ExactSizeIterator<Item = &Command>,
) -> Result<(), StoreError> {
    for size in pieces(commands.len()) {
        commands::Entity::insert_many(commands.by_ref().take(size).map(command_row))
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

async fn upsert_targets(
    connection: &impl ConnectionTrait,
    mut targets: impl ExactSizeIterator<Item = (Uuid, &Target)>,
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

async fn write_progress(
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
            // written before the database said that it could not
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
