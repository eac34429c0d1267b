//! Neo4j Community from Maven Central, on the system's Java; never linked, never shipped.
//!
//! The jars are fetched once a machine. A first, throw-away run then makes two things that every later stack uses: an
//! initialised home with the password set, to copy (2.4 MB), and an archive of loaded classes, which halves the boot
//! (7 s plain, 4 s with it on two cores).

use std::env;
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use super::bolt::Bolt;
use super::launch::Launch;
use super::{PASSWORD, Store, ports, server};
use crate::{cache, tool};

/// The version, pinned: a range makes Maven ask for minutes what it could know.
const VERSION: &str = "5.26.30";
/// The name of the only user that a fresh Neo4j has.
pub(super) const NEO4J_USER: &str = "neo4j";

const FETCH_LIMIT: Duration = Duration::from_secs(15 * 60);
const ADMIN_LIMIT: Duration = Duration::from_secs(120);
const QUERY_LIMIT: Duration = Duration::from_secs(60);
/// Raised whenever the template is made differently.
const TEMPLATE: u32 = 1;
/// Small heap, quick compiler, and the four packages of Java that Neo4j looks into.
const JVM: [&str; 8] = [
    "-Xms64m",
    "-Xmx384m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
];

const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>outrigger</groupId><artifactId>neo4j-for-tests</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.neo4j.app</groupId><artifactId>neo4j-server</artifactId><version>VERSION</version></dependency>
    <dependency><groupId>org.neo4j</groupId><artifactId>neo4j</artifactId><version>VERSION</version></dependency>
  </dependencies>
</project>
"#;

/// Are the jars on this machine already, so that Maven isn't needed?
pub(super) fn is_fetched() -> bool {
    cache::root().is_ok_and(|root| root.join(lib_name()).is_dir())
}

fn lib_name() -> String {
    format!("neo4j-{VERSION}/lib")
}

/// Makes the home of a stack if it isn't there: a copy of the template.
pub(super) fn prepare(home: &Path) -> Result<()> {
    if home.join("data").is_dir() {
        return Ok(());
    }
    cache::remove(home)?;
    cache::copy(&template()?.join("home"), home)
}

fn jars() -> Result<PathBuf> {
    cache::folder(&lib_name(), |draft| {
        tool::progress("neo4j", format!("fetching {VERSION} from Maven Central (144 MB, once)"));
        let project = draft.join("project");
        fs::create_dir(&project).context("making Maven's folder")?;
        fs::write(project.join("pom.xml"), POM.replace("VERSION", VERSION)).context("writing pom.xml")?;
        let mut maven = Command::new("mvn");
        maven.args([
            "-B",
            "-q",
            "-Dmaven.artifact.threads=16",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
        ]);
        maven.arg(format!("-DoutputDirectory={}", draft.display())).current_dir(&project);
        tool::output("fetching Neo4j", &mut maven, "", FETCH_LIMIT)?;
        cache::remove(&project)
    })
}

/// All jars by name. The archive of classes holds only for the very same list in the same order, and `lib/*` would be
/// in whatever order the file system lists it.
fn class_path() -> Result<OsString> {
    let dir = jars()?;
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut jars: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    jars.retain(|path| path.extension().is_some_and(|extension| extension == "jar"));
    jars.sort();
    env::join_paths(jars).context("joining the class path")
}

/// The archive depends on the Java that wrote it, so the template's name carries a digest of that Java's description.
fn template() -> Result<PathBuf> {
    let java = tool::which("java").and_then(|java| fs::canonicalize(java).ok()).context("java is not installed")?;
    let release = java.ancestors().nth(2).map(|home| home.join("release"));
    let mut hasher = DefaultHasher::new();
    (java, release.and_then(|path| fs::read(path).ok())).hash(&mut hasher);
    let name = format!("neo4j-{VERSION}/template{TEMPLATE}-{:016x}", hasher.finish());
    jars()?;
    cache::folder(&name, |draft| {
        tool::progress("neo4j", "first run: setting the password, archiving classes (once)");
        first_run(draft)
    })
}

