//! One flight: a batch of statements that leave together and are judged answer by answer.
//!
//! ```text
//!   BEGIN; SET …  │ marker │ op 1 │ op 2 │ op 3        one write, one round trip, when all are prepared already;
//!   └ answer        answer   answer  …                 else Parse for each that is not, in a round trip before
//! ```
//!
//! After a failure the server answers every later statement with 25P02: the first failure is the one that counts.

use std::collections::HashMap;

use futures::future::join;
use serde_json::{Value, json};
use tokio_postgres::{Error, Statement};

use super::answers::{Answer, Reply, Trouble, begin, in_order, mark, run};
use super::connect::Conn;
use super::guard::Checked;
use super::marker::{self, MarkParams};
use super::values::{self, Param};
use super::{MAX_RESULT_BYTES, errors, record};
use crate::model::ids::StoreName;
use crate::model::powers::Role;
use crate::model::problem::{Code, Problem};
use crate::store::expect;

/// What opens a transaction, or goes on with it under new bounds.
pub(super) struct Opening {
    /// `BEGIN; SET …`, or only the settings.
    pub(super) begin: String,
    pub(super) role: Role,
    pub(super) mark: MarkParams,
}

impl Opening {
    fn marker(&self) -> Option<&'static str> {
        match self.role {
            Role::Decider => Some(marker::MARK),
            Role::Preparer => Some(marker::TAKE_PART),
            Role::Reader | Role::Redoer | Role::Undecided => None,
        }
    }
}

/// A flight's end.
pub(super) struct Landed {
    pub(super) results: Vec<Value>,
    /// Where the marker stands, when this flight wrote it.
    pub(super) marked_at: Option<String>,
}

/// Why a flight failed.
pub(super) struct Crash {
    pub(super) problem: Problem,
    pub(super) stale: Stale,
}

/// Whether statements that were prepared before fit the schema no longer: prepared afresh, they may run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Stale {
    /// It failed for another reason.
    No,
    /// This one may be: its parameters do not fit what they once were.
    One(String),
    /// One is, so any may be.
    Any,
}

impl From<Problem> for Crash {
    fn from(problem: Problem) -> Self {
        Self { problem, stale: Stale::No }
    }
}

/// One flight and everything that it is about.
pub(super) struct Flight<'a> {
    pub(super) store: &'a StoreName,
    pub(super) conn: &'a mut Conn,
    pub(super) opening: Option<&'a Opening>,
    pub(super) checked: &'a [Checked<'a>],
    /// Whether all of this transaction's operations in this store read.
    pub(super) reads: bool,
    /// Whether the connection may keep the statements (not while the transaction's own DDL stands uncommitted).
    pub(super) keep: bool,
}

/// The statements of one flight, and which of them the connection knew already.
struct Ready {
    by_text: HashMap<String, (Statement, bool)>,
}

