//! Every type, in and out, through the real server.

use outrigger::model::powers::Role;
use outrigger::model::problem::{Code, Problem};
use serde_json::{Value, json};

use super::{config, op, plain, store, url};
use crate::contract::{self, Subject};

async fn ask(subject: &Subject, sql: &str, params: Value) -> Result<Value, Problem> {
    let context = subject.context(contract::fresh_owner(), contract::fresh_run());
    let mut session = subject.store.open(&context, Role::Reader).await.unwrap();
    let result = session.work(&[op(sql, params, true)]).await;
    session.rollback().await;
    Ok(result?.remove(0)["rows"][0].clone())
}

/// What goes in comes out; where the second is given, in that form.
#[allow(clippy::too_many_lines, reason = "a table")]
fn round_trips() -> Vec<(&'static str, Value, Option<Value>)> {
    let same = |ty, value| (ty, value, None);
    let as_ = |ty, value, out| (ty, value, Some(out));
    vec![
        same("bool", json!(true)),
        same("int2", json!(-32768)),
        same("int4", json!(2_147_483_647)),
        same("int8", json!(-9_223_372_036_854_775_808_i64)),
        as_("int8", json!("9223372036854775807"), json!(9_223_372_036_854_775_807_i64)),
        same("oid", json!(4_294_967_295_u32)),
        same("float8", json!(0.1)),
        same("float8", json!(1.797_693_134_862_315_7e308)),
        same("float8", json!("NaN")),
        same("float8", json!("-Infinity")),
        as_("float8", json!(3), json!(3.0)),
        same("float4", json!(0.1)),
        same("float4", json!("Infinity")),
        same("numeric", json!("12345678901234567890123456789.000123456789012345678900")),
        same("numeric", json!("-0.0001")),
        same("numeric", json!("NaN")),
        as_("numeric", json!(1e20), json!("100000000000000000000")),
        as_("numeric", json!("1e-10"), json!("0.0000000001")),
        as_("numeric(10,2)", json!("10000"), json!("10000.00")),
        same("numeric", json!("99990000")),
        same("numeric", json!("0")),
        same("numeric", json!("0.00")),
        same("numeric", json!("-Infinity")),
        same("text", json!("Möby ' \\ \" 🐋\n")),
        same("text", json!("")),
        as_("char(5)", json!("ab"), json!("ab   ")),
        same("varchar", json!("x")),
        same("name", json!("n")),
        same("\"char\"", json!("c")),
        same("uuid", json!("0190a5a4-7cbd-7b1e-8f5f-0123456789ab")),
        same("json", json!({"b": [1, null, {"c": "d"}], "a": 1.5})),
        same("jsonb", json!([{"a": "\u{1F40B}"}, "x", 9_007_199_254_740_993_i64])),
        same("jsonb", json!("text")),
        same("jsonb", json!(false)),
        same("timestamptz", json!("2024-02-29T23:59:59.999999Z")),
        as_("timestamptz", json!("2024-02-29T23:59:59.5+02:00"), json!("2024-02-29T21:59:59.5Z")),
        same("timestamptz", json!("1969-12-31T23:59:59.000001Z")),
        same("timestamptz", json!("infinity")),
        same("timestamp", json!("2000-01-01T00:00:00")),
        same("timestamp", json!("1600-03-01T12:00:00.1")),
        same("timestamp", json!("-infinity")),
        same("date", json!("1900-02-28")),
        same("date", json!("2400-02-29")),
        same("date", json!("0001-01-01")),
        as_("date", json!("0044-03-15 BC"), json!("-0043-03-15")),
        same("time", json!("23:59:59.123456")),
        same("time", json!("24:00:00")),
        same("timetz", json!("12:34:56+05:30")),
        same("timetz", json!("12:34:56.7-08:00")),
        same("interval", json!("P1Y2M3DT4H5M6.5S")),
        same("interval", json!("PT-0.000001S")),
        same("interval", json!("P-1Y-1M-1DT-1H")),
        as_("interval", json!("0"), json!("PT0S")),
        as_("interval", json!("1 day -2 hours"), json!("P1DT-2H")),
        same("bytea", json!("AAECA/8=")),
        same("bytea", json!("")),
        same("inet", json!("192.168.0.1")),
        same("inet", json!("2001:db8::1/64")),
        same("cidr", json!("10.0.0.0/8")),
        same("macaddr", json!("08:00:2b:01:02:03")),
        same("bit(4)", json!("1010")),
        same("varbit", json!("101010101")),
        same("xml", json!("<a>b</a>")),
        same("jsonpath", json!("$.\"a\"[*]")),
        same("int4range", json!("[1,10)")),
        same("numrange", json!("(,1.5]")),
        same("tstzrange", json!("empty")),
        same("mood", json!("so, so \"ok\"")),
        same("mood[]", json!(["so, so \"ok\"", null])),
        same("citext", json!("MiXeD")),
        same("percent", json!(99)),
        as_("percent[]", json!([1, 2]), json!([1, 2])),
        same("int4[]", json!([[1, null], [3, 4]])),
        same("int4[]", json!([])),
        same("text[]", json!(["a,b", "{}", "NULL", null, "\"\\"])),
        same("bytea[]", json!(["AP8=", null])),
        same("jsonb[]", json!([{"a": [1, 2]}, [1, 2]])),
        same("uuid[]", json!(["0190a5a4-7cbd-7b1e-8f5f-0123456789ab"])),
        same("timestamptz[]", json!(["2024-02-29T23:59:59.999999Z"])),
        same("numeric[]", json!(["1.10", "NaN"])),
        same("float8[]", json!([1.5, "NaN", null])),
        same("bool[]", json!([true, false, null])),
        same("int4", json!(null)),
        same("jsonb", json!(null)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_in_comes_out() {
    let client = plain(url()).await;
    let made = "SELECT pg_advisory_lock(1); CREATE EXTENSION IF NOT EXISTS citext;
        DO $$ BEGIN CREATE TYPE mood AS ENUM ('sad', 'so, so \"ok\"'); EXCEPTION WHEN duplicate_object THEN END $$;
        DO $$ BEGIN CREATE DOMAIN percent AS int CHECK (VALUE BETWEEN 0 AND 100);
        EXCEPTION WHEN duplicate_object THEN END $$";
    client.batch_execute(made).await.unwrap();
    let subject = super::subject_of(store(config()).await).await;
    for (ty, value, out) in round_trips() {
        let row = ask(&subject, &format!("SELECT $1::{ty} AS v"), json!([value])).await;
        let found = row.unwrap_or_else(|problem| panic!("{value} as {ty}: {problem}"))["v"].clone();
        assert_eq!(found, out.unwrap_or(value), "{ty}");
    }
}

/// Our readings of the server's binary form against the server's own text, over a spread of values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_means_what_the_servers_text_says() {
    let subject = super::subject().await;
    let queries = [
        "SELECT n AS v, format('%s', n) AS t FROM (SELECT (random() * 10 ^ (i % 40 - 20))::numeric AS n
            FROM generate_series(1, 500) i) x",
        "SELECT n AS v, format('%s', n) AS t FROM (SELECT -(i::numeric ^ 5) / 1000000 AS n FROM generate_series(1, 500) i) x",
        "SELECT d AS v, to_char(d, 'YYYY-MM-DD') AS t
            FROM (SELECT '0001-01-01'::date + i * 997 AS d FROM generate_series(0, 3600) i) x",
        "SELECT s AS v, to_char(s, 'YYYY-MM-DD\"T\"HH24:MI:SS') AS t
            FROM (SELECT timestamp '0002-03-04 05:06:07' + i * interval '997 days 13 hours 7 minutes 11 seconds' AS s
            FROM generate_series(0, 3600) i) x",
        "SELECT v, format('%s', v) AS t FROM (SELECT make_interval(secs => i * 12345.678, days => -i, months => i * 7) AS v,
            set_config('intervalstyle', 'iso_8601', true) FROM generate_series(-200, 200) i) x",
        "SELECT v, format('%s', v) AS t FROM (SELECT ('10.0.0.0'::inet + i * 65537) AS v FROM generate_series(0, 200) i) x",
        "SELECT v, format('%s', v) AS t FROM (SELECT ('::'::inet + i::bigint * 1234567890123) AS v FROM generate_series(0, 200) i) x",
        "SELECT v, format('%s', v) AS t FROM (SELECT int8range(i, i * 2, '[]') AS v FROM generate_series(0, 20) i) x",
    ];
    for sql in queries {
        let context = subject.context(contract::fresh_owner(), contract::fresh_run());
        let mut session = subject.store.open(&context, Role::Reader).await.unwrap();
        let result = session.work(&[op(sql, json!([]), true)]).await.unwrap_or_else(|p| panic!("{sql}: {p}")).remove(0);
        let rows = result["rows"].as_array().unwrap();
        assert!(rows.len() > 20, "{sql}");
        for row in rows {
            assert_eq!(row["v"], row["t"], "{sql}");
        }
        session.rollback().await;
    }
}

