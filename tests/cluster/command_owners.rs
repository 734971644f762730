//! Commands of nodes that end, or that others cannot hear.

use serde_json::json;

use crate::{
    api::support::{delete, nothing_came, posting, reply, until, within},
    commands::{PATH, command_id, give, order, send_result, show, states, until_states},
    nodes::{Shared, at, connect, device, knows, listed},
    proxy::Way,
};

#[tokio::test]
async fn a_killed_node_ends_what_was_sent_to_its_sockets() {
    let shared = Shared::start().await;
    let ([one, two], operator) = shared.nodes().await;
    let (client, there, mut socket) = device("there", &two).await;
    let sent = give(&operator, &order(&[there.uuid], 600)).await;
    assert_eq!(command_id(&mut socket).await, sent);
    until_states(&operator, &sent, &["sent"]).await;
    two.kill().await;
    until_states(&operator, &sent, &["disconnected"]).await;
    // what is given now waits for the device, which comes back elsewhere
    let queued = give(&operator, &order(&[there.uuid], 600)).await;
    let mut socket = connect(&client, &one).await;
    assert_eq!(command_id(&mut socket).await, queued);
    send_result(&mut socket, &sent, json!("late")).await;
    until(async || show(&operator, &sent).await["targets"][0]["late_result"] == "late").await;
}

#[tokio::test]
async fn another_node_goes_on_with_the_commands_of_one_that_is_killed() {
    let shared = Shared::start().await;
    let ([one, two, three], operator) = shared.nodes().await;
    let (_, there, mut socket) = device("there", &two).await;
    let (client, absent) = three.device("absent").await;
    let sent = give(&at(&operator, &one), &order(&[there.uuid], 600)).await;
    assert_eq!(command_id(&mut socket).await, sent);
    until_states(&at(&operator, &two), &sent, &["sent"]).await;
    let queued = give(&at(&operator, &one), &order(&[absent.uuid], 600)).await;
    let cancelled = give(&at(&operator, &one), &order(&[absent.uuid], 600)).await;
    let operator = at(&operator, &two);
    let one = one.kill().await;
    until_states(&operator, &sent, &["disconnected"]).await;
    let mut status = 503;
    until(async || {
        status = delete(&operator, &format!("{PATH}/{cancelled}")).await.0;
        status != 503
    })
    .await;
    assert_eq!(status, 200);
    // whoever has them finds the device, and a late answer finds its way
    let mut late = connect(&client, &three).await;
    assert_eq!(command_id(&mut late).await, queued);
    send_result(&mut late, &queued, json!(1)).await;
    until_states(&operator, &queued, &["succeeded"]).await;
    send_result(&mut socket, &sent, json!("late")).await;
    until(async || show(&operator, &sent).await["targets"][0]["late_result"] == "late").await;
    assert_eq!(states(&show(&operator, &cancelled).await), ["cancelled"]);
    // the killed one comes back as another node
    let one = one.start().await;
    knows(&at(&operator, &one), 3).await;
    let id = give(&at(&operator, &one), &order(&[there.uuid], 0)).await;
    assert_eq!(command_id(&mut socket).await, id);
}

#[tokio::test]
async fn a_node_that_is_cut_off_from_the_others_keeps_its_commands() {
    let shared = Shared::start().await;
    let ([one, two], proxy, operator) = shared.nodes_with_proxy().await;
    let (client, absent) = two.device("absent").await;
    let (_, here, mut here_socket) = device("here", &one).await;
    let sent = give(&operator, &order(&[here.uuid], 600)).await;
    let queued = give(&operator, &order(&[absent.uuid], 600)).await;
    assert_eq!(command_id(&mut here_socket).await, sent);
    proxy.set(Way::Cut);
    until(async || listed(&two.client()).await.is_empty()).await;
    // it is there, and the other one must not go on with its commands
    assert_eq!(delete(&at(&operator, &two), &format!("{PATH}/{queued}")).await.0, 503);
    let unstored = json!({ "method": "GET", "url": "/status" });
    let asking = posting(&operator, &format!("/send-command/{}", here.uuid), &unstored);
    reply(&mut here_socket, json!(1)).await;
    assert_eq!(within(asking).await.unwrap().0, 200);
    send_result(&mut here_socket, &sent, json!(2)).await;
    until_states(&at(&operator, &two), &sent, &["succeeded"]).await;
    proxy.set(Way::Open);
    let mut socket = connect(&client, &two).await;
    assert_eq!(command_id(&mut socket).await, queued);
    send_result(&mut socket, &queued, json!(3)).await;
    until_states(&at(&operator, &two), &queued, &["succeeded"]).await;
}

#[tokio::test]
async fn a_node_without_lease_and_session_loses_its_commands_and_ends() {
    let shared = Shared::start().await;
    let ([mut one, two], operator) = shared.nodes().await;
    let (client, absent) = two.device("absent").await;
    let (_, _, _here) = device("here", &one).await;
    let queued = give(&operator, &order(&[absent.uuid], 600)).await;
    one.signal("STOP");
    until(async || listed(&two.client()).await.is_empty()).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'switchboard lock'";
    shared.sql(end).await;
    let operator = at(&operator, &two);
    let mut socket = connect(&client, &two).await;
    assert_eq!(command_id(&mut socket).await, queued);
    one.signal("CONT");
    assert_eq!(one.ended().await, Some(70));
    send_result(&mut socket, &queued, json!(1)).await;
    until_states(&operator, &queued, &["succeeded"]).await;
    nothing_came(&mut socket).await;
}
