//! Switchboard's database schema: one file per migration, each with `up` and `down`.
//!
//! To add a migration, add a file named after its date and content, and a line to [`Migrator`]. Then run
//! `scripts/generate-entities`, which generates the `entity` crate from the migrated schema.

pub use sea_orm_migration::prelude::{MigrationTrait, MigratorTrait};

mod m20261120_000001_create_users;
mod m20261120_000002_create_devices;
mod m20261120_000003_create_refresh_tokens;
mod m20261120_000004_create_revocations;
mod m20261120_000005_create_topics;
mod m20261120_000006_create_commands;
mod m20261120_000007_create_rooms;
mod m20261120_000008_add_device_details;
mod m20261120_000009_create_gateways;
mod m20261121_000010_create_brokers;
mod m20261121_000013_metadata_as_text;
mod m20261121_000014_add_target_reason;
mod m20261121_000015_create_counters;
mod m20261121_000016_bind_device_keys;
mod m20261121_000017_one_refresh_token_per_login;
mod m20261121_000018_delete_users;
mod m20261121_000019_count_gateway_ids;
mod m20261121_000020_add_room_quotas;
mod m20261121_000021_create_known_logins;
mod m20261121_000022_record_password_rules;
mod m20261122_000023_add_target_incarnation;

/// All migrations in the order in which they are applied.
pub struct Migrator;

#[sea_orm_migration::async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261120_000001_create_users::Migration),
            Box::new(m20261120_000002_create_devices::Migration),
            Box::new(m20261120_000003_create_refresh_tokens::Migration),
            Box::new(m20261120_000004_create_revocations::Migration),
            Box::new(m20261120_000005_create_topics::Migration),
            Box::new(m20261120_000006_create_commands::Migration),
            Box::new(m20261120_000007_create_rooms::Migration),
            Box::new(m20261120_000008_add_device_details::Migration),
            Box::new(m20261120_000009_create_gateways::Migration),
            Box::new(m20261121_000010_create_brokers::Migration),
            Box::new(m20261121_000013_metadata_as_text::Migration),
            Box::new(m20261121_000014_add_target_reason::Migration),
            Box::new(m20261121_000015_create_counters::Migration),
            Box::new(m20261121_000016_bind_device_keys::Migration),
            Box::new(m20261121_000017_one_refresh_token_per_login::Migration),
            Box::new(m20261121_000018_delete_users::Migration),
            Box::new(m20261121_000019_count_gateway_ids::Migration),
            Box::new(m20261121_000020_add_room_quotas::Migration),
            Box::new(m20261121_000021_create_known_logins::Migration),
            Box::new(m20261121_000022_record_password_rules::Migration),
            Box::new(m20261122_000023_add_target_incarnation::Migration),
        ]
    }
}
