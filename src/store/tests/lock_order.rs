//! Many transactions about the same clients at once: whatever each comes to, none fails because of the others.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::TimeDelta;
use futures_util::future::{BoxFuture, join_all};

use super::*;
use crate::{
    domain::{
        audit::Action,
        gateways::{Address, Gateway, Source},
        ids::{ClientKind, GatewayId, RoomId},
        messages::{
            Party,
            change::{Ending, MessageChange, MessageDecided, Take},
        },
        refresh_tokens::{RefreshToken, ShownRefreshToken},
        rooms::{Placed, RoomChange, RoomOutcome, Wanted},
        topics::history::Append,
    },
    store::{ChangeLimits, Changes, DeviceChange, Record, Rotation, StoreError, UserChange},
};

const ROUNDS: usize = 30;

/// Names that were not used before.
#[derive(Default)]
struct Names(AtomicU32);

impl Names {
    fn next(&self) -> RefreshToken {
        let name = self.0.fetch_add(1, Ordering::Relaxed).to_string();
        RefreshToken { hash: format!("hash of {name}"), token: name, expires_at: start() + TimeDelta::days(1) }
    }
}

/// What a transaction came to is not looked at, only whether the database could carry it out.
type Tried<'a> = BoxFuture<'a, Result<(), StoreError>>;

fn tried<'a, T>(transaction: impl Future<Output = Result<T, StoreError>> + Send + 'a) -> Tried<'a> {
    Box::pin(async move { transaction.await.map(drop) })
}

async fn at_once(round: usize, transactions: Vec<Tried<'_>>) {
    for (number, result) in join_all(transactions).await.into_iter().enumerate() {
        if let Err(error) = result {
            panic!("transaction {number} of round {round}: {error}");
        }
    }
}

impl Fixture {
    /// A rotation of this login's token. Of several with the same token the second one ends the login.
    async fn rotated(&self, login: &(Uuid, String), names: &Names) -> Result<Rotation, StoreError> {
        let shown = ShownRefreshToken { hash: login.1.clone(), family: Some(login.0) };
        let until = |_| start() + TimeDelta::days(2);
        self.store.rotate_refresh_token(&shown, |_| Ok::<_, StoreError>(names.next()), until).await
    }
}

fn login(names: &Names, client: ClientId, kind: ClientKind) -> (NewRefreshToken, (Uuid, String)) {
    let (token, family) = (names.next(), Uuid::new_v4());
    let shown = (family, token.hash.clone());
    (NewRefreshToken::of(&token, family, client, kind), shown)
}

#[tokio::test]
async fn registrations_rotations_revocations_and_deletions_of_one_device_wait_for_each_other_in_one_order() {
    let (fixture, names) = (Fixture::with_connections(12).await, Names::default());
    let store = &fixture.store;
    for round in 0..ROUNDS {
        let uuid = ClientId::random();
        let mut logins = Vec::new();
        for number in 0..8 {
            let (mut new, shown) = login(&names, uuid, ClientKind::Device);
            if number < 2 {
                new.expires_at = start() - TimeDelta::days(9);
            }
            store.register_device(uuid, "device", "key", Proof::Key(Some("key")), &new).await.unwrap();
            logins.push(shown);
        }
        let register = |name: &'static str| {
            let (new, _) = login(&names, uuid, ClientKind::Device);
            tried(async move { store.register_device(uuid, name, "key", Proof::Key(Some("key")), &new).await })
        };
        let rename = DeviceChange { name: Some("renamed".to_owned()), ..DeviceChange::default() };
        let mut transactions = vec![
            register("one"),
            register("other"),
            tried(store.revoke_client(uuid)),
            tried(store.end_family(logins[0].0, start() + TimeDelta::days(2), Action::LoggedOut)),
            tried(store.update_device(uuid, rename, None)),
            tried(store.delete_expired_tokens()),
        ];
        transactions.extend(logins.iter().map(|login| tried(fixture.rotated(login, &names))));
        if round % 2 == 0 {
            transactions.push(tried(store.delete_device(uuid)));
        }
        at_once(round, transactions).await;
    }
}

