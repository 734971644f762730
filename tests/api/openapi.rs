//! Whether `/openapi.json` is true (contract section 9). `scripts/documents` goes on from here: it fuzzes all routes and runs
//! generated clients.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use switchboard::client::Client;
use uuid::Uuid;

use crate::support::{Broker, PATIENCE, answer, get, within};

/// Headers of answers that programs act on.
const HEADERS: [&str; 4] = ["www-authenticate", "retry-after", "location", "set-cookie"];

/// A method of a path, as declared.
struct Operation {
    method: Method,
    path: String,
    declared: Value,
}

impl Operation {
    /// The path with parameters that can be read.
    fn concrete(&self) -> String {
        self.concrete_of(&Uuid::nil().to_string(), "1")
    }

    /// The path with this device and this user.
    fn concrete_of(&self, device: &str, user: &str) -> String {
        let path = self.path.replace("/users/{id}", &format!("/users/{user}"));
        let path = path.replace("/commands/{id}", &format!("/commands/{}", Uuid::nil()));
        let values = [
            ("{id}", "1"),
            ("{user_id}", user),
            ("{target}", user),
            ("{device_id}", device),
            ("{topic_id}", "weather"),
            ("{room_id}", "1"),
            ("{message_id}", "1"),
            ("{file}", "index.html"),
        ];
        values.iter().fold(path, |path, (name, value)| path.replace(name, value))
    }

    /// The parameters of the query string.
    fn query(&self) -> impl Iterator<Item = &Value> {
        self.declared["parameters"].as_array().into_iter().flatten().filter(|one| one["in"] == "query")
    }

    /// A request with this body, or without one.
    fn request(&self, client: &Client, path: &str, body: Option<&(String, Value)>) -> RequestBuilder {
        let request = client.request(self.method.clone(), path).header("accept", "application/json");
        match body {
            None => request,
            Some((content_type, body)) if content_type == "application/json" => request.json(body),
            Some((content_type, body)) => {
                assert_eq!(content_type, "application/x-www-form-urlencoded");
                request.form(body)
            }
        }
    }

    /// What came is declared: the status, and the headers that programs act on.
    fn check(&self, response: &Response) {
        let status = response.status();
        let declared = &self.declared["responses"][status.as_str()];
        assert!(declared.is_object(), "{} {}: {status}", self.method, self.path);
        let headers: Vec<_> = declared["headers"].as_object().into_iter().flat_map(|all| all.keys()).collect();
        for name in HEADERS {
            let is_declared = headers.iter().any(|one| one.eq_ignore_ascii_case(name));
            let came = response.headers().contains_key(name);
            assert_eq!(came, is_declared, "{} {}: {status}, {name}", self.method, self.path);
        }
    }

    fn responses(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.declared["responses"].as_object().unwrap().iter()
    }

    /// The bodies that it has as examples, with their content types.
    fn examples(&self, document: &Value) -> Vec<(String, Value)> {
        let bodies = self.bodies(document).into_iter();
        bodies.map(|(content_type, schema)| (content_type, schema["example"].clone())).collect()
    }

