use super::*;

#[test]
fn what_is_packed_is_read_back() {
    let long = "x".repeat(70_000);
    let value = json!({"a": [null, true, false, 0, -17, i64::MIN, i64::MAX, 2.5], "text": long, "map": {"": []}});
    let mut bytes = Vec::new();
    pack(&value, &mut bytes).unwrap();
    let mut reader = Reader(&bytes);
    assert_eq!(reader.value().unwrap(), value);
    assert!(reader.0.is_empty());
    assert!(Reader(&bytes[..bytes.len() - 1]).value().is_err(), "an answer cut short is no value");
}

#[test]
fn the_servers_narrow_spellings_are_read() {
    let bytes = [0x93, 0xF0, 0xC9, 0xFF, 0x38, 0xA1, 0x81, b'k', 0x7F];
    assert_eq!(Reader(&bytes).value().unwrap(), json!([-16, -200, {"k": 127}]));
    let node = [0xB1, 0x4E, 0xC8, 0x80];
    assert_eq!(Reader(&node).value().unwrap(), json!({"structure": 0x4E, "fields": [-128]}));
}
