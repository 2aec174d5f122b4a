//! What follows from servers' versions.

use std::sync::Arc;

use super::Server;

/// The server whose version a service's clients are told: of one family's the lowest, so that they use nothing that one
/// of them lacks.
pub fn speaker(servers: &[Arc<Server>]) -> Option<&Arc<Server>> {
    servers
        .iter()
        .min_by_key(|server| (numbers(&server.version), &server.version))
}

/// Whether it has COM_RESET_CONNECTION. Source: the release notes of MySQL 5.7.3 and MariaDB 10.2.4.
pub fn can_reset(version: &str, is_mariadb: bool) -> bool {
    numbers(version) >= if is_mariadb { [10, 2, 4] } else { [5, 7, 3] }
}

/// 10.11.19 of `5.5.5-10.11.19-MariaDB-log`.
fn numbers(version: &str) -> [u32; 3] {
    let version = version.strip_prefix("5.5.5-").unwrap_or(version);
    let mut parts = version.split(|c: char| !c.is_ascii_digit());
    [(); 3].map(|()| parts.next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_speaks() {
        let servers = |names: &[&str]| -> Vec<_> {
            let server = |name: &&str| Server {
                version: (*name).to_owned(),
                is_mariadb: name.contains("MariaDB"),
                capabilities: 0,
                collation: 45,
                plugin: String::new(),
            };
            names.iter().map(|name| Arc::new(server(name))).collect()
        };
        for (names, told) in [
            (&["9.7.0", "8.4.10", "8.4.9"][..], "8.4.9"),
            (&["8.4.9-log", "8.4.9"], "8.4.9"),
            (
                &["11.4.2-MariaDB", "5.5.5-10.11.19-MariaDB"],
                "5.5.5-10.11.19-MariaDB",
            ),
            (&["weird", "9.7.0"], "weird"),
        ] {
            assert_eq!(speaker(&servers(names)).unwrap().version, told);
        }
        assert!(speaker(&[]).is_none());
    }

    #[test]
    fn old_servers_cannot_reset() {
        for (version, is_mariadb, can) in [
            ("5.5.5-10.11.19-MariaDB", true, true),
            ("10.2.3-MariaDB", true, false),
            ("10.2.4-MariaDB", true, true),
            ("5.6.51-log", false, false),
            ("5.7.3-m13", false, true),
            ("9.7.0", false, true),
            ("weird", false, false),
        ] {
            assert_eq!(can_reset(version, is_mariadb), can, "{version}");
        }
    }
}
