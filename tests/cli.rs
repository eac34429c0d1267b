//! The real program, without any store: its exit codes, its answers, and a whole life of `serve`.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its body does")]

#[path = "cli/wal.rs"]
mod wal;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use outrigger_wal::{Options, Wal};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder with a configuration whose stores are not there.
struct Place {
    dir: TempDir,
    door: u16,
    porch: u16,
}

impl Place {
    fn new() -> Self {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Ports that were free a moment ago: the dead one stays unused, the others are taken at once.
        let (dead, door, porch) = (free(), free(), free());
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{door}\"\nadmin_listen = \"127.0.0.1:{porch}\"\ndrain_ms = 2000\n\
             [journal]\ndir = \"{}\"\nsegment_bytes = 1048576\nforce_filesystem = true\n\
             [stores.pg]\nkind = \"postgres\"\nurl = \"postgres://127.0.0.1:{dead}/app\"\n\
             [stores.graph]\nkind = \"neo4j\"\nurl = \"bolt://127.0.0.1:{dead}\"\nconnect_timeout_ms = 500\n",
            dir.path().join("journal").display(),
        );
        std::fs::write(dir.path().join("outrigger.toml"), text).unwrap();
        Self { dir, door, porch }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = program();
        command.args(args).current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        read(self.command(args).output().unwrap())
    }

    fn json(&self, args: &[&str]) -> (i32, Value) {
        let (code, out, err) = self.run(args);
        (code, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{args:?}: {e}: {out} {err}")))
    }

    /// Starts `serve` and waits until the porch says that it is ready.
    fn serve(&self) -> Sidecar {
        let child = self.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap();
        let sidecar = Sidecar(child);
        let until = Instant::now() + Duration::from_secs(60);
        while !get(self.porch, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            assert!(Instant::now() < until, "it never got ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        sidecar
    }
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
    command.env_remove("OUTRIGGER_CONFIG").env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

fn read(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().expect("it was not killed"), text(output.stdout), text(output.stderr))
}

struct Sidecar(Child);

impl Sidecar {
    fn stop(mut self) -> i32 {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap().code().expect("it ends by itself")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

fn get(port: u16, path: &str) -> Option<String> {
    send(port, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

#[test]
fn usage_is_answered_with_its_own_exit_code() {
    for args in [&["nonsense"][..], &["txn"], &["wal", "dump", "--from", "x"], &["--log-format", "xml", "check"]] {
        assert_eq!(program().args(args).output().unwrap().status.code(), Some(2), "{args:?}");
    }
    let (code, out, _) = read(program().arg("--version").output().unwrap());
    assert_eq!((code, out.trim()), (0, concat!("outrigger ", env!("CARGO_PKG_VERSION"))));
    for shell in ["bash", "zsh", "fish"] {
        let (code, out, _) = read(program().args(["completions", shell]).output().unwrap());
        assert!(code == 0 && out.contains("outrigger"), "{shell}");
    }
}

#[test]
fn a_configuration_is_checked_wherever_it_stands() {
    let place = Place::new();
    let (code, out, _) = place.run(&["check"]);
    assert!(code == 0 && out.contains("The configuration is sound.") && out.contains("stores.graph  neo4j at bolt:"));
    assert_eq!(place.json(&["check", "--json"]), (0, json!({"ok": true, "faults": [], "warnings": []})));

    let bad = place.dir.path().join("bad.toml");
    std::fs::write(&bad, "[server]\nlissten = 1\n").unwrap();
    let (code, _, err) = place.run(&["--config", "bad.toml", "check"]);
    assert!(code == 1 && err.contains("server.lissten is not a key"), "{err}");
    let (code, out) = read_json(place.command(&["check", "--json"]).env("OUTRIGGER_CONFIG", &bad));
    assert_eq!((code, out["faults"].as_array().map(Vec::len)), (1, Some(2)));
    let (code, out) = read_json(place.command(&["check", "--json"]).env("OUTRIGGER__JOURNAL__SEGMENT_BYTES", "1"));
    assert!(code == 1 && out["faults"][0].as_str().unwrap().contains("OUTRIGGER__JOURNAL__SEGMENT_BYTES"));
    let (code, _, err) = place.run(&["--config", "gone.toml", "check"]);
    assert!(code == 1 && err.contains("gone.toml"));
}

fn read_json(command: &mut Command) -> (i32, Value) {
    let (code, out, _) = read(command.output().unwrap());
    (code, serde_json::from_str(&out).unwrap())
}

#[test]
fn statements_are_printed_and_absent_stores_reported() {
    let place = Place::new();
    let (code, out, _) = place.run(&["init", "--print"]);
    assert!(code == 0 && out.contains("-- pg (postgres)") && out.contains("// graph (neo4j)"), "{out}");
    assert!(out.contains("outrigger.decision") && out.contains("OutriggerDecision"));
    let (_, statements) = place.json(&["init", "--print", "--json"]);
    assert!(statements["pg"].as_array().is_some_and(|list| !list.is_empty()));
    for command in ["init", "doctor"] {
        let (code, out, _) = place.run(&[command]);
        assert_eq!(code, 3, "{out}");
        assert!(out.contains("FAULT: store_unavailable"), "{out}");
    }
    let (code, out) = place.json(&["doctor", "--json"]);
    assert_eq!((code, &out["stores"]["pg"]["code"]), (3, &json!("store_unavailable")));
    assert!(out["journal"]["fine"].as_str().unwrap().contains("will be made"));
}

#[test]
fn the_log_is_looked_at_without_a_sidecar() {
    let place = Place::new();
    let (code, _, err) = place.run(&["wal", "stat"]);
    assert!(code == 3 && err.contains("there is no log"), "{err}");
    let options = Options { segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() };
    let (wal, _) = Wal::open(&place.journal(), options).unwrap();
    for n in 0..10_u8 {
        let appended = wal.append(200, &[n; 100]).unwrap();
        wal.flush(appended.end).unwrap();
    }
    // Beside the living owner.
    let (code, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!((code, &found["records"], &found["corrupt"]), (0, &json!(10), &json!([])));
    wal.close().unwrap();
    let (code, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!((code, &found["segments"], &found["torn_bytes"]), (0, &json!(1), &json!(0)));
    let (_, stat) = place.json(&["wal", "stat", "--json"]);
    assert_eq!(stat["segments"][0]["bytes"], 1 << 20);
    let (_, out, _) = place.run(&["wal", "dump", "--json", "--limit", "3", "--values"]);
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["kind"], &lines[0]["bytes"]), (3, &json!("unknown"), &json!(100)));
    assert!(lines[2]["payload"].as_str().unwrap().starts_with("AgIC"));
    let (_, rest, _) = place.run(&["wal", "dump", "--json", "--from", &lines[2]["lsn"].to_string()]);
    assert_eq!(rest.lines().count(), 8);
    damage(&place.journal(), lines[1]["lsn"].as_u64().unwrap());
    let (code, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!((code, found["corrupt"].as_array().map(Vec::len)), (1, Some(1)), "{found}");
    let (code, out, _) = place.run(&["wal", "verify"]);
    assert!(code == 1 && out.contains("FAULT: "), "{out}");
    // A sidecar over it lives, serves nothing, and says why.
    let mut sidecar = Sidecar(place.command(&["serve"]).stderr(Stdio::null()).spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = get(place.door, "/v1/status") {
            break status;
        }
        assert!(Instant::now() < until && sidecar.0.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.contains("\"state\":\"repair\""), "{status}");
    for part in ["acknowledged records in", "are lost", "outrigger wal repair", "is given up", "neither bring damaged"]
    {
        assert!(status.contains(part), "no `{part}` in {status}");
    }
    assert!(get(place.porch, "/livez").unwrap().starts_with("HTTP/1.1 200"));
    assert!(get(place.porch, "/readyz").unwrap().starts_with("HTTP/1.1 503"));
    assert!(get(place.door, "/v1/transactions").unwrap().contains("journal_unavailable"));
    assert_eq!(sidecar.stop(), 0);
}

/// Flips a bit of the record at `lsn`, in the first segment.
fn damage(journal: &Path, lsn: u64) {
    let mut names: Vec<_> = std::fs::read_dir(journal).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|extension| extension != "token"));
    names.sort();
    let segment = names.iter().find(|path| path.metadata().unwrap().len() == 1 << 20).expect("a segment");
    let mut bytes = std::fs::read(segment).unwrap();
    let at = usize::try_from(lsn).unwrap() + 40;
    bytes[at] ^= 1;
    std::fs::write(segment, bytes).unwrap();
}

#[test]
fn a_sidecar_lives_and_stops_in_order() {
    let place = Place::new();
    let sidecar = place.serve();
    // Its stores are down, which does not unready it: its transactions are told so.
    let body = r#"{"operations":[{"store":"pg","sql":"SELECT 1"}]}"#;
    let answer = send(
        place.door,
        &format!(
            "POST /v1/transactions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        ),
    );
    let answer = answer.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("store_unavailable"), "{answer}");
    let status = get(place.door, "/v1/status").unwrap();
    let status: Value = serde_json::from_str(status.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!((&status["ready"], &status["stores"]["pg"]["kind"]), (&json!(true), &json!("postgres")));
    let metrics = get(place.porch, "/metrics").unwrap();
    assert!(metrics.contains("outrigger_store_up{store=\"graph\"} 0"), "{metrics}");
    assert!(metrics.contains("outrigger_http_requests_total{route=\"POST /v1/transactions\",status=\"503\"} 1"));
    assert!(idle_memory(&sidecar) < 30 << 20, "{} bytes", idle_memory(&sidecar));

    let (code, list) = place.json(&["txn", "list", "--json"]);
    assert_eq!((code, &list["next_cursor"]), (0, &Value::Null));
    let (code, _, err) = place.run(&["txn", "show", "name:nobody"]);
    assert!(code != 0 && !err.is_empty());
    let (code, _, err) = place.run(&["txn", "list", "--state", "lost"]);
    assert!(code == 1 && err.contains("invalid_request"), "{err}");
    // One log has one owner.
    let (code, _, err) = place.run(&["wal", "replay"]);
    assert!(code == 3 && err.contains("in use"), "{err}");
    let (code, plan) = place.json(&["wal", "replay", "--plan", "--json"]);
    assert_eq!((code, &plan["incarnation"], &plan["open"]), (0, &json!(1), &json!([])));

    assert_eq!(sidecar.stop(), 0);
    let (code, _, err) = place.run(&["txn", "list"]);
    assert!(code == 3 && err.contains("no sidecar answers"), "{err}");
    let (_, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!(found["clean_shutdown"], true);
    let (_, out, _) = place.run(&["wal", "dump"]);
    assert!(out.contains("opened") && out.contains("incarnation=1"), "{out}");
    let (code, report) = place.json(&["wal", "replay", "--json"]);
    assert_eq!((code, &report["recovery"]["found"]), (0, &json!(0)), "{report}");
    let (_, plan) = place.json(&["wal", "replay", "--plan", "--json"]);
    assert_eq!(plan["incarnation"], 2);
}

/// `RssAnon`: mapped segments are not counted.
fn idle_memory(sidecar: &Sidecar) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidecar.0.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
