//! `portside-sink [JSON]`: a sink by plan (see `SinkPlan`); prints its addresses, then its counters as
//! JSON for every line on standard input, and ends with the input.
use std::io::{self, BufRead, Write};

use portside_lab::sink::{self, SinkPlan};

fn main() -> io::Result<()> {
    let plan: SinkPlan = match std::env::args().nth(1) {
        Some(json) => serde_json::from_str(&json)?,
        None => SinkPlan::default(),
    };
    let sink = sink::start(&plan)?;
    let mut output = io::stdout();
    writeln!(output, "{}", serde_json::to_string(sink.addresses())?)?;
    for line in io::stdin().lock().lines() {
        line?;
        writeln!(output, "{}", serde_json::to_string(&sink.report())?)?;
    }
    Ok(())
}
