//! How layers are read, and what is refused.

use super::*;

fn variables(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut layers = Layers::new();
    layers.variables("environment", &pairs)?;
    layers.finish()
}

fn refusal(result: Result<Settings, SettingsError>) -> String {
    result.map(|_| ()).unwrap_err().to_string()
}

#[test]
fn the_built_in_settings_are_valid() {
    let settings = variables(&[]).unwrap();
    assert_eq!(settings.http.bind.port(), 8000);
    assert_eq!(settings.limits.frame_bytes, 65_536);
}

#[test]
fn the_production_overlay_is_valid() {
    let mut layers = Layers::new();
    layers.file("production.toml", include_str!("../../../config/production.toml")).unwrap();
    let settings = layers.finish().unwrap();
    assert!(!settings.http.public_reads);
    assert!(settings.check_secret().unwrap_err().to_string().contains("SECRET_KEY"));
}

#[test]
fn a_variable_is_read_as_the_type_of_its_key() {
    let settings = variables(&[
        ("SWITCHBOARD__HTTP__CORS_ORIGINS", "https://a.example, https://b.example"),
        ("SWITCHBOARD__HTTP__PUBLIC_READS", "false"),
        ("SWITCHBOARD__LIMITS__BAD_FRAMES", "3"),
    ])
    .unwrap();
    assert_eq!(settings.http.cors_origins, ["https://a.example", "https://b.example"]);
    assert!(!settings.http.public_reads);
    assert_eq!(settings.limits.bad_frames, 3);
}

#[test]
fn the_names_of_the_systems_before_work_unprefixed_and_lose_against_prefixed_ones() {
    let settings = variables(&[
        ("SECRET_KEY", "raw bytes"),
        ("ACCESS_TOKEN_EXPIRE_MINUTES", "30"),
        ("ALGORITHM", "HS256"),
        ("DATABASE_URL", "sqlite:///./app.db"),
        ("SWITCHBOARD__AUTH__ACCESS_TOKEN_MINUTES", "31"),
    ])
    .unwrap();
    assert_eq!(settings.auth.secret.expose(), "raw bytes");
    assert_eq!(settings.auth.access_token_minutes, 31);
    assert_eq!(settings.storage.database_url.expose(), "sqlite:///./app.db");
}

#[test]
fn a_wrong_key_or_value_is_named_with_its_layer() {
    let table = [
        (
            vec![("SWITCHBOARD__LIMITS__NOPE", "1")],
            "unknown key `limits.nope` (environment, SWITCHBOARD__LIMITS__NOPE)",
        ),
        (
            vec![("SWITCHBOARD__NOPE", "1")],
            "unknown key `SWITCHBOARD__NOPE` (environment): expected SWITCHBOARD__SECTION__KEY",
        ),
        (
            vec![("SWITCHBOARD__LIMITS__BAD_FRAMES", "many")],
            "bad value for `limits.bad_frames` (environment, SWITCHBOARD__LIMITS__BAD_FRAMES): expected a whole number",
        ),
        (
            vec![("ACCESS_TOKEN_EXPIRE_MINUTES", "0")],
            "bad value for `auth.access_token_minutes` (environment, ACCESS_TOKEN_EXPIRE_MINUTES): must be greater than 0",
        ),
        (vec![("ALGORITHM", "RS256")], "ALGORITHM (environment): only HS256 is supported"),
        (
            vec![("SWITCHBOARD_HTTP_BIND", "0.0.0.0:80")],
            "unknown key `SWITCHBOARD_HTTP_BIND` (environment): expected SWITCHBOARD__HTTP__BIND, with two underscores",
        ),
        (
            vec![("SWITCHBOARD_LIMITS__BODY_BYTES", "1")],
            "unknown key `SWITCHBOARD_LIMITS__BODY_BYTES` (environment): expected SWITCHBOARD__LIMITS__BODY_BYTES, with two underscores",
        ),
    ];
    for (given, expected) in table {
        assert_eq!(refusal(variables(&given)), expected);
    }
    assert!(refusal(variables(&[("SWITCHBOARD__HTTP__BIND", "here")])).contains("`http.bind`"));
    assert!(refusal(variables(&[("SWITCHBOARD__DEVICES__REGISTRATION", "maybe")])).contains("`open`"));
    assert!(refusal(variables(&[("SWITCHBOARD__LIMITS__FRAME_BYTES", "-1")])).contains("`limits.frame_bytes`"));
}

#[test]
fn variables_with_one_underscore_that_are_no_setting_are_told_of() {
    let settings = variables(&[
        ("SWITCHBOARD_URL", "http://localhost"),
        ("SWITCHBOARD_TEST_POSTGRES", "postgres://x"),
        ("SWITCHBOARD_TEST_REDIS", "redis://x"),
        ("SWITCHBOARD_PORT", "tcp://10.0.0.1:8000"),
        ("SWITCHBOARD_BIND", "0.0.0.0:80"),
    ]);
    assert_eq!(settings.unwrap().ignored_variables, ["SWITCHBOARD_PORT", "SWITCHBOARD_BIND"]);
}

