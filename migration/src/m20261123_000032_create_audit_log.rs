//! The audit log: who did what to whom. Rows are added and, when they are old, deleted, but never changed: the database refuses
//! it.

use crate::schema::*;

#[derive(DeriveIden)]
enum AuditLog {
    Table,
    Id,
    At,
    Actor,
    ActorName,
    ActorRole,
    Address,
    Node,
    Action,
    Target,
    TargetName,
    Outcome,
    Details,
}

pub(crate) async fn up(schema: &Schema<'_>) -> Result<(), DbErr> {
    schema
        .run(
            Table::create()
                .table(AuditLog::Table)
                .col(big_pk_auto(AuditLog::Id))
                .col(timestamp_with_time_zone(AuditLog::At))
                .col(string_null(AuditLog::Actor))
                .col(string_null(AuditLog::ActorName))
                .col(string_null(AuditLog::ActorRole))
                .col(string_null(AuditLog::Address))
                .col(string(AuditLog::Node))
                .col(string(AuditLog::Action))
                .col(string_null(AuditLog::Target))
                .col(string_null(AuditLog::TargetName))
                .col(string(AuditLog::Outcome))
                // a JSON object
                .col(text(AuditLog::Details))
                .to_owned(),
        )
        .await?;
    for (name, column) in [
        ("idx_audit_log_at", AuditLog::At),
        ("idx_audit_log_actor", AuditLog::Actor),
        ("idx_audit_log_action", AuditLog::Action),
        ("idx_audit_log_target", AuditLog::Target),
    ] {
        // newest first
        let index = Index::create().name(name).table(AuditLog::Table).col(column).col(AuditLog::Id).to_owned();
        schema.run(index).await?;
    }
    match schema.backend() {
        DbBackend::Postgres => {
            schema
                .sql(
                    "CREATE FUNCTION audit_log_refuse_update() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN RAISE EXCEPTION 'audit_log is append-only'; END $$",
                )
                .await?;
            schema
                .sql(
                    "CREATE TRIGGER audit_log_append_only BEFORE UPDATE ON audit_log
                    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse_update()",
                )
                .await
        }
        _ => {
            schema
                .sql(
                    "CREATE TRIGGER audit_log_append_only BEFORE UPDATE ON audit_log
                    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END",
                )
                .await
        }
    }
}

pub(crate) async fn down(schema: &Schema<'_>) -> Result<(), DbErr> {
    // with its triggers
    schema.run(Table::drop().table(AuditLog::Table).to_owned()).await?;
    if schema.backend() == DbBackend::Postgres {
        schema.sql("DROP FUNCTION audit_log_refuse_update").await?;
    }
    Ok(())
}
