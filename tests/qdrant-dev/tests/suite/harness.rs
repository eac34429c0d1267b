//! A server of one's own for each test, and short words for what the tests do.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qdrant_client::qdrant::{
    CreateCollection, Distance, GetPoints, PointId, PointStruct, PointsOperationResponse, PointsSelector,
    RetrievedPoint, ScrollPoints, UpdateStatus, UpsertPoints, VectorParamsBuilder, VectorsConfig,
};
use qdrant_client::{Payload, Qdrant, QdrantError};
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Code;

/// A running `qdrant-dev`; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: String,
    faults: String,
}

impl Server {
    pub(crate) fn start(storage: &Path) -> Self {
        let ports = storage.with_extension("ports");
        let _ = std::fs::remove_file(&ports);
        let mut child = command(storage)
            .args(["--faults-listen", "127.0.0.1:0", "--port-file"])
            .arg(&ports)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ready = lines.map_while(Result::ok).find(|line| line.starts_with("listening on "));
        ready.expect("it says that it is ready");
        let told = std::fs::read_to_string(&ports).expect("a port file");
        let (address, faults) = told.trim().split_once('\n').expect("two addresses");
        Self { child, address: address.to_owned(), faults: faults.to_owned() }
    }

    /// A client that gives up after `timeout`.
    pub(crate) fn client_within(&self, timeout: Duration) -> Qdrant {
        let url = format!("http://{}", self.address);
        Qdrant::from_url(&url).skip_compatibility_check().timeout(timeout).build().expect("a client")
    }

    pub(crate) fn client(&self) -> Qdrant {
        self.client_within(Duration::from_secs(20))
    }

    /// One line to the control port; its answer without the `ok`.
    pub(crate) fn order(&self, line: &str) -> String {
        let answer = self.try_order(line);
        answer.strip_prefix("ok ").unwrap_or_else(|| panic!("{line}: {answer}")).to_owned()
    }

    pub(crate) fn try_order(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(&self.faults).expect("the control port");
        stream.write_all(format!("{line}\n").as_bytes()).expect("an order");
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }

    pub(crate) fn counts(&self) -> Value {
        serde_json::from_str(&self.order("status")).expect("JSON")
    }

    /// Processor time that it has used since it started.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("its state");
        let after_name = stat.rsplit_once(") ").expect("a name").1;
        let ticks = |at: usize| -> u64 { after_name.split(' ').nth(at).expect("a field").parse().expect("a number") };
        // User and system time in ticks of 10 ms.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().expect("SIGKILL");
        self.child.wait().expect("its end");
    }

    /// SIGTERM; true when it ended by itself, with success, and soon.
    pub(crate) fn stop(mut self) -> bool {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().expect("its state") {
                return status.success();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn command(storage: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qdrant-dev"));
    command.args(["--listen", "127.0.0.1:0", "--storage"]).arg(storage);
    command
}

/// A folder that goes with the test, and the storage in it.
pub(crate) fn storage() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let storage = dir.path().join("storage");
    (dir, storage)
}

/// A server, a client, and collection `c` of four-dimensional vectors under the dot product, which keeps them as sent.
pub(crate) async fn with_collection() -> (TempDir, Server, Qdrant) {
    let (dir, storage) = storage();
    let server = Server::start(&storage);
    let client = server.client();
    create(&client, "c").await;
    (dir, server, client)
}

pub(crate) async fn create(client: &Qdrant, name: &str) {
    let config = VectorsConfig::from(VectorParamsBuilder::new(4, Distance::Dot));
    let request = CreateCollection {
        collection_name: name.to_owned(),
        vectors_config: Some(config),
        ..CreateCollection::default()
    };
    assert!(client.create_collection(request).await.expect("a new collection").result);
}

/// A point of `c` whose vector tells its id.
pub(crate) fn point(id: u64, payload: Value) -> PointStruct {
    PointStruct::new(id, vec![id as f32, 1.0, 2.0, 3.0], Payload::try_from(payload).expect("an object"))
}

pub(crate) fn upsert_of(points: Vec<PointStruct>) -> UpsertPoints {
    UpsertPoints { collection_name: "c".to_owned(), wait: Some(true), points, ..UpsertPoints::default() }
}

/// Upserts points into `c` and insists on `Completed`.
pub(crate) async fn upsert(client: &Qdrant, points: Vec<PointStruct>) {
    completed(client.upsert_points(upsert_of(points)).await);
}

pub(crate) fn completed(answer: Result<PointsOperationResponse, QdrantError>) {
    assert_eq!(status(answer), UpdateStatus::Completed);
}

pub(crate) fn status(answer: Result<PointsOperationResponse, QdrantError>) -> UpdateStatus {
    answer.expect("an answer").result.expect("a result").status()
}

pub(crate) fn ids<I: Into<PointId>>(ids: impl IntoIterator<Item = I>) -> Option<PointsSelector> {
    Some(ids.into_iter().map(Into::into).collect::<Vec<PointId>>().into())
}

/// Points of `c` by id, whole.
pub(crate) async fn get(client: &Qdrant, wanted: &[u64]) -> Vec<RetrievedPoint> {
    let request = GetPoints {
        collection_name: "c".to_owned(),
        ids: wanted.iter().map(|id| (*id).into()).collect(),
        with_payload: Some(true.into()),
        with_vectors: Some(true.into()),
        ..GetPoints::default()
    };
    client.get_points(request).await.expect("points").result
}

/// Payloads of points of `c`; null for a point that is not there.
pub(crate) async fn payloads(client: &Qdrant, wanted: &[u64]) -> Vec<Value> {
    let found = get(client, wanted).await;
    let of = |id: &u64| {
        let point = found.iter().find(|point| point.id == Some((*id).into()));
        point.map_or(Value::Null, payload_of)
    };
    wanted.iter().map(of).collect()
}

pub(crate) fn payload_of(point: &RetrievedPoint) -> Value {
    json!(
        point
            .payload
            .iter()
            .map(|(key, value)| (key.clone(), value.clone().into_json()))
            .collect::<serde_json::Map<_, _>>()
    )
}

/// Number ids of every point in `c`, in their order.
pub(crate) async fn all_ids(client: &Qdrant) -> Vec<u64> {
    let request = ScrollPoints { collection_name: "c".to_owned(), limit: Some(100_000), ..ScrollPoints::default() };
    client.scroll(request).await.expect("points").result.iter().filter_map(number).collect()
}

pub(crate) fn number(point: &RetrievedPoint) -> Option<u64> {
    use qdrant_client::qdrant::point_id::PointIdOptions;
    match point.id.as_ref()?.point_id_options.as_ref()? {
        PointIdOptions::Num(number) => Some(*number),
        PointIdOptions::Uuid(_) => None,
    }
}

/// The refusal's code and words.
pub(crate) fn refused<T: std::fmt::Debug>(answer: Result<T, QdrantError>) -> (Code, String) {
    match answer.expect_err("a refusal") {
        QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
            (status.code(), status.message().to_owned())
        }
        other => panic!("{other:?}"),
    }
}
