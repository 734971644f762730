//! What becomes of a stored command when the process that handled it has ended.

use chrono::{DateTime, Utc};

use super::{Command, Target, TargetState};
use crate::domain::ids::ClientId;

/// A command after the end of the process that handled it.
#[derive(Debug)]
pub struct Recovered {
    /// The command. It is handled further if it is not finished.
    pub command: Command,
    /// The targets that ended.
    pub ended: Vec<Target>,
    /// Those of them that may still answer, too late.
    pub may_answer_late: Vec<ClientId>,
}

/// Recovers a stored command that is not finished. What was queued stays queued until its time is over. What had been sent is
/// disconnected, since its socket went with the process; so is what was queued without waiting, since it was about to be
/// sent, and may have been.
pub fn recover(mut command: Command, now: DateTime<Utc>) -> Recovered {
    // greater than any version that was reported: the row of the command is older than those of its targets
    let newest = command.targets.iter().map(|target| target.version).max().unwrap_or(0).max(command.version);
    command.version = newest + 1;
    let (mut ended, mut may_answer_late) = (Vec::new(), Vec::new());
    for target in command.targets.iter_mut().filter(|target| !target.state.is_final()) {
        let state = match (target.state, command.deliver_until) {
            (TargetState::Queued, Some(until)) if until > now => continue,
            (TargetState::Queued, Some(_)) => TargetState::Expired,
            _ => {
                may_answer_late.push(target.client);
                TargetState::Disconnected
            }
        };
        target.end(state, now);
        target.version = command.version;
        ended.push(target.clone());
    }
    if command.targets.iter().all(|target| target.state.is_final()) {
        command.finished_at = Some(now);
    }
    Recovered { command, ended, may_answer_late }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeDelta;

    use super::*;
    use crate::domain::ids::{ClientKind, CommandId};

    /// A stored command with a target in each of these states.
    fn stored(now: DateTime<Utc>, deliver_within: Option<i64>, states: &[TargetState]) -> Command {
        let target = |(number, state): (usize, &TargetState)| {
            let mut target = Target::new(ClientId::random(), ClientKind::Device, String::new(), None);
            target.state = *state;
            target.version = number as i64;
            target
        };
        Command {
            id: CommandId::new(now),
            requested_by: ClientId::random(),
            requester: String::new(),
            method: "GET".to_owned(),
            url: "/".to_owned(),
            data: None,
            timeout: Duration::from_secs(30),
            deliver_until: deliver_within.map(|secs| now + TimeDelta::seconds(secs)),
            created_at: now - TimeDelta::seconds(60),
            finished_at: None,
            version: 1,
            targets: states.iter().enumerate().map(target).collect(),
        }
    }

    fn states(command: &Command) -> Vec<TargetState> {
        command.targets.iter().map(|target| target.state).collect()
    }

    #[test]
    fn what_was_queued_stays_queued_and_what_had_been_sent_is_disconnected() {
        use TargetState::{Cancelled, Disconnected, InProgress, Queued, Sent, Succeeded};
        let now = Utc::now();
        let before = stored(now, Some(60), &[Queued, Sent, InProgress, Succeeded, Cancelled]);
        let Recovered { command, ended, may_answer_late } = recover(before.clone(), now);
        assert_eq!(states(&command), [Queued, Disconnected, Disconnected, Succeeded, Cancelled]);
        assert_eq!(command.finished_at, None);
        let clients: Vec<_> = ended.iter().map(|target| target.client).collect();
        assert_eq!(clients, [before.targets[1].client, before.targets[2].client]);
        assert_eq!(may_answer_late, clients);
        assert!(ended.iter().all(|target| target.ended_at == Some(now)));
        // what has ended or waits is as it was
        assert_eq!(command.targets[3].version, before.targets[3].version);
        assert_eq!(command.targets[0].ended_at, None);
    }

    #[test]
    fn what_has_waited_in_vain_expires_and_is_not_expected_to_answer() {
        let now = Utc::now();
        for deliver_within in [0, -60] {
            let recovered = recover(stored(now, Some(deliver_within), &[TargetState::Queued]), now);
            assert_eq!(states(&recovered.command), [TargetState::Expired]);
            assert_eq!(recovered.command.finished_at, Some(now));
            assert!(recovered.may_answer_late.is_empty());
        }
    }

    #[test]
    fn what_was_not_to_wait_may_have_been_sent() {
        let now = Utc::now();
        let recovered = recover(stored(now, None, &[TargetState::Queued, TargetState::Sent]), now);
        assert_eq!(states(&recovered.command), [TargetState::Disconnected; 2]);
        assert_eq!((recovered.may_answer_late.len(), recovered.command.finished_at), (2, Some(now)));
    }

    #[test]
    fn a_command_whose_targets_had_all_ended_is_finished() {
        let now = Utc::now();
        let recovered = recover(stored(now, None, &[TargetState::Succeeded, TargetState::Failed]), now);
        assert_eq!(recovered.command.finished_at, Some(now));
        assert!(recovered.ended.is_empty() && recovered.may_answer_late.is_empty());
    }

    #[test]
    fn the_version_is_beyond_all_that_was_reported() {
        let now = Utc::now();
        let recovered = recover(stored(now, None, &[TargetState::Succeeded; 5]), now);
        assert_eq!(recovered.command.version, 5);
        let mut newer = stored(now, None, &[TargetState::Sent]);
        newer.version = 9;
        let recovered = recover(newer, now);
        assert_eq!((recovered.command.version, recovered.ended[0].version), (10, 10));
    }
}
