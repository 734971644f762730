//! What people do in a browser, done in Chromium against the built broker.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic is the verdict")]

mod chromium;
#[path = "../api"]
mod api {
    #[expect(dead_code, unused_imports, reason = "the tests of the API use all of it")]
    pub mod support;
}

use api::support::Broker;
use chromium::Browser;

/// The code blocks of the README in this language.
fn readme_blocks(language: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let fence = format!("```{language}\n");
    readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn the_chat_example_of_the_readme_works_as_written() {
    let broker = Broker::start().await;
    let example = readme_blocks("javascript").pop().expect("an example");
    let browser = Browser::start().await;
    let mut alice = browser.open(&format!("{}/docs", broker.url)).await;
    alice.run(&example).await;
    assert_eq!(alice.next_line().await, "alice is here");
    assert_eq!(alice.next_line().await, "alice: Hello from alice!");

    let mut bob = browser.open_private(&format!("{}/docs", broker.url)).await;
    bob.run(&example.replace("\"alice\"", "\"bob\"")).await;
    assert_eq!(bob.next_line().await, "bob is here");
    assert_eq!(bob.next_line().await, "bob: Hello from bob!");
    assert_eq!(alice.next_line().await, "bob is here");
    assert_eq!(alice.next_line().await, "bob: Hello from bob!");

    // once more, with what is there already
    let mut again = browser.open_private(&format!("{}/docs", broker.url)).await;
    again.run(&example).await;
    assert_eq!(again.next_line().await, "alice is here");
    assert_eq!(again.next_line().await, "alice: Hello from alice!");
    assert_eq!(alice.next_line().await, "alice is here");
    assert_eq!(alice.next_line().await, "alice: Hello from alice!");

    drop(broker);
    assert_eq!(alice.next_line().await, "closed with 1006");
}

/// Finds an element as soon as it is there.
const FOUND: &str = r"
    const found = async (selector, parent = document) => {
        for (;;) {
            const element = parent.querySelector(selector);
            if (element) return element;
            await new Promise((next) => setTimeout(next, 20));
        }
    };
";

#[tokio::test]
async fn the_documentation_works_under_its_content_security_policy() {
    let broker = Broker::start().await;
    let browser = Browser::start().await;
    let mut swagger = browser.open(&format!("{}/docs", broker.url)).await;
    let try_it = r#"
        const operation = await found("[id$=-get_healthz]");
        (await found("button.opblock-summary-control", operation)).click();
        (await found("button.try-out__btn", operation)).click();
        (await found("button.execute", operation)).click();
        console.log((await found(".live-responses-table tr.response .response-col_status", operation)).textContent.trim());
        let violation = new Promise((found) => addEventListener("securitypolicyviolation", (event) => found(event)));
        document.body.appendChild(document.createElement("script")).textContent = "console.log('injected')";
        console.log((await violation).effectiveDirective);
    "#;
    swagger.run(&format!("{FOUND}{try_it}")).await;
    assert_eq!(swagger.next_line().await, "200");
    assert_eq!(swagger.next_line().await, "script-src-elem");
    let mut redoc = browser.open(&format!("{}/redoc", broker.url)).await;
    let read_it =
        r##"console.log((await found("#redoc-container h1")).textContent.includes("Switchboard") ? "read" : "?");"##;
    redoc.run(&format!("{FOUND}{read_it}")).await;
    assert_eq!(redoc.next_line().await, "read");
    let mut frames = browser.open(&format!("{}/docs/frames", broker.url)).await;
    frames.run(r#"console.log(getComputedStyle(document.querySelector("article table")).borderCollapse);"#).await;
    assert_eq!(frames.next_line().await, "collapse");
}
