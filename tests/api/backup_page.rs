//! `docs/backup.md`, done word by word.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use crate::{
    readme::{bash_in, in_the_background, section_of, shell_lines_of},
    support::{Broker, create_database, get},
};

const PAGE: &str = include_str!("../../docs/backup.md");

/// The secret of all brokers here.
const SECRET: &str = "the secret of brokers of a page";

/// The lines of a block that is marked like this.
fn block(kind: &str) -> Vec<&'static str> {
    let (_, block) = PAGE.split_once(&format!("```{kind}\n")).expect("a block");
    block.split("```").next().unwrap().lines().collect()
}

#[tokio::test]
async fn the_steps_of_the_page_about_backups_work_as_printed() {
    let mut broker = Broker::with().env("DATABASE_URL", "").start().await;
    let dir = broker.setup().dir();
    let lines = |heading| shell_lines_of(PAGE, heading).join("\n");
    // as on most machines, where others may read what is new
    let printed = bash_in(broker.setup(), &format!("umask 022\n{}", lines("Backup")));
    assert!(
        printed.contains("backed up SQLite in ./data/switchboard.db to backup.tar") && printed.contains("jwt-secret")
    );
    assert_eq!(fs::metadata(dir.join("backup.tar")).unwrap().permissions().mode() & 0o777, 0o600);
    // the table has all files
    let names = section_of(PAGE, "Backup").lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    let mut listed: Vec<_> = printed.lines().filter(|line| !line.contains(' ')).collect();
    listed.sort_unstable();
    assert_eq!(names, listed);

    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.toml"), dir.join("production.toml")).unwrap();
    let place = dir.display().to_string();
    for line in block("cron") {
        let command = line.splitn(6, ' ').nth(5).unwrap().replace("\\%", "%").replace("/srv/switchboard", &place);
        bash_in(broker.setup(), &command);
    }
    assert!((1..=7).any(|day| dir.join(format!("backup-{day}.tar")).exists()));
    for line in block("ini") {
        match line.split_once('=').unwrap() {
            ("ExecStart", command) => drop(bash_in(broker.setup(), command.trim_start_matches("/usr/local/bin/"))),
            ("OnCalendar", time) => match Command::new("systemd-analyze").args(["calendar", time]).output() {
                Ok(understood) => assert!(understood.status.success(), "{understood:?}"),
                Err(error) => eprintln!("\n*** NOT TESTED: the time as systemd reads it: {error} ***\n"),
            },
            _ => panic!("{line}"),
        }
    }
    assert!(bash_in(broker.setup(), &lines("Upgrade")).contains("applied"));

    let mut setup = broker.kill().await;
    let mut script = String::new();
    for line in shell_lines_of(PAGE, "Restore") {
        script += &match line {
            _ if line.contains("switchboard serve ") => {
                in_the_background(&format!("{line} --bind 127.0.0.1:0"), "listens on") + "\nkill $beside; wait $beside"
            }
            _ => line.to_owned(),
        };
        script += "\n";
    }
    assert!(bash_in(&mut setup, &script).contains("before-restore-"));
    assert!(bash_in(&mut setup, &lines("Going back")).contains("pending"));
    setup.start().await;
}

#[tokio::test]
async fn the_steps_of_the_page_about_postgresql_work_as_printed() {
    let Ok(server) = std::env::var("SWITCHBOARD_TEST_POSTGRES") else { return };
    let restored = create_database(&server).await;
    let setup = Broker::with().env("SECRET_KEY", SECRET).env("RESTORED_URL", &restored);
    let mut broker = setup.alone("its processes end before the others are there").start().await;
    let (client, device) = broker.device("before").await;
    bash_in(broker.setup(), &shell_lines_of(PAGE, "PostgreSQL").join("\n"));
    let _old = broker.kill().await;
    let setup = Broker::with().env("SECRET_KEY", SECRET).env("DATABASE_URL", &restored);
    let mut broker = setup.alone("it has the database of another one").start().await;
    let client = broker.client().with_token(client.token().unwrap());
    assert_eq!(get(&client, &format!("/devices/{}", device.uuid)).await.0, 200);
    let user = broker.user("olga", "user").await;
    assert!(get(&user, "/api/users/me/").await.1["id"].as_i64().unwrap() > 1_000_000_000);
}
