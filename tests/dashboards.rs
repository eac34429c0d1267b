//! The dashboard and the alerts against the metrics that are really there: a renamed metric or label fails here, not in
//! the night when somebody looks at an empty panel. No server is needed.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use outrigger::metrics::Metrics;
use outrigger::model::ids::StoreName;
use serde_json::Value;

/// Exported and on no panel, each with its reason. Empty: everything is worth a look.
const NOT_SHOWN: [&str; 0] = [];
/// Labels that Prometheus adds itself.
const OF_PROMETHEUS: [&str; 3] = ["instance", "job", "le"];

/// One exported family.
#[derive(Default, Debug)]
struct Family {
    kind: String,
    /// The values that each label takes in a fresh sidecar: all that it will ever take.
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// A mention of a metric in an expression.
#[derive(PartialEq, Eq, Debug)]
struct Mention {
    name: String,
    /// Label, operator, value.
    matchers: Vec<(String, String, String)>,
}

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn exported() -> BTreeMap<String, Family> {
    let stores: [StoreName; 3] = ["pg".into(), "graph".into(), "vectors".into()];
    families(&Metrics::new(&stores).render())
}

/// Reads Prometheus' text format.
fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        } else if !line.starts_with('#') {
            let mention = mentions(line).remove(0);
            let family = base(&mention.name, &families).expect("a series follows its TYPE");
            let labels = &mut families.get_mut(&family).unwrap().labels;
            for (label, _, value) in mention.matchers {
                labels.entry(label).or_default().insert(value);
            }
        }
    }
    families
}

/// The family of a series' name: histograms have three.
fn base(name: &str, families: &BTreeMap<String, Family>) -> Option<String> {
    if let Some(family) = families.get(name) {
        return (family.kind != "histogram").then(|| name.to_owned());
    }
    let stem = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix))?;
    families.get(stem).filter(|family| family.kind == "histogram").map(|_| stem.to_owned())
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Every `outrigger_…` of an expression with its `{…}`. Label values may hold any character, braces too.
fn mentions(text: &str) -> Vec<Mention> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("outrigger_") {
        let inside_a_word = rest[..at].ends_with(is_word);
        let name: String = rest[at..].chars().take_while(|c| is_word(*c)).collect();
        rest = &rest[at + name.len()..];
        let mut matchers = Vec::new();
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                inner = inner.trim_start_matches([',', ' ']);
                if let Some(after) = inner.strip_prefix('}') {
                    rest = after;
                    break;
                }
                let label: String = inner.chars().take_while(|c| is_word(*c)).collect();
                let (operator, value) = inner[label.len()..].split_once('"').expect("a label has a value in quotes");
                let (value, after) = value.split_once('"').expect("a value ends with a quote");
                matchers.push((label, operator.to_owned(), value.to_owned()));
                inner = after;
            }
        }
        if !inside_a_word {
            found.push(Mention { name, matchers });
        }
    }
    found
}

/// The labels in every `by (…)` of an expression; `None` where it aggregates by nothing.
fn grouping(expr: &str) -> Vec<String> {
    let lists = expr.match_indices(" by (").map(|(at, word)| {
        let list = &expr[at + word.len()..];
        &list[..list.find(')').expect("a list ends")]
    });
    lists.flat_map(|list| list.split(',').map(|label| label.trim().to_owned())).collect()
}

/// What stands in `{{…}}` of a legend, or in `{{ $labels.… }}` of an annotation.
fn placeholders(text: &str) -> Vec<String> {
    let parts = text.split("{{").skip(1).filter_map(|part| Some(part.split_once("}}")?.0.trim()));
    parts
        .filter(|part| !part.starts_with("$value"))
        .map(|part| part.trim_start_matches("$labels.").to_owned())
        .collect()
}

/// What is wrong with an expression and with the labels that a text beside it shows.
fn faults(expr: &str, shown: &str, families: &BTreeMap<String, Family>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut known: BTreeSet<&str> = BTreeSet::new();
    let mentions = mentions(expr);
    for Mention { name, matchers } in &mentions {
        let Some(family) = base(name, families).map(|name| &families[&name]) else {
            faults.push(format!("there is no {name}"));
            continue;
        };
        known.extend(family.labels.keys().map(String::as_str));
        known.extend(OF_PROMETHEUS);
        for (label, operator, value) in matchers {
            if OF_PROMETHEUS.contains(&label.as_str()) {
                continue;
            }
            match family.labels.get(label) {
                None => faults.push(format!("{name} has no label {label}")),
                Some(values) if ["=", "!="].contains(&operator.as_str()) && !values.contains(value) => {
                    faults.push(format!("{label} of {name} is never {value}: {values:?}"));
                }
                Some(_) => {}
            }
        }
    }
    let by = grouping(expr);
    if expr.contains("histogram_quantile") && !(expr.contains("_bucket") && by.iter().any(|label| label == "le")) {
        faults.push("a quantile wants buckets by le".to_owned());
    }
    let ours = !mentions.is_empty();
    faults.extend(by.iter().filter(|l| ours && !known.contains(l.as_str())).map(|l| format!("by {l}: no such label")));
    for label in placeholders(shown) {
        let aggregates = ["sum", "max", "min", "avg"].iter().any(|word| expr.contains(&format!("{word}(")));
        let there = if by.is_empty() { !aggregates && known.contains(label.as_str()) } else { by.contains(&label) };
        if ours && !there {
            faults.push(format!("{{{{{label}}}}} is not in the result"));
        }
    }
    faults.into_iter().map(|fault| format!("{fault}, in: {expr}")).collect()
}

