//! The stack on real servers: up, killed, restarted with its data, side by side, and gone when its owner is.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may, as the tests themselves")]

use std::env;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use xtask::stack::{Stack, Store, Wanted};

const HOLD: &str = "OUTRIGGER_XTASK_TEST_HOLD";
/// Its file in the stack's folder says that the holder has the stack.
const HELD: &str = "held";

fn is_reachable(stack: &Stack, store: Store) -> bool {
    let url = stack.login(store).unwrap().url;
    let address = url.split("://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    TcpStream::connect(address).is_ok()
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let began = Instant::now();
    while !test() {
        assert!(began.elapsed() < Duration::from_secs(60), "in vain: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_store_comes_back_with_its_data_after_kill_nine() {
    let stack = Stack::fresh("kill", Wanted::all()).unwrap();
    let before: Vec<_> = Store::ALL.iter().map(|store| stack.login(*store).unwrap()).collect();
    stack.sql("CREATE TABLE kept (id int); INSERT INTO kept VALUES (7);").unwrap();
    stack.sql("BEGIN; INSERT INTO kept VALUES (8); PREPARE TRANSACTION 'promised';").unwrap();
    stack.bolt().unwrap().run("CREATE (:Kept {id: $id})", json!({"id": 7})).unwrap();

    for store in Store::ALL {
        assert!(stack.is_alive(store) && is_reachable(&stack, store));
        stack.kill(store).unwrap();
        assert!(!stack.is_alive(store) && !is_reachable(&stack, store), "{store} survived SIGKILL");
        stack.kill(store).unwrap();
        let began = Instant::now();
        stack.start(store).unwrap();
        eprintln!("{store} ready {:?} after its restart", began.elapsed());
    }

    let after: Vec<_> = Store::ALL.iter().map(|store| stack.login(*store).unwrap()).collect();
    assert_eq!(before, after, "a restarted store is found where it was");
    assert_eq!(stack.sql("SELECT id FROM kept").unwrap(), "7");
    assert_eq!(stack.sql("COMMIT PREPARED 'promised'; SELECT id FROM kept ORDER BY id").unwrap(), "7\n8");
    let found = stack.bolt().unwrap().run("MATCH (n:Kept) RETURN n.id, count(*)", json!({})).unwrap();
    assert_eq!(found, [[json!(7), json!(1)]]);
    assert!(stack.status().unwrap().iter().all(|one| one.state == "ready"));

    let dir = stack.dir().to_owned();
    drop(stack);
    assert!(!dir.exists(), "a fresh stack leaves nothing behind");
}

#[test]
fn killing_postgres_takes_its_backends_along() {
    let stack = Stack::fresh("backends", Wanted::only(&[Store::Postgres])).unwrap();
    let pid = stack.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'").unwrap();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    stack.kill(Store::Postgres).unwrap();
    // Its parent, init, may take a moment to look at it.
    eventually("the WAL writer ends", || !Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn stacks_stand_side_by_side_and_guests_end_nothing() {
    let one = Stack::fresh("side", Wanted::only(&[Store::Postgres])).unwrap();
    let mut wanted = Wanted::only(&[Store::Postgres]);
    wanted.max_prepared_transactions = 0;
    let other = Stack::fresh("side", wanted).unwrap();
    assert_ne!(one.login(Store::Postgres).unwrap().url, other.login(Store::Postgres).unwrap().url);
    assert_eq!(other.sql("SHOW max_prepared_transactions").unwrap(), "0");
    let guest = Stack::attach(one.dir()).unwrap();
    assert_eq!(guest.sql("SHOW max_prepared_transactions").unwrap(), "64");
    guest.stop(Store::Postgres).unwrap();
    assert!(!one.is_alive(Store::Postgres));
    guest.set_max_prepared_transactions(5).unwrap();
    guest.start(Store::Postgres).unwrap();
    drop(guest);
    drop(other);
    assert_eq!(one.sql("SHOW max_prepared_transactions").unwrap(), "5", "the owner finds what the guest restarted");
    assert!(one.kill(Store::Neo4j).unwrap_err().to_string().contains("has no neo4j"));
}

/// Not a test but the process that the next one kills.
#[test]
#[ignore = "run by a_stack_ends_with_its_process"]
fn hold_a_stack_until_killed() {
    let dir = env::var_os(HOLD).unwrap();
    // Another thread brings it up and ends: its servers must not end with it.
    let up = || Stack::up(&dir, Wanted::only(&[Store::Postgres])).unwrap();
    let stack = thread::scope(|scope| scope.spawn(up).join().unwrap());
    assert!(stack.is_alive(Store::Postgres));
    fs::write(Path::new(&dir).join(HELD), "").unwrap();
    thread::sleep(Duration::from_secs(300));
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn holder_of(dir: &Path) -> Killed {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "hold_a_stack_until_killed", "--ignored"]).env(HOLD, dir);
    let holder = Killed(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    // The servers are ready a moment before the holder has seen it; whoever kills one in that moment makes the holder
    // think that its start failed, and it ends what it has started.
    eventually("the holder brings its stack up", || dir.join(HELD).exists());
    assert!(is_ready(dir));
    holder
}

fn is_ready(dir: &Path) -> bool {
    Stack::attach(dir).is_ok_and(|stack| stack.status().unwrap().iter().all(|one| one.state == "ready"))
}

#[test]
fn a_guest_restarts_what_is_anothers_child() {
    let dir = tempfile::tempdir().unwrap();
    let holder = holder_of(dir.path());
    let stack = Stack::attach(dir.path()).unwrap();
    // At once, so that the dead server is still a zombie: its parent is the holder, who hasn't looked yet.
    stack.kill(Store::Postgres).unwrap();
    stack.start(Store::Postgres).unwrap();
    drop(holder);
    assert!(stack.is_alive(Store::Postgres), "what a guest restarted outlives the owner's sudden end");
    stack.purge().unwrap();
}

#[test]
fn a_stack_ends_with_its_process() {
    let dir = tempfile::tempdir().unwrap();
    let holder = holder_of(dir.path());
    thread::sleep(Duration::from_millis(300));
    assert!(is_ready(dir.path()), "the stack ended with the thread that started it");
    drop(holder);
    let stack = Stack::attach(dir.path()).unwrap();
    eventually("the stack ends with its process", || !stack.is_alive(Store::Postgres));
    stack.purge().unwrap();
}

fn xtask(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("stack").args(args).arg("--dir").arg(dir).env_remove("OUTRIGGER_TEST_POSTGRES_URL");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_command_line_brings_a_stack_up_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let up = ["up", "--store", "postgres", "--json"];
    let first = xtask(dir.path(), &up);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let told: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!((&told["stores"][0]["state"], &told["stores"][0]["store"]), (&json!("ready"), &json!("postgres")));

    let again = xtask(dir.path(), &up);
    assert_eq!(text(&again.stdout), text(&first.stdout), "a second up changes nothing");
    assert_eq!(text(&again.stderr), "", "and says nothing");

    let config = std::fs::read_to_string(dir.path().join("outrigger.toml")).unwrap();
    assert!(config.contains(told["stores"][0]["url"].as_str().unwrap()), "{config}");

    assert!(xtask(dir.path(), &["down"]).status.success());
    assert_eq!(xtask(dir.path(), &["status"]).status.code(), Some(1));
    assert!(xtask(dir.path(), &["down", "--purge"]).status.success());
    assert!(!dir.path().join("stack.json").exists());
}

#[test]
fn a_store_named_by_the_environment_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.args(["stack", "up", "--store", "postgres", "--json", "--dir"]).arg(dir.path());
    let up = command.env("OUTRIGGER_TEST_POSTGRES_URL", "postgres://me:secret@db.example/x").output().unwrap();
    assert!(up.status.success(), "{}", text(&up.stderr));
    let told: Value = serde_json::from_slice(&up.stdout).unwrap();
    let one = &told["stores"][0];
    assert_eq!((&one["state"], &one["url"]), (&json!("external"), &json!("postgres://db.example/x")));
    assert_eq!((&one["user"], &one["password"]), (&json!("me"), &json!("secret")));
    let kill = xtask(dir.path(), &["kill", "postgres"]);
    assert_eq!(kill.status.code(), Some(1));
    assert!(text(&kill.stderr).contains("is not ours"), "{}", text(&kill.stderr));
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::up(dir.path(), Wanted::only(&[Store::Postgres])).unwrap();
    stack.stop(Store::Postgres).unwrap();
    std::fs::remove_file(stack.home(Store::Postgres).unwrap().join("data/global/pg_control")).unwrap();
    let began = Instant::now();
    let error = stack.start(Store::Postgres).unwrap_err().to_string();
    assert!(error.contains("ended while starting") && error.contains("pg_control"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(60), "it is told as soon as the process has ended");
    stack.purge().unwrap();
}
