//! A server for all tests of this binary, a store for each, and short words for what they do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::qdrant_client::Qdrant as Client;
use ::qdrant_client::qdrant::{
    CreateCollectionBuilder, Distance, MultiVectorComparator, MultiVectorConfigBuilder, SparseVectorParamsBuilder,
    SparseVectorsConfigBuilder, VectorParamsBuilder, VectorsConfigBuilder,
};
use outrigger::journal::slip::Decided;
use outrigger::model::commit::{Decider, RedoWrite};
use outrigger::model::ids::{Attempt, Incarnation, LogId, LogOwner, Lsn, Run, TxnId};
use outrigger::model::powers::Role;
use outrigger::model::problem::Problem;
use outrigger::model::reference::Template;
use outrigger::model::request::{Action, BoundOp, Expect, Isolation, Operation, PointCondition, Verb};
use outrigger::model::state::Outcome;
use outrigger::store::qdrant::{Qdrant, QdrantConfig};
use outrigger::store::{Redoes, Session, Setback, Store, TxnContext};
use serde_json::{Value, json};
use tokio::time::Instant;
use xtask::stack::{Login, Stack, Store as Kind, Wanted};

static STACK: OnceLock<Stack> = OnceLock::new();

/// How to reach the server that all tests of this binary share; it ends with the process.
pub(crate) fn login() -> Login {
    let start = || Stack::for_tests("store-qdrant", Wanted::only(&[Kind::Qdrant])).expect("the server starts");
    STACK.get_or_init(start).login(Kind::Qdrant).expect("the stack has a Qdrant")
}

/// A store over it, with a collection of the test's own.
pub(crate) struct Bed {
    pub(crate) store: Arc<Qdrant>,
    pub(crate) client: Client,
    pub(crate) collection: String,
    faults: Option<String>,
}

/// The deadline of redo writes in these tests.
pub(crate) const DEADLINE: Duration = Duration::from_millis(600);

pub(crate) fn config(url: &str) -> QdrantConfig {
    QdrantConfig {
        url: url.to_owned(),
        api_key: Some("no server here asks for it".to_owned()),
        tls: false,
        pool_max: 8,
        connect_timeout: Duration::from_secs(2),
        redo_deadline: DEADLINE,
    }
}

pub(crate) fn client(url: &str) -> Client {
    Client::from_url(url).skip_compatibility_check().build().expect("a client")
}

pub(crate) fn fresh_name() -> String {
    format!("c-{}", TxnId::fresh())
}

impl Bed {
    /// A collection with one unnamed vector of two dimensions.
    pub(crate) async fn plain() -> Self {
        Self::on(&login()).await
    }

    /// The same on a server of the test's own.
    pub(crate) async fn on(login: &Login) -> Self {
        let bed = Self::over(login);
        let vectors = VectorParamsBuilder::new(2, Distance::Dot);
        let request = CreateCollectionBuilder::new(&bed.collection).vectors_config(vectors);
        bed.client.create_collection(request).await.expect("a collection");
        bed
    }

    /// A collection with named vectors: `a` (3), `rows` (2, many of them) and `words` (sparse).
    pub(crate) async fn named() -> Self {
        let bed = Self::over(&login());
        let mut vectors = VectorsConfigBuilder::default();
        vectors.add_named_vector_params("a", VectorParamsBuilder::new(3, Distance::Dot));
        let many = MultiVectorConfigBuilder::new(MultiVectorComparator::MaxSim);
        vectors.add_named_vector_params("rows", VectorParamsBuilder::new(2, Distance::Dot).multivector_config(many));
        let mut sparse = SparseVectorsConfigBuilder::default();
        sparse.add_named_vector_params("words", SparseVectorParamsBuilder::default());
        let request =
            CreateCollectionBuilder::new(&bed.collection).vectors_config(vectors).sparse_vectors_config(sparse);
        bed.client.create_collection(request).await.expect("a collection");
        bed
    }

