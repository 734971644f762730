//! The broker of another release: it understands the versions of envelopes that `ENVELOPES` names, such as `1-1`, and no others.
//! For tests of nodes of different releases.

use std::{ops::RangeInclusive, process::ExitCode};

fn versions() -> Option<RangeInclusive<u8>> {
    let text = std::env::var("ENVELOPES").ok()?;
    let (first, last) = text.split_once('-')?;
    Some(first.parse().ok()?..=last.parse().ok()?)
}

fn main() -> ExitCode {
    match versions() {
        Some(versions) => switchboard::cli::main_with_envelopes(versions),
        None => {
            eprintln!("set ENVELOPES to the versions of envelopes that it understands, such as 1-1");
            ExitCode::FAILURE
        }
    }
}
