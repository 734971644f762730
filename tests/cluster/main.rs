//! Tests of nodes with real Redis and PostgreSQL servers, which each test starts itself.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic is the verdict")]

mod acknowledged;
mod changes;
mod clocks;
mod command_owners;
mod commands;
mod congestion;
mod direct;
mod gateways;
mod limits;
mod link;
mod nodes;
mod postgres;
mod proxy;
mod redis;
mod rooms;
mod schedule;
mod servers;
mod topics;
mod upgrade;
#[path = "../api"]
mod api {
    #[expect(dead_code, unused_imports, reason = "the tests of the API use all of it")]
    pub mod support;
}
