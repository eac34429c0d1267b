use super::*;

fn audit(dir: &Path, file_bytes: u64, keep: usize) -> (Audit, Metrics) {
    let metrics = Metrics::new(&[]);
    (Audit::new(dir, &config::Audit { file_bytes, keep, store: None }, metrics.clone()), metrics)
}

fn act(reason: &str) -> Act {
    let before = Some("needs_intervention".into());
    Act { reason: Some(reason.into()), before, ..Act::new("olga", "skip", Some("0af7651916cd43dd8448eb211c80319c")) }
}

fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'));
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[tokio::test]
async fn an_act_is_two_lines_for_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = audit(dir.path(), 1 << 20, 2);
    assert!(!dir.path().join(FILE).exists(), "no I/O before there is something to say");
    let act = act("the collection is gone\nfor good");
    audit.write(&Line::asked(&act)).await.unwrap();
    audit.write(&Line::answered(&act, Outcome::Done, Some("committed"), None)).await.unwrap();
    let path = dir.path().join(FILE);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let seen = lines(&path);
    assert_eq!((&seen[0]["act"], &seen[0]["step"], seen.len()), (&seen[1]["act"], &"asked".into(), 2));
    for (member, value) in [
        ("step", "answered"),
        ("who", "olga"),
        ("action", "skip"),
        ("trace", "0af7651916cd43dd8448eb211c80319c"),
        ("reason", "the collection is gone\nfor good"),
        ("before", "needs_intervention"),
        ("after", "committed"),
        ("outcome", "done"),
    ] {
        assert_eq!(seen[1][member], value, "{member}");
    }
}

#[tokio::test]
async fn full_files_move_on_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _) = audit(dir.path(), 600, 2);
    for n in 0..8 {
        first.write(&Line::asked(&act(&format!("number {n}")))).await.unwrap();
    }
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, [FILE, "audit.jsonl.1", "audit.jsonl.2"]);
    let reasons = |name: &str| -> Vec<String> {
        lines(&dir.path().join(name)).iter().map(|line| line["reason"].as_str().unwrap().to_owned()).collect()
    };
    let kept: Vec<_> = [reasons("audit.jsonl.2"), reasons("audit.jsonl.1"), reasons(FILE)].concat();
    let expected: Vec<_> = (8 - kept.len()..8).map(|n| format!("number {n}")).collect();
    assert_eq!(kept, expected, "in order, and only the oldest are gone");
    for name in names {
        assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 600);
    }
    // Another process goes on where this one stopped.
    let (second, _) = audit(dir.path(), 1 << 20, 2);
    let before = reasons(FILE).len();
    second.write(&Line::asked(&act("later"))).await.unwrap();
    assert_eq!(reasons(FILE).len(), before + 1);
}

#[tokio::test]
async fn half_a_line_stays_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), "{\"who\":\"ol").unwrap();
    let (audit, _) = audit(dir.path(), 1 << 20, 2);
    audit.write(&Line::asked(&act("after the crash"))).await.unwrap();
    assert_eq!(lines(&dir.path().join(FILE)).len(), 1);
    assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn what_cannot_be_written_is_a_refusal_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(FILE)).unwrap();
    let (audit, metrics) = audit(dir.path(), 1 << 20, 2);
    let refused = audit.write(&Line::asked(&act("in vain"))).await.unwrap_err();
    assert_eq!((refused.code, refused.code.status()), (Code::JournalUnavailable, 503));
    assert!(refused.detail.contains("nothing is done by hand unrecorded"), "{}", refused.detail);
    assert!(metrics.render().contains("outrigger_audit_failures_total{place=\"file\"} 1"));
    // Mended without a restart.
    fs::remove_dir(dir.path().join(FILE)).unwrap();
    audit.write(&Line::asked(&act("now"))).await.unwrap();
}

#[tokio::test]
async fn strangers_cannot_push_out_what_others_did() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, _) = audit(dir.path(), 1 << 20, 2);
    let line = Line::answered(&Act::new("anonymous", "skip", None), Outcome::Refused, None, Some("forbidden"));
    for _ in 0..MOST_STRANGERS * 3 {
        if audit.hears_stranger(&line) {
            audit.write(&line).await.unwrap();
        }
    }
    assert_eq!(lines(&dir.path().join(FILE)).len(), MOST_STRANGERS as usize);
    audit.write(&Line::asked(&act("an operator is always heard"))).await.unwrap();
}
