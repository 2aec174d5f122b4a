//! Where things stand in commands that carry parameters: query attributes and executions.
//!
//! With `QUERY_ATTRIBUTES` (MySQL) named values stand before a query's text, and behind an execution's own. The
//! values are skipped, not read. What is read differently by some server than here is refused, so that nobody
//! takes a value for a text. Source: MySQL `sql/protocol_classic.cc`, `parse_query_bind_params` and
//! `get_ps_param_len`.

use std::ops::Range;

use crate::wire::Reader;

/// A `COM_STMT_EXECUTE` gives the count of its parameters (with `QUERY_ATTRIBUTES`).
pub(crate) const COUNT_AVAILABLE: u8 = 8;

/// Attributes at most; the server's own limit.
const COUNT_MAX: u64 = 65_535;

/// The text of a `COM_QUERY` with attributes, behind its command byte. None: malformed. O(attributes).
pub fn query_text(argument: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(argument);
    let count = reader.lenenc().filter(|count| *count <= COUNT_MAX)?;
    // Sets of values: there is always one.
    reader.lenenc().filter(|sets| *sets == 1)?;
    if count > 0 {
        let (nulls, types) = definitions(&mut reader, count as usize, true)?;
        for (n, kind) in types?.enumerate() {
            if !is_null(nulls, n) {
                skip_value(&mut reader, kind?)?;
            }
        }
    }
    Some(reader.0)
}

/// Where things stand in a `COM_STMT_EXECUTE`, behind its command byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// Cursor type, and more.
    pub flags: u8,
    /// Values that follow, attributes included.
    pub count: usize,
    /// Offset of `new_params_bind_flag`; None where there are no values.
    pub bind: Option<usize>,
    /// The types (with the attributes' names), where the flag says that they are there.
    pub types: Option<Range<usize>>,
}

/// Reads an execution. `parameters`: of the statement; `attributes`: the connection has `QUERY_ATTRIBUTES`. None:
/// malformed. O(parameters).
pub(crate) fn execute(argument: &[u8], parameters: u16, attributes: bool) -> Option<Places> {
    let mut reader = Reader(argument);
    let _statement = reader.u32()?;
    let flags = reader.u8()?;
    let _iterations = reader.u32()?;
    let at = |reader: &Reader<'_>| argument.len() - reader.0.len();
    let mut count = usize::from(parameters);
    if attributes && (parameters > 0 || flags & COUNT_AVAILABLE != 0) {
        count = reader.lenenc().filter(|count| *count <= COUNT_MAX)? as usize;
    }
    let (mut bind, mut types) = (None, None);
    if count > 0 {
        let flag = at(&reader) + count.div_ceil(8);
        let (_, given) = definitions(&mut reader, count, attributes)?;
        bind = Some(flag);
        types = given.map(|_| flag + 1..at(&reader));
    }
    Some(Places {
        flags,
        count,
        bind,
        types,
    })
}

/// NULL bits and, where they are given, the types: taken from the front.
#[allow(clippy::type_complexity)] // bits, and perhaps one type per value
fn definitions<'a>(
    reader: &mut Reader<'a>,
    count: usize,
    are_named: bool,
) -> Option<(&'a [u8], Option<impl Iterator<Item = Option<u16>> + 'a>)> {
    let nulls = reader.take(count.div_ceil(8))?;
    let are_given = reader.u8()? != 0;
    let mut types = *reader;
    if are_given {
        for _ in 0..count {
            kind(reader, are_named)?;
        }
    }
    let types = are_given.then(|| (0..count).map(move |_| kind(&mut types, are_named)));
    Some((nulls, types))
}

fn kind(reader: &mut Reader<'_>, is_named: bool) -> Option<u16> {
    let kind = reader.u16()?;
    if is_named {
        let length = reader.lenenc()?;
        reader.take(usize::try_from(length).ok()?)?;
    }
    // The highest bit says that it is unsigned.
    Some(kind & 0x7fff)
}

