//! What the terminal shows while a benchmark runs. Nothing, where stderr is no terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One line that changes.
#[derive(Clone)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        Self(ProgressBar::new(0))
    }

    /// A step that takes its time.
    pub(super) fn wait(&self, what: &'static str) {
        self.style("{spinner} {msg}");
        self.0.set_message(what);
        self.0.tick();
    }

    /// A step with so many parts.
    pub(super) fn step(&self, what: &'static str, parts: usize) {
        self.style("{msg} {pos} of {len}  {bar:40}");
        self.0.set_length(parts as u64);
        self.0.set_position(0);
        self.0.set_message(what);
    }

    /// A part of the step is done.
    pub(super) fn part(&self) {
        self.0.inc(1);
    }

    /// So many parts of the step are done.
    pub(super) fn at(&self, parts: usize) {
        self.0.set_position(parts as u64);
    }

    /// The benchmark goes on: how far of how long, and what it does now.
    pub(super) fn running(&self, elapsed: Duration, whole: Duration, doing: String) {
        if self.0.is_hidden() {
            return;
        }
        self.style("{bar:40}  {msg}");
        self.0.set_length(whole.as_millis() as u64);
        self.0.set_position(elapsed.as_millis() as u64);
        self.0.set_message(doing);
    }

    /// The line goes away.
    pub(super) fn done(&self) {
        self.0.finish_and_clear();
    }

    fn style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }
}