#[test]
fn redis_is_on_this_machine_if_no_host_is_given_and_keys_without_effect_are_named() {
    let read = |given: &[(&str, &str)]| {
        let settings = variables(given).unwrap();
        let addresses = crate::settings::RedisAddress::all(&settings.redis).unwrap();
        (addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), settings.without_effect)
    };
    let none = Vec::<String>::new();
    assert_eq!(read(&[]), (String::new(), none.clone()));
    assert_eq!(read(&[("REDIS_HOST", ""), ("REDIS_PASSWORD", "")]), (String::new(), none.clone()));
    assert_eq!(read(&[("REDIS_PORT", "6380")]), ("redis://localhost:6380/0".to_owned(), none.clone()));
    assert_eq!(read(&[("SWITCHBOARD__REDIS__DB", "2")]), ("redis://localhost:6379/2".to_owned(), none.clone()));
    assert_eq!(read(&[("REDIS_PASSWORD", "hush"), ("REDIS_HOST", "cache")]), ("redis://cache:6379/0".to_owned(), none));
    let (address, in_vain) = read(&[("REDIS_URL", "redis://one"), ("REDIS_HOST", "two"), ("REDIS_PORT", "6380")]);
    assert_eq!(address, "redis://one:6379/0");
    assert_eq!(in_vain, ["redis.host (environment, REDIS_HOST)", "redis.port (environment, REDIS_PORT)"]);
    let (address, in_vain) = read(&[("REDIS_PORT", "6380"), ("SWITCHBOARD__REDIS__HOST", "")]);
    assert_eq!((address.as_str(), in_vain), ("", vec!["redis.port (environment, REDIS_PORT)".to_owned()]));
}

#[test]
fn redis_is_an_address_and_needs_a_secret() {
    let no_address = refusal(variables(&[("REDIS_URL", "http://:hidden@localhost")]));
    assert!(no_address.contains("environment, REDIS_URL") && !no_address.contains("hidden"), "{no_address}");
    let redis = ("REDIS_HOST", "localhost");
    let without = variables(&[redis]).unwrap().check_secret().unwrap_err();
    assert!(without.to_string().contains("set SECRET_KEY"), "{without}");
    variables(&[redis, ("SECRET_KEY", "short")]).unwrap().check_secret().unwrap();
}

#[test]
fn a_file_with_a_wrong_key_is_refused_by_name() {
    let mut layers = Layers::new();
    let error = layers.file("my.toml", "[http]\nbindd = \"x\"").unwrap_err();
    assert_eq!(error.to_string(), "unknown key `http.bindd` (my.toml)");
    let error = Layers::new().file("my.toml", "[http\n").unwrap_err();
    assert!(error.to_string().starts_with("my.toml: ") && !error.to_string().contains('\n'));
}

#[test]
fn gateways_are_a_list_of_tables() {
    let load = |text: &str| {
        let mut layers = Layers::new();
        layers.file("my.toml", text)?;
        layers.finish()
    };
    let entry = |rest: &str| format!("[[gateways]]\nid = 1\nname = \"a\"\naddress = \"192.0.2.1\"\n{rest}");
    let gateways =
        load(&entry("max_rtt_ms = 5\n[[gateways]]\nid = 2\nname = \"b\"\naddress = \"tcp://b:1\"\nparent_id = 1"));
    let gateways = gateways.unwrap().gateways();
    assert_eq!(
        (gateways.len(), gateways[0].max_rtt_ms, gateways[1].parent_id),
        (2, Some(5.0), Some(crate::domain::ids::GatewayId(1)))
    );
    let table = [
        (
            "gateways = 1".to_owned(),
            "bad value for `gateways` (my.toml): expected a list of gateways, each as [[gateways]]",
        ),
        (entry("nmae = 1"), "entry 1: unknown field `nmae`"),
        ("[[gateways]]\nid = 1\nname = \"a\"".to_owned(), "entry 1: missing field `address`"),
        (entry("parent_id = 2"), "gateway 1: parent_id: there is no gateway 2"),
        (entry("parent_id = 1"), "gateway 1: parent_id: it would be behind itself"),
        (entry("max_rtt_ms = 0"), "gateway 1: max_rtt_ms: "),
        (entry("max_loss_percent = 101"), "gateway 1: max_loss_percent: "),
        (entry("").repeat(2), "gateway 1: the id is there twice"),
        (entry("").replace("192.0.2.1", "-c 1"), "gateway 1: address: expected a host name"),
        (entry("").replace("\"a\"", "\"\""), "gateway 1: name: "),
        (entry("").replace("= 1", "= -1"), "gateway -1: id: "),
        ("[limits]\ngateways = 1\n".to_owned() + &entry("") + &entry("").replace("= 1", "= 2"), "limits.gateways"),
    ];
    for (text, expected) in table {
        let error = refusal(load(&text));
        assert!(error.contains("(my.toml)") && error.contains(expected), "{error}");
    }
}

#[test]
fn a_secret_is_never_shown() {
    let settings = variables(&[("SECRET_KEY", "hush-hush")]).unwrap();
    assert!(!format!("{settings:?}").contains("hush"));
}
