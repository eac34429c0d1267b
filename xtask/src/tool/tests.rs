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

#[test]
fn cargos_own_variables_go_and_the_users_stay() {
    for own in [
        "CARGO",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PKG_NAME",
        "CARGO_PKG_VERSION_PRE",
        "CARGO_CRATE_NAME",
        "CARGO_BIN_EXE_qdrant-dev",
        "CARGO_CFG_TARGET_ARCH",
        "OUT_DIR",
    ] {
        assert!(is_cargos_own(own), "{own}");
    }
    for users in [
        "CARGO_HOME",
        "CARGO_TARGET_DIR",
        "CARGO_NET_OFFLINE",
        "CARGO_HTTP_PROXY",
        "CARGO_BUILD_JOBS",
        "CARGO_INCREMENTAL",
        "CARGO_LOG",
        "CARGO_PROFILE_DEV_DEBUG",
        "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "LD_LIBRARY_PATH",
        "PATH",
    ] {
        assert!(!is_cargos_own(users), "{users}");
    }
}

/// A crate whose build script does as ring's does, built as from a shell and then from in here, where a cargo runs us.
#[test]
fn what_a_shell_has_built_is_fresh_in_here() {
    let crate_dir = tempfile::tempdir().unwrap();
    let dir = crate_dir.path();
    fs::create_dir(dir.join("src")).unwrap();
    let watched = "CARGO_PKG_NAME";
    for (file, text) in [
        ("Cargo.toml", "[package]\nname = \"tiny\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n".to_owned()),
        ("build.rs", format!("fn main() {{ println!(\"cargo:rerun-if-env-changed={watched}\") }}")),
        ("src/lib.rs", String::new()),
    ] {
        fs::write(dir.join(file), text).unwrap();
    }
    let fresh = |mut command: Command| {
        command.args(["build", "--offline", "--message-format=json"]).arg("--target-dir").arg(dir.join("target"));
        let told = output("building tiny", command.current_dir(dir), "", Duration::from_secs(120)).unwrap();
        let messages = told.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        messages.filter_map(|message| message["fresh"].as_bool()).all(|fresh| fresh)
    };
    assert!(env::var_os(watched).is_some(), "this test proves nothing unless a cargo runs it");
    let mut shell = Command::new(env::var_os("CARGO").unwrap());
    shell.env_remove(watched);
    assert!(!fresh(shell), "the first build makes it");
    assert!(fresh(cargo()), "ours found it stale");
    let mut leaky = Command::new(env::var_os("CARGO").unwrap());
    leaky.env(watched, "xtask");
    assert!(!fresh(leaky), "the build script no longer watches: this test is blind");
}
