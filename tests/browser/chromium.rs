//! Chromium without a window, driven through its DevTools protocol.

use std::{collections::VecDeque, process::Stdio};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

use crate::api::support::within;

/// A browser of its own; it ends with its test.
pub struct Browser {
    /// where DevTools listens
    address: String,
    _process: Child,
    _profile: TempDir,
}

/// A page in it.
pub struct Page {
    devtools: DevTools,
    session: String,
}

impl Browser {
    /// Starts one. `CHROMIUM` names the program, if it is not one of the usual ones.
    pub async fn start() -> Self {
        let named = std::env::var("CHROMIUM").ok();
        let names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
        let installed = |name: &&str| {
            std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(name).exists()))
        };
        let program = named.or_else(|| names.iter().find(|name| installed(name)).map(|name| (*name).to_owned()));
        let profile = TempDir::new().unwrap();
        let mut process = Command::new(program.expect("Chromium is installed; scripts/test does that"))
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--remote-debugging-port=0", "about:blank"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Chromium runs");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = within(async {
            loop {
                let line = lines.next_line().await.unwrap().expect("Chromium tells where DevTools listens");
                if let Some(address) = line.strip_prefix("DevTools listening on ") {
                    return address.to_owned();
                }
            }
        })
        .await;
        // read on, so that it never blocks
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { address, _process: process, _profile: profile }
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) -> Page {
        self.open_in(url, None).await
    }

    /// Opens a page that shares no cookies with the others.
    pub async fn open_private(&self, url: &str) -> Page {
        let mut devtools = DevTools::connect(&self.address).await;
        // such a context lasts as long as the connection that it was made on, unless it is told otherwise
        let context = devtools.call(None, "Target.createBrowserContext", json!({ "disposeOnDetach": false })).await;
        self.open_in(url, Some(context["browserContextId"].clone())).await
    }

    async fn open_in(&self, url: &str, context: Option<Value>) -> Page {
        let mut devtools = DevTools::connect(&self.address).await;
        let mut target = json!({ "url": "about:blank" });
        if let Some(context) = context {
            target["browserContextId"] = context;
        }
        let target = devtools.call(None, "Target.createTarget", target).await;
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = devtools.call(None, "Target.attachToTarget", attach).await;
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page.enable", "Runtime.enable"] {
            devtools.call(Some(&session), domain, json!({})).await;
        }
        devtools.call(Some(&session), "Page.navigate", json!({ "url": url })).await;
        devtools.event("Page.loadEventFired").await;
        Page { devtools, session }
    }
}

impl Page {
    /// Runs a script as the console would, with `await` on its top level.
    pub async fn run(&mut self, script: &str) {
        let evaluate = json!({ "expression": script, "awaitPromise": true, "replMode": true });
        let result = self.devtools.call(Some(&self.session), "Runtime.evaluate", evaluate).await;
        assert!(result.get("exceptionDetails").is_none(), "{result}");
    }

    /// The next line that the page wrote to its console.
    pub async fn next_line(&mut self) -> String {
        let event = self.devtools.event("Runtime.consoleAPICalled").await;
        event["args"][0]["value"].as_str().unwrap_or_default().to_owned()
    }
}

struct DevTools {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    /// events that came while an answer was awaited
    events: VecDeque<Value>,
}

impl DevTools {
    async fn connect(address: &str) -> Self {
        let (socket, _) = within(connect_async(address)).await.unwrap();
        Self { socket, last_id: 0, events: VecDeque::new() }
    }

    async fn receive(&mut self) -> Value {
        loop {
            if let Message::Text(text) = within(self.socket.next()).await.expect("Chromium runs").unwrap() {
                return serde_json::from_str(&text).unwrap();
            }
        }
    }

    /// Calls a method and waits for its result.
    async fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut call = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = session {
            call["sessionId"] = json!(session);
        }
        self.socket.send(Message::text(call.to_string())).await.unwrap();
        loop {
            let mut answer = self.receive().await;
            if answer["id"] == self.last_id {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push_back(answer);
        }
    }

    /// Waits for the next event of that name.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            let mut event = match self.events.pop_front() {
                Some(event) => event,
                None => self.receive().await,
            };
            if event["method"] == name {
                return event["params"].take();
            }
        }
    }
}
