//! The server whose version a service's clients are told.

use std::sync::Arc;

use super::Server;

/// Of servers of one family the one of the lowest version: clients then use nothing that one of them lacks.
pub fn speaker(servers: &[Arc<Server>]) -> Option<&Arc<Server>> {
    servers
        .iter()
        .min_by_key(|server| (numbers(&server.version), &server.version))
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
}
