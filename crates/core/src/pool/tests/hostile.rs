//! Bytes of strangers on both sides.

use super::*;

proptest::proptest! {
    #[test]
    fn no_client_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        step(&mut Session::new(7, NONCE, &[server("")], Channel::PLAIN, None).unwrap().0, &bytes, None);
        let mut session = logged_in();
        step(&mut session, &bytes, None);
        let mut conn = ready(&LOOK);
        step(&mut session, &bytes, Some(&mut conn));
    }

    #[test]
    fn no_server_makes_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let class = Class { capabilities: u64::MAX, collation: 8, is_mariadb: None };
        let mut conn = Conn::new(&user(), class, [0; 20], Transport::Plain);
        let mut rest = &bytes[..];
        for _ in 0..20 {
            conn.feed(&mut rest);
        }
        let mut conn = ready(&LOOK);
        conn.clean([0; 20]);
        conn.feed(&mut &bytes[..]);
    }
}
