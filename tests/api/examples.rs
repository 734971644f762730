//! The programs in `examples/`, as somebody runs them who reads them.

use serde_json::json;

use crate::support::{Broker, Program, example, get, post, until};

#[tokio::test]
async fn the_device_answers_the_operator() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let password = std::fs::read_to_string(broker.data_dir().join("initial-admin-password")).unwrap();
    let url = broker.url.clone();
    let nobody = Program::start_of(broker.setup(), &example("operator"), &[&url, "admin", password.trim()]);
    assert_eq!(nobody.ended().await, (Some(0), "no device is online\n".to_owned()));

    let mut device = Program::start_of(broker.setup(), &example("device"), &[&url]);
    device.says("thermometer is ").await;
    until(async || get(&admin, "/clients").await.1["count"] == 1).await;
    let (_, clients) = get(&admin, "/clients").await;
    let uuid = clients["clients"].as_object().unwrap().keys().next().unwrap();
    let unknown = json!({ "method": "GET", "url": "/weather" });
    let (_, answer) = post(&admin, &format!("/send-command/{uuid}"), unknown).await;
    assert_eq!(answer["response"], json!({ "error": "there is only /reading" }), "{answer}");
    let operator = Program::start_of(broker.setup(), &example("operator"), &[&url, "admin", password.trim()]);
    let (code, said) = operator.ended().await;
    assert!(code == Some(0) && said.starts_with("thermometer: succeeded {\"degrees\":20"), "{code:?}: {said}");
}
