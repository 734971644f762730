//! The end: clients are told, and what they were told is written.

use std::time::Duration;

use actix::MailboxError;
use actix_web::dev::ServerHandle;

use super::Application;
use crate::{delivery::CloseAll, protocol::close_code::CloseCode, state::Broker};

/// How long a stopping server waits, first for the last writes, then for the database's connections to close.
const PATIENCE: Duration = Duration::from_secs(5);

impl Application {
    /// Serves until `told_to_stop` completes, and for `http.shutdown_delay_secs` more or until it completes again. Then drains: new
    /// sockets are refused, all sockets are closed with 1001, and the records that are queued are written to the database. When
    /// `told_to_stop` completes once more, the process ends at once.
    ///
    /// # Errors
    /// The HTTP server failed or ended by itself.
    pub async fn run_until_stopped(self, mut told_to_stop: impl AsyncFnMut() + 'static) -> anyhow::Result<()> {
        let handle = self.server.handle();
        let mut server = actix_web::rt::spawn(self.server);
        let stopping = async {
            told_to_stop().await;
            self.broker.begin_stopping();
            let delay = Duration::from_secs(self.broker.settings.load().http.shutdown_delay_secs);
            if !delay.is_zero() {
                tracing::info!(?delay, "stopping after http.shutdown_delay_secs");
                // a second signal ends the delay
                let _ = tokio::time::timeout(delay, told_to_stop()).await;
            }
        };
        tokio::select! {
            () = stopping => {}
            ended = &mut server => {
                ended??;
                anyhow::bail!("the HTTP server ended by itself");
            }
        }
        actix_web::rt::spawn(async move {
            told_to_stop().await;
            std::process::exit(1);
        });
        self.broker.begin_draining();
        self.broker.cluster.begin_to_leave();
        self.broker.supervision.stop();
        close_sessions(&self.broker, &handle).await;
        server.await??;
        write_the_last(&self.broker).await;
        self.broker.gateways.leave().await;
        self.broker.cluster.leave().await;
        // background tasks may still use connections
        if tokio::time::timeout(PATIENCE, self.store.close()).await.is_err() {
            tracing::warn!("the database did not close its connections in time");
        }
        self.arbiters.stop();
        tracing::info!("stopped");
        Ok(())
    }
}

/// Closes all sessions, then the server. Sessions that take too long are cut.
async fn close_sessions(broker: &Broker, server: &ServerHandle) {
    let (http, relays) = (&broker.settings.load().http, &broker.relays);
    tracing::info!(sessions = relays.session_count(), "draining");
    let spread = Duration::from_secs(http.close_spread_secs.min(http.drain_secs));
    relays.close_all(CloseAll { code: CloseCode::GoingAway, spread });
    let empty = async {
        while relays.session_count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(http.drain_secs), empty).await.is_err() {
        tracing::warn!(sessions = relays.session_count(), "sessions left after http.drain_secs are cut");
    }
    let graceful = relays.session_count() == 0;
    server.stop(graceful).await;
}

/// Has acknowledged changes reach the database.
async fn write_the_last(broker: &Broker) {
    let written = async {
        // the Registry has handled the end of every session
        broker.clients.settled().await?;
        broker.commands.record_begun().await?;
        broker.gateways.stop_probing().await?;
        broker.audit.record_the_last();
        // retried, since the database may be back within PATIENCE
        while broker.journal.flush().await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok::<_, MailboxError>(())
    };
    if !matches!(tokio::time::timeout(PATIENCE, written).await, Ok(Ok(()))) {
        tracing::error!("the last records could not be written to the database in time");
    }
}
