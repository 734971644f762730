//! Direct messages and topics (contract section 5).

use serde_json::json;

use crate::support::{Broker, next, next_of_type};

#[tokio::test]
async fn a_direct_message_arrives_as_it_was_sent_and_its_sender_gets_a_receipt() {
    let broker = Broker::start().await;
    let (_, alice, mut alice_socket) = broker.connected("Alice").await;
    let (_, bob, mut bob_socket) = broker.connected("Bob").await;
    let text = format!(
        r#"{{ "from":"{}","to":"{}","msgid":"m-1","content":"hi","timestamp":1.50e3,"extra":{{"b":1,"a":2}} }}"#,
        alice.uuid, bob.uuid
    );
    alice_socket.send_text(text.clone()).await.unwrap();
    assert_eq!(bob_socket.next_text().await.unwrap(), text);
    let receipt = next_of_type(&mut alice_socket, "sent").await;
    assert_eq!((&receipt["message"], &receipt["msgid"]), (&json!("Message delivered"), &json!("m-1")));
    assert!(receipt["timestamp"].is_f64());
}

#[tokio::test]
async fn a_topic_message_reaches_all_subscribers_but_its_sender() {
    let broker = Broker::start().await;
    let (alice_client, _, mut alice) = broker.connected("Alice").await;
    let (bob_client, _, mut bob) = broker.connected("Bob").await;
    alice_client.create_topic("weather").await.unwrap();
    alice_client.subscribe("weather").await.unwrap();
    bob_client.subscribe("weather").await.unwrap();
    let msgid = alice.publish("weather", "rain").await.unwrap();
    let message = next(&mut bob).await;
    assert_eq!((&message["content"], &message["topic_id"]), (&json!("rain"), &json!("weather")));
    let receipt = next_of_type(&mut alice, "topic_sent").await;
    assert_eq!(receipt["message"], "Message sent to 1 subscribers");
    assert_eq!(receipt["msgid"], msgid.as_str());
}
