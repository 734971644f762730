use super::*;
use crate::{
    domain::ids::ClientKind,
    store::{Duplicate, NewRefreshToken, UserChange, UserRefusal},
};

fn token(user: &User, family: Uuid) -> NewRefreshToken {
    NewRefreshToken {
        token_hash: format!("hash of {family}"),
        family,
        client: user.uuid,
        kind: ClientKind::User,
        expires_at: start() + TimeDelta::days(1),
    }
}

fn demoted() -> UserChange {
    UserChange::Update { role: Some(Role::User), is_active: None }
}

#[tokio::test]
async fn usernames_and_emails_are_one_name_space() {
    let fixture = Fixture::new().await;
    let anna = fixture.user("anna", Role::User).await;
    let new = |username: &str, email: &str| NewUser {
        username: username.to_owned(),
        email: Some(email.to_owned()),
        full_name: None,
        job_title: None,
        password_hash: String::new(),
        role: Role::User,
    };
    let taken = fixture.store.create_user(new("anna@example.org", "bert@example.org")).await.unwrap();
    assert!(matches!(taken, Err(Duplicate::Username)), "{taken:?}");
    let taken = fixture.store.create_user(new("bert", "anna")).await.unwrap();
    assert!(matches!(taken, Err(Duplicate::Email)), "{taken:?}");
    // the names of a deleted user are free
    fixture.store.change_user(anna.id, UserChange::Delete).await.unwrap().unwrap();
    assert_ne!(fixture.user("anna", Role::User).await.uuid, anna.uuid);
    assert!(fixture.store.is_uuid_of_user(anna.uuid).await.unwrap());
}

#[tokio::test]
async fn of_two_admins_who_go_at_once_one_stays() {
    let fixture = Fixture::new().await;
    let (anna, bert) = (fixture.user("anna", Role::Admin).await, fixture.user("bert", Role::Admin).await);
    let store = &fixture.store;
    let (first, second) = tokio::join!(store.change_user(anna.id, demoted()), store.change_user(bert.id, demoted()));
    let refused: Vec<_> = [first.unwrap(), second.unwrap()].into_iter().filter_map(Result::err).collect();
    assert_eq!(refused, [UserRefusal::LastAdmin]);
}

#[tokio::test]
async fn another_password_ends_all_logins_but_the_one_that_is_kept() {
    let fixture = Fixture::new().await;
    let anna = fixture.user("anna", Role::User).await;
    let (kept, other) = (Uuid::new_v4(), Uuid::new_v4());
    for family in [kept, other] {
        assert!(fixture.store.insert_login(anna.id, 0, token(&anna, family), None).await.unwrap());
    }
    let change = |expected: &str| UserChange::Password {
        hash: "new".to_owned(),
        expected: Some(expected.to_owned()),
        kept_login: Some(kept),
    };
    let refused = fixture.store.change_user(anna.id, change("of somebody")).await.unwrap();
    assert_eq!(refused.unwrap_err(), UserRefusal::PasswordChanged);
    let before = fixture.store.last_change().await.unwrap();
    let changed = fixture.store.change_user(anna.id, change("hash of anna")).await.unwrap().unwrap();
    assert_eq!((changed.token_generation, changed.kept_login), (1, Some(kept)));
    assert!(changed.version > before);
    // a login with the old password comes too late
    assert!(!fixture.store.insert_login(anna.id, 0, token(&anna, Uuid::new_v4()), None).await.unwrap());
    let (_, live) = fixture.store.revoke_client(anna.uuid).await.unwrap().unwrap();
    assert_eq!(live, 1);
}

#[tokio::test]
async fn an_address_is_known_for_thirty_days() {
    let fixture = Fixture::new().await;
    let anna = fixture.user("anna", Role::User).await;
    let address = "192.0.2.1".parse().unwrap();
    let token = token(&anna, Uuid::new_v4());
    assert!(fixture.store.insert_login(anna.id, 0, token, Some(address)).await.unwrap());
    let day = std::time::Duration::from_secs(86_400);
    fixture.clock.advance(day * 29);
    assert_eq!(fixture.store.known_login(Some(anna.id), address).await.unwrap(), Some(day * 29));
    fixture.clock.advance(day);
    assert_eq!(fixture.store.known_login(Some(anna.id), address).await.unwrap(), None);
}
