//! `switchboard serve`

use std::io::Write;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{ConfigArguments, start_logging};
use crate::app::Application;

#[derive(Args)]
pub(super) struct Arguments {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Option<String>,
    #[command(flatten)]
    config: ConfigArguments,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let settings = arguments.config.load(arguments.bind)?;
    start_logging(&settings.log)?;
    let data_dir = settings.storage.data_dir.clone();
    let database = if settings.storage.database_url.is_empty() {
        format!("SQLite in {}", data_dir.join("switchboard.db").display())
    } else {
        "as database_url says".to_owned()
    };
    // before anyone can send one
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);

    let application = Application::build(settings).await?;
    let url = application.url();
    let mut banner = format!(
        "Switchboard {} listens on {url}\n  data      {}\n  database  {database}\n",
        env!("CARGO_PKG_VERSION"),
        data_dir.display()
    );
    if let Some(path) = application.first_password() {
        banner += &format!("  admin     user \"admin\", password in {}\n", path.display());
    }
    banner += &format!("  docs      {url}/docs\n  try it    switchboard demo --url {url}\n");
    // whoever started us may have closed our stdout: no reason to die
    let _ = std::io::stdout().write_all(banner.as_bytes());

    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // who asks twice will not wait
        actix_web::rt::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        });
    };
    application.run_until_stopped(stop).await
}
