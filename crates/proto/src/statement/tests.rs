use proptest::prelude::*;

use super::*;
use crate::single::err;
use crate::wire::packet;

const INT: [u8; 2] = [8, 0];

/// An EXECUTE packet of one number, with types or without.
fn execute(types: Option<[u8; 2]>) -> Vec<u8> {
    let mut payload = vec![com::STMT_EXECUTE, 7, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    payload.push(u8::from(types.is_some()));
    payload.extend(types.into_iter().flatten());
    payload.extend(5_u64.to_le_bytes());
    packet(0, &payload)
}

#[test]
fn what_an_execute_says() {
    let with = execute(Some(INT));
    let argument = &with[5..];
    let read = Execute::read(argument, 1, false).unwrap();
    assert_eq!(
        (read.types, read.has_cursor, read.has_parameters),
        (Some(&INT[..]), false, true)
    );
    // Without parameters nothing follows.
    let read = Execute::read(&[7, 0, 0, 0, 1, 1, 0, 0, 0], 0, false).unwrap();
    assert!(read.has_cursor && !read.has_parameters && read.types.is_none());
    for cut in 0..12 {
        let short = argument.get(..cut).unwrap();
        assert_eq!(Execute::read(short, 1, false), Err(Unread::Short), "{cut}");
    }
    assert!(Execute::read(argument, 1, true) == Err(Unread::Unclear));
}

#[test]
fn attributes_have_names_and_count() {
    // One parameter and one attribute "a": count, null bitmap, bind flag, types with names.
    let argument = b"\x07\0\0\0\x08\x01\0\0\0\x02\0\x01\x08\0\0\xfd\0\x01avalues";
    let read = Execute::read(argument, 1, true).unwrap();
    assert_eq!(read.types, Some(&b"\x08\0\0\xfd\0\x01a"[..]));
    assert!(!read.has_cursor);
    let none = b"\x07\0\0\0\x08\x01\0\0\0\0";
    assert!(!Execute::read(none, 0, true).unwrap().has_parameters);
}

#[test]
fn types_are_put_in_where_they_were_left_out() {
    let without = execute(None);
    let read = Execute::read(&without[5..], 1, false).unwrap();
    let mut want = execute(Some(INT));
    renumber(&mut want, 99);
    assert_eq!(read.with_types(&without, 99, &INT), Some(want));
    // Of a packet that has not come wholly the beginning is made.
    let part = read.with_types(&without[..20], 7, &INT).unwrap();
    assert_eq!(part, execute(Some(INT))[..22]);
    // One that would have to become two is left alone.
    let mut long = without.clone();
    long[..3].copy_from_slice(&[0xfd, 0xff, 0xff]);
    assert_eq!(read.with_types(&long, 7, &INT), None);
}

#[test]
fn a_close_is_a_packet_of_its_own() {
    let mut bytes = Vec::new();
    put_close(&mut bytes, 0x0102);
    assert_eq!(bytes, [5, 0, 0, 0, com::STMT_CLOSE, 2, 1, 0, 0]);
    assert_eq!(id(&bytes[5..]), Some(0x0102));
    assert_eq!(id(&[1, 2, 3]), None);
    assert!(bulk_has_types(&[1, 0, 0, 0, 0x80, 0]) && !bulk_has_types(&[1, 0, 0, 0, 0, 0]));
}

/// A reply to PREPARE: two columns, no parameters, without EOF.
fn reply(id: u32, second: &[u8]) -> Vec<u8> {
    let mut first = vec![0];
    first.extend(id.to_le_bytes());
    first.extend([2, 0, 0, 0, 0, 0, 0]);
    [packet(1, &first), packet(2, b"\x03def"), packet(3, second)].concat()
}

const FLAGS: u64 = crate::command::capability::DEPRECATE_EOF as u64;

fn prepared(bytes: &[u8], cut: usize) -> Result<Outcome, ServerError> {
    let mut reader = Prepared::new(FLAGS);
    let (mut one, mut two) = bytes.split_at(cut);
    match reader.feed(&mut one).unwrap() {
        Some(reply) => reply,
        None => reader.feed(&mut two).unwrap().unwrap(),
    }
}

#[test]
fn a_reply_of_our_own_is_read_however_it_comes() {
    let same = prepared(&reply(5, b"\x03abc"), 0).unwrap();
    assert_eq!(same.statement, Some(5));
    let error = err(1, 1461, *b"42000", "too many");
    for cut in 0..reply(6, b"\x03abc").len() {
        let other = prepared(&reply(6, b"\x03abc"), cut).unwrap();
        assert_eq!(
            (other.statement, other.definitions),
            (Some(6), same.definitions)
        );
        let got = prepared(&error, cut.min(error.len())).unwrap_err();
        assert_eq!((got.errno, got.message.as_str()), (1461, "too many"));
    }
    let changed = prepared(&reply(5, b"\x03abd"), 0).unwrap();
    assert_ne!(changed.definitions, same.definitions);
}

#[test]
fn the_client_sees_its_own_id_and_errors_as_they_are() {
    let whole = reply(5, b"\x03abc");
    for cut in 0..whole.len() {
        let (mut bytes, mut renumber) = (whole.clone(), Renumber::new(0x0403_0201));
        let (one, two) = bytes.split_at_mut(cut);
        renumber.pass(one);
        renumber.pass(two);
        assert_eq!(bytes, reply(0x0403_0201, b"\x03abc"));
    }
    let (error, mut renumber) = (err(1, 1064, *b"42000", "syntax"), Renumber::new(9));
    let mut bytes = error.clone();
    renumber.pass(&mut bytes);
    assert_eq!(bytes, error);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), parameters in 0u16..40) {
        for attributes in [false, true] {
            if let Ok(read) = Execute::read(&bytes, parameters, attributes) {
                let whole = [&[80, 0, 0, 0, com::STMT_EXECUTE][..], &bytes].concat();
                prop_assert!(read.with_types(&whole, 1, &[1, 2]).is_some());
            }
        }
        let _ = Prepared::new(0).feed(&mut &bytes[..]);
        Renumber::new(1).pass(&mut bytes.clone());
        let _ = bulk_has_types(&bytes);
    }
}
