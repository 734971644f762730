use std::time::Instant;

use super::*;

fn device(client: Uuid, stamp: u64) -> ClientState {
    ClientState { is_online: true, sessions: 1, device: stamp, ..ClientState::gone(client) }
}

#[test]
fn publications_go_to_the_nodes_with_subscribers_by_name_or_by_pattern() {
    let (elsewhere, [one, two]) = (Elsewhere::default(), [2, 3].map(Uuid::from_u128));
    assert!(elsewhere.subscribers("a/b").is_empty() && !elsewhere.is_subscribed("a/b"));
    elsewhere.put_interest(one, "a/b", false, 2);
    assert!(elsewhere.is_subscribed("a/b") && !elsewhere.is_subscribed("a/c"));
    elsewhere.put_interest(one, "a/+", true, 1);
    let interests = [(("a/#".to_owned(), true), 5), (("other".to_owned(), false), 1)];
    elsewhere.put_interests(two, &interests.into());
    assert_eq!(elsewhere.subscribers("a/b"), [(one, 3), (two, 5)].into());
    elsewhere.put_interest(one, "a/b", false, 0);
    elsewhere.put_interests(two, &Interests::new());
    assert_eq!(elsewhere.subscribers("a/b"), [(one, 1)].into());
    assert!(elsewhere.is_subscribed("a/b") && elsewhere.is_subscribed("a/c") && !elsewhere.is_subscribed("other"));
    elsewhere.put_interest(one, "a/+", true, 0);
    assert!(elsewhere.subscribers("a/b").is_empty() && elsewhere.subscribers("other").is_empty());
}

#[test]
fn publishers_wait_for_a_congested_node_only_if_it_has_subscribers_of_their_topic() {
    let (elsewhere, [one, two]) = (Elsewhere::default(), [2, 3].map(Uuid::from_u128));
    elsewhere.put_interest(one, "a/b", false, 1);
    elsewhere.put_interest(two, "a/+", true, 1);
    elsewhere.congested().put(one, true, Instant::now());
    assert!(elsewhere.is_congested("a/b") && !elsewhere.is_congested("a/c"));
    elsewhere.congested().put(two, true, Instant::now());
    assert!(elsewhere.is_congested("a/c") && !elsewhere.is_congested("b"));
    elsewhere.congested().put(one, false, Instant::now());
    elsewhere.congested().put(two, false, Instant::now());
    assert!(!elsewhere.is_congested("a/b"));
}

#[test]
fn the_newest_device_socket_is_the_one_that_counts() {
    let (elsewhere, uuid) = (Elsewhere::default(), Uuid::from_u128(1));
    let (client, [one, two]) = (ClientId::from(uuid), [2, 3].map(Uuid::from_u128));
    assert_eq!(elsewhere.device(client), Place::Nowhere);
    elsewhere.put(one, device(uuid, 10));
    elsewhere.put(two, device(uuid, 9));
    assert_eq!((elsewhere.device(client), elsewhere.session_count(client, |_| 0)), (Place::Node(one), 2));
    elsewhere.put(two, device(uuid, 11));
    assert_eq!(elsewhere.device(client), Place::Node(two));
    assert_eq!((elsewhere.commandable(client), elsewhere.all_commandable()), (Place::Node(two), vec![client]));
    assert!(elsewhere.takes_over(client, Uuid::nil(), 10, |state| state.device));
    assert!(!elsewhere.takes_over(client, Uuid::nil(), 12, |state| state.device));
    // of two with the same stamp one wins, for all nodes the same
    assert!(elsewhere.takes_over(client, one, 11, |state| state.device));
    assert!(!elsewhere.takes_over(client, Uuid::max(), 11, |state| state.device));
    // a node that stops has the client still, but its sockets are as good as closed
    elsewhere.set_leaving(two, true);
    assert!(elsewhere.session_count(client, |_| 0) == 1 && elsewhere.is_online(client));
    elsewhere.set_leaving(two, false);
    assert_eq!(elsewhere.session_count(client, |_| 0), 2);
    for node in [one, two] {
        elsewhere.put(node, ClientState::gone(uuid));
    }
    assert!(!elsewhere.is_online(client) && elsewhere.online().is_empty());
    elsewhere.set_complete(false);
    assert_eq!(elsewhere.device(client), Place::Unknown);
}

#[test]
fn publications_go_to_a_node_that_a_subscription_is_handed_over_to_until_it_says_otherwise() {
    let (elsewhere, node) = (Elsewhere::default(), Uuid::from_u128(1));
    elsewhere.put_interest(node, "b", false, 3);
    elsewhere.expect_interests(node, &[("a".to_owned(), false), ("b".to_owned(), false), ("c/+".to_owned(), true)]);
    let at_node = |topic: &str| elsewhere.subscribers(topic).get(&node).copied();
    assert_eq!((at_node("a"), at_node("b"), at_node("c/d")), (Some(1), Some(3), Some(1)));
    elsewhere.put_interest(node, "a", false, 0);
    elsewhere.put_interest(node, "c/+", true, 2);
    assert_eq!((at_node("a"), at_node("c/d")), (None, Some(2)));
}

#[test]
fn subscriptions_are_where_publications_are_read_and_else_where_commands_are() {
    let (elsewhere, client) = (Elsewhere::default(), Uuid::from_u128(1));
    let (reading, commanded) = (Uuid::from_u128(2), Uuid::from_u128(3));
    let state = |chat, agent| ClientState { sessions: 1, chat, agent, ..ClientState::gone(client) };
    elsewhere.put(commanded, state(0, 9));
    assert_eq!(elsewhere.subscriber(client.into()), Some(commanded));
    elsewhere.put(reading, state(1, 0));
    assert_eq!(elsewhere.subscriber(client.into()), Some(reading));
}
