//! Runs the bodies of the fuzz targets over the committed corpus and over the recorded conversations.

#[path = "../../../fuzz/src/lib.rs"]
mod bodies;
mod support;

use std::path::Path;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let entries =
        std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let inputs: Vec<Vec<u8>> = entries
        .map(|entry| std::fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(inputs.len() >= 5, "{target}: {} inputs", inputs.len());
    inputs
}

/// Each input as it is, and cut in every way that the first byte can say.
fn each_cut(mut input: Vec<u8>, body: fn(&[u8])) {
    body(&input);
    for cut in 0..32 {
        if let Some(first) = input.first_mut() {
            *first = cut;
        }
        body(&input);
    }
}

#[test]
fn watch() {
    for input in corpus("watch") {
        each_cut(input, bodies::watch);
    }
    for recorded in support::recordings() {
        each_cut(
            [&[0, 0xff, 0xff, 0xff, 0xff][..], &recorded.client()].concat(),
            bodies::watch,
        );
    }
}

#[test]
fn server() {
    for input in corpus("server") {
        each_cut(input, bodies::server);
    }
    for recorded in support::recordings() {
        each_cut([&[0][..], &recorded.server()].concat(), bodies::server);
    }
}

#[test]
fn proxy_header() {
    for input in corpus("proxy_header") {
        bodies::proxy_header(&input);
    }
}
