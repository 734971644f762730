//! Whether `/openapi.json` is true (contract section 9). `scripts/openapi` goes on from here: it fuzzes all routes and runs
//! generated clients.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{Broker, answer, get};

/// A method of a path, as declared.
struct Operation {
    method: Method,
    path: String,
    declared: Value,
}

impl Operation {
    /// The path with parameters that can be read.
    fn concrete(&self) -> String {
        let device = Uuid::nil().to_string();
        let values = [("{topic_id}", "weather"), ("{device_id}", &device), ("{target}", "1"), ("{user_id}", "1")];
        let path = values.iter().fold(self.path.clone(), |path, (name, value)| path.replace(name, value));
        let path = path.replace("{room_id}", "1").replace("{message_id}", "1").replace("{file}", "index.html");
        let id = if path.starts_with("/api/commands") { device.as_str() } else { "1" };
        path.replace("{id}", id)
    }

    fn responses(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.declared["responses"].as_object().unwrap().iter()
    }

    /// The schemas of the body, with what they refer to; by content type.
    fn bodies(&self, document: &Value) -> Vec<(String, Value)> {
        let Some(content) = self.declared["requestBody"]["content"].as_object() else { return Vec::new() };
        let mut bodies = Vec::new();
        for (content_type, content) in content {
            let schema = resolve(&content["schema"], document);
            match schema["oneOf"].as_array() {
                Some(alternatives) if schema.get("example").is_none() => {
                    bodies.extend(alternatives.iter().map(|one| (content_type.clone(), resolve(one, document))));
                }
                _ => bodies.push((content_type.clone(), schema)),
            }
        }
        bodies
    }
}

fn resolve(schema: &Value, document: &Value) -> Value {
    match schema["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap_or_else(|| panic!("no {reference}")).clone(),
        None => schema.clone(),
    }
}

async fn operations(broker: &Broker) -> (Value, Vec<Operation>) {
    let (_, document) = get(&broker.client(), "/openapi.json").await;
    let paths = document["paths"].as_object().unwrap().clone();
    let mut operations = Vec::new();
    for (path, item) in paths {
        for (method, declared) in item.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            operations.push(Operation { method, path: path.clone(), declared: declared.clone() });
        }
    }
    assert!(operations.len() > 50, "{}", operations.len());
    (document, operations)
}

#[tokio::test]
async fn every_answer_has_a_schema() {
    let broker = Broker::start().await;
    for operation in operations(&broker).await.1 {
        for (status, response) in operation.responses() {
            if status.starts_with('3') {
                continue;
            }
            let content = response["content"].as_object();
            let content = content.unwrap_or_else(|| panic!("{} {} {status}", operation.method, operation.path));
            for content in content.values() {
                assert!(content.get("schema").is_some(), "{} {} {status}", operation.method, operation.path);
            }
        }
    }
}

#[tokio::test]
async fn every_body_has_an_example_that_is_accepted() {
    let mut broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let admin = broker.admin().await;
    let (document, operations) = operations(&broker).await;
    let mut sent = 0;
    for operation in operations {
        for (content_type, schema) in operation.bodies(&document) {
            let example = schema.get("example").unwrap_or_else(|| panic!("{} {}", operation.method, operation.path));
            let request = admin.request(operation.method.clone(), &operation.concrete());
            let request = match content_type.as_str() {
                "application/json" => request.json(example),
                "application/x-www-form-urlencoded" => request.form(example),
                other => panic!("{other}"),
            };
            let (status, body) = answer(request).await;
            let what = format!("{} {}: {status} {body}", operation.method, operation.path);
            assert!(status != 422 && status != 500, "{what}");
            assert!(operation.responses().any(|(declared, _)| *declared == status.as_str()), "{what}");
            sent += 1;
        }
    }
    assert!(sent >= 20, "{sent}");
}

#[tokio::test]
async fn every_status_that_a_careless_client_meets_is_declared() {
    let mut broker = Broker::start().await;
    let (admin, nobody) = (broker.admin().await, broker.client());
    for operation in operations(&broker).await.1 {
        // the end of the admin's own token would end this test
        if operation.path == "/auth/logout" {
            continue;
        }
        let path = operation.concrete();
        let request = |client: &switchboard::client::Client, path: &str| client.request(operation.method.clone(), path);
        let careless = [
            request(&nobody, &path),
            request(&admin, &path),
            request(&admin, &path).header("authorization", "Bearer x"),
            request(&admin, &path).json(&json!({ "unknown": 1 })),
            request(&admin, &path).header("content-type", "text/plain").body("text"),
            request(&admin, &format!("{path}?limit=x&skip=x&cursor=x&from=x&state=x")),
        ];
        for request in careless {
            let request = request.header("accept", "application/json").timeout(std::time::Duration::from_secs(20));
            // an event stream has no end; its head is enough
            let response = request.send().await.unwrap();
            let status = response.status();
            let declared = operation.responses().any(|(declared, _)| *declared == status.as_str());
            assert!(declared, "{} {path}: {status}", operation.method);
        }
    }
}

#[tokio::test]
async fn one_can_authorize_with_a_token_or_with_a_password() {
    let broker = Broker::start().await;
    let (document, operations) = operations(&broker).await;
    let schemes = &document["components"]["securitySchemes"];
    assert_eq!(schemes["bearer"]["scheme"], "bearer");
    assert_eq!(schemes["password"]["flows"]["password"]["tokenUrl"], "/token");
    let me = operations.iter().find(|one| one.path == "/api/users/me/").unwrap();
    assert_eq!(me.declared["security"], json!([{ "bearer": [] }, { "password": [] }]));
}