#[tokio::test]
async fn logins_rotations_and_changes_of_users_wait_for_each_other_in_one_order() {
    let (fixture, names) = (Fixture::with_connections(12).await, Names::default());
    let store = &fixture.store;
    let boss = fixture.user("boss", Role::Admin).await;
    for round in 0..ROUNDS {
        let user = fixture.user(&format!("user {round}"), Role::Admin).await;
        let mut logins = Vec::new();
        for _ in 0..4 {
            let (new, shown) = login(&names, user.uuid, ClientKind::User);
            store.insert_login(user.id, 0, new, None).await.unwrap();
            logins.push(shown);
        }
        let password = |user: i64| {
            let hash = names.next().hash;
            tried(store.change_user(user, UserChange::Password { hash, expected: None, kept_login: None }))
        };
        let insert = |address: u8| {
            let (new, _) = login(&names, user.uuid, ClientKind::User);
            tried(async move { store.insert_login(user.id, 0, new, Some([127, 0, 0, address].into())).await })
        };
        let demote = UserChange::Update { role: Some(Role::User), is_active: None };
        let mut transactions = vec![
            insert(1),
            insert(2),
            password(user.id),
            password(boss.id),
            tried(store.revoke_client(user.uuid)),
            tried(store.end_family(logins[0].0, start() + TimeDelta::days(2), Action::LoggedOut)),
            tried(store.change_user(user.id, demote)),
            tried(store.forget_old_logins()),
        ];
        transactions.extend(logins.iter().map(|login| tried(fixture.rotated(login, &names))));
        if round % 2 == 0 {
            transactions.push(tried(store.change_user(user.id, UserChange::Delete)));
        }
        at_once(round, transactions).await;
    }
}

#[tokio::test]
async fn the_journal_and_deletions_of_devices_and_gateways_wait_for_each_other_in_one_order() {
    let fixture = Fixture::with_connections(12).await;
    let store = &fixture.store;
    for round in 0..ROUNDS {
        let devices: Vec<_> = (0..3).map(|_| ClientId::random()).collect();
        let gateway = Gateway {
            id: GatewayId(1),
            name: "gateway".to_owned(),
            address: Address::parse("127.0.0.1").unwrap(),
            parent_id: None,
            max_rtt_ms: None,
            max_loss_percent: None,
            source: Source::Api,
        };
        store.create_gateway(&gateway, None).await.unwrap();
        for uuid in &devices {
            fixture.device(*uuid).await;
            let behind = DeviceChange { gateway_id: Some(Some(gateway.id)), ..DeviceChange::default() };
            store.update_device(*uuid, behind, None).await.unwrap();
        }
        let who = |number: usize| Participant { client: devices[number], user_id: None, username: "device".into() };
        let create = |number: usize, name: &str| RoomChange::Create {
            creator: who(number),
            name: format!("{name} {round}"),
            description: None,
            is_private: number == 0,
        };
        let created = [create(0, "a"), create(1, "b"), create(2, "c")];
        let created = store
            .write_journal(&[], Changes { rooms: &created, ..Changes::default() }, ChangeLimits::default())
            .await
            .unwrap();
        let rooms: Vec<RoomId> = created
            .rooms
            .unwrap()
            .into_iter()
            .map(|outcome| match outcome {
                Ok(Placed { outcome: RoomOutcome::Created(room), .. }) => room.id,
                other => panic!("{other:?}"),
            })
            .collect();
        let join =
            |room: usize, number| RoomChange::Join { room: rooms[room], who: who(number), wanted: Wanted::Nothing };
        let seen = |number: usize| Record::DeviceSeen { device: devices[number], incarnation: 0, at: start() };
        let transition = || {
            use crate::domain::gateways::{Status, Transition};
            let transition = Transition { at: start(), status: Status::Connected, reason: None };
            Record::Gateway(crate::store::GatewayRecord::Transition { gateway: gateway.id, transition })
        };
        let write = |records: Vec<Record>, changes: Vec<RoomChange>| {
            tried(async move {
                store
                    .write_journal(&records, Changes { rooms: &changes, ..Changes::default() }, ChangeLimits::default())
                    .await
            })
        };
        let rename = || DeviceChange { name: Some(format!("renamed {round}")), ..DeviceChange::default() };
        at_once(
            round,
            vec![
                write(vec![seen(2), seen(0), transition()], vec![join(1, 0), join(2, 1), create(1, "d")]),
                write(vec![seen(1)], vec![join(2, 0), join(1, 2), create(2, "e")]),
                write(vec![transition(), seen(1)], vec![create(2, "f"), join(1, 0)]),
                tried(store.update_device(devices[1], rename(), None)),
                tried(store.update_device(devices[2], rename(), None)),
                tried(store.delete_device(devices[0])),
                tried(store.delete_device(devices[round % 2 + 1])),
                tried(store.delete_gateway(gateway.id, None)),
            ],
        )
        .await;
    }
}

