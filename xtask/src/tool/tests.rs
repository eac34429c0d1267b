use super::*;

#[test]
fn output_gives_what_was_written_and_errors_carry_the_reason() {
    let limit = Duration::from_secs(20);
    assert_eq!(output("cat", &mut Command::new("cat"), "hello", limit).unwrap(), "hello");
    let failed = output("step", Command::new("sh").args(["-c", "echo because >&2; exit 7"]), "", limit).unwrap_err();
    assert!(failed.to_string().contains("because") && failed.to_string().contains('7'), "{failed}");
}

#[test]
fn a_program_over_its_limit_is_ended_with_its_children() {
    let began = Instant::now();
    let mut command = Command::new("sh");
    command.args(["-c", "sleep 600 & echo started; sleep 600"]);
    let late = output("slow", &mut command, "", Duration::from_millis(300)).unwrap_err();
    assert!(late.to_string().contains("started"), "{late}");
    assert!(began.elapsed() < Duration::from_secs(30));
}