fn first_run(draft: &Path) -> Result<()> {
    let home = draft.join("home");
    let port = ports::free()?;
    configure(&home, port)?;
    let mut admin = Command::new("java");
    admin.args([
        "-XX:TieredStopAtLevel=1",
        "org.neo4j.server.startup.Neo4jAdminCommand",
        "dbms",
        "set-initial-password",
    ]);
    admin.arg(PASSWORD).env("CLASSPATH", class_path()?).env("NEO4J_HOME", &home).env("NEO4J_CONF", home.join("conf"));
    tool::output("setting Neo4j's password", &mut admin, "", ADMIN_LIMIT)?;

    let log = draft.join("first-run.log");
    let mut archive = OsString::from("-XX:ArchiveClassesAtExit=");
    archive.push(draft.join("classes.jsa"));
    let process = launch_with(&home, Some(archive), true)?.start(&log)?;
    let ran = server::await_ready(Store::Neo4j, &process, &[log, home.join("logs/neo4j.log")], || is_ready(port))
        .and_then(|()| exercise(port));
    if let Err(error) = ran {
        process.kill_tree()?;
        return Err(error);
    }
    server::end(Store::Neo4j, &process)?;
    for leftover in ["logs", "run"] {
        cache::remove(&home.join(leftover))?;
    }
    Ok(())
}

/// What a test or the sidecar does first: its classes go into the archive. Nothing of it is kept.
fn exercise(port: u16) -> Result<()> {
    let mut bolt = connect(port)?;
    for cypher in
        ["SHOW CONSTRAINTS", "SHOW TRANSACTIONS YIELD transactionId, parameters, status", "MATCH (n) RETURN count(n)"]
    {
        bolt.run(cypher, json!({}))?;
    }
    bolt.begin()?;
    bolt.run(
        "MERGE (n:Warm {id: $id}) SET n += $set WITH n MATCH (m:Warm) MERGE (n)-[r:WARMS]->(m) RETURN n, r",
        json!({"id": 1, "set": {"list": [1, 2], "text": "x"}}),
    )?;
    bolt.rollback()
}

fn configure(home: &Path, port: u16) -> Result<()> {
    let conf = home.join("conf");
    fs::create_dir_all(&conf).with_context(|| format!("making {}", conf.display()))?;
    // The two pauses at the end are for cluster members that may still call: 10 s at every stop, for nobody here.
    let text = format!(
        "# Written by `cargo xtask stack` at every start.\n\
         server.default_listen_address=127.0.0.1\n\
         server.http.enabled=false\n\
         server.https.enabled=false\n\
         server.bolt.listen_address=127.0.0.1:{port}\n\
         server.bolt.advertised_address=127.0.0.1:{port}\n\
         server.memory.pagecache.size=64m\n\
         db.tx_log.preallocate=false\n\
         dbms.usage_report.enabled=false\n\
         internal.dbms.bolt.netty_server_shutdown_quiet_period=0\n\
         internal.server.bolt.thread_pool_shutdown_wait_time=1s\n"
    );
    fs::write(conf.join("neo4j.conf"), text).context("writing neo4j.conf")
}

/// Writes the configuration for `port` and tells how to start it.
pub(super) fn launch(home: &Path, port: u16, dies_with_us: bool) -> Result<Launch> {
    configure(home, port)?;
    let mut archive = OsString::from("-XX:SharedArchiveFile=");
    archive.push(template()?.join("classes.jsa"));
    // An archive that Java can't use after all is passed over; the log says so when asked to.
    launch_with(home, Some(archive), dies_with_us)
}

fn launch_with(home: &Path, archive: Option<OsString>, dies_with_us: bool) -> Result<Launch> {
    let mut args: Vec<OsString> = JVM.iter().map(OsString::from).collect();
    args.extend(archive);
    args.push("org.neo4j.server.CommunityEntryPoint".into());
    for (name, path) in [("--home-dir=", home.to_path_buf()), ("--config-dir=", home.join("conf"))] {
        let mut arg = OsString::from(name);
        arg.push(path);
        args.push(arg);
    }
    Ok(Launch {
        program: tool::which("java").context("java is not installed")?,
        args,
        // By the environment, so that `ps` shows a line that a person can read.
        env: vec![("CLASSPATH", class_path()?)],
        cwd: home.to_path_buf(),
        user: None,
        dies_with_us: dies_with_us.then_some("KILL"),
    })
}

/// Does it answer a query? A Bolt handshake alone answers before the database has recovered.
pub(super) fn is_ready(port: u16) -> bool {
    let asked = Instant::now();
    let answered = connect(port).and_then(|mut bolt| bolt.run("RETURN 1", json!({})));
    answered.is_ok() && asked.elapsed() < QUERY_LIMIT
}

fn connect(port: u16) -> Result<Bolt> {
    Bolt::connect(&format!("127.0.0.1:{port}"), NEO4J_USER, PASSWORD, QUERY_LIMIT)
}
