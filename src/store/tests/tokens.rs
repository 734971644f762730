use super::*;
use crate::{
    domain::{
        audit::Action,
        ids::ClientKind,
        refresh_tokens::{RefreshToken, ShownRefreshToken},
        registration::{DeviceToken, Proof},
    },
    store::{NewRefreshToken, Rotation, StoreError},
};

fn token(name: &str) -> RefreshToken {
    RefreshToken { token: name.to_owned(), hash: format!("hash of {name}"), expires_at: start() + TimeDelta::days(1) }
}

impl Fixture {
    /// A user with a login whose refresh token has this name.
    async fn login(&self, name: &str) -> (User, Uuid) {
        let (user, family) = (self.user("anna", Role::User).await, Uuid::new_v4());
        let new = NewRefreshToken::of(&token(name), family, user.uuid, ClientKind::User);
        assert!(self.store.insert_login(user.id, 0, new, None).await.unwrap());
        (user, family)
    }

    async fn rotate(&self, family: Uuid, shown: &str, next: &str) -> Rotation {
        let shown = ShownRefreshToken { hash: token(shown).hash, family: Some(family) };
        let make = |_| Ok::<_, StoreError>(token(next));
        self.store.rotate_refresh_token(&shown, make, |_| start() + TimeDelta::days(2)).await.unwrap()
    }
}

#[tokio::test]
async fn a_refresh_token_is_used_once_and_its_family_ends_when_it_comes_again() {
    let fixture = Fixture::new().await;
    let (user, family) = fixture.login("first").await;
    match fixture.rotate(family, "first", "second").await {
        Rotation::Rotated { family: of, owner, successor } => {
            assert_eq!((of, owner.id, successor.token.as_str()), (family, user.uuid, "second"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(fixture.rotate(family, "second", "third").await, Rotation::Rotated { .. }));
    let reused = fixture.rotate(family, "first", "forged").await;
    assert!(matches!(reused, Rotation::Reused { family: of, kind: ClientKind::User } if of == family), "{reused:?}");
    assert!(matches!(fixture.rotate(family, "third", "fourth").await, Rotation::Unknown));
    let revoked = fixture.store.revocations(None).await.unwrap();
    assert_eq!(revoked, [(family, start() + TimeDelta::days(2))]);
}

#[tokio::test]
async fn of_two_who_show_the_same_token_at_once_one_is_a_thief() {
    let fixture = Fixture::new().await;
    let (_, family) = fixture.login("first").await;
    let (one, other) = tokio::join!(fixture.rotate(family, "first", "one"), fixture.rotate(family, "first", "other"));
    let rotated = [&one, &other].into_iter().filter(|came| matches!(came, Rotation::Rotated { .. })).count();
    let reused = [&one, &other].into_iter().filter(|came| matches!(came, Rotation::Reused { .. })).count();
    assert_eq!((rotated, reused), (1, 1), "{one:?} {other:?}");
}

#[tokio::test]
async fn a_token_that_has_expired_is_unknown() {
    let fixture = Fixture::new().await;
    let (_, family) = fixture.login("first").await;
    fixture.clock.advance(std::time::Duration::from_secs(86_400));
    assert!(matches!(fixture.rotate(family, "first", "second").await, Rotation::Unknown));
}

#[tokio::test]
async fn versions_go_up_with_each_change_that_others_have_to_hear_of() {
    let fixture = Fixture::new().await;
    let store = &fixture.store;
    let (user, family) = fixture.login("first").await;
    let before = store.last_change().await.unwrap();
    store.end_family(family, start() + TimeDelta::days(2), Action::LoggedOut).await.unwrap();
    assert!(store.revoke(Uuid::new_v4(), start() + TimeDelta::days(1)).await.unwrap());
    let (account, live) = store.revoke_client(user.uuid).await.unwrap().unwrap();
    assert_eq!((account.generation, live), (1, 0));
    let last = store.last_change().await.unwrap();
    assert_eq!(last, before + 3);
    assert_eq!(store.revocations(Some(before)).await.unwrap().len(), 2);
    let changed = store.users_changed(before, last).await.unwrap();
    assert_eq!(changed.iter().map(|user| (user.uuid, user.version)).collect::<Vec<_>>(), [(user.uuid, last)]);
    // what can't be used any more is deleted, revocations a day later than tokens
    fixture.clock.advance(std::time::Duration::from_secs(86_400));
    store.delete_expired_tokens().await.unwrap();
    assert_eq!(store.revocations(None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_is_revoked_after_it_was_checked_proves_nothing() {
    let Fixture { store, .. } = &Fixture::new().await;
    let (device, family, id) = (ClientId::random(), Uuid::new_v4(), Uuid::new_v4());
    let login = |name: &str, family| NewRefreshToken::of(&token(name), family, device, ClientKind::Device);
    let shown = DeviceToken { id, family, generation: 0 };
    let register = async |name: &str, token| {
        let login = login(name, Uuid::new_v4());
        store.register_device(device, "device", name, Proof::Token(token), &login).await.unwrap().is_some()
    };
    let first = login("first", family);
    store.register_device(device, "device", "first", Proof::Key(None), &first).await.unwrap().unwrap();
    assert!(register("second", shown).await, "a token that counts is proof");
    for (revoked, name) in [(id, "third"), (family, "fourth")] {
        let other = DeviceToken { id: Uuid::new_v4(), family: Uuid::new_v4(), generation: 0 };
        store.revoke(revoked, start() + TimeDelta::days(1)).await.unwrap();
        assert!(!register(name, shown).await);
        assert!(register(name, other).await, "another login is not concerned");
    }
    let other = DeviceToken { id: Uuid::new_v4(), family: Uuid::new_v4(), generation: 0 };
    store.revoke_client(device).await.unwrap();
    assert!(!register("fifth", other).await, "all tokens of before have ended");
}

#[tokio::test]
async fn a_login_stays_although_all_earlier_ones_were_made_by_a_clock_that_was_ahead() {
    let fixture = Fixture::new().await;
    let (user, first) = fixture.login("first").await;
    for number in 0..100 {
        let ahead = RefreshToken { expires_at: start() + TimeDelta::days(2), ..token(&format!("ahead {number}")) };
        let new = NewRefreshToken::of(&ahead, Uuid::new_v4(), user.uuid, ClientKind::User);
        assert!(fixture.store.insert_login(user.id, 0, new, None).await.unwrap());
    }
    // of a hundred and one the oldest has gone
    assert!(matches!(fixture.rotate(first, "first", "second").await, Rotation::Unknown));
    let last = Uuid::new_v4();
    let new = NewRefreshToken::of(&token("last"), last, user.uuid, ClientKind::User);
    assert!(fixture.store.insert_login(user.id, 0, new, None).await.unwrap());
    assert!(matches!(fixture.rotate(last, "last", "next").await, Rotation::Rotated { .. }));
}
