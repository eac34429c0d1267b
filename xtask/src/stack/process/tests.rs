use std::process::{Command, Stdio};

use super::*;

#[test]
fn a_process_is_not_its_pids_next_owner() {
    let me = Process::of(std::process::id()).unwrap();
    assert!(me.is_alive());
    let impostor = Process { started: me.started + 1, ..me.clone() };
    assert!(!impostor.is_alive());
    assert!(!impostor.signal(Signal::KILL).unwrap(), "the signal would have ended this test");
    let last_boot = Process { boot: "another".into(), ..me };
    assert!(!last_boot.signal(Signal::KILL).unwrap());
}

#[test]
fn kill_tree_takes_children_in_other_sessions_too() {
    let script = "setsid sleep 300 & echo $!; wait";
    let mut parent = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().unwrap()), &mut line).unwrap();
    let child = Process::of(line.trim().parse().unwrap()).unwrap();
    Process::of(parent.id()).unwrap().kill_tree().unwrap();
    assert!(!child.is_alive());
    parent.wait().unwrap();
}
