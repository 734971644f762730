//! The last attempts to reach a gateway.

use std::collections::VecDeque;

/// The number of attempts in the window.
const ATTEMPTS: usize = 20;

/// Round trips in milliseconds of the last 20 attempts; `None` for a lost one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window(VecDeque<Option<f64>>);

impl Window {
    /// The window with these attempts, the oldest first; of too many the last ones.
    pub fn of(attempts: impl IntoIterator<Item = Option<f64>>) -> Self {
        let mut window = Self::default();
        attempts.into_iter().for_each(|attempt| window.push(attempt));
        window
    }

    /// Its attempts, the oldest first.
    pub fn attempts(&self) -> impl Iterator<Item = Option<f64>> {
        self.0.iter().copied()
    }

    /// Adds an attempt.
    pub fn push(&mut self, rtt_ms: Option<f64>) {
        if self.0.len() == ATTEMPTS {
            self.0.pop_front();
        }
        self.0.push_back(rtt_ms);
    }

    /// The last round trip; `None` if the last attempt was lost.
    pub fn last(&self) -> Option<f64> {
        self.0.back().copied().flatten()
    }

    /// The share of lost attempts; `None` before the first attempt.
    pub fn loss_percent(&self) -> Option<f64> {
        let lost = self.0.iter().filter(|attempt| attempt.is_none()).count();
        (!self.0.is_empty()).then(|| lost as f64 * 100.0 / self.0.len() as f64)
    }

    /// The mean round trip of the answered attempts.
    pub fn mean_rtt_ms(&self) -> Option<f64> {
        let answered: Vec<f64> = self.0.iter().copied().flatten().collect();
        (!answered.is_empty()).then(|| answered.iter().sum::<f64>() / answered.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_and_mean_are_of_the_last_twenty_attempts() {
        let mut window = Window::default();
        assert_eq!((window.loss_percent(), window.mean_rtt_ms(), window.last()), (None, None, None));
        window.push(Some(100.0));
        window.push(None);
        assert_eq!((window.loss_percent(), window.mean_rtt_ms(), window.last()), (Some(50.0), Some(100.0), None));
        for _ in 0..18 {
            window.push(Some(1.0));
        }
        assert_eq!(window.loss_percent(), Some(5.0));
        window.push(Some(1.0));
        assert_eq!((window.loss_percent(), window.mean_rtt_ms()), (Some(5.0), Some(1.0)));
        window.push(Some(3.0));
        assert_eq!((window.loss_percent(), window.mean_rtt_ms(), window.last()), (Some(0.0), Some(1.1), Some(3.0)));
    }
}
