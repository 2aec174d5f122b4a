use super::*;

fn key(text: &str, definitions: u64) -> Key {
    Key::new(
        Origin::new(text.as_bytes(), Some(b"shop"), &Settings::new()),
        definitions,
    )
}

fn need<'a>(key: &'a Key, types: Option<&'a [u8]>) -> Need<'a> {
    Need {
        key,
        types,
        is_wanted: true,
        is_exact: false,
    }
}

fn closing(statements: &mut OnServer) -> Vec<u8> {
    let mut bytes = Vec::new();
    statements.put_closing(&mut bytes);
    bytes.iter().skip(5).step_by(9).copied().collect()
}

#[test]
fn only_the_same_text_state_and_definitions_are_the_same() {
    let mut statements = OnServer::default();
    statements.add(&key("SELECT 1", 1), 7);
    for (other, is_there) in [
        (key("SELECT 1", 1), true),
        (key("SELECT 2", 1), false),
        (key("SELECT 1", 2), false),
        (
            Key::new(Origin::new(b"SELECT 1", None, &Settings::new()), 1),
            false,
        ),
    ] {
        assert_eq!(statements.has(&need(&other, None)), is_there);
    }
    statements.clear();
    assert!(!statements.has(&need(&key("SELECT 1", 1), None)));
}

#[test]
fn the_least_recently_used_is_closed() {
    let mut statements = OnServer::default();
    let keys: Vec<_> = (0..=COUNT_MAX)
        .map(|n| key(&format!("SELECT {n}"), 0))
        .collect();
    for (number, key) in (0..).zip(&keys[..COUNT_MAX]) {
        statements.add(key, number);
    }
    assert_eq!(
        statements.touch(&need(&keys[0], None), None),
        Some((0, false))
    );
    statements.add(&keys[COUNT_MAX], 200);
    assert!(statements.has(&need(&keys[0], None)) && !statements.has(&need(&keys[1], None)));
    assert_eq!(closing(&mut statements), [1]);
    assert!(closing(&mut statements).is_empty());
    // Long texts have less room.
    let long = "x".repeat(BYTES_MAX - 20);
    statements.add(&key(&long, 0), 201);
    assert!(statements.has(&need(&key(&long, 0), None)) && statements.kept.len() <= 3);
    statements.shed();
    assert_eq!((statements.kept.len(), statements.bytes), (0, 0));
}

#[test]
fn types_that_a_server_remembers_tell_statements_apart() {
    for forgets in [false, true] {
        let mut statements = OnServer::default();
        statements.forgets_types(forgets);
        let key = key("SELECT ?", 0);
        statements.add(&key, 1);
        let (int, double) = (need(&key, Some(b"i")), need(&key, Some(b"d")));
        assert_eq!(statements.touch(&int, int.types), Some((1, false)));
        statements.bound(1, true);
        assert_eq!(statements.touch(&int, int.types), Some((1, true)));
        // After an error it is not certain that the server took them.
        statements.bound(1, false);
        assert_eq!(statements.touch(&int, int.types), Some((1, false)));
        assert_eq!(statements.has(&double), forgets);
        let exact = Need {
            is_exact: true,
            ..int
        };
        assert!(statements.has(&exact));
        statements.add(&key, 2);
        // One that is never told apart replaces the other.
        assert_eq!(
            closing(&mut statements),
            if forgets { vec![1] } else { vec![] }
        );
        assert!(statements.touch(&double, double.types).is_some());
    }
}

#[test]
fn what_is_taken_is_nobody_elses_until_it_is_brought_back() {
    let mut statements = OnServer::default();
    let key = key("SELECT ?", 0);
    statements.add(&key, 1);
    let want = need(&key, None);
    let kept = statements.take(&want).unwrap();
    assert!(kept.id == 1 && !kept.knows(Some(b"i")) && !statements.has(&want));
    statements.bring_back(&key, 1, Some(b"i"));
    let int = need(&key, Some(b"i"));
    assert_eq!(statements.touch(&int, int.types), Some((1, true)));
    assert!(closing(&mut statements).is_empty());
}
