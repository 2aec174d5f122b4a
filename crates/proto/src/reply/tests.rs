use proptest::prelude::*;

use super::*;
use crate::wire::packet;

fn eof(flags: u16, warnings: u16) -> Vec<u8> {
    let ([a, b], [c, d]) = (warnings.to_le_bytes(), flags.to_le_bytes());
    vec![marker::EOF, a, b, c, d]
}

fn ok(first: u8, insert_id: u8, flags: u16) -> Vec<u8> {
    let [low, high] = flags.to_le_bytes();
    vec![first, 1, insert_id, low, high, 3, 0]
}

fn prepared(columns: u8, parameters: u8) -> Vec<u8> {
    vec![0, 7, 0, 0, 0, columns, 0, parameters, 0, 0, 0, 0]
}

/// Name, shape, with DEPRECATE_EOF, payloads, expected end.
type Case = (&'static str, Shape, bool, Vec<Vec<u8>>, Outcome);

#[allow(clippy::too_many_lines)] // a table
fn replies() -> Vec<Case> {
    let column = b"\x03def".to_vec();
    let more = status::MORE_RESULTS_EXISTS;
    let base = Outcome {
        status: Some(2),
        ..Outcome::default()
    };
    let rows = Outcome {
        has_rows: true,
        ..base
    };
    vec![
        (
            "ok",
            Shape::Results,
            false,
            vec![ok(0, 5, 2)],
            Outcome {
                affected: 1,
                insert_id: 5,
                warnings: 3,
                ..base
            },
        ),
        (
            "rows",
            Shape::Results,
            false,
            vec![vec![1], column.clone(), eof(2, 0), vec![1, b'x'], eof(2, 4)],
            Outcome {
                warnings: 4,
                ..rows
            },
        ),
        (
            "a cursor that cannot be opened",
            Shape::Results,
            false,
            vec![vec![1], column.clone(), vec![0xff, 14, 15, b'#']],
            Outcome {
                status: None,
                error: Some(3854),
                ..rows
            },
        ),
        (
            "rows without eof",
            Shape::Results,
            true,
            vec![vec![1], column.clone(), vec![1, b'x'], ok(0xfe, 0, 2)],
            Outcome {
                affected: 1,
                warnings: 3,
                ..rows
            },
        ),
        (
            "error in rows",
            Shape::Results,
            true,
            vec![
                vec![1],
                column.clone(),
                vec![1, b'x'],
                b"\xff\x15\x04#HY000no".to_vec(),
            ],
            Outcome {
                error: Some(0x415),
                has_rows: true,
                ..Outcome::default()
            },
        ),
        (
            "two results",
            Shape::Results,
            false,
            vec![
                ok(0, 9, more),
                vec![1],
                column.clone(),
                eof(2, 0),
                eof(2, 1),
            ],
            Outcome {
                affected: 1,
                insert_id: 9,
                warnings: 4,
                ..rows
            },
        ),
        (
            // As MySQL 9.7 sends them, with an OK behind a result that says that it is the last.
            "OUT parameters",
            Shape::Results,
            false,
            vec![
                vec![1],
                column.clone(),
                eof(more | status::PS_OUT_PARAMS, 0),
                vec![0, 0, 7],
                eof(2, 0),
                ok(0, 0, 2),
            ],
            Outcome {
                affected: 1,
                warnings: 3,
                ..rows
            },
        ),
        (
            "cursor",
            Shape::Results,
            false,
            vec![vec![1], column.clone(), eof(status::CURSOR_EXISTS, 0)],
            Outcome {
                status: Some(status::CURSOR_EXISTS),
                has_rows: true,
                ..Outcome::default()
            },
        ),
        (
            "prepare",
            Shape::Prepare,
            false,
            vec![
                prepared(1, 2),
                column.clone(),
                column.clone(),
                eof(2, 0),
                column.clone(),
                eof(2, 0),
            ],
            Outcome {
                statement: Some(7),
                parameters: 2,
                ..Outcome::default()
            },
        ),
        (
            "prepare without eof",
            Shape::Prepare,
            true,
            vec![prepared(1, 1), column.clone(), column.clone()],
            Outcome {
                statement: Some(7),
                parameters: 1,
                ..Outcome::default()
            },
        ),
        (
            "prepare of nothing",
            Shape::Prepare,
            true,
            vec![prepared(0, 0)],
            Outcome {
                statement: Some(7),
                ..Outcome::default()
            },
        ),
        (
            "fields",
            Shape::Fields,
            false,
            vec![column.clone(), column.clone(), eof(2, 0)],
            base,
        ),
        (
            "fetch",
            Shape::Rows,
            true,
            vec![vec![0, 0, 1], ok(0xfe, 0, 2)],
            Outcome {
                affected: 1,
                warnings: 3,
                ..base
            },
        ),
        (
            "text",
            Shape::Text,
            false,
            vec![b"Uptime: 1".to_vec()],
            Outcome::default(),
        ),
        ("set option", Shape::Ok, false, vec![eof(2, 0)], base),
    ]
}

proptest! {
    #[test]
    fn every_split_finds_the_same_end(cuts in prop::collection::vec(1usize..12, 1..6)) {
        for (name, shape, deprecate, payloads, want) in replies() {
            let bytes: Vec<u8> = payloads.iter().zip(1u8..).flat_map(|(p, s)| packet(s, p)).collect();
            let flags = if deprecate { u64::from(capability::DEPRECATE_EOF) } else { 0 };
            let mut reply = Reply::new(shape, flags);
            let (mut rest, mut cut, mut got) = (&bytes[..], cuts.iter().cycle(), None);
            while !rest.is_empty() {
                prop_assert!(got.is_none(), "{name}: ended before its last byte");
                prop_assert_eq!(reply.is_untouched(), rest.len() == bytes.len());
                let (mut piece, after) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                got = reply.feed(&mut piece).unwrap();
                prop_assert!(piece.is_empty(), "{name}");
                rest = after;
            }
            // The digest has tests of its own (`statement`).
            let got = got.map(|outcome| Outcome { definitions: 0, ..outcome });
            prop_assert_eq!(got, Some(want), "{}", name);
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), shape in 0usize..7) {
        let shapes = [
            Shape::Nothing, Shape::Ok, Shape::Text, Shape::Results, Shape::Fields, Shape::Prepare, Shape::Rows,
        ];
        for flags in [0, u64::MAX] {
            let _ = Reply::new(shapes[shape], flags).feed(&mut &bytes[..]);
        }
    }
}

#[test]
fn a_row_of_16_mib_is_no_end() {
    let long = |length: usize| {
        let mut bytes = crate::wire::header(length, 4).to_vec();
        bytes.resize(HEADER_LEN + length, 0xfe);
        bytes
    };
    let mut bytes = [packet(1, &[1]), packet(2, b"\x03def")].concat();
    bytes.extend(long(MAX_PAYLOAD as usize));
    // The continuation may be of any length, also one that looks like an EOF.
    bytes.extend(long(5));
    bytes.extend(packet(6, &ok(0xfe, 0, 2)));
    let mut reply = Reply::new(Shape::Results, capability::DEPRECATE_EOF.into());
    let mut rest = &bytes[..];
    assert_eq!(reply.feed(&mut rest).unwrap().unwrap().status, Some(2));
    assert!(rest.is_empty());
}

#[test]
fn a_file_that_was_not_offered_is_an_error() {
    let bytes = packet(1, b"\xfb/etc/passwd");
    let error = Reply::new(Shape::Results, 0)
        .feed(&mut &bytes[..])
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server asks for a local file, which was not offered"
    );
}

