//! `switchboard doctor`: what is wrong on this machine for a broker with these settings, and how to mend it.

mod checks;
mod services;

use std::{fmt::Display, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::ConfigArguments;
use crate::{
    settings::Settings,
    terminal::{
        output::{print_json, printable},
        say,
    },
};

#[derive(Args)]
#[command(after_help = "Exit code 0: nothing is wrong; warnings are allowed. 1: something is wrong.")]
pub(super) struct Arguments {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArguments,
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As it should be.
    Good,
    /// A broker works, with less than is possible or with a risk.
    Warning,
    /// A broker does not start, or does not work.
    Wrong,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warning",
            Self::Wrong => "wrong",
        }
    }
}

/// What was found of one subject.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    subject: &'static str,
    state: State,
    text: String,
    /// a command, or what to change
    remedy: Option<String>,
}

impl Finding {
    fn good(subject: &'static str, text: impl Display) -> Self {
        Self { subject, state: State::Good, text: text.to_string(), remedy: None }
    }

    fn warning(subject: &'static str, text: impl Display, remedy: impl Display) -> Self {
        Self { subject, state: State::Warning, text: text.to_string(), remedy: Some(remedy.to_string()) }
    }

    fn wrong(subject: &'static str, text: impl Display, remedy: impl Display) -> Self {
        Self { subject, state: State::Wrong, text: text.to_string(), remedy: Some(remedy.to_string()) }
    }
}

pub(super) async fn run(Arguments { json, config }: Arguments) -> anyhow::Result<ExitCode> {
    let settings = config.load(None)?;
    let findings = examine(&settings).await;
    if json {
        let json = |Finding { subject, state, text, remedy }: &Finding| json!({ "subject": subject, "state": state.as_str(), "text": text, "remedy": remedy });
        let all: Vec<_> = findings.iter().map(json).collect();
        print_json(&json!(all))?;
    } else {
        findings.iter().for_each(print);
    }
    let is_wrong = findings.iter().any(|finding| finding.state == State::Wrong);
    Ok(if is_wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

async fn examine(settings: &Settings) -> Vec<Finding> {
    let mut findings = checks::settings(settings);
    findings.push(checks::open_files(settings));
    findings.push(checks::data_dir(settings));
    findings.push(checks::disk(settings));
    findings.extend(services::database(settings).await);
    findings.extend(services::redis(settings).await);
    findings.push(checks::clock());
    findings.push(checks::ping(settings));
    findings
}

fn print(Finding { subject, state, text, remedy }: &Finding) {
    say!("{:<8} {subject:<11} {}", state.as_str(), printable(text));
    if let Some(remedy) = remedy {
        say!("{:<20} mend it: {}", "", printable(remedy));
    }
}
