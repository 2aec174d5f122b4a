//! Reads the conversations under `tests/wire/`.
#![allow(dead_code)] // each test file uses a part

use std::path::Path;

/// Who sent a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// One recorded conversation; see `tests/wire/record.py` for the form.
pub struct Recording {
    pub name: String,
    pub turns: Vec<(Side, Vec<u8>)>,
}

impl Recording {
    pub fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/wire")
            .join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        let mut turns: Vec<(Side, Vec<u8>)> = Vec::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (mark, hex) = line.split_once(' ').unwrap();
            let side = if mark == "C" {
                Side::Client
            } else {
                Side::Server
            };
            let bytes = hex
                .split(' ')
                .map(|pair| u8::from_str_radix(pair, 16).unwrap());
            match turns.last_mut() {
                Some((last, data)) if *last == side => data.extend(bytes),
                _ => turns.push((side, bytes.collect())),
            }
        }
        Self {
            name: name.to_owned(),
            turns,
        }
    }

    pub fn client(&self) -> Vec<u8> {
        self.of(Side::Client)
    }

    pub fn server(&self) -> Vec<u8> {
        self.of(Side::Server)
    }

    fn of(&self, side: Side) -> Vec<u8> {
        let turns = self.turns.iter().filter(|(from, _)| *from == side);
        turns.flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }
}

/// Every conversation, by name.
pub fn recordings() -> Vec<Recording> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire");
    let names = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| Path::new(name).extension().is_some_and(|end| end == "hex"));
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    names.iter().map(|name| Recording::read(name)).collect()
}
