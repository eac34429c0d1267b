//! What is shipped beside the program, held against the program: configurations are read by the real parser, manifests
//! are read as YAML and asked for what must not get lost in them. No server is needed.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use outrigger::config::Config;
use serde_json::Value;

/// Keys that have no default: they stand in the example as comments.
const WITHOUT_DEFAULT: [&str; 7] = [
    "server.tokens_file",
    "journal.encryption_key_file",
    "audit.store",
    "stores.pg.password_file",
    "stores.pg.ca_file",
    "stores.graph.password_file",
    "stores.vectors.api_key_file",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn parse(text: &str) -> Config {
    Config::parse(text, []).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The keys that the parser knows in a section, as it names them itself when it meets one that it does not know.
fn known_keys(section: &str, example: &str) -> BTreeSet<String> {
    let variable = format!("OUTRIGGER__{}__NO_SUCH_KEY", section.to_uppercase().replace('.', "__"));
    let fault = Config::parse(example, [(OsString::from(variable), OsString::from("1"))]).unwrap_err();
    let lead = format!("is not a key: {section} knows ");
    let fault = fault.faults.iter().find_map(|fault| fault.split_once(&lead)).expect("the parser names what it knows");
    fault.1.split(", ").map(|key| format!("{section}.{key}")).collect()
}

/// Every key of the parser, `stores.NAME` as `pg`, `graph` and `vectors`.
fn all_keys(example: &str) -> BTreeSet<String> {
    let sections = ["server", "journal", "locks", "audit", "stores.pg", "stores.graph", "stores.vectors"];
    let pools = ["stores.pg.pool", "stores.graph.pool", "stores.vectors.pool"];
    let keys = sections.into_iter().chain(pools).flat_map(|section| known_keys(section, example));
    keys.filter(|key| !key.ends_with(".pool")).collect()
}

/// Every key that is written in a TOML text.
fn written_keys(text: &str) -> BTreeSet<String> {
    fn walk(table: &toml::Table, path: &str, keys: &mut BTreeSet<String>) {
        for (key, value) in table {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            match value {
                toml::Value::Table(inner) => walk(inner, &path, keys),
                _ => drop(keys.insert(path)),
            }
        }
    }
    let mut keys = BTreeSet::new();
    walk(&text.parse().unwrap(), "", &mut keys);
    keys
}

/// The example with what is commented out put in, its secrets in real files.
fn complete(example: &str, dir: &Path) -> String {
    let lines =
        example.lines().map(|line| match line.strip_prefix("# ").and_then(|rest| rest.split_once("_file = ")) {
            Some((key, _)) if !key.contains(' ') => {
                let file = dir.join(key);
                let hex = "ab".repeat(32);
                let text = match key {
                    "encryption_key" => hex,
                    _ => format!("[[principal]]\nname = \"app\"\ntoken_sha256 = \"{hex}\"\nrole = \"app\"\n"),
                };
                fs::write(&file, text).unwrap();
                format!("{key}_file = {:?}", file.display().to_string())
            }
            _ if line.starts_with("# store = ") => line.trim_start_matches("# ").to_owned(),
            _ => line.to_owned(),
        });
    lines.collect::<Vec<_>>().join("\n")
}

/// A configuration whose secrets stand where this machine has none: they are put in files of `dir`.
fn with_secrets_here(text: &str, prefix: &str, dir: &Path) -> String {
    let mut text = text.to_owned();
    let names: Vec<String> =
        text.split(prefix).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    assert!(!names.is_empty(), "no secret below {prefix}");
    for name in names {
        fs::write(dir.join(&name), "secret").unwrap();
        text = text.replace(&format!("{prefix}{name}"), &dir.join(&name).display().to_string());
    }
    text
}

#[test]
fn the_example_holds_every_key() {
    let example = read("deploy/outrigger.toml");
    let dir = tempfile::tempdir().unwrap();
    let complete = complete(&example, dir.path());
    parse(&complete);
    let known = all_keys(&example);
    assert!(known.len() > 35, "only {known:?}");
    assert_eq!(written_keys(&complete), known);
    let commented: BTreeSet<String> = known.difference(&written_keys(&example)).cloned().collect();
    assert_eq!(commented, WITHOUT_DEFAULT.map(str::to_owned).into());
}

#[test]
fn the_example_holds_every_default() {
    let example = read("deploy/outrigger.toml");
    // Only what has no default; the store of each name is of the same kind.
    let least: String = example
        .lines()
        .filter(|line| ["[stores.", "kind = ", "url = "].iter().any(|start| line.starts_with(start)))
        .map(|line| format!("{line}\n"))
        .collect();
    assert_eq!(format!("{:#?}", parse(&example)), format!("{:#?}", parse(&least)));
}

#[test]
fn the_readme_lists_every_key() {
    let readme = read("README.md");
    let table = readme.split("## Configuration").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    for key in all_keys(&read("deploy/outrigger.toml")) {
        let short = key.rsplit('.').next().unwrap();
        let name = if key.contains(".pool.") { format!("pool.{short}") } else { short.to_owned() };
        assert!(table.contains(&format!("`{name}`")), "README.md does not list {key}");
    }
}

#[test]
fn compose_configures_what_the_program_knows() {
    let compose = yaml(&read("deploy/compose.yaml"));
    let sidecar = &compose["services"]["outrigger"];
    let dir = tempfile::tempdir().unwrap();
    let secrets: Vec<&str> = sidecar["secrets"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let env = sidecar["environment"].as_object().unwrap().iter().map(|(name, value)| {
        let value = value.as_str().unwrap();
        let value = match value.strip_prefix("/run/secrets/") {
            Some(secret) => {
                assert!(secrets.contains(&secret), "the service outrigger is not given the secret {secret}");
                fs::write(dir.path().join(secret), "secret").unwrap();
                dir.path().join(secret).display().to_string()
            }
            None => value.to_owned(),
        };
        (OsString::from(name), OsString::from(value))
    });
    let config = Config::parse(&read("deploy/outrigger.toml"), env).unwrap();
    let hosts: Vec<String> = config.stores.values().map(|store| store.settings.url().to_owned()).collect();
    for (store, port) in [("postgres", 5432), ("neo4j", 7687), ("qdrant", 6334)] {
        assert!(hosts.iter().any(|url| url.contains(&format!("://{store}:{port}"))), "{hosts:?}");
        assert!(compose["services"][store].is_object(), "there is no service {store}");
    }
    let command = compose["services"]["postgres"]["command"].to_string();
    assert!(command.contains("max_prepared_transactions=64"), "{command}");
}

#[test]
fn compose_publishes_on_loopback_and_mounts_what_is_there() {
    let compose = yaml(&read("deploy/compose.yaml"));
    let mut mounted = 0;
    for (name, service) in compose["services"].as_object().unwrap() {
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().unwrap();
            assert!(port.starts_with("127.0.0.1:"), "{name} publishes {port} beyond loopback");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let source = volume.as_str().unwrap().split(':').next().unwrap();
            if source.starts_with('.') {
                assert!(root().join("deploy").join(source).exists(), "{name} mounts {source}, which is not there");
                mounted += 1;
            } else {
                assert!(compose["volumes"].as_object().unwrap().contains_key(source), "there is no volume {source}");
            }
        }
        for secret in service["secrets"].as_array().into_iter().flatten() {
            assert!(compose["secrets"][secret.as_str().unwrap()].is_object(), "there is no secret {secret}");
        }
    }
    assert!(mounted >= 4, "only {mounted} files are mounted");
    let prometheus = yaml(&read("deploy/prometheus.yml"));
    assert_eq!(prometheus["scrape_configs"][0]["job_name"], "outrigger", "the alert OutriggerDown asks for this job");
    assert_eq!(prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0], "outrigger:7118");
}

#[test]
fn the_manifest_is_a_native_sidecar_that_owns_its_log() {
    let text = read("deploy/kubernetes.yaml");
    let documents: Vec<Value> = text.split("\n---\n").map(yaml).collect();
    let of_kind = |kind: &str| documents.iter().find(|d| d["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"));
    let set = &of_kind("StatefulSet")["spec"];
    let pod = &set["template"]["spec"];
    let sidecar = &pod["initContainers"][0];
    assert_eq!(sidecar["restartPolicy"], "Always", "without it this is an init container that never ends");
    assert_eq!(set["volumeClaimTemplates"][0]["spec"]["accessModes"], serde_json::json!(["ReadWriteOncePod"]));
    assert_eq!(sidecar["securityContext"]["runAsNonRoot"], true);
    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        assert_eq!(sidecar[probe]["httpGet"]["path"], path, "{probe}");
        assert_eq!(sidecar[probe]["httpGet"]["port"], sidecar["ports"][0]["name"], "{probe}");
    }

    let dir = tempfile::tempdir().unwrap();
    let config = of_kind("ConfigMap")["data"]["outrigger.toml"].as_str().unwrap();
    let config = parse(&with_secrets_here(config, "/run/secrets/outrigger/", dir.path()));
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:7117");
    let porch = config.server.admin_listen.to_string();
    assert_eq!(porch, format!("0.0.0.0:{}", sidecar["ports"][0]["containerPort"]));
    assert_eq!(of_kind("Service")["spec"]["ports"][0]["port"], sidecar["ports"][0]["containerPort"]);
    let mounts = sidecar["volumeMounts"].as_array().unwrap();
    let is_mounted = |path: PathBuf| mounts.iter().any(|m| path.starts_with(m["mountPath"].as_str().unwrap()));
    assert!(is_mounted(config.journal.dir.clone()), "the journal stands on no volume");
    let ends = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(config.server.drain.as_secs() < ends, "the drain is cut short");
}

#[test]
fn the_image_runs_as_nobody_special_and_says_how_it_is() {
    let file = read("deploy/Dockerfile");
    let last = file.split("\nFROM ").last().unwrap();
    assert!(last.contains("\nUSER 10001"), "the last stage runs as root");
    assert!(last.contains("\nHEALTHCHECK ") && last.contains("/readyz"), "nobody asks how it is");
    assert!(file.contains("cargo build --release --locked --package outrigger --bin outrigger"));
    let manifest: toml::Table = read("Cargo.toml").parse().unwrap();
    let version = manifest["workspace"]["package"]["rust-version"].as_str().unwrap();
    assert!(
        file.starts_with("# syntax=") && file.contains(&format!("FROM rust:{version}-")),
        "builds with another Rust"
    );
}
