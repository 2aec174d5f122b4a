//! The server whose version a service's clients are told.

use std::sync::Arc;

use super::Server;

/// The lowest version among those of the first one's family: clients then use nothing that one of them lacks. The
/// order is the service's own, so it does not matter who has answered first. Where both families serve, no version is
/// right for all: a session is given those of one family.
pub fn speaker(servers: &[Arc<Server>]) -> Option<&Arc<Server>> {
    let first = servers.first()?;
    servers
        .iter()
        .filter(|server| server.is_mariadb == first.is_mariadb)
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
    fn the_lowest_of_the_first_ones_family_speaks() {
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
            (&["9.7.0", "5.5.5-10.11.19-MariaDB"], "9.7.0"),
            (
                &["5.5.5-10.11.19-MariaDB", "5.7.44", "11.4.2-MariaDB"],
                "5.5.5-10.11.19-MariaDB",
            ),
            (&["weird", "9.7.0"], "weird"),
        ] {
            assert_eq!(speaker(&servers(names)).unwrap().version, told);
        }
        assert!(speaker(&[]).is_none());
    }
}
