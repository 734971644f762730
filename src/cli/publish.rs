//! `switchboard publish`: publishes one message to a topic.

use clap::Args;
use serde_json::{Value, json};

use crate::{
    protocol::json,
    terminal::{
        output::{Output, print_json, text},
        say,
    },
};

#[derive(Args)]
pub(super) struct Arguments {
    /// The topic's id
    topic: String,
    /// The content, as a text
    #[arg(required_unless_present = "data", conflicts_with = "data")]
    content: Option<String>,
    /// The content, as JSON, such as '{"degrees": 21.5}'
    #[arg(long, value_name = "JSON", value_parser = |text: &str| json::parse(text.as_bytes()))]
    data: Option<Value>,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { topic, content, data, output } = arguments;
    let client = output.login.client().await?;
    let content = data.or(content.map(Value::String));
    let receipt: Value = client.post("/topics/publish", &json!({ "topic_id": topic, "content": content })).await?;
    if output.json {
        return print_json(&receipt);
    }
    match receipt["offset"].as_i64() {
        Some(offset) => say!("{}, offset {offset}", text(&receipt["message"])),
        None => say!("{}", text(&receipt["message"])),
    }
    Ok(())
}
