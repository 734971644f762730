//! Commands to devices that are deleted, and whose UUIDs are registered again.

use serde_json::json;

use super::*;
use crate::{
    domain::{
        ids::{ClientId, ClientKind},
        refresh_tokens::RefreshToken,
        registration::Proof,
    },
    store::NewRefreshToken,
};

impl World {
    /// Registers a device, or the next one with its UUID.
    async fn registered(&self, uuid: ClientId) -> Arc<Account> {
        let hash = uuid::Uuid::new_v4().to_string();
        let refresh = RefreshToken { token: hash.clone(), hash, expires_at: Utc::now() + TimeDelta::days(1) };
        let refresh = NewRefreshToken::of(&refresh, uuid::Uuid::new_v4(), uuid, ClientKind::Device);
        let device = self.store.register_device(uuid, "pump", "key", Proof::NotAsked, &refresh).await;
        Arc::new(device.unwrap().unwrap().into())
    }

    /// What the Registry tells after a deletion.
    fn tell_deleted(&self, deleted: Account) {
        let (client, incarnation) = (deleted.id, deleted.incarnation());
        self.commands.recipient().do_send(ClientDeleted { client, incarnation });
    }

    async fn delete(&self, device: &Account) -> Account {
        self.store.delete_device(device.id).await.unwrap().unwrap().into()
    }

    /// Of a command that may wait.
    fn patient(&self, targets: &[&Arc<Account>]) -> Prepared {
        let order = Order { deliver_within: Some(TimeDelta::hours(1)), ..self.order(targets) };
        self.commands.check(order, true).unwrap()
    }

    async fn has_ended(&self, given: Given) -> Vec<TargetState> {
        match within(self.commands.outcome(given, PATIENCE)).await.unwrap() {
            Outcome::Finished(command) => states(&command),
            Outcome::Stored { page, .. } => panic!("it goes on: {:?}", states(&page.command)),
        }
    }
}

#[actix_web::test]
async fn a_command_that_begins_after_the_deletion_of_its_target_ends_at_once() {
    let world = World::new().await;
    let key = |number: i32| IdempotencyKey { key: number.to_string(), digest: String::new() };
    for key in [None, Some(key(1))] {
        let (pump, valve) = (world.registered(ClientId::random()).await, world.registered(ClientId::random()).await);
        // both are there when the command is prepared
        let prepared = world.patient(&[&pump, &valve]);
        let deleted = world.delete(&pump).await;
        world.tell_deleted(deleted);
        let given = world.commands.give(prepared, key).await.unwrap();
        let id = given.id;
        let of_pump = |command: &Command| {
            let state = |of: &Account| command.targets.iter().find(|target| target.client == of.id).unwrap().state;
            (state(&pump), state(&valve))
        };
        assert_eq!(of_pump(&world.recorded(id).await), (TargetState::Offline, TargetState::Queued));
        // the next device with the UUID gets its own commands alone
        let next = world.registered(pump.id).await;
        let mut peer = world.connect(&next).await;
        let own = world.give(world.order(&[&next])).await;
        let frame = peer.next().await;
        assert_eq!(frame["command_id"], json!(own.id.to_string()));
        world.answer(&next, &frame, "1");
        assert_eq!(world.has_ended(own).await, [TargetState::Succeeded]);
        let mut peer = world.connect(&valve).await;
        let frame = peer.next().await;
        world.answer(&valve, &frame, "1");
        let expected = (TargetState::Offline, TargetState::Succeeded);
        let Outcome::Finished(command) = within(world.commands.outcome(given, PATIENCE)).await.unwrap() else {
            panic!("it has ended")
        };
        assert_eq!(of_pump(&command), expected);
    }
}

#[actix_web::test]
async fn a_command_reaches_the_registration_that_it_was_given_to_or_none() {
    let world = World::new().await;
    let old = world.registered(ClientId::random()).await;
    let (stored, waiting) = (world.commands.check(world.order(&[&old]), true).unwrap(), world.patient(&[&old]));
    world.delete(&old).await;
    let new = world.registered(old.id).await;
    // nothing has told the CommandDispatcher of the deletion
    let mut peer = world.connect(&new).await;
    let unstored = world.run(world.order(&[&old]));
    assert_eq!(states(&within(unstored).await.unwrap().unwrap()), [TargetState::Offline]);
    for prepared in [stored, waiting] {
        let given = world.commands.give(prepared, None).await.unwrap();
        assert_eq!(world.has_ended(given).await, [TargetState::Offline]);
    }
    let given = world.give(world.order(&[&new])).await;
    assert_eq!(peer.next().await["command_id"], json!(given.id.to_string()));

    // a socket of the earlier registration that opens late gets nothing of the present one
    let mut late = world.connect(&old).await;
    let given = world.commands.give(world.patient(&[&new]), None).await.unwrap();
    assert_eq!(states(&world.recorded(given.id).await), [TargetState::Queued]);
    let mut peer = world.connect(&new).await;
    let frame = peer.next().await;
    assert_eq!(frame["command_id"], json!(given.id.to_string()));
    world.relays.deliver(&late.session, &[br#"{"last":true}"#]);
    assert_eq!(late.next().await, json!({ "last": true }), "nothing was sent before");
}

#[actix_web::test]
async fn after_a_restart_what_was_queued_for_a_deleted_device_ends() {
    let mut world = World::new().await;
    let (pump, valve) = (world.registered(ClientId::random()).await, world.registered(ClientId::random()).await);
    let of_pump = world.commands.give(world.patient(&[&pump]), None).await.unwrap().id;
    let of_valve = world.commands.give(world.patient(&[&valve]), None).await.unwrap().id;
    // the process ends between the deletion and the ends of the commands
    world.delete(&pump).await;
    world.registered(pump.id).await;
    world.restart().await;
    assert_eq!(states(&world.recorded(of_pump).await), [TargetState::Offline]);
    assert_eq!(states(&world.recorded(of_valve).await), [TargetState::Queued]);
}
