//! A batch job: a long piece of work cut into chunks, each a transaction of its own.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::commit::KeyNote;
use super::ids::TxnId;
use super::problem::{Code, Problem};
use super::ranges::Ranges;
use super::request::Operation;

/// One more than the greatest number of a chunk, and the greatest number of chunks: JSON's whole numbers are exact below
/// it everywhere.
pub const CHUNKS_BELOW: u64 = 1 << 53;
/// Bytes of one chunk's compensation, its references filled.
pub const UNDO_BYTES: usize = 64 << 10;
/// Bytes of all compensations that one job keeps until it ends. They are held in memory.
pub const JOB_UNDO_BYTES: usize = 32 << 20;
/// Pieces into which the done chunks of one job may fall: what its progress costs in memory.
pub const MOST_PIECES: usize = 16_384;

/// `POST /v1/transactions` with `job`.
#[derive(Clone, Debug)]
pub struct JobWish {
    /// Its name: chunks name it as their `parent`.
    pub name: String,
    /// How many chunks it will have, where that is known.
    pub total: Option<u64>,
    /// Whose it is.
    pub principal: Arc<str>,
    /// Of the request: the same one again means the same job.
    pub digest: [u8; 32],
    /// Of the request that opened it.
    pub trace: super::trace::TraceId,
}

/// What makes a transaction a chunk.
#[derive(Clone, Debug)]
pub struct ChunkWish {
    /// The job's name.
    pub parent: String,
    /// Which of its chunks.
    pub number: u64,
    /// Who asks.
    pub principal: Arc<str>,
    /// Of the request.
    pub digest: [u8; 32],
    /// What undoes it, with references to the chunk's own results; `None`: nothing does.
    pub compensate: Option<Vec<Operation>>,
}

/// How a client ends a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum JobVerdict {
    /// All is done.
    Commit,
    /// Undo the chunks by their compensations, the last one first.
    RollBack,
    /// Give it up: its chunks stay as they are.
    MarkFailed,
}

/// Where a job stands, in the order in which it can go on: never back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum JobPhase {
    /// Takes chunks.
    #[default]
    Open,
    /// Undoes them.
    Compensating,
    /// Ended well.
    Committed,
    /// Every chunk is undone.
    Compensated,
    /// Given up.
    Aborted,
}

impl JobPhase {
    /// Whether nothing more can happen to it.
    #[must_use]
    pub fn has_ended(self) -> bool {
        self >= Self::Committed
    }
}

/// What the log notes of a transaction that is a chunk, or that undoes one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChunkNote {
    /// The job.
    pub job: TxnId,
    /// The job's name.
    pub parent: String,
    /// Which chunk.
    pub number: u64,
    /// Whether this transaction is its compensation.
    pub undoes: bool,
    /// What would undo it, as text: operations whose references are filled.
    pub undo: Option<String>,
}

impl ChunkNote {
    /// The idempotency key of a chunk, or of its compensation: what makes it happen once, in the deciding store's marker.
    /// It stands among the principal's own keys, so `GET /v1/idempotency/job/JOB/17` finds it.
    #[must_use]
    pub fn key(principal: &str, job: TxnId, number: u64, undoes: bool, digest: [u8; 32]) -> KeyNote {
        let undo = if undoes { "undo/" } else { "" };
        KeyNote { key: format!("{principal}/job/{job}/{undo}{number}"), digest }
    }
}

/// A compensation as it is written down: read back by later programs too, so its form has a number.
#[derive(Serialize, Deserialize)]
struct Undo {
    form: u32,
    operations: Vec<Operation>,
}

const UNDO_FORM: u32 = 1;

/// A chunk's compensation as text, its references filled with the chunk's own results.
///
/// # Errors
/// `invalid_request` with the pointer of a `$ref` that finds nothing; `payload_too_large`.
pub fn write_undo<'a>(
    operations: &[Operation],
    result_of: impl Fn(&str) -> Option<&'a Value>,
) -> Result<String, Problem> {
    let filled = operations.iter().map(|operation| {
        let values = operation.action.template().bind(&result_of);
        let values = values.map_err(|problem| problem.in_operation(&operation.id))?;
        let action = operation.action.clone().filled(values);
        Ok(Operation { action, ..operation.clone() })
    });
    let undo = Undo { form: UNDO_FORM, operations: filled.collect::<Result<_, Problem>>()? };
    let text = serde_json::to_string(&undo).map_err(|why| Problem::new(Code::Internal, why.to_string()))?;
    if text.len() > UNDO_BYTES {
        let detail = format!("this compensation has {} bytes: at most {UNDO_BYTES} are kept for a chunk", text.len());
        return Err(Problem::new(Code::PayloadTooLarge, detail).at("/compensate"));
    }
    Ok(text)
}

