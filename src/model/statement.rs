//! The first words of an SQL (or Cypher) text, read without parsing it.

/// `text` without what may stand before its first word: blanks, `--` and nested `/* */` comments, opening parentheses
/// and empty statements (`;`). PostgreSQL skips the same, so `/**/;COMMIT` is a COMMIT here as it is there.
#[must_use]
pub fn from_first_word(text: &str) -> &str {
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c', '(', ';']);
        if let Some(comment) = rest.strip_prefix("--") {
            let end = comment.find(['\n', '\r']).unwrap_or(comment.len());
            rest = &comment[end..];
        } else if rest.starts_with("/*") {
            rest = after_comment(rest);
        } else {
            return rest;
        }
    }
}

/// The first word of a statement, as it is written; empty where the text begins with something else, or has nothing.
#[must_use]
pub fn first_word(sql: &str) -> &str {
    let rest = from_first_word(sql);
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    &rest[..end]
}

/// The first two words; empty where there are fewer.
#[must_use]
pub fn first_two_words(sql: &str) -> (&str, &str) {
    let first = first_word(sql);
    let rest = from_first_word(sql).get(first.len()..).unwrap_or_default();
    (first, first_word(rest))
}

/// What follows the comment that `text` begins with; nothing where it never ends (the server refuses that).
fn after_comment(text: &str) -> &str {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return &text[at..];
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_stands_behind_anything_that_the_server_skips() {
        for (text, word) in [
            ("select 1", "select"),
            ("  \t\n\r\x0b\x0cSELECT(1)", "SELECT"),
            ("-- a comment\nCOMMIT", "COMMIT"),
            ("--x\rCOMMIT", "COMMIT"),
            ("/* a /* nested */ one */ Rollback;", "Rollback"),
            ("/**/;;COMMIT", "COMMIT"),
            ("((VALUES (1)))", "VALUES"),
            ("(/*x*/--y\n( SELECT 1))", "SELECT"),
            ("/*/ still inside */ begin", "begin"),
            ("", ""),
            ("-- only this", ""),
            ("/* never closed COMMIT", ""),
            ("/*", ""),
            ("$1", ""),
            ("é_1 x", "é_1"),
        ] {
            assert_eq!(first_word(text), word, "{text:?}");
        }
    }

    #[test]
    fn two_words_are_read_the_same_way() {
        assert_eq!(first_two_words("SET /* so */ LOCAL x = 1"), ("SET", "LOCAL"));
        assert_eq!(first_two_words("prepare transaction 'x'"), ("prepare", "transaction"));
        assert_eq!(first_two_words("commit"), ("commit", ""));
        assert_eq!(first_two_words("/*"), ("", ""));
    }
}
