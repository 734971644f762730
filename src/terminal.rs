//! What the command line and the bench share: lines, tables and messages on the terminal, and the arguments that name a broker
//! and its operator.

#![deny(clippy::print_stdout, clippy::print_stderr)] // they panic when nobody reads

/// `println!` that ends the program quietly when nobody reads any more.
macro_rules! say {
    ($($argument:tt)*) => { $crate::terminal::output::line(format_args!($($argument)*)) };
}
pub(crate) use say;

pub(crate) mod login;
pub(crate) mod output;
pub(crate) mod remote;

/// Arguments of which only their command can tell that they are wrong, alone or together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongArguments(pub(crate) String);