impl Flight<'_> {
    /// Sends everything and reads every answer.
    pub(super) async fn fly(mut self) -> Result<Landed, Crash> {
        let mut ready = Ready { by_text: HashMap::new() };
        let missing = self.look_for_statements(&mut ready);
        let mut begun = false;
        if !missing.is_empty() {
            self.prepare(&missing, &mut ready).await?;
            begun = self.opening.is_some();
        }
        let params = self.encode(&ready)?;
        let client = &self.conn.client;
        let mut answers: Vec<Answer<'_>> = Vec::new();
        if let Some(opening) = self.opening {
            if !begun {
                answers.push(Box::pin(begin(client, &opening.begin)));
            }
            if let Some(text) = opening.marker() {
                let statement = ready.statement(text)?;
                answers.push(Box::pin(mark(client, statement, opening)));
            }
        }
        let before_ops = answers.len();
        for (checked, params) in self.checked.iter().zip(&params) {
            answers.push(Box::pin(run(client, ready.statement(&checked.sql)?, params)));
        }
        let replies = in_order(answers).await;
        self.judge(&ready, before_ops, replies)
    }

    /// Fills `ready` with what the connection has; answers the texts that it lacks, each once.
    fn look_for_statements(&mut self, ready: &mut Ready) -> Vec<String> {
        let mut texts: Vec<&str> = Vec::new();
        if let Some(opening) = self.opening {
            texts.extend(opening.marker());
            // Not for this flight, but so that the commit needs no round trip more.
            texts.extend((opening.role == Role::Decider).then_some(marker::NOTE));
        }
        texts.extend(self.checked.iter().map(|checked| &*checked.sql));
        let mut missing: Vec<String> = Vec::new();
        for text in texts {
            if ready.by_text.contains_key(text) || missing.iter().any(|known| known == text) {
                continue;
            }
            match self.conn.statements.get(text) {
                Some(statement) => drop(ready.by_text.insert(text.to_owned(), (statement, true))),
                None => missing.push(text.to_owned()),
            }
        }
        missing
    }

    /// `BEGIN` (where it opens) and every missing Parse in one round trip.
    async fn prepare(&mut self, missing: &[String], ready: &mut Ready) -> Result<(), Crash> {
        let client = &self.conn.client;
        let opening: Vec<_> = self.opening.iter().map(|opening| client.batch_execute(&opening.begin)).collect();
        let preparing: Vec<_> = missing.iter().map(|text| client.prepare(text)).collect();
        // First polled, first sent.
        let (begun, prepared) = join(in_order(opening), in_order(preparing)).await;
        for answer in begun {
            answer.map_err(|error| Crash::from(errors::problem(self.store, &error)))?;
        }
        let mut first_error = None;
        for (text, answer) in missing.iter().zip(prepared) {
            match answer {
                Ok(statement) => {
                    if self.keep || text == marker::NOTE {
                        self.conn.statements.keep(text, statement.clone());
                    }
                    ready.by_text.insert(text.clone(), (statement, false));
                }
                Err(error) => drop(first_error.get_or_insert((text, error))),
            }
        }
        match first_error {
            Some((text, error)) => Err(self.of_text(text, &error).into()),
            None => Ok(()),
        }
    }

    /// The problem of whoever's statement this is.
    fn of_text(&self, text: &str, error: &Error) -> Problem {
        match self.checked.iter().find(|checked| checked.sql == text) {
            Some(checked) => errors::of_operation(self.store, checked, self.reads, error),
            None => errors::of_marker(self.store, false, error),
        }
    }

    /// Every parameter of every operation, checked before any is sent.
    fn encode(&self, ready: &Ready) -> Result<Vec<Vec<Param>>, Crash> {
        let mut all = Vec::with_capacity(self.checked.len());
        for checked in self.checked {
            let statement = ready.statement(&checked.sql)?;
            let params = encode_params(checked, &statement).map_err(|problem| {
                let stale = if ready.was_known(&checked.sql) { Stale::One(checked.sql.to_string()) } else { Stale::No };
                Crash { problem: problem.in_store(self.store), stale }
            });
            all.push(params?);
            for column in statement.columns() {
                if !values::is_readable(column.type_()) {
                    let detail = format!(
                        "the column `{}` is of type {}, which has no JSON form here: cast it to text",
                        column.name(),
                        column.type_().name()
                    );
                    let problem = Problem::new(Code::RejectedByStore, detail).in_store(self.store);
                    return Err(problem.in_operation(&checked.op.op.id).at(checked.at()).into());
                }
            }
        }
        Ok(all)
    }

    /// Reads the answers in their order; the first that is bad ends it.
    fn judge(&self, ready: &Ready, before_ops: usize, replies: Vec<Result<Reply, Trouble>>) -> Result<Landed, Crash> {
        let mut landed = Landed { results: Vec::with_capacity(self.checked.len()), marked_at: None };
        for (index, reply) in replies.into_iter().enumerate() {
            let op = index.checked_sub(before_ops).map(|index| &self.checked[index]);
            match (reply, op) {
                (Ok(Reply::Begun), _) => {}
                (Ok(Reply::Marked(Some(at))), _) => landed.marked_at = Some(at),
                (Ok(Reply::Marked(None)), _) => return Err(errors::other_owner(self.store).into()),
                (Ok(Reply::Rows(rows, affected)), Some(checked)) => {
                    let returns = !ready.statement(&checked.sql)?.columns().is_empty();
                    let counted = if returns { rows.len() as u64 } else { affected };
                    let result = match &checked.record {
                        Some(compiled) => record::read(self.store, compiled, rows)?,
                        None => json!({"rows": rows, "rows_affected": affected}),
                    };
                    expect::check(self.store, &checked.op.op, counted, &result)?;
                    landed.results.push(result);
                }
                (Ok(Reply::Rows(..)), None) => return Err(Problem::new(Code::Internal, "an answer too many").into()),
                (Err(Trouble::TooLarge), op) => {
                    let detail = format!("the result is larger than {MAX_RESULT_BYTES} bytes: ask for less");
                    let problem = Problem::new(Code::RejectedByStore, detail).in_store(self.store);
                    return Err(op.map_or(problem.clone(), |checked| problem.in_operation(&checked.op.op.id)).into());
                }
                (Err(Trouble::Server(error)), None) => {
                    let has_key = self.opening.is_some_and(Opening::has_key);
                    let problem = match (index + 1 == before_ops, self.opening.and_then(Opening::marker)) {
                        (true, Some(_)) => errors::of_marker(self.store, has_key, &error),
                        _ => errors::problem(self.store, &error),
                    };
                    let known = self.opening.and_then(Opening::marker).is_some_and(|text| ready.was_known(text));
                    return Err(Crash { stale: staleness(&error, known), problem });
                }
                (Err(Trouble::Server(error)), Some(checked)) => {
                    let problem = match errors::decoding(&error) {
                        Some(why) => Problem::new(Code::RejectedByStore, why)
                            .in_store(self.store)
                            .in_operation(&checked.op.op.id)
                            .at(checked.at()),
                        None => errors::of_operation(self.store, checked, self.reads, &error),
                    };
                    return Err(Crash { stale: staleness(&error, ready.was_known(&checked.sql)), problem });
                }
            }
        }
        Ok(landed)
    }
}

