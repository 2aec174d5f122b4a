use proptest::prelude::*;

use super::*;
use crate::command::{capability, HEADER_LEN, MAX_PAYLOAD};
use crate::wire::packet;

/// Flags for EOFs that the server did not send.
const STATUS: u16 = status::AUTOCOMMIT;

/// A packet of a reply, or a place where the two forms differ.
#[derive(Clone, Debug)]
enum Piece {
    /// The same in both.
    Same(Vec<u8>),
    /// An EOF where the form has EOFs, nothing where not.
    Between,
    /// Status and warnings: an EOF, or an OK in its place.
    End(u16, u16),
}

use Piece::{Between, End as Last, Same};

fn bytes(pieces: &[Piece], has_eof: bool) -> Vec<u8> {
    let eof = |(flags, warnings): (u16, u16)| {
        let ([a, b], [c, d]) = (warnings.to_le_bytes(), flags.to_le_bytes());
        vec![marker::EOF, a, b, c, d]
    };
    let payload = |piece: &Piece| match piece {
        Same(payload) => Some(payload.clone()),
        Between => has_eof.then(|| eof((STATUS, 0))),
        Last(flags, warnings) if has_eof => Some(eof((*flags, *warnings))),
        Last(flags, warnings) => {
            let ok = [
                &[marker::EOF, 0, 0][..],
                &flags.to_le_bytes(),
                &warnings.to_le_bytes(),
            ];
            Some(ok.concat())
        }
    };
    let payloads = pieces.iter().filter_map(payload);
    let numbers = (1..=255_u8).chain(std::iter::once(0)).cycle();
    payloads
        .zip(numbers)
        .flat_map(|(payload, n)| packet(n, &payload))
        .collect()
}

/// What comes out, and what the reply said; pieces of these lengths, in turn.
fn pass(
    shape: Shape,
    flags: u64,
    input: &[u8],
    cuts: &[usize],
) -> (Vec<u8>, Result<Option<Outcome>, Error>) {
    let adds_eof = flags & u64::from(capability::DEPRECATE_EOF) != 0;
    let (mut reframe, mut reply) = (Reframe::new(adds_eof, STATUS), Reply::new(shape, flags));
    let (mut rest, mut cut, mut out, mut end) = (input, cuts.iter().cycle(), Vec::new(), Ok(None));
    while !rest.is_empty() && end == Ok(None) {
        let length = cut.next().map_or(usize::MAX, |cut| *cut).min(rest.len());
        let (mut piece, after) = rest.split_at(length);
        end = reframe.pass(&mut reply, &mut piece, &mut out);
        rest = after;
    }
    (out, end)
}

/// A result set of so many columns and rows.
fn set(columns: u8, rows: Vec<Vec<u8>>, end: Option<(u16, u16)>) -> Vec<Piece> {
    let mut pieces = vec![Same(vec![columns])];
    pieces.extend((0..columns).map(|_| Same(b"\x03def".to_vec())));
    pieces.push(Between);
    pieces.extend(rows.into_iter().map(|row| Same([&[1], &row[..]].concat())));
    pieces.push(
        end.map_or(Same(b"\xff\x15\x04#HY000no".to_vec()), |(flags, n)| {
            Last(flags, n)
        }),
    );
    pieces
}

/// Results, each but the last with another behind it; one may be an error.
fn results() -> impl Strategy<Value = Vec<Piece>> {
    let rows = || prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9);
    let many = prop::collection::vec(Just(Vec::new()), 300..301);
    let all = prop_oneof![4 => rows(), 1 => many];
    let more = status::MORE_RESULTS_EXISTS;
    let one = (1_u8..5, all, any::<bool>(), any::<u16>(), 0_u16..3);
    let one = one.prop_map(move |(columns, rows, fails, flags, warnings)| {
        let flags = flags & !more & !status::CURSOR_EXISTS;
        (columns, rows, !fails, flags, warnings)
    });
    (prop::collection::vec((one, any::<bool>()), 1..4)).prop_map(move |all| {
        let (mut pieces, count) = (Vec::new(), all.len());
        for (n, ((columns, rows, is_good, flags, warnings), is_set)) in all.into_iter().enumerate()
        {
            let is_last = n + 1 == count;
            let flags = if is_last { flags } else { flags | more };
            if is_set {
                let is_good = is_good || !is_last;
                pieces.extend(set(columns, rows, is_good.then_some((flags, warnings))));
            } else {
                let ok = [&[marker::OK, 1, 0][..], &flags.to_le_bytes(), &[0, 0]].concat();
                pieces.push(Same(ok));
            }
        }
        pieces
    })
}

