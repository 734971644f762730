//! Who is asking: accounts and their tokens, registration, logins.

pub mod accounts;
mod error;
pub mod hs256;
pub mod login;
pub mod passwords;
pub mod registration;
pub mod tokens;

pub use error::{AuthError, IdentityError, LookupError};

use futures_util::future::LocalBoxFuture;
use tracing::Instrument;

use crate::{domain::accounts::AccountChange, store::patience};

/// The sessions of clients, which depend on accounts and tokens.
pub trait Sessions: Send + Sync {
    /// Closes those that a change concerns, on all nodes, and ends the subscriptions that the account may not have any more.
    fn apply(&self, change: AccountChange) -> LocalBoxFuture<'_, ()>;
}

/// Does something to its end, also when the caller hangs up: see [`patience::undisturbed`].
async fn undisturbed<T: 'static>(work: impl Future<Output = Result<T, AuthError>> + 'static) -> Result<T, AuthError> {
    patience::undisturbed(work.in_current_span()).await?
}
