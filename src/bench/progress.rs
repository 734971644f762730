//! The progress line on the terminal. Nothing is shown if stderr is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// The progress line.
#[derive(Clone)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    pub(super) fn new() -> Self {
        Self(ProgressBar::new(0))
    }

    /// Shows a step without parts.
    pub(super) fn wait(&self, what: &'static str) {
        self.style("{spinner} {msg}");
        self.0.set_message(what);
        self.0.tick();
    }

    /// Shows a step with `parts` parts.
    pub(super) fn step(&self, what: &'static str, parts: usize) {
        self.style("{msg} {pos} of {len}  {bar:40}");
        self.0.set_length(parts as u64);
        self.0.set_position(0);
        self.0.set_message(what);
    }

    /// Counts one more part as done.
    pub(super) fn part(&self) {
        self.0.inc(1);
    }

    /// Sets the number of parts that are done.
    pub(super) fn at(&self, parts: usize) {
        self.0.set_position(parts as u64);
    }

    /// Shows the elapsed and the whole time of the benchmark, and its current figures.
    pub(super) fn running(&self, elapsed: Duration, whole: Duration, doing: String) {
        if self.0.is_hidden() {
            return;
        }
        self.style("{bar:40}  {msg}");
        self.0.set_length(whole.as_millis() as u64);
        self.0.set_position(elapsed.as_millis() as u64);
        self.0.set_message(doing);
    }

    /// Removes the line.
    pub(super) fn done(&self) {
        self.0.finish_and_clear();
    }

    fn style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }
}