/// Refused with the parameter's pointer: by us before anything is sent, or by the server's input function.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_refused_where_it_stands() {
    let subject = super::subject().await;
    for (ty, value, below, sqlstate) in [
        ("int4", json!("7"), "", None),
        ("int4", json!(2_147_483_648_i64), "", None),
        ("text", json!(7), "", None),
        ("bytea", json!("?"), "", None),
        ("int4[]", json!([1, [2]]), "", Some("22P02")),
        ("int4[]", json!([1, "x"]), "/1", None),
        ("uuid", json!("not one"), "", Some("22P02")),
        ("timestamptz", json!("yesterday-ish"), "", Some("22007")),
        ("date", json!("2023-02-29"), "", Some("22008")),
        ("numeric", json!("1,5"), "", Some("22P02")),
        ("numeric", json!(""), "", Some("22P02")),
        ("jsonb", json!("\0"), "", Some("22P05")),
        ("inet", json!("300.0.0.1"), "", Some("22P02")),
    ] {
        let problem = ask(&subject, &format!("SELECT 1 AS one, $1::{ty} AS v"), json!([value])).await.unwrap_err();
        let pointer = format!("/operations/0/params/0{below}");
        assert_eq!(
            (problem.code, problem.pointer.as_deref(), problem.store_code.as_deref(), problem.operation.as_deref()),
            (Code::InvalidRequest, Some(pointer.as_str()), sqlstate, Some("row")),
            "{value} as {ty}: {problem}"
        );
    }
    // The second parameter is named as the second.
    let problem = ask(&subject, "SELECT $1::int, $2::uuid", json!([1, "x"])).await.unwrap_err();
    assert_eq!(problem.pointer.as_deref(), Some("/operations/0/params/1"));
    // A cast in the statement is the statement's affair, though it fails with the same code.
    for sql in ["SELECT $1::text::int", "SELECT ($1::text || '$1')::uuid"] {
        let problem = ask(&subject, sql, json!(["x"])).await.unwrap_err();
        assert_eq!((problem.code, problem.pointer), (Code::RejectedByStore, None), "{sql}");
    }
    // Too many and too few.
    for params in [json!([]), json!([1, 2])] {
        let problem = ask(&subject, "SELECT $1::int", params).await.unwrap_err();
        assert_eq!((problem.code, problem.pointer.as_deref()), (Code::InvalidRequest, Some("/operations/0/params")));
    }
}

