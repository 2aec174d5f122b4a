//! `portside-load JSON`: runs a plan (see `LoadPlan`) and prints its report as JSON. With an unbounded
//! plan it stops at the end of standard input. Exit code 1 when a session failed.
use std::io::{self, Read, Write};
use std::process::ExitCode;

use portside_lab::load::{self, LoadPlan};

fn main() -> io::Result<ExitCode> {
    let Some(json) = std::env::args().nth(1) else {
        eprintln!(
            "usage: portside-load '{{\"target\": \"127.0.0.1:3306\", \"duration_ms\": 5000}}'"
        );
        return Ok(ExitCode::from(2));
    };
    let plan: LoadPlan = serde_json::from_str(&json)?;
    let is_bounded = plan.connections.is_some() || plan.duration_ms.is_some();
    let mut load = load::start(plan)?;
    if !is_bounded {
        io::stdin().read_to_end(&mut Vec::new())?;
        load.stop();
    }
    load.wait();
    let report = load.report();
    writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(ExitCode::from(u8::from(report.sessions_failed > 0)))
}