/// Replies to other commands.
fn others() -> Vec<(Shape, Vec<Piece>)> {
    let column = || Same(b"\x03def".to_vec());
    let prepared =
        |columns, parameters| Same(vec![0, 7, 0, 0, 0, columns, 0, parameters, 0, 0, 0, 0]);
    let (cursor, last) = (status::CURSOR_EXISTS | 2, 0x82);
    vec![
        (Shape::Ok, vec![Same(b"\0\0\0\x02\0\0\0".to_vec())]),
        (Shape::Ok, vec![Last(2, 0)]),
        (Shape::Ok, vec![Same(b"\xff\x15\x04#HY000no".to_vec())]),
        (Shape::Text, vec![Same(b"Uptime: 1".to_vec())]),
        (Shape::Fields, vec![column(), column(), Last(2, 0)]),
        (Shape::Fields, vec![Same(b"\xff\x7a\x04#42S02no".to_vec())]),
        (Shape::Prepare, vec![prepared(0, 0)]),
        (Shape::Prepare, vec![prepared(1, 0), column(), Between]),
        (Shape::Prepare, vec![prepared(0, 1), column(), Between]),
        (
            Shape::Prepare,
            vec![
                prepared(1, 2),
                column(),
                column(),
                Between,
                column(),
                Between,
            ],
        ),
        (Shape::Rows, vec![Same(vec![0, 0, 1]), Last(cursor, 0)]),
        (Shape::Rows, vec![Last(last, 1)]),
        // A cursor: the EOF behind the definitions is the end.
        (
            Shape::Results,
            vec![Same(vec![1]), column(), Last(cursor, 1)],
        ),
    ]
}

proptest! {
    #[test]
    fn either_form_becomes_the_other(
        results in results(),
        cuts in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let eof = u64::from(capability::DEPRECATE_EOF);
        let mut all = others();
        all.push((Shape::Results, results));
        for (shape, pieces) in all {
            let (with, without) = (bytes(&pieces, true), bytes(&pieces, false));
            for (flags, given, wanted) in [(eof, &without, &with), (0, &with, &without)] {
                let (out, end) = pass(shape, flags, given, &cuts);
                prop_assert_eq!(&out, wanted, "{:?}", &pieces);
                prop_assert_eq!(end, Reply::new(shape, flags).feed(&mut &given[..]));
                prop_assert!(matches!(end, Ok(Some(_))));
            }
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_grow(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        small in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9),
        shape in 0_usize..7,
        cuts in prop::collection::vec(1_usize..40, 1..6),
    ) {
        let shapes = [
            Shape::Nothing, Shape::Ok, Shape::Text, Shape::Results, Shape::Fields, Shape::Prepare, Shape::Rows,
        ];
        let packets: Vec<u8> = small.iter().flat_map(|payload| packet(3, payload)).collect();
        for input in [bytes, packets] {
            for flags in [0, u64::MAX, u64::from(capability::DEPRECATE_EOF)] {
                let whole = pass(shapes[shape], flags, &input, &[]);
                prop_assert!(whole.0.len() <= 4 * input.len() + 18);
                prop_assert_eq!(pass(shapes[shape], flags, &input, &cuts).1, whole.1);
            }
        }
    }
}

#[test]
fn definitions_that_are_left_out_have_their_eof() {
    let flags = u64::from(capability::DEPRECATE_EOF | capability::OPTIONAL_RESULTSET_METADATA);
    let bare =
        |columns, parameters| Same(vec![0, 7, 0, 0, 0, columns, 0, parameters, 0, 0, 0, 0, 0]);
    let row = Same(vec![1, b'x']);
    for (shape, pieces) in [
        (
            Shape::Results,
            vec![Same(vec![1, 0]), Between, row, Last(2, 0)],
        ),
        (Shape::Prepare, vec![bare(1, 1), Between, Between]),
    ] {
        let (with, without) = (bytes(&pieces, true), bytes(&pieces, false));
        assert_eq!(pass(shape, flags, &without, &[3]).0, with);
        let old = u64::from(capability::OPTIONAL_RESULTSET_METADATA);
        assert_eq!(pass(shape, old, &with, &[3]).0, without);
    }
}

#[test]
fn long_rows_pass_in_all_their_packets() {
    // A row of 32 MiB whose first value is as long, its second packet full, the third empty.
    let long = |sequence| {
        let mut packet = header(MAX_PAYLOAD as usize, sequence).to_vec();
        packet.resize(HEADER_LEN + MAX_PAYLOAD as usize, marker::EOF);
        packet
    };
    let reply = |has_eof: bool| {
        let first = bytes(&set(1, Vec::new(), Some((2, 0)))[..3], has_eof);
        let next = if has_eof { 4 } else { 3 };
        let end: &[u8] = if has_eof {
            &[0xfe, 0, 0, 2, 0]
        } else {
            &[0xfe, 0, 0, 2, 0, 0, 0]
        };
        let (rest, last) = (packet(next + 2, &[]), packet(next + 3, end));
        [first, long(next), long(next + 1), rest, last].concat()
    };
    let flags = u64::from(capability::DEPRECATE_EOF);
    for (flags, has_eof) in [(0, true), (flags, false)] {
        let (out, end) = pass(Shape::Results, flags, &reply(has_eof), &[65_536]);
        assert!(matches!(end, Ok(Some(_))));
        assert!(out == reply(!has_eof));
    }
}
