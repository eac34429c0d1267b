//! The command line's own shape; what it answers is tested with the real program.

use clap::{CommandFactory, Parser};
use serde_json::json;

use super::output::table;
use super::*;

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn options_may_stand_behind_the_command() {
    let cli = Cli::try_parse_from(["outrigger", "txn", "list", "--json", "--config", "x.toml", "--door", "unix:/a"]);
    let cli = cli.unwrap();
    assert!(cli.json && cli.config == Some("x.toml".into()));
    assert!(Cli::try_parse_from(["outrigger", "txn", "list", "--door", "nowhere"]).is_err());
    assert!(Cli::try_parse_from(["outrigger", "txn", "list", "--limit", "0"]).is_err());
    assert!(Cli::try_parse_from(["outrigger", "txn", "resolve", "X", "skip", "--reason", "gone"]).is_ok());
    for args in [&["X", "skip"][..], &["X", "--reason", "r"], &["X", "force", "--reason", "r"]] {
        let all = ["outrigger", "txn", "resolve"].iter().chain(args);
        assert!(Cli::try_parse_from(all).is_err(), "{args:?}");
    }
}

#[test]
fn tables_are_aligned_by_characters() {
    let rows = vec![vec!["é".to_owned(), "x".to_owned()], vec!["abc".to_owned(), String::new()]];
    assert_eq!(table(&["A", "LONG"], &rows), "A    LONG\né    x\nabc\n");
}

#[test]
fn a_value_is_shown_whole() {
    let mut output = Output::new(true);
    assert!(output.is_json());
    output.value(&json!({"a": [1]}));
    assert_eq!(client::encode("name:a b/c"), "name:a%20b%2Fc");
}
