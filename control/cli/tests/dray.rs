//! The command without a switch.

use serde_json::Value;
use std::process::Command;

/// Exit status, standard output and standard error of `dray ARGS`.
fn dray(args: &str) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_dray")).args(args.split(' ')).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_status_says_what_was_wrong() {
    let (status, out, error) = dray("--socket /nonexistent/dray.sock status");
    assert_eq!((status, out.as_str()), (Some(3), ""));
    assert!(error.starts_with("error: no switch at /nonexistent/dray.sock: "), "{error}");
    for line in ["port shwo", "fdb add blue 02:00:00:00:00:01", "bridge add b --vni x", "config apply /nonexistent"] {
        let (status, _, error) = dray(line);
        assert_eq!(status, Some(2), "{line}: {error}");
        let (status, out, error) = dray(&format!("{line} --json"));
        let error: Value = serde_json::from_str(&error).unwrap();
        assert_eq!((status, out.as_str(), error["error"]["data"]["code"].as_str()), (Some(2), "", Some("invalid")));
    }
    let (status, out, _) = dray("port add --help");
    assert!(status == Some(0) && out.contains("--ring-size"), "{out}");
}

#[test]
fn what_needs_no_switch_is_printed() {
    let (status, schema, _) = dray("schema");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!((status, schema["openrpc"].as_str()), (Some(0), Some("1.3.2")));
    assert!(schema["methods"].as_array().unwrap().iter().any(|method| method["name"] == "port.show"));
    for shell in ["bash", "zsh", "fish"] {
        let (status, script, _) = dray(&format!("completions {shell}"));
        assert!(status == Some(0) && script.contains("dray"), "{shell}: {script}");
    }
}
