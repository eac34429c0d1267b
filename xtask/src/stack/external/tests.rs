use super::*;

#[test]
fn credentials_are_taken_out_of_a_url() {
    let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(split("postgres://db:5432/x?a=b@c"), own("postgres://db:5432/x?a=b@c", "", ""));
    assert_eq!(split("postgres://me:p%40ss%@db/x"), own("postgres://db/x", "me", "p@ss%"));
    assert_eq!(split("bolt://neo4j@db:7687"), own("bolt://db:7687", "neo4j", ""));
}
