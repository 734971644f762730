//! What clients see, tested against the built broker: a file per feature, each test with a broker of its own on a free
//! port and a data directory of its own.
//!
//! `SWITCHBOARD_TEST_POSTGRES=postgres://user@host/name` runs all of it on PostgreSQL instead of SQLite, with a database
//! per broker. With `SWITCHBOARD_TEST_REDIS=redis://host:port` beside it, each broker is two nodes, and the balancer before them
//! (`support/balancer.rs`) gives each request and each socket to one of them; a test of what one node has or counts says
//! `.alone()`. `scripts/test` does both, the second with two nodes.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic is the verdict")]

mod support;

mod accounts;
mod acknowledged;
mod asyncapi;
mod audit;
mod backup;
mod backup_page;
mod bench;
mod bounds;
mod clock_steps;
mod command_life;
mod command_line;
mod commands;
mod configuration;
mod configuration_commands;
mod connections;
mod crashes;
mod device_keys;
mod device_programs;
mod devices;
mod examples;
mod fairness;
mod first_start;
mod gateways;
mod http_rules;
mod identity;
mod journal;
mod json;
mod late_commits;
mod login_limits;
mod logs;
mod messaging;
mod metrics;
mod openapi;
mod order;
mod outages;
mod paging;
mod presence;
mod readme;
mod renames;
mod room_durability;
mod room_rest;
mod rooms;
mod sockets;
mod storage;
mod streams;
mod structure;
mod supervision;
mod takeovers;
mod terminal;
mod topic_history;
mod topic_patterns;
mod topics;
mod trust;
mod upgrade;
mod webhooks;
