//! Requests whose effect would show if it happened twice: nothing in the stores keeps a second one out but the key.

use serde_json::{Value, json};

use crate::world::World;

/// Who decides, and with it the stores that are written to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decides {
    Log,
    Postgres,
    Neo4j,
}

/// How often each effect of a request is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effects {
    pub rows: i64,
    pub nodes: i64,
    /// The point's version: each put counts it up.
    pub puts: i64,
}

impl Decides {
    pub const ALL: [Self; 3] = [Self::Log, Self::Postgres, Self::Neo4j];

    pub fn word(self) -> &'static str {
        match self {
            Self::Log => "wal",
            Self::Postgres => "pg",
            Self::Neo4j => "graph",
        }
    }

    /// What one effect of [`request`] leaves.
    pub fn once(self) -> Effects {
        Effects { rows: i64::from(self != Self::Log), nodes: i64::from(self == Self::Neo4j), puts: 1 }
    }
}

/// The table that takes any number of rows of one `mark`.
pub fn prepare(world: &World) {
    world.sql(&format!("CREATE TABLE {}_once (id bigint GENERATED ALWAYS AS IDENTITY, mark bigint)", world.name));
}

/// Writes `mark` to the stores of a plan: a row with a fresh id, a node that carries it, a point that counts its puts.
pub fn request(world: &World, decides: Decides, mark: i64) -> Value {
    let n = &world.name;
    let row = json!({"id": "row", "store": "pg", "params": [mark],
        "sql": format!("INSERT INTO {n}_once (mark) VALUES ($1) RETURNING id")});
    let node = json!({"id": "node", "store": "graph", "params": {"mark": mark, "row": {"$ref": "row#/rows/0/id"}},
        "cypher": format!("CREATE (n:{n}_once {{mark: $mark, row: $row}}) RETURN n.row AS row")});
    let point = json!({"id": "point", "store": "vectors", "record": {"do": "put", "in": n, "key": {"id": mark},
        "set": {"mark": mark}, "vector": [1, 2, 3, 4]}});
    let operations = match decides {
        Decides::Log => vec![point],
        Decides::Postgres => vec![row, point],
        Decides::Neo4j => vec![row, node, point],
    };
    json!({"operations": operations, "timeout_ms": 20000})
}

/// What the stores hold of `mark`, without asking a sidecar.
pub async fn effects(world: &World, mark: i64) -> Effects {
    let n = &world.name;
    let rows = world.sql(&format!("SELECT count(*) FROM {n}_once WHERE mark = {mark}"));
    let nodes = world.cypher(&format!("MATCH (n:{n}_once {{mark: {mark}}}) RETURN count(n)"));
    let wanted = qdrant_client::qdrant::GetPointsBuilder::new(
        n,
        vec![qdrant_client::qdrant::PointId::from(u64::try_from(mark).unwrap())],
    );
    let points = world.qdrant().get_points(wanted.with_payload(true)).await.unwrap().result;
    let version = points.first().and_then(|point| point.payload.get("version")?.as_integer());
    Effects { rows: rows.trim().parse().unwrap(), nodes: nodes[0][0].as_i64().unwrap(), puts: version.unwrap_or(0) }
}
