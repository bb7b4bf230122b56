//! `cargo lab` as people and programs use it.

use std::process::{Command, Output};

use anyhow::Result;
use serde_json::Value;

fn lab(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_lab")).args(arguments).output()?)
}

/// Standard output of a call that must succeed.
fn output(arguments: &[&str]) -> Result<String> {
    let output = lab(arguments)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "lab {arguments:?}: {complaint}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn cluster_stays_up_between_commands_until_it_is_taken_down() -> Result<()> {
    let name = format!("cli-{}", std::process::id());
    let up = ["up", "--provider", "local", "--level", "api", "--name", &name, "--json"];
    let first: Value = serde_json::from_str(&output(&up)?)?;
    assert_eq!(
        (&first["name"], &first["level"], &first["provider"]),
        (&name.as_str().into(), &"api".into(), &"local".into())
    );

    let namespaces = output(&["kubectl", "--name", &name, "get", "namespaces", "-o", "name"])?;
    assert!(namespaces.contains("namespace/kube-system"), "{namespaces}");
    let again: Value = serde_json::from_str(&output(&up)?)?;
    assert_eq!(again["processes"], first["processes"], "a second `up` starts nothing");

    let listed = |status: &str| status.contains(&format!("\"{name}\""));
    assert!(listed(&output(&["status", "--json"])?));
    output(&["down", "--name", &name])?;
    assert!(!listed(&output(&["status", "--json"])?));
    Ok(())
}

#[test]
fn lab_passes_on_output_and_exit_code_of_kubectl() -> Result<()> {
    let name = format!("cli-code-{}", std::process::id());
    output(&["up", "--provider", "local", "--level", "api", "--name", &name])?;
    let refused = lab(&["kubectl", "--name", &name, "get", "no-such-type"])?;
    output(&["down", "--name", &name])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no-such-type"));
    Ok(())
}

#[test]
fn impossible_commands_are_refused_with_a_suggestion() -> Result<()> {
    let cases = [
        (vec!["kubectl", "--name", "nowhere", "get", "pods"], 1, "cargo lab up --name nowhere"),
        (vec!["up", "--name", "Capital"], 1, "lower-case"),
        (vec!["up", "--provider", "existing"], 1, "--context"),
        (vec!["up", "--level", "moon"], 2, "control-plane"),
    ];
    for (arguments, code, hint) in cases {
        let refused = lab(&arguments)?;
        let words = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(code), "{arguments:?}: {words}");
        assert!(words.contains(hint), "{arguments:?}: {words}");
    }
    Ok(())
}
