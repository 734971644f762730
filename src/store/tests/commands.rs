use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    domain::{
        commands::{Command, Target, TargetState},
        ids::{ClientKind, CommandId},
    },
    store::{ChangeLimits, Changes, Record},
};

fn command(requester: ClientId, targets: usize) -> Command {
    let target = |number| Target::new(ClientId::random(), ClientKind::Device, format!("device {number}"), None);
    Command {
        id: CommandId::new(start()),
        requested_by: requester,
        requester: "anna".to_owned(),
        method: "GET".to_owned(),
        url: "/".to_owned(),
        data: Some("{}".into()),
        timeout: Duration::from_secs(5),
        deliver_until: None,
        created_at: start(),
        finished_at: None,
        version: 0,
        targets: (0..targets).map(target).collect(),
    }
}

async fn stored(store: &Store, id: CommandId) -> Option<Command> {
    store.command(id, 0, usize::MAX).await.unwrap().map(|page| page.command)
}

fn progress(command: &Command, version: i64) -> Record {
    Record::Progress {
        command: command.id,
        client: command.targets[0].client,
        version,
        at: start(),
        progress: version.to_string().into(),
    }
}

#[tokio::test]
async fn of_several_records_of_one_target_the_last_counts() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let mut given = command(ClientId::random(), 2);
    let mut records = vec![Record::Whole(Arc::new(given.clone()))];
    for (version, state) in [(1, TargetState::Sent), (2, TargetState::InProgress), (3, TargetState::Succeeded)] {
        let target = &mut given.targets[0];
        (target.state, target.version) = (state, version);
        records.push(Record::Target { command: given.id, target: target.clone() });
    }
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();
    let states = async || {
        let mut targets = stored(store, given.id).await.unwrap().targets;
        targets.sort_by_key(|target| target.name.clone());
        targets.into_iter().map(|target| (target.state, target.version)).collect::<Vec<_>>()
    };
    assert_eq!(states().await, [(TargetState::Succeeded, 3), (TargetState::Queued, 0)]);
    assert_eq!(store.unfinished_commands(None).await.unwrap().len(), 1);
    (given.finished_at, given.targets[1].state) = (Some(start()), TargetState::TimedOut);
    store
        .write_journal(&[Record::Whole(Arc::new(given.clone()))], Changes::default(), ChangeLimits::default())
        .await
        .unwrap();
    assert_eq!(states().await, [(TargetState::Succeeded, 3), (TargetState::TimedOut, 0)]);
    assert!(store.unfinished_commands(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_late_result_is_kept_once_and_only_of_a_target_that_could_not_answer_in_time() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let mut given = command(ClientId::random(), 2);
    (given.targets[0].state, given.targets[1].state) = (TargetState::TimedOut, TargetState::Cancelled);
    let late = |target: usize, result: &str| Record::LateResult {
        command: given.id,
        client: given.targets[target].client,
        result: result.into(),
    };
    let records = [Record::Whole(Arc::new(given.clone())), late(0, "1"), late(0, "2"), late(1, "3")];
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();
    let mut targets = stored(store, given.id).await.unwrap().targets;
    targets.sort_by_key(|target| target.name.clone());
    let late: Vec<_> = targets.iter().map(|target| target.late_result.as_deref()).collect();
    assert_eq!(late, [Some("1"), None]);
}

#[tokio::test]
async fn progress_that_is_written_twice_is_there_once() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let given = command(ClientId::random(), 1);
    let records = [Record::Whole(Arc::new(given.clone())), progress(&given, 1), progress(&given, 2)];
    store.write_journal(&records, Changes::default(), ChangeLimits::default()).await.unwrap();
    store
        .write_journal(&[progress(&given, 2), progress(&given, 3)], Changes::default(), ChangeLimits::default())
        .await
        .unwrap();
    let kept = store.progress_of(given.id, 0, usize::MAX).await.unwrap();
    assert_eq!(kept.iter().map(|report| report.version).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn an_idempotency_key_stands_for_one_command_of_its_requester() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (anna, bert) = (ClientId::random(), ClientId::random());
    let (first, second, third) = (command(anna, 1), command(anna, 1), command(bert, 1));
    let (one, other) = tokio::join!(
        store.create_command_once(&first, "key", "digest"),
        store.create_command_once(&second, "key", "digest")
    );
    let (created, existing): (Vec<_>, Vec<_>) = [(first.id, one.unwrap()), (second.id, other.unwrap())]
        .into_iter()
        .partition(|(_, existing)| existing.is_none());
    assert_eq!((created.len(), existing.len()), (1, 1));
    let known = existing[0].1.as_ref().unwrap();
    assert_eq!((known.id, known.body_digest.as_str()), (created[0].0, "digest"));
    assert!(stored(store, existing[0].0).await.is_none());
    assert!(store.create_command_once(&third, "key", "digest").await.unwrap().is_none());
    let found = store.command_of_key(bert, "key").await.unwrap();
    assert_eq!(found.map(|found| found.id), Some(third.id));
}
