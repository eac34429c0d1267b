//! A look at a statement's text before it is sent. Not a parser: it knows comments, strings and quoted names, so that
//! a word inside one of them is never taken for a clause.

/// What the text shows without asking the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look {
    /// The text certainly gives no rows (a write without `RETURN`): its result can be discarded in the same round trip.
    /// When in doubt this is false, which costs a round trip and never a row.
    pub(super) rowless: bool,
    /// A `RETURN` (or a clause that gives rows) stands in it: `expect.rows` counts rows.
    pub(super) returns: bool,
    /// Plain clauses throughout: another clause may be put in front without changing what the text does. When in doubt
    /// this is false, which costs a round trip and a third of the server's work.
    pub(super) plain: bool,
}

/// Looks at one statement.
///
/// # Errors
/// Why it must not be sent, for people.
pub(super) fn look(text: &str) -> Result<Look, String> {
    let words = words(text);
    let Some(first) = words.first() else {
        return Err("the statement is empty".to_owned());
    };
    if let Some(command) = first.strip_prefix(':') {
        return Err(format!("`:{command}` is a command of a shell, not Cypher"));
    }
    if matches!(first.as_str(), "BEGIN" | "COMMIT" | "ROLLBACK") {
        return Err(format!("`{first}` is not for an operation: Outrigger begins and ends the transaction"));
    }
    let gives_rows = |word: &String| {
        matches!(word.as_str(), "RETURN" | "CALL" | "YIELD" | "SHOW" | "TERMINATE" | "EXPLAIN" | "PROFILE")
    };
    let returns = words.iter().any(gives_rows);
    let writes = |word: &String| {
        matches!(word.as_str(), "CREATE" | "MERGE" | "SET" | "DELETE" | "DETACH" | "NODETACH" | "REMOVE" | "FOREACH")
    };
    let begins = matches!(
        first.as_str(),
        "MATCH" | "OPTIONAL" | "UNWIND" | "WITH" | "CREATE" | "MERGE" | "FOREACH" | "DELETE" | "DETACH"
    );
    // A union's other half, a subquery, a procedure, another graph, a schema command: none of them follows from the rows
    // of the clause before it.
    let odd = |word: &String| {
        word.starts_with("__OGR")
            || matches!(
                word.as_str(),
                "UNION"
                    | "CALL"
                    | "YIELD"
                    | "USE"
                    | "USING"
                    | "LOAD"
                    | "SHOW"
                    | "TERMINATE"
                    | "EXPLAIN"
                    | "PROFILE"
                    | "INDEX"
                    | "CONSTRAINT"
                    | "FINISH"
            )
    };
    Ok(Look {
        rowless: !returns && begins && words.iter().any(writes),
        returns,
        plain: begins && !words.iter().any(odd),
    })
}

/// The bare words in upper case; a `:` that begins the text stays with its word.
fn words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("//") {
            rest = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.find("*/").map_or("", |end| &comment[end + 2..]);
        } else if matches!(c, '\'' | '"' | '`') {
            rest = after_quote(&rest[1..], c);
        } else if c.is_alphanumeric() || c == '_' || (c == ':' && words.is_empty()) {
            let tail = &rest[c.len_utf8()..];
            let end = tail.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(tail.len());
            words.push(rest[..c.len_utf8() + end].to_uppercase());
            rest = &tail[end..];
        } else {
            rest = &rest[c.len_utf8()..];
        }
    }
    words
}

/// What follows the closing `quote`. In strings a backslash escapes; a doubled backtick simply opens again.
fn after_quote(text: &str, quote: char) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote != '`' {
            escaped = true;
        } else if c == quote {
            return &text[at + c.len_utf8()..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_certain_writes_are_rowless() {
        for text in [
            "CREATE (n:X {a: 'RETURN'}) // RETURN n",
            "/* RETURN */ merge (n:X) set n.a = \"it's \\\" RETURN\"",
            "MATCH (n:`RETURN`) DETACH DELETE n",
            "FOREACH (x IN [1] | CREATE (:X))",
        ] {
            assert_eq!(look(text), Ok(Look { rowless: true, returns: false, plain: true }), "{text}");
        }
        for (text, plain) in [
            ("CREATE (n) RETURN n", true),
            ("match (n) return n", true),
            ("CALL db.labels()", false),
            ("SHOW INDEXES", false),
            ("EXPLAIN CREATE (n)", false),
            ("MATCH (n) RETURN n UNION MATCH (m) RETURN m", false),
            ("UNWIND [1] AS x CALL (x) { RETURN 1 AS y } RETURN y", false),
            ("MATCH (__ogr_one) RETURN 1", false),
            ("RETURN 1", false),
        ] {
            assert_eq!(look(text), Ok(Look { rowless: false, returns: true, plain }), "{text}");
        }
        assert_eq!(look("MATCH (n)"), Ok(Look { rowless: false, returns: false, plain: true }));
        assert_eq!(look("DROP INDEX x"), Ok(Look { rowless: false, returns: false, plain: false }));
    }

    #[test]
    fn transaction_control_is_refused() {
        for text in ["", " // nothing", ":begin", "begin", " /* x */ COMMIT;", "Rollback", ":param x => 1"] {
            assert!(look(text).is_err(), "{text}");
        }
        assert!(look("MATCH (n) WHERE n.state = 'x' SET n.commit = 1").is_ok());
    }

    #[test]
    fn odd_text_never_panics() {
        for text in ["'", "`", "/*", "//", "ä'ö\\", "'\\", "\u{0}\u{10ffff}", "::", ":"] {
            let _ = look(text);
        }
    }
}