impl Opening {
    fn has_key(&self) -> bool {
        self.mark.has_key()
    }
}

impl Ready {
    /// Whether the connection had it before this flight.
    fn was_known(&self, text: &str) -> bool {
        self.by_text.get(text).is_some_and(|(_, known)| *known)
    }

    fn statement(&self, text: &str) -> Result<Statement, Problem> {
        let found = self.by_text.get(text).map(|(statement, _)| statement.clone());
        found.ok_or_else(|| Problem::new(Code::Internal, "a statement was not prepared"))
    }
}

/// The parameters as their statement wants them.
fn encode_params(checked: &Checked<'_>, statement: &Statement) -> Result<Vec<Param>, Problem> {
    let op = checked.op;
    let refuse = |pointer: String, why: String| Problem::invalid(pointer, why).in_operation(&op.op.id);
    let Some(given) = checked.params() else {
        return Err(refuse(op.pointer(""), "`params` is an array".to_owned()));
    };
    let wanted = statement.params();
    if given.len() != wanted.len() {
        let why = format!("the statement takes {} parameters and is given {}", wanted.len(), given.len());
        return Err(refuse(op.pointer(""), why));
    }
    let encoded = wanted.iter().zip(given).enumerate().map(|(index, (ty, value))| {
        values::encode(ty, value).map_err(|unfit| refuse(checked.place(index) + &unfit.below, unfit.why))
    });
    encoded.collect()
}

/// DDL has passed under a prepared statement: its result type changed, it is gone, or what it named is.
fn staleness(error: &Error, was_known: bool) -> Stale {
    let Some(db) = error.as_db_error().filter(|_| was_known) else { return Stale::No };
    let stale = match db.code().code() {
        "0A000" => db.routine() == Some("RevalidateCachedQuery"),
        "26000" | "XX000" => true,
        code => code.starts_with("42"),
    };
    if stale { Stale::Any } else { Stale::No }
}