    pub(crate) fn over(login: &Login) -> Self {
        let store = Qdrant::new("vectors".into(), &config(&login.url));
        Self { store, client: client(&login.url), collection: fresh_name(), faults: login.faults.clone() }
    }

    pub(crate) fn op(&self, id: &str, verb: &str, body: Value) -> BoundOp {
        op(id, &self.collection, verb, body, Vec::new())
    }

    pub(crate) async fn session(&self) -> Box<dyn Session> {
        self.store.open(&context(), Role::Redoer).await.expect("a session")
    }

    /// What a transaction of these operations has to write after its decision.
    pub(crate) async fn plan(&self, ops: &[BoundOp]) -> Result<Vec<RedoWrite>, Problem> {
        let mut session = self.session().await;
        session.footprint(ops).await?;
        session.work(ops).await?;
        session.validate().await
    }

    pub(crate) async fn apply(&self, writes: &[RedoWrite]) -> Result<(), Setback> {
        self.store.apply(&decided(), writes).await
    }

    /// A whole transaction.
    pub(crate) async fn run(&self, ops: &[BoundOp]) {
        let writes = self.plan(ops).await.expect("nothing to refuse");
        self.apply(&writes).await.expect("applied");
    }

    /// A whole transaction of one operation.
    pub(crate) async fn one(&self, verb: &str, body: Value) {
        self.run(&[self.op("w", verb, body)]).await;
    }

    /// The refusal of a transaction of one operation.
    pub(crate) async fn refusal(&self, verb: &str, body: Value) -> Problem {
        self.plan(&[self.op("w", verb, body)]).await.expect_err("this must be refused")
    }

    /// A read of its own.
    pub(crate) async fn read(&self, verb: &str, body: Value) -> Value {
        let mut session = self.store.open(&context(), Role::Reader).await.expect("a session");
        session.work(&[self.op("r", verb, body)]).await.expect("a result").remove(0)
    }

    /// The points of these ids, whole.
    pub(crate) async fn points(&self, ids: Value) -> Value {
        self.read("retrieve", json!({"ids": ids, "with_vector": true})).await["points"].take()
    }

    /// Orders a fault for this collection.
    pub(crate) fn fault(&self, rule: &str) {
        self.control(&format!("inject {rule} collection={}", self.collection));
    }

    pub(crate) fn control(&self, line: &str) -> String {
        let address = self.faults.as_ref().expect("the stack's Qdrant takes orders");
        let mut stream = TcpStream::connect(address).expect("its control port");
        writeln!(stream, "{line}").expect("sent");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("an answer");
        assert!(answer.starts_with("ok "), "{line}: {answer}");
        answer
    }
}

pub(crate) fn op(id: &str, collection: &str, verb: &str, body: Value, conditions: Vec<PointCondition>) -> BoundOp {
    let verb = Verb::ALL.iter().find(|(_, name)| *name == verb).expect("a verb").0;
    let action = Action::Points { collection: collection.to_owned(), verb, body: Template::plain(body.clone()) };
    let operation = Operation {
        id: id.to_owned(),
        store: "vectors".into(),
        reads: verb.reads(),
        action,
        expect: Expect { conditions, ..Expect::default() },
        pointer: "/operations/0".to_owned(),
    };
    BoundOp { op: Arc::new(operation), values: body }
}

pub(crate) fn context() -> TxnContext {
    TxnContext {
        run: fresh_run(),
        owner: LogOwner { log: LogId::from_bytes([7; 16]), incarnation: Incarnation(1) },
        durable: Lsn::from_u64(1),
        decider: Some(Decider::Wal),
        followers: vec!["vectors".into()],
        key: None,
        isolation: Isolation::ReadCommitted,
        deadline: Instant::now() + Duration::from_secs(20),
        lock_wait: Duration::from_secs(10),
    }
}

pub(crate) fn fresh_run() -> Run {
    Run { txn: TxnId::fresh(), attempt: Attempt::FIRST }
}

pub(crate) fn decided() -> Decided {
    Decided::for_tests(fresh_run(), Outcome::Committed)
}