/// A reply of these payloads, under these flags.
fn outcome(shape: Shape, capabilities: u64, payloads: &[Vec<u8>]) -> Outcome {
    let bytes: Vec<u8> = (payloads.iter().zip(1_u8..))
        .flat_map(|(payload, sequence)| packet(sequence, payload))
        .collect();
    let mut rest = &bytes[..];
    let outcome = Reply::new(shape, capabilities).feed(&mut rest).unwrap();
    assert!(rest.is_empty());
    outcome.expect("the reply is not over")
}

#[test]
fn definitions_that_are_left_out_are_not_waited_for() {
    let optional = u64::from(capability::OPTIONAL_RESULTSET_METADATA);
    let deprecate = u64::from(capability::DEPRECATE_EOF);
    let column = b"\x03def".to_vec();
    let (row, end) = (vec![1, b'x'], ok(0xfe, 0, 2));
    let (mut bare, mut full) = (prepared(1, 1), prepared(1, 1));
    bare.push(0);
    full.push(1);
    for (shape, flags, payloads) in [
        (
            Shape::Results,
            deprecate,
            vec![vec![1, 0], row.clone(), end.clone()],
        ),
        (
            Shape::Results,
            deprecate,
            vec![vec![1, 1], column.clone(), row.clone(), end],
        ),
        (
            Shape::Results,
            0,
            vec![vec![1, 0], eof(2, 0), row, eof(2, 0)],
        ),
        (Shape::Prepare, deprecate, vec![bare.clone()]),
        (Shape::Prepare, 0, vec![bare, eof(2, 0), eof(2, 0)]),
        (
            Shape::Prepare,
            deprecate,
            vec![full, column.clone(), column],
        ),
    ] {
        let found = outcome(shape, optional | flags, &payloads);
        assert_eq!(found.error, None, "{payloads:?}");
    }
}

#[test]
fn a_report_of_progress_is_no_end() {
    let report = b"\xff\xff\xff\x01\x01\x02\0\0\0\x0acopy to tmp".to_vec();
    let payloads = [report.clone(), report.clone(), ok(0, 0, 2)];
    let found = outcome(Shape::Results, extended::PROGRESS, &payloads);
    assert_eq!((found.error, found.status), (None, Some(2)));
    let found = outcome(Shape::Results, 0, &[report]);
    assert_eq!(found.error, Some(0xffff));
}

#[test]
fn a_request_for_a_file_is_read_whole() {
    let bytes = [packet(1, b"\xfb/tmp/a file"), packet(4, &ok(0, 0, 2))].concat();
    let files = u64::from(capability::LOCAL_FILES);
    for cut in 0..bytes.len() {
        let (mut reply, mut names, mut end) = (Reply::new(Shape::Results, files), vec![], None);
        for mut piece in [&bytes[..cut], &bytes[cut..]] {
            while !piece.is_empty() && end.is_none() {
                end = reply.feed(&mut piece).unwrap();
                names.extend(reply.take_file());
            }
        }
        assert_eq!(names, [b"/tmp/a file"], "{cut}");
        assert_eq!(end.unwrap().affected, 1);
    }
    let long = packet(1, &[0xfb; 5000]);
    let error = Reply::new(Shape::Results, files).feed(&mut &long[..]);
    assert_eq!(error, Err(Error::Malformed));
}
