pub use super::devices::Entity as Devices;
pub use super::refresh_tokens::Entity as RefreshTokens;
pub use super::revocations::Entity as Revocations;
pub use super::topics::Entity as Topics;
pub use super::users::Entity as Users;
