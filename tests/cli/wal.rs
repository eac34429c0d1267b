//! `outrigger wal …` over logs that the library made and the test damaged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use outrigger::journal::record::{
    ClaimRecord, DoneRecord, IntentRecord, KeyRecord, OpenedRecord, RedoRecord, RunRecord, VerdictRecord, kind,
};
use outrigger::model::ids::{Attempt, Run, TxnId};
use outrigger_wal::{Keys, Options, Wal};
use prost::Message;
use serde_json::{Value, json};

use super::{Place, Sidecar, damage};

/// Everything that an application wrote has this in it.
const SECRET: &str = "s3cret";

fn open(place: &Place) -> Wal {
    Wal::open(&place.journal(), Options { segment_bytes: 1 << 20, force_filesystem: true, ..Options::default() })
        .unwrap()
        .0
}

fn append(wal: &Wal, kind: u8, record: &impl Message) -> u64 {
    let appended = wal.append(kind, &record.encode_to_vec()).unwrap();
    wal.flush(appended.end).unwrap();
    appended.lsn.as_u64()
}

fn secret(what: &str) -> String {
    format!("{SECRET}-{what}")
}

/// Opened, and for each run an intent, a decision and an end; gives the places of the intents.
fn fill(wal: &Wal, runs: &[RunRecord]) -> Vec<u64> {
    append(wal, kind::OPENED, &OpenedRecord { incarnation: 1, version: "1".into(), at_us: 0 });
    runs.iter()
        .map(|run| {
            let key = KeyRecord { key: secret("key"), digest: vec![0; 32] };
            let intent = IntentRecord {
                run: run.clone(),
                name: Some("ingest".into()),
                decider: "wal".into(),
                redo: vec![RedoRecord {
                    store: "vectors".into(),
                    resource: "docs".into(),
                    keys: vec![secret("point")],
                    body: secret("body").into_bytes(),
                }],
                claims: vec![
                    ClaimRecord { parts: vec![secret("lock")], mode: 4 },
                    ClaimRecord { parts: vec!["vectors".into(), "docs".into(), secret("point")], mode: 4 },
                    ClaimRecord { parts: vec!["vectors".into(), "docs".into()], mode: 1 },
                ],
                key: Some(key.clone()),
                ..IntentRecord::default()
            };
            let at = append(wal, kind::INTENT, &intent);
            let answer = Some(secret("answer"));
            append(
                wal,
                kind::DECISION,
                &VerdictRecord { run: run.clone(), committed: true, answer: answer.clone(), at_us: 0 },
            );
            let cause = vec!["constraint_violation".into(), secret("cause")];
            let done = DoneRecord { run: run.clone(), key: Some(key), answer, cause, ..DoneRecord::default() };
            append(wal, kind::DONE, &done);
            at
        })
        .collect()
}

fn two_runs() -> (TxnId, [RunRecord; 2]) {
    let (one, other) = (TxnId::fresh(), TxnId::fresh());
    (one, [Run { txn: one, attempt: Attempt(1) }.into(), Run { txn: other, attempt: Attempt(1) }.into()])
}

/// The log's files, byte for byte.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let logs = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "wal"));
    logs.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
}

#[test]
fn records_are_chosen_and_values_are_not_shown_unasked() {
    let place = Place::new();
    let wal = open(&place);
    let (id, runs) = two_runs();
    let intents = fill(&wal, &runs);
    wal.close().unwrap();
    let (id, second) = (id.to_string(), intents[1].to_string());
    for (args, count) in [
        (vec![], 7),
        (vec!["--transaction", &id], 3),
        (vec!["--transaction", &id, "--kind", "intent,done"], 2),
        (vec!["--kind", "1"], 1),
        (vec!["--from", &second], 3),
        (vec!["--to", &second], 4),
        (vec!["--from", &second, "--transaction", &id], 0),
        (vec!["--limit", "2"], 2),
    ] {
        for more in [&["dump"][..], &["dump", "--json"], &["dump", "--values"], &["dump", "--json", "--values"]] {
            let (code, out, err) = place.run(&[&["wal"], more, &args].concat());
            assert_eq!((code, out.lines().count()), (0, count), "{more:?} {args:?}: {out} {err}");
            let shown = out.contains(SECRET);
            assert_eq!(shown, more.contains(&"--values") && count > 1, "{more:?} {args:?}: {out}");
        }
    }
    let (_, out, _) = place.run(&["wal", "dump", "--json", "--kind", "intent", "--limit", "1"]);
    let intent: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(intent["locks"], json!(["[11 bytes]", "vectors/docs/[12 bytes]", "vectors/docs"]));
    assert_eq!(intent["redo"], json!([{"store": "vectors", "resource": "docs", "points": 1, "body": 11}]));
    let (_, out, _) = place.run(&["wal", "dump", "--json", "--values", "--kind", "done", "--limit", "1"]);
    for what in ["key", "answer", "cause"] {
        assert!(out.contains(&secret(what)), "{what}: {out}");
    }
    for wrong in [["--kind", "nonsense"], ["--transaction", "nonsense"], ["--to", "nonsense"]] {
        assert_eq!(place.run(&["wal", "dump", wrong[0], wrong[1]]).0, 2, "{wrong:?}");
    }
}

