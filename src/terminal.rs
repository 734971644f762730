//! Shared by the command line and the bench: output on the terminal, and the arguments for the broker's URL and the
//! operator's credentials.

#![deny(clippy::print_stdout, clippy::print_stderr)] // these macros panic when the reader has closed the pipe

/// `println!` that ends the program silently when the reader has closed the pipe.
macro_rules! say {
    ($($argument:tt)*) => { $crate::terminal::output::line(format_args!($($argument)*)) };
}
pub(crate) use say;

pub(crate) mod login;
pub(crate) mod output;
pub(crate) mod remote;

/// Wrong arguments that only the command itself detects, not the parser. Exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct WrongArguments(pub(crate) String);
