//! What a transaction sees of its own writes is what is there afterwards, however the server keeps its points, and
//! however often the writes are repeated. Random writes, a fixed seed each.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::help::Bed;

const IDS: [u64; 3] = [1, 2, 3];

fn vectors(rng: &mut StdRng, at_least_one: bool) -> Value {
    let mut vectors = json!({});
    if at_least_one || rng.random_bool(0.7) {
        vectors["a"] = json!([rng.random_range(0..9), 1, 2]);
    }
    if rng.random_bool(0.4) {
        vectors["rows"] = json!([[rng.random_range(0..9), 1], [2, 3]]);
    }
    if rng.random_bool(0.4) {
        vectors["words"] = json!({"indices": [1, rng.random_range(2..9)], "values": [0.5, 1.5]});
    }
    vectors
}

fn payload(rng: &mut StdRng) -> Value {
    let n = rng.random_range(0..100);
    let choices = [
        json!({}),
        json!({"x": n}),
        json!({"x": null, "list": [{"y": n}, {"y": 2}]}),
        json!({"deep": {"x": {"y": n}}, "list": "no list"}),
    ];
    choices.choose(rng).expect("there are some").clone()
}

fn some_ids(rng: &mut StdRng) -> Vec<u64> {
    let mut ids: Vec<_> = IDS.into_iter().filter(|_| rng.random_bool(0.5)).collect();
    if ids.is_empty() {
        ids.push(1);
    }
    ids
}

fn write(rng: &mut StdRng) -> (&'static str, Value) {
    let path = *["x", "deep", "deep.x", "list[]", "list[1].y", "new.path"].choose(rng).expect("there are some");
    let points = some_ids(rng);
    match rng.random_range(0..9) {
        0 | 1 => {
            let one =
                |id: u64, rng: &mut StdRng| json!({"id": id, "vector": vectors(rng, false), "payload": payload(rng)});
            ("upsert", json!({"points": points.iter().map(|id| one(*id, rng)).collect::<Vec<_>>()}))
        }
        2 => ("set_payload", json!({"payload": payload(rng), "points": points})),
        3 => ("set_payload", json!({"payload": payload(rng), "points": points, "key": path})),
        4 => ("overwrite_payload", json!({"payload": payload(rng), "points": points})),
        5 => ("delete_payload", json!({"keys": [path], "points": points})),
        6 => ("clear_payload", json!({"points": points})),
        7 => {
            let one = |id: u64, rng: &mut StdRng| json!({"id": id, "vector": vectors(rng, true)});
            ("update_vectors", json!({"points": points.iter().map(|id| one(*id, rng)).collect::<Vec<_>>()}))
        }
        _ => {
            let name = *["a", "rows", "words"].choose(rng).expect("there are some");
            ("delete_vectors", json!({"vector": [name], "points": points}))
        }
    }
}

#[tokio::test]
async fn they_are_seen_as_they_will_be() {
    for seed in 0..12 {
        let rng = &mut StdRng::seed_from_u64(seed);
        let bed = Bed::named().await;
        let start = |id: &u64| json!({"id": id, "vector": {"a": [1, 2, 3], "words": {"indices": [1], "values": [1]}}, "payload": {"x": 1, "old": id}});
        bed.one("upsert", json!({"points": IDS.iter().map(start).collect::<Vec<_>>()})).await;
        if seed % 2 == 0 {
            bed.control(&format!("optimize {}", bed.collection));
        }
        for round in 0..4 {
            let count = rng.random_range(1..6);
            let mut ops = Vec::new();
            for index in 0..count {
                let (verb, body) = write(rng);
                ops.push(bed.op(&index.to_string(), verb, body));
            }
            if rng.random_bool(0.3) {
                let id = *IDS.choose(rng).expect("there are some");
                ops.push(bed.op("d", "delete", json!({"points": [id]})));
                ops.push(bed.op(
                    "u",
                    "upsert",
                    json!({"points": [{"id": id, "vector": vectors(rng, false), "payload": payload(rng)}]}),
                ));
            }
            let told = || ops.iter().map(|op| op.values.to_string()).collect::<Vec<_>>().join("\n");
            let mut session = bed.session().await;
            session.footprint(&ops).await.expect("claims");
            session.work(&ops).await.expect("nothing to refuse");
            let look = bed.op("look", "retrieve", json!({"ids": IDS, "with_vector": true}));
            let seen = sorted(session.work(&[look]).await.expect("a result").remove(0)["points"].take());
            let writes = session.validate().await.expect("nothing to refuse");
            for repeat in 0..2 {
                bed.apply(&writes).await.unwrap_or_else(|setback| panic!("seed {seed}: {setback:?}\n{}", told()));
                let there = sorted(bed.points(json!(IDS)).await);
                assert_eq!(seen, there, "seed {seed}, round {round}, repeat {repeat}:\n{}", told());
            }
        }
    }
}

/// Keys in order: those of a merged payload stand where they were put.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(sorted).collect(),
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(pairs.into_iter().collect())
        }
        plain => plain,
    }
}
