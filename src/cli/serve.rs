//! `switchboard serve`: runs the broker.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ConfigArguments, start_logging};
use crate::{
    app::{Application, Reload},
    cluster::envelope::EnvelopeVersions,
    logging,
    settings::{LiveSettings, LogFormat},
    terminal::output::log_line,
};

/// How long SIGUSR1 has all logged.
const VERBOSE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(super) struct Arguments {
    /// Address and port to listen on; port 0 selects a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket_address)]
    bind: Option<SocketAddr>,
    #[command(flatten)]
    config: ConfigArguments,
}

/// For a node that understands these versions of envelopes.
pub(super) async fn run(arguments: Arguments, envelopes: EnvelopeVersions) -> anyhow::Result<()> {
    let flags = arguments.config.flags();
    let live = LiveSettings::read(arguments.config.layer(arguments.bind.map(|bind| bind.to_string())))?;
    let settings = live.load();
    start_logging(&settings.log)?;
    crate::state::log_panics();
    let (format, data_dir) = (settings.log.format, settings.storage.data_dir.display().to_string());
    // installed before the start, so that no signal is missed
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (hangup, user1) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined1())?);
    drop(settings);

    let application = Application::build(live, envelopes).await?;
    let banner = match format {
        LogFormat::Text => text_banner(&application, &data_dir, &flags),
        LogFormat::Json => json_banner(&application, &data_dir),
    };
    // an error is ignored: the parent process may have closed stdout
    let _ = std::io::stdout().write_all(banner.as_bytes());

    actix_web::rt::spawn(obey(application.reload(), hangup, user1));
    let told_to_stop = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    application.run_until_stopped(told_to_stop).await
}

/// Reloads the settings at SIGHUP, and logs all that the broker does for a minute at SIGUSR1. Never returns.
async fn obey(reload: Reload, mut hangup: Signal, mut user1: Signal) {
    loop {
        tokio::select! {
            _ = hangup.recv() => reload.run().await,
            _ = user1.recv() => {
                // does not fail: it is a level
                let _ = logging::set("debug", Some(VERBOSE));
            }
        }
    }
}

fn text_banner(application: &Application, data_dir: &str, flags: &str) -> String {
    let (url, program) = (application.url(), program());
    let here = format!("http://{}", reachable(application.address()));
    let mut banner = format!(
        "Switchboard {} listens on {url}\n  data      {data_dir}\n  database  {}\n",
        env!("CARGO_PKG_VERSION"),
        application.database()
    );
    if let Some(path) = application.first_password() {
        banner += &format!("  admin     user \"admin\", password in {}\n", path.display());
    } else if !application.has_accounts() {
        banner += &format!(
            "  accounts  none yet; to make one, with the environment of this broker:\n            {program} user create --username NAME --role admin{flags}\n"
        );
    }
    banner += &format!("  docs      {here}/docs\n  try it    {program} demo --url {here}\n");
    banner
}

fn json_banner(application: &Application, data_dir: &str) -> String {
    let fields = json!({
        "message": "listening",
        "url": application.url(),
        "version": env!("CARGO_PKG_VERSION"),
        "data_dir": data_dir,
        "database": application.database().to_string(),
        "initial_admin_password": application.first_password(),
        "has_accounts": application.has_accounts(),
    });
    log_line("INFO", fields) + "\n"
}

fn socket_address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "expected an address and port such as 127.0.0.1:8000")
}

/// The program as it was called, so that commands of the banner can be copied into the same shell.
fn program() -> String {
    let program = std::env::args().next().unwrap_or_default();
    if program.is_empty() { "switchboard".to_owned() } else { super::quoted(&program) }
}

/// An address that this machine can connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