/// What cannot be shown is refused before anything runs, and says what helps.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_shown_is_refused_beforehand() {
    let subject = super::subject().await;
    for (sql, column) in
        [("SELECT ROW(1, 'a') AS r", "r"), ("SELECT to_tsvector('a') AS t", "t"), ("SELECT 1::money AS m", "m")]
    {
        let problem = ask(&subject, sql, json!([])).await.unwrap_err();
        assert_eq!(problem.code, Code::RejectedByStore);
        assert!(
            problem.detail.contains(&format!("`{column}`")) && problem.detail.contains("cast it to text"),
            "{problem}"
        );
    }
    // A number in a jsonb that no double holds: found while reading, refused all the same.
    let problem = ask(&subject, "SELECT '1e999'::jsonb AS big", json!([])).await.unwrap_err();
    assert!(problem.code == Code::RejectedByStore && problem.detail.contains("cast"), "{problem}");
    let problem = ask(&subject, "SELECT repeat('x', 70000000) AS big", json!([])).await.unwrap_err();
    assert!(problem.code == Code::RejectedByStore && problem.detail.contains("larger"), "{problem}");
    // Functions that return nothing are fine; equal names are told apart.
    let row = ask(&subject, "SELECT pg_sleep(0), 1 AS a, 2 AS a, 3 AS a_2", json!([])).await.unwrap();
    assert_eq!(row, json!({"pg_sleep": "", "a": 1, "a_3": 2, "a_2": 3}));
}
