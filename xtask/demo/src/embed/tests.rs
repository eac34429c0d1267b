use super::{DIMENSIONS, embed};

fn cosine(a: &str, b: &str) -> f32 {
    embed(a).iter().zip(embed(b)).map(|(x, y)| x * y).sum()
}

#[test]
fn every_text_gets_the_same_unit_vector_each_time() {
    let once = embed("a living thing that has the ability to act");
    assert_eq!(once, embed("a living thing that has the ability to act"));
    assert_eq!(once.len(), DIMENSIONS);
    let length: f32 = once.iter().map(|x| x * x).sum();
    assert!((length - 1.0).abs() < 1e-5, "{length}");
    assert!(embed("…").iter().all(|x| *x == 0.0));
}

#[test]
fn near_texts_are_nearer_than_far_ones() {
    let near = cosine("a large body of salt water", "a body of salt water partially enclosed");
    let far = cosine("a large body of salt water", "the chief executive officer");
    assert!(near > far + 0.2, "{near} against {far}");
}
