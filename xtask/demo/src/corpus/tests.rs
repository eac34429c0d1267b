use super::{Relation, parse};

const TEXT: &str = "  1 This is the licence.
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 ! 00000001 v 0000 | that which exists  
00001930 03 n 01 physical_entity 0 001 @ 00001740 n 0000 | it has existence
00002137 03 n 02 abstraction 0 abstract_entity 0 003 @ 00001740 n 0000 ! 00001930 n 0000 @ 00001930 n 0000 | a concept
00009999 03 n 01 loner 0 001 @ 00008888 n 0000 | hangs from nothing here
";

#[test]
fn documents_point_to_earlier_ones_only() {
    let documents = parse(TEXT, 4).unwrap();
    let names: Vec<_> = documents.iter().map(|d| d.synset.as_str()).collect();
    assert_eq!(names, ["n00001740", "n00001930", "n00002137", "n00009999"]);
    assert!(documents[0].relations.is_empty(), "its pointers lead to later ones, or to a verb");
    let relation = |kind: &str, to| Relation { kind: kind.to_owned(), to };
    assert_eq!(documents[2].relations, [relation("@", 0), relation("!", 1)], "one a pair");
    assert_eq!(documents[2].words, ["abstraction", "abstract entity"]);
    assert_eq!(documents[0].text(), "entity: that which exists");
    assert!(documents[3].relations.is_empty());
}

#[test]
fn too_few_or_broken_synsets_are_said() {
    assert!(parse(TEXT, 5).is_err());
    assert!(parse("00001740 03 n 02 entity 0 000 | its second word is missing\n", 1).is_err());
    assert!(parse("00001740 03 n 01 entity 0 000\n", 1).is_err());
    assert_eq!(parse(TEXT, 2).unwrap().len(), 2);
}
