use proptest::prelude::*;
use serde_json::json;
use tokio_postgres::types::{FromSql as _, Kind, Type};

use super::*;

fn text(ty: &Type, value: serde_json::Value) -> String {
    match encode(ty, &value) {
        Ok(Param::Text(text)) => text,
        other => panic!("{value} as {ty}: {other:?}"),
    }
}

fn why(ty: &Type, value: serde_json::Value) -> (String, String) {
    let unfit = encode(ty, &value).expect_err("it does not fit");
    (unfit.below, unfit.why)
}

#[test]
fn integers_are_whole_and_in_range() {
    assert_eq!(text(&Type::INT2, json!(-32768)), "-32768");
    assert_eq!(text(&Type::INT8, json!(i64::MIN)), i64::MIN.to_string());
    assert_eq!(text(&Type::INT8, json!("9223372036854775807")), "9223372036854775807");
    assert_eq!(text(&Type::OID, json!(u32::MAX)), "4294967295");
    for (ty, value) in [
        (Type::INT2, json!(32768)),
        (Type::INT4, json!(2_147_483_648_i64)),
        (Type::INT4, json!(1.0)),
        (Type::INT4, json!("1")),
        (Type::INT8, json!(9_223_372_036_854_775_808_u64)),
        (Type::INT8, json!("1e3")),
        (Type::OID, json!(-1)),
        (Type::INT4, json!(true)),
    ] {
        assert!(why(&ty, value).1.contains("whole number"));
    }
}

#[test]
fn a_number_is_no_text_and_a_text_no_boolean() {
    assert_eq!(why(&Type::TEXT, json!(7)).1, "text takes text, not a number");
    assert_eq!(why(&Type::UUID, json!({})).1, "uuid takes text, not an object");
    assert!(why(&Type::BOOL, json!("true")).1.contains("true or false"));
    assert!(why(&Type::TEXT, json!("a\0b")).1.contains("U+0000"));
    assert_eq!(encode(&Type::JSONB, &json!(null)), Ok(Param::Null));
    assert_eq!(text(&Type::JSONB, json!([1, null])), "[1,null]");
    assert_eq!(encode(&Type::BYTEA, &json!("AP8=")), Ok(Param::Bytes(vec![0, 255])));
    assert!(why(&Type::BYTEA, json!("AP8")).1.contains("base64"));
}

#[test]
fn arrays_are_quoted_nested_and_say_where_they_are_wrong() {
    assert_eq!(text(&Type::TEXT_ARRAY, json!(["a\"b\\c", null, "NULL", ""])), r#"{"a\"b\\c",NULL,"NULL",""}"#);
    assert_eq!(text(&Type::INT4_ARRAY, json!([[1, 2], [3, null]])), r#"{{"1","2"},{"3",NULL}}"#);
    assert_eq!(text(&Type::INT4_ARRAY, json!([])), "{}");
    assert_eq!(text(&Type::BYTEA_ARRAY, json!(["AP8="])), r#"{"\\x00ff"}"#);
    assert_eq!(text(&Type::JSONB_ARRAY, json!([[1], {"a": "b"}])), r#"{"[1]","{\"a\":\"b\"}"}"#);
    assert_eq!(why(&Type::INT4_ARRAY, json!([[1], ["x"]])).0, "/1/0");
    assert!(why(&Type::INT4_ARRAY, json!([[[[[[[1]]]]]]])).1.contains("6 dimensions"));
    assert!(why(&Type::INT4_ARRAY, json!(1)).1.contains("takes an array"));
}

#[test]
fn domains_are_what_they_are_made_of() {
    let over = |inner: Type| Type::new("d".to_owned(), 99_999, Kind::Domain(inner), "public".to_owned());
    assert_eq!(text(&over(over(Type::INT4)), json!(5)), "5");
    assert!(is_readable(&over(Type::INT4_ARRAY)));
    assert!(!is_readable(&Type::TS_VECTOR) && !is_readable(&Type::RECORD) && !is_readable(&Type::MONEY_ARRAY));
}

#[test]
fn equal_names_are_numbered_past_those_that_are_there() {
    let names = |given: &[&str]| column_names(given.iter().copied());
    assert_eq!(names(&["a", "a", "a"]), ["a", "a_2", "a_3"]);
    assert_eq!(names(&["a", "a", "a_2"]), ["a", "a_3", "a_2"]);
    assert_eq!(names(&["a_2", "a", "a"]), ["a_2", "a", "a_3"]);
    assert_eq!(names(&["a", "a", "a_2", "a_2"]), ["a", "a_3", "a_2", "a_2_2"]);
}

/// Every type that is read, and then some.
fn types() -> Vec<Type> {
    (1..6000).filter_map(Type::from_oid).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A server's bytes never panic us, whatever they are.
    #[test]
    fn no_bytes_panic(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
        for ty in types() {
            let _ = Cell::from_sql(&ty, &raw);
        }
    }

    /// Nor do a client's values.
    #[test]
    fn no_text_panics(given in any::<String>(), number in any::<f64>()) {
        for ty in types() {
            for value in [json!(given), json!(number), json!([given]), json!({"a": given})] {
                let _ = encode(&ty, &value);
            }
        }
    }
}