#[tokio::test]
async fn acknowledged_messages_and_deletions_of_devices_wait_for_each_other_in_one_order() {
    let fixture = Fixture::with_connections(12).await;
    let store = &fixture.store;
    fixture.topic("kept", ClientId::random(), 5).await;
    for round in 0..ROUNDS {
        let devices: Vec<_> = (0..3).map(|_| ClientId::random()).collect();
        for uuid in &devices {
            fixture.device(*uuid).await;
        }
        let message = |number: usize, msgid: usize| {
            let from = Party { client: devices[(number + 1) % 3], incarnation: 0 };
            MessageChange::Accept(messages::message(from, devices[number], &msgid.to_string()))
        };
        let write = |changes: Vec<MessageChange>| async move {
            // a publication, too: its bytes have the same counter
            let appends = [Append { topic: "kept".into(), message: Some("x".into()) }];
            let changes = Changes { appends: &appends, messages: &changes, ..Changes::default() };
            store.write_journal(&[], changes, ChangeLimits::default()).await
        };
        let accepted = write((0..9).map(|number| message(number % 3, number)).collect()).await.unwrap();
        let ids: Vec<_> = accepted
            .messages
            .unwrap()
            .into_iter()
            .map(|decided| match decided {
                MessageDecided::Accepted(Ok(accepted)) => accepted.id,
                other => panic!("{other:?}"),
            })
            .collect();
        let end =
            |number: usize| MessageChange::End { id: ids[number], to: devices[number % 3], why: Ending::Cancelled };
        let take = |number: usize| {
            MessageChange::Take(Take {
                to: devices[number],
                except: Vec::new(),
                held: Vec::new(),
                most: 10,
                bytes: 1_000,
                socket: Some(0),
            })
        };
        write(vec![end(6), end(7), end(8)]).await.unwrap();
        at_once(
            round,
            vec![
                tried(write(vec![message(2, 20), message(0, 21), message(0, 6), end(4), take(1)])),
                tried(write(vec![message(1, 22), end(0), MessageChange::Told(ids[8]), take(2)])),
                tried(write(vec![take(0), MessageChange::Told(ids[6]), end(5), message(2, 20), message(1, 7)])),
                tried(write(vec![
                    MessageChange::Told(ids[8]),
                    MessageChange::Told(ids[7]),
                    end(3),
                    message(1, 22),
                    message(2, 8),
                ])),
                tried(write(vec![message(0, 6), message(1, 7), message(2, 8)])),
                tried(store.delete_device(devices[0])),
                tried(store.delete_device(devices[round % 2 + 1])),
                tried(store.delete_messages_ended_before(start() + TimeDelta::days(1))),
            ],
        )
        .await;
    }
}
