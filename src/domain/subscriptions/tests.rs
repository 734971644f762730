use super::*;

#[derive(Debug, Clone, PartialEq)]
struct At(usize);
impl Location for At {
    fn worker(&self) -> usize {
        self.0
    }
    fn id(&self) -> u64 {
        0
    }
}

fn index() -> (Subscriptions<At>, Instant) {
    (Subscriptions::new(2, 0), Instant::now())
}

fn connected(index: &mut Subscriptions<At>, topic: &str) -> usize {
    index.audience(topic).map_or(0, |audience| audience.connected)
}

#[test]
fn a_subscription_waits_for_its_client_to_connect() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, "t".into(), now).unwrap();
    assert_eq!(connected(&mut index, "t"), 0);
    index.connected(client, Some(At(1)));
    assert_eq!(connected(&mut index, "t"), 1);
}

#[test]
fn subscribing_twice_is_subscribing_once() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, "t".into(), now).unwrap();
    index.subscribe(client, "t".into(), now).unwrap();
    assert_eq!(index.members("t"), [client]);
}

#[test]
fn a_takeover_moves_the_member_and_keeps_its_subscriptions() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, "t".into(), now).unwrap();
    index.connected(client, Some(At(0)));
    assert_eq!(index.audience("t").unwrap().workers[0].0, 0);
    index.connected(client, Some(At(3)));
    let audience = index.audience("t").unwrap();
    assert_eq!((audience.connected, audience.workers[0].0), (1, 3));
}

#[test]
fn the_last_socket_takes_the_subscriptions_with_it() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, "t".into(), now).unwrap();
    index.connected(client, Some(At(0)));
    index.disconnected(client);
    assert!(!index.is_subscribed(client, "t"));
    assert!(index.topics.is_empty() && index.clients.is_empty());
}

#[test]
fn a_client_has_no_more_subscriptions_than_it_may() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, "a".into(), now).unwrap();
    index.subscribe(client, "b".into(), now).unwrap();
    assert_eq!(index.subscribe(client, "c".into(), now), Err(CannotSubscribe::TooMany));
    assert!(index.unsubscribe(client, &"a".into()));
    assert!(!index.unsubscribe(client, &"a".into()));
    index.subscribe(client, "c".into(), now).unwrap();
}

#[test]
fn only_so_many_subscriptions_wait_for_clients_that_are_absent() {
    let now = Instant::now();
    let mut index: Subscriptions<At> = Subscriptions::new(0, 2);
    let (a, b, present) = (ClientId::random(), ClientId::random(), ClientId::random());
    index.connected(present, Some(At(0)));
    index.subscribe(a, "s".into(), now).unwrap();
    index.subscribe(a, "t".into(), now).unwrap();
    index.subscribe(a, "t".into(), now).unwrap();
    assert_eq!(index.subscribe(b, "t".into(), now), Err(CannotSubscribe::TooManyWaiting));
    assert!(!index.clients.contains_key(&b), "nothing is kept of what was refused");
    index.subscribe(present, "t".into(), now).unwrap();
    index.unsubscribe(a, &"s".into());
    index.subscribe(b, "t".into(), now).unwrap();
    index.connected(a, Some(At(0)));
    index.subscribe(b, "s".into(), now).unwrap();
    index.drop_absent(Duration::ZERO, now);
    assert_eq!(index.waiting, 0);
    index.disconnected(a);
    index.disconnected(present);
    assert!(index.waiting == 0 && index.clients.is_empty());
}

#[test]
fn subscriptions_of_clients_that_never_come_are_dropped() {
    let (mut index, now) = index();
    let (absent, present) = (ClientId::random(), ClientId::random());
    for client in [absent, present] {
        index.subscribe(client, "t".into(), now).unwrap();
    }
    index.connected(present, Some(At(0)));
    index.drop_absent(Duration::from_secs(10), now + Duration::from_secs(9));
    assert_eq!(index.members("t").len(), 2);
    index.drop_absent(Duration::from_secs(10), now + Duration::from_secs(10));
    assert_eq!(index.members("t"), [present]);
}

#[test]
fn a_client_with_a_socket_that_gets_no_publications_keeps_its_subscriptions() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.connected(client, Some(At(0)));
    index.subscribe(client, "t".into(), now).unwrap();
    index.connected(client, None);
    assert_eq!(connected(&mut index, "t"), 0);
    index.drop_absent(Duration::ZERO, now + Duration::from_secs(1));
    assert_eq!(index.members("t"), [client]);
    index.disconnected(client);
    assert!(index.members("t").is_empty());
}

#[test]
fn a_topic_that_is_deleted_takes_all_subscriptions_to_it_along() {
    let (mut index, now) = index();
    let (absent, present) = (ClientId::random(), ClientId::random());
    for client in [absent, present] {
        index.subscribe(client, "t".into(), now).unwrap();
    }
    index.subscribe(present, "other".into(), now).unwrap();
    index.connected(present, Some(At(0)));
    index.remove_topic(&"t".into());
    assert!(!index.is_subscribed(present, "t") && index.audience("t").is_none());
    assert!(index.is_subscribed(present, "other") && !index.clients.contains_key(&absent));
    assert_eq!(index.waiting, 0);
    // the limit per client counts it no more
    index.subscribe(present, "t".into(), now).unwrap();
    assert_eq!(connected(&mut index, "t"), 1);
}

#[test]
fn members_are_grouped_by_worker() {
    let (mut index, now) = index();
    for worker in [0, 1, 0] {
        let client = ClientId::random();
        index.subscribe(client, "t".into(), now).unwrap();
        index.connected(client, Some(At(worker)));
    }
    let audience = index.audience("t").unwrap();
    let mut sizes: Vec<_> = audience.workers.iter().map(|(worker, members)| (*worker, members.len())).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [(0, 2), (1, 1)]);
}
