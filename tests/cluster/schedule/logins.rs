//! Users who log in, and whose tokens are used and refreshed at any node.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, rngs::StdRng};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use switchboard::client::Client;
use tokio::time::sleep;

use super::{chat, world::World};

/// A user, and the tokens that the last login or refresh has brought.
pub struct Visitor {
    pub index: usize,
    pub world: Arc<World>,
    pub random: StdRng,
    pub tokens: Option<(String, String)>,
}

impl Visitor {
    pub async fn run(mut self) {
        while self.world.is_sending() {
            let pause = self.world.pace * self.random.random_range(5..15);
            sleep(pause).await;
            let Some((node, url)) = self.world.node(&mut self.random) else { continue };
            let client = Client::new(&url).unwrap();
            let patience = Duration::from_millis(self.random.random_range(500..3000));
            let ask = |request: RequestBuilder| answer(request.timeout(patience));
            match self.tokens.take() {
                None => {
                    let (username, password) = chat::login(self.index);
                    let form = [("username", username), ("password", password)];
                    let answered = ask(client.request(Method::POST, "/token").form(&form)).await;
                    self.tokens = self.granted("a login", node, answered);
                }
                Some((_, refresh)) if self.random.random_bool(0.2) => {
                    let body = json!({ "refresh_token": refresh });
                    // without an answer it may have been used
                    let answered = ask(client.request(Method::POST, "/auth/refresh").json(&body)).await;
                    self.tokens = self.granted("a refresh", node, answered);
                }
                Some(tokens) => {
                    let me = client.with_token(&tokens.0);
                    let answered = ask(me.request(Method::GET, "/api/users/me")).await;
                    self.judge("a token", node, answered.as_ref());
                    self.tokens = Some(tokens);
                }
            }
        }
    }

    /// The tokens of an answer.
    fn granted(&self, what: &str, node: usize, answered: Option<(u16, Value)>) -> Option<(String, String)> {
        self.judge(what, node, answered.as_ref());
        let (_, body) = answered.filter(|(status, _)| *status == 200)?;
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        Some((text("access_token")?, text("refresh_token")?))
    }

    fn judge(&self, what: &str, node: usize, answered: Option<&(u16, Value)>) {
        match answered {
            Some((200 | 429 | 503 | 504, _)) | None => {}
            Some((status, body)) => {
                let user = self.index;
                self.world.finding(&format!("{what} of user {user} is answered with {status} at node {node}: {body}"));
            }
        }
    }
}

/// Status and body, if the node answers.
pub async fn answer(request: RequestBuilder) -> Option<(u16, Value)> {
    let response = request.send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.json().await.ok()?))
}