fn is_null(nulls: &[u8], n: usize) -> bool {
    nulls
        .get(n / 8)
        .is_some_and(|bits| bits >> (n % 8) & 1 != 0)
}

fn skip_value(reader: &mut Reader<'_>, kind: u16) -> Option<()> {
    let length = match kind {
        1 => 1,     // TINY
        2 => 2,     // SHORT
        3 | 4 => 4, // LONG, FLOAT
        5 | 8 => 8, // DOUBLE, LONGLONG
        // BOOL: no server takes it; INVALID.
        243 | 244 => return None,
        // Times have one byte of length, which looks the same.
        _ => reader.lenenc()?,
    };
    reader.take(usize::try_from(length).ok()?).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two attributes: a LONGLONG `n`, a NULL, a string `name`; then the text.
    const QUERY: &[u8] = b"\x03\x01\x02\x01\x08\x00\x01n\xfe\x00\x00\xfe\x00\x04name\
        \x01\x02\x03\x04\x05\x06\x07\x08\x05valueSELECT 1";

    #[test]
    fn the_text_stands_behind_the_attributes() {
        for (argument, text) in [
            (&b"\x00\x01SELECT 1"[..], Some(&b"SELECT 1"[..])),
            (QUERY, Some(b"SELECT 1")),
            (b"\x00\x01", Some(b"")),
            // A DATETIME of four bytes, a negative TINY.
            (
                b"\x02\x01\x00\x01\x0c\x00\x00\x01\x80\x00\x04\x01\x02\x03\x04\xffX",
                Some(b"X"),
            ),
            // No set or two, no types, too many, an unknown type, a string that is cut, a NULL length.
            (b"\x00\x00SELECT 1", None),
            (b"\x00\x02SELECT 1", None),
            (b"\x01\x01\x00\x00SELECT 1", None),
            (b"\xfd\x00\x00\x01\x01SELECT 1", None),
            (b"\x01\x01\x00\x01\xf4\x00\x00\x05SELECT 1", None),
            (b"\x01\x01\x00\x01\xfe\x00\x00\x09SELECT 1", None),
            (b"\x01\x01\x00\x01\xfe\x00\x00\xfbSELECT 1", None),
            (b"SELECT 1", None),
            (b"", None),
        ] {
            assert_eq!(query_text(argument), text, "{argument:?}");
        }
        let text_at = QUERY.len() - 8;
        assert!((0..text_at).all(|length| query_text(&QUERY[..length]).is_none()));
    }

    #[test]
    fn an_execution_says_where_its_types_are() {
        // Statement 7, no cursor, one iteration, one parameter with its type.
        let plain = b"\x07\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\x08\x00vvvvvvvv";
        let again = b"\x07\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00vvvvvvvv";
        // With attributes: the count, and names.
        let named = b"\x07\x00\x00\x00\x08\x01\x00\x00\x00\x02\x00\x01\x08\x00\x00\xfe\x00\x01nvvvvvvvv\x01x";
        let none = b"\x07\x00\x00\x00\x00\x01\x00\x00\x00";
        for (argument, parameters, attributes, places) in [
            (&plain[..], 1, false, (1, Some(10), Some(11..13))),
            (again, 1, false, (1, Some(10), None)),
            (named, 1, true, (2, Some(11), Some(12..19))),
            (none, 0, false, (0, None, None)),
            (none, 0, true, (0, None, None)),
        ] {
            let found = execute(argument, parameters, attributes).unwrap();
            assert_eq!((found.count, found.bind, found.types), places);
        }
        assert_eq!(execute(none, 1, false), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100), n in 0_u16..20) {
            if let Some(text) = query_text(&bytes) {
                prop_assert!(bytes.ends_with(text));
            }
            for attributes in [false, true] {
                if let Some(types) = execute(&bytes, n, attributes).and_then(|found| found.types) {
                    prop_assert!(types.end <= bytes.len());
                }
            }
        }
    }
}