fn dashboard() -> Value {
    serde_json::from_str(&read("grafana/outrigger.json")).unwrap()
}

/// Every query of the dashboard with its legend, those of its variables too.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    targets.map(|target| (text(&target["expr"]), text(&target["legendFormat"]))).collect()
}

#[test]
fn every_panel_shows_metrics_that_exist() {
    let families = exported();
    let queries = queries(&dashboard());
    assert!(queries.len() > 30, "only {} queries found", queries.len());
    let faults: Vec<_> = queries.iter().flat_map(|(expr, legend)| faults(expr, legend, &families)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    for variable in dashboard()["templating"]["list"].as_array().unwrap() {
        let query = variable["definition"].as_str().unwrap_or_default();
        for Mention { name, .. } in mentions(query) {
            assert!(families.contains_key(&name), "there is no {name}, in: {query}");
        }
    }
}

#[test]
fn every_metric_is_on_the_dashboard() {
    let families = exported();
    let all = queries(&dashboard());
    let shown: BTreeSet<String> =
        all.iter().flat_map(|(expr, _)| mentions(expr)).filter_map(|m| base(&m.name, &families)).collect();
    for name in families.keys() {
        let excused = NOT_SHOWN.contains(&name.as_str());
        assert_ne!(shown.contains(name), excused, "{name} is on no panel, or is there though NOT_SHOWN says otherwise");
    }
}

#[test]
fn the_dashboard_is_sound() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "panel ids are unique");
    let place = |panel: &Value| ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
    for (index, one) in panels.iter().enumerate() {
        let title = &one["title"];
        let [x, y, w, h] = place(one);
        assert!(x + w <= 24, "{title} leaves the grid");
        for other in &panels[index + 1..] {
            let [x2, y2, w2, h2] = place(other);
            let apart = x + w <= x2 || x2 + w2 <= x || y + h <= y2 || y2 + h2 <= y;
            assert!(apart, "{title} covers {}", other["title"]);
        }
        if one["type"] != "row" {
            assert_eq!(one["datasource"]["uid"], "${datasource}", "{title} has a datasource of its own");
            assert!(one["description"].as_str().is_some_and(|text| !text.is_empty()), "{title} is not explained");
        }
    }
}

#[test]
fn every_alert_asks_for_metrics_that_exist() {
    let families = exported();
    let rules: Value = serde_saphyr::from_str(&read("grafana/alerts.yaml")).unwrap();
    let tests = read("grafana/alerts_test.yaml");
    let mut seen = 0;
    for rule in rules["groups"].as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap()) {
        let text = |member: &str| rule[member].as_str().unwrap_or_default();
        let annotations = &rule["annotations"];
        let shown = format!("{} {}", annotations["summary"], annotations["description"]);
        let faults = faults(text("expr"), &shown, &families);
        assert!(faults.is_empty(), "{}: {}", text("alert"), faults.join("\n"));
        assert!(["page", "ticket"].map(Value::from).contains(&rule["labels"]["severity"]), "{}", text("alert"));
        // promtool runs these; here only that none was forgotten: one test fires it, one does not.
        let mentions = tests.matches(&format!("alertname: {}", text("alert"))).count();
        assert!(mentions >= 2, "{} is not tested both ways", text("alert"));
        seen += 1;
    }
    assert!(seen >= 9, "only {seen} alerts found");
    for Mention { name, matchers } in mentions(&tests) {
        let family = &families[&base(&name, &families).unwrap_or_else(|| panic!("alerts_test.yaml feeds {name}"))];
        let is_label = |label: &str| OF_PROMETHEUS.contains(&label) || family.labels.contains_key(label);
        matchers.iter().for_each(|(label, _, _)| assert!(is_label(label), "alerts_test.yaml: {name} has no {label}"));
    }
}

#[test]
fn the_readme_lists_every_metric() {
    let readme = read("README.md");
    for name in exported().keys() {
        let short = name.strip_prefix("outrigger_").unwrap();
        assert!(readme.contains(&format!("`{short}`")), "README.md does not list {short}");
    }
}

#[test]
fn the_checks_complain() {
    let families = exported();
    for (expr, legend) in [
        ("outrigger_nothing", ""),
        ("rate(outrigger_http_request_seconds[1m])", ""),
        (r#"outrigger_transactions_open{state="confused"}"#, ""),
        (r#"outrigger_transactions_open{status="active"}"#, ""),
        ("sum by (store) (outrigger_locks_held)", ""),
        ("histogram_quantile(0.9, sum by (route) (rate(outrigger_http_request_seconds_bucket[1m])))", ""),
        ("sum(outrigger_locks_held)", "{{instance}}"),
        ("sum by (state) (outrigger_transactions_open)", "{{ $labels.store }}"),
        ("outrigger_locks_held", "{{store}}"),
    ] {
        assert!(!faults(expr, legend, &families).is_empty(), "{expr} with {legend} passes");
    }
    let fine =
        r#"sum by (route) (rate(outrigger_http_requests_total{route="GET /v1/transactions/{id}", status=~"5.."}[1m]))"#;
    assert_eq!(faults(fine, "{{route}} {{ $value | humanize }}", &families), Vec::<String>::new());
}