/// The operations of [`write_undo`]'s text.
///
/// # Errors
/// `unsupported`: a later program wrote it.
pub fn read_undo(text: &str) -> Result<Vec<Operation>, Problem> {
    let undo: Undo = serde_json::from_str(text)
        .map_err(|why| Problem::new(Code::Unsupported, format!("a compensation that cannot be read: {why}")))?;
    if undo.form != UNDO_FORM {
        let detail = format!("a compensation of form {}: this version reads form {UNDO_FORM}", undo.form);
        return Err(Problem::new(Code::Unsupported, detail));
    }
    Ok(undo.operations)
}

/// A job's progress, as clients read it.
#[derive(Clone, PartialEq, Debug, Serialize, ToSchema)]
pub struct JobView {
    /// How many chunks it will have, where that was said.
    pub chunks: Option<u64>,
    /// How many are done.
    pub done: u64,
    /// Which are done: inclusive ranges, rising; the first hundred of them.
    #[schema(value_type = Vec<Vec<u64>>)]
    pub ranges: Vec<(u64, u64)>,
    /// Ranges that are not listed.
    #[serde(skip_serializing_if = "is_zero")]
    pub more_ranges: usize,
    /// The first chunk that is neither done nor at work: where a worker goes on. Null where there is none (or the job
    /// takes none any more).
    pub next: Option<u64>,
    /// How many are at work, or in doubt.
    pub running: usize,
    /// How many of the done ones have no `compensate`.
    pub without_compensation: u64,
    /// How many are undone again.
    #[serde(skip_serializing_if = "is_zero_long")]
    pub undone: u64,
    /// The last refusal of a chunk (or of a compensation) that has not been done since.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedChunk>,
}

/// A chunk that was refused.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, ToSchema)]
pub struct FailedChunk {
    /// Which.
    pub chunk: u64,
    /// The problem's code.
    pub code: String,
    /// Its sentence.
    pub detail: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks with a reference")]
fn is_zero_long(number: &u64) -> bool {
    *number == 0
}

/// Ranges in a sentence: `0-15, 18`, the first few of them.
#[must_use]
pub fn in_words(ranges: &Ranges) -> String {
    const SHOWN: usize = 20;
    let pieces = ranges.as_slice();
    let mut words: Vec<String> = pieces
        .iter()
        .take(SHOWN)
        .map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") })
        .collect();
    if pieces.len() > SHOWN {
        words.push(format!("and {} ranges more", pieces.len() - SHOWN));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::reference::Template;
    use super::super::request::{Action, Expect, Verb};
    use super::*;

    fn operation(action: Action) -> Operation {
        let (expect, pointer) = (Expect { rows: Some(1), ..Expect::default() }, "/compensate/operations/0".to_owned());
        Operation { id: "u".into(), store: "pg".into(), reads: false, action, expect, pointer }
    }

    #[test]
    fn a_compensation_is_filled_and_reads_back() {
        let template = |value| Template::parse(value, "/p").unwrap();
        let sql = Action::Sql {
            text: "DELETE".into(),
            params: template(json!([{"$ref": "row#/rows/0/id"}, {"$literal": {"$ref": 1}}])),
        };
        let body = template(json!({"points": [{"$ref": "row#/rows/0/id"}]}));
        let points = Action::Points { collection: "docs".into(), verb: Verb::Delete, body };
        let row = json!({"rows": [{"id": 7}]});
        let text = write_undo(&[operation(sql), operation(points)], |id| (id == "row").then_some(&row)).unwrap();
        let back = read_undo(&text).unwrap();
        assert_eq!(back[0].expect.rows, Some(1));
        let nothing = |_: &str| None;
        assert_eq!(back[0].action.template().bind(nothing).unwrap(), json!([7, {"$ref": 1}]), "values stay values");
        assert_eq!(back[1].action.template().bind(nothing).unwrap(), json!({"points": [7]}));
        let Action::Points { collection, verb, .. } = &back[1].action else { panic!("{:?}", back[1]) };
        assert_eq!((collection.as_str(), *verb), ("docs", Verb::Delete));
    }

    #[test]
    fn what_cannot_be_filled_kept_or_read_is_refused() {
        let sql = |params| operation(Action::Sql { text: "DELETE".into(), params });
        let lost = Template::parse(json!([{"$ref": "row#/rows/9"}]), "/compensate/operations/0/params").unwrap();
        let row = json!({"rows": []});
        let problem = write_undo(&[sql(lost)], |_| Some(&row)).unwrap_err();
        assert_eq!(problem.pointer.as_deref(), Some("/compensate/operations/0/params/0/$ref"));
        let large = sql(Template::plain(json!(["x".repeat(UNDO_BYTES)])));
        assert_eq!(write_undo(&[large], |_| None).unwrap_err().code, Code::PayloadTooLarge);
        let later = r#"{"form": 2, "operations": []}"#;
        assert_eq!(read_undo(later).unwrap_err().code, Code::Unsupported);
    }

    #[test]
    fn keys_of_chunks_and_of_their_compensations_never_meet() {
        let job = TxnId::fresh();
        let key = |number, undoes| ChunkNote::key("app", job, number, undoes, [0; 32]).key;
        assert_eq!(key(17, false), format!("app/job/{job}/17"));
        assert_ne!(key(17, false), key(17, true));
    }
}
