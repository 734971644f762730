//! The programs in `examples/`, as somebody runs them who reads them.

use std::process::Command;

use crate::support::{Broker, Program, get, until};

/// Where cargo puts an example, built if it is not there.
fn example(name: &str) -> String {
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--example", name]).status().unwrap();
    assert!(built.success());
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_switchboard")).parent().unwrap();
    folder.join("examples").join(name).display().to_string()
}

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
    let operator = Program::start_of(broker.setup(), &example("operator"), &[&url, "admin", password.trim()]);
    let (code, said) = operator.ended().await;
    assert!(code == Some(0) && said.starts_with("thermometer: succeeded {\"degrees\":20"), "{code:?}: {said}");
}
