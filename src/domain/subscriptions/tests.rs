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

fn topic(id: &str) -> Subscription {
    Subscription::Topic(id.into())
}

fn pattern(text: &str) -> Subscription {
    Subscription::Pattern(Pattern::parse(text.into()).unwrap())
}

fn connected(index: &mut Subscriptions<At>, topic: &str) -> usize {
    index.audience(&topic.into()).map_or(0, |audience| audience.connected)
}

#[test]
fn a_subscription_waits_for_its_client_to_connect() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, topic("t"), now).unwrap();
    assert_eq!(connected(&mut index, "t"), 0);
    index.connected(client, Some(At(1)));
    assert_eq!(connected(&mut index, "t"), 1);
}

#[test]
fn subscribing_twice_is_subscribing_once() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, topic("t"), now).unwrap();
    index.subscribe(client, topic("t"), now).unwrap();
    assert_eq!(index.members("t"), [client]);
}

#[test]
fn a_takeover_moves_the_member_and_keeps_its_subscriptions() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, topic("t"), now).unwrap();
    index.connected(client, Some(At(0)));
    assert_eq!(index.audience(&"t".into()).unwrap().workers[0].0, 0);
    index.connected(client, Some(At(3)));
    let audience = index.audience(&"t".into()).unwrap();
    assert_eq!((audience.connected, audience.workers[0].0), (1, 3));
}

#[test]
fn the_last_socket_takes_the_subscriptions_with_it() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, topic("t"), now).unwrap();
    index.connected(client, Some(At(0)));
    index.disconnected(client);
    assert!(!index.is_subscribed(client, "t"));
    assert!(index.topics.is_empty() && index.clients.is_empty());
}

#[test]
fn a_client_has_no_more_subscriptions_than_it_may() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.subscribe(client, topic("a"), now).unwrap();
    index.subscribe(client, topic("b"), now).unwrap();
    assert_eq!(index.subscribe(client, topic("c"), now), Err(CannotSubscribe::TooMany));
    assert!(index.unsubscribe(client, &"a".into()));
    assert!(!index.unsubscribe(client, &"a".into()));
    index.subscribe(client, topic("c"), now).unwrap();
}

#[test]
fn only_so_many_subscriptions_wait_for_clients_that_are_absent() {
    let now = Instant::now();
    let mut index: Subscriptions<At> = Subscriptions::new(0, 2);
    let (a, b, present) = (ClientId::random(), ClientId::random(), ClientId::random());
    index.connected(present, Some(At(0)));
    index.subscribe(a, topic("s"), now).unwrap();
    index.subscribe(a, topic("t"), now).unwrap();
    index.subscribe(a, topic("t"), now).unwrap();
    assert_eq!(index.subscribe(b, topic("t"), now), Err(CannotSubscribe::TooManyWaiting));
    assert!(!index.clients.contains_key(&b), "nothing is kept of what was refused");
    index.subscribe(present, topic("t"), now).unwrap();
    index.unsubscribe(a, &"s".into());
    index.subscribe(b, topic("t"), now).unwrap();
    index.connected(a, Some(At(0)));
    index.subscribe(b, topic("s"), now).unwrap();
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
        index.subscribe(client, topic("t"), now).unwrap();
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
    index.subscribe(client, topic("t"), now).unwrap();
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
        index.subscribe(client, topic("t"), now).unwrap();
    }
    index.subscribe(present, topic("other"), now).unwrap();
    index.connected(present, Some(At(0)));
    index.remove_topic(&"t".into());
    assert!(!index.is_subscribed(present, "t") && index.audience(&"t".into()).is_none());
    assert!(index.is_subscribed(present, "other") && !index.clients.contains_key(&absent));
    assert_eq!(index.waiting, 0);
    // the limit per client counts it no more
    index.subscribe(present, topic("t"), now).unwrap();
    assert_eq!(connected(&mut index, "t"), 1);
}

#[test]
fn members_are_grouped_by_worker() {
    let (mut index, now) = index();
    for worker in [0, 1, 0] {
        let client = ClientId::random();
        index.subscribe(client, topic("t"), now).unwrap();
        index.connected(client, Some(At(worker)));
    }
    let audience = index.audience(&"t".into()).unwrap();
    let mut sizes: Vec<_> = audience.workers.iter().map(|(worker, members)| (*worker, members.len())).collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [(0, 2), (1, 1)]);
}