#[test]
fn an_encrypted_log_is_read_with_its_key() {
    let place = Place::new();
    let key_file = place.dir.path().join("keys");
    std::fs::write(&key_file, format!("{}\n", "5c".repeat(32))).unwrap();
    let keys = Keys::from_file(&key_file).unwrap();
    let options = Options { segment_bytes: 1 << 20, force_filesystem: true, keys: Some(keys), ..Options::default() };
    let (wal, _) = Wal::open(&place.journal(), options).unwrap();
    let (id, runs) = two_runs();
    fill(&wal, &runs);
    wal.close().unwrap();
    let (code, _, err) = place.run(&["wal", "dump"]);
    assert!(code == 1 && err.contains("is encrypted with the key"), "{err}");
    let (id, key_file) = (id.to_string(), key_file.to_string_lossy().into_owned());
    let (code, out, err) = place.run(&["wal", "dump", "--key-file", &key_file, "--transaction", &id]);
    assert_eq!((code, out.lines().count()), (0, 3), "{out} {err}");
    let (code, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!((code, &found["corrupt"]), (0, &json!([])), "no key is needed to check");
}

#[test]
fn a_log_is_followed_while_its_owner_writes() {
    let place = Place::new();
    let wal = open(&place);
    let (_, runs) = two_runs();
    fill(&wal, &runs[..1]);
    let lines = |out: String| out.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let (code, out, _) = place.run(&["wal", "tail", "--json", "-n", "2"]);
    let last = lines(out);
    assert_eq!((code, last.len(), &last[0]["kind"], &last[1]["kind"]), (0, 2, &json!("decision"), &json!("done")));
    let (_, out, _) = place.run(&["wal", "tail", "--json", "-n", "2", "--kind", "opened"]);
    assert_eq!(lines(out).len(), 1);

    let mut command = place.command(&["wal", "tail", "--json", "--follow", "-n", "1", "--kind", "done"]);
    let mut follower = Sidecar(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut out = BufReader::new(follower.0.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        out.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    };
    assert_eq!(next()["lsn"], last[1]["lsn"]);
    let second = fill(&wal, &runs[1..])[0];
    let seen = next();
    assert!(seen["kind"] == "done" && seen["lsn"].as_u64() > Some(second), "{seen}");
    wal.close().unwrap();
}

#[test]
fn repair_sets_damage_aside_only_when_told_to() {
    let place = Place::new();
    let wal = open(&place);
    let (_, runs) = two_runs();
    let intents = fill(&wal, &runs);
    let (code, plan) = place.json(&["wal", "repair", "--json"]);
    assert_eq!((code, &plan["remedy"], &plan["acts"]), (0, &json!("nothing"), &json!(false)), "{plan}");
    wal.close().unwrap();
    damage(&place.journal(), intents[1]);
    let before = files(&place.journal());

    let (code, out, _) = place.run(&["wal", "repair"]);
    assert!(code == 1 && out.contains("FAULT: ") && out.contains("repair --yes"), "{out}");
    assert!(out.contains(&format!("everything in {}..", intents[1])) && out.contains("had been acknowledged"), "{out}");
    let (code, plan) = place.json(&["wal", "repair", "--json"]);
    assert_eq!((code, &plan["remedy"], &plan["done"]), (1, &json!("quarantine"), &json!(false)), "{plan}");
    assert_eq!((&plan["kept_records"], &plan["lost"]["from"]), (&json!(4), &json!(intents[1])), "{plan}");
    assert_eq!(files(&place.journal()), before, "a dry run changes nothing");

    let (code, done) = place.json(&["wal", "repair", "--yes", "--json"]);
    assert_eq!(
        (code, &done["done"], done["quarantined"].as_array().map(Vec::len)),
        (0, &json!(true), Some(1)),
        "{done}"
    );
    let aside = place.journal().join(done["quarantined"][0].as_str().unwrap());
    assert_eq!(Some(&std::fs::read(aside).unwrap()), before.values().next(), "what is set aside is not edited");
    let (code, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!((code, &found["records"], &found["corrupt"]), (0, &json!(4), &json!([])), "{found}");
    let (code, out, _) = place.run(&["wal", "repair", "--yes"]);
    assert!(code == 0 && out.starts_with("Nothing is wrong") && !out.contains("Done"), "{out}");
}

#[test]
fn repair_cuts_a_torn_tail_and_leaves_an_owned_log_alone() {
    let place = Place::new();
    let wal = open(&place);
    let (_, runs) = two_runs();
    fill(&wal, &runs);
    drop(wal);
    let name = files(&place.journal()).into_keys().next().unwrap();
    let segment = place.journal().join(name);
    let (_, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!(found["torn_bytes"], 0);
    // Half a record that nobody was told of, some pages behind the end: no page before it is touched.
    let mut bytes = std::fs::read(&segment).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let at = used.next_multiple_of(8) + 64;
    bytes[at..at + 100].fill(7);
    std::fs::write(&segment, bytes).unwrap();
    let (code, plan) = place.json(&["wal", "repair", "--json"]);
    assert_eq!((code, &plan["remedy"], &plan["acts"]), (0, &json!("cut"), &json!(true)), "{plan}");
    let owner = open_elsewhere(&place);
    let (code, _, err) = place.run(&["wal", "repair", "--yes"]);
    assert!(code == 3 && err.contains("in use"), "{err}");
    drop(owner);
    let (code, out, _) = place.run(&["wal", "repair", "--yes"]);
    assert!(code == 0 && out.contains("can be cut") && out.contains("Done."), "{out}");
    let (code, found) = place.json(&["wal", "verify", "--json"]);
    assert_eq!((code, &found["records"], &found["torn_bytes"]), (0, &json!(7), &json!(0)), "{found}");
}

/// Holds the log's lock as an owner does, without opening it: that alone would cut the tail.
fn open_elsewhere(place: &Place) -> std::fs::File {
    let dir = std::fs::File::open(place.journal()).unwrap();
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    dir
}
