//! The words of the control port: one line, one command, `name=value` pairs.

use std::time::Duration;

use tonic::Code;

use super::{Fault, Kind, Rule};

#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    Inject(Rule),
    Reset,
    Status,
    /// Runs the optimizers over a collection.
    Optimize(String),
}

/// gRPC's codes by the names that its specification gives them, in lower case.
const CODES: [(&str, Code); 16] = [
    ("cancelled", Code::Cancelled),
    ("unknown", Code::Unknown),
    ("invalid_argument", Code::InvalidArgument),
    ("deadline_exceeded", Code::DeadlineExceeded),
    ("not_found", Code::NotFound),
    ("already_exists", Code::AlreadyExists),
    ("permission_denied", Code::PermissionDenied),
    ("resource_exhausted", Code::ResourceExhausted),
    ("failed_precondition", Code::FailedPrecondition),
    ("aborted", Code::Aborted),
    ("out_of_range", Code::OutOfRange),
    ("unimplemented", Code::Unimplemented),
    ("internal", Code::Internal),
    ("unavailable", Code::Unavailable),
    ("data_loss", Code::DataLoss),
    ("unauthenticated", Code::Unauthenticated),
];

/// # Errors
/// A sentence for whoever typed it.
pub(crate) fn command(line: &str) -> Result<Command, String> {
    let mut words = line.split_whitespace();
    match (words.next(), words.next()) {
        (Some("inject"), Some(kind)) => rule(kind.parse()?, words).map(Command::Inject),
        (Some("inject"), None) => Err("inject what?".to_owned()),
        (Some("optimize"), Some(collection)) => Ok(Command::Optimize(collection.to_owned())),
        (Some("optimize"), None) => Err("optimize which collection?".to_owned()),
        (Some("reset"), None) => Ok(Command::Reset),
        (Some("status"), None) => Ok(Command::Status),
        (Some(other), _) => Err(format!("no command `{other}`; there are inject, reset, status and optimize")),
        (None, _) => Err("an empty line".to_owned()),
    }
}

/// The default code is ambiguous, as `unavailable` is, but the real client does not silently repeat the call over it.
fn rule<'a>(kind: Kind, words: impl Iterator<Item = &'a str>) -> Result<Rule, String> {
    let fault = Fault { kind, code: Code::DeadlineExceeded, time: Duration::from_millis(200), retry_after_s: 1 };
    let mut rule = Rule { fault, n: 1, skip: 0, verbs: Vec::new(), collection: None };
    for word in words {
        let (name, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is no name=value"))?;
        match name {
            "n" => rule.n = number(name, value)?,
            "skip" => rule.skip = number(name, value)?,
            "ms" => rule.fault.time = Duration::from_millis(number(name, value)?),
            "retry_after" => rule.fault.retry_after_s = number(name, value)?,
            "code" => rule.fault.code = code(value)?,
            "verbs" => rule.verbs = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "collection" => rule.collection = Some(value.to_owned()),
            _ => return Err(format!("no setting `{name}`")),
        }
    }
    if rule.n == 0 {
        return Err("n must be at least 1".to_owned());
    }
    let writes_only = matches!(kind, Kind::WaitTimeout | Kind::Late | Kind::Half);
    match rule.verbs.iter().find(|verb| writes_only && verb.is_read()) {
        Some(verb) => Err(format!("{verb:?} is a read: {} needs a write", kind.name())),
        None => Ok(rule),
    }
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{name}: `{value}` is no number"))
}

fn code(name: &str) -> Result<Code, String> {
    let found = CODES.iter().find(|(spelled, _)| *spelled == name);
    found.map(|(_, code)| *code).ok_or_else(|| format!("no gRPC code `{name}`"))
}