#[test]
fn a_client_is_one_subscriber_however_many_of_its_subscriptions_match() {
    let (mut index, now) = index();
    let (one, other) = (ClientId::random(), ClientId::random());
    for client in [one, other] {
        index.connected(client, Some(At(0)));
        index.subscribe(client, pattern("a/+"), now).unwrap();
    }
    index.subscribe(one, topic("a/b"), now).unwrap();
    assert_eq!((connected(&mut index, "a/b"), index.count("a/b"), index.members("a/b").len()), (2, 2, 2));
    assert_eq!((connected(&mut index, "a/c"), index.count("b")), (2, 0));
    // the limit of subscriptions counts patterns
    assert_eq!(index.subscribe(one, pattern("#"), now), Err(CannotSubscribe::TooMany));
    assert!(
        index.unsubscribe(one, &"a/+".into()) && !index.is_subscribed(one, "a/c") && index.is_subscribed(one, "a/b")
    );
    assert_eq!((connected(&mut index, "a/b"), connected(&mut index, "a/c")), (2, 1));
}

#[test]
fn an_audience_is_kept_until_a_pattern_that_matches_changes() {
    let (mut index, now) = index();
    let (one, other) = (ClientId::random(), ClientId::random());
    index.connected(one, Some(At(0)));
    index.subscribe(one, pattern("a/+"), now).unwrap();
    let audience = |index: &mut Subscriptions<At>| index.audience(&"a/b".into()).unwrap();
    let before = audience(&mut index);
    index.subscribe(other, pattern("b/+"), now).unwrap();
    index.unsubscribe(other, &"b/+".into());
    index.subscribe(other, topic("b"), now).unwrap();
    assert!(Arc::ptr_eq(&before, &audience(&mut index)));
    // a client that is not there is a subscriber, too
    index.subscribe(other, pattern("#"), now).unwrap();
    let with_other = audience(&mut index);
    assert_eq!((Arc::ptr_eq(&before, &with_other), with_other.connected), (false, 1));
    index.connected(other, Some(At(1)));
    assert_eq!(audience(&mut index).connected, 2);
    index.connected(one, Some(At(2)));
    assert!(audience(&mut index).workers.iter().any(|(worker, _)| *worker == 2));
    index.disconnected(one);
    index.disconnected(other);
    assert!(index.audience(&"a/b".into()).is_none() && index.topics.is_empty() && index.clients.is_empty());
}

#[test]
fn the_audiences_that_are_kept_for_patterns_are_bounded() {
    let (mut index, now) = index();
    let client = ClientId::random();
    index.connected(client, Some(At(0)));
    index.subscribe(client, pattern("#"), now).unwrap();
    index.subscribe(client, topic("named"), now).unwrap();
    for number in 0..KEPT {
        index.audience(&format!("topic {number}").into());
    }
    assert!(index.topics.len() <= KEPT / 2 + 1 && index.is_subscribed(client, "named"));
    index.remove_topic(&"named".into());
    assert_eq!(connected(&mut index, "named"), 1);
}

#[test]
fn subscriptions_by_pattern_wait_for_their_client_and_end_with_it() {
    let (mut index, now) = (Subscriptions::<At>::new(0, 1), Instant::now());
    let (one, other) = (ClientId::random(), ClientId::random());
    index.subscribe(one, pattern("a/#"), now).unwrap();
    assert_eq!(index.subscribe(other, pattern("a/#"), now), Err(CannotSubscribe::TooManyWaiting));
    assert_eq!(index.of_client(one).count(), 1);
    index.drop_absent(Duration::from_secs(5), now + Duration::from_secs(5));
    assert!(!index.is_subscribed(one, "a"));
    index.subscribe(other, pattern("a/#"), now).unwrap();
    index.connected(other, Some(At(0)));
    index.subscribe(one, pattern("a/#"), now).unwrap();
    assert_eq!((index.count("a/b"), connected(&mut index, "a/b")), (2, 1));
    index.disconnected(other);
    assert_eq!(index.members("a"), [one]);
}