    /// The schemas of the body, with what they refer to; by content type.
    fn bodies(&self, document: &Value) -> Vec<(String, Value)> {
        let Some(content) = self.declared["requestBody"]["content"].as_object() else { return Vec::new() };
        let mut bodies = Vec::new();
        for (content_type, content) in content {
            let mut schema = resolve(&content["schema"], document);
            if let Some(example) = content.get("example") {
                schema["example"] = example.clone();
            }
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
            let body = (content_type, example.clone());
            let (status, body) = answer(operation.request(&admin, &operation.concrete(), Some(&body))).await;
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
        let request = |client: &Client, path: &str| client.request(operation.method.clone(), path);
        let careless = [
            request(&nobody, &path),
            request(&admin, &path),
            request(&admin, &path).header("authorization", "Bearer x"),
            request(&admin, &path).json(&json!({ "unknown": 1 })),
            request(&admin, &path).header("content-type", "text/plain").body("text"),
            request(&admin, &format!("{path}?limit=x&skip=x&cursor=x&from=x&state=x")),
        ];
        for request in careless {
            let request = request.header("accept", "application/json").timeout(PATIENCE);
            // an event stream has no end; its head is enough
            operation.check(&request.send().await.unwrap());
        }
    }
}

#[tokio::test]
async fn whatever_an_identity_is_answered_is_declared() {
    let mut broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let (admin, user, nobody) = (broker.admin().await, broker.user("ulla", "user").await, broker.client());
    let (device, _) = broker.device("thermometer").await;
    let (document, operations) = operations(&broker).await;
    for operation in operations {
        let path = operation.concrete();
        let bodies: Vec<_> = operation.examples(&document).into_iter().map(Some).chain([None]).collect();
        for body in &bodies {
            let request = |client| operation.request(client, &path, body.as_ref());
            let cookie = format!("access_token={}", admin.token().unwrap());
            let mut requests = vec![
                request(&nobody),
                request(&nobody).bearer_auth("x"),
                request(&nobody).header("cookie", cookie).header("origin", "https://elsewhere.example"),
            ];
            // these would be the last ones of their identities
            if operation.path != "/auth/logout" {
                requests.extend([&device, &user, &admin].map(request));
            }
            for request in requests {
                // an event stream has no end; its head is enough
                operation.check(&within(request.send()).await.unwrap());
            }
        }
    }
}

#[tokio::test]
async fn whoever_may_not_register_a_device_is_told_as_declared() {
    for registration in ["claim", "closed"] {
        let setup = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0");
        let mut broker = setup.set("DEVICES__REGISTRATION", registration).start().await;
        let (admin, user, nobody) = (broker.admin().await, broker.user("ulla", "user").await, broker.client());
        let (document, operations) = operations(&broker).await;
        let register = operations.iter().find(|one| one.path == "/register").unwrap();
        for body in register.examples(&document) {
            let request = |client| register.request(client, "/register", Some(&body));
            let cookie = format!("access_token={}", admin.token().unwrap());
            for request in [
                request(&nobody),
                request(&nobody).bearer_auth("x"),
                request(&nobody).header("cookie", cookie).header("origin", "https://elsewhere.example"),
                request(&user),
                request(&admin),
                request(&admin),
            ] {
                register.check(&within(request.send()).await.unwrap());
            }
        }
    }
}

#[tokio::test]
async fn every_request_may_meet_a_limit_but_those_about_health() {
    let broker = Broker::start().await;
    for operation in operations(&broker).await.1 {
        for status in ["429", "503"] {
            let answer = &operation.declared["responses"][status];
            let about_health = ["/healthz", "/readyz"].contains(&operation.path.as_str());
            let what = format!("{} {}: {status}", operation.method, operation.path);
            assert_eq!(answer.is_object(), !about_health || status == "503", "{what}");
            assert_eq!(answer["headers"]["Retry-After"].is_object(), answer.is_object(), "{what}");
        }
    }
}

#[tokio::test]
async fn parameters_of_queries_are_described_and_their_bounds_are_true() {
    let mut broker = Broker::start().await;
    let admin = broker.admin().await;
    let mut limits = 0;
    let (document, operations) = operations(&broker).await;
    for operation in operations {
        for parameter in operation.query() {
            let (path, name) = (operation.concrete(), parameter["name"].as_str().unwrap());
            assert!(parameter["description"].is_string(), "{path} {name}");
            let schema = resolve(&parameter["schema"], &document);
            let (least, most) = (schema["minimum"].as_i64(), schema["maximum"].as_i64());
            let words = schema["enum"].as_array().into_iter().flatten().map(|word| word.as_str().unwrap().to_owned());
            let good = least.into_iter().chain(most).map(|number| number.to_string()).chain(words);
            let good = good.map(|value| (value, false));
            let bad = least.map(|least| least - 1).into_iter().chain(most.map(|most| most + 1));
            let bad = bad.map(|number| (number.to_string(), true));
            for (value, is_refused) in good.chain(bad) {
                let (status, body) = get(&admin, &format!("{path}?{name}={value}")).await;
                assert_eq!(status == 422, is_refused, "{path} {name}={value}: {body}");
            }
            if name == "limit" {
                assert!(least.is_some() && most.is_some(), "{path}");
                limits += 1;
            }
            if name == "state" {
                assert!(schema["enum"].is_array(), "{path}");
            }
        }
    }
    assert!(limits >= 12, "{limits}");
}

#[tokio::test]
async fn bodies_that_may_have_no_other_fields_say_so() {
    let mut broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let admin = broker.admin().await;
    let (document, operations) = operations(&broker).await;
    for operation in operations {
        for (content_type, schema) in operation.bodies(&document) {
            let mut body = schema["example"].clone();
            body["unknown"] = json!("x");
            let request = operation.request(&admin, &operation.concrete(), Some(&(content_type, body)));
            let (_, answer) = answer(request).await;
            let is_refused = answer["detail"][0]["type"] == "extra_forbidden";
            let alternatives = schema["oneOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
            for alternative in alternatives {
                let what = format!("{} {}: {answer}", operation.method, operation.path);
                assert_eq!(alternative["additionalProperties"] == json!(false), is_refused, "{what}");
            }
        }
    }
}

#[tokio::test]
async fn the_examples_work_one_after_the_other() {
    let mut broker = Broker::with().set("LIMITS__REGISTRATIONS_PER_MINUTE", "0").start().await;
    let admin = broker.admin().await;
    let (document, mut operations) = operations(&broker).await;
    // clients and topics come first; the rest is in the order of the document
    let first = ["/register", "/topics/create"];
    operations.sort_by_key(|operation| !first.contains(&operation.path.as_str()));
    for operation in operations {
        let path = operation.concrete_of("123e4567-e89b-12d3-a456-426614174000", "2");
        let expected = match operation.path.as_str() {
            // its token stands for one that only its owner has
            "/auth/refresh" => 401,
            // the admin has another one
            "/api/users/me/password" => 401,
            // the user has no socket
            "/send-command/{target}" => 400,
            // no topic has the name of a route
            path if path.starts_with("/topics/") && operation.method == "PATCH" && !path.contains('{') => 404,
            _ => 200,
        };
        for body in operation.examples(&document) {
            let (status, answer) = answer(operation.request(&admin, &path, Some(&body))).await;
            assert_eq!(status, expected, "{} {path}: {answer}", operation.method);
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

/// Values of a field that its schema allows only just, or not at all; with the type of fault that is expected then (empty: any).
fn at_the_limits(schema: &Value) -> Vec<(Value, bool, &'static str)> {
    // short of the limits of texts it may be an email
    let text = |chars: u64| match usize::try_from(chars).unwrap() {
        chars if chars > 20 => json!(format!("{}@example.org", "x".repeat(chars - 12))),
        chars => json!("x".repeat(chars)),
    };
    let mut values = Vec::new();
    if let Some(most) = schema["maxLength"].as_u64() {
        values.extend([(text(most), true, "string_too_long"), (text(most + 1), false, "string_too_long")]);
    }
    if let Some(least) = schema["minLength"].as_u64() {
        values.extend([(text(least), true, "string_too_short"), (text(least - 1), false, "string_too_short")]);
    }
    if let Some(most) = schema["maxItems"].as_u64() {
        values.extend([(json!(vec![1; most as usize]), true, "too_long")]);
        values.extend([(json!(vec![1; most as usize + 1]), false, "too_long")]);
    }
    if let Some(most) = schema["maximum"].as_i64() {
        values.extend([(json!(most), true, ""), (json!(most + 1), false, "")]);
    }
    if let Some(least) = schema["minimum"].as_i64() {
        values.extend([(json!(least), true, ""), (json!(least - 1), false, "")]);
    }
    if let Some(least) = schema["exclusiveMinimum"].as_i64() {
        values.extend([(json!(least + 1), true, ""), (json!(least), false, "")]);
    }
    if let Some(words) = schema["enum"].as_array() {
        values.extend(words.iter().map(|word| (word.clone(), true, "")));
        values.push((json!("nonsense"), false, ""));
    }
    values
}

#[tokio::test]
async fn limits_of_fields_of_bodies_are_declared_and_true() {
    let mut broker = Broker::with()
        .set("LIMITS__REGISTRATIONS_PER_MINUTE", "0")
        .set("LIMITS__LOGIN_FAILURES_PER_MINUTE", "0")
        .start()
        .await;
    let admin = broker.admin().await;
    let (document, operations) = operations(&broker).await;
    let mut seen = Vec::new();
    for operation in operations {
        for (content_type, schema) in operation.bodies(&document) {
            let alternatives = schema["oneOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
            let properties = alternatives.iter().flat_map(|one| one["properties"].as_object().unwrap().clone());
            for (name, property) in properties {
                for (value, is_good, kind) in at_the_limits(&resolve(&property, &document)) {
                    let mut body = schema["example"].clone();
                    body[&name] = value.clone();
                    // nothing is done where that is refused
                    body["unknown"] = json!("x");
                    let request = operation.request(&admin, &operation.concrete(), Some(&(content_type.clone(), body)));
                    let (status, body) = answer(request).await;
                    let faults = body["detail"].as_array().into_iter().flatten();
                    let is_about = |fault: &&Value| fault["loc"] == json!(["body", name]);
                    let told = faults.filter(is_about).any(|fault| kind.is_empty() || fault["type"] == kind);
                    let what = format!("{} {} {name}: {status} {body}", operation.method, operation.path);
                    assert_eq!(told, !is_good, "{what}");
                    assert!(is_good || status == 422, "{what}");
                }
                let limits = ["maxLength", "maxItems", "maximum", "enum"];
                seen.extend(
                    limits
                        .into_iter()
                        .filter(|limit| property.get(limit).is_some())
                        .map(|limit| format!("{} {name} {limit} {}", operation.path, property[limit])),
                );
            }
        }
    }
    for expected in [
        "/topics/create topic_id maxLength 100",
        "/api/rooms/ name maxLength 100",
        "/api/rooms/{room_id}/messages content maxLength 32768",
        "/api/commands targets maxItems 10000",
        "/api/commands timeout_secs maximum 300",
        "/api/gateways max_loss_percent maximum 100",
        "/api/users/ password maxLength 128",
        "/auth/login username maxLength 254",
    ] {
        assert!(seen.iter().any(|one| one == expected), "{expected}: {seen:#?}");
    }
    let role = |path: &str| seen.iter().any(|one| one.starts_with(&format!("{path} role enum")));
    assert!(role("/api/users/{id}") && role("/api/rooms/{room_id}/members"), "{seen:#?}");
}
